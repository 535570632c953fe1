"""The same in other words: edits of a rule's source that leave it right.

`SPELLINGS` lists them, as `operators.EDITS` lists those that are wrong.
"""

import ast
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
)


def powers(node: Node, around: Around) -> Nodes:
  """x * x for x**2, and the reverse."""
  if isinstance(node, ast.BinOp):
    if isinstance(node.op, ast.Pow) and integer(node.right) == 2:
      yield binary(node.left, ast.Mult(), node.left)
    is_square = isinstance(node.op, ast.Mult) and ast.dump(node.left) == ast.dump(node.right)
    if is_square:
      yield binary(node.left, ast.Pow(), number(2))


def commuted(node: Node, around: Around) -> Nodes:
  """b + a for a + b, and b * a for a * b."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
    yield binary(node.right, node.op, node.left)


def reassociated(node: Node, around: Around) -> Nodes:
  """a + (b + c) for (a + b) + c, and the same of products."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
    inner = node.left
    if isinstance(inner, ast.BinOp) and type(inner.op) is type(node.op):
      yield binary(inner.left, node.op, binary(inner.right, node.op, node.right))


def products(node: Node, around: Around) -> Nodes:
  """An einsum or a matmul for a @ b."""
  if around.has_numpy and isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
    for text in ("jnp.einsum('...ij,...jk->...ik', _, _)", "jnp.matmul(_, _)"):
      call: Any = ast.parse(text, mode="eval").body
      call.args[-2:] = [node.left, node.right]
      yield call


def transposes(node: Node, around: Around) -> Nodes:
  """x.transpose() for x.T."""
  if isinstance(node, ast.Attribute) and node.attr == "T":
    yield ast.Call(ast.Attribute(node.value, "transpose", ast.Load()), [], [])


def negations(node: Node, around: Around) -> Nodes:
  """a + (-b) for a - b; -1 * x for -x."""
  if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
    yield binary(node.left, ast.Add(), ast.UnaryOp(ast.USub(), node.right))
  elif is_negated(node):
    yield binary(number(-1), ast.Mult(), node.operand)


def functions(node: Node, around: Around) -> Nodes:
  """jnp.sum(x, 0) for x.sum(0)."""
  if not around.has_numpy or not isinstance(node, ast.Call) or is_of_module(node):
    return
  if method_of(node) in ("sum", "mean", "max") and isinstance(node.func, ast.Attribute):
    name = ast.Attribute(ast.Name("jnp", ast.Load()), node.func.attr, ast.Load())
    yield ast.Call(name, [node.func.value, *node.args], node.keywords)


SPELLINGS: dict[str, Operator] = {
  "power": powers, "commuted": commuted, "reassociated": reassociated, "product": products,
  "transpose": transposes, "negation": negations, "function": functions,
}  # fmt: skip
