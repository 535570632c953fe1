"""The stop rules in a compiled loop: their thresholds, their running state, their evaluation."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from fbackprop.train.arguments import StopRules
from fbackprop.train.validation import Best
from fbackprop.types import Array, at_least_float32, exportable

STOP_REASONS = (
  "max_steps", "max_epochs", "loss_below", "tol", "max_seconds", "interrupted", "diverged",
)  # fmt: skip
RUNNING = -1
MAX_STEPS, MAX_EPOCHS, LOSS_BELOW, TOL, _, _, DIVERGED = range(len(STOP_REASONS))
# Default tol with a validation set, that of scikit-learn.
VALIDATION_TOL = 1e-4


@exportable
class StopNumbers(NamedTuple):
  """`StopRules` as arrays for a compiled loop; an inactive rule has a value that never fires."""

  max_steps: Array
  max_epochs: Array
  loss_below: Array
  tol: Array
  patience: Array


@exportable
class Progress(NamedTuple):
  """The running state of the stop rules.

  Attributes:
    epoch_sum: sum of this epoch's losses, each times its batch's share, `[]`.
    epoch_share: sum of the shares, each Σ w / N of a batch, or 1 without weights, `[]`.
    best: lowest mean loss of an epoch so far, or lowest validation loss, `[]`.
    stale: number of consecutive epochs without progress, `[]`.
    reason: an index into `STOP_REASONS`, or `RUNNING`, `[]`.
  """

  epoch_sum: Array
  epoch_share: Array
  best: Array
  stale: Array
  reason: Array


def stop_numbers(stop: StopRules, dtype: Any, is_validated: bool = False) -> StopNumbers:
  """Convert the rules to arrays, infinite for inactive ones; `dtype` is that of the loss."""
  real, whole = (at_least_float32(dtype), float("-inf")), (jnp.int32, 2**31 - 1)
  tol = VALIDATION_TOL if is_validated and stop.tol is None else stop.tol

  def number(value: float | None, kind: tuple[Any, float]) -> Array:
    return jnp.asarray(kind[1] if value is None else value, kind[0])

  return StopNumbers(
    number(stop.max_steps, whole), number(stop.max_epochs, whole), number(stop.loss_below, real),
    number(tol, real), number(stop.patience, whole),
  )  # fmt: skip


def start_progress(dtype: Any) -> Progress:
  """Build the initial state; `dtype` is that of the loss."""
  dtype = at_least_float32(dtype)
  return Progress(
    epoch_sum=jnp.zeros((), dtype),
    epoch_share=jnp.zeros((), dtype),  # Not shared with `epoch_sum`, as both are donated.
    best=jnp.asarray(jnp.inf, dtype),
    stale=jnp.zeros((), jnp.int32),
    reason=jnp.asarray(RUNNING, jnp.int32),
  )


def add_up(progress: Progress, loss: Array, share: Array, finite: Array) -> Progress:
  """Add a batch, weighted by its `share`, to the mean loss of its epoch.

  A nonfinite step changes nothing.
  """
  total = progress.epoch_sum + share * loss.astype(share.dtype)
  return progress._replace(
    epoch_sum=jnp.where(finite, total, progress.epoch_sum),
    epoch_share=jnp.where(finite, progress.epoch_share + share, progress.epoch_share),
  )


def judge(
  progress: Progress,
  finite: Array,
  step: Array,
  steps_per_epoch: int,
  stop: StopNumbers,
  best_kept: Best | None = None,
) -> Progress:
  """Evaluate the stop rules after a step, of which some only fire at the end of an epoch.

  Args:
    progress: the running state with that step's loss, see `add_up`.
    finite: whether the step was finite. If not, the run ends, and nothing else changes.
    step: number of steps taken, including this one.
    steps_per_epoch: full batches in the data.
    stop: the rules.
    best_kept: the best parameters if there is a validation set: `tol` then applies to the latest
      validation loss instead of the epoch's mean loss. An epoch without weights is no progress.
  """
  epoch_ends = finite & (step % steps_per_epoch == 0)
  total, share = progress.epoch_sum, progress.epoch_share
  mean = jnp.where(share > 0, total / share, jnp.full_like(total, jnp.inf))

  # As in scikit-learn: an epoch is stale unless it is below the best by more than tol, and the run
  # ends after more than `patience` consecutive stale epochs. With a tol of -inf none is stale.
  judged = mean if best_kept is None else best_kept.latest.astype(mean.dtype)
  is_stale = judged > progress.best - stop.tol
  stale = jnp.where(epoch_ends, jnp.where(is_stale, progress.stale + 1, 0), progress.stale)
  best = jnp.where(epoch_ends, jnp.minimum(progress.best, judged), progress.best)

  # Of several rules that fire at once the last one is reported.
  reason = jnp.asarray(RUNNING, jnp.int32)
  for fires, code in (
    (step // steps_per_epoch >= stop.max_epochs, MAX_EPOCHS),
    (step >= stop.max_steps, MAX_STEPS),
    (epoch_ends & (stale > stop.patience), TOL),
    (epoch_ends & (mean <= stop.loss_below), LOSS_BELOW),
    (~finite, DIVERGED),
  ):
    reason = jnp.where(fires, code, reason).astype(jnp.int32)
  zero = jnp.zeros_like(total)
  return Progress(
    jnp.where(epoch_ends, zero, total), jnp.where(epoch_ends, zero, share), best, stale, reason
  )
