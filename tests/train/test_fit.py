"""Whole runs: they stop where they should and say why, and nothing is lost on the way."""

import os
import re
import signal
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.train import history, interrupts, stop_rules
from fbackprop.train import loop as loops
from fbackprop.train.step import State, after_backward, make_guarded_step
from scripts.campaigns.grouping import grouped
from tests.support.refusals import refusals
from tests.support.runs import interrupt_at
from tests.support.wrong_rules import changed, times, weight

KEY = jax.random.key(3)
X = np.asarray(jax.random.normal(jax.random.key(1), (22, 4)))
LABELS = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 1)
NET = fb.mlp([4, 6, 3], fb.tanh)


def fit(net=NET, loss=fb.softmax_cross_entropy, data=(X, LABELS), **options):
  """A small run of classification; any argument can be replaced."""
  options = {"optimizer": fb.train.gradient_descent(0.5), "batch_size": 5, "key": KEY, **options}
  options = {"stop": fb.train.StopRules(30), **options}
  return fb.train.fit(net, loss, data, **grouped(**options))


# Where the subject is neither minibatches nor depth: a program that compiles sooner.
SMALL = {"net": fb.mlp([4, 3]), "batch_size": None, "stop": fb.train.StopRules(3)}


@pytest.fixture(scope="module")
def plain():
  """The run that `fit()` is; what it leaves is compared, never changed."""
  return fit()


STOPS = {
  "max_steps": fb.train.StopRules(30),
  "loss_below": fb.train.StopRules(2000, loss_below=0.3),
  "tol": fb.train.StopRules(2000, tol=1e-2, patience=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", STOPS)
def test_the_end_of_a_run_does_not_depend_on_its_chunks(reason):
  optimizer = optax.sgd(0.3, momentum=0.5)
  runs = [
    fit(stop=STOPS[reason], optimizer=optimizer, chunk_steps=chunk, eval_every=every)
    for chunk, every in ((1000, None), (7, 5))
  ]
  assert ({run.stop_reason for run in runs}, len({run.steps for run in runs})) == ({reason}, 1)
  for run in runs:
    assert len(run.losses) == len(run.grad_norms) == run.steps == run.evaluations[-1].step
    np.testing.assert_array_equal(run.losses, runs[0].losses)
    chex.assert_trees_all_equal(run.params, runs[0].params)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_a_run_in_float64(mode):
  """With x64 on, where an index that nobody typed is of 64 bits."""
  with jax.enable_x64(True):
    result = fit(
      net=fb.mlp([4, 3], dtype=jnp.float64), data=(X.astype(np.float64), LABELS), on_nonfinite=mode
    )
  assert (result.stop_reason, result.losses.dtype) == ("max_steps", np.float64)


@pytest.mark.slow
def test_full_batch_descent_is_a_loop_over_step():
  result = fit(batch_size=None)
  init, step = fb.train.make_step(NET, fb.softmax_cross_entropy, fb.train.gradient_descent(0.5))
  state = init(jax.random.split(KEY)[0])
  losses = []
  for _ in range(30):
    state, info = step(state, (X, LABELS))
    losses.append(info.loss)
  np.testing.assert_allclose(result.losses, losses, rtol=1e-6)  # The loop's fusions may differ.
  chex.assert_trees_all_close(result.params, state.params, atol=1e-6)


@pytest.mark.slow
def test_loss_below_is_the_lecture_s_tolerance():
  result = fit(batch_size=None, stop=fb.train.StopRules(5000, loss_below=0.25))
  assert result.stop_reason == "loss_below"
  assert result.losses[-1] <= 0.25 < result.losses[-2]


@pytest.mark.slow
def test_a_chunk_is_one_loop_on_the_device():
  init, step = fb.train.make_step(NET, fb.softmax_cross_entropy, fb.train.gradient_descent(0.5))
  loop = loops.start_loop(init(KEY), 22, jnp.float32)
  stop = stop_rules.stop_numbers(fb.train.StopRules(9), jnp.float32)
  data = fb.train.Batch(jnp.asarray(X), jnp.asarray(LABELS))
  chunk = loops.make_chunk(step, 5, 9)
  compiled = chunk.lower(loop, data, stop, jnp.asarray(9, jnp.int32), loops.Member(KEY)).compile()
  text = compiled.as_text()
  # The loops over epochs, over the steps of one, and of the sort; nothing that calls the host.
  assert text.count(" while(") >= 3
  for word in ("callback", "infeed", "outfeed"):
    assert word not in text
  # The parameters and the optimiser's state are updated in place.
  state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(loop.state.params))
  assert compiled.memory_analysis().alias_size_in_bytes >= state_bytes


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads the program of a CPU")
def test_no_step_of_the_loop_copies_a_parameter():
  net = fb.mlp([4, 24, 25, 26, 3])
  init, step = make_guarded_step(
    net, fb.softmax_cross_entropy, fb.train.gradient_descent(0.5), is_thorough=False
  )
  loop = loops.start_loop(init(KEY), 22, jnp.float32)
  stop = stop_rules.stop_numbers(fb.train.StopRules(9), jnp.float32)
  data = fb.train.Batch(jnp.asarray(X), jnp.asarray(LABELS))
  chunk = loops.make_chunk(step, 5, 9, is_thorough=False)
  arguments = (loop, data, stop, np.asarray(9, np.int32), loops.Member(KEY))
  inner, _, entry = chunk.lower(*arguments).compile().as_text().partition("\nENTRY ")
  shapes = (re.escape(f"f32[{','.join(map(str, leaf.shape))}]")
            for leaf in jax.tree.leaves(loop.state.params))  # fmt: skip
  for shape in shapes:
    copies = rf"= {shape}\S* copy\("
    assert not re.search(copies, inner)
    assert re.search(copies, entry)  # The caller's arrays stay as they are.


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
@pytest.mark.parametrize("first", [-0.0, np.nan, np.inf, -np.inf])
def test_gradients_that_wait_for_the_backward_pass_keep_their_bits(first, value):
  grads = {"a": np.array([[first, 1.0]], np.float32), "b": np.array([-0.0, np.nan], np.float32)}
  found = jax.jit(after_backward)(grads, jnp.float32(value))
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(grads), strict=True):
    np.testing.assert_array_equal(np.asarray(got).view(np.uint32), want.view(np.uint32))


@pytest.mark.slow
def test_evaluations_say_what_happened():
  seen = []
  result = fit(test=(X[:8], LABELS[:8]), eval_every=12, check_every=20, on_evaluation=seen.append)
  assert (tuple(seen), [e.step for e in seen]) == (result.evaluations, [12, 24, 30])
  assert [e.epoch for e in seen] == [3, 6, 7.5]  # Four batches of five make an epoch of 22.
  np.testing.assert_allclose(seen[1].train_loss, result.losses[12:24].mean(), rtol=1e-6)
  np.testing.assert_allclose(seen[1].grad_norms, result.grad_norms[23])
  outputs = NET.forward(result.params, X[:8])[0]
  assert seen[-1].test_accuracy == float(np.mean(outputs.argmax(1) == LABELS[:8]))
  losses = fb.softmax_cross_entropy.forward(outputs, jnp.asarray(LABELS[:8]))[0]
  np.testing.assert_allclose(seen[-1].test_loss, losses.mean(), rtol=1e-6)
  assert ([step for step, _ in result.checks], result.checks_ok) == ([0, 20, 30], True)
  assert 0 < result.gradient_check_max_rel_error < 1e-12
  assert seen[-1].gradient_error == result.checks[-1][1].rel_error
  assert 0 < result.check_seconds < result.seconds


@pytest.mark.slow
def test_a_wrong_rule_is_found_while_training():
  wrong = fb.dense(6, 3)._replace(backward=weight(lambda w_bar: w_bar * 1.001))
  net = fb.serial(fb.dense(4, 6), fb.tanh, wrong)
  result = fit(net=net, batch_size=None, check_every=10)
  assert (result.checks_ok, result.checks[0][1].leaf) == (False, "[2].w")
  assert abs(result.gradient_check_max_rel_error - 1e-3) < 1e-9


@pytest.mark.slow
def test_zero_steps_leave_the_initial_parameters():
  result = fit(stop=fb.train.StopRules(0), check_every=1)
  assert (result.steps, result.stop_reason) == (0, "max_steps")
  assert (result.evaluations[0].train_loss, len(result.checks)) == (None, 1)
  chex.assert_trees_all_equal(
    result.params, jax.jit(NET.init)(jax.random.split(jax.random.split(KEY)[0])[0])
  )


@pytest.mark.slow
def test_regression_has_a_loss_and_no_accuracy():
  x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
  net, stop = fb.mlp([1, 16, 1], fb.tanh), fb.train.StopRules(3000, loss_below=1e-3)
  result = fit(net, fb.squared_error, (x, x * x), test=(x, x * x), batch_size=None, stop=stop)
  assert (result.stop_reason, result.evaluations[-1].test_accuracy) == ("loss_below", None)
  assert result.evaluations[-1].test_loss <= 1.1e-3


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_reached(plain):
  before = signal.getsignal(signal.SIGINT)
  result = fit(stop=fb.train.StopRules(1000), eval_every=10, on_evaluation=interrupt_at(30))
  assert (result.steps, result.stop_reason, result.interrupted) == (30, "interrupted", True)
  assert signal.getsignal(signal.SIGINT) is before
  chex.assert_trees_all_equal(result.params, plain.params)


@pytest.mark.slow
def test_an_interrupt_that_comes_too_late_is_not_forgotten():
  result = fit(**SMALL, on_evaluation=interrupt_at(3))  # The only evaluation is the last one.
  assert (result.steps, result.stop_reason, result.interrupted) == (3, "max_steps", True)


def test_a_block_in_a_block_shares_what_was_heard():
  before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  with interrupts.deferred_interrupt(signal.SIGINT, signal.SIGTERM) as outer:
    with interrupts.deferred_interrupt(signal.SIGINT) as inner:
      assert inner.signum is None
      os.kill(os.getpid(), signal.SIGTERM)
    assert outer.signum is not None
    assert outer.signum == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_interrupt_does_not_wait():
  def interrupt_twice(evaluation):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    fit(**SMALL, eval_every=1, on_evaluation=interrupt_twice)


def test_a_run_in_a_thread_leaves_signals_alone():
  results = []
  thread = threading.Thread(target=lambda: results.append(fit(**SMALL)))
  thread.start()
  thread.join()
  assert results[0].steps == 3


huge_backward = changed(lambda *bars: jax.tree.map(lambda a: jnp.full_like(a, jnp.inf), bars))
HUGE_INPUT_BAR = fb.dense(5, 3)._replace(
  backward=changed(lambda params_bar, x_bar: (params_bar, jnp.full_like(x_bar, jnp.inf)))
)


DIVERGING = [
  (fb.mlp([4, 6, 3]), 1e25, "layer 2 (dense): value"),
  (fb.serial(fb.dense(4, 3)._replace(backward=huge_backward)), 0.5, "layer 0 (dense): gradient"),
  (fb.serial(fb.dense(4, 5), HUGE_INPUT_BAR), 0.5, "layer 0 (dense): cotangent"),
  (fb.mlp([4, 3]), 3.4e38, "update"),
  (fb.dense(4, 3)._replace(backward=huge_backward), 0.5, "layer 0 (dense): gradient"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "rate", "where"), DIVERGING)
def test_a_run_that_diverges_says_where_and_keeps_the_last_good_parameters(net, rate, where):
  optimizer = fb.train.gradient_descent(rate)
  run = {"net": net, "data": (100 * X, LABELS), "optimizer": optimizer, "batch_size": None}
  # At the end there is no check: where a run diverged there is no truth.
  check_every = 100 if where == "update" else None
  result = fit(**run, check_every=check_every)
  assert [step for step, _ in result.checks] == [0] * (where == "update")
  assert (result.stop_reason, result.diverged_at) == ("diverged", where)
  assert len(result.losses) == result.steps + 1
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.params))
  again = fit(**run, stop=fb.train.StopRules(result.steps))
  chex.assert_trees_all_equal(result.params, again.params)


def located(net, loss, params, batch):
  """Where a step of gradient descent from these parameters breaks."""
  optimizer = fb.train.gradient_descent(0.5)
  state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params), KEY)
  return history.locate_nonfinite(net, loss, optimizer, state, batch)


def test_a_loss_that_overflows_is_named_with_the_layer_that_fed_it():
  params = (fb.DenseParams(jnp.full((4, 3), 1e25), jnp.zeros(3)),)
  batch = fb.train.Batch(jnp.ones((2, 4)), jnp.zeros((2, 3)))
  net = fb.mlp([4, 3])
  assert located(net, fb.squared_error, params, batch) == "loss, fed by layer 0 (dense)"
  inner = fb.serial(fb.relu, net)
  assert located(inner, fb.squared_error, ((), params), batch) == "loss, fed by layer 1.0 (dense)"
  empty = fb.train.Batch(jnp.full((2, 3), 1e25), jnp.zeros((2, 3)))
  assert located(fb.serial(), fb.squared_error, (), empty) == "loss, fed by layer 0 (serial)"


def test_a_step_that_is_finite_broke_nowhere():
  params, batch = NET.init(KEY), fb.train.Batch(X, LABELS)
  where = located(NET, fb.softmax_cross_entropy, params, batch)
  assert where == "nowhere, computed one operation at a time"


def test_a_layer_that_draws_is_walked_with_its_own_key():
  def drawn_forward(params, x, key=None):
    return x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype), ()

  noise = fb.relu._replace(name="drawn", forward=drawn_forward, draws=True)
  net = fb.serial(fb.dense(4, 3), noise, fb.dense(3, 2))
  params = (fb.DenseParams(jnp.ones((4, 3)), jnp.zeros(3)), (),
            fb.DenseParams(jnp.full((3, 2), 3e38), jnp.zeros(2)))  # fmt: skip
  batch = fb.train.Batch(jnp.ones((9, 4)), jnp.zeros((9, 2)))
  assert located(net, fb.squared_error, params, batch) == "layer 2 (dense): value"


OVERFLOWING = [
  # The squares of 1e17 are finite, those of 1e20 in the optimiser's second moment aren't.
  (optax.chain(optax.scale(1e3), optax.scale_by_adam()), 1e17, "optimiser's state"),
  (optax.adam(0.1), 1e21, "layer 0 (dense): norm of the gradient"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "scale", "where"), OVERFLOWING)
def test_an_optimiser_that_overflows_does_not_go_on_in_silence(optimizer, scale, where):
  net = fb.serial(fb.dense(4, 3)._replace(backward=times(scale)))
  with jax.numpy_dtype_promotion("standard"):
    result = fit(net=net, optimizer=optimizer, batch_size=None)
  assert (result.stop_reason, result.steps, result.diverged_at) == ("diverged", 0, where)


BAD = [
  ({"stop": 30}, TypeError, "stop must be a StopRules, got int 30"),
  ({"key": 3}, TypeError, "key must be made by jax.random.key"),
  ({"optimizer": 0.1}, TypeError, "optimizer must be an optax"),
  ({"batch_size": 23}, ValueError, "at most the 22 training examples, got 23"),
  ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
  ({"batch_size": 2.0}, TypeError, "must be an integer, got float 2.0"),
  ({"eval_every": 0}, ValueError, "eval_every must be at least 1"),
  ({"check_every": -1}, ValueError, "check_every must be at least 1"),
  ({"chunk_steps": 0}, ValueError, "chunk_steps must be at least 1"),
  ({"data": X}, TypeError, r"data must be a pair .*, got float32\[22, 4\]"),
  ({"data": ([[1.0]], LABELS)}, TypeError, "data.x must be an array, got list"),
  ({"data": (X[:0], LABELS[:0])}, ValueError, "at least one example, got .*0, 4"),
  ({"data": (X[:9], LABELS)}, ValueError, r"shape \[9\], got int32\[22\]"),
  ({"data": (X[:, :3], LABELS)}, ValueError, r"shape \[N, 4\], got float32\[22, 3\]"),
  ({"data": (X[:, 0], LABELS)}, ValueError, r"shape \[N, 4\], got float32\[22\]"),
  ({"data": (LABELS[:, None], LABELS)}, TypeError, "floating dtype, got int32"),
  ({"data": (X.astype(complex), LABELS)}, TypeError, "floating dtype, got complex"),
  ({"data": (X, LABELS + 1)}, ValueError, "labels from 0 to 2, got 3 in row"),
  ({"data": (X, LABELS - 1)}, ValueError, "labels from 0 to 2, got -1 in row"),
  ({"data": (X, LABELS.astype("f"))}, TypeError, "integer labels .* got float32"),
  ({"data": (X, LABELS[:, None])}, ValueError, r"shape \[22, 3\], got int32\[22, 1\]"),
  ({"test": (X[:, :3], LABELS)}, ValueError, r"shape \[N, 4\]"),
  ({"data": (X, LABELS, X[:, 0])}, ValueError, "data.weights must not be negative"),
  ({"data": (X, LABELS, 0 * X[:, 0])}, ValueError, "data.weights must not be all zero"),
  ({"data": (X, LABELS, X)}, ValueError, r"weights must be float32\[22\]"),
]


test_fit_refuses = refusals(lambda options: fit(**options), BAD)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["x", "targets", "test"])
def test_fit_refuses_values_that_are_not_finite(value, part):
  x, targets = X.copy(), np.zeros((22, 3), np.float32)
  (targets if part == "targets" else x)[7, 1] = value
  bad, good = (x, targets), (X, np.zeros((22, 3), np.float32))
  options = {"data": good, "test": bad} if part == "test" else {"data": bad}
  name = "test.x" if part == "test" else f"data.{part}"
  said = rf"{name} must be finite, got {value} at \[7, 1\], 1 in all"
  with pytest.raises(ValueError, match=said):
    fit(loss=fb.squared_error, **options)


@pytest.mark.slow
def test_epochs_and_evaluations_are_judged_by_weights_however_a_run_is_cut():
  weights = np.where(np.arange(22) % 3, 0, 2.0 ** (np.arange(22) % 5)).astype(np.float32)
  data = (X, LABELS, weights)
  whole = fit(data=data, batch_size=2, stop=fb.train.StopRules(24), eval_every=12)
  # Some batches of two have no weight at all, and a loss of 0 that says nothing.
  assert (whole.losses == 0).any()
  for evaluation, steps in zip(whole.evaluations, (range(12), range(12, 24)), strict=True):
    pairs = [batch_at(step, data, 2) for step in steps]
    sums = np.array([batch.weights.sum() for batch in pairs])
    want = (sums * whole.losses[steps.start : steps.stop]).sum() / sums.sum()
    np.testing.assert_allclose(evaluation.train_loss, want, rtol=1e-6)
  epochs = []
  for first in (0, 11):  # An epoch is eleven batches.
    sums = np.array([batch_at(step, data, 2).weights.sum() for step in range(first, first + 11)])
    epochs.append((sums * whole.losses[first : first + 11]).sum() / sums.sum())
  limit = (epochs[0] + epochs[1]) / 2
  assert epochs[1] < limit < epochs[0]
  stop = fb.train.StopRules(24, loss_below=float(limit))
  cut = fit(data=data, batch_size=2, stop=stop, eval_every=12, chunk_steps=5)
  assert (cut.stop_reason, cut.steps) == ("loss_below", 22)
  np.testing.assert_array_equal(cut.losses, whole.losses[:22])
  assert cut.evaluations[0].train_loss == whole.evaluations[0].train_loss


def batch_at(step, data, batch_size):
  """The batch of a step, in the order that a run with `KEY` draws."""
  order_key = jax.random.split(KEY)[1]
  epoch, place = divmod(step, len(data[0]) // batch_size)
  order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(data[0]))
  return fb.train.Batch(*(part[order[place * batch_size :][:batch_size]] for part in data))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lbfgs", "MultiSteps"])
def test_a_run_takes_optimisers_that_want_more_than_a_gradient(name):
  optimizer = optax.lbfgs() if name == "lbfgs" else optax.MultiSteps(optax.adam(0.1), 2)
  with jax.numpy_dtype_promotion("standard"):
    result = fit(net=fb.mlp([4, 3]), optimizer=optimizer, batch_size=None)
  assert (result.stop_reason, result.steps) == ("max_steps", 30)
  assert result.losses[-1] < 0.3 * result.losses[0]
