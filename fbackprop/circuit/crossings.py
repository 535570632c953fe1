"""Few crossings: the order of the items in each column.

Sugiyama's method: sweep over the columns, to the right and back, and sort each by the mean place
of what its items are linked to in the column before; then swap neighbours while that saves a
crossing. The best order met is kept. The wires into a gate whose inputs have an order (a - b) must
arrive in it, so that they may cross each other too; a gate that commutes takes them as they come.

References:
  Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system structures",
  IEEE Trans. Systems, Man, Cybernetics 11 (1981), 109-125.
  Gansner, Koutsofios, North, Vo, "A technique for drawing directed graphs", IEEE Trans. Software
  Engineering 19 (1993), 214-230, section 3.
"""

from bisect import bisect_left, bisect_right, insort

from fbackprop.circuit.columns import Columns, Link

ROUNDS, WORK = 24, 200_000
"""Sweeps at most, and links looked at in all: a large picture gets fewer sweeps."""


def count_crossings(columns: Columns) -> int:
  """The number of pairs of links that cross."""
  place = places(columns)
  by_column: list[list[tuple[int, float]]] = [[] for _ in columns.columns]
  for link in columns.links:
    by_column[columns.items[link.left].column].append((place[link.left], right_end(link, place)))
  count = 0
  for ends in by_column:
    above: list[float] = []
    for _, end in sorted(ends):
      count += len(above) - bisect_right(above, end)
      insort(above, end)
  return count


def untangle(columns: Columns) -> Columns:
  """The same columns, each in an order with few crossings."""
  best, fewest = columns, count_crossings(columns)
  tangle = Tangle(columns)
  idle = 0
  for round_ in range(max(2, min(ROUNDS, WORK // (len(columns.links) + 1)))):
    if not fewest or idle == 6:
      break
    tangle.sweep(rightward=round_ % 2 == 0)
    tangle.swap_neighbours()
    now = columns._replace(columns=[list(column) for column in tangle.columns])
    count = count_crossings(now)
    idle += 1
    if count < fewest:
      best, fewest, idle = now, count, 0
  return best


def places(columns: Columns) -> list[int]:
  """The place of each item in its column."""
  place = [0] * len(columns.items)
  for column in columns.columns:
    for i, item in enumerate(column):
      place[item] = i
  return place


def right_end(link: Link, place: list[int]) -> float:
  """Where a link arrives, as far as the order of what arrives there matters."""
  return place[link.right] + (link.port / 2 if link.fixed else 0)


class Tangle:
  """The columns while they are being sorted."""

  def __init__(self, columns: Columns):
    self.columns = [list(column) for column in columns.columns]
    self.place = places(columns)
    self.to_left: list[list[Link]] = [[] for _ in columns.items]
    self.to_right: list[list[Link]] = [[] for _ in columns.items]
    for link in columns.links:
      self.to_left[link.right].append(link)
      self.to_right[link.left].append(link)

  def put(self, column: list[int]) -> None:
    for i, item in enumerate(column):
      self.place[item] = i

  def sweep(self, *, rightward: bool) -> None:
    """Sorts each column by the one before; what has no link to it keeps its place."""
    for column in self.columns if rightward else reversed(self.columns):
      means = {item: mean for item in column if (mean := self.mean(item, rightward)) is not None}
      free = [item for item in column if item in means]
      in_order = iter(sorted(free, key=means.__getitem__))
      column[:] = [next(in_order) if item in means else item for item in column]
      self.put(column)

  def mean(self, item: int, rightward: bool) -> float | None:
    """The mean place of the links' other ends, with their ports for a tie."""
    if rightward:
      ends = [float(self.place[link.left]) for link in self.to_left[item]]
    else:
      ends = [self.place[link.right] + link.port / 2 for link in self.to_right[item]]
    return sum(ends) / len(ends) if ends else None

  def swap_neighbours(self) -> None:
    """Swaps neighbours in a column while that saves crossings; four times over at most."""
    changed = set(range(-1, len(self.columns) + 1))
    for _ in range(4):
      before, changed = changed, set()
      for number, column in enumerate(self.columns):
        if before.isdisjoint((number - 1, number, number + 1)):
          continue
        ends = [self.ends(item) for item in column]
        for i in range(len(column) - 1):
          if saved(ends[i], ends[i + 1]) > 0:
            column[i], column[i + 1] = column[i + 1], column[i]
            ends[i], ends[i + 1] = ends[i + 1], ends[i]
            changed.add(number)
        self.put(column)

  def ends(self, item: int) -> tuple[list[float], list[float]]:
    left = [float(self.place[link.left]) for link in self.to_left[item]]
    right = [right_end(link, self.place) for link in self.to_right[item]]
    left.sort()
    right.sort()
    return left, right


def saved(a: tuple[list[float], ...], b: tuple[list[float], ...]) -> int:
  """How many crossings are saved where b comes before a and not after it."""
  count = 0
  for ends_a, ends_b in zip(a, b, strict=True):
    if not ends_a or not ends_b:
      continue
    for end in ends_a:
      lower = bisect_left(ends_b, end)
      count += lower - (len(ends_b) - bisect_right(ends_b, end))
  return count
