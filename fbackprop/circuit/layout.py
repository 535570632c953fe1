"""Where everything in a circuit's picture stands: a layered layout, with no other program's help.

Columns from left to right (`columns`), an order in each with few crossings (`crossings`), heights
that keep wires straight (`alignment`), and here the rest: how far the columns are from each other,
and where the wires arrive. Columns hold boxes, the gaps between columns hold wires and nothing
else, and inside its column a wire stays in the box of what it belongs to: that is why no wire
crosses a gate or a number of another, and no text overlaps another.
"""

from collections.abc import Callable
from typing import NamedTuple

from fbackprop.circuit.alignment import Height, align
from fbackprop.circuit.columns import Columns, Item, Link, cut
from fbackprop.circuit.crossings import count_crossings, untangle
from fbackprop.circuit.graph import Circuit

BETWEEN = 9.0  # Two boxes of a column, in pixels.
NARROWEST, WIDEST, SLOPE = 26.0, 150.0, 0.4  # A gap, and how it widens with its steepest wire.
PORTS = 7.0  # Two wires that arrive at a gate.
AT_THE_MARGIN = 500  # In a larger circuit no input stands at the left margin.


class Extent(NamedTuple):
  """How far an item reaches from its anchor, which is where its own wire starts."""

  left: float
  right: float
  up: float
  down: float
  port: float = 0.0  # How far above and below the anchor wires may arrive.


class Layout(NamedTuple):
  """A placed circuit.

  Attributes:
    columns: the items and their links; `columns.items[i]` is at `x[i], y[i]`.
    x, y: the anchor of each item; y downward.
    spans: left and right edge of each column.
    arrivals: the height at which each link arrives, in the order of `columns.links`.
  """

  columns: Columns
  x: list[float]
  y: list[float]
  spans: list[tuple[float, float]]
  arrivals: list[float]


def place(circuit: Circuit, extent: Callable[[Item], Extent]) -> Layout:
  """Places a circuit. The same circuit is placed in the same way, always.

  Args:
    circuit: the circuit.
    extent: the room that an item takes.

  Raises:
    CircuitError: its wires are too long, by far.
  """
  # Inputs at the left margin are what a reader expects, unless their wires cross others for it.
  ways = (True, False) if len(circuit.nodes) <= AT_THE_MARGIN else (False,)
  columns = min((untangle(cut(circuit, margin=way)) for way in ways), key=count_crossings)
  extents = [extent(item) for item in columns.items]
  y = align(columns, [Height(e.up, e.down) for e in extents], BETWEEN)
  arrivals = arrive(columns.links, y, extents)
  steepest = [0.0] * len(columns.columns)
  for link, end in zip(columns.links, arrivals, strict=True):
    column = columns.items[link.left].column
    steepest[column] = max(steepest[column], abs(end - y[link.left]))
  x, spans, edge = [0.0] * len(columns.items), [], 0.0
  for column, items in enumerate(columns.columns):
    anchor = edge + max(extents[i].left for i in items)
    right = anchor + max(extents[i].right for i in items)
    for i in items:
      x[i] = anchor
    spans.append((edge, right))
    edge = right + min(max(SLOPE * steepest[column], NARROWEST), WIDEST)
  return Layout(columns, x, y, spans, arrivals)


def arrive(links: list[Link], y: list[float], extents: list[Extent]) -> list[float]:
  """The heights at which links arrive: level where possible, in order, apart from each other."""
  into: dict[int, list[int]] = {}
  for i, link in enumerate(links):
    into.setdefault(link.right, []).append(i)
  heights = [0.0] * len(links)
  for item, arriving in into.items():
    reach = extents[item].port
    arriving.sort(key=lambda i: (links[i].port if links[i].fixed else 0, y[links[i].left], i))
    apart = min(PORTS, 2 * reach / max(len(arriving) - 1, 1))
    most = min(PORTS, reach)
    wanted = [min(max(y[links[i].left] - y[item], -most), most) for i in arriving]
    for i, height in zip(arriving, spread(wanted, apart, reach), strict=True):
      heights[i] = y[item] + height
  return heights


def spread(wanted: list[float], apart: float, reach: float) -> list[float]:
  """The nearest heights to those wanted (least squares) that are in order, `apart` or further.

  Pools adjacent violators, then keeps all from -reach to reach.
  """
  pools: list[tuple[float, int]] = []  # Sums and counts.
  for i, height in enumerate(wanted):
    pools.append((height - i * apart, 1))
    while len(pools) > 1 and pools[-2][0] * pools[-1][1] > pools[-1][0] * pools[-2][1]:
      (total, count), (total_, count_) = pools.pop(), pools.pop()
      pools.append((total + total_, count + count_))
  level = [total / count for total, count in pools for _ in range(count)]
  last = len(level) - 1
  return [min(max(h, -reach), reach - last * apart) + i * apart for i, h in enumerate(level)]
