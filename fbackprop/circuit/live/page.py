"""The page of a live circuit: one file that loads nothing, or an element of another page.

The data go into the page as JSON: the nodes, each gate's formulas as templates in which the page
puts names or numbers, and the numbers that JAX computed, with which the page compares its own.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from fbackprop.checks import check_flag
from fbackprop.circuit import notation, text
from fbackprop.circuit.graph import GATES, CircuitError, GateGraph, Node
from fbackprop.circuit.live.figure import LiveLabels, draw_blanks, draw_figure, lay_out, size_of
from fbackprop.circuit.solver import Solution, solve
from fbackprop.errors import check_choice
from fbackprop.markup import Markup, document, element, joined, script_data
from fbackprop.ranges import Range, check_range

Language = Literal["en", "ko"]
HERE = Path(__file__).parent
SCRIPTS = (
  "gates.js", "notation.js", "elements.js", "formulas.js", "closeup.js", "exercise.js", "paths.js",
  "player.js",
)  # fmt: skip
DIGITS = Range(int, 1, 17)
KINDS = {"value": "legendValue", "gradient": "legendGradient", "local": "legendLocal"}
"""The words that say what the numbers of each kind are."""
MOST_NODES = 200
"""The most nodes of a live circuit: a page with more would be slow, and over 300 kB."""


def to_html(
  solution: Solution,
  *,
  digits: int = 4,
  title: str | None = None,
  exercise: bool = False,
  language: Language = "en",
) -> str:
  """Write a solved circuit as a page on which it can be played, changed and learned from.

  Args:
    solution: a solved circuit of at most 200 nodes, of the library's own gates.
    digits: the number of significant digits, from 1 to 17.
    title: a heading; by default the circuit's statements.
    exercise: whether values and gradients are left blank for the reader to fill in.
    language: "en" or "ko".

  Returns:
    The file's text, deterministic for a circuit. It loads nothing.

  Raises:
    TypeError: an argument is of another type.
    ValueError: an argument is out of range; the circuit is too large, or has a gate whose rule the
      page doesn't know.
  """
  heading = notation.printable(title or heading_of(solution.circuit))
  lead = words_of(language)["leadOfExercise" if exercise else "lead"]
  body = joined((
    element("header", element("h1", heading), element("p", lead, class_="quiet")),
    element("main", live_element(solution, digits, exercise=exercise, language=language)),
  ))  # fmt: skip
  return document(f"{heading} – fbackprop", body, style(), scripts(), language)


def frame(document: str) -> Markup:
  """Return a page in a frame, which takes the height of its content."""
  options = {"title": "fbackprop circuit", "loading": "eager", "width": "100%", "height": "900"}
  return element("iframe", srcdoc=document, **options, style="border: 0; width: 100%")


def live_element(
  solution: Solution, digits: int = 4, *, exercise: bool = False, language: Language = "en",
  learned: tuple[str, ...] | None = None, rate: float = 0.1, name: str = "", folded: bool = False,
) -> Markup:  # fmt: skip
  """Return a live circuit as an element of a page that has `style()` and `scripts()`.

  Args:
    solution, digits, exercise, language: as of `to_html`.
    learned: the inputs that gradient descent changes; by default the weights and biases if names
      tell them, else all.
    rate: the learning rate that the page starts with.
    name: what tells the picture from others on the page, for screen readers.
    folded: whether the panels under the player are folded, where a page has several circuits.
  """
  check_range("to_html", "digits", digits, DIGITS)
  check_flag("to_html", "exercise", exercise)
  circuit = solution.circuit
  if len(circuit.nodes) > MOST_NODES:
    problem = f"has {len(circuit.nodes)} nodes; a page shows at most {MOST_NODES}"
    raise CircuitError(f"to_html: the circuit {problem}; draw it as SVG")
  for node in circuit.nodes:
    if node.inputs and circuit.gate_of[node.op] != GATES.get(node.op):
      problem = f"the gate {node.op!r} of {node.name!r} has a rule of its own"
      raise CircuitError(f"to_html: {problem}, which the page can't compute; draw it as SVG")
  labels, root = LiveLabels(circuit, solution, digits), notation.output_name(solution)
  labels.is_blank = exercise
  layout, words = lay_out(labels), words_of(language)
  data = {
    "nodes": [describe(node, labels) for node in circuit.nodes],
    "outputs": circuit.outputs,
    "root": root,
    "digits": digits,
    "width": labels.width,
    "widestSum": labels.widest_sum,
    "exercise": exercise,
    "folded": folded,
    "learned": weights_of(circuit) if learned is None else learned,
    "rate": rate,
    "words": words,
    "checks": [numbers_of(each) for each in (solution, *others(solution))],
  }
  steps = () if exercise else (element("pre", text.to_steps(solution, digits=digits)),)
  without_script = element("p", words["noscriptOfExercise" if exercise else "noscript"])
  title = words["picture"].format(f=notation.printable(heading_of(circuit)))
  blanks = draw_blanks(layout, labels, root, words) if exercise else []
  paper = element(
    "div", draw_figure(layout, labels, title), *blanks, class_="paper",
    style=f"--wide: {size_of(layout)[0]}",
  )  # fmt: skip
  scroll = {"tabindex": "0", "role": "region", "aria_label": f"{name} {title}".strip()}
  return element(
    "section", element("div", paper, class_="picture", **scroll), legend(root, language, labels),
    element("noscript", without_script, *steps),
    script_data(data), class_="circuit", data_locked=str(exercise).lower(),
  )  # fmt: skip


def legend(root: str, language: Language, labels: LiveLabels) -> Markup:
  """Return what the numbers at a wire and at a gate are, and of which outputs a sum is."""
  words = words_of(language)
  texts = [element("span", words[key].format(f=root), class_=kind) for kind, key in KINDS.items()]
  if root not in labels.nodes:
    texts.insert(0, element("span", f"{root} = {labels.weighted_sum()}", class_="sum"))
  return element("p", *texts, class_="legend")


def heading_of(circuit: GateGraph) -> str:
  """Return the names of the outputs and inputs: "f(x, y, z)"."""
  outputs = ["f" if notation.is_generated(name) else name for name, _ in circuit.outputs]
  return f"{notation.listed(outputs)}({notation.listed(circuit.inputs)})"


def describe(node: Node, labels: LiveLabels) -> dict[str, Any]:
  """Return a node as data, with templates of its formulas: {0}, {1} are its inputs, {y} itself."""
  name, op, inputs, value = node
  described: dict[str, Any] = {"name": name, "op": op, "inputs": inputs}
  described["label"] = notation.printable(name) if not notation.is_generated(name) else name
  if op == "constant":
    return described | {"value": value, "label": labels.name(name)}
  if not inputs:
    return described
  gate = labels.circuit.gate_of[op]
  slots = [f"{{{i}}}" for i in range(len(inputs))]
  return described | {
    "symbol": labels.symbol(name)[0],
    "formula": notation.expression(op, slots),
    "derivatives": [notation.derivative(gate, slots, "{y}", i) for i in range(len(inputs))],
    "cases": gate.cases or "",
  }


def weights_of(circuit: GateGraph) -> list[str]:
  """Return the inputs that are learned: the weights and biases if names tell them, else all.

  Names tell them if all others are data: w, b, u, v and c beside x, y and t, by their first letter.
  """
  weights = [name for name in circuit.inputs if name[0] in "wbuvc"]
  is_told = all(name[0] in "wbuvcxyt" for name in circuit.inputs)
  return weights if weights and is_told else list(circuit.inputs)


def others(solution: Solution) -> list[Solution]:
  """Solve the circuit at two more points, so that a page isn't checked at one alone."""
  at = {name: solution.values[name] for name in solution.circuit.inputs}
  points = [{name: 0.75 * value + 0.125 for name, value in at.items()}]
  points += [{name: 0.5 - 1.25 * value for name, value in at.items()}]
  return [solve(solution.circuit, point) for point in points] if at else []


def numbers_of(solution: Solution) -> dict[str, Any]:
  """Return the inputs, and every number that JAX computed from them."""
  return {
    "inputs": {name: solution.values[name] for name in solution.circuit.inputs},
    "values": as_json(solution.values),
    "bars": as_json(solution.bars),
    "local": as_json({gate.name: gate.local for gate in solution.gates}),
    "downstream": as_json({gate.name: gate.downstream for gate in solution.gates}),
  }


def as_json(numbers: Mapping[str, float | tuple[float, ...]]) -> dict[str, Any]:
  """Return numbers as JSON has them: one that isn't finite as JavaScript's word for it."""

  def each(number: float) -> float | str:
    infinite = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return number if math.isfinite(number) else infinite.get(number, "NaN")

  return {
    name: [*map(each, value)] if isinstance(value, tuple) else each(value)
    for name, value in numbers.items()
  }


@cache
def words_of(language: str) -> dict[str, str]:
  """Return the page's words in a language; raise for one that it doesn't have."""
  check_choice("to_html", "language", language, get_args(Language))
  words: dict[str, str] = json.loads((HERE / f"words.{language}.json").read_text("utf-8"))
  return words


SHARED = ("tested", "testedExactly", "failed", "notNumber", "twoReadings", "notWhole", "tooSmall",
          "tooLarge", "scrolls")  # fmt: skip
"""The words of any page: whether its numbers are JAX's, what a field refuses, what scrolls."""


def notices(language: Language) -> dict[str, str]:
  """Return the words of any page with numbers, fields and pictures."""
  return {key: words_of(language)[key] for key in SHARED}


def style() -> str:
  """Return the CSS of live circuits, after that of all pages."""
  return (HERE / "circuit.css").read_text("utf-8")


def scripts() -> str:
  """Return the scripts of live circuits, which start every circuit of the page."""
  return "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
