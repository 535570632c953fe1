"""Packages whose names are imported when they are touched (PEP 562), and not before."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
  package: str, homes: Mapping[str, tuple[str, ...]], subpackages: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
  """Makes `__getattr__`, `__dir__` and `__all__` of a package.

  Args:
    package: its full name.
    homes: for each module of the package the names that it gives to the package.
    subpackages: modules that are themselves names of the package.

  Returns:
    `(__getattr__, __dir__, __all__)`.

  Raises:
    AttributeError: by `__getattr__`, for a name that the package doesn't have.
  """
  home_of = {name: module for module, names in homes.items() for name in names}
  public = sorted([*home_of, *subpackages])

  def getattr_(name: str) -> Any:
    if name in subpackages:
      return import_module(f"{package}.{name}")
    if name not in home_of:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(f"{package}.{home_of[name]}"), name)

  def dir_() -> list[str]:
    return public

  return getattr_, dir_, public
