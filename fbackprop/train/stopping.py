"""When a run stops. This module imports no jax: the command line reads its defaults from here."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

STOP_REASONS = ("max_steps", "loss_below", "tol", "interrupted", "diverged")


@dataclass(frozen=True)
class StopRules:
  """The lecture's two stop rules, and a third for a loss that has stopped falling: `tol`, with
  `patience`, as scikit-learn's `tol` and `n_iter_no_change`.

  The loss that is judged is the mean of the steps' losses over an epoch (one pass over the data),
  at the epoch's end; in full-batch descent that is the loss of each step. With weights it is the
  weighted mean over the epoch's examples, and an epoch whose weights are all zero is no progress.
  """

  max_steps: int
  """Stop after this many steps."""

  loss_below: float | None = None
  """Stop at the end of an epoch whose mean loss is this or less."""

  tol: float | None = None
  """Stop when the loss of more than `patience` epochs in a row isn't below the best by `tol`."""

  patience: int = 10
  """Epochs that `tol` waits."""

  def __post_init__(self) -> None:
    check_count("stop.max_steps", self.max_steps, least=0)
    if self.max_steps >= 2**31:
      raise ValueError(f"stop.max_steps must be below 2^31, got {self.max_steps}")
    check_count("stop.patience", self.patience, least=1)
    for name in ("loss_below", "tol"):
      value = getattr(self, name)
      number = isinstance(value, Real) and not isinstance(value, bool)
      if value is not None and not (number and math.isfinite(value) and value >= 0):
        raise ValueError(f"stop.{name} must be a finite number of at least 0, got {value!r}")


def check_count(name: str, value: object, least: int) -> None:
  """Refuses what isn't an integer of at least `least`."""
  if isinstance(value, bool) or not isinstance(value, Integral):
    raise TypeError(f"{name} must be an integer, got {value!r}")
  if int(value) < least:
    raise ValueError(f"{name} must be at least {least}, got {value}")
