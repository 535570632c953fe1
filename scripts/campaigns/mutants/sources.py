"""The source of a function as a tree, and a function from an edited tree.

The text of the function's own module is parsed, and the definition or lambda that begins at the
function's line is taken; nothing is copied to a file. An edited definition is compiled without its
decorators, in the globals of that module, and its free variables are those of the original.
"""

import ast
import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

Function = Callable[..., Any]
Definition = ast.FunctionDef | ast.Lambda
FACTORY = "_with_free_variables"


class NoSourceError(ValueError):
  """The function's source can't be found, or isn't that of a plain function."""


def tree_of(function: Function) -> Definition:
  """Return a function's definition, without decorators, docstring and annotations.

  Raises:
    NoSourceError: it isn't a Python function, or its source isn't unique.
  """
  if not isinstance(function, types.FunctionType):
    raise NoSourceError(f"{function!r} is no Python function")
  code = function.__code__
  found = [
    node
    for node in definitions(code.co_filename)
    if first_line(node) == code.co_firstlineno and names_of(node) == names_of_code(code)
  ]
  if len(found) != 1:
    raise NoSourceError(f"{len(found)} definitions of {function.__qualname__}")
  return without_words(found[0])


@functools.cache
def definitions(file: str) -> tuple[Definition, ...]:
  """Return all functions of a file."""
  tree = ast.parse(Path(file).read_text(encoding="utf-8"))
  return tuple(node for node in ast.walk(tree) if isinstance(node, Definition))


def first_line(node: Definition) -> int:
  """Return the line that a code object names: that of the first decorator."""
  decorators = getattr(node, "decorator_list", [])
  return min([node.lineno, *(d.lineno for d in decorators)])


def names_of(node: Definition) -> tuple[str, tuple[str, ...]]:
  """Return a definition's name and those of its parameters."""
  name = node.name if isinstance(node, ast.FunctionDef) else "<lambda>"
  a = node.args
  return name, tuple(x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs))


def names_of_code(code: types.CodeType) -> tuple[str, tuple[str, ...]]:
  """Return the same of a compiled function."""
  return code.co_name, code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def without_words(node: Definition) -> Definition:
  """Return a copy without what isn't computed: decorators, docstrings and annotations."""
  node = ast.parse(ast.unparse(node)).body[0]  # type: ignore[assignment]  # A deep copy.
  for own in ast.walk(node):
    if isinstance(own, ast.FunctionDef):
      own.decorator_list, own.returns = [], None
      if ast.get_docstring(own, clean=False) is not None:
        own.body = own.body[1:] or [ast.Pass()]
    elif isinstance(own, ast.arg):
      own.annotation = None
  return node.value if isinstance(node, ast.Expr) else node  # type: ignore[return-value]


def compiled(function: Function, tree: Definition) -> Function:
  """Return the function of an edited definition, in the place of the original."""
  free = function.__code__.co_freevars
  named = isinstance(tree, ast.FunctionDef)
  text = ast.unparse(tree)
  body = text if named else f"_edited = {text}"
  result = tree.name if isinstance(tree, ast.FunctionDef) else "_edited"
  lines = [f"def {FACTORY}({', '.join(free)}):", *indented(body), f"  return {result}"]
  own: dict[str, Any] = {}
  # This is what a mutant is: the right rule's own source with one edit.
  exec(compile("\n".join(lines), "<mutant>", "exec"), function.__globals__, own)  # noqa: S102
  cells = [cell.cell_contents for cell in function.__closure__ or ()]
  edited = own[FACTORY](*cells)
  edited.__defaults__, edited.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
  # The verifier takes a rule of JAX's own modules for a primitive's; an edited one is a user's.
  edited.__module__ = "mutant"
  return edited


def indented(text: str) -> list[str]:
  """Return the lines of a text, indented by two."""
  return [f"  {line}" for line in text.splitlines()]


def signature(function: Function) -> str:
  """Return what decides whether two functions are the same program: code, constants, names."""
  return repr(program(function.__code__))


def program(code: types.CodeType) -> Any:
  """Return a code object as nested tuples."""
  constants = tuple(
    program(c) if isinstance(c, types.CodeType) else (type(c).__name__, repr(c))
    for c in code.co_consts
  )
  return code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars


def difference(before: Definition, after: Definition) -> tuple[str, str]:
  """Return the lines that differ, without what they share at both ends."""
  was, now = (ast.unparse(tree).splitlines() for tree in (before, after))
  while was and now and was[0] == now[0]:
    was, now = was[1:], now[1:]
  while was and now and was[-1] == now[-1]:
    was, now = was[:-1], now[:-1]
  return tuple(" ; ".join(line.strip() for line in lines) for lines in (was, now))  # type: ignore[return-value]
