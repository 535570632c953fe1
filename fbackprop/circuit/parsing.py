"""Expressions and statements as circuits, read through `ast` with a whitelist, and never run.

Whatever the text is, the answer is a circuit or a `ParseError` with a caret under the place.
"""

import ast
import math
import re
import unicodedata
from collections.abc import Collection, Mapping

from fbackprop.circuit.grammar import (
  BINARY,
  REFUSED,
  UNARY,
  chain,
  has_e_as_base_alone,
  is_e,
)
from fbackprop.circuit.graph import GATES, Circuit, CircuitError, Node, build, check_count
from fbackprop.circuit.source import Source
from fbackprop.circuit.spelling import gate_named, hint_of_gate
from fbackprop.hints import hint
from fbackprop.types import Gate

MAX_EXPONENT = 1024  # 2 to that is no float64 any more.


def parse(
  text: str,
  outputs: Mapping[str, float] | None = None,
  *,
  inputs: Collection[str] | None = None,
  gates: Mapping[str, Gate] | None = None,
  euler: bool = True,
) -> Circuit:
  """Reads an expression, or statements that are parted by ";" or by new lines.

  `+ - * / **` and unary minus are the gates add, subtract, multiply, divide, power, negate; every
  gate of `fbackprop.gates` can be called by its name. Handwriting is read too: `^` and `x²` are
  powers, `·`, `×`, `÷`, `−` and `√x` what they look like; `ReLU(x)`, `sum(x, y)`, `ln(x)`, `σ(x)`
  call relu, add, log, sigmoid; and `e^x` is exp(x) where e is nothing else in the text. A chain
  `a + b + c`, or of products, is one gate of many inputs, unless parentheses part it. `q = x + y`
  names a node; a name may be assigned again, which makes another node, `q_2`. A name that is used
  before it is assigned is an input. The last statement is the output.

  Args:
    text: as "(x+y)*max(y,z)" or "q = x+y; f = q*z".
    outputs: names of the text and their weights, as `{"J1": 1.0, "J2": 0.5}`, whose weighted sum
      is differentiated; None for the last statement alone.
    inputs: the names that may be inputs, where another one is an error; None for any.
    gates: gates to call beside those of `fbackprop.gates`, or in their place, as
      `{"max": fb.gates.max_with(ties="first")}`.
    euler: whether `e**x` is exp(x). A text that assigns e, or has it anywhere but as the base of a
      power, means a variable of its own, and so do `inputs` with an e among them.

  Returns:
    The `Circuit`. Unnamed gates are called g1, g2, ..., and constants c1, c2, ...

  Raises:
    TypeError: `text` isn't a str.
    ValueError: `ParseError`: it is no such text, or longer than 1,000,000 characters, nested deeper
      than 100 parentheses, a statement of more than 1,000 operators, or a power that float64 can't
      hold. `CircuitError`: an output is no name of the text.

  Example:
    >>> parse("q = x + y; q * z").trace(x=-2.0, y=5.0, z=-4.0).gradients
    {'x': -4.0, 'y': -4.0, 'z': 3.0}
    >>> parse("x + sigmod(y)")
    Traceback (most recent call last):
    ...
    fbackprop.circuit.source.ParseError: there is no gate 'sigmod'; did you mean 'sigmoid'?
      x + sigmod(y)
          ^
  """
  if not isinstance(text, str):
    raise TypeError(f"parse: text must be a str, got {type(text).__name__}")
  reader = Reader(text, inputs, gates, euler and "e" not in (inputs or ()))
  reader.read()
  if outputs is None:
    return build(reader.nodes, reader.output, gates)
  weights: dict[str, float] = {}
  for name, weight in outputs.items():
    if name not in reader.scope:
      raise CircuitError(
        f"parse: the output {name!r} isn't in the text; {hint(name, reader.scope)}"
      )
    node = reader.scope[name]
    if node in weights:
      raise CircuitError(f"parse: the output {name!r} is the node {node!r}, which is one already")
    weights[node] = weight
  return build(reader.nodes, weights, gates)


class Reader:
  """One text on its way to nodes.

  Attributes:
    nodes: made so far.
    scope: the node that each name of the text stands for now.
    output: the node of the last statement.
    euler: whether e is Euler's number.
  """

  def __init__(
    self,
    text: str,
    inputs: Collection[str] | None,
    gates: Mapping[str, Gate] | None,
    euler: bool,
  ) -> None:
    self.source = Source(text)
    self.euler = euler
    self.inputs = inputs
    self.known = {**GATES, **(gates or {})}
    self.nodes: list[Node] = []
    self.scope: dict[str, str] = {}
    self.output = ""
    self.taken: set[str] = set()
    self.counts: dict[str, int] = {}
    self.literals: dict[str, float] = {}  # Values of constants and of powers of them.

  def read(self) -> None:
    """Reads the statements; leaves `nodes`, `scope` and `output`."""
    statements = self.source.read()
    self.euler = self.euler and all(map(has_e_as_base_alone, statements))
    # Python reads names in this normal form.
    self.taken = set(re.findall(r"\w+", unicodedata.normalize("NFKC", self.source.text)))
    for i, statement in enumerate(statements):
      if isinstance(statement, ast.Expr):
        if i < len(statements) - 1:
          raise self.source.error_at(
            statement, "only the last statement may be without a name: name = expression"
          )
        self.output = self.expression(statement.value, None)
      elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        if len(statement.targets) > 1:
          raise self.source.error_at(statement.targets[1], "one name can be assigned at a time")
        self.assign(statement.targets[0], statement.value)
      else:
        place = statement.targets[0] if isinstance(statement, ast.Assign) else statement
        raise self.source.error_at(place, "a statement must be name = expression")

  def assign(self, target: ast.Name, value: ast.expr) -> None:
    """`name = expression`: the name stands for the node from here on."""
    if target.id in self.known:
      raise self.source.error_at(target, f"{target.id!r} is a gate; take another name")
    self.output = self.expression(value, target.id)
    self.scope[target.id] = self.output

  def expression(self, root: ast.expr, name: str | None) -> str:
    """The node of an expression, those below it made before; without recursion.

    Args:
      root: the expression.
      name: what its node is called, if one is made.
    """
    # An entry is to be visited (None) or has its operands made, and is now a gate of that op.
    waiting: list[tuple[ast.expr, str | None, int]] = [(root, None, 0)]
    made: list[str] = []
    while waiting:
      place, op, count = waiting.pop()
      wanted = name if place is root else None
      if op is not None:
        operands = tuple(made[len(made) - count :])
        del made[len(made) - count :]
        made.append(self.gate(place, op, operands, wanted))
      elif isinstance(place, ast.Constant):
        made.append(self.constant(place, self.number(place, place), wanted))
      elif isinstance(place, ast.Name):
        made.append(self.name(place))
      elif isinstance(place, ast.UnaryOp) and isinstance(place.operand, ast.Constant):
        # A negative number is one constant, not a gate.
        sign = -1 if self.unary(place) == "negate" else 1
        made.append(self.constant(place, sign * self.number(place.operand, place), wanted))
      else:
        op, operands_ = self.operands(place)
        if op == "identity" and isinstance(place, ast.UnaryOp):
          waiting.append((place.operand, None, 0))
          continue
        waiting.append((place, op, len(operands_)))
        waiting += [(operand, None, 0) for operand in reversed(operands_)]
    return made.pop()

  def operands(self, place: ast.expr) -> tuple[str, list[ast.expr]]:
    """The gate that an expression is, and the expressions that go into it."""
    if isinstance(place, ast.BinOp):
      op = BINARY.get(type(place.op))
      if op is None:
        raise self.source.error_at(place, "the operators are + - * / **", place.left)
      if op == "power" and self.euler and is_e(place.left):
        return "exp", [place.right]
      return op, chain(place) if op in ("add", "multiply") else [place.left, place.right]
    if isinstance(place, ast.UnaryOp):
      return self.unary(place), [place.operand]
    if isinstance(place, ast.Call):
      if not isinstance(place.func, ast.Name):
        is_number = isinstance(place.func, ast.Constant | ast.BinOp | ast.UnaryOp | ast.Call)
        advice = "; a product is written with *" if is_number else ""
        message = f"only a gate can be called, by its name{advice}"
        raise self.source.error_at(place.func, message)
      called = place.func.id
      op = gate_named(called, self.known)
      if op is None:
        advice = hint_of_gate(called, self.known)
        if called in self.scope or len(called) == 1:
          advice = f"a product is written with *: {called} * (...)"
        raise self.source.error_at(place, f"there is no gate {shown(called)}; {advice}")
      if place.keywords:
        raise self.source.error_at(place.keywords[0], f"gate {op} takes no argument with a name")
      for argument in place.args:
        if isinstance(argument, ast.Starred):
          raise self.source.error_at(argument, REFUSED[ast.Starred])
      try:
        check_count("", op, self.known[op], len(place.args))
      except CircuitError as error:
        raise self.source.error_at(place, str(error)) from None
      return op, place.args
    raise self.source.error_at(place, REFUSED.get(type(place), "this can't stand here"))

  def unary(self, place: ast.UnaryOp) -> str:
    """The gate of an operator before its operand."""
    if type(place.op) not in UNARY:
      raise self.source.error_at(place, "the operators are + - * / **")
    return UNARY[type(place.op)]

  def number(self, place: ast.Constant, whole: ast.expr) -> float:
    """The number that a constant is."""
    value = place.value
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise self.source.error_at(place, f"{shown(value)} is no real number")
    try:
      number = float(value)
    except OverflowError:
      number = math.inf
    if not math.isfinite(number):
      raise self.source.error_at(whole, "the number is too large for float64")
    return number

  def constant(self, place: ast.expr, value: float, name: str | None) -> str:
    """A node for a number."""
    node = Node(self.unique(name, "c"), "constant", (), value)
    self.literals[node.name] = value
    self.nodes.append(node)
    return node.name

  def name(self, place: ast.Name) -> str:
    """The node that a name stands for; an input, if none does."""
    if place.id not in self.scope:
      if place.id in self.known:
        raise self.source.error_at(place, f"{place.id!r} is a gate; call it: {place.id}(...)")
      if self.inputs is not None and place.id not in self.inputs:
        names = [*self.inputs, *self.scope]
        there = hint(place.id, names) if names else "no input has a value"
        raise self.source.error_at(place, f"the name {shown(place.id)} is unknown; {there}")
      self.nodes.append(Node(place.id, "input"))
      self.scope[place.id] = place.id
    return self.scope[place.id]

  def gate(self, place: ast.expr, op: str, operands: tuple[str, ...], name: str | None) -> str:
    """A node for a gate."""
    node = Node(self.unique(name, "g"), op, operands)
    if op == "power":
      self.check_power(place, node)
    self.nodes.append(node)
    return node.name

  def check_power(self, place: ast.expr, node: Node) -> None:
    """Refuses a power whose exponent, or whose value, float64 can't hold: 9 ** 9 ** 9."""
    base, exponent = (self.literals.get(name) for name in node.inputs)
    if exponent is None:
      return
    if abs(exponent) > MAX_EXPONENT:
      raise self.source.error_at(
        place, f"an exponent must be from -{MAX_EXPONENT} to {MAX_EXPONENT}, got {exponent:g}"
      )
    if base is None:
      return
    try:
      value = math.pow(base, exponent)
    except (OverflowError, ValueError):
      raise self.source.error_at(place, f"{base:g} ** {exponent:g} is no float64") from None
    self.literals[node.name] = value

  def unique(self, name: str | None, letter: str) -> str:
    """A name for a node: the text's own, or one that the text doesn't have."""
    if name is not None and self.counts.get(name) is None and name not in self.scope:
      self.counts[name] = 1
      return name
    stem, number = (letter, 0) if name is None else (f"{name}_", 1)
    number = self.counts.get(stem, number)
    while True:
      number += 1
      made = f"{stem}{number}"
      if made not in self.taken:
        self.counts[stem] = number
        return made


def shown(value: object) -> str:
  """A constant as it is quoted in a message."""
  text = repr(value)
  return text if len(text) <= 40 else f"{text[:37]}..."
