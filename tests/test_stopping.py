"""The stop rules, as numbers in a compiled loop, against the plainest loop in Python."""

import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.train import StopRules
from fbackprop.train.loop import add_up, judge, start_loop, stop_numbers
from fbackprop.train.stopping import STOP_REASONS


def stop_by_loop(losses, per_epoch, stop):
  """(steps, reason) as the docstring of StopRules says, in plain Python."""
  best, stale = float("inf"), 0
  for step, loss in enumerate(losses, start=1):
    if not np.isfinite(loss):
      return step, "diverged"
    if step % per_epoch == 0:
      mean = np.mean(losses[step - per_epoch : step])
      if stop.tol is not None:
        stale = stale + 1 if mean > best - stop.tol else 0
        best = min(best, mean)
      if stop.loss_below is not None and mean <= stop.loss_below:
        return step, "loss_below"
      if stop.tol is not None and stale > stop.patience:
        return step, "tol"
    if step >= stop.max_steps:
      return step, "max_steps"
  raise AssertionError("the losses are too few for this stop rule")


def stop_by_judge(losses, per_epoch, stop, shares=None):
  """The same by the package."""
  numbers = stop_numbers(stop, jnp.float32)
  progress = start_loop(None, 1, jnp.float32).progress
  for step, loss in enumerate(losses, start=1):
    share = jnp.asarray(1 if shares is None else shares[step - 1], jnp.float32)
    finite = jnp.isfinite(loss)
    progress = add_up(progress, jnp.asarray(loss, jnp.float32), share, finite)
    progress = judge(progress, finite, jnp.asarray(step), per_epoch, numbers)
    if progress.reason >= 0:
      return step, STOP_REASONS[int(progress.reason)]
  raise AssertionError("the losses are too few for this stop rule")


# Multiples of 1/8, whose sums and means over 1, 2 or 4 steps are exact in float32: no rounding can
# make the two differ, and ties with a rule's threshold are common.
FALLING = [8.0 / (1 + i // 2) // 0.125 * 0.125 for i in range(64)]
WAVY = [2 + 0.5 * (i % 5) - i // 16 * 0.25 for i in range(64)]


@pytest.mark.parametrize("per_epoch", [1, 2, 4])
@pytest.mark.parametrize("losses", [FALLING, WAVY, [*WAVY[:10], float("nan")]])
@pytest.mark.parametrize(
  "stop",
  [
    StopRules(1),
    StopRules(9),
    StopRules(64, loss_below=2.0),
    StopRules(64, loss_below=0.25),
    StopRules(64, tol=0.0, patience=1),
    StopRules(64, tol=0.125, patience=3),
    StopRules(64, tol=5.0, patience=20),
    StopRules(64, loss_below=2.5, tol=0.125, patience=2),
  ],
  ids=str,
)
def test_judge_stops_where_the_plain_loop_stops(losses, per_epoch, stop):
  assert stop_by_judge(losses, per_epoch, stop) == stop_by_loop(losses, per_epoch, stop)


@pytest.mark.parametrize(
  ("losses", "shares", "stop", "ends"),
  [
    # Means of two: 7/4 and 1 by their shares, 2 and 3/2 without them.
    ([1, 3, 1, 2], [1.25, 0.75, 1, 0], StopRules(4, loss_below=1.75), (2, "loss_below")),
    ([1, 3, 1, 2], [0.75, 1.25, 1, 0], StopRules(4, loss_below=1.25), (4, "loss_below")),
    # A batch without weight has the loss 0, which says nothing; nor does an epoch of such batches.
    ([0, 3, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], StopRules(6, loss_below=2), (6, "max_steps")),
    ([0, 3, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], StopRules(8, tol=0.5, patience=1), (6, "tol")),
  ],
)
def test_a_batch_counts_by_its_weight(losses, shares, stop, ends):
  assert stop_by_judge(losses, 2, stop, shares) == ends


@pytest.mark.parametrize(
  ("arguments", "error", "message"),
  [
    ({"max_steps": 2**31}, ValueError, "stop.max_steps must be below 2\\^31, got 2147483648"),
    ({"max_steps": -1}, ValueError, "stop.max_steps must be at least 0, got -1"),
    ({"max_steps": 1.5}, TypeError, "stop.max_steps must be an integer, got 1.5"),
    ({"max_steps": True}, TypeError, "stop.max_steps must be an integer, got True"),
    ({"patience": 0}, ValueError, "stop.patience must be at least 1, got 0"),
    ({"loss_below": float("nan")}, ValueError, "stop.loss_below must be a finite number.*got nan"),
    ({"loss_below": "low"}, ValueError, "stop.loss_below must be a finite number.*got 'low'"),
    ({"tol": -1e-3}, ValueError, "stop.tol must be a finite number of at least 0, got -0.001"),
    ({"tol": True}, ValueError, "stop.tol must be a finite number of at least 0, got True"),
  ],
)
def test_stop_rules_refuse(arguments, error, message):
  with pytest.raises(error, match=message):
    StopRules(**{"max_steps": 10, **arguments})
