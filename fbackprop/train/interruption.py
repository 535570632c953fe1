"""Ctrl-C that waits for a safe place: the state in flight is never lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
  """Whether an interrupt has come."""

  def __init__(self) -> None:
    self.requested = False

  def request(self, signum: int, frame: FrameType | None) -> None:
    """The signal handler. A second interrupt doesn't wait."""
    if self.requested:
      raise KeyboardInterrupt
    self.requested = True


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
  """Notes SIGINT in the place of raising it, inside the block.

  While a compiled chunk runs, its donated input is gone and its output not yet there; an exception
  raised then would leave nothing to save. Outside of the main thread, where Python takes no
  signals, nothing is changed.
  """
  interruption = Interruption()
  if threading.current_thread() is not threading.main_thread():
    yield interruption
    return
  before = signal.signal(signal.SIGINT, interruption.request)
  try:
    yield interruption
  finally:
    signal.signal(signal.SIGINT, before)
