"""What a step that isn't finite does: it ends the run, is left out, or sends the run back."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.train import Checkpoints, StopRules
from tests.support.runs import descend

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
Y = X[:, :1]
NET = fb.mlp([3, 4, 1], fb.tanh)
LINEAR = fb.mlp([3, 1])
KEY = jax.random.key(3)


def rows_of(epoch):
  """The order of the examples in an epoch, by what the trainer promises."""
  order_key = jax.random.split(KEY)[1]
  return np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), 8))


# The last one of the second epoch; its squared error is above the largest float32.
BAD = int(rows_of(1)[-1])
HUGE = X.at[BAD].set(1e30)


def fit(x=X, net=LINEAR, stop=20, rate=0.05, **more):
  return descend(net, (x, Y), stop, rate, fb.squared_error, **{"key": KEY, **more})


def steps_with(row, epochs):
  return tuple(8 * e + int(np.flatnonzero(rows_of(e) == row)[0]) + 1 for e in range(epochs))


@pytest.mark.slow
def test_a_step_is_left_out_and_the_others_are_as_ever():
  events = []
  result = fit(HUGE, stop=24, batch_size=1, on_nonfinite="skip", on_event=events.append)
  assert (result.stop_reason, result.skipped) == ("max_steps", steps_with(BAD, epochs=3))
  assert events == [
    f"step {step} was skipped; first not finite: loss, fed by layer 0 (dense)"
    for step in result.skipped
  ]
  init, step = fb.train.make_step(LINEAR, fb.squared_error, fb.train.gradient_descent(0.05))
  state = init(jax.random.split(KEY)[0])
  for epoch in range(3):
    for row in rows_of(epoch):
      state, info = step(state, (HUGE[row][None], Y[row][None]))
      if not info.finite:
        state = state._replace(step=state.step + 1)
  chex.assert_trees_all_equal(result.params, state.params)


@pytest.mark.slow
def test_its_loss_counts_nowhere():
  """Nor where it is the last one of an epoch, after which the rules are asked."""
  said = {"on_nonfinite": "skip", "on_event": lambda event: None, "batch_size": 1}
  result = fit(HUGE, stop=StopRules(max_epochs=40, loss_below=1e-3), rate=0.2, eval_every=8, **said)
  assert (result.stop_reason, result.steps % 8) == ("loss_below", 0)
  last = result.losses[-8:]
  mean = last[np.isfinite(last)].astype(np.float64).mean()
  assert len(last[np.isfinite(last)]) == 7
  assert mean <= 1e-3
  assert result.evaluations[-1].train_loss == pytest.approx(mean, rel=1e-6)
  assert 16 in result.skipped


@pytest.mark.slow
def test_the_end_is_reached_by_a_step_that_is_left_out():
  (step,) = steps_with(BAD, epochs=1)
  said = {"on_nonfinite": "skip", "on_event": lambda event: None, "batch_size": 1}
  result = fit(HUGE, stop=step, **said)
  assert (result.stop_reason, result.steps, len(result.losses)) == ("max_steps", step, step)


@pytest.mark.slow
def test_examples_set_aside_are_scored_after_a_step_that_is_left_out():
  said = {"on_nonfinite": "skip", "on_event": lambda event: None, "batch_size": 1}
  result = fit(HUGE, stop=StopRules(max_epochs=20), validation=(X, Y), eval_every=8, **said)
  assert any(step % 8 == 0 for step in result.skipped)
  assert all(e.validation_score is not None for e in result.evaluations)
  assert result.best.step % 8 == 0


def test_ten_in_a_row_and_then_it_ends():
  events = []
  result = fit(jnp.full_like(X, 1e30), on_nonfinite="skip", on_event=events.append)
  assert (result.stop_reason, result.steps, result.skipped) == ("diverged", 10, tuple(range(1, 11)))
  assert (result.diverged_at, len(events)) == ("loss, fed by layer 0 (dense)", 10)


@pytest.mark.slow
def test_without_such_a_step_there_is_no_difference():
  plain = fit(X, batch_size=3)
  skip = fit(X, batch_size=3, on_nonfinite="skip")
  chex.assert_trees_all_equal(plain.params, skip.params)
  assert skip.skipped == ()


# --- Back to the last checkpoint ------------------------------------------------------------------


@pytest.mark.slow
def test_a_rate_that_is_too_large_is_halved_until_it_isn_t(tmp_path):
  events = []
  asked = {"checkpoints": Checkpoints(tmp_path, every=50), "on_nonfinite": "rollback"}
  # Gradient descent on a parabola of curvature c converges at rates below 2 / c; here by the sixth.
  with_bias = np.concatenate([X, np.ones((8, 1))], axis=1)
  rate = 1.4 * 2**5 / np.linalg.eigvalsh(with_bias.T @ with_bias / 8)[-1]
  result = fit(stop=400, rate=rate, on_event=events.append, **asked)
  assert result.stop_reason == "max_steps"
  assert result.rollbacks == len(events) == 5
  assert result.steps == len(result.losses) == 400
  assert result.losses[-1] < 1e-3
  assert "rolled back to step 0, with 0.5 times the learning rate" in events[0]
  assert "with 0.03125 times the learning rate" in events[-1]


@pytest.mark.slow
def test_a_run_that_went_back_and_was_cut_ends_in_the_same_bits(tmp_path):
  said = {"on_nonfinite": "rollback", "on_event": lambda event: None, "rate": 50.0}
  whole = fit(stop=200, checkpoints=Checkpoints(tmp_path / "whole", every=20), **said)
  own = Checkpoints(tmp_path / "cut", every=20)
  fit(stop=70, checkpoints=own, **said)
  cut = fit(stop=200, checkpoints=own, resume=own.folder, **said)
  assert cut.rollbacks == whole.rollbacks > 0
  np.testing.assert_array_equal(cut.losses, whole.losses)


@pytest.mark.slow
def test_a_run_that_was_resumed_goes_back_to_an_end_and_on_from_there(tmp_path):
  """The checkpoint that it goes back to is that of a run that had ended."""
  asked = {"checkpoints": Checkpoints(tmp_path, every=50), "on_nonfinite": "rollback"}
  first = fit(stop=20, rate=0.05, **asked)
  events = []
  result = fit(stop=60, rate=1e3, resume=tmp_path, on_event=events.append, **asked)
  assert (first.stop_reason, first.steps) == ("max_steps", 20)
  assert (result.stop_reason, result.steps) == ("max_steps", 60)
  assert result.rollbacks == len(events) > 0
  assert "back to step 20" in events[0]


def test_what_no_rate_mends_ends_the_run(tmp_path):
  events = []
  asked = {"checkpoints": Checkpoints(tmp_path, every=5), "on_nonfinite": "rollback"}
  result = fit(jnp.full_like(X, 1e30), on_event=events.append, **asked)
  assert (result.stop_reason, result.rollbacks, len(events)) == ("diverged", 10, 10)
  assert result.diverged_at == "loss, fed by layer 0 (dense)"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["raise", "skip", "rollback"])
def test_no_checkpoint_holds_what_is_not_finite(mode, tmp_path):
  asked = {"checkpoints": Checkpoints(tmp_path, every=1, keep=99), "on_nonfinite": mode}
  fit(net=NET, stop=30, optimizer=optax.sgd(1e6, momentum=0.9), on_event=lambda e: None, **asked)
  found = sorted(tmp_path.iterdir())
  assert found
  like = NET.init(KEY)
  for path in found:
    from safetensors.numpy import load_file

    for name, array in load_file(path / "run" / "state.safetensors").items():
      if name.startswith("loop.state"):
        assert np.isfinite(array).all(), (path, name)
  assert len(jax.tree.leaves(like)) == 4
