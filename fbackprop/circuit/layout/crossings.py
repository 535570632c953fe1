"""Crossing minimisation: the order of the items in each column.

The problem is NP-hard even for two columns, one of them fixed (Eades and Wormald 1994). The method
is the barycenter heuristic: sweep over the columns, to the right and back, and sort each by the
mean place of its items' neighbours in the preceding column. After each sweep, neighbours of a
column are swapped while that removes a crossing (the transposition of Gansner et al.). The best
order found is kept, so that the result is never worse than the reading order at the start.

The wires into a gate whose inputs are ordered (a - b) must arrive in that order, so that they can
cross each other too; a commutative gate takes them in any order. Such constraints are counted as
crossings, by a port's fraction of a place; the literature models them by ports.

Doubts: the number of sweeps is bounded by work, so that the picture of a large circuit can have
more crossings than the heuristic would reach.

References:
  Sugiyama, Tagawa, Toda, "Methods for visual understanding of hierarchical system structures",
  IEEE Trans. Systems, Man, Cybernetics 11 (1981), 109-125.
  Gansner, Koutsofios, North, Vo, "A technique for drawing directed graphs", IEEE Trans. Software
  Engineering 19 (1993), 214-230, section 3.
  Eades, Wormald, "Edge crossings in drawings of bipartite graphs", Algorithmica 11 (1994), 379-403.
"""

from bisect import bisect_left, bisect_right, insort
from itertools import chain
from statistics import fmean

from fbackprop.circuit.layout.columns import Columns

ROUNDS, WORK = 12, 200_000
"""The most sweeps, and the most links visited in all: a large picture gets fewer sweeps."""
PASSES = 4
"""The most transposition passes after a sweep."""


def minimise_crossings(columns: Columns) -> Columns:
  """Return the same columns, each in an order with few crossings."""
  ordering = Ordering(columns)
  best, fewest = columns, ordering.crossings()
  for round_ in range(max(2, min(ROUNDS, WORK // (len(columns.links) + 1)))):
    if not fewest:
      break
    ordering.sweep(rightward=round_ % 2 == 0)
    ordering.transpose()
    if (count := ordering.crossings()) < fewest:
      best, fewest = columns._replace(columns=[list(each) for each in ordering.columns]), count
  return best


def count_crossings(columns: Columns) -> int:
  """Count the pairs of links that cross."""
  return Ordering(columns).crossings()


class Ordering:
  """The orders of the columns during minimisation."""

  def __init__(self, columns: Columns) -> None:
    self.columns = [list(column) for column in columns.columns]
    self.place: dict[int, float] = {**columns.places()}
    arriving, leaving = columns.ends()
    self.left = [[link.left for link in links] for links in arriving]
    self.right = [[(link.right, link.fixed * link.port / 2) for link in links] for links in leaving]

  def before(self, item: int) -> list[float]:
    """Return the sorted places of an item's neighbours to the left."""
    return sorted([self.place[other] for other in self.left[item]])

  def after(self, item: int) -> list[float]:
    """Return those to the right, with the port of an input if the order matters."""
    return sorted([self.place[other] + port for other, port in self.right[item]])

  def crossings(self) -> int:
    """Count the crossings, in O(E²) at worst by insertion into a sorted list."""
    count = 0
    for column in self.columns:
      above: list[float] = []
      for end in chain.from_iterable(map(self.after, column)):
        count += len(above) - bisect_right(above, end)
        insort(above, end)
    return count

  def reorder(self, column: list[int], items: list[int]) -> None:
    column[:] = items
    for i, item in enumerate(items):
      self.place[item] = i

  def sweep(self, *, rightward: bool) -> None:
    """Sort each column by barycenters; items without neighbours keep their places."""
    near = self.before if rightward else self.after
    for column in self.columns if rightward else reversed(self.columns):
      means = {item: fmean(ends) for item in column if (ends := near(item))}
      in_order = iter(sorted(means, key=means.__getitem__))
      self.reorder(column, [next(in_order) if item in means else item for item in column])

  def transpose(self) -> None:
    """Swap neighbours in a column while that removes crossings, in a few passes."""
    changed = {*range(len(self.columns))}  # Columns that changed, or whose neighbours did.
    for _ in range(PASSES):
      for number, column in enumerate(self.columns):
        if number not in changed:
          continue
        changed.remove(number)
        found = [(item, (self.before(item), self.after(item))) for item in column]
        for i in range(len(found) - 1):
          if crossings_removed(found[i][1], found[i + 1][1]) > 0:
            found[i], found[i + 1] = found[i + 1], found[i]
            changed |= {number - 1, number, number + 1}
        self.reorder(column, [item for item, _ in found])


def crossings_removed(a: tuple[list[float], ...], b: tuple[list[float], ...]) -> int:
  """Count the crossings removed by swapping a with b, its successor; negative if it adds some."""
  removed = 0
  for ends_a, ends_b in zip(a, b, strict=True):
    for end in ends_a if ends_b else ():
      removed += bisect_left(ends_b, end) + bisect_right(ends_b, end) - len(ends_b)
  return removed
