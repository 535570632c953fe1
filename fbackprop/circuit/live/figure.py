"""The picture of a live circuit: SVG whose parts are named, so that the page can change them.

It is the picture of `drawing`, with room for numbers that change and for the local gradients at a
gate's ports. Colors are the page's, by classes, for light and for dark.
"""

from collections.abc import Iterator
from math import ceil

from fbackprop.circuit import drawing, notation, shapes
from fbackprop.circuit.drawing import ABOVE, BELOW, BESIDE, LINE, MARGIN, Labels
from fbackprop.circuit.formats import FONTS, path_of, shorten
from fbackprop.circuit.layout.columns import Extent, Item
from fbackprop.circuit.layout.placement import Layout, place
from fbackprop.circuit.notation import MINUS, format_number, printable
from fbackprop.circuit.shapes import ADVANCE, RADIUS, Piece, Style, Text
from fbackprop.markup import Markup, element, joined

LOCAL = Style(11.0)
AT_PORT = 5.0  # Pixels from a circle to its local gradients.
APART = 12.0  # Pixels between the baselines of a gate's local gradients.


class LiveLabels(Labels):
  """The texts of a picture whose numbers change, each with room for `width` characters."""

  digits: int

  @property
  def width(self) -> int:
    """The most characters of a number."""
    return self.digits + 4

  @property
  def widest_sum(self) -> int:
    """The most characters in a line of a sum: two terms with their signs."""
    return 2 * self.width + 4

  def show(self, value: float) -> str:
    """Format a number, with fewer digits if it would be too wide."""
    text = format_number(value, self.digits, MINUS)
    for digits in range(self.digits - 1, -1, -1):
      if len(text) <= self.width:
        break
      text = format_number(value, f".{digits}e", MINUS)
    return text

  def name(self, name: str) -> str:
    """Return the label of a node: a gate's also if the parser named it, as the formulas have it."""
    return super().name(name) or printable(name)

  def lines(self, item: Item) -> int:
    """Return the most lines of an item's gradient."""
    terms = len(self.leaving[item.name]) if item.kind == "node" else 1
    return 1 + ceil(terms / 2) if terms > 1 else 1

  def extent(self, item: Item) -> Extent:
    """Compute the extent of an item, whatever its numbers are."""
    box = super().extent(item)
    if item.kind == "bend":
      return box
    count = self.lines(item)
    room = ADVANCE * shapes.VALUE.size * (self.width if count == 1 else self.widest_sum)
    at_ports = ADVANCE * LOCAL.size * self.width + 2 * AT_PORT if self.half(item) else 0
    return box._replace(
      left=max(box.left, 2 * self.half(item) + at_ports),
      right=max(box.right, 2 * BESIDE + room + shapes.TIP * self.leads_out(item)),
      down=max(box.down, BELOW + LINE * (count - 1) + shapes.DESCENT * shapes.GRADIENT.size),
    )


def draw_figure(labels: LiveLabels, name: str) -> Markup:
  """Draw a solved circuit, with every part named by what it shows.

  A path has `data-wires`, the wires that it belongs to, each as node:branch; a text has
  `data-value`, `data-gradient`, `data-share` or `data-local`; a gate has `data-gate`.

  Args:
    labels: its texts.
    name: the picture's accessible name, without numbers, which change.

  Raises:
    CircuitError: a wire is too long to be drawn.
  """
  layout = place(labels.circuit, labels.extent, MARGIN, MARGIN)
  width = shorten(layout.spans[-1][1] + MARGIN)
  height = shorten(layout.bottom + MARGIN)
  return element(
    "svg", *draw_wires(layout, labels), *draw_items(layout, labels), *draw_locals(layout, labels),
    width=width, height=height, viewBox=f"0 0 {width} {height}", role="group",
    aria_label=name, font_family=FONTS,
  )  # fmt: skip


def draw_wires(layout: Layout, labels: Labels) -> Iterator[Markup]:
  """Draw the wires, the forks, and the tips of outputs."""
  items, (_, leaving) = layout.columns.items, layout.columns.ends()
  served = branches(layout, labels)
  for i, ways in enumerate(leaving):
    yield path("wire", served[i], drawing.draw_line(layout, labels, i))
    for link in ways:
      # Into a gate comes a branch of its own; into a bend or a label that item's branches.
      end = served[i] if items[link.right].kind == "node" else served[link.right]
      yield path("wire", end, drawing.draw_link(layout, labels, link))
    if len(ways) > 1:
      yield path("end", served[i], drawing.draw_dot(layout, i))
    if labels.leads_out(items[i]):
      yield path("end", served[i], drawing.draw_tip(layout, i))


def branches(layout: Layout, labels: Labels) -> list[str]:
  """Return for each item the wires that run through it: "x:0 x:1"."""
  items, (_, leaving) = layout.columns.items, layout.columns.ends()
  found: list[set[int]] = [set() for _ in items]
  for i in sorted(range(len(items)), key=lambda i: -items[i].column):
    if items[i].kind == "label":
      found[i] = {items[i].branch}
    elif len(labels.leaving[items[i].name]) < 2:
      found[i] = {0}
    else:
      found[i] = set().union(*(found[link.right] for link in leaving[i]))
  return [
    " ".join(f"{item.name}:{branch}" for branch in sorted(own))
    for item, own in zip(items, found, strict=True)
  ]


def path(kind: str, wires: str, piece: Piece) -> Markup:
  """Return the element of a piece of a wire."""
  return element("path", class_=kind, data_wires=wires, d=path_of(piece))


def draw_items(layout: Layout, labels: LiveLabels) -> Iterator[Markup]:
  """Draw the gates, the names and the numbers."""
  for item, x, y in zip(layout.columns.items, layout.x, layout.y, strict=True):
    if item.kind == "bend":
      continue
    half = labels.half(item)
    words = [text for text in labels.texts(item) if text.style not in NUMBERS]
    drawn = [write(text, x, y, class_=CLASSES.get(text.style, "symbol")) for text in words]
    if half:
      outline = element("path", d=path_of(shapes.pill(x - half, y, half, RADIUS)))
      yield element("g", outline, *drawn, class_="gate", data_gate=item.name)
    else:
      yield joined(drawn)
    yield from draw_numbers(item, x, y, labels)


def draw_numbers(item: Item, x: float, y: float, labels: LiveLabels) -> Iterator[Markup]:
  """Draw the value of an item's wire above it, and the gradient below."""
  solution = labels.solution
  if solution is None:
    return
  value = Text(BESIDE, -ABOVE, labels.show(solution.values[item.name]), shapes.VALUE)
  yield write(value, x, y, class_="value", data_value=item.name)
  if item.kind == "label":
    lines = [labels.show(solution.contributions[item.name][item.branch])]
    what = {"data_share": f"{item.name}:{item.branch}"}
  else:
    terms = [labels.show(term) for term in solution.contributions[item.name]]
    total = labels.show(solution.bars[item.name])
    lines = drawing.sum_lines(total, terms, labels.widest_sum)
    what = {"data_gradient": item.name}
  yield write_lines(lines, x + BESIDE, y + BELOW, class_="gradient", **what)


def draw_locals(layout: Layout, labels: LiveLabels) -> Iterator[Markup]:
  """Write each gate's local gradients to the left of its circle, in the order of the wires."""
  solution = labels.solution
  if solution is None:
    return
  local = {gate.name: gate.local for gate in solution.gates}
  for i, links in enumerate(layout.columns.ends()[0]):
    item = layout.columns.items[i]
    if not labels.half(item):
      continue
    slots = local[item.name]
    x = layout.x[i] - 2 * labels.half(item) - AT_PORT
    links.sort(key=lambda link: layout.arrivals[link])
    for rank, link in enumerate(links):
      slot = round(link.port * max(len(slots) - 1, 1))
      y = layout.y[i] + APART * (rank - (len(links) - 1) / 2) * (1 + 0.4 * (len(links) == 2))
      y += -ABOVE if len(links) == 1 else 0.3 * LOCAL.size
      text = labels.show(slots[slot])
      yield write_lines([text], x, y, class_="local", data_local=f"{item.name}:{slot}")


def write(text: Text, x: float, y: float, **attributes: str) -> Markup:
  """Return the element of a line of text whose item's anchor is (x, y)."""
  return write_lines([notation.printable(text.text)], x + text.x, y + text.y, **attributes)


def write_lines(lines: list[str], x: float, y: float, **attributes: str) -> Markup:
  """Return the element of lines of text; the first one begins at (x, y)."""
  at, up = shorten(x), shorten(y)
  rest = (element("tspan", line, x=at, dy=shorten(LINE)) for line in lines[1:])
  return element("text", lines[0], *rest, x=at, y=up, **attributes)


NUMBERS = (shapes.VALUE, shapes.GRADIENT)
CLASSES = {shapes.NAME: "name", shapes.PLAIN_NAME: "plain name", shapes.WORD: "word"}
