"""The comparison with other packages: its conversions, its power to fail, and what is published.

None of the packages is needed. They are played by the witness, put into each one's conventions by
what their documents say, and by wrong ones.
"""

import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from conftest import find_blocks as find_tested_blocks
from fbackprop import quantities
from scripts.interop import __main__ as interop
from scripts.interop import comparisons, curvature, exchange, ours, page, table, witness
from scripts.interop.comparisons import BACKPACK, COMPARISONS, JAX_PRIVACY, OPACUS, THRESHOLD
from scripts.interop.problems import PROBLEMS, SQUARED_ERROR, bound_of, draw
from scripts.interop.rows import PLANTS, control, make_rows, tree_error

ROOT = Path(__file__).parents[2]
MADE = json.loads((ROOT / "experiments" / "results" / "interop.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "quantities.md").read_text(encoding="utf-8")
EXCHANGED = json.loads(exchange.RESULT.read_text(encoding="utf-8"))
CURVATURE = json.loads(curvature.RESULT.read_text(encoding="utf-8"))
FEW = (PROBLEMS[1], PROBLEMS[5])
VERSIONS = dict.fromkeys(("jax", BACKPACK, OPACUS, JAX_PRIVACY), "0")


# --- Peers that are played ------------------------------------------------------------------------


def gradients_of(problem):
  return witness.example_gradients(problem, draw(problem))


def play_backpack(problem, data, bound):
  """The four extensions as its documents define them, of torch's loss."""
  found = {}
  for reduction in ("sum", "mean"):
    scale = 2 if problem.loss == SQUARED_ERROR else 1
    if reduction == "mean":
      scale /= problem.n * (3 if problem.loss == SQUARED_ERROR else 1)
    rows = [scale * g for g in gradients_of(problem)]
    found[f"BatchGrad, {reduction}"] = rows
    found[f"BatchL2Grad, {reduction}"] = [(g.reshape(problem.n, -1) ** 2).sum(1) for g in rows]
    found[f"SumGradSquared, {reduction}"] = [(g**2).sum(0) for g in rows]
    found[f"Variance, {reduction}"] = [g.var(0) for g in rows]
  return found


def play_opacus(problem, data, bound):
  rows = gradients_of(problem)
  norms = np.sqrt(sum((g.reshape(problem.n, -1) ** 2).sum(1) for g in rows))
  clipped = [np.einsum("n,n...->...", np.clip(bound / (norms + 1e-6), None, 1), g) for g in rows]
  return {
    "p.grad, sum": clipped,
    "p.grad, mean": [g / problem.n for g in clipped],
    "norms, sum": [norms],
    "norms, mean": [norms],
  }


def play_jax_privacy(problem, data, bound):
  rows = gradients_of(problem)
  norms = np.sqrt(sum((g.reshape(problem.n, -1) ** 2).sum(1) for g in rows))
  each = [np.einsum("n,n...->n...", np.minimum(1, bound / norms), g) for g in rows]
  clipped = [g.sum(0) for g in each]
  return {
    "clipped_grad": clipped,
    "normalize_by=N": [g / problem.n for g in clipped],
    "rescale_to_unit_norm": [g / bound for g in clipped],
    "first example NaN": [g[1:].sum(0) for g in each],
    "grad_norms": [norms],
  }


PLAYED = {BACKPACK: play_backpack, OPACUS: play_opacus, JAX_PRIVACY: play_jax_privacy}


@pytest.fixture(scope="module")
def measured():
  with jax.enable_x64(True):
    return [interop.measure(problem, PLAYED) for problem in FEW]


# --- The comparison -------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_the_documents_say_is_converted_into_ours(measured):
  rows = make_rows(COMPARISONS, measured, VERSIONS)
  assert len(rows) == len(COMPARISONS) * len(FEW)
  wrong = [row for row in rows if not row["ok"]]
  assert not wrong
  # Only Opacus's γ, where it isn't in ours, is more than rounding.
  loose = {(r["theirs"], r["ours"]) for r in rows if max(r["error"], r["witness"]) > THRESHOLD}
  assert loose == {("p.grad, sum", "clipped_gradient")}


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_convention_is_found_in_every_row_that_it_changes(measured, plant):
  changed = [row for row in make_rows(COMPARISONS, measured, VERSIONS, plant) if row["changed"]]
  assert changed
  assert not any(row["ok"] for row in changed)
  told = control(COMPARISONS, measured, VERSIONS)[plant]
  assert (told["rows"], told["found"]) == (len(changed), len(changed))


@pytest.mark.parametrize("side", ["ours", "witness"])
def test_one_wrong_digit_of_ours_or_of_the_witness_is_found(measured, side):
  values = getattr(measured[0], side)
  wrong = {name: [leaf * (1 + 2e-12) for leaf in tree] for name, tree in values.items()}
  rows = make_rows(COMPARISONS, [measured[0]._replace(**{side: wrong})], VERSIONS)
  assert {row["theirs"] for row in rows if row["ok"]} == {"p.grad, sum"}
  assert sum(row["ok"] for row in rows) == 1


def test_a_variance_of_one_example_that_is_a_number_is_found(measured):
  one = measured[1]
  assert all(np.isnan(leaf).all() for leaf in one.ours["variance"])
  # Zero is BackPACK's own convention, and mustn't pass for ours.
  zeros = [np.zeros_like(leaf) for leaf in one.ours["variance"]]
  wrong = one._replace(ours={**one.ours, "variance": zeros})
  rows = make_rows(COMPARISONS, [wrong], VERSIONS)
  bad = {row["theirs"] for row in rows if not row["ok"]}
  assert bad == {"Variance, sum", "Variance, mean", "vmap(jax.grad), variance"}


def test_the_error_is_of_the_largest_entry_and_nothing_hides():
  a, b = np.array([1.0, 4.0]), np.array([[2.0]])
  assert tree_error([a, b], [a, b]) == 0
  assert tree_error([a + np.array([0.5, 0]), b], [a, b]) == 0.125
  assert tree_error([a, b + 1], [a, b], scale=10.0) == 0.1
  assert tree_error([np.zeros(2)], [np.zeros(2)]) == 0
  for wrong in ([a], [a, b.T[0]], [b, a], [a, b * np.nan], [a, b * np.inf], []):
    assert tree_error(wrong, [a, b]) == tree_error([a, b], wrong) == np.inf
  assert tree_error([b * np.nan, a], [b * np.nan, a]) == np.inf
  assert tree_error([a], [a * 0]) == tree_error([], []) == np.inf


def test_the_scale_of_torchs_losses():
  squared, crossed = PROBLEMS[1], PROBLEMS[0]
  assert [comparisons.loss_scale(squared, r) for r in ("sum", "mean")] == [2, 2 / (8 * 3)]
  assert [comparisons.loss_scale(crossed, r) for r in ("sum", "mean")] == [1, 1 / 8]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_some_examples_are_clipped_and_others_not(problem):
  with jax.enable_x64(True):
    norms = witness.norms_of(gradients_of(problem))
  short = norms + witness.GAMMA < bound_of(norms)
  assert not short.all()
  assert short.any() == (problem.n > 1)
  assert bound_of(norms) != 1  # Else nobody would see a division by C.


def test_a_package_that_is_not_there_is_named_and_fails(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(interop, "find_installed", list)
  monkeypatch.setattr(interop, "PROBLEMS", FEW[1:])
  file = tmp_path / "made.json"
  assert interop.main(["--json", str(file)]) == 1
  said = capsys.readouterr().out
  for package in (BACKPACK, OPACUS, JAX_PRIVACY):
    assert f"{package}: not installed: pip install {package}; the comparison isn't whole" in said
  assert "5 of 5 rows agree" in said
  assert json.loads(file.read_text())["missing"] == [BACKPACK, OPACUS, JAX_PRIVACY]


def test_the_whole_script_passes_and_fails_with_a_plant(monkeypatch, capsys):
  monkeypatch.setattr(interop, "find_installed", lambda: list(PLAYED))
  monkeypatch.setattr(interop, "RUNNERS", PLAYED)
  monkeypatch.setattr(interop, "PROBLEMS", FEW[:1])
  monkeypatch.setattr(interop.metadata, "version", lambda package: "1.0")
  monkeypatch.setattr(page, "run_blocks", lambda blocks: (18, 0))
  assert interop.main([]) == 0
  assert f"{len(COMPARISONS)} of {len(COMPARISONS)} rows agree" in capsys.readouterr().out
  assert interop.main(["--plant", "divided"]) == 1
  assert f"0 of {len(COMPARISONS)} rows agree" in (said := capsys.readouterr().out)
  assert "✗" in said
  monkeypatch.setattr(page, "run_blocks", lambda blocks: (18, 1))
  assert interop.main([]) == 1
  with pytest.raises(SystemExit):
    interop.main(["--plant", "divided", "--json", "never.json"])


# --- What is published ----------------------------------------------------------------------------


def test_every_comparison_and_problem_is_in_the_committed_results():
  rows = {(r["package"], r["theirs"], r["ours"], r["problem"]): r for r in MADE["rows"]}
  wanted = {(c.package, c.theirs, c.shown or c.ours, p.name) for c in COMPARISONS for p in PROBLEMS}
  assert (set(rows), len(MADE["rows"])) == (wanted, len(wanted))
  assert {c.theirs.partition(",")[0] for c in COMPARISONS if c.package == BACKPACK} == {
    "BatchGrad", "BatchL2Grad", "SumGradSquared", "Variance"
  }  # fmt: skip
  assert {c.package for c in COMPARISONS} == {"jax", BACKPACK, OPACUS, JAX_PRIVACY}


def test_every_committed_row_is_below_its_threshold():
  for row in MADE["rows"]:
    assert row["ok"] is True
    assert 0 <= row["error"] <= row["threshold"]
    assert 0 <= row["witness"] <= row["threshold"]
    stable = (row["theirs"], row["ours"]) == ("p.grad, sum", "clipped_gradient")
    assert THRESHOLD < row["threshold"] < 1e-5 if stable else row["threshold"] == THRESHOLD
    assert not stable or row["error"] > 1e-9  # γ is there.
  assert MADE["missing"] == []
  assert {name: told["found"] for name, told in MADE["control"].items()} == {
    name: told["rows"] for name, told in MADE["control"].items()
  }
  assert set(MADE["control"]) == set(PLANTS)
  assert min(told["rows"] for told in MADE["control"].values()) > 10


def test_the_versions_are_those_that_the_script_installs():
  lines = (ROOT / "scripts" / "interop" / "requirements.txt").read_text().splitlines()
  pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
  made = {row["package"]: row["version"] for row in MADE["rows"]}
  exchanged = {name: pinned.pop(name) for name in ("skl2onnx", "keras")}
  curved = {name: pinned.pop(name) for name in ("curvlinops-for-pytorch", "laplax")}
  assert curved.items() < CURVATURE["versions"].items()
  assert pinned == {**{p: made[p] for p in PLAYED}, "torch": MADE["machine"]["torch"]}
  assert exchanged.items() < EXCHANGED["versions"].items()
  assert EXCHANGED["versions"]["torch"] == pinned["torch"]
  assert {"jax", "python", "fbackprop", "cpu", "backend"} <= set(MADE["machine"])


def test_the_page_has_the_table_of_the_committed_results():
  assert "\n".join(map(table.markdown_of, table.grouped(MADE["rows"]))) in PAGE
  assert MADE["date"] in PAGE
  for name in ("jax", "torch"):
    assert f"{name} {MADE['machine'][name]}" in PAGE
  for row in MADE["rows"]:
    assert f"{row['package']} {row['version']}" in PAGE


def test_the_pages_example_with_jax_privacy_is_left_to_the_script():
  (block,) = page.BLOCK.findall(PAGE)
  assert "jax_privacy" in block
  shown = sum(line.startswith(">>> ") for line in block.splitlines())
  assert MADE["example"] == {"lines": shown, "failed": 0}
  file = ROOT / "docs" / "quantities.md"
  document = pytest.importorskip("sybil").Document.parse(str(file), find_tested_blocks)
  tested = [region.parsed for region in find_tested_blocks(document)]
  assert tested
  assert not any("jax_privacy" in str(source) for source in tested)


def test_a_block_that_prints_something_else_fails(capsys):
  text = (
    "```python\n>>> 1\n2\n\n```\n\n```py\n>>> a = 1\n>>> a\n1\n\n```\n```py\n>>> a + 1\n3\n\n```\n"
  )
  blocks = page.BLOCK.findall(text)
  assert blocks == [">>> a = 1\n>>> a\n1\n\n", ">>> a + 1\n3\n\n"]
  assert page.run_blocks(blocks) == (3, 1)
  assert page.run_blocks(blocks[:1]) == (2, 0)
  assert "Expected:\n    3" in capsys.readouterr().out


@pytest.mark.slow
def test_ours_of_some_examples_are_those_of_a_smaller_batch():
  with jax.enable_x64(True):
    problem = PROBLEMS[0]
    factors = ours.factors_of(problem, draw(problem))
    rows = np.arange(8) > 0
    fewer = jax.tree.map(lambda factor: factor[rows], factors)
    got, want = quantities.gradient(ours.only(factors, rows)), quantities.gradient(fewer)
    chex.assert_trees_all_close(got, want, rtol=0, atol=1e-14)
    assert abs(quantities.gradient(factors)[0].w - got[0].w).max() > 1e-3


# --- Models that go through other programs --------------------------------------------------------


def test_every_round_trip_is_within_the_threshold():
  assert {row["package"] for row in EXCHANGED["rows"]} == {"torch", "skl2onnx"}
  for row in EXCHANGED["rows"]:
    assert row["models"] >= 12
    assert 0 <= row["error"] <= exchange.THRESHOLD == 1e-6


def test_the_page_has_the_table_of_the_round_trips():
  text = exchange.PAGE.read_text(encoding="utf-8")
  assert exchange.with_table(text, EXCHANGED) == text
  worse = {**EXCHANGED, "rows": [{**row, "error": 0.5} for row in EXCHANGED["rows"]]}
  assert "| 5e-01 |" in exchange.with_table(text, worse)
  assert exchange.with_table(exchange.with_table(text, worse), EXCHANGED) == text


def test_a_difference_is_measured_against_the_largest_output_of_its_row():
  assert exchange.error_of([[1.0, 100.0]], [[2.0, 100.0]]) == 1 / 101
  assert exchange.error_of([[0.0]], [[0.0]]) == 0
