"""The errors of arguments; each has the name of its argument.

A message reads "WHERE: ARGUMENT must be THIS, got THAT". Its parts are kept apart, so that who
calls an argument by another name (the command line: a flag, or a key of a file) can say so without
taking a message to pieces. No jax is imported here.
"""

from collections.abc import Iterable
from typing import Any

from fbackprop.hints import hint


class ArgumentError(Exception):
  """An argument was refused. Each of its kinds is a ValueError or a TypeError too.

  Attributes:
    argument: the argument's name, as "batch_size" or "stop.tol"; None if the message alone has it.
    problem: the message without the name, as "must be at least 1, got 0".
    before: what precedes the name, as "unknown value 'heath' for".
  """

  def __init__(
    self, problem: str, argument: str | None = None, where: str = "", *, before: str = ""
  ) -> None:
    self.argument, self.problem, self.before = argument, problem, before
    message = problem if argument is None else self.named(argument)
    super().__init__(f"{where}: {message}" if where else message)

  def named(self, name: str) -> str:
    """The message with another name for the argument."""
    gap = "" if self.problem.startswith((",", ";")) else " "
    return f"{self.before}{' ' * bool(self.before)}{name}{gap}{self.problem}"


class ShapeError(ArgumentError, ValueError):
  """An array has a wrong shape."""


class DtypeError(ArgumentError, TypeError):
  """An array has a wrong dtype, or another argument a wrong type."""


class StructureError(ArgumentError, ValueError):
  """A pytree of parameters has a wrong structure."""


class RangeError(ArgumentError, ValueError):
  """A value is out of range, or is none of the choices."""


def describe(value: Any) -> str:
  """Describe a value: `float32[5, 10]` for an array, else its type and a shortened repr."""
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    return f"{value.dtype}[{', '.join(str(d) for d in value.shape)}]"
  if hasattr(value, "forward") and hasattr(value, "name"):  # Its repr would be a page.
    return f"the {type(value).__name__} {value.name!r}"
  text = repr(value)
  return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def check_choice(where: str, name: str, value: object, choices: Iterable[str]) -> None:
  """Refuse a word that is none of the choices; the message has the nearest of them."""
  choices = tuple(choices)
  if value not in choices:
    said = f"; {hint(str(value), choices)}"
    raise RangeError(said, name, where, before=f"unknown value {value!r:.100} for")
