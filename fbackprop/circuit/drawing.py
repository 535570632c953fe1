"""A circuit's picture: its texts and shapes, which `formats` writes.

Where a wire forks, each branch is labelled with its own share of the gradient, and the wire before
the fork with the sum, such as "5 = 2 + 3".
"""

from collections.abc import Sequence
from math import sqrt
from textwrap import wrap

from fbackprop.circuit import notation, shapes
from fbackprop.circuit.graph import GateGraph, fan_out
from fbackprop.circuit.layout.columns import Extent, Item, Link
from fbackprop.circuit.layout.placement import BETWEEN, Layout, place
from fbackprop.circuit.notation import MINUS, format_number, printable
from fbackprop.circuit.shapes import RADIUS, Piece, Text, width_of
from fbackprop.circuit.solver import Solution

MARGIN = 16.0
BESIDE = 7.0  # Pixels from a circle, or a wire's start, to its numbers.
ABOVE, BELOW, LINE = 4.5, 13.5, 15.5  # Pixels from a wire to its numbers' baselines; line height.
OVER = 5.0  # Pixels from a circle to the baseline of its name.
BEFORE = 4.0  # Pixels from an input's name to the start of its wire.
WIDEST_FOOT = 60  # Characters in a line under the picture.
LONGEST_LINE = 18  # Characters in a line of a sum.


class Labels:
  """The texts of a circuit's picture: at its nodes and wires, under it, and for screen readers.

  An unsolved circuit has names and symbols alone.
  """

  def __init__(
    self, circuit: GateGraph, solution: Solution | None = None, digits: int | str = 4
  ) -> None:
    self.circuit, self.solution, self.digits = circuit, solution, digits
    self.nodes = {node.name: node for node in circuit.nodes}
    self.leaving = fan_out(circuit)

  def show(self, value: float) -> str:
    return format_number(value, self.digits, MINUS)

  def title(self) -> str:
    """Return the accessible name of a picture without a heading."""
    if self.solution is None:
      return printable(notation.summary(self.circuit))
    count = len(self.solution.gates)
    return f"A circuit of {count} gate{'s' * (count != 1)}, value {self.show(self.solution.value)}"

  def description(self) -> str:
    """Return the picture in words, node by node."""
    words = {
      name: f"{name}, {op}{' of ' * bool(inputs)}{', '.join(inputs)}"
      for name, op, inputs, _ in self.circuit.nodes
    }
    if self.solution is None:
      return printable("; ".join(words.values()))
    parts = ["Values and global gradients of a circuit, from its inputs to its outputs."]
    for name, what in words.items():
      gradient = " ".join(self.gradient(self.solution, name))
      parts.append(f"{what}: value {self.show(self.solution.values[name])}, gradient {gradient}.")
    return printable(" ".join(parts))

  def gradient(self, solution: Solution, name: str) -> list[str]:
    """Return a node's gradient as lines: the number, and its terms if several wires leave."""
    terms = [self.show(term) for term in solution.contributions[name]]
    return sum_lines(self.show(solution.bars[name]), terms)

  def name(self, name: str) -> str:
    """Return the label of a node: its name if the text gives one, or a constant's number."""
    node = self.nodes[name]
    if node.op == "constant" and node.value is not None and notation.is_generated(name):
      return format_number(node.value, 12, MINUS)
    return "" if node.inputs and notation.is_generated(name) else printable(name)

  def symbol(self, name: str) -> tuple[str, shapes.Style]:
    """Return the text in a gate, and its style."""
    op = self.nodes[name].op
    text = self.circuit.gate_of[op].symbol or printable(op)
    return text, shapes.SYMBOL if len(text) == 1 else shapes.WORD

  def half(self, item: Item) -> float:
    """Return half of a gate's width, a circle's if its symbol is short; 0 for any other item."""
    if item.kind != "node" or not self.nodes[item.name].inputs:
      return 0
    return max(RADIUS, width_of(*self.symbol(item.name)) / 2 + 6)

  def leads_out(self, item: Item) -> bool:
    """Return whether the item's wire is an output's, which ends here."""
    wires = self.leaving[item.name]
    is_shown = item.kind == "label" or (item.kind == "node" and len(wires) == 1)
    return is_shown and wires[item.branch].target is None

  def texts(self, item: Item) -> list[Text]:
    """Return the texts of an item whose anchor is (0, 0)."""
    if item.kind == "bend":
      return []
    texts = []
    if half := self.half(item):
      symbol, style = self.symbol(item.name)
      texts.append(Text(-half - width_of(symbol, style) / 2, 0.3 * style.size, symbol, style))
      if name := self.name(item.name):
        left = -half - width_of(name, shapes.NAME) / 2
        texts.append(Text(left, -RADIUS - OVER, name, shapes.NAME))
    elif item.kind == "node":
      name = self.name(item.name)
      style = shapes.NAME if self.nodes[item.name].op == "input" else shapes.PLAIN_NAME
      texts.append(Text(-BEFORE - width_of(name, style), 0.3 * style.size, name, style))
    if self.solution is None:
      return texts
    if item.kind == "label":
      lines = [self.show(self.solution.contributions[item.name][item.branch])]
    else:
      lines = self.gradient(self.solution, item.name)
    texts.append(Text(BESIDE, -ABOVE, self.show(self.solution.values[item.name]), shapes.VALUE))
    below = [Text(BESIDE, BELOW + LINE * i, line, shapes.GRADIENT) for i, line in enumerate(lines)]
    return texts + below

  def extent(self, item: Item) -> Extent:
    """Compute the extent of an item around its anchor."""
    if item.kind == "bend":
      return Extent(0, 0, 3, 3)
    texts, half = self.texts(item), self.half(item)
    ends = [text.x + text.width for text in texts]
    # One height for all items without a name above, so that connected ones can be level.
    return Extent(
      left=max([2 * half, *(-text.x for text in texts)]),
      right=BESIDE + max([BESIDE, *ends]) + shapes.TIP * self.leads_out(item),
      up=max([RADIUS + 1, *(shapes.ASCENT * text.style.size - text.y for text in texts)]),
      down=max([RADIUS + 1, *(shapes.DESCENT * text.style.size + text.y for text in texts)]),
      port=0.62 * RADIUS if half else 0,
    )

  def foot(self) -> list[tuple[str, shapes.Style]]:
    """Return the lines under the picture, each with its style: the weighted sum and the legend."""
    if self.solution is None:
      return []
    root = notation.output_name(self.solution)
    shown = "(output)" if notation.is_generated(root) else printable(root)
    value = self.show(self.solution.value)
    lines = (
      ("" if root in self.nodes else f"{self.weighted_sum()} = {value}", shapes.NOTE),
      ("above a wire: its value", shapes.VALUE),
      (f"below it: d{shown}/d(wire)", shapes.GRADIENT),
    )
    return [(line, style) for text, style in lines for line in wrap(text, WIDEST_FOOT)]

  def weighted_sum(self) -> str:
    """Format the sum of the outputs: 2 · J1 − J2."""
    text = ""
    for name, weight in self.circuit.outputs:
      operator = MINUS if weight < 0 else "+" * bool(text)
      size = self.show(abs(weight)).removeprefix("+")
      label = self.name(name) or printable(name)
      term = label if abs(weight) == 1 else f"{size} · {label}"
      text += f" {operator} {term}" if text else f"{operator}{term}"
    return text


def sum_lines(total: str, terms: Sequence[str], longest: int = LONGEST_LINE) -> list[str]:
  """Format a gradient as lines: "5", or with several terms "5 = 2 + 3", broken if it is long."""
  if len(terms) < 2:
    return [total]
  first, *rest = notation.signed(terms, MINUS)
  pieces = [f"= {first}", *rest]
  if len(whole := " ".join([total, *pieces])) <= longest:
    return [whole]
  # A term keeps its operator: `wrap` doesn't break a line at a no-break space.
  unbroken = " ".join(piece.replace(" ", "\xa0") for piece in pieces)
  lines = wrap(unbroken, longest, break_long_words=False, break_on_hyphens=False)
  return [total, *(line.replace("\xa0", " ") for line in lines)]


def compose(labels: Labels, title: str | None = None) -> shapes.Picture:
  """Compose the picture of a circuit.

  Args:
    labels: the texts, with numbers or without.
    title: a heading, or None.

  Raises:
    CircuitError: a wire is too long to be drawn.
  """
  heading, foot = printable(title or ""), labels.foot()
  top = MARGIN + (1.7 * shapes.HEADING.size if heading else 0)
  layout = place(labels.circuit, labels.extent, MARGIN, top)
  below = layout.bottom + BETWEEN
  height = below + LINE * len(foot) + MARGIN if foot else layout.bottom + MARGIN
  texts = [Text(MARGIN, below + LINE * i, *line) for i, line in enumerate(foot, 1)]
  if heading:
    baseline = MARGIN + shapes.ASCENT * shapes.HEADING.size
    texts.append(Text(MARGIN, baseline, heading, shapes.HEADING))
  width = max([layout.spans[-1][1], *(text.x + text.width for text in texts)]) + MARGIN
  gates = []
  for item, x, y in zip(layout.columns.items, layout.x, layout.y, strict=True):
    if half := labels.half(item):
      gates.append(shapes.pill(x - half, y, half, RADIUS))
    texts += [text._replace(x=x + text.x, y=y + text.y) for text in labels.texts(item)]
  wires, ends = draw_wires(layout, labels)
  outlines = [
    ("none", shapes.WIRE, wires), (shapes.WIRE, "none", ends), (shapes.GATE, shapes.INK, gates)
  ]  # fmt: skip
  return shapes.Picture(width, height, outlines, texts)


def draw_wires(layout: Layout, labels: Labels) -> tuple[list[Piece], list[Piece]]:
  """Draw each link as a curve through its gap, and each item's wire, level through its column.

  Returns:
    `(wires, ends)`: the lines, and the dots of forks and tips of outputs.
  """
  _, leaving = layout.columns.ends()
  links = [draw_link(layout, labels, link) for link in layout.arrivals]
  lines, dots, tips = [], [], []
  for i, ways in enumerate(leaving):
    lines.append(draw_line(layout, labels, i))
    dots += [draw_dot(layout, i)] if len(ways) > 1 else []
    tips += [draw_tip(layout, i)] if labels.leads_out(layout.columns.items[i]) else []
  return links + lines, dots + tips


def draw_link(layout: Layout, labels: Labels, link: Link) -> Piece:
  """Draw a link as a curve through its gap, up to the item where it arrives."""
  items, y, y_ = layout.columns.items, layout.y[link.left], layout.arrivals[link]
  target = items[link.right]
  x, x_ = layout.spans[items[link.left].column][1], layout.spans[target.column][0]
  end, middle = x_, (x + x_) / 2
  if half := labels.half(target):  # On to the circle, at the height of the port.
    off = y_ - layout.y[link.right]
    end = layout.x[link.right] - 2 * half + RADIUS - sqrt(RADIUS**2 - off**2)
  return Piece("MC  L", [(x, y), (middle, y), (middle, y_), (x_, y_), (end, y_)])


def draw_line(layout: Layout, labels: Labels, i: int) -> Piece:
  """Draw an item's wire, level through its column."""
  item, y = layout.columns.items[i], layout.y[i]
  left, right = layout.spans[item.column]
  start = layout.x[i] if item.kind == "node" else left
  return Piece("ML", [(start, y), (right - shapes.TIP / 2 * labels.leads_out(item), y)])


def draw_dot(layout: Layout, i: int) -> Piece:
  """Draw the dot of a fork."""
  right = layout.spans[layout.columns.items[i].column][1]
  return shapes.pill(right, layout.y[i], shapes.DOT, shapes.DOT)


def draw_tip(layout: Layout, i: int) -> Piece:
  """Draw the tip of an output's wire."""
  right, y = layout.spans[layout.columns.items[i].column][1], layout.y[i]
  return Piece("MLL", [(right, y), (right - 9, y - 4.5), (right - 9, y + 4.5)])
