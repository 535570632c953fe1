"""Argument errors, each with the name of its argument, and suggestions for misspelt words.

A message reads "WHERE: ARGUMENT must be THIS, got THAT". Its parts are stored separately, so that
the command line can substitute its own name of an argument (a flag, or a key of a file) without
parsing the message. This module doesn't import jax.
"""

import difflib
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class ArgumentError(Exception):
  """An argument was refused. Every subclass is also a ValueError or a TypeError.

  Attributes:
    argument: name of the argument, such as "batch_size" or "stop.tol"; None if only the message
      names it.
    problem: the message without the name, such as "must be at least 1, got 0".
    before: the text before the name, such as "unknown value 'heath' for".
  """

  def __init__(
    self, problem: str, argument: str | None = None, where: str = "", *, before: str = ""
  ) -> None:
    self.argument, self.problem, self.before = argument, problem, before
    message = problem if argument is None else self.named(argument)
    super().__init__(f"{where}: {message}" if where else message)

  def named(self, name: str) -> str:
    """Return the message with another name for the argument."""
    gap = "" if self.problem.startswith((",", ";")) else " "
    return f"{self.before}{' ' * bool(self.before)}{name}{gap}{self.problem}"


class ShapeError(ArgumentError, ValueError):
  """An array has the wrong shape."""


class DtypeError(ArgumentError, TypeError):
  """An array has the wrong dtype, or another argument the wrong type."""


class StructureError(ArgumentError, ValueError):
  """A pytree of parameters has the wrong structure."""


class RangeError(ArgumentError, ValueError):
  """A value is out of range, or not among the choices."""


def describe(value: Any) -> str:
  """Describe a value: as `float32[5, 10]` for an array, else by its type and a shortened repr."""
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    return f"{value.dtype}[{', '.join(str(d) for d in value.shape)}]"
  if hasattr(value, "forward") and hasattr(value, "name"):  # The repr of a layer fills a page.
    return f"the {type(value).__name__} {value.name!r}"
  text = repr(value)
  return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def hint(word: str, words: Collection[str]) -> str:
  """Suggest the closest of some words; without a close one list them, if they aren't many."""
  close = difflib.get_close_matches(word[:100], words, n=1)
  if close:
    return f"did you mean {close[0]!r}?"
  return f"there are: {', '.join(list(words)[:40])}{', ...' if len(words) > 40 else ''}"


def check_that(
  where: str,
  name: str,
  value: object,
  is_right: object,
  wanted: str,
  kind: type[ArgumentError] = DtypeError,
) -> None:
  """Raise an error unless a value is right; `wanted` is what it must, such as "be an array"."""
  if not is_right:
    raise kind(f"must {wanted}, got {describe(value)}", name, where)


def check_choice(where: str, name: str, value: object, choices: Iterable[str]) -> None:
  """Raise a RangeError unless a word is among the choices; the message suggests the nearest."""
  choices = tuple(choices)
  if value not in choices:
    said = f"; {hint(str(value), choices)}"
    raise RangeError(said, name, where, before=f"unknown value {value!r:.100} for")


@contextmanager
def noted(place: str) -> Iterator[None]:
  """Add a note of the place to an argument error that is raised within the block."""
  try:
    yield
  except (TypeError, ValueError) as error:
    error.add_note(place)
    raise


def callers_level() -> int:
  """Return the `stacklevel` of the first caller outside the package, for warnings."""
  level, frame = 1, sys._getframe(1)
  while frame.f_back is not None and frame.f_globals["__name__"].startswith("fbackprop"):
    level, frame = level + 1, frame.f_back
  return level
