"""A trace as a table with a row for each gate, and the sums at the forks."""

from fbackprop.circuit.graph import Trace, few
from fbackprop.circuit.notation import (
  BOLD,
  GREEN,
  LOCAL,
  RED,
  name_of_value,
  number,
  painter,
  sum_of,
  total,
  total_of,
)

HEADING = ("gate", "op", "inputs", "value", "local", "upstream", "downstream")
CODES = ("", "", "", GREEN, "", RED, RED)


def to_text(trace: Trace, *, digits: int | str = 4, color: bool = False) -> str:
  """The table, then the gradient of each input, and of each gate that several wires leave.

  Args:
    trace: what is shown.
    digits: how many significant digits, or a format, as ".2f".
    color: values green and gradients red, by the codes of a terminal.

  Returns:
    Lines, without one that is empty at the end.

  Example:
    >>> from fbackprop.circuit.parsing import parse
    >>> print(parse("(x+y)*max(y,z)").trace(x=1.0, y=2.0, z=0.0).to_text())
    gate  op        inputs      value  local  upstream  downstream
    g1    add       x=1, y=2    3      1, 1   2         2, 2
    g2    max       y=2, z=0    2      1, 0   3         3, 0
    g3    multiply  g1=3, g2=2  6      2, 3   1         2, 3
    <BLANKLINE>
    g3 = 6
    dg3/dx = 2
    dg3/dy = 5 = 2 + 3
    dg3/dz = 0
    <BLANKLINE>
    local is ∂: of each gate by one of its inputs, the others held; d: along every path to g3
  """
  constants = {node.name for node in trace.circuit.nodes if node.op == "constant"}
  paint = painter(color)

  def numbers(values: tuple[float, ...]) -> str:
    return ", ".join(few([number(v, digits) for v in values]))

  def wire(name: str) -> str:
    value = number(trace.values[name], digits)
    return value if name in constants else f"{name}={value}"

  rows = [HEADING]
  for gate in trace.gates:
    wires = ", ".join(few([wire(name) for name in gate.inputs]))
    value, upstream = number(gate.value, digits), number(gate.upstream, digits)
    local, downstream = numbers(gate.local), numbers(gate.downstream)
    rows.append((gate.name, gate.op, wires, value, local, upstream, downstream))
  widths = [max(len(row[i]) for row in rows) for i in range(len(HEADING) - 1)]
  lines = []
  for i, row in enumerate(rows):
    codes = CODES if i else (BOLD,) * len(HEADING)
    cells = [cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)]
    lines.append("  ".join(paint(*pair) for pair in zip(cells, codes, strict=True)))

  root = name_of_value(trace)
  lines += ["", f"{root} = {paint(number(trace.value, digits), GREEN)}"]
  for node in trace.circuit.nodes:
    terms = trace.contributions[node.name]
    if node.op == "input" or (len(terms) > 1 and node.op != "constant"):
      gradient = paint(number(trace.bars[node.name], digits), RED)
      parts = sum_of(few([number(term, digits) for term in terms])) if len(terms) > 1 else ""
      lines.append(f"{total(root, node.name)} = {gradient}{parts and f' = {parts}'}")
  return "\n".join([*lines, "", f"local is {LOCAL}; {total_of(trace)}"])


def to_line(trace: Trace) -> str:
  """The value and the gradient of each input, in a line; of many inputs, some."""
  root = name_of_value(trace)
  gradients = (f"{total(root, name)} = {number(bar)}" for name, bar in trace.gradients.items())
  parts = [f"{root} = {number(trace.value)}", ", ".join(few([*gradients]))]
  return f"Trace({'; '.join(filter(None, parts))})"
