"""Expressions and statements as circuits, parsed by `ast` through a whitelist, never executed.

Every text gives either a circuit or a `ParseError` with a caret under the place of the error. The
text, its handwriting such as x², its limits and its errors are in `source`.
"""

import ast
import difflib
import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fbackprop.checks import FLOAT_MAX
from fbackprop.circuit._circuit import Circuit, build
from fbackprop.circuit.graph import GATES, CircuitError, Node, arity_problem
from fbackprop.circuit.source import Source
from fbackprop.errors import hint
from fbackprop.types import Gate

MAX_EXPONENT = 1024  # 2 to this power exceeds float64.

OPERATORS: dict[type[ast.operator | ast.unaryop], str] = {
  ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power",
  ast.USub: "negate", ast.UAdd: "",  # The operand itself.
}  # fmt: skip
SYNONYMS = {
  "sum": "add", "Σ": "add", "sub": "subtract", "product": "multiply", "prod": "multiply",
  "Π": "multiply", "mul": "multiply", "div": "divide", "pow": "power", "neg": "negate",
  "maximum": "max", "minimum": "min", "ln": "log", "σ": "sigmoid", "logistic": "sigmoid",
  "swish": "silu",
}  # fmt: skip
"""Other names of gates; those in ASCII are case-insensitive."""
ONLY_STATEMENTS = "a statement must be name = expression"
REFUSED: dict[type[ast.AST], str] = {
  ast.Attribute: "an attribute is not allowed here",
  ast.Subscript: "an index is not allowed here",
  ast.Compare: "a comparison is not allowed here; max and min choose between values",
  ast.BoolOp: "and, or are not allowed here",
  ast.IfExp: "if is not allowed here; max and min choose between values",
  ast.Lambda: "a function can't be made here",
  ast.NamedExpr: "a name is given by a statement of its own: name = expression",
  ast.Tuple: "a tuple is not allowed here; separate statements with ';'",
  ast.Starred: "a star is not allowed here",
  **dict.fromkeys((ast.List, ast.Set, ast.Dict), "this is not allowed here; use round parentheses"),
  **dict.fromkeys(
    (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
    "a comprehension is not allowed here",
  ),
}
"""The messages for Python expressions that have no circuit."""


def parse(
  text: str,
  outputs: Mapping[str, float] | None = None,
  *,
  inputs: Collection[str] | None = None,
  gates: Mapping[str, Gate] | None = None,
  euler: bool = True,
) -> Circuit:
  """Parse an expression, or statements separated by ";" or by new lines.

  `+ - * / **` and unary minus are the gates add, subtract, multiply, divide, power, negate; every
  gate of `fbackprop.gates` can be called by its name. Handwritten notation is accepted too: `^` and
  `x²` are powers, `·`, `×`, `÷`, `−` and `√x` have their usual meanings; `ReLU(x)`, `sum(x, y)`,
  `ln(x)`, `σ(x)` call relu, add, log, sigmoid; and `e^x` is exp(x) if e has no other use in the
  text. A chain `a + b + c`, or of products, is one gate with many inputs, unless parentheses divide
  it. `q = x + y` names a node; assigning a name again creates another node, `q_2`. A name that is
  used before it is assigned is an input. The last statement is the output.

  Args:
    text: the text, such as "(x+y)*max(y,z)" or "q = x+y; f = q*z".
    outputs: names in the text and their weights, such as `{"J1": 1.0, "J2": 0.5}`, whose weighted
      sum is differentiated; None for the last statement alone.
    inputs: the permitted names of inputs; None for any.
    gates: gates that extend or override those of `fbackprop.gates`, as
      `{"max": fb.gates.max_with(ties="first")}`.
    euler: whether `e**x` is exp(x). If the text assigns e, or uses it anywhere but as the base of a
      power, or `inputs` contains it, e is a variable.

  Returns:
    The `Circuit`. Unnamed gates are called g1, g2, ..., and constants c1, c2, ...

  Raises:
    TypeError: `text` isn't a str.
    ValueError: `ParseError`: a syntax error, a text of more than 1,000,000 characters, parentheses
      nested more than 100 deep, a statement of more than 1,000 operators, or a power beyond
      float64. `CircuitError`: an output isn't a name in the text.

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
  is_euler = euler and "e" not in (inputs or ())
  reader = Reader(Source(text), {**GATES, **(gates or {})}, inputs, is_euler)
  reader.read()
  if outputs is None:
    return build(reader.nodes, reader.output, gates)
  weights: dict[str, float] = {}
  for name, weight in outputs.items():
    if name not in reader.scope:
      advice = hint(name, reader.scope)
      raise CircuitError(f"parse: the output {name!r} isn't in the text; {advice}")
    node = reader.scope[name]
    if node in weights:
      raise CircuitError(f"parse: the output {name!r} is the node {node!r}, already an output")
    weights[node] = weight
  return build(reader.nodes, weights, gates)


@dataclass
class Reader:
  """The translation of one text into nodes.

  Attributes:
    source: the text.
    known: the gates.
    inputs: the permitted names of inputs; None for any.
    euler: whether e is Euler's number.
    nodes: the nodes, in topological order.
    scope: the node that each assigned or used name currently denotes.
    output: the node of the last statement.
    taken: the words of the text.
    numbers: the numbers that each stem of generated names has left.
    literals: the values of constants and their powers.
  """

  source: Source
  known: Mapping[str, Gate]
  inputs: Collection[str] | None
  euler: bool
  nodes: list[Node] = field(default_factory=list)
  scope: dict[str, str] = field(default_factory=dict)
  output: str = ""
  taken: set[str] = field(default_factory=set)
  numbers: dict[str, Iterator[int]] = field(default_factory=dict)
  literals: dict[str, float] = field(default_factory=dict)

  def read(self) -> None:
    """Translate the statements; set `nodes`, `scope` and `output`."""
    statements = self.source.read()
    # Python normalises names to this form.
    self.taken = set(re.findall(r"\w+", unicodedata.normalize("NFKC", self.source.text)))
    if "e" in self.taken:
      parts = [part for statement in statements for part in ast.walk(statement)]
      bases = [n.left for n in parts if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Pow)]
      self.euler = self.euler and sum(map(is_e, parts)) == sum(map(is_e, bases))
    for statement in statements:
      name = None
      if isinstance(statement, ast.Assign):
        target, *others = statement.targets
        if not isinstance(target, ast.Name):
          self.source.refuse(target, ONLY_STATEMENTS)
        if others:
          self.source.refuse(others[0], "one name can be assigned at a time")
        name = target.id
        if name in self.known:
          self.source.refuse(target, f"{name!r} is a gate; choose another name")
      elif not isinstance(statement, ast.Expr):
        self.source.refuse(statement, ONLY_STATEMENTS)
      elif statement is not statements[-1]:
        message = "only the last statement may be without a name: name = expression"
        self.source.refuse(statement, message)
      self.output = self.expression(statement.value, name)
      if name is not None:
        self.scope[name] = self.output

  def expression(self, root: ast.expr, name: str | None) -> str:
    """Translate an expression in postorder, without recursion; return its node.

    Args:
      root: the expression.
      name: the name of the node, if the expression creates one.
    """
    # An entry without an op must be visited first; one with an op has its operands in `made`.
    waiting: list[tuple[ast.expr, str | None, int]] = [(root, None, 0)]
    made: list[str] = []
    while waiting:
      place, op, arity = waiting.pop()
      if op is None:
        op, parts = self.operands(place)
        waiting += [(place, op, len(parts)), *((part, None, 0) for part in reversed(parts))]
      else:
        first = len(made) - arity
        made[first:] = [self.node(place, op, (*made[first:],), name if place is root else None)]
    return made.pop()

  def operands(self, place: ast.expr) -> tuple[str, list[ast.expr]]:
    """Return the op of an expression, and the expressions of its inputs; none for a leaf."""
    if isinstance(place, ast.Constant | ast.Name):
      return "", []
    if isinstance(place, ast.Call):
      return self.called(place), place.args
    if not isinstance(place, ast.BinOp | ast.UnaryOp):
      self.source.refuse(place, REFUSED.get(type(place), "this is not allowed here"))
    op = OPERATORS.get(type(place.op))
    if op is None:
      part = place.left if isinstance(place, ast.BinOp) else place
      self.source.refuse(part, "the operators are + - * / **", behind=part is not place)
    if isinstance(place, ast.UnaryOp):  # A negative number is one constant, not a gate.
      return op, [] if isinstance(place.operand, ast.Constant) else [place.operand]
    if op == "power" and self.euler and is_e(place.left):
      return "exp", [place.right]
    return op, chain(place) if op in ("add", "multiply") else [place.left, place.right]

  def called(self, place: ast.Call) -> str:
    """Return the op of a call; raise for a call without a gate."""
    if not isinstance(place.func, ast.Name):
      is_number = isinstance(place.func, ast.Constant | ast.BinOp | ast.UnaryOp | ast.Call)
      advice = "; a product is written with *" if is_number else ""
      self.source.refuse(place.func, f"only a gate can be called, by its name{advice}")
    word = place.func.id
    op = gate_named(word, self.known)
    if op is None:
      words = [*self.known, *SYNONYMS]
      is_close = difflib.get_close_matches(word[:100].lower(), words)
      advice = hint(word.lower(), words if is_close else self.known)
      if word in self.scope or len(word) == 1:
        advice = f"a product is written with *: {word} * (...)"
      self.source.refuse(place, f"there is no gate {quote(word)}; {advice}")
    if place.keywords:
      self.source.refuse(place.keywords[0], f"gate {op} takes no keyword argument")
    if problem := arity_problem(op, self.known[op], len(place.args)):
      self.source.refuse(place, problem)
    return op

  def node(self, place: ast.expr, op: str, operands: tuple[str, ...], name: str | None) -> str:
    """Create a node for a number or a gate; return it, or the node that a name denotes."""
    if isinstance(place, ast.Name):
      return self.name(place)
    if not operands:
      value = self.number(place)
      node = Node(self.unique(name, "c"), "constant", (), value)
      self.literals[node.name] = value
    elif not op:
      return operands[0]
    else:
      node = Node(self.unique(name, "g"), op, operands)
    if op == "power":  # Such as 9 ** 9 ** 9, which exceeds float64.
      base, exponent = (self.literals.get(name) for name in operands)
      if exponent is not None and abs(exponent) > MAX_EXPONENT:
        limits = f"from -{MAX_EXPONENT} to {MAX_EXPONENT}"
        self.source.refuse(place, f"an exponent must be {limits}, got {exponent:g}")
      if base is not None and exponent is not None:
        try:
          self.literals[node.name] = math.pow(base, exponent)
        except (OverflowError, ValueError):
          self.source.refuse(place, f"{base:g} ** {exponent:g} is no float64")
    self.nodes.append(node)
    return node.name

  def number(self, place: ast.expr) -> float:
    """Return a signed constant; raise for anything but a real number within float64."""
    part = place.operand if isinstance(place, ast.UnaryOp) else place
    value = getattr(part, "value", None)
    if isinstance(value, bool) or not isinstance(value, int | float):
      self.source.refuse(part, f"{quote(value)} is no real number")
    if not -FLOAT_MAX <= value <= FLOAT_MAX:
      self.source.refuse(place, "the number is too large for float64")
    is_negative = isinstance(place, ast.UnaryOp) and isinstance(place.op, ast.USub)
    return -float(value) if is_negative else float(value)

  def name(self, place: ast.Name) -> str:
    """Return the node that a name denotes; create an input if there is none."""
    if place.id not in self.scope:
      if place.id in self.known:
        self.source.refuse(place, f"{place.id!r} is a gate; call it: {place.id}(...)")
      if self.inputs is not None and place.id not in self.inputs:
        names = [*self.inputs, *self.scope]
        advice = hint(place.id, names) if names else "no input has a value"
        self.source.refuse(place, f"the name {quote(place.id)} is unknown; {advice}")
      self.nodes.append(Node(place.id, "input"))
      self.scope[place.id] = place.id
    return self.scope[place.id]

  def unique(self, name: str | None, letter: str) -> str:
    """Return a name for a node: the given one, or one that the text doesn't use."""
    if name is not None and name not in self.scope:
      return name
    stem = letter if name is None else f"{name}_"
    numbers = self.numbers.setdefault(stem, count(1 if name is None else 2))
    return next(made for n in numbers if (made := f"{stem}{n}") not in self.taken)


def is_e(place: ast.AST) -> bool:
  """Return whether an expression is the name e."""
  return isinstance(place, ast.Name) and place.id == "e"


def chain(place: ast.BinOp) -> list[ast.expr]:
  """List the operands of a + b + c, or of a product, up to parentheses."""
  operands, kind, start = [], type(place.op), (place.lineno, place.col_offset)
  rest: Any = place
  while type(getattr(rest, "op", None)) is kind and (rest.lineno, rest.col_offset) == start:
    operands.append(rest.right)
    rest = rest.left
  return [rest, *reversed(operands)]


def quote(value: object) -> str:
  """Quote a constant in a message, shortened."""
  text = repr(value)
  return text if len(text) <= 40 else f"{text[:37]}..."


def gate_named(word: str, known: Collection[str]) -> str | None:
  """Look up a gate by its name, by a variant such as LeakyReLU for leaky_relu, or by a synonym.

  Args:
    word: the called name.
    known: the names of the gates.

  Returns:
    One of `known`, or None.
  """
  exact = SYNONYMS | {name: name for name in known}
  if word in exact or not word.isascii():  # Lowercase Σ, a sum, is σ, a sigmoid.
    return exact.get(word)
  squeezed = SYNONYMS | {name.replace("_", "").lower(): name for name in known}
  return squeezed.get(word.replace("_", "").lower())
