"""The console: usage errors, printing and writing, progress."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fbackprop.errors import ArgumentError
from fbackprop.extras import need
from fbackprop.files import write_whole

Config = TypeVar("Config")
Progress = Callable[[str, int], None]
"""Shows a line, and the progress of the work at a step."""
PATIENCE = 1.0  # Seconds after which a user is told what takes so long.


class UsageError(Exception):
  """A flag, a key or a file is invalid: exit code 2. The message names it."""


def refuse(*problems: tuple[object, str]) -> None:
  """Raise a UsageError with the first problem whose condition is true."""
  for is_wrong, problem in problems:
    if is_wrong:
      raise UsageError(problem)


@contextmanager
def failing(what: str) -> Iterator[None]:
  """Convert errors of the operating system within the block to usage errors that begin so."""
  try:
    yield
  except OSError as error:
    raise UsageError(f"{what}: {error.strerror}") from error


@contextmanager
def usage_errors(where: str = "", names: Mapping[str, str] | None = None) -> Iterator[None]:
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
    name = (names or {}).get(str(getattr(error, "argument", None)))
    if isinstance(error, ArgumentError) and name is not None:
      raise UsageError(error.named(name)) from error
    is_named = not where or str(error).startswith(where)
    raise UsageError(str(error) if is_named else f"{where}: {error}") from error


def parsed(kind: type[Config], command: str, arguments: Sequence[str], **options: Any) -> Config:
  """Parse the flags of a command to its dataclass; tyro exits by itself."""
  import tyro

  options |= {"prog": f"fbackprop {command}", "config": (tyro.conf.FlagCreatePairsOff,)}
  return tyro.cli(kind, args=arguments, **options)


def usually(shown: str, **options: Any) -> Any:
  """Return the annotation of a flag whose help shows this as its default."""
  import tyro

  return tyro.conf.arg(help_behavior_hint=f"(default: {shown})", **options)


# --- Printing and writing -------------------------------------------------------------------------


def note(message: str) -> None:
  """Print a message on stderr, after the program's name."""
  print(f"fbackprop: {message}", file=sys.stderr, flush=True)


def show(text: str, missing: str = "replace", *, to_stderr: bool = False) -> None:
  """Print text; `missing` is the codec's error handler for letters unknown to the terminal."""
  stream = sys.stderr if to_stderr else sys.stdout
  encoding = stream.encoding or "utf-8"
  print(text.encode(encoding, missing).decode(encoding), end="", file=stream, flush=True)


def write(flag: str, path: str, content: bytes, *, to_stderr: bool = False) -> None:
  """Write a file atomically, following links, and print its path.

  Raises:
    UsageError: the file can't be written.
  """
  with failing(f"{flag} {path} can't be written"):
    if is_special(path):  # Written in place: it must not be replaced by a regular file.
      Path(path).write_bytes(content)
      return
    write_whole(Path(path).resolve(), content)
  show(f"written: {path}\n", to_stderr=to_stderr)


def check_writable(flag: str, path: str) -> None:
  """Raise unless `write` could write a file, before the work begins; leave no file behind."""
  with failing(f"{flag} {path} can't be written"):
    if not is_special(path):
      if Path(path).is_dir():
        raise IsADirectoryError(0, "Is a directory")
      tempfile.TemporaryFile(dir=Path(path).resolve().parent).close()
    # Not by opening: opening and closing a pipe would end it for its reader.
    elif not os.access(path, os.W_OK):
      raise PermissionError(0, "Permission denied")


def is_special(path: str) -> bool:
  """Return whether a path is a device, a pipe or a socket, or a shell's name of /dev/stdout."""
  is_regular = os.path.isfile(path) and not Path(path).absolute().is_relative_to("/dev")
  return os.path.exists(path) and not os.path.isdir(path) and not is_regular


def words(value: Any) -> str:
  """Format the value of a setting, with spaces between several."""
  if isinstance(value, tuple):
    return " ".join(map(str, value)) or "none"
  return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def first_of(names: tuple[str, ...], most: int = 6) -> str:
  """Format names with commas, truncated to the first `most`."""
  return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


class Phases:
  """Wall time by phase, in seconds: a phase begins where the one before it ended."""

  def __init__(self) -> None:
    self.begin = time.perf_counter()
    self.seconds: dict[str, float] = {}

  def end(self, name: str, **parts: float) -> None:
    """End a phase; `parts` are phases of their own that it contained."""
    now = time.perf_counter()
    self.seconds |= {**parts, name: max(0.0, now - self.begin - sum(parts.values()))}
    self.begin = now


# --- Progress -------------------------------------------------------------------------------------


@contextmanager
def show_progress(
  total: int | None, what: str = "training", *, before: str | None = None, silent: bool = False
) -> Iterator[Progress]:
  """Show lines and a progress bar on a terminal, lines alone elsewhere, or nothing if `silent`.

  Args:
    total: number of steps of a full bar; None if unknown.
    what: label of the bar.
    before: label until the first call of `show`, if that takes more than `PATIENCE` seconds.
    silent: whether nothing is shown.

  Yields:
    `show(line, step)`; an empty line isn't printed.
  """
  if silent or not sys.stdout.isatty():
    yield lambda line, step: None if silent or not line else print(line, flush=True)
    return
  rich = need("rich.progress", extra="train")
  columns = (rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeRemainingColumn())
  with rich.Progress("{task.description}", *columns, transient=True) as bar:
    task = bar.add_task(what, total=total)
    timer = threading.Timer(PATIENCE, bar.update, (task,), {"description": before or what})
    timer.start()

    def show_above_bar(line: str, step: int) -> None:
      timer.cancel()
      if line:
        bar.console.print(line, highlight=False, markup=False)
      bar.update(task, completed=step, description=what)

    try:
      yield show_above_bar
    finally:
      timer.cancel()


@contextmanager
def show_status(what: str, *, silent: bool = False) -> Iterator[Callable[[str], None] | None]:
  """Show on a terminal what is being done, in a line that goes away; nothing elsewhere.

  Args:
    what: the beginning of the line.
    silent: whether nothing is shown.

  Yields:
    `tell(step)`, or None where nothing is shown.
  """
  if silent or not sys.stdout.isatty():
    yield None
    return
  rich = need("rich.console", extra="train")
  with rich.Console().status(what) as status:
    yield lambda step: status.update(f"{what}: {step}")


def table_of_rates(rows: Sequence[dict[str, Any]], is_labelled: bool) -> list[str]:
  """Format the spreads of an ensemble's scores, with one line per learning rate."""
  from fbackprop.train.metrics import number

  what = ("test accuracy" if is_labelled else "test loss") + ", mean ± deviation"
  lines = [f"{'rate':>9}  {what:<34}{'best':>9}{'worst':>9}{'together':>10}"]
  for row in rows:
    spread = f"{number(row['mean'])} ± {number(row['deviation'])}"
    ends = ("most", "least") if is_labelled else ("least", "most")
    best, worst, together = (number(row[key]) for key in (*ends, "together"))
    lines.append(f"{row['rate']:>9g}  {spread:<34}{best:>9}{worst:>9}{together:>10}")
  return lines
