"""Gradient descent on curves and surfaces, step by step, and which rule ends it.

A cost is a circuit of one or two inputs. The page draws it by evaluating the circuit, and descends
by its backward pass, with the rules of `circuit/live/gates.js`.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from fbackprop.circuit import Trace, parse
from fbackprop.circuit.live import page
from fbackprop.markup import Markup, element, script_data

HERE = Path(__file__).parent


class Cost(NamedTuple):
  """A cost that is descended.

  Attributes:
    name: its name in the lecture's words.
    text: its circuit, whose last statement is the cost.
    formula: the cost as it is written by hand.
    start: the values of its inputs, the weights, with which the descent starts.
    ranges: from where to where each is drawn.
    below: the tolerance that the page starts with.
    rate: the rate that it starts with.
  """

  name: str
  text: str
  formula: str
  start: dict[str, float]
  ranges: dict[str, tuple[float, float]]
  below: float
  rate: float = 0.1


COSTS = (
  Cost(
    "parabola", "f = square(x - 2) + 1", "f = (x − 2)² + 1", {"x": 0.0}, {"x": (-2.0, 6.0)}, 1.001
  ),
  Cost(
    "valleys",
    "s = square(x); f = 0.25*square(s) - s + 0.3*x + 1.6",
    "f = 0.25·x⁴ − x² + 0.3·x + 1.6",
    {"x": 2.1},
    {"x": (-2.3, 2.3)},
    0.2,  # In the deeper valley alone.
  ),
  Cost(  # A linear neuron, on three examples.
    "neuron",
    "J = (square(w + b - 1) + square(2*w + b - 3) + square(b + 1 - w)) / 6",
    "J = ((w + b − 1)² + (2·w + b − 3)² + (b + 1 − w)²) / 6",
    {"w": -1.5, "b": 2.5},
    {"w": (-2.0, 4.0), "b": (-3.0, 3.0)},
    0.05,
    0.3,
  ),
  Cost(  # Two linear layers of one unit each: a saddle at 0, and a curve of minima.
    "layers",
    "J = 0.5*square(v*w - 1)",
    "J = 0.5·(v·w − 1)²",
    {"w": -1.6, "v": 1.3},
    {"w": (-2.0, 2.0), "v": (-2.0, 2.0)},
    0.001,
  ),
)


@cache
def traces() -> tuple[Trace, ...]:
  """Solve every cost at its start."""
  return tuple(parse(cost.text).trace(**cost.start) for cost in COSTS)


def descent_element(words: dict[str, str], language: page.Language) -> Markup:
  """Return the costs as an element of a page that has `style()` and `script()`.

  Args:
    words: the lecture's words for it.
    language: of the words.
  """
  costs = [describe(*each) for each in zip(COSTS, traces(), strict=True)]
  given = {"costs": costs, "words": page.notices(language) | words}
  noscript = element("noscript", element("p", page.words_of(language)["noscript"]))
  heading = element("h2", words["heading"])
  return element("section", heading, noscript, script_data(given), class_="descent")


def describe(cost: Cost, trace: Trace) -> dict[str, Any]:
  """Return a cost as data, with the numbers of JAX at three points."""
  nodes = [{"name": n.name, "op": n.op, "inputs": n.inputs, "value": n.value}
           for n in trace.circuit.nodes]  # fmt: skip
  checks = [page.numbers_of(each) for each in (trace, *page.others(trace))]
  return cost._asdict() | {"nodes": nodes, "outputs": trace.circuit.outputs, "checks": checks}


def style() -> str:
  """Return the CSS of descents, after that of networks."""
  return (HERE / "descent.css").read_text("utf-8")


def script() -> str:
  """Return the script of descents, after those of circuits."""
  return (HERE / "descent.js").read_text("utf-8")
