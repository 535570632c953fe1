"""The console: usage errors, printing and writing, progress, the table of a run."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from fbackprop.errors import ArgumentError
from fbackprop.extras import need
from fbackprop.files import write_whole
from fbackprop.train.arguments import WatchName

if TYPE_CHECKING:
  from fbackprop.train.results import Evaluation


class UsageError(Exception):
  """A flag, a key or a file is invalid: exit code 2. The message names it."""


@contextmanager
def usage_errors(
  where: str = "", names: Mapping[str, str] = MappingProxyType({})
) -> Iterator[None]:
  """Convert errors of files, values and arguments to usage errors, within the block.

  This is the only place where errors of the library are translated to the terms of the command
  line.

  Args:
    where: prefix of the message, such as "--data csv:table.csv"; omitted if the error names a file.
    names: names of the library's arguments on the command line, such as "--batch-size".
  """
  try:
    yield
  except OSError as error:
    reason = error.strerror or str(error)
    if error.filename is not None and str(error.filename) not in where:
      reason = f"{error.filename}: {reason}"
    raise UsageError(f"{where or 'a file'} can't be read: {reason}") from error
  except (ValueError, TypeError) as error:
    argument = str(getattr(error, "argument", None))
    if isinstance(error, ArgumentError) and argument in names:
      raise UsageError(error.named(names[argument])) from error
    is_named = not where or str(error).startswith(where)
    raise UsageError(str(error) if is_named else f"{where}: {error}") from error


# --- Printing and writing -------------------------------------------------------------------------


def note(message: str) -> None:
  """Print a message on stderr, after the program's name."""
  print(f"fbackprop: {message}", file=sys.stderr, flush=True)


def show(text: str, missing: str = "replace", *, to_stderr: bool = False) -> None:
  """Print text; `missing` is the codec's error handler for letters unknown to the terminal."""
  stream = sys.stderr if to_stderr else sys.stdout
  encoding = stream.encoding or "utf-8"
  print(text.encode(encoding, missing).decode(encoding), end="", file=stream, flush=True)


def write(flag: str, path: str, content: bytes) -> None:
  """Write a file atomically, following links, and print its path.

  Raises:
    UsageError: the file can't be written.
  """
  try:
    if is_special(path):  # Written in place: it must not be replaced by a regular file.
      Path(path).write_bytes(content)
      return
    write_whole(Path(path).resolve(), content)
  except OSError as error:
    raise UsageError(f"{flag} {path} can't be written: {error.strerror}") from error
  print(f"written: {path}")


def check_writable(flag: str, path: str) -> None:
  """Raise unless `write` could write a file, before the work begins; leave no file behind."""
  try:
    if is_special(path):
      # Not by opening: opening and closing a pipe would end it for its reader.
      if not os.access(path, os.W_OK):
        raise PermissionError(0, "Permission denied")
      return
    resolved = Path(path).resolve()
    if resolved.is_dir():
      raise IsADirectoryError(0, "Is a directory")
    with tempfile.TemporaryFile(dir=resolved.parent):
      return
  except OSError as error:
    raise UsageError(f"{flag} {path} can't be written: {error.strerror}") from error


def is_special(path: str) -> bool:
  """Return whether a path is a device, a pipe or a socket, or a shell's name of /dev/stdout."""
  is_device = Path(path).absolute().is_relative_to("/dev")
  return (
    os.path.exists(path) and not os.path.isdir(path) and (is_device or not os.path.isfile(path))
  )


def number(value: Any) -> str:
  """Format a number of a run, such as a loss; "-" for None."""
  if not isinstance(value, Real) or isinstance(value, Integral):
    return "-" if value is None else str(value)
  value = float(value)
  return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def words(value: Any) -> str:
  """Format the value of a setting, with spaces between several."""
  if isinstance(value, tuple):
    return " ".join(map(str, value)) or "none"
  return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def first_of(names: tuple[str, ...], most: int = 6) -> str:
  """Format names with commas, truncated to the first `most`."""
  return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# --- Progress -------------------------------------------------------------------------------------


class Progress(Protocol):
  """A callback that shows a line and the progress of the work."""

  def __call__(self, line: str, step: int) -> None:
    """Show a line at a step."""


@contextmanager
def show_progress(total: int | None, what: str = "training") -> Iterator[Progress]:
  """Show lines and a progress bar on a terminal, lines alone elsewhere.

  Args:
    total: number of steps of a full bar; None if unknown.
    what: label of the bar.

  Yields:
    `show(line, step)`.
  """
  if not sys.stdout.isatty():

    def show_line(line: str, step: int) -> None:
      print(line, flush=True)

    yield show_line
    return
  rich = need("rich.progress", extra="train")
  columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
  with rich.Progress(what, *columns, transient=True) as bar:
    task = bar.add_task(what, total=total)

    def show_above_bar(line: str, step: int) -> None:
      bar.console.print(line, highlight=False, markup=False)
      bar.update(task, completed=step)

    yield show_above_bar


# --- The table of a run ---------------------------------------------------------------------------


class Column(NamedTuple):
  """A column of the table: its name, its width, and its cell for an evaluation."""

  name: str
  width: int
  cell: Callable[["Evaluation"], str]


@dataclass(frozen=True)
class Table:
  """The table of a run's evaluations, printed row by row.

  Attributes:
    is_classification: whether there is an accuracy.
    is_validated: whether there is a validation set.
    is_clipped: whether the examples' gradients are clipped.
    watched: the extra diagnostics.
  """

  is_classification: bool
  is_validated: bool
  is_clipped: bool
  watched: tuple[WatchName, ...]

  @property
  def columns(self) -> list[Column]:
    """The table's columns, from left to right."""
    every = (
      (True, Column("step", 8, lambda e: str(e.step))),
      (True, Column("epoch", 8, lambda e: f"{e.epoch:.1f}")),
      (True, Column("train loss", 12, lambda e: number(e.train_loss))),
      (True, Column("test loss", 11, lambda e: number(e.test_loss))),
      (self.is_classification, Column("test accuracy", 14, lambda e: number(e.test_accuracy))),
      (self.is_validated, Column("validation", 12, lambda e: number(e.validation_score))),
      (self.is_clipped, Column("clipped", 9, lambda e: percent(e.clipped))),
      ("noise_scale" in self.watched,
       Column("noise scale", 13, lambda e: examples(e.noise_scale))),
      ("health" in self.watched, Column("max dead", 11, lambda e: percent(most_dead(e.health)))),
      (True, Column("error of gradient", 20, lambda e: error(e.gradient_error))),
    )  # fmt: skip
    return [column for is_there, column in every if is_there]

  def head(self) -> str:
    """Format the heading of the table."""
    return "".join(f"{column.name:>{column.width}}" for column in self.columns)

  def row(self, evaluation: "Evaluation") -> str:
    """Format an evaluation as a row of the table."""
    return "".join(f"{column.cell(evaluation):>{column.width}}" for column in self.columns)


def percent(share: float | None) -> str:
  """Format a fraction in percent."""
  return "-" if share is None else f"{100 * share:.1f} %"


def examples(count: float | None) -> str:
  """Format a number of examples."""
  return "-" if count is None else f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def error(value: float | None) -> str:
  """Format a relative error."""
  return "-" if value is None else f"{value:.1e}"


def most_dead(health: dict[str, Any] | None) -> float | None:
  """Return the largest fraction of dead units of any layer; copies of a `repeat` have a list."""
  shares = [layer["dead"] for layer in (health or {}).values()]
  return max((max(s) if isinstance(s, list) else s for s in shares), default=None)
