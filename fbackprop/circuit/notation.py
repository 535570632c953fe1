"""How gates, numbers and derivatives are written: `g1 = x · y`, `∂g1/∂x = y`, `df/dx = 3`.

Two notations for two things: ∂ is local, the partial derivative of one gate; d is global, the total
derivative of the output. No text here uses one for the other.
"""

from collections.abc import Callable, Sequence

from fbackprop.circuit.graph import Circuit, Trace, few
from fbackprop.circuit.labels import show

GREEN, RED, BOLD = "32", "31", "1"

LOCAL = "∂: of each gate by one of its inputs, the others held"

INFIX = {"add": "+", "subtract": "-", "multiply": "·", "divide": "/", "power": "**"}

# ∂y/∂x of the gates of one input whose derivative is a formula of x and y.
FORMULAS = {
  "negate": "-1",
  "identity": "1",
  "square": "2 · {x}",
  "reciprocal": "-{y}²",
  "exp": "{y}",
  "log": "1 / {x}",
  "sqrt": "1 / (2 · {y})",
  "sin": "cos({x})",
  "cos": "-sin({x})",
  "sigmoid": "{y} · (1 - {y})",
  "tanh": "1 - {y}²",
  "softplus": "sigmoid({x})",
  "gelu": "Φ({x}) + {x} · φ({x})",
  "silu": "sigmoid({x}) · (1 + {x} · sigmoid(-{x}))",
}

# What decides where it is a case.
NO_GRADIENT = "no gradient to the exponent: the base isn't above 0"
CASES = {
  "max": "to the largest input",
  "min": "to the smallest input",
  "relu": "1 above 0, else 0",
  "leaky_relu": "1 above 0, else the slope",
  "relu6": "1 from 0 to 6, else 0",
  "hard_tanh": "1 from -1 to 1, else 0",
  "abs": "the sign",
}


def number(value: float, digits: int | str = 4) -> str:
  """A number as pictures show it, but with the minus sign of a keyboard: see `labels.show`."""
  return show(value, digits).replace("\N{MINUS SIGN}", "-")


def sum_of(terms: Sequence[str]) -> str:
  """2 + 3 - 1."""
  rest = (
    f" - {term[1:]}" if term.startswith("-") else f" + {term.removeprefix('+')}"
    for term in terms[1:]
  )
  return terms[0] + "".join(rest)


def factor(text: str) -> str:
  """A text that may stand beside an operator: a negative one gets parentheses, a plus goes."""
  return f"({text})" if text.startswith("-") else text.removeprefix("+")


def expression(op: str, operands: Sequence[str]) -> str:
  """What a gate computes: "x + y", "max(x, y)"."""
  shown = few(operands)
  if op == "add":
    return sum_of(shown)
  if op in INFIX:
    return f" {INFIX[op]} ".join(factor(x) for x in shown)
  if op == "negate":
    return f"-{factor(shown[0])}"
  if op == "square":
    return f"{factor(shown[0])}²"
  if op == "reciprocal":
    return f"1 / {factor(shown[0])}"
  return f"{op}({', '.join(shown)})"


def derivative(op: str, operands: Sequence[str], y: str, i: int) -> str:
  """∂y/∂(input i) as a formula; "" where it is none."""
  if op == "add":
    return "1"
  if op == "subtract":
    return "-1" if i else "1"
  if op == "multiply":
    # Of many inputs those that `few` shows: else a wide product would take the square of its width.
    n = len(operands)
    places = range(n) if n <= 10 else (*range(8), n - 2, n - 1)
    others = [factor(operands[k]) for k in places if k != i]
    return " · ".join(few(others)) or "1"
  if op == "divide":
    b = factor(operands[1])
    return f"-{factor(y)} / {b}" if i else f"1 / {b}"
  if op == "power":
    a, b = factor(operands[0]), factor(operands[1])
    return f"{y} · log({a})" if i else f"{b} · {a} ** ({operands[1]} - 1)"
  return FORMULAS.get(op, "").format(x=operands[0], y=y)


def labels_of(circuit: Circuit, digits: int | str) -> dict[str, str]:
  """What each node is called in a formula: its name, or its number, if it is a constant."""
  return {
    node.name: node.name if node.op != "constant" else number(node.value or 0.0, digits)
    for node in circuit.nodes
  }


def name_of_value(trace: Trace) -> str:
  """What is differentiated: the name of the output, or J for a weighted sum."""
  outputs = trace.circuit.outputs
  if len(outputs) == 1 and outputs[0][1] == 1:
    return outputs[0][0]
  name = "J"
  while name in trace.values:
    name += "_total"
  return name


def total(root: str, name: str) -> str:
  """The symbol of the global gradient of the value by a node."""
  return f"d{root}/d{name}"


def total_of(trace: Trace) -> str:
  """What d means in a trace."""
  return f"d: along every path to {name_of_value(trace)}"


def painter(color: bool) -> Callable[[str, str], str]:
  """`paint(text, code)`, which colours on a terminal and nowhere else."""

  def paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color and code and text.strip() else text

  return paint
