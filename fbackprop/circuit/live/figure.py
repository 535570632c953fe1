"""The picture of a live circuit: SVG whose parts are named, so that the page can change them.

It is the picture of `drawing`, with room for numbers that change and for the local gradients at a
gate's ports. Colors are the page's, by classes, for light and for dark.
"""

from collections.abc import Iterator, Mapping

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
APART = 12.0  # Pixels between the baselines of a gate's local gradients, of three or more.
OVER_PORT, UNDER_PORT = 4.0, 11.0  # Pixels from a wire to the baseline of its local gradient.
LEVEL = 8.0  # Pixels of a gap in which all wires are level.
END = 2.0  # Pixels between a number and the end of its column.
BLANK = -3.0  # Pixels from a number to the left edge of its blank.
BLANK_ABOVE, BLANK_BELOW = -15.0, -12.0  # From its baseline to the top: the wire is between.


class LiveLabels(Labels):
  """The texts of a picture whose numbers change, each with room for `width` characters.

  Attributes:
    is_blank: whether the numbers that are computed from the inputs are left out.
  """

  digits: int
  is_blank = False

  @property
  def width(self) -> int:
    """The most characters of a number."""
    return self.digits + 4

  @property
  def widest_sum(self) -> int:
    """The most characters in a line of a sum: a long term or two short ones, with their signs."""
    return self.width + 5

  def show(self, value: float) -> str:
    """Format a number, with fewer digits if it would be too wide."""
    text = format_number(value, self.digits, MINUS)
    for digits in range(self.digits - 1, -1, -1):
      if len(text) <= self.width:
        break
      text = format_number(value, f".{digits}e", MINUS)
    return text

  def computed(self, value: float) -> str:
    """Format a number that isn't given; "" where it is to be found."""
    return "" if self.is_blank else self.show(value)

  def name(self, name: str) -> str:
    """Return the label of a node: a gate's also if the parser named it, as the formulas have it."""
    return super().name(name) or printable(name)

  def lines(self, item: Item) -> int:
    """Return the most lines of an item's gradient."""
    terms = len(self.leaving[item.name]) if item.kind == "node" else 1
    return 1 + terms if terms > 1 else 1

  def extent(self, item: Item) -> Extent:
    """Compute the extent of an item, whatever its numbers are."""
    box = super().extent(item)
    if item.kind == "bend":
      return box
    count = self.lines(item)
    room = ADVANCE * shapes.VALUE.size * (self.width if count == 1 else self.widest_sum)
    at_ports = ADVANCE * LOCAL.size * self.width + AT_PORT + END if self.half(item) else 0
    return box._replace(
      left=max(box.left, 2 * self.half(item) + at_ports),
      right=max(box.right, BESIDE + room + END + shapes.TIP * self.leads_out(item)),
      down=max(
        box.down,
        BELOW + LINE * (count - 1) + shapes.DESCENT * shapes.GRADIENT.size,
        box.port + UNDER_PORT + shapes.DESCENT * LOCAL.size if self.half(item) else 0,
      ),
    )


def lay_out(labels: LiveLabels) -> Layout:
  """Place the parts of a picture; raise `CircuitError` if a wire is too long to be drawn."""
  return place(labels.circuit, labels.extent, MARGIN, MARGIN, LEVEL)


def size_of(layout: Layout) -> tuple[str, str]:
  """Return the width and the height of a picture, in pixels."""
  return shorten(layout.spans[-1][1] + MARGIN), shorten(layout.bottom + MARGIN)


def draw_figure(layout: Layout, labels: LiveLabels, name: str) -> Markup:
  """Draw a solved circuit, with every part named by what it shows.

  A path has `data-wires`, the wires that it belongs to, each as node:branch; a text has
  `data-value`, `data-gradient`, `data-share` or `data-local`; a gate has `data-gate`.

  Args:
    layout: its places, of `lay_out`.
    labels: its texts.
    name: the picture's accessible name, without numbers, which change.
  """
  width, height = size_of(layout)
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
  show = labels.computed if labels.nodes[item.name].inputs else labels.show
  value = Text(BESIDE, -ABOVE, show(solution.values[item.name]), shapes.VALUE)
  yield write(value, x, y, class_="value", data_value=item.name)
  if item.kind == "label":
    lines = [labels.computed(solution.contributions[item.name][item.branch])]
    what = {"data_share": f"{item.name}:{item.branch}"}
  else:
    terms = [labels.show(term) for term in solution.contributions[item.name]]
    total = labels.show(solution.bars[item.name])
    lines = [""] if labels.is_blank else drawing.sum_lines(total, terms, labels.widest_sum)
    what = {"data_gradient": item.name}
  yield write_lines(lines, x + BESIDE, y + BELOW, class_="gradient", **what)


def draw_locals(layout: Layout, labels: LiveLabels) -> Iterator[Markup]:
  """Write each gate's local gradients to the left of its circle, in the order of the wires.

  One or two stand off their wires, above the upper and below the lower; more have no room there.
  """
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
      kind = "local on-wire" if len(links) > 2 else "local"
      if len(links) > 2:
        y = layout.y[i] + APART * (rank - (len(links) - 1) / 2) + 0.3 * LOCAL.size
      else:
        y = layout.arrivals[link] + (UNDER_PORT if rank else -OVER_PORT)
      text = labels.computed(slots[slot])
      yield write_lines([text], x, y, class_=kind, data_local=f"{item.name}:{slot}")


def draw_blanks(
  layout: Layout, labels: LiveLabels, root: str, words: Mapping[str, str]
) -> list[Markup]:
  """Draw fields over a picture for the numbers that it leaves out: values, then gradients back.

  A field has `data-kind`, which is "value", "gradient" or "share", `data-node`, and that of a share
  `data-branch`.

  Args:
    layout: the picture's places.
    labels: its texts.
    root: the name of the value that is differentiated.
    words: the page's words, for the fields' names.
  """
  values, gradients = [], []
  for item, x, y in zip(layout.columns.items, layout.x, layout.y, strict=True):
    node, name = labels.nodes[item.name], labels.name(item.name)
    if item.kind == "bend" or node.op == "constant":
      continue
    left, above, below = x + BESIDE, y - ABOVE + BLANK_ABOVE, y + BELOW + BLANK_BELOW
    if item.kind == "label":
      what, share = words["shareOf"].format(name=name), words["share"]
      of_wire = {"data_kind": "share", "data_node": item.name, "data_branch": str(item.branch)}
      gradients.append(blank(left, below, what, share, **of_wire))
      continue
    of_node = {"data_node": item.name}
    if node.inputs:
      what = words["valueOf"].format(name=name)
      values.append(blank(left, above, what, name, data_kind="value", **of_node))
    what = words["gradientOf"].format(name=name)
    sign = f"d{labels.name(root) if root in labels.nodes else root}/d{name}"
    gradients.append(blank(left, below, what, sign, data_kind="gradient", **of_node))
  return [*values, *reversed(gradients)]


def blank(
  x: float, y: float, name: str, placeholder: str, *, data_kind: str, **what: str
) -> Markup:
  """Return a field for a number, whose upper left corner is (x, y) but for its edge."""
  kind = "value" if data_kind == "value" else "gradient"
  return element(
    "input", class_=f"blank {kind}", type="text", autocomplete="off", aria_label=name,
    placeholder=placeholder, style=f"left: {shorten(x + BLANK)}px; top: {shorten(y)}px",
    data_kind=data_kind, **what,
  )  # fmt: skip


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
