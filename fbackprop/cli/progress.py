"""Progress: a line for each evaluation, and on a terminal a bar under the lines."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from fbackprop.extras import need


class Progress(Protocol):
  """Where the lines go."""

  def __call__(self, line: str, step: int) -> None:
    """Shows a line; `step` is how far the run is."""


@contextmanager
def show_progress(total: int | None, what: str = "training") -> Iterator[Progress]:
  """Lines and a bar on a terminal, lines alone elsewhere.

  Args:
    total: steps at which the bar is full; None if that isn't known.
    what: the word before the bar.

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
