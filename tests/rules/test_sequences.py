"""Convolution and recurrence: what the laws don't cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fbackprop as fb
from fbackprop import quantities as q
from tests.support.refusals import refusals
from tests.support.witness import assert_bitwise, random_like

KEY = jax.random.key(0)
CONV = fb.layers.conv1d(8, 2, 3, taps=4, stride=2, padding=1)
RECURRENT = fb.layers.recurrent(5, 2, 4)
X = jnp.ones((3, 16))


def test_a_convolution_keeps_its_input_and_a_recurrence_its_states():
  net = fb.serial(fb.dense(4, 16), CONV)
  assert fb.residual_bytes(net, jax.ShapeDtypeStruct((7, 4), jnp.float32)) == 7 * 16 * 4
  x = jax.ShapeDtypeStruct((7, 10), jnp.float32)
  # tanh's slope is written from its output, the state, which is kept once; gelu's isn't.
  assert fb.residual_bytes(RECURRENT, x) == 5 * 7 * 4 * 4
  of_gelu = fb.layers.recurrent(5, 2, 4, gate=fb.gates.gelu)
  assert fb.residual_bytes(of_gelu, x) == 2 * 5 * 7 * 4 * 4


@pytest.mark.slow
def test_one_step_is_a_dense_layer_and_its_activation():
  one, plain = fb.layers.recurrent(1, 3, 4), fb.serial(fb.dense(3, 4), fb.tanh)
  params = one.init(KEY)
  own = (fb.DenseParams(params.w, params.b), ())
  x, y_bar = random_like(np.random.default_rng(0), (jnp.ones((6, 3)), jnp.ones((6, 4))))
  (y, kept), (want, kept_) = one.forward(params, x), plain.forward(own, x)
  (bars, x_bar), (bars_, x_bar_) = one.backward(params, kept, y_bar), plain.backward(
    own, kept_, y_bar
  )  # fmt: skip
  assert_bitwise("one step", ("y",), (y,), (want,))
  for got, wanted in ((bars.w, bars_[0].w), (bars.b, bars_[0].b), (x_bar, x_bar_)):
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
  assert not bars.u.any()  # The state before the first step is 0.


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", ["conv1d", "recurrent", "in a loop"])
def test_examples_gradients_have_cross_terms_of_places_and_steps(name):
  rng = np.random.default_rng(0)
  wide = {"dtype": jnp.float64}
  nets = {
    "conv1d": fb.layers.conv1d(7, 2, 3, taps=4, stride=2, padding=1, **wide),
    "recurrent": fb.layers.recurrent(7, 2, 9, **wide),
    "in a loop": fb.repeat(fb.layers.recurrent(7, 2, 2, all_steps=True, **wide), 2),
  }
  layer = nets[name]
  params, x = random_like(rng, (layer.init(KEY), jnp.ones((5, 14), float)))
  y_bar = random_like(rng, jax.eval_shape(lambda p: layer.forward(p, x)[0], params))
  factors = fb.pullback(q.captured(layer))(params, x)[1](y_bar)[0]

  def one(x, y_bar):
    return jax.vjp(lambda p: layer.forward(p, x[None])[0][0], params)[1](y_bar)[0]

  each = jax.jit(jax.vmap(one))(x, y_bar)
  flat = np.concatenate([np.asarray(g).reshape(5, -1) for g in jax.tree.leaves(each)], 1)
  close = {"rtol": 0, "atol": 1e-12 * (flat**2).sum(1).max()}

  def assert_near(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), got, want)

  norms = np.sqrt((flat**2).sum(1))
  assert_near(q.example_sqnorms(factors), norms**2)
  assert_near(q.gram(factors), flat @ flat.T)
  assert_near(q.example_gradients(factors), each)
  assert_near(q.second_moment(factors), jax.tree.map(lambda g: (g**2).sum(0), each))
  assert_near(q.variance(factors), jax.tree.map(lambda g: g.var(0, ddof=1), each))
  bound = float(np.median(norms))
  shares = np.minimum(1, bound / norms)
  want = jax.tree.map(lambda g: np.tensordot(shares, g, 1), each)
  assert_near(q.clipped_gradient(factors, bound), want)


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_quantities_of_a_convolution_on_a_mesh(axis_type):
  """The batch split over two devices: the values of one device."""
  net = q.captured(fb.layers.conv1d(7, 2, 3, taps=4, stride=2, padding=1, dtype=jnp.float64))
  names = ("example_sqnorms", "gram", "second_moment", "example_gradients")
  run = jax.jit(q.compute(net, fb.squared_error, names))
  rng = np.random.default_rng(0)
  params, x, targets = random_like(
    rng, (net.init(KEY), jnp.ones((6, 14), float), jnp.ones((6, 9), float))
  )
  want = run(params, x, targets)
  devices = jax.devices("cpu")[:2]
  mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,), devices=devices)
  params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
  x, targets = jax.device_put((x, targets), NamedSharding(mesh, PartitionSpec("data")))
  with jax.set_mesh(mesh):
    got = run(params, x, targets)
  assert len(got[2]["example_sqnorms"].sharding.device_set) == 2
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * float(jnp.abs(b).max()))


REFUSED = [
  (lambda: fb.layers.conv1d(8, 2, 3, taps=9), ValueError, "taps must be at most the 8 points"),
  (lambda: fb.layers.conv1d(8, 2, 3, taps=3, stride=0), ValueError, "stride must be at least 1"),
  (lambda: fb.layers.conv1d(8, 2, 3, taps=3, padding=-1), ValueError, "padding must be at least 0"),
  (lambda: fb.layers.conv1d(8, 2.5, 3, taps=3), TypeError, "c_in must be an integer"),
  (lambda: CONV.forward(CONV.init(KEY), X[:, :15]), ValueError, r"x must have shape \[N, 16\]"),
  (lambda: CONV.forward((), X), ValueError, r"params must be ConvParams\(w, b\)"),
  (lambda: CONV.backward(CONV.init(KEY), X, X), ValueError, r"y_bar must have shape \[3, 12\]"),
  (lambda: fb.layers.recurrent(0, 2, 3), ValueError, "length must be at least 1"),
  (lambda: fb.layers.recurrent(5, 2, 3, gate=fb.gates.add), TypeError, "gate must have one input"),
  (lambda: fb.layers.recurrent(5, 2, 3, gate=fb.tanh), TypeError, "gate must be a Gate"),
  (lambda: RECURRENT.forward(RECURRENT.init(KEY), X), ValueError, r"x must have shape \[N, 10\]"),
  (lambda: RECURRENT.forward(RECURRENT.init(KEY), X[:, :10].astype(jnp.bfloat16)), TypeError,
   "x must have dtype float32"),
]  # fmt: skip


test_bad_arguments_are_refused = refusals(lambda call: call(), REFUSED)
