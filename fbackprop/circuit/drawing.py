"""A circuit's picture composed of shapes, which `svg` and `png` write."""

from math import sqrt

from fbackprop.circuit import shapes
from fbackprop.circuit.labels import LINE, Labels
from fbackprop.circuit.layout.placement import BETWEEN, Layout, place
from fbackprop.circuit.notation import printable

MARGIN = 16.0


def compose(labels: Labels, title: str | None = None) -> shapes.Picture:
  """Compose the picture of a circuit.

  Args:
    labels: the texts, with numbers or without.
    title: a heading, or None.

  Raises:
    CircuitError: a wire is too long to be drawn.
  """
  heading = printable(title or "")
  layout = place(labels.circuit, labels.extent)
  top = min(y - extent.up for y, extent in zip(layout.y, layout.extents, strict=True))
  down = MARGIN - top + (1.7 * shapes.HEADING.size if heading else 0)
  bottom = max(y + extent.down for y, extent in zip(layout.y, layout.extents, strict=True)) + down
  layout = layout.moved(MARGIN, down)
  foot = labels.foot()
  lines = [(heading, shapes.HEADING), *foot]
  widest = max(shapes.width_of(*line) for line in lines)
  width = max(layout.spans[-1][1], MARGIN + widest) + MARGIN
  height = bottom + MARGIN + (BETWEEN + LINE * len(foot) if foot else 0)
  picture = shapes.Picture(width, height, [], [], [], [], [])
  for i, (line, style) in enumerate(foot, 1):
    picture.texts.append(shapes.Text(MARGIN, bottom + BETWEEN + LINE * i, line, style))
  if heading:
    baseline = MARGIN + shapes.ASCENT * shapes.HEADING.size
    picture.texts.append(shapes.Text(MARGIN, baseline, heading, shapes.HEADING))
  draw_wires(picture, layout, labels)
  for item, x, y in zip(layout.columns.items, layout.x, layout.y, strict=True):
    if labels.is_gate(item):
      half = labels.half(item)
      picture.pills.append(shapes.Pill(x - half, y, 2 * half))
    picture.texts.extend(labels.texts(item, x, y))
  return picture


def draw_wires(picture: shapes.Picture, layout: Layout, labels: Labels) -> None:
  """Draw each link as a curve through its gap, and each item's wire, level through its column."""
  items, leaving = layout.columns.items, [0] * len(layout.columns.items)
  for link, arrival in zip(layout.columns.links, layout.arrivals, strict=True):
    leaving[link.left] += 1
    target = items[link.right]
    end = left = layout.spans[target.column][0]
    if labels.is_gate(target):  # On to the circle, at the height of the port.
      off = arrival - layout.y[link.right]
      end = (
        layout.x[link.right]
        - 2 * labels.half(target)
        + shapes.RADIUS
        - sqrt(shapes.RADIUS**2 - off**2)
      )
    right = layout.spans[items[link.left].column][1]
    picture.curves.append(shapes.Curve(right, layout.y[link.left], left, arrival, end))
  for item, x, y, count in zip(items, layout.x, layout.y, leaving, strict=True):
    left, right = layout.spans[item.column]
    start = x if item.kind == "node" else left
    leads_out = labels.leads_out(item)
    end = right - shapes.TIP / 2 if leads_out else right
    picture.curves.append(shapes.Curve(start, y, end, y, end))
    if leads_out:
      picture.arrows.append(shapes.Arrow(right, y))
    if count > 1:
      picture.dots.append(shapes.Dot(right, y))
