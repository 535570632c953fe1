"""A user's own functions by their names, as pkg.module:f; what can't be had is a usage error."""

import os
import pkgutil
import sys
import traceback
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from fbackprop.cli.usage import UsageError, hint

OURS = str(Path(__file__).parents[1])


def load(what: str, target: str) -> Any:
  """An attribute of a module; the current folder is importable, as it is for `python -m`.

  Args:
    what: names it, and how it was given, as "--args".
    target: as "pkg.module:name", or with dots in the name.

  Returns:
    The value.

  Raises:
    UsageError: there is no such module or attribute, or the module raises while it is imported.
  """
  module_name, _, path = target.partition(":")
  if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
    raise UsageError(f"{what} must be as pkg.module:name, got {target!r}")
  folder = os.getcwd()
  if folder not in sys.path and "" not in sys.path:
    sys.path.insert(0, folder)
  value: Any = module_of(what, module_name)
  for name in path.split("."):
    try:
      value = getattr(value, name)
    except AttributeError:
      names = [n for n in dir(value) if not n.startswith("_")] or dir(value)
      where = f"the module {module_name}" if isinstance(value, ModuleType) else type(value).__name__
      raise UsageError(f"{what} {target}: {where} has no {name!r}; {hint(name, names)}") from None
  return value


def module_of(what: str, name: str) -> ModuleType:
  """Imports a module, package by package; tells one that isn't there from one that raises."""
  module, parts = None, name.split(".")
  for i, last in enumerate(parts):
    parent, part = ".".join(parts[:i]), ".".join(parts[: i + 1])
    try:
      is_there = part in sys.modules or (
        (module is None or hasattr(module, "__path__")) and util.find_spec(part) is not None
      )
      module = import_module(part) if is_there else None
    except (Exception, SystemExit) as error:
      raise UsageError(f"{what}: to import {part} raised {described(error)}") from error
    if module is None:
      raise UsageError(f"{what}: there is no module {part!r}; {hint(last, modules_in(parent))}")
  return import_module(name)


def modules_in(package: str) -> list[str]:
  """The modules of a package, or those of the current folder."""
  paths = getattr(sys.modules.get(package), "__path__", []) if package else [os.getcwd()]
  return [module.name for module in pkgutil.iter_modules(list(paths))] or ["none"]


def described(error: BaseException) -> str:
  """An exception in a line: its kind, what it says, and the line of the user's that led to it."""
  said = " ".join(str(error).split())
  text = f"{type(error).__name__}: {said}" if said else type(error).__name__
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    is_users = not frame.filename.startswith((OURS, "<")) and "site-packages" not in frame.filename
    if is_users and not frame.filename.startswith(sys.base_prefix):
      return f"{text} ({os.path.relpath(frame.filename)}, line {frame.lineno})"
  return text
