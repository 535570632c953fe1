"""Layer assignment: the column of each node, and wires cut into links between neighbouring columns.

From left to right columns of nodes alternate with columns of labels. The label of a forked wire is
placed directly before the gate that the wire enters; a constant or a weight that enters that gate
alone may be placed beside it. A wire that spans more columns has a bend in each, a dummy node of
the Sugiyama framework, through which it runs straight.

The wires that leave a node share their bends, so that a far fork is a trunk with branches. That
makes hyperedges of the fan-outs, and n gates that use one input cost O(n) bends, not O(n²).

Nodes are assigned by the longest path from the inputs, then moved to the right in one sweep where
that shortens the wires in total.

Doubts: the minimum total length would take a network simplex (Gansner et al. 1993, section 2); no
circuit of a lecture has shown the need.
"""

from typing import NamedTuple

from fbackprop.circuit.graph import CircuitError, GateGraph, Wire, fan_out

MOST_BENDS = 300_000
FROM_THE_MARGIN = 6
"""The columns before which an input's first gate must be for it to be placed at the left margin."""


class Extent(NamedTuple):
  """The extent of an item around its anchor, the start of its own wire."""

  left: float
  right: float
  up: float
  down: float
  port: float = 0.0  # Reach of the ports above and below the anchor.


class Item(NamedTuple):
  """A vertex of the layered graph: a node, the label of a forked wire, or a bend.

  Attributes:
    kind: "node", "label" or "bend".
    column: its column.
    name: the node, or the source of the wire.
    branch: the index of a label's wire among those that leave the node.
  """

  kind: str
  column: int
  name: str
  branch: int = 0


class Link(NamedTuple):
  """A piece of wire from an item to one in the next column.

  Attributes:
    left, right: indices of the items.
    port: the index of the right gate's input, scaled to the range from 0 to 1.
    fixed: whether the picture must preserve the order of that gate's inputs.
  """

  left: int
  right: int
  port: float = 0.0
  fixed: bool = False


class Columns(NamedTuple):
  """A layered graph: items, the indices of each column's items in order, and links."""

  items: list[Item]
  columns: list[list[int]]
  links: list[Link]

  def places(self) -> dict[int, int]:
    """Return the place of each item in its column."""
    return {item: i for column in self.columns for i, item in enumerate(column)}

  def ends(self) -> tuple[list[list[Link]], list[list[Link]]]:
    """Return the links that arrive at each item, and those that leave it."""
    arriving: list[list[Link]] = [[] for _ in self.items]
    leaving: list[list[Link]] = [[] for _ in self.items]
    for link in self.links:
      arriving[link.right].append(link)
      leaving[link.left].append(link)
    return arriving, leaving


def assign_starts(
  circuit: GateGraph, leaving: dict[str, list[Wire]], *, margin: bool
) -> dict[str, int]:
  """Assign each node an even column, to the right of its inputs; labels have the odd ones.

  A gate is placed as far to the left as its inputs allow, or as far to the right as its fan-out
  allows if that lengthens at most one wire. A constant is placed near the first gate that it
  enters, and so is an input, unless it is placed at the left margin.
  """
  start: dict[str, int] = {}
  for node in circuit.nodes:
    start[node.name] = 2 + max((start[name] for name in node.inputs), default=-2)
  leaves = {node.name for node in circuit.nodes if not node.inputs}
  for node in reversed(circuit.nodes):
    targets = [start[wire.target] for wire in leaving[node.name] if wire.target is not None]
    if not targets:
      continue
    latest = min(targets) - 2
    # A leaf that enters no other gate moves along, so its wire keeps its length.
    lengthened = {name for name in node.inputs if name not in leaves or len(leaving[name]) > 1}
    if margin and node.op == "input" and latest < FROM_THE_MARGIN:
      start[node.name] = 0
    elif len(lengthened) <= 1:
      start[node.name] = latest
  return start


def assign_columns(circuit: GateGraph, *, margin: bool) -> Columns:
  """Build the layered graph of a circuit, each column in reading order.

  Args:
    circuit: the circuit.
    margin: whether inputs that are used early are placed at the left margin; if not, each is
      placed near the first gate that it enters.

  Raises:
    CircuitError: the wires need more than 300,000 bends.
  """
  leaving = fan_out(circuit)
  start = assign_starts(circuit, leaving, margin=margin)

  def end(wire: Wire) -> int:
    return start[wire.source] + 2 if wire.target is None else start[wire.target]

  labelled = {end(wire) - 1 for wires in leaving.values() if len(wires) > 1 for wire in wires}
  for node in circuit.nodes:
    wires = leaving[node.name]
    is_alone = not node.inputs and len(wires) == 1 and not (margin and node.op == "input")
    if is_alone and end(wires[0]) - 1 in labelled:
      start[node.name] = end(wires[0]) - 1
  # Without the empty columns.
  place = {column: i for i, column in enumerate(sorted({*start.values(), *labelled}))}

  nodes = {node.name: (i, node) for i, node in enumerate(circuit.nodes)}
  items = [Item("node", place[start[name]], name) for name in nodes]
  links: list[Link] = []
  for name, wires in leaving.items():
    trunk = [nodes[name][0]]  # The node, then its bends, one per column.
    first, forks = items[trunk[0]].column, len(wires) > 1
    for branch, wire in enumerate(wires):
      if wire.target is None and not forks:
        continue
      last = place[end(wire) - forks] - 1  # Next to the label or the gate.
      for column in range(first + len(trunk), last + 1):
        items.append(Item("bend", column, name))
        links.append(Link(trunk[-1], len(items) - 1))
        trunk.append(len(items) - 1)
      if len(items) - len(nodes) > MOST_BENDS:
        raise CircuitError(f"circuit: its wires are too long to be drawn: over {MOST_BENDS} bends")
      behind = trunk[last - first]
      if forks:
        items.append(Item("label", last + 1, name, branch))
        links.append(Link(behind, len(items) - 1))
        behind = len(items) - 1
      if wire.target is not None:
        number, target = nodes[wire.target]
        port = wire.slot / max(len(target.inputs) - 1, 1)
        links.append(Link(behind, number, port, not circuit.gate_of[target.op].commutative))
  return sort_columns(Columns(items, [[] for _ in place], links))


def sort_columns(columns: Columns) -> Columns:
  """Put every item into its column, in the order of a depth-first search from the outputs.

  The search follows the inputs of a gate as they are written, so that a tree is drawn as it reads.
  """
  arriving, leaving = columns.ends()
  seen = set()
  stack = [item for item, links in enumerate(leaving) if not links][::-1]
  while stack:
    item = stack.pop()
    if item not in seen:
      seen.add(item)
      columns.columns[columns.items[item].column].append(item)
      links = sorted(arriving[item], key=lambda link: link.port, reverse=True)
      stack += [link.left for link in links]
  return columns
