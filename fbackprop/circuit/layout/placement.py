"""The placement of a circuit's picture: the coordinates of every item and of every wire's end.

Columns hold boxes, the gaps between columns hold only wires, and inside its column a wire stays in
the box of its item. So by construction no wire crosses a gate or the numbers of another wire, and
no text overlaps another, whatever the heuristics of the other steps do.

A wire runs level through its column, then as a Bézier curve through the gap to the next column
(`drawing.draw_wires`), where it arrives at a bend, at a label, or at a port of a gate. The ports
are spread over the left side of the gate, each as near to the height of its wire's origin as order
and distance allow. That is isotonic regression with bounds: the pool-adjacent-violators algorithm
(Ayer et al., Annals of Mathematical Statistics 26, 1955, 641-647), clipped to the reach of the
gate.

The heights follow from the order in the columns. The wires that must be straight (trunks, and
chains of gates) are joined into lines first. The lines are packed as closely as their boxes allow,
and then relaxed: each moves toward the mean of its neighbours as far as the adjacent lines allow;
lines that touch then move as a group, which frees two that block each other; both steps repeat for
some rounds. Heights are whole pixels, so that equality is exact.

Doubts: relaxation is a heuristic where Gansner et al. 1993 (section 4) minimise the total length of
the wires exactly, by a network simplex. It ends at a limit of rounds, not at an optimum, and a
large picture gets fewer rounds.
"""

from bisect import bisect
from collections.abc import Callable
from graphlib import TopologicalSorter
from itertools import pairwise
from math import ceil, inf
from typing import NamedTuple

from fbackprop.circuit.graph import GateGraph
from fbackprop.circuit.layout.columns import Columns, Extent, Item, Link, assign_columns
from fbackprop.circuit.layout.crossings import count_crossings, minimise_crossings

BETWEEN = 9.0  # Pixels between two boxes of a column.
NARROWEST, WIDEST, SLOPE = 26.0, 150.0, 0.4  # A gap's width, by its steepest wire.
PORTS = 7.0  # Pixels between two wires that arrive at a gate.
AT_THE_MARGIN = 500  # Beyond this many nodes, no input is placed at the left margin.
ROUNDS, MOVES = 40, 150_000
"""The most rounds of relaxation, and about the most moves of lines in all."""
ALMOST_LEVEL = 9.0
"""The distance within which two linked lines are finally made level, if there is room."""

# For each line those next to it, and the least distance from each above it, negative from below.
Distances = dict[int, dict[int, float]]


class Layout(NamedTuple):
  """The layout of a circuit.

  Attributes:
    columns: the items and their links; the anchor of `columns.items[i]` is `x[i], y[i]`.
    x, y: the anchor of each item; y downward.
    spans: left and right edge of each column.
    arrivals: the height at which each link arrives.
    bottom: the lower edge of the lowest box.
  """

  columns: Columns
  x: list[float]
  y: list[float]
  spans: list[tuple[float, float]]
  arrivals: dict[Link, float]
  bottom: float


def place(
  circuit: GateGraph, extent: Callable[[Item], Extent], left: float = 0, top: float = 0,
  level: float = NARROWEST,
) -> Layout:  # fmt: skip
  """Compute the layout of a circuit, deterministically.

  Args:
    circuit: the circuit.
    extent: returns the extent of an item.
    left, top: the edges of the first column and of the highest box.
    level: the width of a gap in which all wires are level.

  Raises:
    CircuitError: a wire is too long to be drawn.
  """
  # Readers expect inputs at the left margin, but not at the cost of crossings.
  margins = (True, False) if len(circuit.nodes) <= AT_THE_MARGIN else (False,)
  orders = [minimise_crossings(assign_columns(circuit, margin=margin)) for margin in margins]
  columns = min(orders, key=count_crossings)
  extents = [extent(item) for item in columns.items]
  heights = assign_heights(columns, extents, BETWEEN)
  highest = min(y - box.up for y, box in zip(heights, extents, strict=True))
  y = [height + top - highest for height in heights]
  bottom = max(height + box.down for height, box in zip(y, extents, strict=True))
  arrivals = assign_ports(columns, y, extents)
  steepest = [0.0] * len(columns.columns)
  for link, end in arrivals.items():
    column = columns.items[link.left].column
    steepest[column] = max(steepest[column], abs(end - y[link.left]))
  x, spans, edge = [0.0] * len(columns.items), [], left
  for column, items in enumerate(columns.columns):
    anchor = edge + max(extents[i].left for i in items)
    right = anchor + max(extents[i].right for i in items)
    for i in items:
      x[i] = anchor
    spans.append((edge, right))
    is_level = steepest[column] < 1
    edge = right + (level if is_level else min(max(SLOPE * steepest[column], NARROWEST), WIDEST))
  return Layout(columns, x, y, spans, arrivals, bottom)


def assign_ports(columns: Columns, y: list[float], extents: list[Extent]) -> dict[Link, float]:
  """Compute the height at which each link arrives: level if possible, in order, and apart."""
  heights: dict[Link, float] = {}
  for item, links in enumerate(columns.ends()[0]):
    reach = extents[item].port
    links.sort(key=lambda link: (link.port if link.fixed else 0, y[link.left]))
    apart = min(PORTS, 2 * reach / max(len(links) - 1, 1))
    most = min(PORTS, reach)
    wanted = [min(max(y[link.left] - y[item], -most), most) for link in links]
    for link, height in zip(links, spread(wanted, apart, reach), strict=True):
      heights[link] = y[item] + height
  return heights


def spread(wanted: list[float], apart: float, reach: float) -> list[float]:
  """Compute the least-squares nearest heights, at least `apart` from each other, within ±reach."""
  pools: list[tuple[float, int]] = []  # Sums and counts.
  for i, height in enumerate(wanted):
    pools.append((height - i * apart, 1))
    while len(pools) > 1 and pools[-2][0] * pools[-1][1] > pools[-1][0] * pools[-2][1]:
      (total, count), (total_, count_) = pools.pop(), pools.pop()
      pools.append((total + total_, count + count_))
  level = [total / count for total, count in pools for _ in range(count)]
  last = len(level) - 1
  return [min(max(h, -reach), reach - last * apart) + i * apart for i, h in enumerate(level)]


# --- Heights --------------------------------------------------------------------------------------


def assign_heights(columns: Columns, extents: list[Extent], gap: float) -> list[float]:
  """Compute the height of each item's wire, downward.

  Args:
    columns: the items, in order.
    extents: the extent of each item.
    gap: the gap between two boxes.
  """
  root = straight_lines(columns)
  near: Distances = {line: {} for line in root}
  for column in columns.columns:
    for a, b in pairwise(column):
      distance = ceil(extents[a].down + gap + extents[b].up)
      near[root[b]][root[a]] = max(near[root[b]].get(root[a], 0), distance)
      near[root[a]][root[b]] = -near[root[b]][root[a]]
  above = {line: [each for each in others if others[each] > 0] for line, others in near.items()}
  y: dict[int, float] = {}
  for line in TopologicalSorter(above).static_order():  # As high as the boxes allow.
    y[line] = max((y[other] + near[line][other] for other in above[line]), default=0.0)
  linked: dict[int, list[int]] = {line: [] for line in y}
  for link in columns.links:
    a, b = root[link.left], root[link.right]
    if a != b:
      linked[a].append(b)
      linked[b].append(a)
  relax(Lines(y, near, linked))
  return [y[line] for line in root]


def straight_lines(columns: Columns) -> list[int]:
  """Join the items that must be level, trunks before chains, where no two joints cross.

  In a chain each gate is the only successor of the preceding one, and its other inputs are leaves.

  Returns:
    For each item the root, the first item, of its line.
  """
  arriving, leaving = columns.ends()
  items, place = columns.items, columns.places()
  gates = {item.name for i, item in enumerate(items) if item.kind == "node" and arriving[i]}
  root = list(range(len(items)))
  for column in columns.columns:
    wishes = []
    for item in column:
      before = [link.left for link in arriving[item]]
      main = [other for other in before if len(before) == 1 or items[other].name in gates]
      is_bend = items[item].kind == "bend"
      if is_bend or (len(main) == 1 and len(leaving[main[0]]) == 1):
        wishes.append((item, main[0], is_bend))
    joints: list[tuple[int, int]] = []  # Sorted pairs of places.
    for item, other, _ in sorted(wishes, key=lambda wish: not wish[2]):
      joint = place[item], place[other]
      at = bisect(joints, joint)
      is_over = at == len(joints) or joint[1] < joints[at][1]
      if is_over and (not at or joints[at - 1][1] < joint[1]):
        joints.insert(at, joint)
        root[item] = root[other]
  return root


class Lines(NamedTuple):
  """The lines during relaxation, each staying at least its distance from the others.

  Attributes:
    y: the height of each line, from top to bottom; updated.
    near: the least distances, whole numbers.
    linked: the lines to which each one has links.
  """

  y: dict[int, float]
  near: Distances
  linked: dict[int, list[int]]

  def ways(self, group: list[int]) -> list[float]:
    """Return the distances from a group of lines to their neighbours."""
    return [self.y[other] - self.y[line] for line in group for other in self.linked[line]]

  def pull(self, group: list[int]) -> None:
    """Move a group toward the mean of its neighbours."""
    if ways := self.ways(group):
      self.move(group, round(sum(ways) / len(ways)))

  def move(self, group: list[int], by: float) -> None:
    """Move a group of lines by one offset, as far as there is room for all."""
    members, up, down = set(group), -inf, inf
    for line in group:
      for other, distance in self.near[line].items():
        room = self.y[other] + distance - self.y[line]
        if other not in members and distance > 0:
          up = max(up, room)
        elif other not in members:
          down = min(down, room)
    for line in group:
      self.y[line] += min(max(by, up), down)

  def touching(self) -> list[list[int]]:
    """Group lines without room between them: the connected components of touching pairs."""
    groups = []
    seen: set[int] = set()
    for first in self.y:
      group = [] if first in seen else [first]
      seen.add(first)
      for line in group:
        for other, distance in self.near[line].items():
          if other not in seen and self.y[line] - self.y[other] == distance:
            group.append(other)
            seen.add(other)
      groups.append(group)
    return groups


def relax(lines: Lines) -> None:
  """Move lines toward the mean of their neighbours."""
  order = [*lines.y]
  for _ in range(max(1, min(ROUNDS, MOVES // len(order)))):
    order.reverse()
    for line in order:
      lines.pull([line])
    for group in lines.touching():
      lines.pull(group)
  for line in order:
    nearest = min(lines.ways([line]), key=abs, default=0.0)
    if abs(nearest) <= ALMOST_LEVEL:
      lines.move([line], nearest)
