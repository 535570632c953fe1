"""`value_and_grad`, `pullback`, `as_custom_vjp` and `residual_bytes`: how a network is used."""

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify.cases.layers import make_chain
from tests.support import oracle
from tests.support.models import MODELS, assert_mean_gradient, draw_model, in_oracle_words
from tests.support.witness import assert_bitwise

RELU = MODELS[0]
every_model = pytest.mark.parametrize("model", MODELS, ids=[model.id for model in MODELS])
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def run(problem, **arguments):
  """`(mean, grads, x_bar)` of a problem."""
  step = jax.jit(fb.value_and_grad(problem.net, problem.loss, input_gradient=True))
  mean, (grads, x_bar) = step(problem.params, problem.x, problem.targets, **arguments)
  return mean, grads, x_bar


# --- value_and_grad -------------------------------------------------------------------------------


@every_dtype
@every_model
def test_mean_gradient_equals_autodiff(model, dtype):
  with jax.enable_x64(dtype == "float64"):
    problem = draw_model(model, dtype)
    assert_mean_gradient(model, problem, run(problem))


@pytest.mark.slow
@every_model
def test_mean_gradient_equals_the_oracle(model):
  """The third implementation: loops, and no jax."""
  with jax.enable_x64(True):
    problem = draw_model(model, "float64", n=4)
    got = run(problem)
  mean, grads, x_bar = oracle.value_and_grad(
    in_oracle_words(problem.net, problem.params),
    problem.loss.name,
    problem.x,
    np.asarray(problem.targets),
  )
  dense_grads = [layer for layer in got[1] if layer != ()]
  np.testing.assert_allclose(got[0], mean, rtol=1e-14)
  np.testing.assert_allclose(got[2], x_bar, atol=1e-14)
  for ours, (w_bar, b_bar) in zip(dense_grads, grads, strict=True):
    np.testing.assert_allclose(ours.w, w_bar, atol=1e-14)
    if b_bar is not None:
      np.testing.assert_allclose(ours.b, b_bar, atol=1e-14)


@pytest.mark.slow
@every_dtype
def test_weights_make_a_weighted_mean(dtype):
  with jax.enable_x64(dtype == "float64"):
    problem = draw_model(RELU, dtype)
    weights = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 3.0, 1.5], dtype)
    got = run(problem, weights=jnp.asarray(weights))
    assert_mean_gradient(RELU, problem, got, weights / weights.sum(dtype=np.float64))
    # Only the ratio counts, and what weighs nothing isn't there.
    halved = run(problem, weights=jnp.asarray(weights / 2))
    assert_bitwise("weights halved", ("mean", "grads", "x_bar"), halved, got)
    assert not np.asarray(got[2])[weights == 0].any()


@pytest.mark.slow
@pytest.mark.parametrize("n", [0, 3])
def test_nothing_to_average_gives_zero(n):
  """N = 0, and weights that are all zero: loss 0, gradient 0, and no NaN."""
  problem = draw_model(RELU, "float32", n=n)
  for weights in (jnp.zeros(n), None) if n == 0 else (jnp.zeros(n),):
    got = run(problem, weights=weights)
    zeros = jax.tree.map(jnp.zeros_like, (got[0], problem.params, problem.x))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, zeros)
    assert_bitwise(f"N = {n}", ("mean", "grads", "x_bar"), got, zeros)


@pytest.mark.slow
def test_options_add_what_they_name():
  """`has_outputs` and `input_gradient` change what is returned, and no number."""
  net, loss, params, x, targets = draw_model(RELU, "float32")
  mean, grads = jax.jit(fb.value_and_grad(net, loss))(params, x, targets)
  both = jax.jit(fb.value_and_grad(net, loss, has_outputs=True, input_gradient=True))
  (mean_again, outputs), (grads_again, x_bar) = both(params, x, targets)
  got, want = (mean_again, grads_again, outputs), (mean, grads, net.forward(params, x)[0])
  chex.assert_trees_all_close(got, want, rtol=1e-6, atol=1e-6)
  assert x_bar.shape == x.shape


@pytest.mark.slow
def test_float32_stays_float32_while_x64_is_on():
  with jax.enable_x64(True):
    problem = draw_model(RELU, "float32")
    weights = jnp.ones(len(problem.x), jnp.float32)
    for got in (run(problem), run(problem, weights=weights)):
      assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {"float32"}


@pytest.mark.slow
def test_one_trace_for_each_shape():
  net, loss, params, x, targets = draw_model(RELU, "float32", n=6)
  chex.clear_trace_counter()
  step = jax.jit(chex.assert_max_traces(fb.value_and_grad(net, loss), n=2))
  for n in (6, 6, 4, 6, 4):
    step(params, x[:n], targets[:n])


# --- pullback and other parameters ----------------------------------------------------------------


@pytest.mark.slow
def test_feedback_alignment_needs_no_new_rule():
  """Backward through other weights B: δ₁ = (δ₂ B₂ᵀ) tanh'(z₁), and the rest as ever."""
  with jax.enable_x64(True):
    net = fb.mlp([3, 5, 2], fb.tanh, dtype=jnp.float64)
    keys = jax.random.split(jax.random.key(0), 4)
    params, feedback = net.init(keys[0]), net.init(keys[1])
    x, y_bar = jax.random.normal(keys[2], (7, 3)), jax.random.normal(keys[3], (7, 2))
    _, residuals = net.forward(params, x)
    params_bar, x_bar = jax.device_get(jax.jit(net.backward)(feedback, residuals, y_bar))
  params, feedback, x, y_bar = jax.device_get((params, feedback, x, y_bar))
  h = np.tanh(x @ params[0].w + params[0].b)
  z_bar = (y_bar @ feedback[2].w.T) * (1 - h * h)
  np.testing.assert_allclose(params_bar[2].w, h.T @ y_bar, atol=1e-14)
  np.testing.assert_allclose(params_bar[0].w, x.T @ z_bar, atol=1e-14)
  np.testing.assert_allclose(params_bar[0].b, z_bar.sum(0), atol=1e-14)
  np.testing.assert_allclose(x_bar, z_bar @ feedback[0].w.T, atol=1e-14)


# --- as_custom_vjp --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (2, 0, 3)])
def test_custom_vjp_takes_any_axes_in_front(shape):
  """As the network does for each vector by itself; the gradient by our rule."""
  net = make_chain(jnp.float32)
  params, f = net.init(jax.random.key(0)), fb.as_custom_vjp(net)
  x = jax.random.normal(jax.random.key(1), shape)
  flat, pull = fb.pullback(net)(params, x.reshape(-1, 3))

  def total(params, x):
    return f(params, x).sum()

  assert_bitwise("value", ("y",), (f(params, x),), (flat.reshape(*shape[:-1], 2),))
  params_bar, x_bar = pull(jnp.ones_like(flat))
  got = jax.jit(jax.grad(total, (0, 1)))(params, x)
  chex.assert_trees_all_close(got, (params_bar, x_bar.reshape(shape)), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_custom_vjp_under_jit_vmap_and_twice():
  """First and second order by `jax.grad`, against the reference; mapped over parameters and x."""
  model = MODELS[1]
  with jax.enable_x64(True):
    net, _, params, x, _ = draw_model(model, "float64", n=2)
    f = fb.as_custom_vjp(net)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), (params, x))

    def gradient_norm(function):
      def total(params, x):
        return (function(params, x) ** 2).sum()

      def norm(params, x):
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(jax.grad(total)(params, x)))

      return jax.jit(jax.vmap(jax.grad(norm, (0, 1))))

    got, want = gradient_norm(f)(*stack), gradient_norm(model.net.reference)(*stack)
  chex.assert_trees_all_close(got, want, rtol=1e-11, atol=1e-12)


def test_custom_vjp_uses_our_rule():
  """A rule of ours that gives twice the truth shows under `jax.grad`."""

  def doubled(params, residuals, y_bar):
    return (), 2 * y_bar

  f = fb.as_custom_vjp(fb.identity._replace(backward=doubled))
  assert jax.grad(lambda x: f((), x).sum())(jnp.ones((1, 1))) == 2


# --- Keys -----------------------------------------------------------------------------------------


def make_drawing(seen, draws=True):
  """A layer that keeps half of its units at random, and notes which key it was given."""

  def forward(params, x, key=None):
    seen.append(key)
    if key is None:
      return x, jnp.ones_like(x)
    mask = 2 * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)
    return x * mask, mask

  def backward(params, mask, y_bar):
    return (), y_bar * mask

  return fb.Layer("drawing", fb.identity.init, forward, backward, draws=draws)


def test_keys_reach_the_layers_that_draw_and_no_others():
  first, second, quiet = [], [], []
  inner = fb.serial(make_drawing(quiet, draws=False), make_drawing(second))
  net = fb.serial(make_drawing(first), make_drawing(quiet, draws=False), inner)
  assert (net.draws, fb.mlp([2, 3]).draws) == (True, False)
  params, key = net.init(jax.random.key(0)), jax.random.key(1)
  net.forward(params, jnp.ones((2, 3)), key)
  net.forward(params, jnp.ones((2, 3)))
  assert quiet == [None] * 4
  assert first[0] != key  # Each has its own, and none the one that came in.
  assert second[0] not in (first[0], key)
  assert first[1] is second[1] is None


@pytest.mark.slow
def test_inserting_an_activation_changes_no_mask():
  def masks(*layers):
    net = fb.serial(*layers)
    residuals = net.forward(net.init(jax.random.key(0)), jnp.ones((8, 3)), jax.random.key(1))[1]
    pairs = zip(layers, residuals, strict=True)
    return tuple(kept for layer, kept in pairs if layer.draws)

  noise = make_drawing([])
  before = masks(noise, fb.relu, noise)
  after = masks(fb.identity, noise, fb.relu, fb.relu, fb.serial(), noise, fb.sigmoid)
  assert_bitwise("masks", ("first", "second"), after, before)
  assert not np.array_equal(*before)


@pytest.mark.slow
def test_key_reaches_every_transform_alike():
  net = fb.serial(fb.dense(3, 4), make_drawing([]), fb.dense(4, 2))
  params, key = net.init(jax.random.key(0)), jax.random.key(1)
  x, targets = jnp.ones((5, 3)), jnp.zeros((5, 2))
  f = fb.as_custom_vjp(net)

  def mean(params):
    return fb.squared_error.forward(f(params, x, key), targets)[0].mean()

  step = fb.value_and_grad(net, fb.squared_error)
  value, grads = step(params, x, targets, key=key)
  want = jax.value_and_grad(mean)(params)
  chex.assert_trees_all_close((value, grads), want, rtol=1e-6)
  np.testing.assert_array_equal(fb.pullback(net)(params, x, key)[0], f(params, x, key))
  assert value != step(params, x, targets)[0]


# --- residual_bytes -------------------------------------------------------------------------------


def test_residual_bytes_follow_the_dtype_and_the_batch():
  with jax.enable_x64(True):
    net = fb.mlp([6, 5, 3], dtype=jnp.float64)
    assert fb.residual_bytes(net, jnp.zeros((7, 6))) == 7 * 5 * 8
    assert fb.residual_bytes(net, jnp.zeros((0, 6))) == 0


def test_residual_bytes_count_a_shared_array_once():
  """relu of relu's output has the same values, but is an array of its own."""
  x = jnp.zeros((7, 6))
  assert fb.residual_bytes(fb.serial(), x) == 0
  assert fb.residual_bytes(fb.dense(6, 3), x) == 0  # x is the data.
  assert fb.residual_bytes(fb.serial(fb.dense(6, 3), fb.relu), x) == 7 * 3 * 4
  assert fb.residual_bytes(fb.serial(fb.relu, fb.dense(6, 3), fb.identity), x) == 7 * 6 * 4
