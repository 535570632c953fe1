"""The columns of a circuit's picture: what stands in each, and what is linked to the next.

From left to right the columns take turns: one of nodes, one of the labels of forked wires, which
stand directly before the gate that they lead to, and there also what else leads to that gate alone,
a constant or a weight. A wire that passes a column has a bend there, a
place that it passes straight. All wires that leave a node share their bends, so that a far fork is
a trunk with branches: n gates that use one input cost n bends, and not n².
"""

from typing import NamedTuple

from fbackprop.circuit.graph import Circuit, CircuitError

MOST_BENDS = 300_000
COMMUTATIVE = frozenset({"add", "multiply", "max", "min"})
FROM_THE_MARGIN = 3
"""An input that is used in one of the first three columns of gates may stand at the left margin."""


class Wire(NamedTuple):
  """A wire: out of `source`, into input `slot` of `target`; an output's leads to no target."""

  source: str
  target: str | None
  slot: int


class Item(NamedTuple):
  """What takes room in a column: a node, the label of a forked wire, or a bend of a node's wires.

  Attributes:
    kind: "node", "label" or "bend".
    column: where it stands.
    name: the node, or the source of the wire.
    wire: of a label.
  """

  kind: str
  column: int
  name: str
  wire: Wire | None = None


class Link(NamedTuple):
  """A piece of wire from an item to one in the next column.

  Attributes:
    left, right: numbers of the items.
    port: from 0 to 1, which input of the gate on the right it is.
    fixed: whether the inputs of that gate have an order that the picture must keep.
  """

  left: int
  right: int
  port: float = 0.0
  fixed: bool = False


class Columns(NamedTuple):
  """A circuit cut into columns: items, the numbers of each column's items, the links."""

  items: list[Item]
  columns: list[list[int]]
  links: list[Link]


def wires_from(circuit: Circuit) -> dict[str, list[Wire]]:
  """The wires that leave each node, in the order of a trace's `contributions`."""
  found: dict[str, list[Wire]] = {node.name: [] for node in circuit.nodes}
  for node in circuit.nodes:
    for slot, source in enumerate(node.inputs):
      found[source].append(Wire(source, node.name, slot))
  for slot, (name, _) in enumerate(circuit.outputs):
    found[name].append(Wire(name, None, slot))
  return found


def depths_of(circuit: Circuit, leaving: dict[str, list[Wire]], *, margin: bool) -> dict[str, int]:
  """The column of nodes in which each node stands: behind its inputs, and wires kept short.

  A gate stands as far to the left as its inputs allow, or as far to the right as its consumers
  allow where that lengthens one wire at most. A constant stands near its first consumer, and so
  does an input, unless it stands at the left margin.
  """
  depth: dict[str, int] = {}
  for node in circuit.nodes:
    depth[node.name] = 1 + max((depth[name] for name in node.inputs), default=-1)
  leaves = {node.name for node in circuit.nodes if not node.inputs}
  for node in reversed(circuit.nodes):
    targets = [depth[wire.target] for wire in leaving[node.name] if wire.target is not None]
    if not targets:
      continue
    latest = min(targets) - 1
    if node.inputs:
      # A leaf that nobody else uses moves along.
      stays = {name for name in node.inputs if name not in leaves or len(leaving[name]) > 1}
      if len(stays) <= 1:
        depth[node.name] = latest
    else:
      first = margin and node.op == "input" and latest < FROM_THE_MARGIN
      depth[node.name] = 0 if first else latest
  return depth


def cut(circuit: Circuit, *, margin: bool) -> Columns:
  """Cuts a circuit into columns; in each the items stand in an order to begin with.

  Args:
    circuit: the circuit.
    margin: whether inputs stand at the left margin, as far as they are used early; if not, each
      stands near its first consumer.

  Raises:
    CircuitError: the wires need more than 300,000 bends.
  """
  leaving = wires_from(circuit)
  depth = depths_of(circuit, leaving, margin=margin)
  inputs = {node.name: len(node.inputs) for node in circuit.nodes}
  commutes = {node.name: node.op in COMMUTATIVE for node in circuit.nodes}
  # Column 2 d is of nodes, 2 d + 1 of the labels behind them; those that stay empty are left out.
  start = {name: 2 * d for name, d in depth.items()}
  end = {
    wire: 2 + 2 * depth[name] if wire.target is None else 2 * depth[wire.target]
    for name, wires in leaving.items()
    for wire in wires
  }
  labelled = {end[wire] - 1 for wires in leaving.values() if len(wires) > 1 for wire in wires}
  for node in circuit.nodes:
    wires = leaving[node.name]
    if not node.inputs and len(wires) == 1 and not (margin and node.op == "input"):
      beside = end[wires[0]] - 1
      start[node.name] = beside if beside in labelled else start[node.name]
  place = {column: i for i, column in enumerate(sorted({*start.values(), *labelled}))}

  items = [Item("node", place[start[node.name]], node.name) for node in circuit.nodes]
  number = {item.name: i for i, item in enumerate(items)}
  links: list[Link] = []
  for name, wires in leaving.items():
    trunk = [number[name]]  # The node, then its bends, one for each column.
    for wire in wires:
      forked = len(wires) > 1
      if wire.target is None and not forked:
        continue
      # The last column that the trunk must reach, to be next to the label or to the gate.
      reach = place[end[wire] - 1 if forked else end[wire]] - 1
      while items[trunk[-1]].column < reach:
        items.append(Item("bend", items[trunk[-1]].column + 1, name))
        links.append(Link(trunk[-1], len(items) - 1))
        trunk.append(len(items) - 1)
      if len(items) - len(number) > MOST_BENDS:
        raise CircuitError(f"circuit: its wires are too long to be drawn: over {MOST_BENDS} bends")
      behind = trunk[reach - items[trunk[0]].column]
      if forked:
        items.append(Item("label", reach + 1, name, wire))
        links.append(Link(behind, len(items) - 1))
        behind = len(items) - 1
      if wire.target is not None:
        count = inputs[wire.target]
        port = wire.slot / max(count - 1, 1)
        links.append(Link(behind, number[wire.target], port, not commutes[wire.target]))
  return Columns(items, in_reading_order(items, links, len(place)), links)


def in_reading_order(items: list[Item], links: list[Link], count: int) -> list[list[int]]:
  """Items by column, in the order in which a search from the outputs meets them.

  Depth first and along the inputs as they are written, so that a tree is drawn as it is read.
  """
  behind: list[list[tuple[float, int]]] = [[] for _ in items]
  last = [True] * len(items)
  for link in links:
    behind[link.right].append((link.port, link.left))
    last[link.left] = False
  columns: list[list[int]] = [[] for _ in range(count)]
  seen = [False] * len(items)
  stack = [i for i in reversed(range(len(items))) if last[i]]
  while stack:
    i = stack.pop()
    if not seen[i]:
      seen[i] = True
      columns[items[i].column].append(i)
      stack += [left for _, left in sorted(behind[i], reverse=True)]
  return columns
