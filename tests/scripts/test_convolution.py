"""A layer that was added from outside, `experiments/convolution.py`, obeys what ours obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from experiments import convolution
from fbackprop.quantities import captured, compute
from tests.support import laws
from tests.support.refusals import refusals


def every_check():
  """Each law for each row; the fast suite has one row, in the first of the law's fast dtypes."""
  checks = []
  for law in laws.LAWS.values():
    for case, dtype in laws.rows(law, convolution.ROWS):
      is_fast = case.id == "conv_strided" and dtype == (law.fast or law.dtypes)[0]
      marks = [] if is_fast else [pytest.mark.slow]
      name = f"{law.__name__}-{case.id}-{dtype}"
      checks.append(pytest.param(law, case, dtype, id=name, marks=marks))
  return checks


@pytest.mark.slow
@pytest.mark.parametrize(("law", "case", "dtype"), every_check())
def test_law(law, case, dtype):
  law(case, dtype)


def by_hand(params, x, stride, padding):
  """One example, one place, one tap, one channel at a time."""
  w, b = map(np.asarray, params)
  x = np.pad(np.asarray(x), ((0, 0), (padding, padding), (0, 0)))
  taps, c_in, c_out = w.shape
  starts = range(0, x.shape[1] - taps + 1, stride)
  y = np.zeros((len(x), len(starts), c_out))
  for n, p, o, k, c in np.ndindex(*y.shape, taps, c_in):
    y[n, p, o] += x[n, starts[p] + k, c] * w[k, c, o]
  return y + b


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 2), (2, 1), (3, 0)])
def test_forward_is_the_sum_over_taps_and_channels(stride, padding):
  layer = convolution.conv(8, 2, 3, taps=4, stride=stride, padding=padding)
  params = layer.init(jax.random.key(0))._replace(b=jnp.arange(3.0))
  x = jax.random.normal(jax.random.key(1), (5, 8, 2))
  y, _ = layer.forward(params, x.reshape(5, 16))
  want = by_hand(params, x, stride, padding)
  np.testing.assert_allclose(y, want.reshape(5, -1), rtol=0, atol=1e-5)


def test_it_keeps_its_input_alone():
  """The activation before it keeps the same array: one for each hidden layer, as with dense."""
  x = jax.ShapeDtypeStruct((7, 40), jnp.float32)
  assert fb.residual_bytes(convolution.conv(40, 1, 16, taps=5), x) == 0  # x is the data.
  hidden = 20 * 16 + 10 * 32 + 5 * 32
  assert fb.residual_bytes(convolution.conv_net(), x) == 7 * hidden * 4


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
def test_its_factors_give_each_example_s_gradient():
  """What a layer states of itself is enough for every quantity."""
  net = convolution.make_net(jnp.float64, **convolution.STRIDED)
  params = net.init(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (5, 14))
  targets = jnp.arange(5) % 4
  run = compute(captured(net), fb.softmax_cross_entropy, ("example_gradients", "example_sqnorms"))
  _, grads, found = jax.jit(run)(params, x, targets)

  def one(x, label):
    loss = fb.softmax_cross_entropy.forward
    return jax.grad(lambda p: loss(net.forward(p, x[None])[0], label[None])[0][0])(params)

  each = jax.jit(jax.vmap(one))(x, targets)
  squares = sum((g**2).reshape(5, -1).sum(1) for g in jax.tree.leaves(each))
  np.testing.assert_allclose(found["example_sqnorms"], squares, rtol=1e-12)
  for got, want in zip(*map(jax.tree.leaves, (found["example_gradients"], each)), strict=True):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)
  for got, want in zip(*map(jax.tree.leaves, (grads, each)), strict=True):
    np.testing.assert_allclose(got, want.mean(0), rtol=0, atol=1e-14)


NO_PLACE = [
  ({"taps": 9}, "9 taps"),
  ({"taps": 3, "stride": 0}, "stride 0"),
  ({"taps": 0}, "0 taps"),
  ({"taps": 3, "padding": -1}, "padding -1"),
]


test_a_window_without_a_place_is_refused = refusals(
  lambda options: convolution.conv(8, 2, 3, **options), NO_PLACE, fb.ShapeError
)


def test_wrong_arguments_are_refused_by_name():
  layer = convolution.conv(8, 2, 3, taps=3)
  params = layer.init(jax.random.key(0))
  x = jnp.ones((5, 16))
  for bad_params, bad_x, error, message in (
    (params, jnp.ones((5, 8, 2)), fb.ShapeError, "x must have shape"),
    (params, x.astype(jnp.bfloat16), fb.DtypeError, "x must have dtype float32"),
    ((), x, fb.StructureError, "params must be ConvParams"),
    (params._replace(w=params.w[1:]), x, fb.ShapeError, "params.w must have shape"),
  ):
    with pytest.raises(error, match=message):
      layer.forward(bad_params, bad_x)
  with pytest.raises(fb.ShapeError, match="y_bar must have shape"):
    layer.backward(params, x, jnp.ones((5, 16)))


def test_the_signals_are_the_same_for_a_seed_and_show_all_classes():
  x, labels = convolution.draw_signals(3, 200)
  assert (x.shape, x.dtype, labels.dtype) == ((200, 40), np.float32, np.int32)
  assert set(labels) == set(range(10))
  np.testing.assert_array_equal(x, convolution.draw_signals(3, 200)[0])


@pytest.mark.slow
def test_it_trains_and_its_gradient_is_right_meanwhile():
  with jax.numpy_dtype_promotion("standard"):  # Adam's own arithmetic isn't strict.
    result = convolution.train(convolution.conv_net(), seed=0, steps=300, n=500)
  assert result.checks_ok
  assert result.losses[-1] < 0.5 * result.losses[0]
