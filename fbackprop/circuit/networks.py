"""The picture of a network: its layers as gates, with the shape of the value on every wire.

The layout and the style are those of circuits. Chains, graphs, skips and remats are expanded; a
`repeat` is one gate, since its copies are equal.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax

from fbackprop import checks
from fbackprop.circuit import shapes
from fbackprop.circuit.drawing import ABOVE, BESIDE, Labels
from fbackprop.circuit.formats import draw_png, draw_svg
from fbackprop.circuit.graph import GateGraph, Node
from fbackprop.circuit.layout.columns import Item
from fbackprop.circuit.notation import printable
from fbackprop.combinators import is_chain, remat, repeat, skip
from fbackprop.graphs import connect, name_of
from fbackprop.types import Gate, Layer, Params


class NetworkPicture:
  """A network as a picture; a notebook shows it, and `to_svg` and `to_png` write it.

  Attributes:
    graph: the layers as the nodes of a graph of gates.
    shapes: the shape of each node's value, such as "[N, 8]".
  """

  def __init__(self, graph: GateGraph, shapes_of: dict[str, str], names: dict[str, str]) -> None:
    self.graph, self.shapes, self.names = graph, shapes_of, names

  def __repr__(self) -> str:
    return f"NetworkPicture({len(self.graph.nodes)} nodes)"

  def to_svg(self, title: str | None = None) -> str:
    """Draw the network as an SVG file; returns its text."""
    return draw_svg(NetworkLabels(self), title)

  def to_png(self, title: str | None = None, dpi: float = 192) -> bytes:
    """Draw the network as a PNG file; returns its bytes. It needs matplotlib."""
    return draw_png(NetworkLabels(self), title, dpi)

  def _repr_svg_(self) -> str:
    return self.to_svg()


def draw(net: Layer, x: Any) -> NetworkPicture:
  """Draw a network with the shapes on its wires; nothing is computed.

  Args:
    net: the network.
    x: `[N, D_in]`, an array or a `jax.ShapeDtypeStruct`, or a pytree of them.

  Returns:
    The `NetworkPicture`.

  Raises:
    TypeError: `net` isn't a Layer; x isn't an array.
    ValueError: x has the wrong shape.

  Example:
    >>> import fbackprop as fb
    >>> nodes = {"h": (fb.dense(3, 3), "x"), "a": (fb.tanh, "h"), "y": (fb.add, "a", "x")}
    >>> picture = draw(fb.graph(nodes, output="y"), jax.numpy.ones((5, 3)))
    >>> picture.shapes["h.dense"], picture.to_svg().startswith("<svg")
    ('[N, 3]', True)
  """
  checks.check_unit("draw", "net", net, Layer)
  checks.check_arrays("draw", "x", x)
  made = Expansion([], {}, {}, {})
  params = jax.eval_shape(net.init, jax.random.key(0))
  inputs = dict(net.options).get("inputs")
  if dict(net.options).get("combinator") is connect and not isinstance(inputs, str):
    entering = jax.tree.map(made.add_input, inputs, x)
  else:
    entering = made.add_input("x" if inputs is None else inputs, x)
  outputs = jax.tree.leaves(made.expand(net, params, entering, ""), is_leaf=is_wire)
  weights = tuple(dict.fromkeys((wire.name, 1.0) for wire in outputs))
  graph = GateGraph(tuple(made.nodes), weights, tuple(made.gates.items()))
  return NetworkPicture(graph, made.shapes, made.names)


class Wire(NamedTuple):
  """The value of a node: its name, and its shape, a `ShapeDtypeStruct` or a tuple of them."""

  name: str
  value: Any


def is_wire(value: Any) -> bool:
  """Return whether a node of a tree is a wire."""
  return isinstance(value, Wire)


class Expansion(NamedTuple):
  """The nodes of a picture; each method adds some and returns the wires that leave them.

  Attributes:
    nodes: the nodes, in topological order.
    gates: a gate for each layer, by the node's op.
    shapes: the text of each node's shape.
    names: the text over each node.
  """

  nodes: list[Node]
  gates: dict[str, Gate]
  shapes: dict[str, str]
  names: dict[str, str]

  def add_input(self, name: str, x: Any) -> Any:
    """Add an input, or for a tree of arrays several."""
    if not hasattr(x, "shape"):
      leaves = jax.tree_util.tree_leaves_with_path(x)
      wires = [self.add_input(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
      return jax.tree.unflatten(jax.tree.structure(x), wires)
    self.nodes.append(Node(name, "input"))
    self.shapes[name], self.names[name] = shape_text(x), name
    return Wire(name, jax.eval_shape(lambda x: x, x))

  def add_layer(
    self, name: str, symbol: str, wires: Iterable[Wire], value: Any, *, symmetric: bool = False
  ) -> Wire:
    """Add a gate for a layer."""
    # An op for each node, as `GateGraph` looks gates up by their ops.
    self.gates[name] = Gate(name, None, refuse, refuse, symbol=symbol, commutative=symmetric)
    self.nodes.append(Node(name, name, tuple(wire.name for wire in wires)))
    self.shapes[name] = shape_text(value)
    return Wire(name, value)

  def expand(self, net: Layer, params: Params, x: Any, path: str, name: str | None = None) -> Any:
    """Add the layers of a network and return its wire, or its tree of wires."""
    options = dict(net.options)
    combinator = options.get("combinator")
    if is_chain(net):
      for i, (part, own) in enumerate(zip(net.parts, params, strict=True)):
        x = self.expand(part, own, x, f"{path}{i}.")
      return x
    if combinator is connect:
      return self.expand_graph(net, params, x, path)
    if combinator is remat:
      return self.expand(net.parts[0], params, x, path, name)
    if combinator is skip:
      y = self.expand(net.parts[0], params, x, f"{path}f.")
      return self.add_layer(f"{path}add", "+", (x, y), y.value, symmetric=True)
    wires = jax.tree.leaves(x, is_leaf=is_wire)
    values = jax.tree.map(lambda wire: wire.value, x, is_leaf=is_wire)
    y = jax.eval_shape(lambda params, x: net.forward(params, x)[0], params, values)
    symbol = name or symbol_of(net)
    if combinator is repeat:
      symbol = f"{options['n']} × {symbol_of(net.parts[0])}"
    symmetric = net.name in ("add", "multiply")
    return self.add_layer(f"{path}{net.name}", symbol, wires, y, symmetric=symmetric)

  def expand_graph(self, net: Layer, params: Params, x: Any, path: str) -> Any:
    """Add the nodes of a graph."""
    options = dict(net.options)
    wires: dict[str, Any] = {}
    jax.tree.map(wires.__setitem__, options["inputs"], x)

    def take(ref: str) -> Any:
      if ref not in wires:
        whole, index = wires[name_of(ref)], int(ref.partition("[")[2].rstrip("]"))
        wires[ref] = (
          self.add_layer(path + ref, f"[{index}]", (whole,), whole.value[index])
          if is_wire(whole) else whole[index]  # A graph inside has a wire for each output.
        )  # fmt: skip
      return wires[ref]

    for node, part in zip(options["nodes"], net.parts, strict=True):
      own = jax.eval_shape(lambda part=part: part.init(jax.random.key(0)))
      entering = tuple(map(take, node.inputs))
      label = f"{symbol_of(part)} of {node.owner}" if node.owner != node.name else None
      if node.transposed:
        label = f"{symbol_of(part)}, {node.owner} transposed"
      x = entering if len(entering) > 1 else entering[0]
      wires[node.name] = self.expand(part, own, x, f"{path}{node.name}.", label)
      if is_wire(wires[node.name]):
        self.names[wires[node.name].name] = node.name
    return jax.tree.map(take, options["output"])


def refuse(*arguments: Any) -> Any:
  """Stand for the rules of a gate that is only drawn."""
  raise NotImplementedError("a picture's gates can't be computed; call the network")


def symbol_of(layer: Layer) -> str:
  """Return the text in a layer's gate."""
  known = {"add": "+", "multiply": "·", "concatenate": "‖"}
  if is_chain(layer):
    return f"({', '.join(map(symbol_of, layer.parts))})"
  return known.get(layer.name, layer.name)


def shape_text(value: Any) -> str:
  """Return a shape, the number of examples as N: "[N, 8]", or several, "[N, 3], [N, 5]"."""
  sizes = (leaf.shape[1:] for leaf in jax.tree.leaves(value))
  return ", ".join(f"[{', '.join(['N', *map(str, size)])}]" for size in sizes)


class NetworkLabels(Labels):
  """The texts of a network's picture: names, symbols and shapes."""

  def __init__(self, picture: NetworkPicture) -> None:
    super().__init__(picture.graph)
    self.picture = picture

  def title(self) -> str:
    """Return the accessible name of a picture without a heading."""
    count = len(self.picture.graph.gates)
    return f"A network of {count} layer{'s' * (count != 1)}"

  def description(self) -> str:
    """Return the picture in words, node by node."""
    words = []
    for name, _, inputs, _ in self.circuit.nodes:
      what = f"{self.symbol(name)[0]} of {', '.join(inputs)}" if inputs else "input"
      words.append(f"{name}, {what}: {self.picture.shapes[name]}")
    return printable("; ".join(words))

  def name(self, name: str) -> str:
    """Return the label of a node: its name in a graph; none in a chain."""
    return printable(self.picture.names.get(name, ""))

  def texts(self, item: Item) -> list[shapes.Text]:
    """Return the texts of an item: those of an unsolved circuit, and the shape on its wire."""
    texts = super().texts(item)
    if item.kind == "node":
      text = self.picture.shapes[item.name]
      texts.append(shapes.Text(BESIDE, -ABOVE, text, shapes.VALUE))
    return texts

  def foot(self) -> list[tuple[str, shapes.Style]]:
    """Return the legend."""
    return [("on a wire: its shape, N examples", shapes.VALUE)]
