"""A TOML file as flags; what is wrong in it is said in the words of the file."""

import os
import re
import reprlib
import tomllib
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from fbackprop.cli.usage import UsageError, hint
from fbackprop.files import read_text

MOST_OF_TOML = 2**18
# For a key of n parts tomllib takes n² steps; ours have two.
MOST_PARTS = 50


def flags_of_file(path: str, default: Any) -> list[str]:
  """A TOML file as the flags that say the same.

  Args:
    path: the file.
    default: the dataclass of the flags, in which the file's values are tried.

  Raises:
    UsageError: it can't be read, is no TOML, or a key or a value can't be.
  """
  return flags_of_table(read_toml(path, f"--config {path}"), default, path, "")


def read_toml(path: str | os.PathLike[str], where: str) -> dict[str, Any]:
  """A TOML file; `where` names it in a usage error."""
  try:
    text = read_text(path, MOST_OF_TOML)
    for piece in re.split(r"[=,\n\[\]{}]", text):
      if len(re.findall(r"\.[ \t]*[^\s.]", piece)) >= MOST_PARTS:
        raise ValueError(f"a key has more than {MOST_PARTS} parts: {piece.strip()!r:.50}")
    return tomllib.loads(text)
  except OSError as error:
    raise UsageError(f"{where} can't be read: {error.strerror}") from error
  # tomllib follows lists in lists by calls. What Python says then depends on where it ran out.
  except RecursionError as error:
    raise UsageError(f"{where} is no TOML file: its lists are nested too deeply") from error
  # tomllib leaves it to int() to refuse what is too long.
  except ValueError as error:
    raise UsageError(f"{where} is no TOML file: {error}") from error


def flags_of_table(table: dict[str, Any], default: Any, path: str, prefix: str) -> list[str]:
  """The entries of a table as flags; what can't be there is refused by its key.

  Args:
    table: of the file.
    default: a configuration, in which a value is tried.
    path: of the file.
    prefix: of its keys, such as "stop.".
  """
  known = {f.name: f.type for f in fields(default) if f.name != "config"}
  flags: list[str] = []
  for key, value in table.items():
    if key not in known:
      raise UsageError(f"{path}: there is no key {prefix + key!r:.100}; {hint(key, known)}")
    flag = f"--{prefix}{key}".replace("_", "-")
    if is_dataclass(known[key]):
      if not isinstance(value, dict):
        raise UsageError(f"{path}: {prefix + key} must be a table, got {shown(value)}")
      flags += flags_of_table(value, getattr(default, key), path, f"{prefix}{key}.")
      continue
    if not of_type(value, known[key]):
      raise UsageError(f"{path}: {prefix + key} must be {in_words(known[key])}, got {shown(value)}")
    # In a list tyro would take such a text for a flag.
    if isinstance(value, list) and any(str(part).startswith("--") for part in value):
      raise UsageError(f"{path}: {prefix + key} can't hold what begins with --, got {shown(value)}")
    try:
      replace(default, **{key: tuple(value) if isinstance(value, list) else value})
    except (UsageError, ValueError) as error:
      # Its first word is the flag, which nobody gave.
      raise UsageError(f"{path}: {prefix + key} {str(error).partition(' ')[2]}") from error
    # With "=", a text that begins with a dash isn't taken for a flag.
    flags += [flag, *map(str, value)] if isinstance(value, list) else [f"{flag}={value}"]
  return flags


def shown(value: Any) -> str:
  """A value as an error says it, not too much of it."""
  short = reprlib.Repr()
  short.maxstring = short.maxother = short.maxlong = 100
  try:
    return short.repr(value)
  except ValueError:  # Of an integer of thousands of digits.
    return "a number of thousands of digits"


def in_words(kind: Any) -> str:
  """The type of a field as a user of TOML would say it."""
  if get_origin(kind) is Annotated:
    return in_words(get_args(kind)[0])
  if get_origin(kind) is Literal:
    return f"one of {', '.join(get_args(kind))}"
  words = {
    int: "an integer",
    float: "a number",
    str: "a text",
    tuple[int, ...]: "a list of integers",
    tuple[float, ...]: "a list of numbers",
    tuple[str, ...]: "a list of texts",
  }
  # TOML has no word for None.
  choices = (in_words(part) for part in get_args(kind) if part is not type(None))
  return words.get(kind) or " or ".join(choices)


def of_type(value: Any, kind: Any) -> bool:
  """Whether a TOML value can stand where a field of a configuration has a type."""
  if kind is float:
    return isinstance(value, float) or of_type(value, int)
  if kind is int:
    # As long as TOML has them: a longer one couldn't be printed either.
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
  if kind is str:
    return isinstance(value, str)
  if get_origin(kind) is Annotated:
    return of_type(value, get_args(kind)[0])
  if get_origin(kind) is tuple:
    return isinstance(value, list) and all(of_type(v, get_args(kind)[0]) for v in value)
  # A choice of words, or "something or None": a word, or what one of the alternatives takes.
  return any(value == part or of_type(value, part) for part in get_args(kind))
