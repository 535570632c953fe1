"""What of Python's grammar a circuit's text may have, and what its parts are called there."""

import ast

BINARY: dict[type[ast.operator], str] = {
  ast.Add: "add",
  ast.Sub: "subtract",
  ast.Mult: "multiply",
  ast.Div: "divide",
  ast.Pow: "power",
}
UNARY: dict[type[ast.unaryop], str] = {ast.USub: "negate", ast.UAdd: "identity"}

REFUSED: dict[type[ast.AST], str] = {
  ast.Attribute: "an attribute can't stand here",
  ast.Subscript: "an index can't stand here",
  ast.Compare: "a comparison can't stand here; max and min choose between values",
  ast.BoolOp: "and, or can't stand here",
  ast.IfExp: "if can't stand here; max and min choose between values",
  ast.Lambda: "a function can't be made here",
  ast.NamedExpr: "a name is given by a statement of its own: name = expression",
  ast.Tuple: "a tuple can't stand here; statements are parted by ';'",
  ast.List: "this can't stand here; parentheses are round",
  ast.Set: "this can't stand here; parentheses are round",
  ast.Dict: "this can't stand here; parentheses are round",
  ast.ListComp: "a comprehension can't stand here",
  ast.SetComp: "a comprehension can't stand here",
  ast.DictComp: "a comprehension can't stand here",
  ast.GeneratorExp: "a comprehension can't stand here",
  ast.Starred: "a star can't stand here",
  ast.AugAssign: "a statement must be name = expression",
  ast.AnnAssign: "a statement must be name = expression",
}


def is_e(place: ast.AST) -> bool:
  """Whether it is the name e."""
  return isinstance(place, ast.Name) and place.id == "e"


def has_e_as_base_alone(statement: ast.stmt) -> bool:
  """Whether a statement has no e but as the base of powers."""
  bases = names = 0
  for node in ast.walk(statement):
    names += is_e(node)
    bases += isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and is_e(node.left)
  return names == bases


def chain(place: ast.BinOp) -> list[ast.expr]:
  """The operands of a + b + c, or of a product, that no parentheses part."""
  operands: list[ast.expr] = []
  rest: ast.expr = place
  start = (place.lineno, place.col_offset)
  while (
    isinstance(rest, ast.BinOp)
    and type(rest.op) is type(place.op)
    and (rest.lineno, rest.col_offset) == start
  ):
    operands.append(rest.right)
    rest = rest.left
  return [rest, *reversed(operands)]
