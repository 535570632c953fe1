"""The check while training: it must find what is wrong, and nothing where nothing is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop import live_check
from fbackprop.layers.dense import DenseParams, dense_backward
from fbackprop.verify import GRADIENT_TOLERANCE, make_live_check
from tests.support.wrong_rules import changed, weight

X = jax.random.normal(jax.random.key(1), (7, 4))
LABELS = jnp.arange(7) % 3


def check_of(net: fb.Layer, loss: fb.Loss = fb.softmax_cross_entropy, targets=LABELS, **options):
  return make_live_check(net, loss)(net.init(jax.random.key(0)), X, targets, **options)


def with_backward(backward) -> fb.Layer:
  """A two-layer network whose last dense layer has another backward rule."""
  return fb.serial(fb.dense(4, 5), fb.tanh, fb.dense(5, 3)._replace(backward=backward))


scaled = weight(lambda w_bar: w_bar * (1 + 1e-5))
one_entry = weight(lambda w_bar: w_bar.at[0, 0].multiply(1.01))


@pytest.mark.slow
@pytest.mark.parametrize("activation", [fb.relu, fb.tanh, fb.sigmoid, fb.gelu, fb.identity])
def test_our_own_rules_pass_far_below_the_tolerance(activation):
  check = check_of(fb.mlp([4, 6, 5, 3], activation))
  assert check.ok
  assert check.rel_error < 1e-3 * GRADIENT_TOLERANCE
  assert 0 < check.rounding < 1e-4  # A few hundred times float32's epsilon of 1e-7.


PLANTED = [
  (scaled, "[2].w"),
  (one_entry, "[2].w"),
  (changed(lambda params_bar, x_bar: (params_bar, -x_bar)), "[0]"),
  (changed(lambda *bars: jax.tree.map(jnp.zeros_like, bars)), "[0].w"),
  (changed(lambda *bars: jax.tree.map(lambda a: a * jnp.nan, bars)), "[0].w"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("backward", "leaf"), PLANTED)
def test_a_planted_error_is_found_and_named(backward, leaf):
  check = check_of(with_backward(backward))
  assert not check.ok
  assert check.leaf.startswith(leaf)


@pytest.mark.slow
def test_a_forgotten_mean_is_found():
  def summed(rows, losses_bar):
    return rows

  loss = fb.softmax_cross_entropy._replace(backward=summed)
  check = check_of(fb.mlp([4, 3]), loss)
  assert not check.ok
  assert abs(check.rel_error - 6) < 1e-9  # Seven times too large.


@pytest.mark.slow
def test_a_gradient_of_exactly_zero_must_be_exactly_zero():
  dead = fb.serial(fb.dense(4, 5, b_init=lambda *_: jnp.full(5, -100.0)), fb.relu, fb.dense(5, 3))
  assert check_of(dead).ok

  def leaky(params, residuals, y_bar):
    return (), y_bar

  leak = fb.serial(dead.parts[0], fb.relu._replace(backward=leaky), dead.parts[2])
  check = check_of(leak)
  assert (check.ok, check.rel_error) == (False, float("inf"))


@pytest.mark.slow
def test_rows_pick_the_examples():
  net = fb.mlp([4, 3])
  check, params = make_live_check(net, fb.softmax_cross_entropy), net.init(jax.random.key(0))
  x = X.at[6].set(jnp.nan)
  assert not check(params, x, LABELS).ok
  assert check(params, x, LABELS, rows=jnp.arange(6)).ok


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_weights_are_those_of_the_gradient(scale):
  weights = scale * jnp.arange(7.0)
  net = with_backward(one_entry) if scale else fb.mlp([4, 3])
  check = check_of(net, weights=weights)
  assert check.ok == (scale == 0)
  assert check.rel_error in (0.0, pytest.approx(0.01, rel=1))


def test_a_network_without_parameters_has_nothing_wrong():
  assert make_live_check(fb.relu, fb.squared_error)((), X, X).ok


@pytest.mark.slow
@pytest.mark.parametrize("activation", [fb.identity, fb.tanh])
def test_a_gradient_that_cancels_is_no_alarm(activation):
  # At zero weights and balanced labels, and by symmetry, the true gradient is a sum that is zero.
  flat = fb.mlp([4, 3], w_init=jax.nn.initializers.zeros)
  params = flat.init(jax.random.key(0))
  assert make_live_check(flat, fb.softmax_cross_entropy)(params, X[:6], LABELS[:6]).ok
  odd, x = fb.mlp([1, 8, 1], activation), jnp.array([[0.3], [-0.3], [0.7], [-0.7]])
  check = make_live_check(odd, fb.squared_error)(odd.init(jax.random.key(0)), x, jnp.sin(x))
  assert check.ok
  assert check.rounding < 1e-5


wrong_factor = weight(lambda w_bar: w_bar * 1.001)


def wrong_row(params, x, y_bar):
  params_bar, x_bar = dense_backward(params, x, y_bar)
  return DenseParams(params_bar.w + 0.001 * x[:1].T @ y_bar[:1], params_bar.b), x_bar


AT_A_MINIMUM = [
  # Float32's rounding alone keeps the gradient at some 1e-7 of the terms that it sums.
  ("float32", dense_backward, False),
  ("float32", wrong_factor, True),
  ("float32", wrong_row, True),
  # In float64 it cancels to 1e-16 of them. A factor is then an error of 1e-19, less than any
  # rounding: the check is blind to it here, and finds it at any step before. An error in a term
  # doesn't cancel.
  ("float64", dense_backward, False),
  ("float64", wrong_factor, False),
  ("float64", wrong_row, True),
]


@pytest.mark.parametrize(("dtype", "backward", "found"), AT_A_MINIMUM)
def test_at_a_minimum_what_is_left_of_the_gradient_decides(dtype, backward, found):
  x = np.asarray(X, np.float64)
  targets = np.sin(3 * x[:, :2])
  with jax.enable_x64(True):
    ones = np.hstack([x, np.ones((7, 1))])
    solution = np.linalg.lstsq(ones, targets, rcond=None)[0].astype(dtype)
    net = fb.dense(4, 2)._replace(backward=backward)
    params = DenseParams(jnp.asarray(solution[:4]), jnp.asarray(solution[4]))
    data = jnp.asarray(x, dtype), jnp.asarray(targets, dtype)
    check = make_live_check(net, fb.squared_error)(params, *data)
  assert check.ok == (not found)


def test_the_configuration_is_left_alone():
  check_of(fb.mlp([4, 3]))
  assert not jax.config.jax_enable_x64
  assert jnp.ones(1).dtype == jnp.float32


KINKED = [
  fb.gates.relu_with(at_zero=0.5),
  fb.gates.leaky_relu_with(0.1, at_zero=1),
  fb.gates.clip_with(0, 6, at_edges=1),
  fb.gates.relu,
  fb.gates.leaky_relu,
  fb.gates.hard_tanh,
  fb.gates.selu,
]


@pytest.mark.slow
@pytest.mark.parametrize("gate", KINKED, ids=lambda gate: gate.name)
def test_a_choice_at_a_kink_is_no_error(gate):
  """An input of zeros meets every kink at zero, biases being zero at first."""
  net = fb.mlp([2, 8, 1], fb.activation(gate))
  x = jnp.array([[0.0, 0.0], [1.0, 2.0]])
  check = make_live_check(net, fb.squared_error)
  assert check(net.init(jax.random.key(0)), x, jnp.ones((2, 1))).ok


@pytest.mark.slow
def test_a_network_of_everything_passes():
  options = {"normalization": fb.layer_norm, "dropout": 0.3, "skip": True, "repeat_hidden": True}
  net = fb.mlp([3, 4, 4, 4, 2], fb.silu, **options)
  check = make_live_check(fb.remat(net), fb.huber)
  key = jax.random.key(0)
  x = jax.random.normal(key, (5, 3))
  assert check(net.init(key), x, jnp.ones((5, 2)), key=key).ok


@pytest.mark.slow
def test_a_small_error_of_one_entry_is_beyond_rounding():
  check = check_of(with_backward(weight(lambda w_bar: w_bar.at[3, 1].multiply(1 + 1e-9))))
  assert (check.ok, check.leaf) == (False, "[2].w")
  assert check.rel_error < GRADIENT_TOLERANCE


@pytest.mark.slow
def test_a_shape_is_traced_once():
  calls = []

  def counted(params, x, y_bar):
    calls.append(x.shape)
    return dense_backward(params, x, y_bar)

  net = with_backward(counted)
  check, params = make_live_check(net, fb.softmax_cross_entropy), net.init(jax.random.key(0))
  halved = jax.tree.map(lambda p: p / 2, params)
  check(params, X, LABELS)
  check(halved, X, LABELS)  # Its rounding is measured, and the rule traced for that.
  traces = len(calls)
  assert check(halved, X, LABELS).ok
  assert check(params, X, LABELS, rows=jnp.arange(7)[::-1]).ok
  assert (len(calls), check(params, X[:5], LABELS[:5]).ok) == (traces, True)
  assert len(calls) > traces


@pytest.mark.slow
def test_what_is_not_computed_in_float64_is_judged_by_its_size():
  """Where a bound says nothing, no error passes for rounding."""

  def through_numpy(factor):
    def product(x, y_bar):
      return np.asarray(factor * (x.T @ y_bar), np.float32)

    def backward(params, x, y_bar):
      _, x_bar = dense_backward(params, x, y_bar)
      shape = jax.ShapeDtypeStruct(params.w.shape, jnp.float32)
      w_bar = jax.pure_callback(product, shape, x, y_bar, vmap_method="sequential")
      return DenseParams(w_bar.astype(params.w.dtype), y_bar.sum(0)), x_bar

    return backward

  assert check_of(with_backward(through_numpy(1.0))).rel_error < GRADIENT_TOLERANCE
  assert check_of(with_backward(through_numpy(1.0))).ok
  assert not check_of(with_backward(through_numpy(1 + 1e-5))).ok


def tripled(params, x, y_bar):
  """Right, in products that bfloat16 rounds otherwise than autodiff's."""
  params_bar, x_bar = dense_backward(params, x, 3 * y_bar)
  return jax.tree.map(lambda leaf: leaf / 3, (params_bar, x_bar))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("rule", "is_right"), [(dense_backward, True), (tripled, True), (scaled, False)]
)
def test_a_run_with_bfloat16_products_is_checked_in_full_float64(rule, is_right):
  """The name of an algorithm rounds float64 products too; the check has a precision of its own."""
  net = fb.serial(fb.dense(16, 32), fb.relu, fb.dense(32, 3)._replace(backward=rule))
  x = jax.random.normal(jax.random.key(1), (64, 16))
  with jax.default_matmul_precision("BF16_BF16_F32"):
    check = make_live_check(net, fb.softmax_cross_entropy)
    found = check(net.init(jax.random.key(0)), x, jnp.arange(64) % 3)
  assert found.ok == is_right
  assert found.rel_error < 1e-12 if is_right else found.leaf == "[2].w"
  assert found.rounding < 1e-4  # A CPU multiplies float32 as it is.


@pytest.mark.slow
def test_where_a_device_has_no_float64_the_cpu_computes_it(monkeypatch):
  net, (first, second) = with_backward(tripled), jax.devices("cpu")[:2]
  args = jax.device_put((net.init(jax.random.key(0)), X, LABELS), second)
  check = make_live_check(net, fb.softmax_cross_entropy)
  before = check(*args)
  monkeypatch.setattr(live_check, "HAS_FLOAT64", frozenset())
  assert all(
    leaf.devices() == {first} for leaf in live_check.where_float64_is(jax.tree.leaves(args))
  )
  assert check(*args) == before
