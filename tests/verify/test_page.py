"""The page of a report: one harmless file, which says all that the report says, and heat maps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify import Checked, Finding, Report, vjp
from fbackprop.verify.heat_maps import MOST_CELLS, draw, map_of
from fbackprop.verify.witnesses.verdicts import Difference
from tests.support.pages import Reader
from tests.verify.test_rendering import FAILED, PASSED

NASTY = "<script>alert('1')</script>&\""


class Page(Reader):
  """A page with its texts, without its style."""

  def __init__(self, text):
    super().__init__(text)
    self.names = [
      attributes["aria-label"] for _, attributes in self.elements if "aria-label" in attributes
    ]

  def handle_data(self, data):
    if self.open[-1:] != ["style"] and data.strip():
      super().handle_data(data)

  @property
  def text(self):
    return " ".join(" ".join(self.texts).split())


def mapped(got, want, bound=1e-9, is_wrong=None, is_vacuous=False):
  got, want = np.asarray(got, float), np.asarray(want, float)
  bound = np.broadcast_to(bound, got.shape)
  if is_wrong is None:
    is_wrong = ~(np.abs(got - want) <= bound)
  return map_of(got, want, bound, is_wrong, np.asarray(is_vacuous))


# --- The page -------------------------------------------------------------------------------------

FULL = FAILED._replace(
  leaves=("loss", "params/3", "params/2", "z2", "params/1/w", "params/1/b", "x"),
  regimes=("as given", "N = 1"), allowance=2.0,
  findings=(
    FAILED.findings[0]._replace(leaf_map=mapped([[1.0, 2.0]], [[1.0, 4.0]])),
    Finding("fail", "maths", leaf="params/1/b"), Finding("no verdict", "numerics", leaf="x"),
  ),
)  # fmt: skip


def test_the_page_says_what_the_report_says():
  page = Page(FULL.to_html())
  assert page.texts[0] == "FAIL: pkg.mlp:loss – fbackprop verify"
  assert "FAIL first wrong leaf params/1/w: wrong point: the activation's derivative" in page.text
  for said in (
    "standard, seed 7, 3.2 s", "params/1/w (128,128)", "16384 of 16384", FAILED.again,
    "[3,17] got -1.2041e-02 want 3.0103e-03 bound 4e-17", "largest error 3e+13 of its bound",
    "every bound was multiplied by 2", "1.2 ULP", "vmap: it costs more than quick has",
    "as given, N = 1",
  ):  # fmt: skip
    assert said in page.text, said
  for check in FULL.checks:
    assert f"{check.check} {check.times} {check.verdict}" in page.text


def test_leaves_are_in_backward_order_each_with_its_state():
  page = Page(FULL.to_html())
  marks = [text for tag, text in zip(page.texts, page.texts[1:], strict=False) if tag in "✓✗?"]
  assert marks == list(FULL.leaves)
  assert re.findall(r"([✓✗?]) (\S+) ([a-z ]+?)(?= [✓✗?]| The first)", page.text) == [
    ("✓", "loss", "verified"), ("✓", "params/3", "verified"), ("✓", "params/2", "verified"),
    ("✓", "z2", "verified"), ("✗", "params/1/w", "first wrong"), ("✗", "params/1/b", "wrong"),
    ("?", "x", "no verdict"),
  ]  # fmt: skip


def test_a_pass_says_how_much_was_verified():
  report = PASSED._replace(verified=("a", "b"), leaves=("a", "b"), regimes=("as given",))
  page = Page(report.to_html())
  assert "PASS 2 leaves verified at 1 test point" in page.text
  assert 'The same call with level="standard", seed=0, allowance=1' in page.text
  assert "finding" not in page.text


def test_the_message_of_a_broken_contract_is_its_reason():
  finding = Finding("fail", "structure", leaf="x", message="x_bar is missing", cause="structure:")
  assert PASSED._replace(findings=(finding,)).reason == "first wrong leaf x: x_bar is missing"
  finding = Finding("no verdict", "maths", message="f isn't finite")
  assert PASSED._replace(findings=(finding,)).reason == "maths: f isn't finite"


@pytest.mark.parametrize("render", [Report.to_html, Report._repr_html_])
def test_all_text_is_escaped_and_nothing_is_loaded(render):
  finding = Finding(NASTY, NASTY, NASTY, NASTY, message=NASTY, cause=NASTY)
  fail = finding._replace(kind="fail", leaf_map=mapped([1.0], [2.0]))
  report = Report(
    NASTY, (fail, finding), (Checked(NASTY, 1, NASTY, NASTY),), (NASTY, NASTY), (NASTY,),
    level=NASTY, again=NASTY, regimes=(NASTY,), leaves=(NASTY,),
  )  # fmt: skip
  text = render(report)
  page = Page(text)
  assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
  assert not re.search(r"https?:|url\(|@import|src=|href=", text)
  assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
  assert page.texts.count(NASTY) >= 8


def test_a_page_is_for_light_and_dark_and_for_screen_readers():
  text = FULL.to_html()
  page = Page(text)
  assert text.startswith('<!doctype html>\n<html lang="en">')
  assert "prefers-color-scheme: dark" in text
  assert [tag for tag, _ in page.elements].count("h1") == 1
  assert {"Findings", "Checks", "got", "want", "got / want"} <= set(page.names)
  for tag, attributes in page.elements:
    if tag == "th":
      assert attributes.get("scope") in ("col", "row")


def test_crowds_are_cut_off_with_a_word():
  names = tuple(f"leaf {i}" for i in range(300))
  findings = tuple(Finding("fail", "maths", leaf=name) for name in names)
  page = Page(PASSED._replace(findings=findings, leaves=names).to_html())
  assert "and 100 more" in page.text
  assert "and 270 findings more, all in the JSON" in page.text
  assert "leaf 299" not in page.text


# --- The maps -------------------------------------------------------------------------------------


def states(leaf_map):
  return [[cell.state for cell in row] for row in leaf_map.rows]


def test_a_map_has_each_entry_of_a_small_leaf():
  leaf_map = mapped([[1.0, 2.0, 3.0]], [[1.0, 4.0, 3.0]])
  assert states(leaf_map) == [["within", "beyond", "within"]]
  assert leaf_map.rows[0][1][:3] == ((0, 1), 2.0, 4.0)
  assert repr(leaf_map) == "LeafMap(1 × 3 cells)"
  assert mapped(3.0, 2.0).rows[0][0][:3] == ((), 3.0, 2.0)
  assert mapped(np.ones((0, 3)), np.ones((0, 3))) is None


def test_the_last_axis_is_the_columns():
  leaf_map = mapped(np.ones((2, 3, 4)), np.zeros((2, 3, 4)))
  assert (len(leaf_map.rows), len(leaf_map.rows[0])) == (6, 4)
  assert leaf_map.rows[4][2].place == (1, 1, 2)


def test_entries_without_a_bound_among_others_were_not_compared():
  bound = np.array([1e-9, 0.0, np.nan])
  leaf_map = mapped([1.0, 1.0, 1.0], [2.0, 1.0, 5.0], bound, np.array([True, False, False]),
                    np.array([False, False, True]))  # fmt: skip
  assert states(leaf_map) == [["beyond", "not compared", "undecided"]]
  # Where bits are compared, nothing has a bound.
  assert states(mapped([1.0, 1.0], [2.0, 1.0], 0.0)) == [["beyond", "within"]]


def test_what_was_not_compared_has_no_wanted_number():
  bound = np.array([1e-9, 0.0, 1.0])
  leaf_map = mapped([3.0, 77.0, 55.0], [2.0, 77.0, 55.0], bound, np.array([True, False, False]),
                    np.array([False, False, True]))  # fmt: skip
  texts = Page(draw(leaf_map)).texts
  assert (texts.count("77"), texts.count("–")) == (1, 2)
  assert (texts.count("55"), texts.count("?")) == (1, 2)


def test_entries_without_a_verdict_are_not_called_wrong():
  got, want = np.array([1.0, 2.0]), np.array([1.0, 3.0])
  d = Difference(0, got, want, np.array([1e-9, 10.0]), np.array([False, True]))
  assert states(d.finding("no verdict", "maths", "as given", "x").leaf_map) == [
    ["within", "undecided"]
  ]
  for kind in ("fail", "oracle fault"):
    assert states(d.finding(kind, "maths", "as given", "x").leaf_map) == [["within", "beyond"]]


def test_a_large_leaf_is_thinned_out_to_the_worst_of_each_block():
  want = np.ones((100, 1000))
  got = want.copy()
  got[57, 321], got[57, 322], got[3, 3] = 1.5, 9.0, np.nan
  leaf_map = mapped(got, want)
  assert len(leaf_map.rows) <= MOST_CELLS[0]
  assert len(leaf_map.rows[0]) <= MOST_CELLS[1]
  assert leaf_map.block == (7, 42)
  wrong = [cell.place for row in leaf_map.rows for cell in row if cell.state == "beyond"]
  assert wrong == [(3, 3), (57, 322)]
  text = Page(draw(leaf_map)).text
  assert "Each cell stands for up to 7 × 42 entries" in text
  assert "[57,322]: 9" in text


RATIOS = [
  (2.0, 4.0, "0.5"), (0.0, 4.0, "0"), (-4.0, 4.0, "-1"), (4.0 + 4e-9, 4.0, "1 + 1e-09"),
  (0.9979, 1.0, "0.9979"), (10.5, 1.0, "10.5"), (1.0, 0.0, "want 0"), (np.nan, 1.0, "not finite"),
  (1e300, 1e-300, "inf"), (1.0, 1.0, "ok"),
]  # fmt: skip


@pytest.mark.parametrize(("got", "want", "said"), RATIOS)
def test_a_ratio_has_as_many_digits_as_tell_it_from_one(got, want, said):
  assert said in Page(draw(mapped([got], [want], 1e-12))).texts


def test_colors_tell_signs_and_are_not_alone():
  page = Page(draw(mapped([[1.0, -3.0]], [[2.0, -2.0]])))
  styles = [a["style"] for tag, a in page.elements if tag == "td" and "rgba" in a.get("style", "")]
  blue = ["0, 114, 178" in style for style in styles]
  assert blue == [True, False, True, False, False, True]  # got, want, got / want.
  assert {"1", "-3", "2", "-2", "0.5", "1.5"} <= set(page.texts)


def test_a_picture_of_a_large_leaf_has_its_words():
  got = np.ones((20, 20))
  got[4:6] = 2.0
  page = Page(draw(mapped(got, np.ones((20, 20)))))
  (label,) = {name.partition(": ")[2] for name in page.names}
  assert label == "10 rows of 20 cells, 20 of them beyond their bounds, in 1 rows"
  assert [a["role"] for tag, a in page.elements if tag == "svg"] == ["img"] * 3


# --- Of the verifier's own reports ----------------------------------------------------------------


def wrong_product(w, x):
  return x @ w, lambda y_bar: (2 * x.T @ y_bar, y_bar @ w.T)


def test_the_map_is_of_the_first_wrong_leaf():
  w, x = jax.random.normal(jax.random.key(0), (4, 3)), jnp.ones((5, 4))
  report = vjp(lambda w, x: x @ w, w, x, f_vjp=wrong_product, level="quick")
  first = report.findings[0]
  assert (set(report.leaves), report.verified, first.leaf) == ({"w", "x"}, ("x",), "w")
  cells = [cell for row in first.leaf_map.rows for cell in row]
  assert len(cells) == 12
  np.testing.assert_allclose([cell.got / cell.want for cell in cells], 2.0)
  assert "first wrong leaf w: constant factor: 2" in Page(report.to_html()).text
  back = Report.from_json(report.to_json())
  assert back.findings[0] == first._replace(leaf_map=None)
  assert (back.leaves, Page(back.to_html()).names) == (report.leaves, ["Checks"])
  assert "leaf_map" not in report.to_json()


def test_json_of_an_earlier_version_is_read():
  text = re.sub(r',\s*"leaves": \[[^]]*\]', "", FAILED.to_json())
  assert "leaves" not in text
  assert Report.from_json(text) == FAILED


@pytest.mark.slow
def test_a_network_has_its_layers_in_backward_order():
  wrong = fb.tanh._replace(backward=lambda params, h, h_bar: (params, 2 * h_bar * (1 - h**2)))
  net = fb.serial(fb.dense(3, 4), wrong, fb.dense(4, 2))
  params = net.init(jax.random.key(0))
  report = fb.verify.layer(net, params, jnp.ones((5, 3)), level="quick")
  order = ["params/2/b", "params/2/w", "input of 2.dense", "input of 1.tanh", "params/0/b",
           "params/0/w", "input of 0.dense", "x"]  # fmt: skip
  assert sorted(report.leaves) == sorted(order)
  places = [report.leaves.index(name) for name in ("params/2/w", "input of 1.tanh", "params/0/w")]
  assert places == sorted(places)
  assert {"params/2/b", "params/2/w", "input of 2.dense", "input of 0.dense"} == set(
    report.verified
  )
  page = Page(report.to_html())
  assert "✗ input of 1.tanh first wrong" in page.text
  assert "Each layer is verified by itself" in page.text
