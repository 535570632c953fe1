"""A trace as it is worked on a board: forward line by line, the local gradients, backward.

A gate's local gradient is a partial derivative, ∂g/∂x: by one of its inputs, the others held. The
global gradient of the output is a total derivative, df/dx: along every path from x to f. In
y = x², f = x y they differ: ∂f/∂x = y, and df/dx = ∂f/∂x + df/dy · ∂y/∂x.
"""

from collections import Counter

from fbackprop.circuit.graph import GateTrace, Trace, few
from fbackprop.circuit.notation import (
  BOLD,
  CASES,
  GREEN,
  LOCAL,
  NO_GRADIENT,
  RED,
  derivative,
  expression,
  factor,
  labels_of,
  name_of_value,
  number,
  painter,
  sum_of,
  total,
  total_of,
)

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def to_steps(trace: Trace, *, digits: int | str = 4, color: bool = False) -> str:
  """The worked solution, each line in symbols and then in numbers.

  Of a node that two wires lead into the same gate, as in x · x, ∂g1/∂x₁ is by the first wire.

  Args:
    trace: what is shown.
    digits: how many significant digits, or a format, as ".2f".
    color: values green and gradients red, by the codes of a terminal.

  Returns:
    Lines, without one that is empty at the end.

  Example:
    >>> from fbackprop.circuit.parsing import parse
    >>> print(parse("q = x + y; f = q*z").trace(x=-2.0, y=5.0, z=-4.0).to_steps())
    Forward: the value of each gate
      x = -2
      y = 5
      q = x + y = -2 + 5 = 3
      z = -4
      f = q · z = 3 · (-4) = -12
    <BLANKLINE>
    Local gradients ∂: of each gate by one of its inputs, the others held
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
  paint = painter(color)
  sections = (
    ("Forward: the value of each gate", forward_lines(trace, digits), GREEN),
    (f"Local gradients {LOCAL}", local_lines(trace, digits), ""),
    (f"Global gradients {total_of(trace)}; upstream times local, summed over the outgoing wires",
     backward_lines(trace, digits), RED),
  )  # fmt: skip
  texts = []
  for title, lines, code in sections:
    # What a line comes to is its last number.
    split = [line.rpartition(" = ") for line in lines]
    body = [f"  {left}{equals}{paint(right, code)}" for left, equals, right in split]
    texts.append("\n".join([paint(title, BOLD), *body]))
  return "\n\n".join(texts)


def forward_lines(trace: Trace, digits: int | str) -> list[str]:
  """A line for each input and each gate, in order."""
  labels = labels_of(trace.circuit, digits)
  lines = []
  for node in trace.circuit.nodes:
    value = number(trace.values[node.name], digits)
    if node.op == "constant":
      continue
    steps = [node.name]
    if node.inputs:
      steps.append(expression(node.op, [labels[name] for name in node.inputs]))
      numbers = expression(node.op, [number(trace.values[n], digits) for n in node.inputs])
      steps += [numbers] if numbers != steps[1] else []
    lines.append(" = ".join([*steps, *([value] if steps[-1] != value else [])]))
  if name_of_value(trace) not in trace.values:
    terms = trace.circuit.outputs
    symbols = sum_of([f"{number(weight, digits)} · {name}" for name, weight in terms])
    lines.append(f"{name_of_value(trace)} = {symbols} = {number(trace.value, digits)}")
  return lines


def local_lines(trace: Trace, digits: int | str) -> list[str]:
  """A line for each wire into a gate that doesn't come from a constant."""
  labels = labels_of(trace.circuit, digits)
  lines = []
  for gate in trace.gates:
    operands = [labels[name] for name in gate.inputs]
    symbols = wire_symbols(gate)
    for i, name in enumerate(gate.inputs):
      if labels[name] != name:
        continue
      value = number(gate.local[i], digits)
      formula = derivative(gate.op, operands, gate.name, i)
      case = CASES.get(gate.op, "")
      if gate.op == "power" and i == 1 and trace.values[gate.inputs[0]] <= 0:
        formula, case = "", NO_GRADIENT
      steps = [symbols[i]]
      steps += [formula] if formula and formula != value else []
      lines.append(" = ".join([*steps, value]) + (case and f"   ({case})"))
  return lines


def backward_lines(trace: Trace, digits: int | str) -> list[str]:
  """A line for each node that isn't a constant, from the outputs to the inputs."""
  root = name_of_value(trace)
  leaving: dict[str, list[tuple[str, str, str]]] = {n.name: [] for n in trace.circuit.nodes}
  for gate in trace.gates:
    upstream = number(gate.upstream, digits)
    for i, symbol in enumerate(wire_symbols(gate)):
      leaving[gate.inputs[i]].append(
        (
          f"{total(root, gate.name)} · {symbol}",
          f"{upstream} · {factor(number(gate.local[i], digits))}",
          number(gate.downstream[i], digits),
        )
      )
  weights = dict(trace.circuit.outputs)
  lines = []
  for node in reversed(trace.circuit.nodes):
    if node.op == "constant":
      continue
    terms = leaving[node.name]
    if node.name in weights:
      terms.append((number(weights[node.name], digits),) * 3)
    steps = [total(root, node.name)]
    for column in zip(*terms, strict=True):  # In symbols, in numbers, multiplied out.
      text = sum_of(few(column))
      steps += [text] if text != steps[-1] else []
    value = number(trace.bars[node.name], digits)
    lines.append(" = ".join([*steps, *([value] if steps[-1] != value else [])]))
  return lines


def wire_symbols(gate: GateTrace) -> list[str]:
  """∂g1/∂x for each wire, with its number where x leads into the gate more than once."""
  counts, seen = Counter(gate.inputs), Counter[str]()
  symbols = []
  for name in gate.inputs:
    seen[name] += 1
    which = str(seen[name]).translate(SUBSCRIPTS) if counts[name] > 1 else ""
    symbols.append(f"∂{gate.name}/∂{name}{which}")
  return symbols
