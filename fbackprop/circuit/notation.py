"""Numbers, gates and derivatives as text: `g1 = x · y`, `∂g1/∂x = y`, `df/dx = 3`.

Two notations for two derivatives: ∂ is local, the partial derivative of one gate; d is global, the
total derivative of the output. No text of this package interchanges them.
"""

import re
from collections.abc import Sequence

from fbackprop.checks import DtypeError, describe
from fbackprop.circuit.graph import GateGraph
from fbackprop.circuit.solver import Solution
from fbackprop.types import Gate

MINUS = "\N{MINUS SIGN}"
"""The minus sign of pictures, whose typeface has it; terminal texts use the ASCII hyphen."""
FORMAT = re.compile(r"[+ ]?,?(\.[0-9]{1,2})?[eEfFgG]")


OPERATORS = {
  "subtract": "{a} - {b}",
  "divide": "{a} / {b}",
  "power": "{a} ** {b}",
  "negate": "-{a}",
  "square": "{a}²",
  "reciprocal": "1 / {a}",
}
"""Gates of one or two inputs that are written with an operator."""


# --- Numbers and sums -----------------------------------------------------------------------------


def format_number(value: float, digits: int | str = 4, minus: str = "-") -> str:
  """Format a number, with zero always unsigned.

  Args:
    value: any float.
    digits: the number of significant digits, from 1 to 17, or a format such as ".2f".
    minus: the minus sign.

  Raises:
    TypeError: `digits` is neither an int nor a str.
    ValueError: `digits` is out of range, or no such format.
  """
  wanted = "digits must be an integer from 1 to 17 or a float format such as '.2f'"
  if isinstance(digits, bool) or not isinstance(digits, int | str):
    raise DtypeError(f"{wanted}, got {describe(digits)}")
  # Only formats of the bare number: a percentage is another number, and padding isn't part of it.
  if not (1 <= digits <= 17 if isinstance(digits, int) else FORMAT.fullmatch(digits)):
    raise ValueError(f"{wanted}, got {digits!r}")
  text = format(float(value), f".{digits}g" if isinstance(digits, int) else digits).strip()
  if not text.strip("-0., "):
    text = text.replace("-", "")
  mantissa, e, exponent = text.partition("e")
  if e and exponent.lstrip("+-").isdigit():
    text = f"{mantissa}e{int(exponent)}"
  return text.replace("-", minus)


def signed(terms: Sequence[str], minus: str = "-") -> list[str]:
  """Put an operator before each formatted term but the first: ["2", "+ 3", "- 1"]."""
  rest = (term if term.startswith(("+", minus)) else f"+{term}" for term in terms[1:])
  return [terms[0], *(f"{term[0]} {term[1:]}" for term in rest)]


def write_sum(terms: Sequence[str]) -> str:
  """Format a sum of formatted terms: "2 + 3 - 1"."""
  return " ".join(signed(terms))


def factor(text: str) -> str:
  """Format a number or a name as a factor: a negative one in parentheses, none with a plus."""
  return f"({text})" if text.startswith("-") else text.removeprefix("+")


def listed(texts: Sequence[str]) -> str:
  """List texts with commas, abbreviated."""
  return ", ".join(abbreviate(texts))


def abbreviate(texts: Sequence[str]) -> list[str]:
  """Return the texts; of more than eight, only the first six and the last."""
  return [*texts] if len(texts) <= 8 else [*texts[:6], "...", texts[-1]]


# --- Gates ----------------------------------------------------------------------------------------


def expression(op: str, operands: Sequence[str]) -> str:
  """Format the function of a gate: "x + y", "max(x, y)"."""
  shown = abbreviate(operands)
  if op == "add":
    return write_sum(shown)
  if op == "multiply":
    return " · ".join(map(factor, shown))
  if op in OPERATORS:
    return OPERATORS[op].format(a=factor(shown[0]), b=factor(shown[-1]))
  return f"{op}({listed(operands)})"


def derivative(gate: Gate, operands: Sequence[str], y: str, i: int) -> str:
  """Format ∂y/∂(input i) as a formula; "" if the gate has none."""
  if gate.formula is None:
    return ""
  formula = gate.formula if isinstance(gate.formula, str) else gate.formula[i]
  # Only the inputs that `abbreviate` may show: formatting all would take quadratic time.
  n = len(operands)
  places = range(n) if n <= 10 else (*range(8), n - 2, n - 1)
  others = " · ".join(abbreviate([factor(operands[k]) for k in places if k != i])) or "1"
  ends = operands[0], operands[-1]
  a, b = map(factor, ends)
  return formula.format(*ends, x=operands[i], y=y, a=a, b=b, others=others)


# --- Names ----------------------------------------------------------------------------------------


def is_generated(name: str) -> bool:
  """Return whether the parser named the node, as g1 or c1."""
  return name[:1] in ("g", "c") and name[1:].isdigit()


def printable(text: str) -> str:
  """Replace the characters that are invalid in XML or in a line of text."""
  return "".join(c if c.isprintable() and c not in "\ufffe\uffff" else "\ufffd" for c in text)


def output_name(solution: Solution) -> str:
  """Return the name of the differentiated value: the output's, or J for a weighted sum."""
  outputs = solution.circuit.outputs
  if len(outputs) == 1 and outputs[0][1] == 1:
    return outputs[0][0]
  name = "J"
  while name in solution.values:
    name += "_total"
  return name


def summary(circuit: GateGraph) -> str:
  """Describe a circuit in one line: "Circuit(f of x, y, z: 3 gates)"."""
  gates = sum(bool(node.inputs) for node in circuit.nodes)
  outputs = listed([name for name, _ in circuit.outputs])
  names = listed(circuit.inputs) or "constants"
  return f"Circuit({outputs} of {names}: {gates} gate{'s' * (gates != 1)})"
