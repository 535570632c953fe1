"""The page of a circuit: whole and harmless, and its numbers are JAX's, however it is used."""

import base64
import hashlib
import html
import json
import re
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.circuit import Node, build, example, notation, parse
from fbackprop.circuit.graph import GATES
from fbackprop.circuit.live import page as live
from tests.support.browser import OVERLAPS, SCHEMES, Opened, check_access, check_widths
from tests.support.pages import Reader

LECTURE = parse("a = x+y; b = max(y,z); f = a*b").trace(x=1.0, y=2.0, z=0.0)
ROOM = resources.files("fbackprop.circuit.live")
SOURCES = {name: (ROOM / name).read_text("utf-8") for name in live.SCRIPTS}
WORDS = {language: live.words_of(language) for language in ("en", "ko")}


@pytest.fixture
def opened(browser, tmp_path):
  """Open the page of a trace."""

  def open_page(trace, *, window=None, **options):
    file = tmp_path / "circuit.html"
    file.write_text(trace.to_html(**options), "utf-8")
    return Opened(browser, file, **(window or {}))

  return open_page


@pytest.fixture(scope="module")
def scratch(browser, tmp_path_factory):
  """A page whose functions are called, and which isn't changed."""
  file = tmp_path_factory.mktemp("scratch") / "circuit.html"
  file.write_text(LECTURE.to_html(), "utf-8")
  with Opened(browser, file) as page:
    yield page


def player(page, code):
  return page.evaluate(
    f"(() => {{ const p = document.querySelector('.circuit').player; {code} }})()"
  )


def data_of(text):
  return json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])


# --- Without a browser ----------------------------------------------------------------------------


def test_a_page_is_one_harmless_file():
  text = LECTURE.to_html(title="<script>alert(1)</script>&\"'")
  page = Reader(text)
  assert page.texts.count("<script>alert(1)</script>&\"'") == 1
  assert not {"link", "img", "iframe"} & {tag for tag, _ in page.elements}
  # The one address is the name of the SVG namespace, which isn't loaded.
  assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
  assert not re.search(r"url\(|@import|src=|href=|fetch\(|eval\(", text)
  assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
  script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_a_name_cannot_end_the_data():
  circuit = build(
    [Node("</script><b>", "input", value=2.0), Node("f", "square", ("</script><b>",))]
  )
  text = circuit.trace().to_html()
  assert "</script><b>" not in text
  assert data_of(text)["nodes"][0]["name"] == "</script><b>"


@pytest.mark.parametrize("name", fb.circuit.EXAMPLES)
def test_the_examples_have_small_pages_with_the_numbers_of_jax(name):
  trace = example(name).trace()
  text = trace.to_html()
  assert len(text.encode()) < 300_000
  check, *others = data_of(text)["checks"]
  assert check["values"] == trace.values
  assert check["bars"] == trace.bars
  assert [tuple(local) for local in check["local"].values()] == [g.local for g in trace.gates]
  assert len(others) == 2
  assert all(other["values"] != check["values"] for other in others)


def test_the_largest_circuit_is_still_a_small_page():
  names = [f"x{i}" for i in range(100)]
  nodes = [Node(name, "input", value=0.1) for name in names]
  nodes += [Node(f"s{i}", "sigmoid", (name,)) for i, name in enumerate(names[:-1])]
  nodes.append(Node("f", "add", tuple(f"s{i}" for i in range(99))))
  assert len(nodes) == live.MOST_NODES
  assert len(build(nodes).trace().to_html().encode()) < 300_000
  with pytest.raises(ValueError, match="201 nodes; a page shows at most 200; draw it as SVG"):
    build([*nodes, Node("g", "negate", ("f",))]).trace().to_html()


def test_numbers_that_are_not_finite_are_written_as_words():
  text = parse("f = log(x)").trace(x=0.0).to_html()
  assert data_of(text)["checks"][0]["values"] == {"x": 0.0, "f": "-Infinity"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"digits": 0}, "to_html: digits must be from 1 to 17, got 0"),
    ({"digits": ".2f"}, "to_html: digits must be an integer, got"),
    ({"exercise": 1}, "to_html: exercise must be True or False, got"),
    ({"language": "fr"}, "unknown value 'fr' for language; there are: en, ko"),
  ],
)
def test_arguments_are_refused(options, message):
  with pytest.raises((TypeError, ValueError), match=re.escape(message)):
    LECTURE.to_html(**options)


def test_a_gate_that_the_page_cannot_compute_is_refused():
  first = {"max": fb.gates.max_with(ties="first")}
  trace = parse("f = max(x, y)", gates=first).trace(x=1.0, y=1.0)
  with pytest.raises(ValueError, match="the gate 'max' of 'f' has a rule of its own"):
    trace.to_html()


def test_both_languages_have_the_same_words():
  english, korean = WORDS["en"], WORDS["ko"]
  cases = {gate.cases for gate in GATES.values() if gate.cases}
  assert set(korean) - set(english) == cases  # In English they are the gates' own.
  assert set(english) <= set(korean)
  for key, text in english.items():
    assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", korean[key])), key


def test_every_word_is_used_and_every_used_word_is_there():
  code = "\n".join(SOURCES.values()) + (ROOM / "page.py").read_text("utf-8")
  code += (ROOM / "figure.py").read_text("utf-8")
  quoted = set(re.findall(r'"(\w+)"', code)) | set(re.findall(r"words\.(\w+)", code))
  kinds = set(re.findall(r'kind: "(\w+)"', code))
  named = set(re.findall(r'words\.(\w+)|say\(words, "(\w+)"|(?:button|heading)\("(\w+)"', code))
  used = {word for groups in named for word in groups if word} | kinds
  assert used - set(WORDS["en"]) == set()
  assert set(WORDS["en"]) - quoted == set()


def test_a_notebook_shows_the_page_in_a_frame():
  shown = LECTURE.show(language="ko")
  bundle = shown._repr_mimebundle_()
  assert bundle["image/svg+xml"] == LECTURE._repr_svg_()
  [(tag, attributes)] = Reader(bundle["text/html"]).elements
  assert tag == "iframe"
  assert attributes["srcdoc"] == LECTURE.to_html(language="ko")
  assert html.escape(LECTURE.to_html(language="ko")) in bundle["text/html"]
  assert repr(shown) == bundle["text/plain"]
  assert parse("f = x*x").show(x=2.0).html == parse("f = x*x").trace(x=2.0).show().html


# --- The arithmetic -------------------------------------------------------------------------------

GRID = np.unique(
  [*np.linspace(-8, 8, 65), -700, -40, -20, -1, 0, 1, 6, 20, 30, 39, 700, -1e-9, 1e-9]
)


@pytest.mark.slow
@pytest.mark.parametrize("op", GATES)
def test_every_gate_computes_what_jax_computes(scratch, op):
  """To 4e-15 of each number, or of the largest slope, 1.75, where a slope nearly cancels."""
  gate = GATES[op]
  rows = [np.roll(GRID, 23 * i) * (1 - 0.3 * i) for i in range(gate.arity or 3)]
  with jax.enable_x64(True):
    y, residuals = gate.forward(*map(jnp.asarray, rows))
    sent = gate.backward(residuals, jnp.full_like(y, 1.75))
    y, sent = np.asarray(y), np.asarray(sent)
  code = """([op, rows]) => rows.map((xs) => {
    const y = GATES[op][0](...xs);
    return [y, ...GATES[op][1](1.75, y, ...xs)].map(String);
  })"""
  ours = np.array(scratch.evaluate(code, [op, np.array(rows).T.tolist()]), float)
  np.testing.assert_allclose(ours[:, 0], y, rtol=4e-15, atol=0)
  np.testing.assert_allclose(ours[:, 1:].T, sent, rtol=4e-15, atol=4e-15 * 1.75)


@pytest.mark.slow
def test_the_page_knows_all_gates_and_no_others(scratch):
  assert set(scratch.evaluate("Object.keys(GATES)")) == set(GATES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["neuron", "mazur", "max", "sigmoid"])
def test_the_examples_pass_their_own_test(opened, name):
  with opened(example(name).trace()) as page:
    assert page.get_attribute("html", "data-selftest") == "pass"
    assert player(page, "return p.tested.error") <= 1e-12


def test_the_self_test_fails_on_a_wrong_rule(scratch):
  code = """(() => {
    const circuit = JSON.parse(document.querySelector('.circuit script').textContent);
    const right = GATES.multiply[1];
    GATES.multiply[1] = (...given) => right(...given).map((bar) => bar * (1 + 1e-9));
    return [selfTest(circuit).ok, (GATES.multiply[1] = right, selfTest(circuit).ok)];
  })()"""
  assert scratch.evaluate(code) == [False, True]


@pytest.mark.parametrize(
  ("value", "digits", "text"),
  [(6, 4, "6"), (-12.5, 4, "−12.5"), (1e5, 4, "1e5"), (1234.5, 4, "1234"), (0.0001, 4, "0.0001"),
   (-0.0, 4, "0"), (-0.000123456, 4, "−1.23e−4"), (-1.23456e-300, 4, "−1e−300"),
   (2 / 3, 3, "0.667"), (123456789.0, 12, "123456789")],
)  # fmt: skip
def test_numbers_are_formatted_as_in_python(scratch, value, digits, text):
  settings = {"digits": digits, "width": digits + 4}
  assert scratch.evaluate("([v, s]) => format(v, s)", [value, settings]) == text


@pytest.mark.slow
def test_a_formula_with_numbers_means_what_python_says(scratch):
  """Every gate's formula at negative inputs, read as Python, is the gate's value there."""
  signs = {"−": "-", "·": "*", "^": "**", "²": "**2"}
  with jax.enable_x64(True):
    known = {
      name: lambda *x, g=g: float(g.forward(*(jnp.asarray(v, float) for v in x))[0])
      for name, g in GATES.items()
    }
    for op, gate in GATES.items():
      xs = [-2.0, -3.0, -0.5][: gate.arity or 3]
      formula = notation.expression(op, [f"{{{i}}}" for i in range(len(xs))])
      texts = [f"{x:g}".replace("-", "−") for x in xs]
      text = scratch.evaluate("([t, xs]) => fill(t, xs, 'y')", [formula, texts])
      assert not re.search(r"\(\(−[\d.]+\)\)", text)
      read = re.sub("|".join(map(re.escape, signs)), lambda sign: signs[sign[0]], text)
      found = eval(read, known)  # noqa: S307
      assert found == pytest.approx(known[op](*xs), rel=1e-12, nan_ok=True), text


# --- Playing --------------------------------------------------------------------------------------


def shown(page, kind):
  return page.evaluate(f"""[...document.querySelectorAll('[data-{kind}]')]
    .filter((text) => !text.classList.contains('unknown'))
    .map((text) => [text.dataset.{kind}, text.textContent])""")


@pytest.mark.slow
def test_forward_then_backward_gate_by_gate(opened):
  with opened(LECTURE) as page:
    page.focus("button.primary")
    page.keyboard.press("Home")
    inputs = [["x", "1"], ["y", "2"], ["y", "2"], ["z", "0"], ["y", "2"]]
    assert sorted(shown(page, "value")) == sorted(
      inputs[:4] if len(shown(page, "value")) == 4 else inputs
    )
    assert shown(page, "gradient") == []
    told = []
    for _ in range(7):
      page.keyboard.press("ArrowRight")
      told.append(page.text_content(".lines").split("\n"))
    assert told == [
      ["a = x + y = 1 + 2 = 3"],
      ["b = max(y, z) = max(2, 0) = 2"],
      ["f = a · b = 3 · 2 = 6"],
      ["df/df = 1"],
      ["df/da = df/df · ∂f/∂a = 1 · 2 = 2", "df/db = df/df · ∂f/∂b = 1 · 3 = 3"],
      ["df/dy by way of b = df/db · ∂b/∂y = 3 · 1 = 3", "df/dz = df/db · ∂b/∂z = 3 · 0 = 0"],
      ["df/dx = df/da · ∂a/∂x = 2 · 1 = 2", "df/dy by way of a = df/da · ∂a/∂y = 2 · 1 = 2",
       "df/dy = 2 + 3 = 5"],
    ]  # fmt: skip
    assert dict(shown(page, "gradient"))["y"] == "5 = 2 + 3"
    page.keyboard.press("ArrowLeft")
    assert "y" not in dict(shown(page, "gradient"))
    assert dict(shown(page, "share"))["y:1"] == "3"


@pytest.mark.slow
def test_play_runs_to_the_update_and_undo_takes_it_back(opened):
  with opened(LECTURE) as page:
    page.select_option("select", "4")
    assert player(page, "return p.state.speed") == 4
    player(page, "p.state.speed = 40")
    page.click("button.primary")
    page.locator('.circuit[data-phase="update"]').wait_for()
    assert player(page, "return p.state.inputs") == pytest.approx({"x": 0.8, "y": 1.5, "z": 0.0})
    assert "x ← 1 − 0.1 · 2 = 0.8" in page.text_content(".lines")
    page.focus("button.primary")
    page.keyboard.press("z")
    assert player(page, "return p.state.inputs") == {"x": 1, "y": 2, "z": 0}
    assert player(page, "return p.solved().value") == 6


@pytest.mark.slow
def test_a_number_is_dragged_in_the_picture(opened):
  with opened(LECTURE) as page:
    box = page.locator('[data-value="x"]').first.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 42, box["y"], steps=4)
    page.mouse.up()
    x = player(page, "return p.state.inputs.x")
    assert x > 1
    trace = parse("a = x+y; b = max(y,z); f = a*b").trace(x=x, y=2.0, z=0.0)
    assert player(page, "return p.solved().bars") == trace.bars
    page.click("text=Undo")
    assert player(page, "return p.state.inputs.x") == 1


def test_the_progress_leads_to_any_step(opened):
  with opened(LECTURE) as page:
    page.click("button.primary")
    page.get_by_label("Progress").fill("2")
    assert player(page, "return p.state.done") == 2
    assert page.text_content(".phase") == "Forward, gate 2 of 3: the value of b"
    assert page.get_attribute("button.primary", "aria-label") == "Play"  # It has stopped.


@pytest.mark.slow
def test_a_slider_and_a_field_change_an_input(opened):
  with opened(LECTURE) as page:
    page.get_by_label("Drag x").fill("3")
    assert player(page, "return p.solved().bars") == {
      "x": 2,
      "y": 7,
      "z": 0,
      "a": 2,
      "b": 5,
      "f": 1,
    }
    field = page.locator(".row .number input").nth(0)
    field.fill("-4")
    field.press("Enter")
    assert player(page, "return p.solved().value") == -4
    # What isn't a number changes nothing, and isn't left in the field.
    others = {"Rate η": "0.1", "Nudge by": "0.01"}
    page.get_by_label("Rate η").fill("-1")
    page.get_by_label("Rate η").press("Enter")
    assert page.get_by_label("Rate η").input_value() == "0.1"
    for each, value in [(field, "-4"), *((page.get_by_label(k), v) for k, v in others.items())]:
      each.fill("")
      each.press("Enter")
      assert each.input_value() == value
    assert player(page, "return [p.state.inputs.x, p.state.rate, p.state.amount]") == [
      -4,
      0.1,
      0.01,
    ]


@pytest.mark.slow
def test_a_nudge_is_compared_with_what_the_gradient_said(opened):
  with opened(parse("f = x*x").trace(x=3.0)) as page:
    page.click("text=+0.01")
    assert (
      page.text_content(".phase") == "x rose by 0.01: f moved by 0.0601; the gradient said 0.06."
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mazur", "two-layer", "neuron"])
def test_two_hundred_updates_are_those_of_jax(opened, name):
  """To 1e-10: two hundred steps each pass on roundings of 1e-16, and ask for no more."""
  circuit = example(name)
  with opened(circuit.trace()) as page:
    learned = player(page, "return [...p.state.learned]")
    for _ in range(20):
      player(page, "p.update(10)")
    ours = player(page, "return [p.state.inputs, p.state.losses.length]")
  with jax.enable_x64(True):
    values = {
      k: jnp.asarray(v, float) for k, v in circuit.trace().values.items() if k in circuit.inputs
    }

    @jax.jit
    def step(values):
      gradients = jax.grad(lambda given: circuit.value_and_grad(**given)[0])(values)
      return {k: v - 0.1 * gradients[k] if k in learned else v for k, v in values.items()}

    for _ in range(200):
      values = step(values)
    values = {k: float(v) for k, v in values.items()}
  assert ours[1] == 201
  assert all(name[0] in "wbvc" for name in learned)
  assert ours[0] == pytest.approx(values, rel=1e-10, abs=1e-10)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_not_taken(opened):
  with opened(parse("f = exp(x) * x**3").trace(x=2.0)) as page:
    player(page, "p.state.rate = -1e3; p.update(10)")
    assert np.isfinite(player(page, "return [p.state.inputs.x, p.solved().value]")).all()
    assert "isn't finite" in page.text_content(".explained")
    player(page, "p.state.speed = 100; p.go(5); p.play()")
    page.get_by_label("Pause").wait_for(state="detached")  # Playing ends there too.
    assert "isn't finite" in page.text_content(".explained")


@pytest.mark.slow
def test_several_updates_are_told_and_taken_back_as_one(opened):
  with opened(parse("f = square(x - 2) + 1").trace(x=0.0)) as page:
    page.click("text=10 updates")
    told = page.text_content(".phase")
    assert told == "10 steps against the gradient: f goes from 5 to 1.046. The last of them:"
    last = page.text_content(".explained .lines")
    assert last == "x ← 1.732 − 0.1 · (−0.5369) = 1.785"
    page.click("text=10 updates")
    page.click("text=Undo")
    assert player(page, "return p.state.losses.length") == 11
    page.click("text=Undo")
    assert player(page, "return [p.state.losses, p.state.inputs.x]") == [[5], 0]


@pytest.mark.slow
def test_what_can_be_undone_takes_little_memory(opened):
  with opened(parse("f = x*x").trace(x=3.0)) as page:
    kept = player(
      page,
      """
      p.state.rate = 1e-6;
      const copies = new Set();
      const push = Array.prototype.push;
      Array.prototype.push = function (...each) {
        if (each[0]?.losses) copies.add(each[0].losses);
        return push.apply(this, each);
      };
      for (let i = 0; i < 50; i++) p.update(1);
      Array.prototype.push = push;
      return copies.size""",
    )
    assert kept == 1  # One list of losses, whatever the number of updates.


def test_a_curve_stands_on_zero(scratch):
  code = """(values) => {
    const svg = drawCurve(values, { label: "", show: String, name: "f", steps: "updates" });
    const [axis, line] = ["line", "polyline"].map((tag) => svg.querySelector(tag));
    const ends = line.getAttribute("points").split(" ").map((point) => Number(point.split(",")[1]));
    return [Number(axis.getAttribute("y1")), ends[0], ends.at(-1)];
  }"""
  axis, first, last = scratch.evaluate(code, [0.7, 0.5, 0.35])
  assert (axis - last) / (axis - first) == pytest.approx(0.5, abs=0.01)
  axis, first, last = scratch.evaluate(code, [-1, -3, -4])
  assert axis < first < last  # Below it.


def test_a_curve_names_its_axes_and_its_ends(scratch):
  code = """(values) => [...drawCurve(values, { label: "", show: String, name: "J", steps: "steps",
    count: 80 }).querySelectorAll("text")].map((text) => text.textContent)"""
  assert sorted(scratch.evaluate(code, [0.7, 0.5, 0.35])) == sorted(
    ["0", "80", "steps →", "J ↑", "0.7", "0.35"]
  )
  assert sorted(scratch.evaluate(code, [0.7])) == sorted(["0", "", "steps →", "J ↑", "0.7"])


@pytest.mark.slow
def test_keys_act_where_the_focus_is_in_the_circuit_alone(opened):
  with opened(LECTURE) as page:
    for key in ("Home", "u", "ArrowLeft"):
      page.keyboard.press(key)
    assert player(page, "return [p.state.done, p.state.inputs.x]") == [8, 1]
    page.focus(".picture")
    for key in ("Home", "ArrowLeft"):  # They scroll it.
      page.keyboard.press(key)
    assert player(page, "return p.state.done") == 8
    page.focus("button.primary")
    page.keyboard.press("Home")
    assert player(page, "return p.state.done") == 0
    page.keyboard.press("End")
    gate = page.locator('[data-gate="b"]')
    gate.focus()
    player(page, "p.go(8)")
    for key in ("U", "ㅕ"):  # With Shift, and on a Korean keyboard.
      gate.dispatch_event("keydown", {"key": key, "bubbles": True})
    assert player(page, "return p.state.losses.length") == 3
    player(page, "p.go(8)")
    for key in ("Enter", " "):
      player(page, "p.state.selected = null")
      page.keyboard.press(key)
      assert player(page, "return [p.state.selected, p.state.done]") == ["b", 8]


@pytest.mark.slow
def test_the_local_gradients_stand_at_their_gates_once_they_are_used(opened):
  with opened(LECTURE) as page:
    assert dict(shown(page, "local")) == {
      "a:0": "1", "a:1": "1", "b:0": "1", "b:1": "0", "f:0": "2", "f:1": "3"
    }  # fmt: skip
    player(page, "p.go(2)")
    assert {key[0] for key, _ in shown(page, "local")} == {"b"}


@pytest.mark.slow
def test_a_close_up_tells_inputs_apart_and_that_there_are_more(opened):
  with opened(parse("f = x*x").trace(x=3.0)) as page:
    texts = page.locator(".closeup text").all_text_contents()
    assert {"∂f/∂x₁", "∂f/∂x₂"} <= set(texts)
    assert "⋮" not in texts
  nodes = [Node(f"x{i}", "input", value=1.0) for i in range(14)]
  nodes.append(Node("f", "add", tuple(f"x{i}" for i in range(14))))
  with opened(build(nodes).trace()) as page:
    assert "⋮" in page.locator(".closeup text").all_text_contents()
    assert page.text_content(".explained .lines").count("\n") == 12
    assert page.text_content(".explained .lines").endswith("…")


def test_what_fails_to_start_says_so_in_the_page(scratch):
  code = """() => {
    const [root, reported] = [document.createElement("section"), []];
    const { reportError } = window;
    window.reportError = (error) => reported.push(error.message);
    root.id = "broken";
    document.body.append(root);
    startAll("#broken", () => { throw new TypeError("no such gate"); });
    window.reportError = reportError;
    const found = [reported, root.textContent, document.documentElement.dataset.selftest];
    root.remove();
    startAll("#broken", () => {});
    return found;
  }"""
  assert scratch.evaluate(code) == [["no such gate"], "TypeError: no such gate", "fail"]
  assert scratch.get_attribute("html", "data-selftest") == "pass"


@pytest.mark.slow
def test_no_derivative_is_by_a_constant(opened):
  with opened(parse("J = 0.5 * square(w - 3)").trace(w=1.0)) as page:
    texts = page.locator(".closeup text").all_text_contents()
    assert "∂J/∂0.5" not in texts
    assert texts.count("0.5") == 3  # The constant, ∂J/∂g2, and what is sent to g2.
    assert page.locator(".closeup").get_attribute("aria-label").count("∂") == 1


@pytest.mark.slow
def test_a_picture_has_a_legend_and_the_names_of_its_formulas(opened):
  for language, first in (("en", "above a wire: its value"), ("ko", "선 위: 값")):
    with opened(parse("f = relu(w*x)").trace(w=2.0, x=-1.0), language=language) as page:
      texts = page.locator(".legend span").all_text_contents()
      assert texts[0] == first
      assert "df/d(" in texts[1]
      assert "g1" in page.locator(".picture .name").all_text_contents()
      boxes = [page.locator(f".closeup .{kind}").bounding_box() for kind in ("body", "word")]
      left, right = ([box["x"], box["x"] + box["width"]] for box in boxes)
      assert left[0] < right[0] < right[1] < left[1]  # The word relu is within its gate.
      label = page.locator(".picture").get_attribute("aria-label")
      assert label == {"en": "The circuit f(w, x)", "ko": "f(w, x) 회로 그림"}[language]


def test_a_wide_picture_is_scaled_down_while_it_stays_readable_else_it_says_that_it_scrolls(opened):
  with opened(example("two-layer").trace()) as page:
    wide, room, zoom = page.evaluate("""(() => {
      const picture = document.querySelector(".picture");
      const { zoom } = picture.firstElementChild.style;
      return [picture.scrollWidth, picture.clientWidth, Number(zoom)];
    })()""")
    assert wide <= room
    assert 0.7 <= zoom < 1
    assert not page.locator(".scrolls").is_visible()
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function("document.querySelector('.paper').style.zoom === ''")
    assert page.locator(".scrolls").inner_text().endswith("it scrolls sideways.")


@pytest.mark.slow
def test_the_local_gradients_stand_off_the_wires(opened):
  """No wire shows between their digits; a halo hides it where there is no room beside it."""
  code = """() => {
    const boxes = [...document.querySelectorAll(".picture .local:not(.on-wire)")].map((text) => {
      const { x, width } = text.getBBox();
      return [x, x + width, Number(text.getAttribute("y")) - 8, Number(text.getAttribute("y"))];
    });
    return [...document.querySelectorAll(".picture .wire")].flatMap((wire) =>
      Array.from({ length: Math.ceil(wire.getTotalLength()) }, (_, i) => wire.getPointAtLength(i)).filter(
        ({ x, y }) => boxes.some(([left, right, top, bottom]) => x > left && x < right && y > top && y < bottom)));
  }"""  # noqa: E501
  for circuit in (example("two-layer"), parse("h = w*x; f = relu(-0.5*h) + h*w + x*w")):
    with opened(circuit.trace(**dict.fromkeys(circuit.inputs, 0.5))) as page:
      assert page.evaluate(code) == []
  with opened(parse("f = a + b + c + d").trace(a=0.5, b=-1.5, c=2.5, d=1.0)) as page:
    crowded = page.locator(".picture .on-wire")
    assert crowded.count() == 4
    style = "(text) => [getComputedStyle(text).paintOrder, getComputedStyle(text).strokeWidth]"
    assert crowded.first.evaluate(style) == ["stroke", "9px"]


@pytest.mark.slow
def test_nothing_below_moves_whatever_is_told(opened):
  for width in (1440, 360):
    with opened(
      example("neuron").trace(), window={"viewport": {"width": width, "height": 900}}
    ) as page:
      button = page.get_by_role("button", name="Raise w0 by 0.01")
      height = "document.querySelector('.panel.inputs').getBoundingClientRect().top + scrollY"
      before = page.evaluate(height)
      button.click()
      assert page.text_content(".phase").startswith("w0 rose by 0.01")
      tops = [page.evaluate(height)]
      for code in (*(f"p.go({i})" for i in range(16)), "p.update()", "p.update(10)", "p.undo()"):
        player(page, code)
        tops.append(page.evaluate(height))
      assert set(tops) == {before}


def test_a_wire_and_the_wires_of_a_gate_are_lit_and_named(opened):
  lit = "[...document.querySelectorAll('.wire.lit')].map((path) => path.dataset.wires).sort()"
  with opened(LECTURE) as page:
    names = page.locator(".picture .branch")
    targets = page.locator(".picture .target")
    title = "[...document.querySelectorAll('.target title')].map((title) => title.textContent)"
    place = page.evaluate(title).index("y → b")
    targets.nth(place).dispatch_event("pointerenter")
    keys = page.evaluate(lit)
    assert any(" " in served for served in keys)  # The trunk, from its start on.
    [branch] = {served for served in keys if " " not in served}
    assert names.all_text_contents() == ["y"]
    targets.nth(place).dispatch_event("pointerleave")
    assert page.evaluate(lit) == []
    page.locator("[data-gate='b']").focus()
    assert {*" ".join(page.evaluate(lit)).split()} == {"y:0", "y:1", "z:0", "b:0"}
    assert {served for served in page.evaluate(lit) if " " not in served} == {branch, "z:0", "b:0"}
    page.focus("button.primary")
    assert page.evaluate(lit) == []
    assert names.count() == 0


def test_a_new_weight_stands_beside_its_button(opened):
  with opened(parse("J = 0.5 * square(w*x - t)").trace(w=0.5, x=2.0, t=3.0)) as page:
    assert page.text_content(".taken") == ""
    assert "w ← w − η · dJ/dw" in page.text_content(".updating").replace("\xa0", " ")
    update = page.get_by_role("button", name="Update", exact=True)
    update.click()
    assert page.text_content(".taken") == "w ← 0.5 − 0.1 · (−4) = 0.9"
    below = page.locator(".taken").bounding_box()["y"] - update.bounding_box()["y"]
    assert 0 < below < 100
    page.get_by_label("Drag x").fill("1")
    assert page.text_content(".taken") == ""


@pytest.mark.slow
def test_sliders_have_one_scale_which_grows_as_far_as_descent_leads(opened):
  ends = "[...document.querySelectorAll('.slider input')].map(({ min, max }) => [min, max])"
  with opened(parse("f = w*x").trace(w=2.0, x=-1.0)) as page:
    assert page.evaluate(ends) == [["-4", "4"], ["-4", "4"]]
    assert page.locator(".scale").first.locator("span").all_text_contents() == ["−4", "0", "4"]
    player(page, "p.change('w', 16.86)")
    assert page.evaluate(ends) == [["-32", "32"], ["-4", "4"]]
    assert page.locator(".scale").first.locator("span").all_text_contents() == ["−32", "0", "32"]
  with opened(parse("f = w*x").trace(w=500.0, x=0.5)) as page:  # A step of 10 would be useless.
    assert page.evaluate(ends) == [["-1000", "1000"], ["-2", "2"]]


def test_a_sum_of_outputs_is_written_out():
  trace = parse("J1 = square(w); J2 = 2*w", {"J1": 1.0, "J2": 0.5}).trace(w=1.0)
  assert "J = J1 + 0.5 · J2" in Reader(trace.to_html()).texts


@pytest.mark.slow
@pytest.mark.parametrize(
  ("typed", "refused", "value"),
  [("0,5", "", 0.5), ("1/4", "", 0.25), ("1,000", "could be thousands", 0.1),
   ("−1", "below 0", 0.1),
   ("abc", "isn't a number", 0.1), ("", "isn't a number", 0.1), ("1/0", "isn't a number", 0.1)],
)  # fmt: skip
def test_a_field_takes_a_comma_and_says_what_it_refuses(opened, typed, refused, value):
  with opened(LECTURE) as page:
    field = page.get_by_label("Rate η")
    field.fill(typed)
    field.press("Enter")
    said = page.locator(".updating .refusal").text_content()
    assert refused in said
    assert bool(said) == bool(refused)
    assert player(page, "return p.state.rate") == value
    assert field.input_value() == str(value)


@pytest.mark.parametrize(
  ("text", "learned"),
  [("f = x*y", {"x", "y"}), ("y = w*x + b", {"w", "b"}), ("f = square(w*x - y)", {"w"}),
   ("f = 2*(x*y + max(z, w))", {"x", "y", "z", "w"}), ("f = a*x + b", {"a", "x", "b"})],
)  # fmt: skip
def test_weights_and_biases_learn_where_names_tell_them(text, learned):
  assert set(live.weights_of(parse(text))) == learned


# --- An exercise ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_exercise_is_checked_in_place(opened):
  with opened(LECTURE, exercise=True) as page:
    blanks = page.locator("input.blank")
    assert blanks.count() == 11
    assert not page.locator(".player").is_visible()
    answers = {"value of a": "3", "value of b": "2", "value of f": "6", "gradient by f": "1",
               "gradient by a": "2", "gradient by b": "3", "gradient by x": "2",
               "gradient by y": "5", "gradient by z": "0"}  # fmt: skip
    first = page.get_by_label("value of a", exact=True)
    first.fill("4")
    first.press("Enter")
    assert first.get_attribute("data-outcome") == "wrong"
    assert page.text_content(".status") == "0 of 11 right"
    for label, answer in answers.items():
      page.get_by_label(label, exact=True).fill(answer)
    shares = page.get_by_label("this wire's share of the gradient by y")
    for i, answer in enumerate(shares_of(page)):
      shares.nth(i).fill(str(answer))
    page.keyboard.press("Tab")
    assert page.text_content(".status") == "All 11 are right. Now play it."
    assert page.locator(".player").is_visible()
    # From here on the picture has the circuit's numbers, and moves with them.
    assert blanks.count() == 0
    page.get_by_label("Drag x").fill("3")
    assert dict(shown(page, "value"))["f"] == "10"
    player(page, "p.go(0)")
    assert "f" not in dict(shown(page, "value"))
    page.click("text=New numbers")
    assert blanks.count() == 11
    assert not page.locator(".player").is_visible()


@pytest.mark.slow
def test_an_exercise_does_not_tell_its_answers(opened):
  trace = parse("a = x*y; f = a*a + relu(a)").trace(x=7.0, y=11.0)
  with opened(trace, exercise=True) as page:
    for gate in page.locator(".gate").all():
      gate.click(force=True)
    for media in ("screen", "print"):
      page.emulate_media(media=media)
      texts = page.locator(".picture text:visible").all_text_contents()
      assert set(texts) <= {"x", "y", "a", "f", "g1", "g2", "×", "+", "relu", "7", "11"}
    labels = page.eval_on_selector_all(
      ".circuit [aria-label]", "all => all.map(each => each.getAttribute('aria-label'))"
    )
    assert not [label for label in labels if re.search(r"77|154|155|6006|1085|1705", label)]
    assert "a = x · y, value ?, df/da ?" in labels
    assert not page.locator(".status").is_visible()  # On paper.
    assert page.locator(".blank").first.is_visible()
  # Nor does its text, to readers of pages that run no scripts.
  text = re.sub(r"<script.*?</script>", "", trace.to_html(exercise=True), flags=re.DOTALL)
  numbers = [trace.value, *trace.bars.values(), *(gate.value for gate in trace.gates)]
  answers = {notation.format_number(number, 4, notation.MINUS) for number in numbers} - {"1"}
  assert answers & set(Reader(text).texts) == set()
  assert "77" in Reader(trace.to_html()).texts
  assert trace.show(exercise=True).svg == trace.circuit._repr_svg_()


@pytest.mark.slow
def test_an_exercise_without_javascript_is_a_sheet_to_fill_in(opened):
  trace = example("mazur").trace()  # Which is wider than a sheet.
  for language, note in (("en", "needs JavaScript"), ("ko", "JavaScript가 필요합니다")):
    window = {"java_script_enabled": False}
    with opened(trace, exercise=True, language=language, window=window) as page:
      texts = page.locator(".picture [data-value]").all_text_contents()
      given = {trace.values[node.name] for node in trace.circuit.nodes if not node.inputs}
      assert {float(text.replace(notation.MINUS, "-")) for text in texts if text} == given
      others = page.locator(".picture :is([data-gradient], [data-share], [data-local])")
      assert set(others.all_text_contents()) == {""}
      blanks = page.locator("input.blank:visible")
      assert blanks.count() > 2 * len(trace.gates)  # A value and a gradient, and the inputs'.
      blanks.first.fill("0.3775")
      assert note in page.locator("noscript").inner_text()
      page.emulate_media(media="print")
      assert blanks.first.is_visible()
      wide = page.locator(".paper").bounding_box()["width"]
      assert wide == pytest.approx(680, abs=1)


@pytest.mark.slow
def test_blanks_do_not_cover_the_wires_or_each_other(opened):
  with opened(LECTURE, exercise=True) as page:
    boxes = [each.bounding_box() for each in page.locator(".blank").all()]
    assert page.locator(".blank").first.get_attribute("placeholder") == "a"
    for i, a in enumerate(boxes):
      for b in boxes[:i]:
        wide = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
        high = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
        assert wide <= 0 or high < 0  # A wire is between value and gradient.


def shares_of(page):
  """The right shares in the order of their blanks."""
  return page.evaluate("""[...document.querySelectorAll('[data-share]')].reverse().map((text) => {
    const [name, branch] = text.dataset.share.split(':');
    return document.querySelector('.circuit').player.solved().shares[name][branch];
  })""")


@pytest.mark.parametrize(
  ("typed", "right", "outcome"),
  [("0.3333", 1 / 3, "right"), ("1/3", 1 / 3, "right"), ("0.3", 1 / 3, "rough"),
   ("0,333", 1 / 3, "right"), ("0.34", 1 / 3, "wrong"), ("", 1.0, ""), ("x", 1.0, "wrong"),
   ("0", 0.0, "right"), ("−2", -2.0, "right"), ("2", -2.0, "wrong"), ("0", 1e-4, "wrong"),
   ("0", 0.25, "wrong"), ("0", -0.3, "wrong"), ("0.0", 0.04, "wrong"), ("0", 1 / 3, "wrong"),
   ("0", 0.1 + 0.2 - 0.3, "right"), ("0.3", 0.25, "rough"), ("1e-4", 1e-4, "right"),
   ("2e-4", 1e-4, "wrong"), ("1,5e3", 1500.0, "right"),
   ("1/0", 1.0, "wrong")],
)  # fmt: skip
def test_answers_are_judged_by_their_digits(scratch, typed, right, outcome):
  assert scratch.evaluate("([text, right]) => judge(text, right)", [typed, right]) == outcome


@pytest.mark.slow
def test_hints_new_numbers_and_answers(opened):
  with opened(LECTURE, exercise=True) as page:
    page.get_by_label("gradient by x").focus()
    page.click("text=Hint")
    assert page.text_content(".message") == "Hint: df/da · ∂a/∂x"
    before = player(page, "return p.state.inputs")
    page.click("text=New numbers")
    assert player(page, "return p.state.inputs") != before
    page.click("text=Show the answers")
    assert page.text_content(".status").startswith("The 11 answers are shown.")
    assert page.locator(".blank").count() == 0
    assert len(shown(page, "gradient")) == 6


# --- For everyone ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("exercise", [False, True])
def test_it_is_accessible_at_every_width(opened, exercise, language):
  with opened(LECTURE, exercise=exercise, language=language) as page:
    assert page.get_attribute("html", "lang") == language
    check_widths(page)
    for scheme in SCHEMES:
      page.emulate_media(color_scheme=scheme)
      check_access(page)
      if not exercise and language == "en":  # In either language the colors are the same.
        player(page, "p.go(6)")
        check_access(page)


@pytest.mark.slow
def test_motion_stops_where_it_is_not_wanted(opened):
  for motion, name in (("reduce", "none"), ("no-preference", "flow")):
    with opened(LECTURE, window={"reduced_motion": motion}) as page:
      player(page, "p.go(2)")
      style = "getComputedStyle(document.querySelector('.wire.now')).animationName"
      assert page.evaluate(style) == name


@pytest.mark.slow
def test_a_gate_is_reached_and_read_by_keyboard(opened):
  with opened(LECTURE) as page:
    page.locator('[data-gate="b"]').focus()
    assert (
      page.locator('[data-gate="b"]').get_attribute("aria-label")
      == "b = max(y, z), value 2, df/db 3"
    )
    assert "∂b/∂y = 1" in page.text_content(".gate-view")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cs224n", "neuron", "two-layer", "mazur"])
def test_no_numbers_overlap_however_long_they_are(opened, name):
  with opened(example(name).trace()) as page:
    for inputs in ("1", "-0.001234567", "-123456.789"):
      code = f"for (const name of Object.keys(p.state.inputs)) p.change(name, {inputs})"
      player(page, code)
      assert page.evaluate(f"({OVERLAPS})(document.querySelector('.picture svg'))") == []


@pytest.mark.slow
def test_a_printed_page_shows_the_solved_circuit(opened):
  with opened(LECTURE) as page:
    player(page, "p.go(0)")
    page.emulate_media(media="print")
    assert page.locator('[data-gradient="y"]').first.is_visible()
    assert not page.locator(".player").is_visible()
