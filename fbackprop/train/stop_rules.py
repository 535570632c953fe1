"""When a run stops. This module imports no jax: the command line reads its defaults from here."""

import math
from dataclasses import dataclass
from numbers import Integral, Real

STOP_REASONS = (
  "max_steps", "max_epochs", "loss_below", "tol", "max_seconds", "interrupted", "diverged",
)  # fmt: skip
# The tol of a run that sets examples aside and says none: scikit-learn's.
VALIDATION_TOL = 1e-4


@dataclass(frozen=True)
class StopRules:
  """The lecture's two stop rules, and others: one of the first three at least, so that there is an
  end. What scikit-learn has too means what it means there.

  The loss that is judged is the mean of the steps' losses over an epoch (one pass over the data),
  at the epoch's end; in full-batch descent that is the loss of each step. With weights it is the
  weighted mean over the epoch's examples, and an epoch whose weights are all zero is no progress.
  """

  max_steps: int | None = None
  """Stop after this many steps."""

  loss_below: float | None = None
  """Stop at the end of an epoch whose mean loss is this or less."""

  tol: float | None = None
  """Stop when more than `patience` epochs in a row weren't better than the best by `tol`: their
  mean loss, or with `validation_fraction` the score, for which it is 1e-4 if not given."""

  patience: int = 10
  """Epochs that `tol` waits: scikit-learn's `n_iter_no_change`."""

  max_epochs: int | None = None
  """Stop after this many epochs: scikit-learn's `max_iter`."""

  max_seconds: float | None = None
  """Stop after this many seconds of wall time, compilation not counted. Such a run can't be
  repeated to the bit: give its number of steps for that."""

  validation_fraction: float | None = None
  """Of the training examples, what is set aside, each class in the same share, and scored after
  each epoch: by the accuracy of labels, else by minus the mean loss. The parameters of the best
  score are the ones that are kept."""

  def __post_init__(self) -> None:
    for name, least in (("max_steps", 0), ("max_epochs", 0), ("patience", 1)):
      value = getattr(self, name)
      if value is not None:
        check_count(f"stop.{name}", value, least)
        if value >= 2**31:
          raise ValueError(f"stop.{name} must be below 2^31, got {value}")
    for name in ("loss_below", "tol", "max_seconds", "validation_fraction"):
      value = getattr(self, name)
      number = isinstance(value, Real) and not isinstance(value, bool)
      if value is not None and not (number and math.isfinite(value) and value >= 0):
        raise ValueError(f"stop.{name} must be a finite number of at least 0, got {value!r}")
    if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
      raise ValueError(
        f"stop.validation_fraction must be above 0 and below 1, got {self.validation_fraction}"
      )
    if self.max_steps is None and self.max_epochs is None and self.max_seconds is None:
      raise ValueError(
        "stop.max_steps, stop.max_epochs or stop.max_seconds must be given: a run needs an end"
      )

  def most_steps(self, steps_per_epoch: int) -> int:
    """How many steps there can be, as far as that is said."""
    in_steps = [] if self.max_steps is None else [self.max_steps]
    in_epochs = [] if self.max_epochs is None else [self.max_epochs * steps_per_epoch]
    return min([*in_steps, *in_epochs, 2**31 - 1])


def steps_left(max_seconds: float, elapsed: float, done: int) -> int:
  """How many steps to take before the clock is looked at again; 0 when the time is over.

  As many as should fit, seen from those before; of a run that has just begun, few.
  """
  if elapsed >= max_seconds:
    return 0
  return max(1, min(done, int((max_seconds - elapsed) * done / max(elapsed, 1e-9))))


def check_count(name: str, value: object, least: int) -> None:
  """Refuses what isn't an integer of at least `least`."""
  if isinstance(value, bool) or not isinstance(value, Integral):
    raise TypeError(f"{name} must be an integer, got {value!r}")
  if int(value) < least:
    raise ValueError(f"{name} must be at least {least}, got {value}")
