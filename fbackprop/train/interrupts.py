"""Deferred interrupts: Ctrl-C takes effect after the chunk in flight, whose state isn't lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
  """Whether an interrupt has come, and which signal it was."""

  def __init__(self) -> None:
    self.signum: int | None = None

  @property
  def requested(self) -> bool:
    """Whether one has come."""
    return self.signum is not None

  def request(self, signum: int, frame: FrameType | None) -> None:
    """The signal handler. A second interrupt doesn't wait."""
    if self.requested:
      raise KeyboardInterrupt
    self.signum = signum


@contextmanager
def deferred_interrupt(*signals: int) -> Iterator[Interruption]:
  """Record signals instead of acting on them, inside the block.

  While a compiled chunk runs, its donated input is gone and its output not yet there; an exception
  raised then would leave nothing to save. Outside of the main thread, where Python takes no
  signals, nothing is changed.

  Args:
    *signals: such as `signal.SIGINT`.

  Yields:
    The `Interruption`. A block inside of another one that notes the same first signal shares the
    outer one's, so that nobody misses what the other one heard.
  """
  if threading.current_thread() is not threading.main_thread():
    yield Interruption()
    return
  outer = getattr(signal.getsignal(signals[0]), "__self__", None)
  if isinstance(outer, Interruption):
    yield outer
    return
  interruption = Interruption()
  before = {signum: signal.signal(signum, interruption.request) for signum in signals}
  try:
    yield interruption
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)
