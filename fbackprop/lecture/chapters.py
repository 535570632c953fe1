"""The lecture's chapters: their pictures and the answers to their questions, apart from the words.

An answer is computed, from the chapter's own circuit where it has one, so that no text states a
number that the picture doesn't have.
"""

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fbackprop.circuit import CircuitError, Node, Trace, build, example, parse
from fbackprop.layers.dense import dense_backward
from fbackprop.networks import mlp


@dataclass(frozen=True)
class Chapter:
  """A chapter.

  Attributes:
    name: "L1" to "L12", the rows of the lecture.
    answer: the right answer: a number, or the index of a choice; from the traces of its circuits.
    circuits: functions that solve its circuits.
    exercise: whether the last circuit is one to be filled in.
    network: what its network starts with, as `network_element` takes it; None without a network.
    quote: a function that returns a text quoted behind the chapter's last one; None without one.
    descends: whether costs to descend are behind its circuits.
    learned: the inputs of its circuits that learn; None for the usual ones.
  """

  name: str
  answer: Callable[[tuple[Trace, ...]], float]
  circuits: tuple[Callable[[], Trace], ...] = ()
  exercise: bool = False
  network: dict[str, Any] | None = None
  quote: Callable[[], str] | None = None
  learned: tuple[str, ...] | None = None
  descends: bool = False

  @cached_property
  def traces(self) -> tuple[Trace, ...]:
    """The solved circuits."""
    return tuple(solve() for solve in self.circuits)


def at(text: str, **values: float) -> Callable[[], Trace]:
  """Return a function that solves a text at values."""
  return lambda: parse(text).trace(**values)


def named(name: str) -> Callable[[], Trace]:
  """Return a function that solves a published example."""
  return lambda: example(name).trace()


def parameters(traces: tuple[Trace, ...]) -> float:
  """Count the parameters of the first chapter's network."""
  import jax

  net = mlp([1, 4, 1])
  return sum(leaf.size for leaf in jax.tree.leaves(net.init(jax.random.key(0))))


def refused_cycle() -> str:
  """Return what a circuit with a cycle is told."""
  nodes = [Node("x", "input"), Node("a", "add", ("x", "b")), Node("b", "tanh", ("a",))]
  try:
    build(nodes)
  except CircuitError as error:
    return str(error)
  raise AssertionError("a cycle wasn't refused")


def rule_of_dense() -> str:
  """Return the source of dense's backward rule, without its docstring."""
  lines = inspect.getsource(dense_backward).splitlines()
  [rule] = ast.parse("\n".join(lines)).body
  assert isinstance(rule, ast.FunctionDef)
  return "\n".join([*lines[: rule.body[0].lineno - 1], *lines[rule.body[1].lineno - 1 :]])


def updated(name: str, rate: float) -> Callable[[tuple[Trace, ...]], float]:
  """Return a function that computes an input after one step of gradient descent."""
  return lambda traces: traces[0].values[name] - rate * traces[0].bars[name]


CONVOLUTION = "y1 = w1*x1 + w2*x2; y2 = w1*x2 + w2*x3; f = relu(y1) + relu(y2)"
RECURRENCE = "h1 = tanh(w*x1); h2 = tanh(w*x2 + u*h1); f = square(h2 - t)"

CHAPTERS = (
  Chapter("L1", parameters, network={"data": "sine", "hidden": (4,), "rate": 0.1}),
  Chapter("L2", lambda traces: 1, (named("cs224n"),), quote=refused_cycle),
  Chapter("L3", lambda traces: traces[0].values["z"], (named("neuron"),)),
  Chapter("L4", lambda traces: traces[0].values["h1"], (named("two-layer"),)),
  Chapter(  # From most other first weights it stays at a nearly straight line for long.
    "L5", lambda traces: 2, network={"data": "moons", "hidden": (4,), "rate": 0.5, "seed": 3}
  ),
  Chapter("L6", lambda traces: traces[0].bars["h2"], (named("two-layer"),)),
  Chapter("L7", lambda traces: traces[0].bars["w"], (at("f = relu(w*x)", w=2.0, x=-1.0),)),
  Chapter(
    "L8",
    lambda traces: traces[0].bars["h"],
    (at("h = w*x; J1 = square(h - 1); J2 = 2*h; J = J1 + 0.5*J2", w=1.5, x=2.0),),
    learned=("w",),
  ),
  Chapter("L9", updated("x", 0.1), (at("f = square(x - 2) + 1", x=0.0),), descends=True),
  Chapter(
    "L10",
    updated("w", 0.1),
    (at("J = 0.5 * square(w*x - t)", w=0.5, x=2.0, t=3.0),),
    quote=rule_of_dense,
    learned=("w",),
  ),
  Chapter(
    "L11",
    lambda traces: parse("y = sigmoid(z)").trace(z=0.0).bars["z"],
    tuple(map(named, ("single-gate", "multiply", "add", "max", "sigmoid", "cs224n"))),
    exercise=True,
  ),
  Chapter(
    "L12",
    lambda traces: len(traces[0].contributions["w1"]),
    (
      at(CONVOLUTION, w1=1.0, w2=-0.5, x1=2.0, x2=1.0, x3=3.0),
      at(RECURRENCE, w=0.5, u=0.8, x1=1.0, x2=-1.0, t=0.2),
    ),
    learned=("w1", "w2", "w", "u"),
  ),
)
