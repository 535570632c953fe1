"""Straight wires: the heights of the items, whose order in the columns is given.

First Brandes and Köpf's method: align each item with the median of what it is linked to, where no
two alignments cross, pack the lines that come of it as closely as their boxes allow, do so from all
four corners, and take for each item the mean of the two middle heights. In place of their marking
of conflicts the wires that must be straight choose first; and lines are packed as blocks, by
longest paths, which also takes boxes of different heights. `settling` does the rest.

References:
  Brandes, Köpf, "Fast and simple horizontal coordinate assignment", Graph Drawing (2001), 31-44.
"""

from bisect import bisect_left, insort
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from fbackprop.circuit.columns import Columns
from fbackprop.circuit.settling import in_order, settle


class Height(NamedTuple):
  """How far an item's box reaches above and below its wire."""

  up: float
  down: float


Rows = list[list[int]]  # The items of each column, in order; or what each item is linked to.


def align(columns: Columns, heights: list[Height], gap: float) -> list[float]:
  """The height of each item's wire, downward.

  Args:
    columns: the items, in order.
    heights: of each item.
    gap: between two boxes.
  """
  left: Rows = [[] for _ in columns.items]
  right: Rows = [[] for _ in columns.items]
  for link in columns.links:
    left[link.right].append(link.left)
    right[link.left].append(link.right)
  place = {item: i for column in columns.columns for i, item in enumerate(column)}
  straight = straight_links(columns, left, right, place)
  layouts = []
  for upward in (False, True):
    ordered = [column[::-1] if upward else column for column in columns.columns]
    places = {item: -i for item, i in place.items()} if upward else place
    boxes = [Height(h.down, h.up) if upward else h for h in heights]
    for links, level, order in (
      (left, straight, ordered),
      (right, {u: v for v, u in straight.items()}, ordered[::-1]),
    ):
      root = draw_lines(order, level, links, places)
      y = pack(list_distances(ordered, root, boxes, gap))
      layouts.append([-y[line] if upward else y[line] for line in root])
  root = draw_lines(columns.columns, straight, [[] for _ in heights], place)
  y = settle(
    columns.links,
    root,
    list_distances(columns.columns, root, heights, gap),
    middle(layouts, heights),
  )
  return [y[line] for line in root]


def straight_links(
  columns: Columns, left: Rows, right: Rows, place: dict[int, int]
) -> dict[int, int]:
  """What must be level, as {right: left}: trunks first, and chains of gates, none crossing another.

  In a chain each gate is the only one that uses the one before, and uses leaves besides, if any.
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


def uncrossed(wishes: list[tuple[int, list[int]]], place: dict[int, int]) -> dict[int, int]:
  """For each item of a column the first partner, of those wished for, to which no line crosses.

  Two lines that meet cross too.
  """
  drawn: list[tuple[int, int]] = []  # As pairs of places.
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


def draw_lines(
  columns: Rows, straight: dict[int, int], links: Rows, place: dict[int, int]
) -> list[int]:
  """Aligns each item with what must be level with it, or with a median of its links.

  Returns:
    For each item the first item of its line.
  """
  root = list(range(len(links)))
  for column in columns:
    first = [(item, [straight[item]]) for item in column if item in straight]
    others = []
    for item in column:
      ends = sorted(set(links[item]), key=place.__getitem__)
      if ends and item not in straight:
        others.append((item, [ends[(len(ends) - 1) // 2], ends[len(ends) // 2]]))
    for item, partner in uncrossed(first + others, place).items():
      root[item] = root[partner]
  return root


def list_distances(
  columns: Rows, root: list[int], heights: list[Height], gap: float
) -> dict[int, dict[int, float]]:
  """For each line those that come below it in a column, and how far below at least."""
  below: dict[int, dict[int, float]] = {line: {} for line in dict.fromkeys(root)}
  for column in columns:
    for a, b in pairwise(column):
      distance = ceil(heights[a].down + gap + heights[b].up)
      line = below[root[a]]
      line[root[b]] = max(line.get(root[b], 0), distance)
  return below


def pack(below: dict[int, dict[int, float]]) -> dict[int, float]:
  """Puts every line as high as the boxes allow, then as low as leaves the others where they are."""
  y = dict.fromkeys(below, 0.0)
  order = in_order(below)
  for line in order:
    for other, distance in below[line].items():
      y[other] = max(y[other], y[line] + distance)
  for line in reversed(order):
    if below[line]:
      y[line] = min(y[other] - distance for other, distance in below[line].items())
  return y


def middle(layouts: list[list[float]], heights: list[Height]) -> list[float]:
  """Of four layouts the mean of the two middle heights, all moved to the smallest one's edge."""
  tops = [min(y - h.up for y, h in zip(ys, heights, strict=True)) for ys in layouts]
  feet = [max(y + h.down for y, h in zip(ys, heights, strict=True)) for ys in layouts]
  small = min(range(4), key=lambda i: feet[i] - tops[i])
  # The first two were packed from the top, the others from the foot.
  by = [tops[small] - tops[i] if i < 2 else feet[small] - feet[i] for i in range(4)]
  moved = ([y + by[i] for y in ys] for i, ys in enumerate(layouts))
  return [sum(sorted(four)[1:3]) / 2 for four in zip(*moved, strict=True)]
