"""One edit of a rule's source: the mistakes that people make, each as a function of a tree's node.

Nothing is computed here: whether an edit runs, keeps the shapes and is wrong is seen in `fairness`.
`EDITS` lists the operators, the specific before the general, since the same program counts once,
for the first that makes it.
"""

import ast
import copy
import itertools
from collections.abc import Iterator
from typing import Any

from scripts.campaigns.mutants.syntax import (
  Around,
  Node,
  Nodes,
  Operator,
  binary,
  integer,
  is_negated,
  is_of_module,
  method_of,
  number,
  operand_of,
  with_name,
)

REDUCTIONS = {"sum": "mean", "mean": "sum", "max": "min", "min": "max", "cumsum": "cumprod"}
MASKING = ("where", "select", "clip", "maximum", "minimum")
PRODUCTS = ("matmul", "dot", "outer", "solve")
UPDATES = {"add": "set", "set": "add", "multiply": "set", "max": "set"}
STRICT = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPPOSITE = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
            ast.NotEq: ast.Eq}  # fmt: skip
OTHER_ARITHMETIC: dict[type[ast.AST], list[Any]] = {
  ast.Add: [ast.Sub, ast.Mult], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add],
  ast.Div: [ast.Mult], ast.Pow: [ast.Mult], ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd],
  ast.FloorDiv: [ast.Mod],
}  # fmt: skip
LAX_ARITHMETIC = {"mul": "div", "div": "mul", "add": "sub", "sub": "add", "exp": "log",
                  "sin": "cos", "cos": "sin", "sinh": "cosh", "cosh": "sinh", "log": "log1p",
                  "expm1": "exp", "log1p": "log", "rsqrt": "sqrt", "sqrt": "rsqrt"}  # fmt: skip


def set_for_add(node: Node, around: Around) -> Nodes:
  """x.at[i].add(v): the last one instead of the sum, and the reverse."""
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
    place = node.func.value
    is_update = isinstance(place, ast.Subscript) and getattr(place.value, "attr", "") == "at"
    if is_update and node.func.attr in UPDATES:
      yield with_name(node, UPDATES[node.func.attr])
    elif node.func.attr == "segment_sum":
      yield with_name(node, "segment_max")


def missing_mask(node: Node, around: Around) -> Nodes:
  """where(c, a, b): a or b alone; x * (c): x; clip(x), maximum(x, y): x."""
  if isinstance(node, ast.Call) and method_of(node) in MASKING and is_of_module(node):
    is_choice = method_of(node) in ("where", "select")
    yield from node.args[1:3] if is_choice else node.args[:2]
  elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.BitAnd):
    for mask, other in ((node.left, node.right), (node.right, node.left)):
      if is_mask(mask):
        yield other


def is_mask(node: Node) -> bool:
  """Return whether an expression is a comparison, or is called a mask."""
  words = ("mask", "kept", "keep", "before", "valid", "done", "pred", "supp")
  named = any(isinstance(n, ast.Name) and n.id.startswith(words) for n in ast.walk(node))
  return named or any(isinstance(n, ast.Compare) for n in ast.walk(node))


def comparison(node: Node, around: Around) -> Nodes:
  """< for <=, and the like."""
  if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in STRICT:
    yield ast.Compare(node.left, [STRICT[type(node.ops[0])]()], node.comparators)


def other_branch(node: Node, around: Around) -> Nodes:
  """The branches of where, of an expression or a statement exchanged."""
  if isinstance(node, ast.Call) and method_of(node) in ("where", "select") and len(node.args) == 3:
    twin = copy.deepcopy(node)
    twin.args[1:3] = twin.args[2], twin.args[1]
    yield twin
  elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPPOSITE:
    yield ast.Compare(node.left, [OPPOSITE[type(node.ops[0])]()], node.comparators)
  elif isinstance(node, ast.IfExp):
    yield ast.IfExp(node.test, node.orelse, node.body)
  elif isinstance(node, ast.If):
    yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
  elif isinstance(node, ast.Call) and method_of(node) in ("maximum", "minimum"):
    yield with_name(node, {"maximum": "minimum", "minimum": "maximum"}[method_of(node)])


def other_axis(node: Node, around: Around) -> Nodes:
  """Another axis of a reduction, a product or a concatenation."""
  if isinstance(node, ast.keyword) and node.arg in ("axis", "dimension"):
    axis = integer(node.value)
    for other in (0, 1, -1, -2) if axis is not None else ():
      if other != axis:
        yield ast.keyword(node.arg, number(other))
  elif isinstance(node, ast.Call) and method_of(node) in (*REDUCTIONS, "softmax", "concatenate"):
    place = 1 if is_of_module(node) else 0
    if len(node.args) > place and (axis := integer(node.args[place])) is not None:
      for other in (0, 1, -1):
        if other != axis:
          twin = copy.deepcopy(node)
          twin.args[place] = number(other)
          yield twin


def transposition(node: Node, around: Around) -> Nodes:
  """A transpose left out, added or of the whole product; two letters of an einsum exchanged."""
  name = method_of(node)
  if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
    yield node.value
  elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
    yield from (binary(a, node.op, b) for a, b in other_factors(node.left, node.right))
    yield transposed(node)
  elif isinstance(node, ast.Call) and name in ("swapaxes", "transpose", "_H", "matrix_transpose"):
    operand = operand_of(node)
    yield from () if operand is None else (operand,)
  elif isinstance(node, ast.Call) and name in PRODUCTS and len(node.args) == 2:
    yield from (changed(node, "args", [a, b]) for a, b in other_factors(*node.args))
    yield transposed(node)
  elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "->" in node.value:
    yield from (ast.Constant(text) for text in exchanged_letters(node.value))


def other_factors(a: Node, b: Node) -> list[tuple[Node, Node]]:
  """Return two factors exchanged, and with one of them transposed."""
  return [(b, a), (transposed(a), b), (a, transposed(b))]


def transposed(node: Node) -> ast.Attribute:
  """Return the transpose of an expression."""
  return ast.Attribute(node, "T", ast.Load())


def exchanged_letters(formula: str) -> Iterator[str]:
  """Yield an einsum's formula with two neighbouring letters of one operand exchanged."""
  for i, (a, b) in enumerate(itertools.pairwise(formula)):
    if a.isalpha() and b.isalpha():
      yield formula[:i] + b + a + formula[i + 2 :]


def reduction(node: Node, around: Around) -> Nodes:
  """A sum for a mean and the reverse, a sum left out, a broadcast along another axis."""
  if isinstance(node, ast.Call) and method_of(node) in REDUCTIONS:
    yield with_name(node, REDUCTIONS[method_of(node)])
    operand = operand_of(node)
    if operand is not None:
      yield operand
      yield ast.Subscript(operand, number(0), ast.Load())
  elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
    entries = node.slice.elts
    if any(isinstance(e, ast.Constant) and e.value is None for e in entries):
      yield node.value
      yield ast.Subscript(node.value, ast.Tuple(entries[::-1], ast.Load()), ast.Load())


def off_by_one(node: Node, around: Around) -> Nodes:
  """A slice, a range, a size or a number of steps that is one too large or too small."""
  if isinstance(node, ast.Slice):
    for field in ("lower", "upper"):
      bound = getattr(node, field)
      if bound is None:
        yield changed(node, field, number(1 if field == "lower" else -1))
      else:
        yield from (changed(node, field, shifted(bound, by)) for by in (1, -1))
  elif isinstance(node, ast.Call) and method_of(node) in ("range", "arange", "fori_loop"):
    for i, argument in enumerate(node.args[:2]):
      for by in (1, -1):
        twin = copy.deepcopy(node)
        twin.args[i] = shifted(argument, by)
        yield twin
  elif is_count(node):
    yield from (shifted(node, by) for by in (1, -1))


def is_count(node: Node) -> bool:
  """Return whether an expression is a number of things, or of steps."""
  if isinstance(node, ast.Attribute):
    return node.attr == "size"
  if isinstance(node, ast.Subscript):
    return getattr(node.value, "attr", "") == "shape"
  return method_of(node) in ("len", "roll", "count_nonzero")


def changed(node: Node, field: str, value: Any) -> Node:
  """Return a copy of a node with one field changed."""
  twin = copy.deepcopy(node)
  setattr(twin, field, value)
  return twin


def shifted(node: Node, by: int) -> Node:
  """Return an expression plus one or minus one."""
  value = integer(node)
  if value is not None:
    return number(value + by)
  return binary(node, ast.Add() if by > 0 else ast.Sub(), number(1))


def other_index(node: Node, around: Around) -> Nodes:
  """An entry, or a member of a tuple, beside the right one."""
  if isinstance(node, ast.Subscript):
    place = integer(node.slice)
    if place is not None and getattr(node.value, "attr", "") != "shape":
      for other in (place + 1, place - 1):
        yield ast.Subscript(node.value, number(other), ast.Load())
    elif isinstance(node.slice, ast.Name):
      yield from (ast.Subscript(node.value, shifted(node.slice, by), ast.Load()) for by in (1, -1))
    elif isinstance(node.slice, ast.Tuple) and len(node.slice.elts) > 1:
      yield ast.Subscript(node.value, ast.Tuple(node.slice.elts[::-1], ast.Load()), ast.Load())
  elif isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load):
    parent = around.parents.get(id(node))
    if isinstance(parent, ast.Return | ast.Lambda) and len(node.elts) > 1:
      for i in range(len(node.elts) - 1):
        twin = copy.deepcopy(node)
        twin.elts[i], twin.elts[i + 1] = twin.elts[i + 1], twin.elts[i]
        yield twin


def stale_input(node: Node, around: Around) -> Nodes:
  """What a value was computed from, in its place: the value before the step."""
  if isinstance(node, ast.Name):
    yield from (
      ast.Name(name, ast.Load())
      for name in around.made_from.get(node.id, ())
      if name in around.values and name != node.id
    )
  elif isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
    parent = around.parents.get(id(node))
    if not isinstance(parent, ast.Return) and not isinstance(node.args[0], ast.Starred):
      yield node.args[0]


def neighbour(node: Node, around: Around) -> Nodes:
  """Another value of the function; only those of the same shape survive."""
  if isinstance(node, ast.Name) and node.id in around.values:
    yield from (ast.Name(name, ast.Load()) for name in around.values if name != node.id)


def dropped_term(node: Node, around: Around) -> Nodes:
  """One term of a sum or one factor of a product alone."""
  if isinstance(node, ast.BinOp):
    if isinstance(node.op, ast.Add | ast.Mult):
      yield from (node.left, node.right)
    elif isinstance(node.op, ast.Sub | ast.Div | ast.Pow):
      yield node.left
    if isinstance(node.op, ast.Sub):
      yield ast.UnaryOp(ast.USub(), node.right)
  elif isinstance(node, ast.Call) and method_of(node) in ("mul", "add", "sub", "div"):
    yield from node.args[: 2 if method_of(node) in ("mul", "add") else 1]
  elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
    yield ast.Pass()


def doubled_term(node: Node, around: Around) -> Nodes:
  """One term or factor twice."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
    yield binary(node, node.op, node.right)
    if not isinstance(node.op, ast.Sub):
      yield binary(node, node.op, node.left)
  elif isinstance(node, ast.Call) and method_of(node) in ("mul", "add"):
    for argument in node.args[:2]:
      twin = copy.deepcopy(node)
      twin.args = [copy.deepcopy(node), argument]
      yield twin


def sign(node: Node, around: Around) -> Nodes:
  """A minus left out, or one too many."""
  if is_negated(node):
    yield node.operand
  elif isinstance(node, ast.BinOp | ast.Call | ast.Name) and is_computed(node, around):
    yield ast.UnaryOp(ast.USub(), node)


def is_computed(node: Node, around: Around) -> bool:
  """Return whether an expression is part of a formula, where a sign makes sense."""
  if isinstance(node, ast.Name) and node.id not in around.values:
    return False
  parent = around.parents.get(id(node))
  return isinstance(parent, ast.BinOp | ast.Return | ast.Tuple | ast.Assign | ast.Call)


def arithmetic(node: Node, around: Around) -> Nodes:
  """Another operation of two, or another elementary function."""
  if isinstance(node, ast.BinOp):
    yield from (
      binary(node.left, op(), node.right) for op in OTHER_ARITHMETIC.get(type(node.op), ())
    )
  elif isinstance(node, ast.Call) and method_of(node) in LAX_ARITHMETIC and is_of_module(node):
    yield with_name(node, LAX_ARITHMETIC[method_of(node)])


def constant(node: Node, around: Around) -> Nodes:
  """Another number: by one, by a hundredth, twice it."""
  parent = around.parents.get(id(node))
  if isinstance(parent, ast.Subscript | ast.Slice | ast.keyword):
    return
  if isinstance(node, ast.Constant) and type(node.value) in (int, float):
    value: Any = node.value
    others = [value + 1, 2 * value, value - 1, 1.01 * value]
    yield from (number(other) for other in dict.fromkeys(others) if other != value)


EDITS: dict[str, Operator] = {
  "add -> set": set_for_add, "comparison": comparison, "missing mask": missing_mask,
  "other branch": other_branch, "axis": other_axis, "transposition": transposition,
  "reduction": reduction, "off by one": off_by_one, "index": other_index,
  "stale input": stale_input, "neighbour": neighbour, "constant": constant,
  "dropped term": dropped_term, "doubled term": doubled_term, "sign": sign,
  "arithmetic": arithmetic,
}  # fmt: skip
