"""The ten tasks of docs/learning_tasks.md: the answers are right, and are found in the pages."""

import re
from pathlib import Path

import pytest

from fbackprop.lecture.book import CHAPTERS
from tests.support.browser import Opened

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "learning_tasks.md").read_text("utf-8")
ANSWERS = re.findall(r"> \*\*Answer:\*\* (.*?)\n\n", PAGE, re.DOTALL)


def answer(task):
  """The answer of a task as one line."""
  return ANSWERS[task - 1].replace("\n> ", " ")


def actions(task):
  return int(re.search(r"Actions: (\d+)", answer(task))[1])


def test_there_are_ten():
  assert len(ANSWERS) == len(re.findall(r"^\*\*\d+\. ", PAGE, re.M)) == 10
  assert f"with {sum(map(actions, range(1, 11)))} actions" in PAGE


def test_the_answers_are_those_of_the_circuits():
  traces = {chapter.name: chapter.traces for chapter in CHAPTERS}
  [fork] = traces["L2"]
  assert (fork.bars["y"], fork.contributions["y"]) == (5, (2, 3))
  assert answer(1).startswith("5 = 2 + 3")

  [flat] = traces["L7"]
  gates = {gate.op: gate for gate in flat.gates}
  assert (flat.bars["w"], gates["relu"].local, gates["relu"].upstream) == (0, (0,), 1)
  assert (gates["multiply"].value, gates["multiply"].local[0]) == (-2, -1)

  [neuron] = traces["L3"]
  inputs = {name: neuron.values[name] for name in neuron.circuit.inputs}
  raised = neuron.circuit.trace(**inputs | {"w0": inputs["w0"] + 0.01})
  assert f"{neuron.bars['w0']:.4f}" == "-0.1966"
  assert f"{0.01 * neuron.bars['w0']:.6f}" == "-0.001966"
  assert f"{raised.value - neuron.value:.6f}" == "-0.001971"
  assert all(number in answer(3) for number in ("−0.1966", "−0.001966", "−0.001971"))

  layers = traces["L4"][0]
  zero = {name for name in layers.circuit.inputs if layers.bars[name] == 0}
  assert zero == {"w11", "w21", "b1", "v1"}
  assert (layers.values["g3"], layers.values["h1"]) == (-1.5, 0)
  assert layers.bars["h1"] == pytest.approx(-1.8)

  [linear] = traces["L10"]
  assert linear.values["w"] - 0.1 * linear.bars["w"] == pytest.approx(0.9)
  assert "= 0.9." in answer(5)

  [costs] = traces["L8"]
  assert (costs.contributions["h"], costs.bars["w"], costs.values["h"]) == ((4, 1), 10, 3)

  [parabola] = traces["L9"]
  assert -0.5 * parabola.bars["x"] == 2
  assert -1.1 * parabola.bars["x"] == pytest.approx(4.4)
  assert (parabola.value, round(parabola.circuit.trace(x=4.4).value, 10)) == (5, 6.76)

  shared = traces["L12"][0]
  assert (shared.contributions["w1"], shared.values["y2"]) == ((2, 0), -0.5)


class Student:
  """Someone who opens the lecture's pages, and counts what he does there."""

  def __init__(self, browser, folder):
    self.browser, self.folder, self.done = browser, folder, 0

  def opens(self, name):
    self.done = 0
    return Opened(self.browser, self.folder / f"{name}.html")

  def presses(self, button):
    self.done += 1
    button.click()

  def types(self, field, text):
    self.done += 1
    field.fill(text)
    field.press("Enter")

  def chooses(self, field, value):
    self.done += 1
    field.select_option(value)


@pytest.mark.slow
def test_every_answer_is_found_in_the_pages(browser, folders):
  student = Student(browser, folders["en"])
  with student.opens("L2") as page:
    assert page.text_content("[data-gradient='y']") == "5 = 2 + 3"
    assert student.done == actions(1)
  with student.opens("L7") as page:
    student.presses(page.locator("[data-gate='f']"))
    assert "∂f/∂g1 = 0" in page.text_content(".gate-view pre.lines")
    assert page.text_content("[data-value='g1']") == "−2"
    assert student.done == actions(2)
  with student.opens("L3") as page:
    assert page.text_content("[data-gradient='w0']") == "−0.1966"
    student.presses(page.get_by_role("button", name="Raise w0 by 0.01"))
    said = page.text_content(".explained")
    assert "y moved by −0.00197066; the gradient said −0.00196612" in said
    assert student.done == actions(3)
  with student.opens("L4") as page:
    zero = page.eval_on_selector_all(
      "[data-gradient]",
      "all => all.filter(t => /^−?0$/.test(t.textContent)).map(t => t.dataset.gradient)",
    )
    assert set(zero) >= {"w11", "w21", "b1", "v1"}
    assert page.text_content("[data-value='h1']") == "0"
    assert page.text_content("[data-gradient='h1']") == "−1.8"
    assert student.done == actions(4)
  with student.opens("L10") as page:
    student.presses(page.get_by_role("button", name="Update", exact=True))
    assert "w ← 0.5 − 0.1 · (−4) = 0.9" in page.text_content(".explained")
    assert student.done == actions(5)
  with student.opens("L8") as page:
    assert page.text_content("[data-gradient='h']") == "5 = 4 + 1"
    assert page.text_content("[data-gradient='w']") == "10"
    assert student.done == actions(6)
  with student.opens("L9") as page:
    circuit = page.locator("section.circuit")
    update = circuit.get_by_role("button", name="Update", exact=True)
    student.types(circuit.get_by_label("Rate η"), "0.5")
    student.presses(update)
    assert "x ← 0 − 0.5 · (−4) = 2" in page.text_content(".explained")
    student.presses(circuit.get_by_role("button", name="Begin again"))
    student.types(circuit.get_by_label("Rate η"), "1.1")
    student.presses(update)
    assert "f goes from 5 to 6.76" in page.text_content(".explained")
    assert student.done == actions(7)
  with student.opens("L9") as page:
    descent = page.locator("section.descent")
    descend = descent.get_by_role("button", name="Descend")
    ended = page.locator(".descent:not([data-ending=''])")
    student.chooses(descent.locator("select"), "valleys")
    student.presses(descend)
    ended.wait_for(timeout=120_000)
    said = descent.locator(".said").text_content()
    assert said.startswith("Step 100: f = 1.012 at x = 1.332.")
    assert "Ended by the number of steps" in said
    student.types(descent.get_by_label("Start at x ="), "-1")
    student.presses(descend)
    ended.wait_for(timeout=120_000)
    assert "Ended by the tolerance" in descent.locator(".said").text_content()
    assert student.done == actions(8)
  with student.opens("L12") as page:
    assert page.locator("[data-gradient='w1']").first.text_content() == "2 = 2 + 0"
    assert page.text_content("[data-value='y2']") == "−0.5"
    assert student.done == actions(9)
  with student.opens("network") as page:
    student.presses(page.locator(".neuron[data-key='0,0']"))
    row = page.locator(".unit tbody tr").first.locator("td")
    gradient = number(row.nth(2).text_content())
    student.presses(page.get_by_role("button", name="Step", exact=True))
    before, now = (number(row.nth(i).text_content()) for i in (1, 3))
    assert now - before == pytest.approx(-0.5 * gradient, abs=2e-4)  # Four digits are shown.
    assert student.done == actions(10)


def number(text):
  return float(text.replace("−", "-"))
