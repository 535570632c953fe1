"""A circuit's picture as a list of shapes, from which SVG and PNG are written.

The convention of Stanford's CS231n: the computation runs from left to right, gates are circles with
their symbols, the value of a wire stands above it in green and the global gradient below it in red,
as the legend says. The values are upright and the gradients oblique, so that the picture reads in
black and white too. Where a wire forks, each branch has its own share of the gradient below it, and
the sum stands before the fork, as "5 = 2 + 3".
"""

from collections.abc import Iterator
from math import sqrt
from textwrap import wrap
from typing import NamedTuple

from fbackprop.circuit.columns import Item, wires_from
from fbackprop.circuit.graph import Circuit, Trace
from fbackprop.circuit.labels import (
  ASCENT,
  DESCENT,
  Text,
  clean,
  is_made,
  show,
  show_sum,
  symbol_of,
  width_of,
)
from fbackprop.circuit.layout import BETWEEN, Extent, Layout, place
from fbackprop.circuit.notation import name_of_value, total

PAPER, INK, WIRE, GATE = "#ffffff", "#1b1f24", "#57606a", "#eef2f8"
VALUE, GRADIENT = "#116329", "#b3001b"
NUMBER, NAME, SYMBOL, WORD, HEADING = 13.0, 14.0, 18.0, 12.0, 15.0  # Sizes of text, in pixels.
RADIUS, STROKE, DOT = 17.0, 1.4, 3.0
TIP, MARGIN = 10.0, 16.0
BESIDE = 7.0  # From a circle, or from where a wire starts, to its numbers.
ABOVE, BELOW, LINE = 4.5, 13.5, 15.5  # From a wire to the baselines of its numbers; between lines.
OVER = 5.0  # From a circle to the baseline of its name.
BEFORE = 4.0  # From an input's name to where its wire starts.
WIDEST_FOOT = 60  # Characters of a line under the picture.


class Curve(NamedTuple):
  """A piece of wire: in an S from (x, y) to (x_, y_), and on to `end`, level there."""

  x: float
  y: float
  x_: float
  y_: float
  end: float


class Pill(NamedTuple):
  """A gate: a circle, or for a long symbol a longer shape with round ends."""

  x: float  # Of its centre.
  y: float
  width: float


class Dot(NamedTuple):
  """Where a wire forks."""

  x: float
  y: float


class Arrow(NamedTuple):
  """The tip of a wire that leaves the circuit."""

  x: float
  y: float


class Picture(NamedTuple):
  """What is drawn, in this order, on paper of this size."""

  width: float
  height: float
  curves: list[Curve]
  dots: list[Dot]
  arrows: list[Arrow]
  pills: list[Pill]
  texts: list[Text]


class Labels:
  """What is written at each item of a trace's picture, and the room that it takes."""

  def __init__(self, trace: Trace, digits: int | str):
    self.trace, self.digits = trace, digits
    self.node = {node.name: node for node in trace.circuit.nodes}
    self.share = {
      wire: share
      for name, wires in wires_from(trace.circuit).items()
      for wire, share in zip(wires, trace.contributions[name], strict=True)
    }
    self.outputs = {name for name, _ in trace.circuit.outputs}

  def numbers(self, item: Item) -> tuple[str, list[str]]:
    """The value above the wire, and the lines of the gradient below it."""
    value = show(self.trace.values[item.name], self.digits)
    if item.wire is not None:
      return value, [show(self.share[item.wire], self.digits)]
    terms = self.trace.contributions[item.name]
    return value, show_sum(self.trace.bars[item.name], terms, self.digits)

  def name(self, name: str) -> str:
    """What a node is called: nothing for a gate without a name, its number for a constant."""
    node = self.node[name]
    if node.op == "constant" and node.value is not None and is_made(name):
      return show(node.value, 12)
    return "" if node.inputs and is_made(name) else clean(name)

  def weighted_sum(self) -> list[str]:
    """What is differentiated, where it isn't simply the output: 2 · J1 − J2 = 5."""
    outputs = self.trace.circuit.outputs
    if len(outputs) == 1 and outputs[0][1] == 1:
      return []
    terms: list[str] = []
    for name, weight in outputs:
      size = "" if abs(weight) == 1 else f"{show(abs(weight), self.digits).removeprefix('+')} · "
      sign = ("−" if weight < 0 else "") if not terms else ("− " if weight < 0 else "+ ")
      terms.append(f"{sign}{size}{self.name(name) or clean(name)}")
    return wrap(f"{' '.join(terms)} = {show(self.trace.value, self.digits)}", WIDEST_FOOT)

  def foot(self) -> list[tuple[str, str]]:
    """The lines under the picture, each with its color: the weighted sum, and the legend."""
    root = name_of_value(self.trace)
    below = f"below it: {total('(output)' if is_made(root) else clean(root), '(wire)')}"
    return [
      *((line, INK) for line in self.weighted_sum()),
      ("above a wire: its value", VALUE),
      *((line, GRADIENT) for line in wrap(below, WIDEST_FOOT)),
    ]

  def symbol(self, name: str) -> tuple[str, float]:
    """What stands in a gate, and its size."""
    text = symbol_of(self.node[name].op)
    return text, SYMBOL if len(text) == 1 else WORD

  def is_gate(self, item: Item) -> bool:
    return item.kind == "node" and bool(self.node[item.name].inputs)

  def half(self, item: Item) -> float:
    """Half of the width of a gate, which is a circle if its symbol is short."""
    return max(RADIUS, width_of(*self.symbol(item.name)) / 2 + 6)

  def leads_out(self, item: Item) -> bool:
    """Whether the item's wire is an output's, that ends here."""
    if item.wire is not None:
      return item.wire.target is None
    terms = self.trace.contributions[item.name]
    return item.kind == "node" and item.name in self.outputs and len(terms) == 1

  def extent(self, item: Item) -> Extent:
    """The room that an item takes."""
    if item.kind == "bend":
      return Extent(0, 0, 3, 3)
    value, lines = self.numbers(item)
    right = 2 * BESIDE + max(width_of(text, NUMBER) for text in (value, *lines))
    right += TIP * self.leads_out(item)
    # One height for all, so that what belongs together can stand level.
    up = max(ABOVE + ASCENT * NUMBER, RADIUS + 1)
    down = max(BELOW + DESCENT * NUMBER + LINE * (len(lines) - 1), RADIUS + 1)
    if item.kind == "label":
      return Extent(0, right, up, down)
    width = width_of(self.name(item.name), NAME)
    if not self.is_gate(item):
      return Extent(width + BEFORE, right, up, down)
    half = self.half(item)
    beyond = max(width / 2 - half, 0)  # A long name over a gate.
    up = RADIUS + OVER + ASCENT * NAME if width else up
    left, right = 2 * half + beyond, max(right, beyond)
    return Extent(left, right, up, down, 0.62 * RADIUS)

  def texts(self, item: Item, x: float, y: float) -> Iterator[Text]:
    """The texts of an item at an anchor."""
    if item.kind == "bend":
      return
    if item.kind == "node":
      name = self.name(item.name)
      width = width_of(name, NAME)
      if self.is_gate(item):
        middle = x - self.half(item)
        symbol, size = self.symbol(item.name)
        yield Text(middle - width_of(symbol, size) / 2, y + 0.3 * size, symbol, size, INK)
        if name:
          yield Text(middle - width / 2, y - RADIUS - OVER, name, NAME, INK, bold=True)
      elif name:
        bold = self.node[item.name].op == "input"
        yield Text(x - BEFORE - width, y + 0.3 * NAME, name, NAME, INK, bold)
    value, lines = self.numbers(item)
    start = x + BESIDE
    if value:
      yield Text(start, y - ABOVE, value, NUMBER, VALUE)
    for i, line in enumerate(lines):
      yield Text(start, y + BELOW + LINE * i, line, NUMBER, GRADIENT, italic=True)


class Names(Labels):
  """The labels of a circuit that isn't solved: names and symbols."""

  def __init__(self, circuit: Circuit):
    shares = {name: (0.0,) * len(wires) for name, wires in wires_from(circuit).items()}
    super().__init__(Trace(circuit, {}, {}, shares, (), 0.0, {}), 4)

  def numbers(self, item: Item) -> tuple[str, list[str]]:
    return "", []

  def foot(self) -> list[tuple[str, str]]:
    return []


def compose(labels: Labels, title: str | None) -> Picture:
  """Draws a circuit.

  Args:
    labels: what is written where: numbers, or names alone.
    title: a heading, or None.
  """
  layout = place(labels.trace.circuit, labels.extent)
  heading = clean(title or "")
  feet = [
    y + labels.extent(item).down for y, item in zip(layout.y, layout.columns.items, strict=True)
  ]
  tops = [
    y - labels.extent(item).up for y, item in zip(layout.y, layout.columns.items, strict=True)
  ]
  across = MARGIN - layout.spans[0][0]
  down = MARGIN - min(tops) + (1.7 * HEADING if heading else 0)
  layout = layout._replace(
    x=[x + across for x in layout.x],
    y=[y + down for y in layout.y],
    spans=[(left + across, right + across) for left, right in layout.spans],
    arrivals=[y + down for y in layout.arrivals],
  )
  foot = labels.foot()
  widths = [width_of(heading, HEADING), *(width_of(line, NUMBER) for line, _ in foot)]
  width = max(layout.spans[-1][1], MARGIN + max(widths)) + MARGIN
  bottom = max(feet) + down
  height = bottom + MARGIN + (BETWEEN + LINE * len(foot) if foot else 0)
  picture = Picture(width, height, [], [], [], [], [])
  for i, (line, color) in enumerate(foot):
    y = bottom + BETWEEN + LINE * (i + 1)
    picture.texts.append(Text(MARGIN, y, line, NUMBER, color, italic=color == GRADIENT))
  if heading:
    top = MARGIN + ASCENT * HEADING
    picture.texts.append(Text(MARGIN, top, heading, HEADING, INK, bold=True))
  draw_wires(picture, layout, labels)
  for item, x, y in zip(layout.columns.items, layout.x, layout.y, strict=True):
    if labels.is_gate(item):
      half = labels.half(item)
      picture.pills.append(Pill(x - half, y, 2 * half))
    picture.texts.extend(labels.texts(item, x, y))
  return picture


def draw_wires(picture: Picture, layout: Layout, labels: Labels) -> None:
  """Draws for each item its wire to the end of its column, and for each link what follows."""
  items, leaving = layout.columns.items, [0] * len(layout.columns.items)
  for link, arrival in zip(layout.columns.links, layout.arrivals, strict=True):
    leaving[link.left] += 1
    target = items[link.right]
    end = left = layout.spans[target.column][0]
    if labels.is_gate(target):
      off = arrival - layout.y[link.right]
      end = layout.x[link.right] - 2 * labels.half(target) + RADIUS - sqrt(RADIUS**2 - off**2)
    right = layout.spans[items[link.left].column][1]
    picture.curves.append(Curve(right, layout.y[link.left], left, arrival, end))
  for item, x, y, count in zip(items, layout.x, layout.y, leaving, strict=True):
    left, right = layout.spans[item.column]
    start = x if item.kind == "node" else left
    leads_out = labels.leads_out(item)
    end = right - TIP / 2 if leads_out else right
    picture.curves.append(Curve(start, y, end, y, end))
    if leads_out:
      picture.arrows.append(Arrow(right, y))
    if count > 1:
      picture.dots.append(Dot(right, y))
