"""The time limit of a verification: `seconds=`.

The limit is looked at in each evaluated equation, between parts of a long loop and between checks,
and ends the wait for a compilation. What JAX traces, and a call of the rule itself, is waited for.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

# In the clock of `time.monotonic`.
END: ContextVar[float] = ContextVar("END", default=math.inf)


class OutOfTimeError(Exception):
  """The time limit was reached: what is known by then is reported."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
  """Raise OutOfTimeError from `check_time` once this many seconds are over; None for no other."""
  end = math.inf if seconds is None else time.monotonic() + seconds
  token = END.set(min(end, END.get()))
  try:
    yield
  finally:
    END.reset(token)


def is_over() -> bool:
  """Return whether the time limit is over."""
  return time.monotonic() > END.get()


def check_time() -> None:
  """Raise OutOfTimeError if the time limit is over."""
  if is_over():
    raise OutOfTimeError


def waited(function: Callable[[], object]) -> None:
  """Call a function that holds no lock of Python's, until the time limit is over.

  It then goes on in its thread, which can't be stopped, and which the end of the process waits for.
  What it raises is raised where the function is called next.

  Raises:
    OutOfTimeError: the limit was over before the function was.
  """
  if math.isinf(END.get()):
    return

  def run() -> None:
    with suppress(Exception):
      function()

  thread = threading.Thread(target=run)
  thread.start()
  thread.join(max(0.0, END.get() - time.monotonic()))
  if thread.is_alive():
    raise OutOfTimeError
