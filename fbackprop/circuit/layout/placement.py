"""The placement of a circuit's picture: the coordinates of every item and of every wire's end.

Columns hold boxes, the gaps between columns hold only wires, and inside its column a wire stays in
the box of its item. So by construction no wire crosses a gate or the numbers of another wire, and
no text overlaps another, whatever the heuristics of the other steps do.
"""

from collections.abc import Callable
from typing import NamedTuple

from fbackprop.circuit.graph import GateGraph
from fbackprop.circuit.layout.columns import Columns, Extent, Item, assign_columns
from fbackprop.circuit.layout.crossings import count_crossings, minimise_crossings
from fbackprop.circuit.layout.heights import assign_heights
from fbackprop.circuit.layout.routing import assign_ports

BETWEEN = 9.0  # Pixels between two boxes of a column.
NARROWEST, WIDEST, SLOPE = 26.0, 150.0, 0.4  # A gap's width, by its steepest wire.
AT_THE_MARGIN = 500  # Beyond this many nodes, no input is placed at the left margin.


class Layout(NamedTuple):
  """The layout of a circuit.

  Attributes:
    columns: the items and their links; the anchor of `columns.items[i]` is `x[i], y[i]`.
    extents: the extent of each item around its anchor.
    x, y: the anchor of each item; y downward.
    spans: left and right edge of each column.
    arrivals: the height at which each link arrives, in the order of `columns.links`.
  """

  columns: Columns
  extents: list[Extent]
  x: list[float]
  y: list[float]
  spans: list[tuple[float, float]]
  arrivals: list[float]

  def moved(self, across: float, down: float) -> "Layout":
    """Return the layout translated."""
    return self._replace(
      x=[x + across for x in self.x],
      y=[y + down for y in self.y],
      spans=[(left + across, right + across) for left, right in self.spans],
      arrivals=[y + down for y in self.arrivals],
    )


def place(circuit: GateGraph, extent: Callable[[Item], Extent]) -> Layout:
  """Compute the layout of a circuit, deterministically.

  Args:
    circuit: the circuit.
    extent: returns the extent of an item.

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
  y = assign_heights(columns, extents, BETWEEN)
  arrivals = assign_ports(columns.links, y, extents)
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
  return Layout(columns, extents, x, y, spans, arrivals)
