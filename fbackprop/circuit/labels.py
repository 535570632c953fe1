"""The texts of a circuit's picture: at its nodes and wires, under it, and for screen readers.

Where a wire forks, each branch is labelled with its own share of the gradient, and the wire before
the fork with the sum, such as "5 = 2 + 3".
"""

from collections.abc import Iterator, Sequence
from textwrap import wrap

from fbackprop.circuit import notation, shapes
from fbackprop.circuit.graph import GateGraph, fan_out
from fbackprop.circuit.layout.columns import Extent, Item
from fbackprop.circuit.solver import Solution

BESIDE = 7.0  # Pixels from a circle, or a wire's start, to its numbers.
ABOVE, BELOW, LINE = 4.5, 13.5, 15.5  # Pixels from a wire to its numbers' baselines; line height.
OVER = 5.0  # Pixels from a circle to the baseline of its name.
BEFORE = 4.0  # Pixels from an input's name to the start of its wire.
WIDEST_FOOT = 60  # Characters in a line under the picture.
LONGEST_LINE = 18  # Characters in a line of a sum.


class Labels:
  """The labels of an unsolved circuit, names and symbols alone, and their extents."""

  def __init__(self, circuit: GateGraph):
    self.circuit = circuit
    self.nodes = {node.name: node for node in circuit.nodes}
    self.leaving = fan_out(circuit)
    self.outputs = {name for name, _ in circuit.outputs}

  @property
  def title(self) -> str:
    """The accessible name of a picture without a heading."""
    return notation.printable(notation.summary(self.circuit))

  @property
  def description(self) -> str:
    """The picture in words, node by node."""
    nodes = self.circuit.nodes
    words = (f"{n.name}, {n.op}{' of ' * bool(n.inputs)}{', '.join(n.inputs)}" for n in nodes)
    return notation.printable("; ".join(words))

  def numbers(self, item: Item) -> tuple[str, list[str]]:
    """Return the value above the wire, and the lines of the gradient below it."""
    return "", []

  def foot(self) -> list[tuple[str, shapes.Style]]:
    """Return the lines under the picture, each with its style."""
    return []

  def show(self, value: float, digits: int | str = 12) -> str:
    """Format a number for a picture."""
    return notation.format_number(value, digits, notation.MINUS)

  def name(self, name: str) -> str:
    """Return the label of a node: its name if the text gives one, or a constant's number."""
    node = self.nodes[name]
    if node.op == "constant" and node.value is not None and notation.is_generated(name):
      return self.show(node.value)
    return "" if node.inputs and notation.is_generated(name) else notation.printable(name)

  def symbol(self, name: str) -> tuple[str, shapes.Style]:
    """Return the text in a gate, and its style."""
    op = self.nodes[name].op
    text = self.circuit.gate_of[op].symbol or notation.printable(op)
    return text, shapes.SYMBOL if len(text) == 1 else shapes.WORD

  def is_gate(self, item: Item) -> bool:
    return item.kind == "node" and bool(self.nodes[item.name].inputs)

  def half(self, item: Item) -> float:
    """Return half of a gate's width, a circle's if its symbol is short."""
    return max(shapes.RADIUS, shapes.width_of(*self.symbol(item.name)) / 2 + 6)

  def leads_out(self, item: Item) -> bool:
    """Return whether the item's wire is an output's, which ends here."""
    if item.wire is not None:
      return item.wire.target is None
    is_only_wire = len(self.leaving[item.name]) == 1
    return item.kind == "node" and item.name in self.outputs and is_only_wire

  def extent(self, item: Item) -> Extent:
    """Compute the extent of an item around its anchor."""
    if item.kind == "bend":
      return Extent(0, 0, 3, 3)
    value, lines = self.numbers(item)
    right = 2 * BESIDE + max(shapes.width_of(text, shapes.NOTE) for text in (value, *lines))
    right += shapes.TIP * self.leads_out(item)
    # One height for all, so that connected items can be level.
    up = max(ABOVE + shapes.ASCENT * shapes.VALUE.size, shapes.RADIUS + 1)
    foot = BELOW + shapes.DESCENT * shapes.GRADIENT.size + LINE * (len(lines) - 1)
    down = max(foot, shapes.RADIUS + 1)
    if item.kind == "label":
      return Extent(0, right, up, down)
    width = shapes.width_of(self.name(item.name), shapes.NAME)
    if not self.is_gate(item):
      return Extent(width + BEFORE, right, up, down)
    half = self.half(item)
    beyond = max(width / 2 - half, 0)  # The name may be longer than its gate.
    up = shapes.RADIUS + OVER + shapes.ASCENT * shapes.NAME.size if width else up
    left, right = 2 * half + beyond, max(right, beyond)
    return Extent(left, right, up, down, 0.62 * shapes.RADIUS)

  def texts(self, item: Item, x: float, y: float) -> Iterator[shapes.Text]:
    """Yield the texts of an item whose anchor is (x, y)."""
    if item.kind == "bend":
      return
    if item.kind == "node":
      name = self.name(item.name)
      width = shapes.width_of(name, shapes.NAME)
      if self.is_gate(item):
        middle = x - self.half(item)
        symbol, style = self.symbol(item.name)
        left = middle - shapes.width_of(symbol, style) / 2
        yield shapes.Text(left, y + 0.3 * style.size, symbol, style)
        if name:
          yield shapes.Text(middle - width / 2, y - shapes.RADIUS - OVER, name, shapes.NAME)
      elif name:
        style = shapes.NAME if self.nodes[item.name].op == "input" else shapes.PLAIN_NAME
        yield shapes.Text(x - BEFORE - width, y + 0.3 * style.size, name, style)
    value, lines = self.numbers(item)
    if value:
      yield shapes.Text(x + BESIDE, y - ABOVE, value, shapes.VALUE)
    for i, line in enumerate(lines):
      yield shapes.Text(x + BESIDE, y + BELOW + LINE * i, line, shapes.GRADIENT)


class NumberLabels(Labels):
  """The labels of a solved circuit, with the value and the gradient of every wire."""

  def __init__(self, solution: Solution, digits: int | str):
    super().__init__(solution.circuit)
    self.solution, self.digits = solution, digits
    self.share = {
      wire: share
      for name, wires in self.leaving.items()
      for wire, share in zip(wires, solution.contributions[name], strict=True)
    }

  @property
  def title(self) -> str:
    count = len(self.solution.gates)
    value = self.show(self.solution.value, self.digits)
    return f"A circuit of {count} gate{'s' * (count != 1)}, value {value}"

  @property
  def description(self) -> str:
    parts = ["Values and global gradients of a circuit, from its inputs to its outputs."]
    for node in self.circuit.nodes:
      what = f"{node.op} of {', '.join(node.inputs)}" if node.inputs else node.op
      value = self.show(self.solution.values[node.name], self.digits)
      gradient = " ".join(self.gradient(node.name))
      parts.append(f"{node.name}, {what}: value {value}, gradient {gradient}.")
    return notation.printable(" ".join(parts))

  def numbers(self, item: Item) -> tuple[str, list[str]]:
    value = self.show(self.solution.values[item.name], self.digits)
    if item.wire is None:
      return value, self.gradient(item.name)
    return value, [self.show(self.share[item.wire], self.digits)]

  def gradient(self, name: str) -> list[str]:
    """Return a node's gradient as lines: the number, and its terms if several wires leave."""
    terms = [self.show(term, self.digits) for term in self.solution.contributions[name]]
    return sum_lines(self.show(self.solution.bars[name], self.digits), terms)

  def weighted_sum(self) -> list[str]:
    """Format the differentiated value, unless it is a plain output: 2 · J1 − J2 = 5."""
    outputs = self.circuit.outputs
    if len(outputs) == 1 and outputs[0][1] == 1:
      return []
    terms: list[str] = []
    for name, weight in outputs:
      operator = notation.MINUS if weight < 0 else "+" * bool(terms)
      size = self.show(abs(weight), self.digits).removeprefix("+")
      label = self.name(name) or notation.printable(name)
      term = label if abs(weight) == 1 else f"{size} · {label}"
      terms.append(f"{operator}{' ' * bool(terms)}{term}")
    return wrap(f"{' '.join(terms)} = {self.show(self.solution.value, self.digits)}", WIDEST_FOOT)

  def foot(self) -> list[tuple[str, shapes.Style]]:
    """Return the weighted sum and the legend."""
    root = notation.output_name(self.solution)
    root = "(output)" if notation.is_generated(root) else notation.printable(root)
    below = f"below it: {notation.global_gradient(root, '(wire)')}"
    return [
      *((line, shapes.NOTE) for line in self.weighted_sum()),
      ("above a wire: its value", shapes.VALUE),
      *((line, shapes.GRADIENT) for line in wrap(below, WIDEST_FOOT)),
    ]


def sum_lines(total: str, terms: Sequence[str]) -> list[str]:
  """Format a gradient as lines: "5", or with several terms "5 = 2 + 3", broken if it is long."""
  if len(terms) < 2:
    return [total]
  first, *rest = notation.signed(terms, notation.MINUS)
  pieces = [f"= {first}", *rest]
  if len(whole := " ".join([total, *pieces])) <= LONGEST_LINE:
    return [whole]
  # A term keeps its operator: `wrap` doesn't break a line at a no-break space.
  unbroken = " ".join(piece.replace(" ", "\xa0") for piece in pieces)
  lines = wrap(unbroken, LONGEST_LINE, break_long_words=False, break_on_hyphens=False)
  return [total, *(line.replace("\xa0", " ") for line in lines)]
