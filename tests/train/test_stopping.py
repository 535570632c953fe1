"""The stop rules, as numbers in a compiled loop, against the plainest loop in Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.train import Batch, State, StopRules
from fbackprop.train import stop_rules as rules
from fbackprop.train.loop import Member, make_chunk, start_loop
from fbackprop.train.step import Info
from tests.support.refusals import refusals


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


def reason_of(progress):
  return rules.STOP_REASONS[int(progress.reason)]


def stop_by_judge(losses, per_epoch, stop, shares=None):
  """The same by the package."""
  numbers = rules.stop_numbers(stop, jnp.float32)
  progress = start_loop(None, 1, jnp.float32).progress
  for step, loss in enumerate(losses, start=1):
    share = jnp.asarray(1 if shares is None else shares[step - 1], jnp.float32)
    finite = jnp.isfinite(loss)
    progress = rules.add_up(progress, jnp.asarray(loss, jnp.float32), share, finite)
    progress = rules.judge(progress, finite, jnp.asarray(step), per_epoch, numbers)
    if progress.reason >= 0:
      return step, reason_of(progress)
  raise AssertionError("the losses are too few for this stop rule")


KEY = jax.random.key(0)


def told_step(state, batch):
  """A step whose loss the state tells, in the place of the optimiser's state."""
  loss = state.opt_state[state.step]
  finite = jnp.isfinite(loss)
  weight = jnp.asarray(2.0) if batch.weights is None else batch.weights.sum()
  after = state._replace(step=jnp.where(finite, state.step + 1, state.step))
  return after, Info(loss, weight, loss[None], finite)


@functools.cache
def told_chunk(is_thorough):
  return make_chunk(told_step, 2, 64, is_thorough=is_thorough)


def run_told(losses, per_epoch, stop, cut, progress=None, weights=None, is_thorough=True):
  """The compiled loop, `cut` steps at a time, with batches of two; its rows and the loop itself."""
  numbers, told = rules.stop_numbers(stop, jnp.float32), jnp.full(64, jnp.inf)
  told = told.at[: len(losses)].set(jnp.array(losses, jnp.float32))
  loop = start_loop(
    State(jnp.zeros((), jnp.int32), (), told, jax.random.key(1)), 2 * per_epoch, jnp.float32
  )
  loop = loop._replace(progress=loop.progress._replace(**(progress or {})))
  x, weights = jnp.zeros((2 * per_epoch, 1)), None if weights is None else jnp.array(weights)
  rows, until = [], 0
  while int(loop.progress.reason) == rules.RUNNING:
    until, before = until + cut, int(loop.state.step)
    loop, infos = told_chunk(is_thorough)(
      loop, Batch(x, x, weights), numbers, jnp.int32(until), Member(KEY)
    )
    reached = int(loop.state.step) - before + (int(loop.progress.reason) == rules.DIVERGED)
    rows.append(jax.tree.map(lambda column, reached=reached: np.array(column)[:reached], infos))
  return loop, jax.tree.map(lambda *parts: np.concatenate(parts), *rows)


# Multiples of 1/8, whose sums and means over 1, 2 or 4 steps are exact in float32: no rounding can
# make the two differ, and ties with a rule's threshold are common.
FALLING = [8.0 / (1 + i // 2) // 0.125 * 0.125 for i in range(64)]
WAVY = [2 + 0.5 * (i % 5) - i // 16 * 0.25 for i in range(64)]


STOPS = [
  StopRules(1),
  StopRules(9),
  StopRules(64, loss_below=2.0),
  StopRules(64, loss_below=0.25),
  StopRules(64, tol=0.0, patience=1),
  StopRules(64, tol=0.125, patience=3),
  StopRules(64, tol=5.0, patience=20),
  StopRules(64, loss_below=2.5, tol=0.125, patience=2),
]


@pytest.mark.slow
@pytest.mark.parametrize("per_epoch", [1, 2, 4])
@pytest.mark.parametrize("losses", [FALLING, WAVY, [*WAVY[:10], float("nan")]])
@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_judge_stops_where_the_plain_loop_stops(losses, per_epoch, stop):
  ends = stop_by_loop(losses, per_epoch, stop)
  assert stop_by_judge(losses, per_epoch, stop) == ends
  for cut in (64, 3):
    loop, rows = run_told(losses, per_epoch, stop, cut)
    steps, reason = len(rows.loss), reason_of(loop.progress)
    assert (steps, reason) == ends
    assert int(loop.state.step) == steps - (reason == "diverged")
    # Each step that was reached has its row, and one that diverged, the last, says so.
    np.testing.assert_array_equal(rows.loss, np.array(losses[:steps], np.float32))
    np.testing.assert_array_equal(rows.grad_norms[:, 0], rows.loss)
    np.testing.assert_array_equal(rows.finite, np.isfinite(losses[:steps]))
    np.testing.assert_array_equal(rows.weight, 2)


def test_a_batch_has_its_weight_in_its_row():
  """By the order of the examples that its epoch has."""
  weights = np.arange(8, dtype=np.float32)
  _, rows = run_told(FALLING, 4, StopRules(8), cut=3, weights=weights)
  for epoch in range(2):
    order = jax.random.permutation(jax.random.fold_in(KEY, epoch), 8)
    want = weights[np.asarray(order)].reshape(4, 2).sum(1)
    np.testing.assert_array_equal(rows.weight[4 * epoch : 4 * epoch + 4], want)


@pytest.mark.parametrize("cut", [64, 3, 1])
def test_a_rule_of_epochs_that_came_with_a_resumed_run_waits_for_the_end_of_one(cut):
  """However the run is cut: the epochs that were stale before may be more than are allowed now."""
  stop = StopRules(64, tol=0.0, patience=1)
  loop, _ = run_told([1.0] * 64, 10, stop, cut, {"stale": jnp.int32(3), "best": jnp.float32(0)})
  assert (int(loop.state.step), reason_of(loop.progress)) == (10, "tol")
  loop, _ = run_told([1.0] * 64, 10, StopRules(24), cut, {"stale": jnp.int32(99)})
  assert (int(loop.state.step), reason_of(loop.progress)) == (24, "max_steps")


@pytest.mark.slow
def test_a_state_that_is_not_finite_at_the_end_of_a_call_ends_it():
  """That of a loop that looks at it no sooner: here at a told loss that isn't reached."""
  told = [*FALLING[:9], float("nan"), *FALLING[10:]]
  loop, _ = run_told(FALLING, 4, StopRules(5), cut=5, is_thorough=False)
  assert reason_of(loop.progress) == "max_steps"
  state = loop.state._replace(step=jnp.int32(0), opt_state=jnp.array(told), params=jnp.array(told))
  begin = start_loop(state, 8, jnp.float32)
  x, numbers = jnp.zeros((8, 1)), rules.stop_numbers(StopRules(5), jnp.float32)
  ended, _ = told_chunk(False)(begin, Batch(x, x), numbers, jnp.int32(5), Member(KEY))
  assert reason_of(ended.progress) == "diverged"


WEIGHTED = [
  # Means of two: 7/4 and 1 by their shares, 2 and 3/2 without them.
  ([1, 3, 1, 2], [1.25, 0.75, 1, 0], StopRules(4, loss_below=1.75), (2, "loss_below")),
  ([1, 3, 1, 2], [0.75, 1.25, 1, 0], StopRules(4, loss_below=1.25), (4, "loss_below")),
  # A batch without weight has the loss 0, which says nothing; nor does an epoch of such batches.
  ([0, 3, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], StopRules(6, loss_below=2), (6, "max_steps")),
  ([0, 3, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0], StopRules(8, tol=0.5, patience=1), (6, "tol")),
]


@pytest.mark.parametrize(("losses", "shares", "stop", "ends"), WEIGHTED)
def test_a_batch_counts_by_its_weight(losses, shares, stop, ends):
  assert stop_by_judge(losses, 2, stop, shares) == ends


BAD_RULES = [
  ({"max_steps": 2**31}, ValueError, "stop.max_steps must be from 0 to 2147483647, got 2147483648"),
  ({"max_steps": -1}, ValueError, "stop.max_steps must be from 0 to 2147483647, got -1"),
  ({"max_steps": 1.5}, TypeError, "stop.max_steps must be an integer, got float 1.5"),
  ({"max_steps": True}, TypeError, "stop.max_steps must be an integer, got bool True"),
  ({"patience": 0}, ValueError, "stop.patience must be from 1 to 2147483647, got 0"),
  ({"loss_below": float("nan")}, ValueError, "stop.loss_below must be a finite number.*got nan"),
  ({"loss_below": "low"}, TypeError, "stop.loss_below must be a number, got str 'low'"),
  ({"tol": -1e-3}, ValueError, "stop.tol must be a finite number of at least 0, got -0.001"),
  ({"tol": True}, TypeError, "stop.tol must be a number, got bool True"),
]


test_stop_rules_refuse = refusals(
  lambda arguments: StopRules(**{"max_steps": 10, **arguments}), BAD_RULES
)
