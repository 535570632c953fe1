"""When a run stops. This module imports no jax: the command line reads its defaults from here."""

from dataclasses import dataclass

from fbackprop.errors import RangeError
from fbackprop.ranges import RANGES, Range, check_in_range, check_range

STOP_REASONS = (
  "max_steps", "max_epochs", "loss_below", "tol", "max_seconds", "interrupted", "diverged",
)  # fmt: skip
# Default tol with a validation set, that of scikit-learn.
VALIDATION_TOL = 1e-4


@dataclass(frozen=True)
class StopRules:
  """Stopping criteria: the lecture's two, and others. One of `max_steps`, `max_epochs` and
  `max_seconds` is required, so that there is an end. Names of scikit-learn have its meaning.

  The loss of an epoch (one pass over the data) is the mean of its steps' losses, taken at its end;
  in full-batch descent that is the loss of each step. With weights it is the weighted mean over the
  epoch's examples, and an epoch whose weights are all zero is no progress.

  Attributes:
    max_steps: Stop after this many steps.
    loss_below: Stop at the end of an epoch whose mean loss is this or less.
    tol: Early stopping: stop after more than `patience` epochs in a row that don't improve the best
      mean loss by `tol`, or with `validation_fraction` the best score (then 1e-4 by default).
    patience: Epochs without improvement before early stopping: scikit-learn's `n_iter_no_change`.
    max_epochs: Stop after this many epochs: scikit-learn's `max_iter`.
    max_seconds: Stop after this wall-clock time in seconds, without compilation. Such a run isn't
      bitwise reproducible: give its number of steps for that.
    validation_fraction: Fraction of the training examples in the validation set, stratified by
      class; it is scored after each epoch by the accuracy, or without labels by minus the mean
      loss, and the parameters of the best score are kept.
  """

  max_steps: int | None = None
  loss_below: float | None = None
  tol: float | None = None
  patience: int = 10
  max_epochs: int | None = None
  max_seconds: float | None = None
  validation_fraction: float | None = None

  def __post_init__(self) -> None:
    for name in (name for name in RANGES if name.startswith("stop.")):
      value = getattr(self, name.removeprefix("stop."))
      if value is not None or name == "stop.patience":
        check_in_range("", name, value)
    if self.max_steps is None and self.max_epochs is None and self.max_seconds is None:
      problem = ", stop.max_epochs or stop.max_seconds must be given: a run needs an end"
      raise RangeError(problem, "stop.max_steps")

  def most_steps(self, steps_per_epoch: int) -> int:
    """Return the largest number of steps that the rules allow."""
    in_steps = [] if self.max_steps is None else [self.max_steps]
    in_epochs = [] if self.max_epochs is None else [self.max_epochs * steps_per_epoch]
    return min([*in_steps, *in_epochs, 2**31 - 1])


def steps_left(max_seconds: float, elapsed: float, done: int) -> int:
  """Return the number of steps until the clock is next read; 0 if the time is over.

  They are as many as should fit at the average speed so far, and few at the beginning of a run.
  """
  if elapsed >= max_seconds:
    return 0
  return max(1, min(done, int((max_seconds - elapsed) * done / max(elapsed, 1e-9))))


def check_count(name: str, value: object, least: int) -> None:
  """Raise unless a value is an integer of at least `least`."""
  check_range("", name, value, Range(int, least))
