"""Descent on curves and surfaces: its steps are those of JAX, and it says which rule ended it."""

import jax
import jax.numpy as jnp
import pytest

from fbackprop.circuit import parse
from fbackprop.lecture.book import words_of
from fbackprop.lecture.descent import COSTS
from tests.support.browser import SCHEMES, Opened, check_access, check_widths

# Written by hand, for autodiff.
FUNCTIONS = {
  "parabola": lambda p: (p["x"] - 2) ** 2 + 1,
  "valleys": lambda p: p["x"] ** 4 / 4 - p["x"] ** 2 + 0.3 * p["x"] + 1.6,
  "neuron": lambda p: (
    jnp.sum((p["w"] * jnp.array([1.0, 2, -1]) + p["b"] - jnp.array([1.0, 3, -1])) ** 2) / 6
  ),
  "layers": lambda p: (p["v"] * p["w"] - 1) ** 2 / 2,
}
STEPS = 30


@pytest.fixture
def opened(browser, folders):
  def open_page(language="en", **window):
    return Opened(browser, folders[language] / "L9.html", **window)

  return open_page


def descent(page, code, given=None):
  script = f"(given) => {{ const d = document.querySelector('.descent').descent; {code} }}"
  return page.evaluate(script, given)


def run(page):
  """Descend to the end, and return what is said then."""
  page.get_by_role("button", name="Descend", exact=True).click()
  page.locator(".descent:not([data-ending=''])").wait_for()
  return page.text_content(".descent .said")


def test_both_languages_have_the_same_words():
  assert set(words_of("en")["descent"]) == set(words_of("ko")["descent"])
  assert {cost.name for cost in COSTS} == set(FUNCTIONS)
  assert set(FUNCTIONS) <= set(words_of("en")["descent"])


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.name)
def test_its_formula_is_its_circuit(cost):
  signs = {"−": "-", "·": "*", "²": "**2", "⁴": "**4"}
  text = "".join(signs.get(sign, sign) for sign in cost.formula)
  name, formula = text.split(" = ")
  for by in (0.0, 0.7, -1.3):
    point = {key: value + by for key, value in cost.start.items()}
    found = eval(formula, {}, point)  # noqa: S307
    assert found == pytest.approx(float(FUNCTIONS[cost.name](point)), rel=1e-5)  # In float32.
    trace = parse(cost.text).trace(**point)
    assert (trace.circuit.outputs[0][0], trace.value) == (name, pytest.approx(found, rel=1e-12))


@pytest.mark.slow
def test_it_shows_the_formula_and_takes_a_comma(opened):
  with opened() as page:
    page.locator(".descent select").select_option("valleys")
    assert page.text_content(".descent .formula") == "f = 0.25·x⁴ − x² + 0.3·x + 1.6"
    rate = page.locator(".descent").get_by_label("Rate η")
    for typed, taken in (("0,5", 0.5), ("1,000", 0.5), ("-1", 0.5)):
      rate.fill(typed)
      rate.press("Enter")
      assert descent(page, "return d.state.rate") == taken
    most = page.get_by_label("At most so many steps")
    for typed, said in (("2.5", "isn't a whole number"), ("20000", "is above 10000")):
      most.fill(typed)
      most.press("Enter")
      assert said in page.locator(".descent .refusal:not(:empty)").text_content()
      assert descent(page, "return d.state.maxSteps") == 100


@pytest.mark.slow
def test_its_steps_are_those_of_jax(opened):
  with opened() as page:
    code = f"d.choose(given); for (let i = 0; i < {STEPS}; i++) d.one(); return d.state.way"
    ways = [descent(page, code, cost.name) for cost in COSTS]
  for cost, way in zip(COSTS, ways, strict=True):
    assert len(way) == STEPS + 1
    with jax.enable_x64(True):
      differentiate = jax.jit(jax.grad(FUNCTIONS[cost.name]))
      point = {name: jnp.asarray(value) for name, value in cost.start.items()}
      for found in way:
        assert found == pytest.approx({name: float(v) for name, v in point.items()}, rel=1e-10)
        grads = differentiate(point)
        point = {name: w - cost.rate * grads[name] for name, w in point.items()}


@pytest.mark.slow
def test_it_zigzags_in_the_long_valley_at_the_rate_that_the_text_says(opened):
  """Down the gradients of two steps that point against each other, across the valley."""
  for language in ("en", "ko"):
    assert any("η = 0.8" in text for text in words_of(language)["chapters"]["L9"]["text"])
  code = """d.choose('neuron'); d.state.rate = given; for (let i = 0; i < 4; i++) d.one();
    const points = d.state.way.map(Object.values);
    const steps = points.slice(1).map((p, i) => p.map((v, k) => v - points[i][k]));
    return steps.slice(1).map((s, i) => s.reduce((sum, v, k) => sum + v * steps[i][k], 0));"""
  with opened() as page:
    assert all(product < 0 for product in descent(page, code, 0.8))
    assert all(product > 0 for product in descent(page, code, 0.3))


@pytest.mark.slow
def test_each_stop_rule_is_said(opened):
  with opened() as page:
    assert "x ← 0 − 0.1 · (−4) = 0.4" in page.text_content(".descent .lines")
    assert run(page).endswith("Ended by the tolerance: the cost is at most 1.001.")
    lines = page.text_content(".descent .lines")
    assert lines.startswith("df/dx = ")
    assert "←" not in lines  # No step follows.
    page.get_by_label("At most so many steps").fill("3")
    page.get_by_role("button", name="Begin again").nth(1).click()
    said = run(page)
    assert said.startswith("Step 3: ")
    assert said.endswith("Ended by the number of steps, 3: the tolerance wasn't reached.")
    descent(page, "d.state.rate = 1e200; d.begin();")
    assert run(page).endswith("isn't finite. Choose a smaller rate.")


@pytest.mark.slow
def test_the_start_decides_the_valley(opened):
  with opened() as page:
    page.locator(".descent select").select_option("valleys")
    assert "number of steps" in run(page)
    page.get_by_label("Start at x =").fill("-1")
    page.get_by_label("Start at x =").press("Enter")
    assert page.evaluate("document.activeElement.dataset.key") == "start-x"  # The next key goes on.
    assert "tolerance: the cost is at most 0.2" in run(page)


@pytest.mark.slow
def test_a_click_starts_elsewhere(opened):
  with opened() as page:
    page.locator(".descent select").select_option("layers")
    page.locator(".descent canvas").click(position={"x": 264, "y": 88})
    start = descent(page, "return d.state.way[0]")
  assert start == pytest.approx({"w": 1, "v": 1}, abs=0.05)


@pytest.mark.slow
def test_the_page_fails_its_own_test_on_a_wrong_rule(opened):
  with opened() as page:
    assert page.get_attribute("html", "data-selftest") == "pass"
    code = """const right = GATES.square[1];
      GATES.square[1] = (bar, y, x) => [bar * x];
      const found = selfTest(d.state.cost).ok;
      GATES.square[1] = right;
      return [found, selfTest(d.state.cost).ok];"""
    assert descent(page, code) == [False, True]


@pytest.mark.slow
def test_it_has_a_heading_and_axes(opened):
  with opened() as page:
    assert page.locator(".descent h2").text_content() == "A curve or a surface to descend"
    written = descent(
      page,
      """
      const found = [];
      const { fillText } = CanvasRenderingContext2D.prototype;
      CanvasRenderingContext2D.prototype.fillText = (text) => found.push(text);
      d.choose("neuron");
      const surface = found.splice(0);
      d.choose("parabola");
      CanvasRenderingContext2D.prototype.fillText = fillText;
      return [surface, found];""",
    )
    assert {"w →", "b ↑", "0", "−2"} <= set(written[0])
    assert {"x →", "f ↑", "0", "10"} <= set(written[1])


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "ko"])
def test_it_is_accessible_at_every_width(opened, language):
  with opened(language) as page:
    descent(page, "d.choose('neuron'); d.one();")
    check_widths(page)
    for scheme in SCHEMES:
      page.emulate_media(color_scheme=scheme)
      check_access(page)
