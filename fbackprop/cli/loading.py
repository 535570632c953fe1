"""The loading of a user's function by its name, pkg.module:f."""

import os
import pkgutil
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from fbackprop.cli.console import UsageError
from fbackprop.errors import hint

OURS = str(Path(__file__).parents[1])


def load(what: str, target: str) -> Any:
  """Load an attribute of a module; the current folder is importable, as for `python -m`.

  Args:
    what: prefix of an error, such as "--args".
    target: such as "pkg.module:name", or with dots in the name.

  Returns:
    The value.

  Raises:
    UsageError: the module or attribute doesn't exist, or importing the module raises.
  """
  module, _, path = target.partition(":")
  if not all(part.isidentifier() for part in [*module.split("."), *path.split(".")]):
    raise UsageError(f"{what} must have the form pkg.module:name, got {target!r}")
  folder = os.getcwd()
  if folder not in sys.path and "" not in sys.path:
    sys.path.insert(0, folder)
  try:
    import_module(module)
  except (Exception, SystemExit) as error:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None or not f"{module}.".startswith(f"{missing}."):
      raise UsageError(f"{what}: importing {module} raised {described(error)}") from error
    parent, _, last = missing.rpartition(".")
    message = f"there is no module {missing!r}; {hint(last, modules_in(parent))}"
    raise UsageError(f"{what}: {message}") from error
  try:
    return pkgutil.resolve_name(target)
  except AttributeError as error:
    owner, name = error.obj, str(error.name)
    names = [n for n in dir(owner) if not n.startswith("_")] or dir(owner)
    where = f"the module {module}" if isinstance(owner, ModuleType) else type(owner).__name__
    raise UsageError(f"{what} {target}: {where} has no {name!r}; {hint(name, names)}") from None


def modules_in(package: str) -> list[str]:
  """Return the modules of a package, or those of the current folder."""
  paths = getattr(sys.modules.get(package), "__path__", []) if package else [os.getcwd()]
  return [module.name for module in pkgutil.iter_modules(list(paths))] or ["none"]


def described(error: BaseException) -> str:
  """Describe an exception in a line: its type, message, and the user's line that raised it."""
  said = " ".join(str(error).split())
  text = f"{type(error).__name__}: {said}" if said else type(error).__name__
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    is_users = not frame.filename.startswith((OURS, "<")) and "site-packages" not in frame.filename
    if is_users and not frame.filename.startswith(sys.base_prefix):
      return f"{text} ({os.path.relpath(frame.filename)}, line {frame.lineno})"
  return text
