"""Circuits as data: nodes of a directed acyclic graph, and the checks that it is one.

A node is an input, a constant or a gate. An edge, called a wire here, leads from a node into each
gate that lists the node among its inputs. This module computes nothing: `solver` evaluates a graph,
and `_circuit` adds the public classes with their convenience methods.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from fbackprop import gates as all_gates
from fbackprop.checks import FLOAT_MAX, DtypeError, describe
from fbackprop.hints import hint
from fbackprop.types import Gate

GATES: dict[str, Gate] = {
  name: value for name, value in vars(all_gates).items() if isinstance(value, Gate)
}
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
OwnGates = tuple[tuple[str, Gate], ...]


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
  gates: OwnGates = ()

  @cached_property
  def inputs(self) -> tuple[str, ...]:
    """The names of the inputs, in order of appearance."""
    return tuple(node.name for node in self.nodes if node.op == "input")

  @cached_property
  def gate_of(self) -> dict[str, Gate]:
    """The gate of each op."""
    return {**GATES, **dict(self.gates)}

  def __getstate__(self) -> dict[str, Any]:
    """Return the fields for pickle without cached properties, since `gate_of` holds closures."""
    return {field.name: getattr(self, field.name) for field in fields(self)}


def fan_out(graph: GateGraph) -> dict[str, list[Wire]]:
  """List the wires that leave each node: into gates in topological order, then as an output."""
  wires: dict[str, list[Wire]] = {node.name: [] for node in graph.nodes}
  for node in graph.nodes:
    for slot, source in enumerate(node.inputs):
      wires[source].append(Wire(source, node.name, slot))
  for slot, (name, _) in enumerate(graph.outputs):
    wires[name].append(Wire(name, None, slot))
  return wires


def check_graph(
  nodes: Iterable[Node],
  outputs: str | Mapping[str, float] | None,
  gates: Mapping[str, Gate] | None,
) -> tuple[tuple[Node, ...], Weights, OwnGates]:
  """Check the arguments of `build` and sort the nodes topologically.

  Returns:
    `(nodes, outputs, gates)`: the fields of a `GateGraph`.
  """
  for name, value, kind, wanted in (
    ("nodes", nodes, Iterable, "an iterable of Node"),
    ("outputs", outputs, str | Mapping | None, "a name, or a weight for each name"),
    ("gates", gates, Mapping | None, "a Gate for each op"),
  ):
    if not isinstance(value, kind):
      raise DtypeError(f"circuit: {name} must be {wanted}, got {describe(value)}")
  own = dict(gates or {})
  for op, gate in own.items():
    if not isinstance(gate, Gate):
      raise DtypeError(f"circuit: gate {op!r} must be a Gate, got {describe(gate)}")
    if op in LEAVES:
      raise CircuitError(f"circuit: a gate cannot be named {op!r}; choose another name")
  known = {**GATES, **own}
  by_name: dict[str, Node] = {}
  for node in nodes:
    if not isinstance(node, Node):
      raise DtypeError(f"circuit: each node must be a Node, got {describe(node)}")
    check_node(node, known)
    if node.name in by_name:
      raise CircuitError(f"circuit: two nodes are named {node.name!r}")
    by_name[node.name] = node
  if not by_name:
    raise CircuitError("circuit: nodes is empty; give at least one node")
  for node in by_name.values():
    for name in node.inputs:
      if name not in by_name:
        raise CircuitError(
          f"circuit: {node.op} {node.name!r} has the input {name!r}, which is no node; "
          f"{hint(name, by_name)}"
        )
  if outputs is None:
    outputs = next(reversed(by_name))
  weights = {outputs: 1.0} if isinstance(outputs, str) else outputs
  return sort_nodes(by_name), check_outputs(weights, by_name), tuple(own.items())


def check_node(node: Node, known: Mapping[str, Gate]) -> None:
  """Raise for a node that is invalid by itself."""
  if not (isinstance(node.name, str) and node.name):
    raise DtypeError(
      f"circuit: the name of a node must be a nonempty str, got {describe(node.name)}"
    )
  if not isinstance(node.op, str):
    raise DtypeError(f"circuit: op of {node.name!r} must be a str, got {describe(node.op)}")
  if not (isinstance(node.inputs, tuple) and all(isinstance(name, str) for name in node.inputs)):
    raise DtypeError(
      f"circuit: inputs of {node.name!r} must be a tuple of names, got {describe(node.inputs)}"
    )
  if node.value is not None or node.op == "constant":
    check_value(f"value of {node.name!r}", node.value)
  if node.op in LEAVES:
    if node.inputs:
      raise CircuitError(
        f"circuit: {node.op} {node.name!r} must have no inputs, got {', '.join(node.inputs)}"
      )
    return
  if node.op not in known:
    raise CircuitError(
      f"circuit: {node.name!r} has the unknown op {node.op!r}; {hint(node.op, known)}"
    )
  if node.value is not None:
    raise CircuitError(f"circuit: {node.name!r} is a gate, whose value is computed; give it none")
  check_arity(f"circuit: {node.name!r}: ", node.op, known[node.op], len(node.inputs))


def check_arity(where: str, op: str, gate: Gate, count: int) -> None:
  """Raise for a number of inputs that the gate doesn't take."""
  if count < 1 if gate.arity is None else count != gate.arity:
    wanted = "at least 1 input" if gate.arity is None else f"{gate.arity} input"
    raise CircuitError(f"{where}gate {op} takes {wanted}{'s' * (gate.arity == 2)}, got {count}")


def check_value(name: str, value: object) -> None:
  """Raise for anything but a finite number."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise DtypeError(f"circuit: {name} must be a number, got {describe(value)}")
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
    if root.name in done:
      continue
    path = {root.name: iter(root.inputs)}  # From the root to the node under search.
    while path:
      name, wires = next(reversed(path.items()))
      below = next((wire for wire in wires if wire not in done), None)
      if below is None:
        done[name] = by_name[name]
        del path[name]
      elif below in path:
        cycle = [*path][[*path].index(below) :]
        shown = [*cycle[:8], "..."] if len(cycle) > 8 else cycle
        raise CircuitError(
          f"circuit: the nodes form a cycle: {' -> '.join([*reversed(shown), cycle[-1]])}"
        )
      else:
        path[below] = iter(by_name[below].inputs)
  return tuple(done.values())
