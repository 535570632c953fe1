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
"""

from collections.abc import Callable
from typing import NamedTuple

from fbackprop.circuit.graph import GateGraph
from fbackprop.circuit.layout.columns import Columns, Extent, Item, Link, assign_columns
from fbackprop.circuit.layout.crossings import count_crossings, minimise_crossings
from fbackprop.circuit.layout.heights import assign_heights

BETWEEN = 9.0  # Pixels between two boxes of a column.
NARROWEST, WIDEST, SLOPE = 26.0, 150.0, 0.4  # A gap's width, by its steepest wire.
PORTS = 7.0  # Pixels between two wires that arrive at a gate.
AT_THE_MARGIN = 500  # Beyond this many nodes, no input is placed at the left margin.


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
  circuit: GateGraph, extent: Callable[[Item], Extent], left: float = 0, top: float = 0
) -> Layout:
  """Compute the layout of a circuit, deterministically.

  Args:
    circuit: the circuit.
    extent: returns the extent of an item.
    left, top: the edges of the first column and of the highest box.

  Raises:
    CircuitError: a wire is too long to be drawn.
  """
  # Readers expect inputs at the left margin, but not at the cost of crossings.
  margins = (True, False) if len(circuit.nodes) <= AT_THE_MARGIN else (False,)
  columns = min(
    (minimise_crossings(assign_columns(circuit, margin=margin)) for margin in margins),
    key=count_crossings,
  )
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
    edge = right + min(max(SLOPE * steepest[column], NARROWEST), WIDEST)
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
