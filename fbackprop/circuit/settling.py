"""Gates between their inputs: the last step of the heights in a circuit's picture.

Each line of items that must be level moves toward the mean of what it is linked to, as far as the
lines beside it let it; then lines that touch move together, which is how two that stand in each
other's way come free; and so on, for some rounds. Heights are whole pixels.
"""

from fbackprop.circuit.columns import Link

ROUNDS, MOVES = 40, 150_000
"""Rounds at most, and moves of lines in all, at most but for one round."""

WEIGHT_OF_INPUTS, ALL_BUT_LEVEL = 2, 9.0

Distances = dict[int, dict[int, float]]


def settle(
  links: list[Link], root: list[int], below: Distances, start: list[float]
) -> dict[int, float]:
  """Moves lines to where they want to be.

  What comes in weighs more than what goes out, for gates stand between their inputs. In the end a
  line that is all but level with one that it is linked to becomes level.

  Args:
    links: of items.
    root: for each item the first item of its line, by which the line is called.
    below: for each line those that come below it in a column, and how far below at least; whole.
    start: the heights of the items, in which lines are level and far enough from each other.

  Returns:
    The height of each line.
  """
  lines = Lines(links, root, below, start)
  order = in_order(below)
  for _ in range(max(1, min(ROUNDS, MOVES // len(order)))):
    order.reverse()
    for line in order:
      lines.move(line, lines.pull([line]))
    for group in lines.touching():
      if len(group) > 1:
        lines.move_together(group, lines.pull(group))
  for line in order:
    lines.make_level(line)
  return lines.y


class Lines:
  """The lines while they move; whatever moves stays far enough from what stands."""

  def __init__(self, links: list[Link], root: list[int], below: Distances, start: list[float]):
    # A half is always rounded up, so that whole distances are kept.
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
    """How far a group of lines wants to move."""
    ways = [self.y[other] - self.y[line] for line in group for other in self.linked[line]]
    return float(round(sum(ways) / len(ways))) if ways else 0.0

  def move(self, line: int, by: float) -> None:
    """Moves a line, as far as there is room."""
    self.move_together([line], by)

  def move_together(self, group: list[int], by: float) -> None:
    """Moves lines alike, as far as there is room for all."""
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
    """The lines in groups: those of a group have no room between them."""
    groups: list[list[int]] = []
    seen: set[int] = set()
    for first in self.y:
      if first in seen:
        continue
      seen.add(first)
      group = [first]
      for line in group:
        for other in [*self.above[line], *self.below[line]]:
          if other not in seen and self.touch(line, other):
            seen.add(other)
            group.append(other)
      groups.append(group)
    return groups

  def touch(self, line: int, other: int) -> bool:
    """Whether there is no room between two lines that meet in a column."""
    distance = self.below[line].get(other) or self.above[line].get(other)
    return abs(self.y[line] - self.y[other]) == distance

  def make_level(self, line: int) -> None:
    """Moves a line to the height of the nearest that it is linked to, if that is near."""
    ways = [self.y[other] - self.y[line] for other in self.linked[line]]
    way = min(ways, key=abs, default=0.0)
    if abs(way) <= ALL_BUT_LEVEL:
      self.move(line, way)


def in_order(below: Distances) -> list[int]:
  """The lines, each behind those above it."""
  waits = dict.fromkeys(below, 0)
  for lines in below.values():
    for line in lines:
      waits[line] += 1
  order = [line for line, count in waits.items() if not count]
  for line in order:
    for other in below[line]:
      waits[other] -= 1
      if not waits[other]:
        order.append(other)
  return order
