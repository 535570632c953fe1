"""The time limit of a verification: `seconds=`.

The limit is looked at in each evaluated equation and between checks. What JAX traces or compiles,
and a call of the rule itself, is waited for.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
