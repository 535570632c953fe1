"""The page of a network: its training is JAX's, and what it says of a unit is so."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.lecture.data import ACTIVATIONS, LOSSES, cases, data_sets
from fbackprop.lecture.network import network_page, words_of
from tests.support.browser import SCHEMES, Opened, check_access, check_widths
from tests.support.pages import Reader

GATES = {gate.name: gate for gate in ACTIVATIONS}


@pytest.fixture(scope="module")
def pages():
  return {language: network_page(language) for language in ("en", "ko")}


@pytest.fixture
def opened(browser, tmp_path, pages):
  def open_page(language="en", **window):
    file = tmp_path / "network.html"
    file.write_text(pages[language], "utf-8")
    return Opened(browser, file, **window)

  return open_page


def network(page, code, given=None):
  script = f"(given) => {{ const n = document.querySelector('.network').network; {code} }}"
  return page.evaluate(script, given)


def as_params(layers):
  """Parameters of an `fb.mlp`, in float64, from those of the page."""
  dense = [fb.DenseParams(*(jnp.asarray(layer[key], float) for key in "wb")) for layer in layers]
  return tuple(part for layer in dense for part in (layer, ()))[:-1]


def mean_loss(params, activation, loss, x, targets):
  """The page's function, for autodiff."""
  net = fb.mlp([x.shape[1], *(p.b.shape[0] for p in params[::2])], fb.activation(GATES[activation]))
  outputs, _ = net.forward(params, x)
  return LOSSES[loss].forward(outputs, targets[:, None])[0].mean()


def test_the_page_is_one_small_harmless_file(pages):
  for language, text in pages.items():
    assert len(text.encode()) < 300_000
    assert f'<html lang="{language}">' in text
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert not {"link", "img", "iframe"} & {tag for tag, _ in Reader(text).elements}


def test_both_languages_have_the_same_words():
  english, korean = words_of("en"), words_of("ko")
  assert set(english) == set(korean)
  for key, text in english.items():
    assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", korean[key])), key


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case['activation']}-{case['loss']}")
def test_the_numbers_in_the_page_are_those_of_autodiff(case):
  with jax.enable_x64(True):
    data = (jnp.asarray(case[key], float) for key in ("x", "targets"))
    differentiate = jax.value_and_grad(mean_loss)
    value, grads = differentiate(as_params(case["params"]), case["activation"], case["loss"], *data)
    ours = as_params(case["grads"])
    assert float(value) == pytest.approx(case["value"], rel=1e-14)
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(grads), strict=True):
      np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


def test_the_data_sets_are_in_the_picture():
  for name, data in data_sets().items():
    x, targets = np.array(data["x"]), np.array(data["targets"])
    assert np.abs(x).max() < 1.7
    assert len(x) == len(targets) >= 40
    assert data["loss"] == "squared_error" or set(targets) == {0.0, 1.0}, name


@pytest.mark.slow
def test_the_page_passes_its_own_test_and_fails_it_on_a_wrong_rule(opened):
  with opened() as page:
    assert page.get_attribute("html", "data-selftest") == "pass"
    code = """
      const { cases } = JSON.parse(document.querySelector('.network script').textContent);
      const right = GATES.tanh[1];
      GATES.tanh[1] = (bar, y) => [bar * (1 - y)];
      const wrong = testNetworks(cases).ok;
      GATES.tanh[1] = right;
      return [wrong, testNetworks(cases).ok];"""
    assert network(page, code) == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("data", "hidden", "activation", "rate"),
  [("moons", [4, 3], "tanh", 0.5), ("xor", [8], "relu", 0.3), ("sine", [5, 4, 3], "gelu", 0.1)],
)
def test_two_hundred_steps_are_those_of_jax(opened, data, hidden, activation, rate):
  """To 1e-10: two hundred steps each pass on roundings of 1e-16, and ask for no more."""
  with opened() as page:
    code = """
      Object.assign(n.state, { activation: given.activation, rate: given.rate });
      n.choose(given.data);
      n.resize(given.hidden);
      const { params, x, targets, loss } = n.problem();
      for (let i = 0; i < 200; i++) n.step();
      return [params, x, targets, loss, n.problem().params, n.state.steps];"""
    given = {"data": data, "hidden": hidden, "activation": activation, "rate": rate}
    start, x, targets, loss, ended, steps = network(page, code, given)
  assert steps == 200
  with jax.enable_x64(True):
    params, x, targets = as_params(start), jnp.asarray(x, float), jnp.asarray(targets, float)
    differentiate = jax.jit(jax.grad(mean_loss), static_argnums=(1, 2))
    for _ in range(200):
      grads = differentiate(params, activation, loss, x, targets)
      params = jax.tree.map(lambda w, g: w - rate * g, params, grads)
    pairs = zip(jax.tree.leaves(as_params(ended)), jax.tree.leaves(params), strict=True)
    for got, want in pairs:
      np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_it_is_trained_and_taken_back_with_its_buttons(opened):
  with opened() as page:
    page.get_by_role("button", name="Step", exact=True).click()
    assert page.text_content(".said").startswith("Step 1: loss L = ")
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_function("document.querySelector('.network').network.state.steps > 8")
    page.get_by_role("button", name="Pause", exact=True).click()
    undo = page.get_by_role("button", name="Undo", exact=True)
    undo.click()  # All that was trained.
    assert page.text_content(".said").startswith("Step 1: ")
    assert network(page, "return n.losses().length") == 2
    undo.click()
    assert page.text_content(".said").startswith("Step 0: ")
    assert not undo.is_enabled()
    page.get_by_role("button", name="Add a layer").click()
    assert network(page, "return n.problem().params.map(({ b }) => b.length)") == [4, 3, 3, 1]


@pytest.mark.slow
def test_a_connection_shows_its_gradient_as_a_product(opened):
  with opened() as page:
    page.locator(".link-button").nth(1).click()
    shown = page.text_content(".connection").split("\n")
    x, bar, total, w = network(
      page,
      """const { layers, grads } = n.solved();
      const w = n.problem().params[0].w[1][0];
      return [layers[0].x[0][1], grads[0].zBar[0][0], grads[0].w[1][0], w]""",
    )
    texts = page.evaluate("(v) => v.map((each) => format(each, { digits: 4, width: 8 }))",
                          [x, bar, x * bar, total, w, w - 0.5 * total])  # fmt: skip
    assert shown[0] == f"w₂(x2→h1₁) = {texts[4]}"  # As the neuron's equation has it.
    assert "w₂·x2" in page.text_content(".lines.now")
    assert shown[2].startswith(f"   x2 · dL/dz1₁ = {texts[0]} · ")
    assert shown[2].endswith(f" = {texts[2]}")
    assert shown[4] == f"   ∂L/∂w = {texts[3]}"
    assert shown[6].endswith(f" = {texts[5]}")


@pytest.mark.slow
def test_dead_and_saturated_units_are_marked_and_explained(opened):
  with opened() as page:
    code = """n.state.activation = 'relu'; n.begin();
      n.problem().params[0].b[1] = -100; n.problem().params = descend(n.problem().params,
        n.solved().grads, 0); n.step(); n.state.neuron = [0, 1]; n.render();"""
    network(page, code)
    assert page.locator(".neuron.dead").count() >= 1
    assert "no step will change them" in page.text_content(".unit").lower()
    weights = "const { w, b } = n.problem().params[0]; return [...w.map((row) => row[1]), b[1]];"
    before = network(page, weights)
    assert before[-1] == pytest.approx(-100, abs=1)  # The first step still had the old gradient.
    network(page, "n.step(50)")
    assert network(page, weights) == before
    code = """n.state.activation = 'tanh'; n.begin(); n.problem().params[0].b[0] = 20;
      n.step(); n.state.neuron = [0, 0]; n.render();"""
    network(page, code)
    assert page.locator(".neuron.saturated").count() >= 1


@pytest.mark.slow
def test_a_click_adds_a_point(opened):
  with opened() as page:
    page.get_by_label("A click").select_option("1")
    page.locator("canvas").click(position={"x": 176, "y": 176})
    points = network(
      page, "return [n.problem().x.length, n.problem().x.at(-1), n.problem().targets.at(-1)]"
    )
    assert points[0] == 61
    assert np.abs(points[1]).max() < 0.05
    assert points[2] == 1
    placed = page.locator(".placed")
    assert placed.get_attribute("role") == "status"
    assert placed.text_content().endswith("of class 1")
    code = "while (x.length < 200) { x.push([1, 1]); targets.push(1); } n.act([1, 1]);"
    network(page, f"const {{ x, targets }} = n.problem(); {code}")
    assert network(page, "return n.problem().targets.length") == 200
    assert placed.text_content() == "There is room for 200 points, and no more."


@pytest.mark.slow
def test_points_are_drawn_with_the_keyboard_alone(opened):
  with opened() as page:
    canvas, placed = page.locator("canvas"), page.locator(".placed")
    assert "arrows move a cursor" in page.locator(f"#{canvas.get_attribute('aria-describedby')}"
                                                  ).text_content()  # fmt: skip
    picture = "document.querySelector('canvas').toDataURL()"
    page.get_by_label("A click").select_option("0")
    still = page.evaluate(picture)
    page.get_by_label("A click").focus()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    assert page.evaluate(picture) != still  # The cursor is seen.
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowDown"):
      page.keyboard.press(key)
    assert placed.text_content() == "Cursor at (0.2, 0.09)"
    page.keyboard.press("Enter")
    assert network(page, "return [n.problem().x.at(-1), n.problem().targets.at(-1)]") == [
      [0.2, 0.09], 0
    ]  # fmt: skip
    assert placed.text_content() == "Point 61 added at (0.2, 0.09), of class 0"
    page.keyboard.press("Delete")
    assert placed.text_content() == "Point 61 removed; 60 left"
    for _ in range(40):
      page.keyboard.press("ArrowLeft")
    assert placed.text_content() == "Cursor at (−1.7, 0.09)"  # The edge.
    page.get_by_label("A click").select_option("")
    canvas.focus()
    page.keyboard.press(" ")
    nearest = network(page, """const [a, b] = [-1.7, 0.09];
      return n.problem().x.map(([p, q]) => Math.hypot(p - a, q - b)).reduce(
        (best, d, i, all) => (d < all[best] ? i : best), 0)""")  # fmt: skip
    assert placed.text_content().startswith(f"Point {nearest + 1} chosen, at (")
    assert page.get_by_label("Point", exact=True).input_value() == str(nearest + 1)
    page.get_by_role("button", name="Train", exact=True).click()
    canvas.focus()
    network(page, "n.state.point = 0; n.problem().x.length = n.problem().targets.length = 1;")
    page.keyboard.press("Backspace")  # While it trains.
    assert page.text_content(".said").startswith("There are no points")
    page.keyboard.press("Delete")
    assert placed.text_content() == "Point 1 removed; 0 left"


@pytest.mark.slow
def test_a_key_can_be_pressed_again_and_a_click_lands_while_it_trains(opened):
  with opened() as page:
    for name in ("Layer 1: one unit more", "Layer 2: one unit less"):
      page.get_by_role("button", name=name).focus()
      page.keyboard.press("Enter")
      page.keyboard.press("Enter")
    assert network(page, "return n.state.hidden") == [6, 1]
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"  # Though that one is off.
    page.locator(".link-button").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "w₂(x2→h1₁)"
    page.evaluate("scrollTo(0, 0)")
    box = page.locator(".neuron[data-key='0,3'] circle").bounding_box()
    page.get_by_role("button", name="Train", exact=True).click()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    # Two frames, in which nothing may be drawn anew.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.mouse.up()
    assert network(page, "return n.state.neuron") == [0, 3]
    steps = network(page, "return n.state.steps")
    page.wait_for_function(f"document.querySelector('.network').network.state.steps > {steps}")


@pytest.mark.slow
def test_a_rate_that_diverges_is_said_and_what_was_done_until_then_is_shown(opened):
  with opened() as page:
    network(
      page,
      "n.choose('sine'); n.state.activation = 'relu'; n.resize([4]); n.state.rate = 30; n.step(20)",
    )
    steps, w, value = network(
      page, "return [n.state.steps, n.problem().params[0].w[0][0], n.solved().value]"
    )
    assert 0 < steps < 20
    assert np.isfinite(value)
    said = page.text_content(".said")
    assert said.startswith(f"Step {steps}: ")
    assert "isn't finite" in said
    cells = page.locator(".unit tbody tr").first.locator("td")
    text = page.evaluate("(w) => format(w, { digits: 4, width: 8 })", w)
    assert cells.nth(3).text_content() == text
    # From there no step is possible: nothing is remembered of one that wasn't taken.
    network(page, "n.step()")
    page.get_by_role("button", name="Undo", exact=True).click()
    assert page.text_content(".said").startswith("Step 0: ")


@pytest.mark.slow
def test_a_neuron_shows_its_equation_before_and_after_a_step(opened):
  with opened() as page:
    assert page.locator(".lines.before").count() == 0
    first = page.text_content(".lines.now")
    page.get_by_role("button", name="Step", exact=True).click()
    assert page.text_content(".lines.before") == first
    now = page.text_content(".lines.now")
    assert now != first
    code = """const { layers } = n.solved(), { w, b } = n.problem().params[0];
      const show = (v) => format(v, { digits: 4, width: 8 });
      return [w[0][0], w[1][0], b[0], layers[0].z[0][0], layers[0].h[0][0]].map(show);"""
    numbers = network(page, code)
    assert now.split("\n")[0] == "z1₁ = w₁·x1 + w₂·x2 + b"
    assert now.split("\n")[1].startswith(f"   = {numbers[0]}·")
    assert now.split("\n")[1].endswith(f" = {numbers[3]}")
    assert now.split("\n")[2] == f"h1₁ = tanh(z1₁) = {numbers[4]}"
    # The row of a weight is its step: w − η · its gradient before is w now.
    [before, gradient, after] = [
      float(page.locator(".unit tbody tr td").nth(i).text_content().replace("−", "-"))
      for i in (1, 2, 3)
    ]
    assert before - 0.5 * gradient == pytest.approx(after, abs=1e-4)  # Four digits are shown.


@pytest.mark.slow
def test_all_points_are_cleared_and_others_drawn(opened):
  with opened() as page:
    page.get_by_role("button", name="Clear the points").click()
    assert network(page, "return n.problem().x.length") == 0
    assert page.text_content(".said").startswith("There are no points")
    step = page.get_by_role("button", name="Step", exact=True)
    assert not step.is_enabled()
    check_access(page)
    page.locator("canvas").click(position={"x": 100, "y": 100})
    page.get_by_label("A click").select_option("0")
    page.locator("canvas").click(position={"x": 250, "y": 250})
    assert network(page, "return n.problem().targets") == [1, 0]
    step.click()
    assert "/2 right" in page.text_content(".said")


@pytest.mark.slow
def test_a_curve_has_no_classes(opened):
  with opened() as page:
    offered = page.get_by_label("A click").locator("option")
    legend = page.locator(".legend")
    assert [*offered.all_text_contents()][1:] == [
      "adds a point of class 1 (round)", "adds a point of class 0 (square)"
    ]  # fmt: skip
    assert "σ(y) is the probability of class 1" in legend.text_content()
    assert "the share of this point alone" in legend.text_content()
    page.get_by_label("Data").select_option("sine")
    assert [*offered.all_text_contents()][1:] == ["adds a point"]
    assert "logit" not in legend.text_content()


@pytest.mark.slow
def test_the_table_says_over_what_its_gradients_are_summed(opened):
  for language, said in (("en", "over 60 points"), ("ko", "점 60개의 합")):
    with opened(language) as page:
      heads = page.locator(".unit th")
      assert heads.count() == 3  # Nothing was before.
      assert said in heads.nth(2).text_content()
      network(page, "n.step()")
      assert heads.count() == 5
      assert said in heads.nth(2).text_content()
      assert said in heads.nth(4).text_content()
      assert "1/60" in page.text_content(".unit .quiet")


@pytest.mark.slow
def test_all_columns_of_the_table_are_seen_on_a_phone(opened):
  with opened(viewport={"width": 360, "height": 800}) as page:
    for neuron in ([0, 0], [1, 0], [2, 0]):
      code = (
        "n.state.neuron = given; n.step(); const box = document.querySelector('.unit .scroll');"
      )
      wide, room = network(page, f"{code} return [box.scrollWidth, box.clientWidth]", neuron)
      assert wide <= room
    assert page.locator(".scrolls").is_visible()  # The picture does, and says so.


@pytest.mark.slow
def test_a_field_without_a_number_keeps_the_old_one(opened):
  with opened() as page:
    fields = (("Rate η", "", "0.5"), ("Rate η", "-1", "0.5"), ("Point", "99", "1"),
              ("Point", "1,5", "1"), ("Point", "", "1"))  # fmt: skip
    for label, text, kept in fields:
      field = page.get_by_label(label, exact=True)
      field.fill(text)
      field.press("Enter")
      assert field.input_value() == kept
    assert network(page, "return n.state.rate") == 0.5


@pytest.mark.slow
def test_what_can_be_undone_takes_little_memory(opened):
  with opened() as page:
    code = """const copies = new Set(), { push } = Array.prototype;
      Array.prototype.push = function (...each) {
        if (each[0]?.losses) copies.add(each[0].losses);
        return push.apply(this, each);
      };
      for (let i = 0; i < 20; i++) n.step();
      Array.prototype.push = push;
      return copies.size"""
    assert network(page, code) == 1  # One list of losses, whatever the number of steps.


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "ko"])
def test_it_is_accessible_at_every_width(opened, language):
  with opened(language) as page:
    page.locator("button.primary").locator("xpath=preceding-sibling::button").click()  # A step.
    check_widths(page)
    page.set_viewport_size({"width": 360, "height": 800})
    below = [page.locator(part).bounding_box()["y"] for part in (".picture", "canvas", ".unit")]
    assert below == sorted(below)  # What one trains, before the numbers of a unit.
    for scheme in SCHEMES:
      page.emulate_media(color_scheme=scheme)
      check_access(page)


def test_the_data_cannot_end_their_element(pages):
  [data] = re.findall(r'<script type="application/json">(.*?)</script>', pages["en"])
  assert json.loads(data)["start"]["data"] == "moons"
