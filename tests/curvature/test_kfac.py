"""K-FAC as an optimizer: its steps against algebra by hand, its schedules, its state."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.curvature._kfac import adapted, zero_blocks
from fbackprop.layers.convolution import conv1d
from fbackprop.train.optimizers import make_optimizer
from tests.curvature.problems import assert_near, flat_of
from tests.support.witness import jit_quickly

curvature = fb.curvature
RNG = np.random.default_rng(0)
NET = fb.mlp([3, 4, 3], fb.tanh)
LOSS = fb.softmax_cross_entropy
X, LABELS = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32), jnp.asarray(RNG.integers(0, 3, 6))


def test_one_step_solves_a_linear_regression(in_float64):
  net = fb.dense(3, 2, dtype=jnp.float64)
  x, targets = jnp.asarray(RNG.normal(size=(7, 3))), jnp.asarray(RNG.normal(size=(7, 2)))
  params = fb.DenseParams(jnp.ones((3, 2)), jnp.ones(2))
  optimizer = curvature.kfac(net, fb.squared_error, damping=1e-9)

  @jit_quickly
  def step(params):
    value, grads = fb.value_and_grad(net, fb.squared_error)(params, x, targets)
    update, state = optimizer.update(
      grads, optimizer.init(params), params, batch=(x, targets, None), value=value
    )
    after = optax.apply_updates(params, update)
    return (
      value,
      state.predicted,
      after,
      fb.value_and_grad(net, fb.squared_error)(after, x, targets),
    )

  value, predicted, after, (new_value, _) = step(params)
  ones = np.concatenate([x, np.ones((7, 1))], 1)
  want = np.linalg.lstsq(ones, np.asarray(targets), rcond=None)[0]
  # The damping splits as √λ = 3e-5 of the factors, and the model's α makes up for most of it.
  np.testing.assert_allclose(after.w, want[:3], atol=1e-3)
  np.testing.assert_allclose(after.b, want[3], atol=1e-3)
  # The quadratic model is the loss.
  np.testing.assert_allclose(new_value - value, predicted, rtol=1e-6)


def halving(steps):
  return 0.1 * 0.5 ** steps.astype(jnp.float64)


@pytest.mark.slow
def test_a_step_with_a_rate_is_the_solution_with_the_factors(in_float64):
  net = fb.mlp([3, 4, 3], fb.tanh, dtype=jnp.float64)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), shapes)
  x = X.astype(jnp.float64)
  weights = jnp.asarray(RNG.uniform(0.5, 2, 6))
  factors = curvature.kronecker_factors(net, LOSS)
  optimizer = curvature.kfac(net, LOSS, rate=halving, momentum=0.5)

  @jit_quickly
  def both(params):
    _, grads = fb.value_and_grad(net, LOSS)(params, x, LABELS, weights=weights)
    blocks = factors(params, x, LABELS, weights=weights)
    solved = curvature.solve(blocks, grads, damping=1e-3)
    state, updates = optimizer.init(params), []
    for _ in range(2):  # At the same point, so that the running mean is the same.
      update, state = optimizer.update(grads, state, params, batch=(x, LABELS, weights))
      updates.append(update)
    return solved, updates

  solved, (first, second) = both(params)
  assert_near("first", flat_of(first), -0.1 * flat_of(solved))
  assert_near("second", flat_of(second), -(0.05 + 0.5 * 0.1) * flat_of(solved))


@pytest.mark.slow
def test_the_bound_shortens_long_steps_only():
  params = NET.init(jax.random.key(0))

  @jit_quickly
  def updates(params):
    _, grads = fb.value_and_grad(NET, LOSS)(params, X, LABELS)
    found = []
    for bound in (1e-4, 1e4, None):
      optimizer = curvature.kfac(NET, LOSS, rate=1.0, kl_bound=bound)
      batch = (X, LABELS, None)
      found.append(optimizer.update(grads, optimizer.init(params), params, batch=batch)[0])
    return grads, found

  grads, (short, long, free) = updates(params)
  np.testing.assert_array_equal(flat_of(long), flat_of(free))
  slope = -float(flat_of(grads) @ flat_of(free))
  want = np.sqrt(2e-4 / slope)
  assert want < 1
  np.testing.assert_allclose(flat_of(short), want * flat_of(free), rtol=1e-5)


@pytest.mark.slow
def test_the_factors_and_the_inverse_are_refreshed_on_schedule():
  optimizer = curvature.kfac(NET, LOSS, rate=0.1, refresh=(2, 3), kind="monte_carlo", decay=0.5)
  init, step = fb.train.make_step(NET, LOSS, optimizer)
  states = [init(jax.random.key(0))]
  for _ in range(7):
    states.append(step(states[-1], (X, LABELS))[0])

  def changes(field):
    pairs = itertools.pairwise(states)
    return [
      i for i, pair in enumerate(pairs)
      if not np.array_equal(*(flat_of(getattr(state.opt_state, field)) for state in pair))
    ]  # fmt: skip

  assert changes("blocks") == [0, 2, 4, 6]
  assert changes("inverse") == [0, 3, 6]


@pytest.mark.slow
def test_full_batches_need_few_steps():
  optimizer = curvature.kfac(NET, LOSS, damping=0.01, adapt_damping=True, decay=0.0)
  init, step = fb.train.make_step(NET, LOSS, optimizer)
  state, losses = init(jax.random.key(0)), []
  for _ in range(25):
    state, info = step(state, (X, LABELS))
    losses.append(float(info.loss))
  assert losses[-1] < 1e-3
  assert float(state.opt_state.damping) < 0.01


def test_the_damping_follows_the_model():
  def after(change, predicted, steps=3):
    return float(adapted(*map(jnp.asarray, (1.0, steps, change, predicted))))

  assert after(-0.9, -1.0) == pytest.approx(0.7)
  assert after(-0.5, -1.0) == 1
  assert after(-0.1, -1.0) == after(0.5, -1.0) == after(np.nan, -1.0) == pytest.approx(1 / 0.7)
  assert after(-0.9, -1.0, steps=0) == 1


@pytest.mark.slow
def test_corrected_eigenvalues_are_those_of_the_last_batch():
  optimizer = curvature.kfac(NET, LOSS, rate=0.1, eigen=True, decay=0.9)
  f = curvature.kronecker_factors(NET, LOSS, eigen=True)
  params = NET.init(jax.random.key(0))

  @jit_quickly
  def both(params):
    _, grads = fb.value_and_grad(NET, LOSS)(params, X, LABELS)
    state = optimizer.init(params)
    for x in (X, 2 * X):
      update, state = optimizer.update(grads, state, params, batch=(x, LABELS, None))
    blocks = f(params, 2 * X, LABELS)
    want = jax.tree.map(lambda d: -0.1 * d, curvature.solve(blocks, grads, damping=1e-3))
    return update, want

  got, want = both(params)
  np.testing.assert_allclose(flat_of(got), flat_of(want), rtol=1e-3, atol=1e-4)


CONV = fb.serial(conv1d(6, 1, 2, taps=3), fb.tanh, fb.dense(8, 2))
SHARED = fb.graph(
  {"h": (fb.dense(3, 3), "x"), "g": (fb.shared("h"), "h"), "n": (fb.layer_norm(3), "g"),
   "y": (fb.dense(3, 2, bias=False), "n")}, output="y",
)  # fmt: skip
LOOP = fb.mlp([3, 4, 4, 4, 2], fb.tanh, normalization=fb.rms_norm, repeat_hidden=True)


@pytest.mark.parametrize("eigen", [False, True])
@pytest.mark.parametrize(("net", "d_in"), [(CONV, 6), (SHARED, 3), (LOOP, 3), (fb.dense(3, 2), 3)])
def test_the_state_begins_with_the_structure_of_the_factors(net, d_in, eigen):
  f = curvature.kronecker_factors(net, fb.squared_error, eigen=eigen)
  params = jax.eval_shape(net.init, jax.random.key(0))
  x, targets = (jax.ShapeDtypeStruct((5, d), jnp.float32) for d in (d_in, 2))
  want = jax.eval_shape(f, params, x, targets)
  got = jax.eval_shape(lambda params: zero_blocks(net, params, eigen), params)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  assert jax.tree.leaves(got) == jax.tree.leaves(want)


def test_by_name_for_the_command_line(as_a_user_has_it):
  with pytest.raises(TypeError, match=r"model must be \(net, loss\) for kfac"):
    make_optimizer("kfac", 0.1, 10)
  optimizer = make_optimizer("kfac", 0.5, 10, schedule="cosine", model=(NET, LOSS))
  init, step = fb.train.make_step(NET, LOSS, optimizer)
  state = init(jax.random.key(0))
  losses = []
  for _ in range(10):
    state, info = step(state, (X, LABELS))
    losses.append(float(info.loss))
  assert losses[-1] < losses[0]


@pytest.mark.parametrize(
  ("options", "error"),
  [
    ({"rate": 0.0}, "rate must be a finite number above 0"),
    ({"damping": 0.0}, "damping must be a finite number above 0"),
    ({"decay": 1.0}, "decay must be"),
    ({"momentum": -0.1}, "momentum must be"),
    ({"refresh": 3}, "refresh must be two numbers of steps"),
    ({"refresh": (0, 1)}, r"refresh\[0\] must be at least 1"),
    ({"rate": 0.1, "adapt_damping": True}, "adapt_damping must be False where there is a rate"),
    ({"kl_bound": 0.1}, "kl_bound must be None where there is no rate"),
    ({"rate": 0.1, "kl_bound": 0.0}, "kl_bound must be a finite number above 0"),
    ({"eigen": True, "method": "pi"}, "unknown value 'pi' for method"),
  ],
)
def test_arguments_out_of_range(options, error):
  with pytest.raises((TypeError, ValueError), match=error):
    curvature.kfac(NET, LOSS, **options)


def test_what_update_must_be_given():
  optimizer = curvature.kfac(NET, LOSS, adapt_damping=True)
  params = NET.init(jax.random.key(0))
  state = optimizer.init(params)
  with pytest.raises(TypeError, match=r"kfac: batch must be \(x, targets, weights\): call update"):
    optimizer.update(params, state, params)
  with pytest.raises(TypeError, match="kfac: params must be given to update"):
    optimizer.update(params, state, batch=(X, LABELS, None))
  with pytest.raises(TypeError, match="value must be the loss of the batch"):
    optimizer.update(params, state, params, batch=(X, LABELS, None))
