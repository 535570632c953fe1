"""Circuits as data: nodes on a directed acyclic graph, and what a trace finds on its wires.

A node is an input, a constant or a gate; a wire leads from a node into a gate that names it among
its inputs. Nothing here computes: `Circuit.trace` and the other methods are convenience, and what
they call stands on higher shelves (`tracing`, `text`, `drawing`), imported when it is called.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

from fbackprop import gates as all_gates
from fbackprop.checks import FLOAT_MAX, DtypeError, describe
from fbackprop.hints import hint
from fbackprop.types import Array, Gate

GATES: dict[str, Gate] = {
  name: value for name, value in vars(all_gates).items() if isinstance(value, Gate)
}
"""Every gate of `fbackprop.gates`, by the name of the op of a node."""


class CircuitError(ValueError):
  """Nodes and wires that make no circuit, or values that don't fit one."""


class Node(NamedTuple):
  """A node of a circuit.

  Attributes:
    name: unique in the circuit.
    op: "input", "constant", or the name of a gate.
    inputs: the nodes whose wires come in, in the order of the gate's inputs; a name may stand
      there twice, as in x · x.
    value: of a constant; of an input the value that it has unless another one is given.
  """

  name: str
  op: str
  inputs: tuple[str, ...] = ()
  value: float | None = None


@dataclass(frozen=True)
class Circuit:
  """A computation as a graph of gates; `build`, `parse` and `from_mlp` make one.

  Attributes:
    nodes: in topological order: the inputs of a node stand before it.
    outputs: (name, weight) pairs; what is differentiated is the sum of weight · output.
    gates: (op, Gate) pairs for ops beside, or in the place of, those of `fbackprop.gates`.
  """

  nodes: tuple[Node, ...]
  outputs: tuple[tuple[str, float], ...]
  gates: tuple[tuple[str, Gate], ...] = ()

  @cached_property
  def inputs(self) -> tuple[str, ...]:
    """The names of the inputs, in order of appearance."""
    return tuple(node.name for node in self.nodes if node.op == "input")

  @cached_property
  def gate_of(self) -> dict[str, Gate]:
    """The gate of each op."""
    return {**GATES, **dict(self.gates)}

  def __repr__(self) -> str:
    gates = sum(bool(node.inputs) for node in self.nodes)
    names = ", ".join(few(self.inputs))
    outputs = ", ".join(few([name for name, _ in self.outputs]))
    return f"Circuit({outputs} of {names or 'constants'}: {gates} gate{'s' * (gates != 1)})"

  def _repr_svg_(self) -> str | None:
    """The picture in a notebook: see `drawing.picture_of_circuit`."""
    found: str | None = import_module("fbackprop.circuit.drawing").picture_of_circuit(self)
    return found

  def trace(self, /, **inputs: float) -> "Trace":
    """Runs the circuit forward and backward on numbers, in float64: see `tracing.trace`."""
    found: Trace = import_module("fbackprop.circuit.tracing").trace(self, inputs)
    return found

  def value_and_grad(self, /, **inputs: Any) -> tuple[Array, dict[str, Array]]:
    """The value and its gradient by each input, of arrays: see `tracing.value_and_grad`."""
    found: tuple[Array, dict[str, Array]] = import_module(
      "fbackprop.circuit.tracing"
    ).value_and_grad(self, inputs)
    return found


class GateTrace(NamedTuple):
  """What one gate did: the local gradients, what arrived from above, what is handed down.

  Attributes:
    name, op, inputs: of its node.
    value: its output.
    local: ∂value/∂input, the other inputs held, one for each input.
    upstream: the global gradient df/dvalue that arrives at its output, summed over the wires that
      leave it.
    downstream: upstream × local, one for each input: its wire's share of the gradient df/dinput.
  """

  name: str
  op: str
  inputs: tuple[str, ...]
  value: float
  local: tuple[float, ...]
  upstream: float
  downstream: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
  """A circuit solved: both numbers of every wire.

  Attributes:
    circuit: what was traced.
    values: of every node.
    bars: the global gradient of the circuit's value by every node's output: df/dnode, along every
      path.
    contributions: for every node the terms of which its gradient is the sum: what each wire that
      leaves it sends back, in the order of the gates that it leads to, and last the weight of the
      node if it is an output.
    gates: the gates, in the circuit's order.
    value: Σ weight · output.
    gradients: the global gradients of the inputs.
  """

  circuit: Circuit
  values: dict[str, float]
  bars: dict[str, float]
  contributions: dict[str, tuple[float, ...]]
  gates: tuple[GateTrace, ...]
  value: float
  gradients: dict[str, float]

  def __repr__(self) -> str:
    """The value and its gradient: "Trace(f = 6; df/dx = 2, df/dy = 5, df/dz = 0)"."""
    return str(import_module("fbackprop.circuit.text").to_line(self))

  def _repr_svg_(self) -> str | None:
    """The picture in a notebook: see `drawing.picture_of_trace`."""
    found: str | None = import_module("fbackprop.circuit.drawing").picture_of_trace(self)
    return found

  def to_text(self, **options: Any) -> str:
    """A table with a row for each gate: see `text.to_text`."""
    return str(import_module("fbackprop.circuit.text").to_text(self, **options))

  def to_steps(self, **options: Any) -> str:
    """The solution as it is worked on a board: see `steps.to_steps`."""
    return str(import_module("fbackprop.circuit.steps").to_steps(self, **options))

  def to_svg(self, **options: Any) -> str:
    """The circuit drawn, with both numbers on every wire: see `drawing.to_svg`."""
    return str(import_module("fbackprop.circuit.drawing").to_svg(self, **options))

  def to_png(self, **options: Any) -> bytes:
    """The same as a PNG file: see `drawing.to_png`."""
    return bytes(import_module("fbackprop.circuit.drawing").to_png(self, **options))


def few(texts: Sequence[str]) -> list[str]:
  """The texts; of many, the first and the last."""
  return [*texts] if len(texts) <= 8 else [*texts[:6], "...", texts[-1]]


def build(
  nodes: Iterable[Node],
  outputs: str | Mapping[str, float] | None = None,
  gates: Mapping[str, Gate] | None = None,
) -> Circuit:
  """Makes a circuit of nodes, in any order, and checks that it is one. Linear in the wires.

  Args:
    nodes: the nodes; a node names those whose wires come in.
    outputs: the name of the output, or a weight for each of several; None for the last node.
    gates: gates for ops beside those of `fbackprop.gates`, or in their place, as
      `{"max": fb.gates.max_with(ties="first")}`.

  Returns:
    The `Circuit`, its nodes in topological order, which is the order given where that is one.

  Raises:
    TypeError: something isn't a Node, a gate isn't a Gate, a value isn't a number.
    ValueError: `CircuitError`: no node, two of one name, an unknown op, a wrong number of inputs,
      a wire from no node, a cycle, or an output that isn't there. The message names it.

  Example:
    >>> c = build([Node("x", "input"), Node("y", "square", ("x",))])
    >>> c.trace(x=3.0).gradients
    {'x': 6.0}
  """
  for name, what, kind, wanted in (
    ("nodes", nodes, Iterable, "several of Node"),
    ("outputs", outputs, str | Mapping | None, "a name, or a weight for each name"),
    ("gates", gates, Mapping | None, "a Gate for each op"),
  ):
    if not isinstance(what, kind):
      raise DtypeError(f"circuit: {name} must be {wanted}, got {describe(what)}")
  own = {} if gates is None else dict(gates)
  for op, gate in own.items():
    if not isinstance(gate, Gate):
      raise DtypeError(f"circuit: gate {op!r} must be a Gate, got {describe(gate)}")
    if op in ("input", "constant"):
      raise CircuitError(f"circuit: a gate can't be called {op!r}")
  known = {**GATES, **own}
  by_name: dict[str, Node] = {}
  for node in nodes:
    if not isinstance(node, Node):
      raise DtypeError(f"circuit: a node must be a Node, got {describe(node)}")
    check_node(node, known)
    if node.name in by_name:
      raise CircuitError(f"circuit: two nodes have the name {node.name!r}")
    by_name[node.name] = node
  if not by_name:
    raise CircuitError("circuit: there is no node")
  for node in by_name.values():
    for name in node.inputs:
      if name not in by_name:
        raise CircuitError(
          f"circuit: {node.op} {node.name!r} has a wire from {name!r}, which is no node; "
          f"{hint(name, by_name)}"
        )
  if outputs is None:
    outputs = next(reversed(by_name))
  weights = {outputs: 1.0} if isinstance(outputs, str) else dict(outputs)
  return Circuit(sort(by_name), check_outputs(weights, by_name), tuple(own.items()))


def check_node(node: Node, known: Mapping[str, Gate]) -> None:
  """Refuses a node that is wrong by itself."""
  if not (isinstance(node.name, str) and node.name):
    raise DtypeError(f"circuit: the name of a node must be a text, got {describe(node.name)}")
  if not isinstance(node.op, str):
    raise DtypeError(f"circuit: op of {node.name!r} must be a text, got {describe(node.op)}")
  if not (isinstance(node.inputs, tuple) and all(isinstance(name, str) for name in node.inputs)):
    raise DtypeError(
      f"circuit: inputs of {node.name!r} must be a tuple of names, got {describe(node.inputs)}"
    )
  if node.value is not None or node.op == "constant":
    check_value(f"value of {node.name!r}", node.value)
  if node.op in ("input", "constant"):
    if node.inputs:
      raise CircuitError(
        f"circuit: {node.op} {node.name!r} can have no wire that comes in, got "
        f"{', '.join(node.inputs)}"
      )
    return
  if node.op not in known:
    raise CircuitError(
      f"circuit: {node.name!r} has the op {node.op!r}, which is no gate; {hint(node.op, known)}"
    )
  if node.value is not None:
    raise CircuitError(f"circuit: {node.name!r} is a gate: its value is computed, not given")
  check_count(f"circuit: {node.name!r}: ", node.op, known[node.op], len(node.inputs))


def check_count(where: str, op: str, gate: Gate, count: int) -> None:
  """Refuses another number of inputs than the gate takes."""
  if count < 1 if gate.arity is None else count != gate.arity:
    least = "at least 1 input" if gate.arity is None else f"{gate.arity} input"
    raise CircuitError(f"{where}gate {op} takes {least}{'s' * (gate.arity == 2)}, got {count}")


def check_value(name: str, value: object) -> None:
  """Refuses what isn't a finite number."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise DtypeError(f"circuit: {name} must be a number, got {describe(value)}")
  # An integer may be larger than any float, and longer than Python writes out.
  if not -FLOAT_MAX <= value <= FLOAT_MAX:
    got = "an integer too large for float64" if isinstance(value, int) else value
    raise CircuitError(f"circuit: {name} must be finite, got {got}")


def check_outputs(
  weights: Mapping[str, float], known: Mapping[str, Node]
) -> tuple[tuple[str, float], ...]:
  """The outputs as pairs; refuses what is no node, and no output at all."""
  if not weights:
    raise CircuitError("circuit: there is no output")
  for name, weight in weights.items():
    if name not in known:
      raise CircuitError(f"circuit: the output {name!r} is no node; {hint(name, known)}")
    check_value(f"weight of the output {name!r}", weight)
  return tuple((name, float(weight)) for name, weight in weights.items())


def sort(by_name: Mapping[str, Node]) -> tuple[Node, ...]:
  """The nodes with each behind its inputs; depth first, without recursion."""
  done: dict[str, Node] = {}
  for root in by_name.values():
    if root.name in done:
      continue
    path = {root.name: iter(root.inputs)}  # From the root down to where the search is.
    while path:
      name, wires = next(reversed(path.items()))
      below = next((wire for wire in wires if wire not in done), None)
      if below is None:
        done[name] = by_name[name]
        del path[name]
      elif below in path:
        loop = [*path][[*path].index(below) :]
        shown = [*loop[:8], "..."] if len(loop) > 8 else loop
        raise CircuitError(
          f"circuit: there is a cycle: {' -> '.join([*reversed(shown), loop[-1]])}"
        )
      else:
        path[below] = iter(by_name[below].inputs)
  return tuple(done.values())
