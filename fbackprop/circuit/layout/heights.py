"""Coordinate assignment: the heights of the items, whose order in the columns is given.

First the method of Brandes and Köpf: align each item with a median of its neighbours in the column
before, where no two alignments cross; pack the resulting lines as closely as their boxes allow; do
so from all four corners; and take for each item the mean of the two middle heights. It differs from
the paper in two places. Instead of marking conflicts, the wires that must be straight (trunks, and
chains of gates) are aligned first. And lines are packed as blocks by longest paths, which also
takes boxes of different heights and avoids the known flaw of the paper's compaction (Brandes,
Walter and Zink, "Erratum: Fast and simple horizontal coordinate assignment", 2020).

Then relaxation: each line moves toward the mean of its neighbours as far as the adjacent lines
allow; lines that touch then move as a group, which frees two that block each other; both steps
repeat for some rounds. Heights are whole pixels, so that equality is exact.

Doubts: relaxation is a heuristic where Gansner et al. 1993 (section 4) minimise the total length of
the wires exactly, by a network simplex. It ends at a limit of rounds, not at an optimum, and a
large picture gets fewer rounds.

References:
  Brandes, Köpf, "Fast and simple horizontal coordinate assignment", Graph Drawing (2001), 31-44.
"""

from bisect import bisect_left, insort
from graphlib import TopologicalSorter
from itertools import pairwise
from math import ceil

from fbackprop.circuit.layout.columns import Columns, Extent, Link

ROUNDS, MOVES = 40, 150_000
"""The most rounds of relaxation, and about the most moves of lines in all."""
WEIGHT_OF_INPUTS = 2
"""The weight of an incoming wire relative to an outgoing one, to center gates on their inputs."""
ALMOST_LEVEL = 9.0
"""The distance within which two linked lines are finally made level, if there is room."""

Rows = list[list[int]]  # The items of each column in order, or the neighbours of each item.
Distances = dict[int, dict[int, float]]  # The least distance from each line to those below it.


def assign_heights(columns: Columns, extents: list[Extent], gap: float) -> list[float]:
  """Compute the height of each item's wire, downward.

  Args:
    columns: the items, in order.
    extents: the extent of each item.
    gap: the gap between two boxes.
  """
  left: Rows = [[] for _ in columns.items]
  right: Rows = [[] for _ in columns.items]
  for link in columns.links:
    left[link.right].append(link.left)
    right[link.left].append(link.right)
  place = columns.places()
  straight = straight_links(columns, left, right, place)
  layouts = []
  # The four corners: downward and, mirrored, upward, each from the left and from the right.
  for upward in (False, True):
    ordered = [column[::-1] if upward else column for column in columns.columns]
    places = [-i for i in place] if upward else place
    boxes = [e._replace(up=e.down, down=e.up) for e in extents] if upward else extents
    for neighbours, level, order in (
      (left, straight, ordered),
      (right, {u: v for v, u in straight.items()}, ordered[::-1]),
    ):
      root = align(order, level, neighbours, places)
      y = pack(line_distances(ordered, root, boxes, gap))
      layouts.append([-y[line] if upward else y[line] for line in root])
  root = align(columns.columns, straight, [[] for _ in extents], place)
  distances = line_distances(columns.columns, root, extents, gap)
  y = relax(columns.links, root, distances, middle(layouts, extents))
  return [y[line] for line in root]


# --- Alignment, after Brandes and Köpf ------------------------------------------------------------


def straight_links(columns: Columns, left: Rows, right: Rows, place: list[int]) -> dict[int, int]:
  """Choose the links that must be level, as {right: left}: trunks, then chains, none crossing.

  In a chain each gate is the only successor of the preceding one, and its other inputs are leaves.
  """
  inner = {item.name for i, item in enumerate(columns.items) if item.kind == "node" and left[i]}
  found: dict[int, int] = {}
  for column in columns.columns:
    trunks, chains = [], []
    for item in column:
      if columns.items[item].kind == "bend":
        trunks.append((item, left[item]))
      else:
        main = [u for u in left[item] if len(left[item]) == 1 or columns.items[u].name in inner]
        if len(main) == 1 and len(right[main[0]]) == 1:
          chains.append((item, main))
    found |= uncrossed(trunks + chains, place)
  return found


def uncrossed(wishes: list[tuple[int, list[int]]], place: list[int]) -> dict[int, int]:
  """Choose for each item of a column its first candidate that crosses no alignment chosen before.

  Two alignments with a common end count as crossing.
  """
  drawn: list[tuple[int, int]] = []  # Sorted pairs of places.
  chosen = {}
  for item, partners in wishes:
    for partner in partners:
      line = place[item], place[partner]
      at = bisect_left(drawn, line)
      after_last = not at or drawn[at - 1][1] < line[1]
      if after_last and (at == len(drawn) or line[1] < drawn[at][1]):
        insort(drawn, line)
        chosen[item] = partner
        break
  return chosen


def align(columns: Rows, straight: dict[int, int], neighbours: Rows, place: list[int]) -> list[int]:
  """Align each item with its straight link, or else with a median of its neighbours.

  Returns:
    For each item the root, the first item, of its line.
  """
  root = list(range(len(neighbours)))
  for column in columns:
    first = [(item, [straight[item]]) for item in column if item in straight]
    others = []
    for item in column:
      ends = sorted(set(neighbours[item]), key=place.__getitem__)
      if ends and item not in straight:
        others.append((item, [ends[(len(ends) - 1) // 2], ends[len(ends) // 2]]))
    for item, partner in uncrossed(first + others, place).items():
      root[item] = root[partner]
  return root


def line_distances(columns: Rows, root: list[int], extents: list[Extent], gap: float) -> Distances:
  """Compute the next lower lines of each line in any column, with their least distances."""
  below: Distances = {line: {} for line in dict.fromkeys(root)}
  for column in columns:
    for a, b in pairwise(column):
      distance = ceil(extents[a].down + gap + extents[b].up)
      line = below[root[a]]
      line[root[b]] = max(line.get(root[b], 0), distance)
  return below


def pack(below: Distances) -> dict[int, float]:
  """Place every line as high as the boxes allow, then as low as the others' heights allow."""
  y = dict.fromkeys(below, 0.0)
  order = top_down(below)
  for line in order:
    for other, distance in below[line].items():
      y[other] = max(y[other], y[line] + distance)
  for line in reversed(order):
    if below[line]:
      y[line] = min(y[other] - distance for other, distance in below[line].items())
  return y


def top_down(below: Distances) -> list[int]:
  """Sort the lines topologically, from top to bottom."""
  sorter = TopologicalSorter[int]()
  for line in below:  # The order of unconstrained lines.
    sorter.add(line)
  for line, others in below.items():
    for other in others:
      sorter.add(other, line)
  return [*sorter.static_order()]


def middle(layouts: list[list[float]], extents: list[Extent]) -> list[float]:
  """Average the two middle heights of four layouts, aligned with the edge of the smallest one."""
  tops = [min(y - e.up for y, e in zip(ys, extents, strict=True)) for ys in layouts]
  feet = [max(y + e.down for y, e in zip(ys, extents, strict=True)) for ys in layouts]
  small = min(range(4), key=lambda i: feet[i] - tops[i])
  # The first two were packed from the top, the others from the foot.
  by = [tops[small] - tops[i] if i < 2 else feet[small] - feet[i] for i in range(4)]
  moved = ([y + by[i] for y in ys] for i, ys in enumerate(layouts))
  return [sum(sorted(four)[1:3]) / 2 for four in zip(*moved, strict=True)]


# --- Relaxation -----------------------------------------------------------------------------------


def relax(
  links: list[Link], root: list[int], below: Distances, start: list[float]
) -> dict[int, float]:
  """Move lines toward the mean of their neighbours.

  Args:
    links: the links between items.
    root: the root of each item's line, which identifies the line.
    below: the next lower lines of each line, with their least distances, whole numbers.
    start: heights of the items, with level lines at valid distances.

  Returns:
    The height of each line.
  """
  lines = Lines(links, root, below, start)
  order = top_down(below)
  for _ in range(max(1, min(ROUNDS, MOVES // len(order)))):
    order.reverse()
    for line in order:
      lines.move([line], lines.pull([line]))
    for group in lines.touching():
      if len(group) > 1:
        lines.move(group, lines.pull(group))
  for line in order:
    lines.make_level(line)
  return lines.y


class Lines:
  """The lines during relaxation, each staying at least its distance from the others."""

  def __init__(self, links: list[Link], root: list[int], below: Distances, start: list[float]):
    # Halves are always rounded up, so that whole distances are preserved.
    self.y = {line: float((2 * start[line] + 1) // 2) for line in below}
    self.below = below
    self.above: Distances = {line: {} for line in below}
    for line, others in below.items():
      for other, distance in others.items():
        self.above[other][line] = distance
    self.linked: dict[int, list[int]] = {line: [] for line in below}
    for link in links:
      a, b = root[link.left], root[link.right]
      if a != b:
        self.linked[a].append(b)
        self.linked[b] += [a] * WEIGHT_OF_INPUTS

  def pull(self, group: list[int]) -> float:
    """Compute the distance of a group of lines from the mean of its neighbours."""
    ways = [self.y[other] - self.y[line] for line in group for other in self.linked[line]]
    return float(round(sum(ways) / len(ways))) if ways else 0.0

  def move(self, group: list[int], by: float) -> None:
    """Move a group of lines by one offset, as far as there is room for all."""
    y, members = self.y, set(group)
    for line in group:
      if by < 0:
        rooms = (y[o] + d - y[line] for o, d in self.above[line].items() if o not in members)
        by = max([by, *rooms])
      elif by > 0:
        rooms = (y[o] - d - y[line] for o, d in self.below[line].items() if o not in members)
        by = min([by, *rooms])
    for line in group:
      y[line] += by

  def touching(self) -> list[list[int]]:
    """Group lines without room between them: the connected components of touching pairs."""
    groups: list[list[int]] = []
    seen: set[int] = set()
    for first in self.y:
      if first in seen:
        continue
      seen.add(first)
      group = [first]
      for line in group:
        for other, distance in [*self.above[line].items(), *self.below[line].items()]:
          if other not in seen and abs(self.y[line] - self.y[other]) == distance:
            seen.add(other)
            group.append(other)
      groups.append(group)
    return groups

  def make_level(self, line: int) -> None:
    """Move a line to the height of its nearest neighbour, if that is near."""
    ways = [self.y[other] - self.y[line] for other in self.linked[line]]
    way = min(ways, key=abs, default=0.0)
    if abs(way) <= ALMOST_LEVEL:
      self.move([line], way)
