"""Optional dependencies: imported when used; an error names the extra that installs them."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def check_installed(module: str, *, extra: str) -> None:
  """Raise as `need` would unless a top-level module is installed, without importing it."""
  try:
    is_there = find_spec(module) is not None
  except ValueError:  # It is imported, and has no specification.
    is_there = True
  if not is_there:
    need(module, extra=extra)


def need(module: str, *, extra: str) -> Any:
  """Import a module of an optional dependency.

  Args:
    module: its full name.
    extra: the extra of fbackprop that installs it.

  Returns:
    The module.

  Raises:
    ModuleNotFoundError: it isn't installed; the message says what to install.
  """
  try:
    return import_module(module)
  except ModuleNotFoundError as error:
    package = module.partition(".")[0]
    if error.name != package:
      raise
    raise ModuleNotFoundError(
      f"{package} is not installed; install it with: pip install 'fbackprop[{extra}]'", name=package
    ) from error
