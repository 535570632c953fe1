"""Deferred interrupts: Ctrl-C takes effect after the current chunk, so that no state is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interruption:
  """The signal by which an interrupt was received; None before one."""

  signum: int | None = None

  def request(self, signum: int, frame: FrameType | None) -> None:
    """Record a signal (the handler); a second one acts immediately."""
    if self.signum is not None:
      raise KeyboardInterrupt
    self.signum = signum


@contextmanager
def deferred_interrupt(*signals: int) -> Iterator[Interruption]:
  """Record signals within the block instead of acting on them.

  While a compiled chunk runs, its donated input is deleted and its output isn't available yet; an
  exception raised then would leave nothing to save. Outside of the main thread, where Python
  delivers no signals, this has no effect.

  Args:
    *signals: such as `signal.SIGINT`.

  Yields:
    The `Interruption`. A nested block with the same first signal shares the outer block's object,
    so that both see every signal.
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
