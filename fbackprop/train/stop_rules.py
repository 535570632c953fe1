"""The end of an epoch in a compiled loop: the validation set is scored, and the stop rules judged.

The stop rules are thresholds, a running state, and their evaluation. To add one, add a field to
`StopRules` of `arguments`, which is its flag too, with its range to `ranges`, and to `StopNumbers`,
its test to `judge`, and its name to `STOP_REASONS`: before the last one, as a run that has diverged
ends for no other reason, and checkpoints hold the reason's number.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.train.arguments import StopRules
from fbackprop.train.examples import holds_labels
from fbackprop.train.step import Batch
from fbackprop.types import Array, Layer, Loss, Params, at_least_float32, exportable

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


@exportable
class Best(NamedTuple):
  """The parameters of the best validation score so far, carried by the loop.

  Attributes:
    validation_loss: minus the score, infinite before the first, `[]`.
    step: number of steps taken at that score, `[]`.
    params: the parameters.
    latest: minus the latest epoch's score, NaN before the first, `[]`.
  """

  validation_loss: Array
  step: Array
  params: Params
  latest: Array


def score_of(best: Best | None, which: Literal["validation_loss", "latest"]) -> float | None:
  """Return the best or the latest validation score; None before the first."""
  value = math.inf if best is None else float(getattr(best, which))
  return -value if math.isfinite(value) else None


Validate = Callable[[Best, Params, Array, Array, Array], Best] | None


def start_best(params: Params, dtype: jnp.dtype) -> Best:
  """Build the initial record, of copied parameters, since a loop's arrays are donated."""
  worst, unknown = (jnp.asarray(value, at_least_float32(dtype)) for value in (jnp.inf, jnp.nan))
  return Best(worst, jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), unknown)


def make_validate(net: Layer, loss: Loss, validation: Batch | None) -> Validate:
  """Build `validate(best, params, step, epoch_ends, counts) -> best`, or None without a set.

  It scores the validation set if `epoch_ends`. The members of an ensemble are scored together;
  `counts` excludes those whose step wasn't taken.
  """
  if validation is None:
    return None

  def validate(best: Best, params: Params, step: Array, epoch_ends: Array, counts: Array) -> Best:
    def score() -> Best:
      value = validation_loss(net, loss, params, validation).astype(best.validation_loss.dtype)
      better = partial(jnp.where, counts & (value < best.validation_loss))
      lowest, at, kept = jax.tree.map(better, (value, step, params), best[:3])
      return Best(lowest, at, kept, jnp.where(counts, value, best.latest))

    return jax.lax.cond(epoch_ends, score, lambda: best)

  return validate


def validation_loss(net: Layer, loss: Loss, params: Params, batch: Batch) -> Array:
  """Compute the objective to minimise: minus the accuracy for labels, else the mean loss.

  Both are weighted means if the examples have weights.
  """
  outputs = net.forward(params, batch.x)[0]
  if holds_labels(batch.targets):
    values = -(outputs.argmax(1) == batch.targets).astype(at_least_float32(outputs.dtype))
  else:
    values = loss.forward(outputs, batch.targets)[0]
  return values.mean() if batch.weights is None else jnp.average(values, weights=batch.weights)


def stop_numbers(stop: StopRules, dtype: Any, is_validated: bool = False) -> StopNumbers:
  """Convert the rules to arrays, infinite for inactive ones; `dtype` is that of the loss.

  They are NumPy's, since each conversion to JAX's outside of a program compiles one.
  """
  numbers = {name: getattr(stop, name) for name in StopNumbers._fields}
  if is_validated and stop.tol is None:
    numbers["tol"] = VALIDATION_TOL

  def number(name: str, value: float | None) -> Any:
    is_real = name in ("loss_below", "tol")
    never, kind = (-np.inf, at_least_float32(dtype)) if is_real else (2**31 - 1, np.int32)
    return np.asarray(never if value is None else value, kind)

  return StopNumbers(**{name: number(name, value) for name, value in numbers.items()})


def start_progress(dtype: Any) -> Progress:
  """Build the initial state; `dtype` is that of the loss."""
  real = at_least_float32(dtype)
  values = ((0, real), (0, real), (jnp.inf, real), (0, jnp.int32), (RUNNING, jnp.int32))
  # No two fields share an array, as all are donated.
  return Progress(*(jnp.asarray(value, kind) for value, kind in values))


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
  total, share = (jnp.where(epoch_ends, zero, each) for each in (total, share))
  return Progress(total, share, best, stale, reason)
