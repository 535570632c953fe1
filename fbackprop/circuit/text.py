"""A solved circuit as text: a line, a table with a row for each gate, and the worked solution.

The worked solution follows a lecture's blackboard: forward line by line, the local gradients, then
backward. A local gradient ∂g/∂x is the partial derivative of one gate by one of its inputs, the
others held. The global gradient df/dx is the total derivative of the output, along every path from
x to f. In y = x², f = x y they differ: ∂f/∂x = y, but df/dx = ∂f/∂x + df/dy · ∂y/∂x.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count, groupby

from fbackprop.circuit import notation
from fbackprop.circuit.graph import fan_out
from fbackprop.circuit.notation import abbreviate, format_number, listed, write_sum
from fbackprop.circuit.solver import GateTrace, Solution

Number = Callable[[float], str]

GREEN, RED, BOLD = "32", "31", "1"  # ANSI codes.
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

LOCAL = "∂: the partial derivatives of each gate"
GLOBAL = "d: along every path to"
NO_GRADIENT = "no gradient to the exponent: the base isn't above 0"


def to_line(solution: Solution) -> str:
  """Return the value and the gradient of each input in one line, abbreviated for many inputs."""
  root = notation.output_name(solution)
  bars = solution.gradients.items()
  gradients = listed([f"d{root}/d{name} = {format_number(bar)}" for name, bar in bars])
  value = f"{root} = {format_number(solution.value)}"
  return f"Trace({'; '.join(filter(None, (value, gradients)))})"


def paint(text: str, code: str, color: bool) -> str:
  """Color a text by an ANSI code, if the output has colors."""
  return f"\x1b[{code}m{text}\x1b[0m" if color and code and text.strip() else text


# --- The table ------------------------------------------------------------------------------------


def to_text(solution: Solution, *, digits: int | str = 4, color: bool = False) -> str:
  """Format a table of the gates, then the gradient of each input and of each gate that forks.

  Args:
    solution: a solved circuit.
    digits: the number of significant digits, or a format such as ".2f".
    color: whether to print values green and gradients red, by ANSI codes.

  Returns:
    Lines, without a newline at the end.

  Example:
    >>> from fbackprop.circuit import parse
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
    local is ∂: the partial derivatives of each gate; d: along every path to g3
  """
  number = partial(format_number, digits=digits)
  operands = {n.name: "" if n.op == "constant" else f"{n.name}=" for n in solution.circuit.nodes}
  operands = {name: text + number(solution.values[name]) for name, text in operands.items()}
  gates = solution.gates
  columns = [
    ("gate", "", [gate.name for gate in gates]),
    ("op", "", [gate.op for gate in gates]),
    ("inputs", "", [listed([operands[name] for name in gate.inputs]) for gate in gates]),
    ("value", GREEN, [number(gate.value) for gate in gates]),
    ("local", "", [listed([*map(number, gate.local)]) for gate in gates]),
    ("upstream", RED, [number(gate.upstream) for gate in gates]),
    ("downstream", RED, [listed([*map(number, gate.downstream)]) for gate in gates]),
  ]
  painted = []
  for heading, code, cells in columns:
    # The last column needs no padding.
    width = max(map(len, [heading, *cells])) if heading != "downstream" else 0
    body = (paint(cell.ljust(width), code, color) for cell in cells)
    painted.append([paint(heading.ljust(width), BOLD, color), *body])
  lines = ["  ".join(row) for row in zip(*painted, strict=True)]
  root = notation.output_name(solution)
  lines += ["", f"{root} = {paint(number(solution.value), GREEN, color)}"]
  for node in solution.circuit.nodes:
    terms = [number(term) for term in solution.contributions[node.name]]
    if node.op == "input" or (len(terms) > 1 and node.op != "constant"):
      total = paint(number(solution.bars[node.name]), RED, color)
      parts = f" = {write_sum(abbreviate(terms))}" if len(terms) > 1 else ""
      lines.append(f"d{root}/d{node.name} = {total}{parts}")
  return "\n".join([*lines, "", f"local is {LOCAL}; {GLOBAL} {root}"])


# --- The worked solution --------------------------------------------------------------------------


def to_steps(solution: Solution, *, digits: int | str = 4, color: bool = False) -> str:
  """Format the worked solution, each line in symbols and then in numbers.

  If two wires lead from a node into the same gate, as in x · x, the derivative by the first one is
  written ∂g1/∂x₁.

  Args:
    solution: a solved circuit.
    digits: the number of significant digits, or a format such as ".2f".
    color: whether to print values green and gradients red, by ANSI codes.

  Returns:
    Lines, without a newline at the end.

  Example:
    >>> from fbackprop.circuit import parse
    >>> print(parse("q = x + y; f = q*z").trace(x=-2.0, y=5.0, z=-4.0).to_steps())
    Forward: the value of each gate
      x = -2
      y = 5
      q = x + y = -2 + 5 = 3
      z = -4
      f = q · z = 3 · (-4) = -12
    <BLANKLINE>
    Local gradients ∂: the partial derivatives of each gate
      ∂q/∂x = 1
      ∂q/∂y = 1
      ∂f/∂q = z = -4
      ∂f/∂z = q = 3
    <BLANKLINE>
    Global gradients d: along every path to f; upstream times local, summed over the outgoing wires
      df/df = 1
      df/dz = df/df · ∂f/∂z = 1 · 3 = 3
      df/dq = df/df · ∂f/∂q = 1 · (-4) = -4
      df/dy = df/dq · ∂q/∂y = -4 · 1 = -4
      df/dx = df/dq · ∂q/∂x = -4 · 1 = -4
  """
  number = partial(format_number, digits=digits)
  # A constant is written as its number.
  names = {
    name: number(solution.values[name]) if op == "constant" else name
    for name, op, _, _ in solution.circuit.nodes
  }
  backward = f"Global gradients {GLOBAL} {notation.output_name(solution)}; upstream times local"
  sections = (
    ("Forward: the value of each gate", forward_lines(solution, number, names), GREEN),
    (f"Local gradients {LOCAL}", local_lines(solution, number, names), ""),
    (f"{backward}, summed over the outgoing wires", backward_lines(solution, number), RED),
  )
  texts = []
  for title, lines, code in sections:
    # The result of a line is its last number.
    split = [line.rpartition(" = ") for line in lines]
    body = [f"  {left}{equals}{paint(right, code, color)}" for left, equals, right in split]
    texts.append("\n".join([paint(title, BOLD, color), *body]))
  return "\n\n".join(texts)


def equate(*steps: str) -> str:
  """Join the steps of a calculation by equals signs, omitting a step that repeats the last one."""
  return " = ".join(step for step, _ in groupby(steps))


def forward_lines(solution: Solution, number: Number, names: Mapping[str, str]) -> list[str]:
  """Format a line for each input and each gate, in topological order."""
  values = {name: number(value) for name, value in solution.values.items()}
  lines = []
  for name, op, inputs, _ in solution.circuit.nodes:
    if op != "constant":
      texts = ([texts[each] for each in inputs] for texts in (names, values) if inputs)
      steps = (notation.expression(op, operands) for operands in texts)
      lines.append(equate(name, *steps, values[name]))
  root = notation.output_name(solution)
  if root not in values:
    terms = [f"{number(weight)} · {name}" for name, weight in solution.circuit.outputs]
    lines.append(f"{root} = {write_sum(terms)} = {number(solution.value)}")
  return lines


def local_lines(solution: Solution, number: Number, names: Mapping[str, str]) -> list[str]:
  """Format a line for each wire into a gate, without wires from constants."""
  lines = []
  for gate in solution.gates:
    rule = solution.circuit.gate_of[gate.op]
    operands = [names[name] for name in gate.inputs]
    symbols = local_symbols(gate)
    for i, name in enumerate(gate.inputs):
      if names[name] != name:
        continue
      formula, cases = notation.derivative(rule, operands, gate.name, i), rule.cases or ""
      if gate.op == "power" and i == 1 and solution.values[gate.inputs[0]] <= 0:
        formula, cases = "", NO_GRADIENT
      steps = filter(None, (symbols[i], formula, number(gate.local[i])))
      lines.append(equate(*steps) + (cases and f"   ({cases})"))
  return lines


def backward_lines(solution: Solution, number: Number) -> list[str]:
  """Format a line for each node, from the outputs to the inputs, without constants."""
  root = notation.output_name(solution)
  gates = {gate.name: (gate, local_symbols(gate)) for gate in solution.gates}
  weights = dict(solution.circuit.outputs)
  leaving = fan_out(solution.circuit)
  lines = []
  for node in reversed(solution.circuit.nodes):
    if node.op == "constant":
      continue
    terms = []  # Each in symbols, in numbers, and multiplied out.
    for _, target, slot in leaving[node.name]:
      if target is None:
        terms.append((number(weights[node.name]),) * 3)
        continue
      gate, symbols = gates[target]
      product = f"{number(gate.upstream)} · {notation.factor(number(gate.local[slot]))}"
      terms.append((f"d{root}/d{target} · {symbols[slot]}", product, number(gate.downstream[slot])))
    steps = [write_sum(abbreviate(column)) for column in zip(*terms, strict=True)]
    lines.append(equate(f"d{root}/d{node.name}", *steps, number(solution.bars[node.name])))
  return lines


def local_symbols(gate: GateTrace) -> list[str]:
  """Return ∂g1/∂x for each wire, with a subscript if x enters the gate more than once."""
  counts = Counter(gate.inputs)
  marks = {name: (str(i).translate(SUBSCRIPTS) for i in count(1)) for name in counts}
  return [f"∂{gate.name}/∂{x}{next(marks[x]) if counts[x] > 1 else ''}" for x in gate.inputs]
