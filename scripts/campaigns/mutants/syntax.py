"""A function's syntax tree: which nodes can be edited, what is known around them, and the edits.

An operator maps a node of the tree, and what is known of the function around it, to the nodes that
may replace it. `operators` has the wrong ones, `spellings` those that say the same.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from scripts.campaigns.mutants.sources import Definition

# A node of any kind: what it has depends on its class, which each operator asks for.
Node = Any
Nodes = Iterator[Node]
# Modules and the like, whose names aren't values.
MODULES = {"jnp", "jax", "np", "lax", "numpy", "ref", "math", "functools", "operator", "jsp", "jtu",
           "ufuncs", "reductions", "array_creation", "config"}  # fmt: skip


class Around(NamedTuple):
  """What is known of the function around a node.

  Attributes:
    parents: each node's parent, by identity.
    values: the names that are parameters or assigned, in order.
    made_from: of each name that is assigned once, the names in its formula.
    has_numpy: whether the module has `jnp`.
  """

  parents: dict[int, Node]
  values: tuple[str, ...]
  made_from: dict[str, tuple[str, ...]]
  has_numpy: bool = True


Operator = Callable[[Node, Around], Nodes]


class Edit(NamedTuple):
  """An edited definition, and the name of the operator that made it."""

  operator: str
  tree: Definition


def edits(tree: Definition, table: dict[str, Operator], has_numpy: bool = True) -> Iterator[Edit]:
  """Yield all edits of a definition by the operators of a table, operator by operator."""
  around = surroundings(tree, has_numpy)
  places = list(enumerate(ast.walk(tree)))
  for name, operator in table.items():
    for number, node in places:
      if is_value(node, around):
        for new in operator(node, around):
          yield Edit(name, replaced(tree, number, new))


def replaced(tree: Definition, number: int, new: Node) -> Definition:
  """Return a copy of a tree with another node at a place, counted as `ast.walk` does."""
  twin = copy.deepcopy(tree)
  old = next(node for i, node in enumerate(ast.walk(twin)) if i == number)
  if old is twin:
    return new
  for parent in ast.walk(twin):
    for field, value in ast.iter_fields(parent):
      if value is old:
        setattr(parent, field, copy.deepcopy(new))
      elif isinstance(value, list) and any(item is old for item in value):
        setattr(parent, field, [copy.deepcopy(new) if item is old else item for item in value])
  return ast.fix_missing_locations(twin)


def surroundings(tree: Definition, has_numpy: bool) -> Around:
  """Return what is known of a function."""
  parents = {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
  values: list[str] = []
  made_from: dict[str, tuple[str, ...]] = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.arg):
      values.append(node.arg)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      values.append(node.id)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
      for target, formula in pairs(node.targets[0], node.value):
        made_from[target] = names_in(formula, parents)
  return Around(parents, tuple(dict.fromkeys(values)), made_from, has_numpy)


def pairs(target: Node, value: Node) -> Iterator[tuple[str, Node]]:
  """Yield the names of an assignment, each with its formula."""
  if isinstance(target, ast.Name):
    yield target.id, value
  elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
    for one, formula in zip(target.elts, value.elts, strict=False):
      yield from pairs(one, formula)


def names_in(node: Node, parents: dict[int, Node]) -> tuple[str, ...]:
  """Return the names of the values in an expression."""
  return tuple(dict.fromkeys(
    own.id
    for own in ast.walk(node)
    if isinstance(own, ast.Name) and own.id not in MODULES and not is_called(own, parents)
  ))  # fmt: skip


def is_called(node: Node, parents: dict[int, Node]) -> bool:
  """Return whether an expression is a function that is called."""
  parent = parents.get(id(node))
  return isinstance(parent, ast.Call) and parent.func is node


def is_value(node: Node, around: Around) -> bool:
  """Return whether a node may be edited: not the name of a function, nor a default or a target."""
  if isinstance(node, ast.Name):
    is_read = isinstance(node.ctx, ast.Load)
    return is_read and node.id not in MODULES and not is_called(node, around.parents)
  if isinstance(getattr(node, "ctx", None), ast.Store):
    return False
  parent = around.parents.get(id(node))
  return not isinstance(parent, ast.JoinedStr | ast.arguments | ast.keyword) or isinstance(
    parent, ast.keyword
  )


def integer(node: Node) -> int | None:
  """Return the value of an integer that is written as such."""
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    value = integer(node.operand)
    return None if value is None else -value
  if isinstance(node, ast.Constant) and type(node.value) is int:
    return node.value
  return None


def is_negated(node: Node) -> bool:
  """Return whether an expression is the negative of one that isn't a plain number."""
  is_minus = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
  return is_minus and integer(node.operand) is None


def number(value: complex) -> ast.expr:
  """Return a number as a node."""
  return ast.parse(repr(value), mode="eval").body


def binary(left: Node, op: ast.operator, right: Node) -> ast.BinOp:
  """Return an operation of two."""
  return ast.BinOp(left, op, right)


def method_of(node: Node) -> str:
  """Return the last name of what is called: "sum" of x.sum(0) and of jnp.sum(x, 0)."""
  if not isinstance(node, ast.Call):
    return ""
  return getattr(node.func, "attr", getattr(node.func, "id", ""))


def is_of_module(node: ast.Call) -> bool:
  """Return whether a call is of a module's function, and not of a value's method."""
  base: Node = node.func
  while isinstance(base, ast.Attribute):
    base = base.value
  return isinstance(node.func, ast.Name) or (isinstance(base, ast.Name) and base.id in MODULES)


def operand_of(node: ast.Call) -> Node | None:
  """Return the array of a call: the first argument of a function, or the value of a method."""
  if is_of_module(node):
    return node.args[0] if node.args else None
  return node.func.value if isinstance(node.func, ast.Attribute) else None


def with_name(node: ast.Call, name: str) -> ast.Call:
  """Return a call of another function of the same module, or method of the same value."""
  twin = copy.deepcopy(node)
  if isinstance(twin.func, ast.Attribute):
    twin.func.attr = name
  elif isinstance(twin.func, ast.Name):
    twin.func.id = name
  return twin
