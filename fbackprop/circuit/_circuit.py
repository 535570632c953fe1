"""The public interface of circuits: `Circuit`, `Trace` and `build`.

The methods call the functions of lower modules: `graph`, `solver`, `text`, and the `formats` of
pictures. `parse`, `from_mlp` and the examples are in higher modules, as they build a `Circuit`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fbackprop.circuit import drawing, formats, graph, notation, text
from fbackprop.circuit.graph import CircuitError, GateGraph, Node
from fbackprop.circuit.live import animation, page
from fbackprop.circuit.solver import Solution, solve, value_and_grad
from fbackprop.types import Array, Gate

MOST_NODES = 300
"""The most nodes of a circuit that a notebook draws unasked: a larger one would take seconds."""


@dataclass(frozen=True, repr=False)
class Circuit(GateGraph):
  """A computation as a graph of gates, built by `build`, `parse` or `from_mlp`.

  Attributes:
    nodes: the nodes in topological order.
    outputs: (name, weight) pairs; the differentiated value is the sum of weight · output.
    gates: (op, Gate) pairs that extend or override the gates of `fbackprop.gates`.
  """

  __repr__ = notation.summary

  def _repr_svg_(self) -> str | None:
    """Draw the circuit for a notebook: with numbers if every input has a value, else without."""
    is_open = any(node.op == "input" and node.value is None for node in self.nodes)
    return draw_if_small(self, lambda: None if is_open else self.trace())

  def trace(self, /, **inputs: float) -> "Trace":
    """Compute the value and the gradient on every wire, in float64: see `solver.solve`."""
    return Trace(**vars(solve(self, inputs)))

  def show(self, /, **inputs: float) -> "Live":
    """Solve the circuit, and show it in a notebook so that it can be played: see `Trace.show`."""
    return self.trace(**inputs).show()

  def value_and_grad(self, /, **inputs: Any) -> tuple[Array, dict[str, Array]]:
    """Compute the value and its gradients, on arrays: see `solver.value_and_grad`."""
    return value_and_grad(self, inputs)


@dataclass(frozen=True, repr=False)
class Trace(Solution):
  """A solved circuit: the value and the gradient on every wire.

  Attributes:
    circuit: the circuit that was solved.
    values: the value of every node.
    bars: the global gradient df/dnode of the circuit's value by every node, along every path.
    contributions: the terms of every node's gradient: the downstream gradient of each wire that
      leaves the node, in the order of the gates that the wires enter, and last the weight of an
      output.
    gates: the gates, in topological order.
    value: Σ weight · output.
    gradients: the global gradients of the inputs.
  """

  circuit: Circuit

  __repr__ = text.to_line
  to_text = text.to_text
  to_steps = text.to_steps
  to_svg = formats.to_svg
  to_png = formats.to_png
  to_html = page.to_html
  to_animation = animation.to_animation

  def show(
    self, *, digits: int = 4, exercise: bool = False, language: page.Language = "en"
  ) -> "Live":
    """Show the solved circuit in a notebook as the page of `to_html`, in its cell.

    Args:
      digits, exercise, language: as of `to_html`.

    Returns:
      A value that a notebook displays: the page in a frame, or where frames aren't shown the
      picture, of an exercise without numbers.
    """
    options: dict[str, Any] = {"digits": digits, "exercise": exercise, "language": language}
    picture = draw_if_small(self.circuit, lambda: None if exercise else self)
    return Live(page.frame(self.to_html(**options)), picture)

  def _repr_svg_(self) -> str | None:
    """Draw the circuit for a notebook; None if it is too large."""
    return draw_if_small(self.circuit, lambda: self)


@dataclass(frozen=True, repr=False)
class Live:
  """A circuit's page as a notebook's cell displays it.

  Attributes:
    html: the page in a frame of its own, so that its style and its keys stay its own.
    svg: the picture, for viewers that show no frames.
  """

  html: str
  svg: str | None

  def __repr__(self) -> str:
    return f"Live({len(self.html):,} characters of HTML)"

  def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
    """Return what a notebook may display, for it to choose from."""
    bundle = {"text/plain": repr(self), "text/html": self.html}
    return bundle | ({} if self.svg is None else {"image/svg+xml": self.svg})


def draw_if_small(circuit: Circuit, solve: Callable[[], Trace | None]) -> str | None:
  """Draw a circuit for a notebook, solved or not; None if it is too large to read."""
  if len(circuit.nodes) > MOST_NODES:
    return None
  try:
    return formats.draw_svg(drawing.Labels(circuit, solve()))
  except CircuitError:  # A wire is too long.
    return None


def build(
  nodes: Iterable[Node],
  outputs: str | Mapping[str, float] | None = None,
  gates: Mapping[str, Gate] | None = None,
) -> Circuit:
  """Build a circuit from nodes in any order, in time linear in the number of wires.

  Args:
    nodes: the nodes; each lists the nodes whose wires enter it.
    outputs: the name of the output, or a mapping from several names to weights; None for the last
      node.
    gates: gates that extend or override those of `fbackprop.gates`, as
      `{"max": fb.gates.max_with(ties="first")}`.

  Returns:
    The `Circuit`, its nodes in topological order: the order given, if it is one.

  Raises:
    TypeError: a node isn't a Node, a gate isn't a Gate, a value isn't a number.
    ValueError: `CircuitError`: no node, a duplicate name, an unknown op, a wrong number of inputs,
      an unknown input or output, or a cycle. The message names the culprit.

  Example:
    >>> c = build([Node("x", "input"), Node("y", "square", ("x",))])
    >>> c.trace(x=3.0).gradients
    {'x': 6.0}
  """
  graph.check_type(isinstance(nodes, Iterable), "nodes", "an iterable of Node", nodes)
  is_known = isinstance(outputs, str | Mapping | None)
  graph.check_type(is_known, "outputs", "a name, or a weight for each name", outputs)
  graph.check_type(isinstance(gates, Mapping | None), "gates", "a Gate for each op", gates)
  own = dict(gates or {})
  for op, gate in own.items():
    graph.check_type(isinstance(gate, Gate), f"gate {op!r}", "a Gate", gate)
    if op in graph.LEAVES:
      raise CircuitError(f"circuit: a gate cannot be named {op!r}; choose another name")
  known = {**graph.GATES, **own}
  by_name: dict[str, Node] = {}
  for node in nodes:
    graph.check_type(isinstance(node, Node), "each node", "a Node", node)
    graph.check_node(node, known)
    if node.name in by_name:
      raise CircuitError(f"circuit: two nodes are named {node.name!r}")
    by_name[node.name] = node
  if not by_name:
    raise CircuitError("circuit: nodes is empty; give at least one node")
  if outputs is None:
    outputs = next(reversed(by_name))
  weights = {outputs: 1.0} if isinstance(outputs, str) else outputs
  ordered = graph.sort_nodes(by_name)
  return Circuit(ordered, graph.check_outputs(weights, by_name), tuple(own.items()))
