"""Circuits as data: nodes of a directed acyclic graph, and the checks that it is one.

A node is an input, a constant or a gate. An edge, called a wire here, leads from a node into each
gate that lists the node among its inputs. This module computes nothing: `solver` evaluates a graph,
and `_circuit` adds the public classes with their convenience methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from fbackprop import gates as all_gates
from fbackprop.checks import FLOAT_MAX, check_that
from fbackprop.errors import hint
from fbackprop.types import Gate

GATES = {name: gate for name, gate in vars(all_gates).items() if isinstance(gate, Gate)}
"""Every gate of `fbackprop.gates`, by op."""
LEAVES = ("input", "constant")
"""The ops of nodes without incoming wires."""


class CircuitError(ValueError):
  """Nodes and wires that form no circuit, or values that don't fit one."""


class Node(NamedTuple):
  """A node of a circuit.

  Attributes:
    name: a name unique in the circuit.
    op: "input", "constant", or the name of a gate.
    inputs: the nodes whose wires enter, in the order of the gate's inputs; a name may occur twice,
      as in x · x.
    value: the value of a constant, or the default of an input.
  """

  name: str
  op: str
  inputs: tuple[str, ...] = ()
  value: float | None = None


class Wire(NamedTuple):
  """An edge from `source` into input `slot` of `target`; an output's wire has no target."""

  source: str
  target: str | None
  slot: int


Weights = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class GateGraph:
  """A computation as a directed acyclic graph of gates.

  Attributes:
    nodes: the nodes in topological order.
    outputs: (name, weight) pairs; the differentiated value is the sum of weight · output.
    gates: (op, Gate) pairs that extend or override the gates of `fbackprop.gates`.
  """

  nodes: tuple[Node, ...]
  outputs: Weights
  gates: tuple[tuple[str, Gate], ...] = ()

  @cached_property
  def inputs(self) -> tuple[str, ...]:
    """The names of the inputs, in order of appearance."""
    return tuple(node.name for node in self.nodes if node.op == "input")

  @property
  def gate_of(self) -> dict[str, Gate]:
    """The gate of each op."""
    return GATES | dict(self.gates)


def fan_out(graph: GateGraph) -> dict[str, list[Wire]]:
  """List the wires that leave each node: into gates in topological order, then as an output."""
  wires: dict[str, list[Wire]] = {node.name: [] for node in graph.nodes}
  for node in graph.nodes:
    for slot, source in enumerate(node.inputs):
      wires[source].append(Wire(source, node.name, slot))
  for slot, (name, _) in enumerate(graph.outputs):
    wires[name].append(Wire(name, None, slot))
  return wires


def check_type(is_right: object, name: str, wanted: str, value: object) -> None:
  """Raise a DtypeError for a value of another type."""
  check_that("circuit", name, value, is_right, f"be {wanted}")


def check_node(node: Node, known: Mapping[str, Gate]) -> None:
  """Raise for a node that is invalid by itself."""
  name, op, inputs, value = node
  check_type(isinstance(name, str) and name, "the name of a node", "a nonempty str", name)
  check_type(isinstance(op, str), f"op of {name!r}", "a str", op)
  are_names = isinstance(inputs, tuple) and all(isinstance(each, str) for each in inputs)
  check_type(are_names, f"inputs of {name!r}", "a tuple of names", inputs)
  if value is not None or op == "constant":
    check_value(f"value of {name!r}", value)
  if op in LEAVES and inputs:
    raise CircuitError(f"circuit: {op} {name!r} must have no inputs, got {', '.join(inputs)}")
  if op in LEAVES:
    return
  if op not in known:
    raise CircuitError(f"circuit: {name!r} has the unknown op {op!r}; {hint(op, known)}")
  if value is not None:
    raise CircuitError(f"circuit: {name!r} is a gate, whose value is computed; give it none")
  if problem := arity_problem(op, known[op], len(inputs)):
    raise CircuitError(f"circuit: {name!r}: {problem}")


def arity_problem(op: str, gate: Gate, count: int) -> str | None:
  """Describe a number of inputs that the gate doesn't take."""
  if gate.arity is None:
    return None if count else f"gate {op} takes at least 1 input, got 0"
  wanted = f"{gate.arity} input{'s' * (gate.arity == 2)}"
  return None if count == gate.arity else f"gate {op} takes {wanted}, got {count}"


def check_value(name: str, value: Any, wanted: str = "a number") -> None:
  """Raise for anything but a finite number."""
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  check_type(is_number, name, wanted, value)
  # An integer may exceed every float, and have more digits than Python converts to text.
  if not -FLOAT_MAX <= value <= FLOAT_MAX:
    got = "an integer too large for float64" if isinstance(value, int) else value
    raise CircuitError(f"circuit: {name} must be finite, got {got}")


def check_outputs(weights: Mapping[str, float], known: Mapping[str, Node]) -> Weights:
  """Return the outputs as pairs; raise for unknown names, invalid weights, or no output at all."""
  if not weights:
    raise CircuitError("circuit: outputs is empty; name at least one")
  for name, weight in weights.items():
    if name not in known:
      raise CircuitError(f"circuit: the output {name!r} is no node; {hint(name, known)}")
    check_value(f"weight of the output {name!r}", weight)
  return tuple((name, float(weight)) for name, weight in weights.items())


def sort_nodes(by_name: Mapping[str, Node]) -> tuple[Node, ...]:
  """Sort nodes topologically by an iterative depth-first search, preserving a sorted order."""
  done: dict[str, Node] = {}
  for root in by_name.values():
    # From the root to the node under search, each with its wires that are left.
    path = {} if root.name in done else {root.name: iter(root.inputs)}
    while path:
      name, wires = next(reversed(path.items()))
      below = next((wire for wire in wires if wire not in done), None)
      if below is None:
        done[name] = by_name[name]
        del path[name]
      elif below in path:
        cycle = [*path][[*path].index(below) :]
        shown = [*cycle[:8], "..."] if len(cycle) > 8 else cycle
        way = " -> ".join([*reversed(shown), cycle[-1]])
        raise CircuitError(f"circuit: the nodes form a cycle: {way}")
      elif below not in by_name:
        user = f"{by_name[name].op} {name!r} has the input {below!r}"
        raise CircuitError(f"circuit: {user}, which is no node; {hint(below, by_name)}")
      else:
        path[below] = iter(by_name[below].inputs)
  return tuple(done.values())
