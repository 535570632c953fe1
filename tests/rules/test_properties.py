"""Random networks against two other witnesses, and extreme numbers against what is known of them.

A random network may cancel, saturate or amplify, so no fixed tolerance fits. The bound is carried
along with the numbers instead (Higham, "Accuracy and Stability of Numerical Algorithms", §3.3):
what rounding can do to each entry, in units of eps.
"""

from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify.cases.layers import REFERENCES, affine, chain_of
from tests.support import oracle
from tests.support.losses import assert_losses
from tests.support.models import ROWS, in_oracle_words

ACTIVATIONS = ("gelu", "relu", "sigmoid", "tanh")
LOSSES = ("squared_error", "softmax_cross_entropy_rows", "sigmoid_cross_entropy")
# Of the activations here: the largest |f'| (gelu's, 1.13) and |f''| (gelu's 0.80), rounded up.
SLOPE, CURVATURE = 1.2, 1.0
# A bound counts each term's rounding once; a rule, or the sum of a handful of terms, has a few.
ROUNDINGS = 4

networks = st.fixed_dictionaries(
  {
    "sizes": st.lists(st.integers(1, 4), min_size=2, max_size=4),
    "n": st.sampled_from([1, 3]),
    "dtype": st.sampled_from(["float32", "float64"]),
    "activation": st.sampled_from(ACTIVATIONS),
    "loss": st.sampled_from(LOSSES),
    "scale": st.sampled_from([1e-3, 1.0, 1e3]),
    "x_scale": st.sampled_from([1e-3, 1.0, 1e3]),
    "seed": st.integers(0, 99),
  }
)


def draw(sizes, n, dtype, activation, loss, scale, x_scale, seed):
  """The network, its loss, and the arguments of their mean gradient."""
  rng = np.random.default_rng(seed)
  net = fb.mlp(sizes, getattr(fb, activation), dtype=dtype)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(dtype), shapes)
  x = (x_scale * rng.normal(size=(n, sizes[0]))).astype(dtype)
  targets = rng.uniform(0, 1, (n, sizes[-1])).astype(dtype)
  return net, ROWS[loss].make(dtype), params, x, targets


def rounding_errors(net, loss, params, x, targets, eps):
  """What rounding may do to `(grads, x_bar)`, entry by entry, or None at a kink.

  Forward, `e` is the error of h in units of eps, and `|h| |w| + |b|` what rounding adds to z.
  Backward, `a` is the size of a cotangent and `e` its error; an activation contributes f'' times
  the error of its input.
  """
  n, h, e = len(x), x, np.zeros_like(x)
  seen = []
  for w, b, name in in_oracle_words(net, params):
    z = h @ w + b
    e_z = e @ abs(w) + abs(h) @ abs(w) + abs(b) + abs(z)
    if name == "relu" and (abs(z) <= ROUNDINGS * eps * e_z).any():
      return None
    seen.append((w, h, e, e_z))
    h = np.vectorize(oracle.ACTIVATIONS[name][0])(z)
    e = SLOPE * e_z + abs(h)
  pairs = zip(h, targets, strict=True)
  a = np.array([abs(oracle.LOSSES[loss.name](y, t)[1]) for y, t in pairs]) / n
  if loss.name == "squared_error":
    e = (e + abs(h) + abs(targets)) / n
  else:  # p moves by no more than the logits do, and p and t are rounded.
    e = (targets.sum(1, keepdims=True) * (e.max(1, keepdims=True) + 1) + abs(targets) + 1) / n
  errors = []
  for i, (w, h, e_h, e_z) in reversed(list(enumerate(seen))):
    if i < len(seen) - 1:
      e = SLOPE * e + a * (CURVATURE * e_z + 1)
      a = SLOPE * a
    w_error = abs(h).T @ (e + a) + e_h.T @ a
    errors.append(fb.DenseParams(w_error, (e + a).sum(0)))
    a, e = a @ abs(w).T, (e + a) @ abs(w).T
  return errors[::-1], e


@pytest.mark.slow
@hypothesis.settings(max_examples=15)
@hypothesis.given(networks)
def test_random_networks_agree_with_autodiff_and_the_oracle(network):
  with jax.enable_x64(True):
    net, loss, params, x, targets = draw(**network)
    widened = jax.tree.map(lambda leaf: leaf.astype(np.float64), (params, x, targets))
    eps = float(np.finfo(x.dtype).eps)
    bounds = rounding_errors(net, loss, *widened, eps)
    hypothesis.assume(bounds is not None)

    step = jax.jit(fb.value_and_grad(net, loss, input_gradient=True))
    _, got = jax.device_get(step(params, x, targets))
    hidden = REFERENCES[network["activation"]]
    f = chain_of(*(affine, hidden) * (len(network["sizes"]) - 2), affine)

    def mean(params, x, targets):
      return ROWS[network["loss"]].reference(f(params, x), targets).mean()

    autodiff = jax.device_get(jax.jit(jax.grad(mean, (0, 1)))(*widened))
  words = in_oracle_words(net, params)
  _, grads, x_bar = oracle.value_and_grad(words, loss.name, *widened[1:])
  autodiff, by_loops = jax.tree.leaves(autodiff), jax.tree.leaves((grads, x_bar))
  for ours, *others, bound in zip(
    jax.tree.leaves(got), autodiff, by_loops, jax.tree.leaves(bounds), strict=True
  ):
    # Below the smallest normal number digits are lost, whatever the bound says.
    allowed = ROUNDINGS * (eps * bound + float(np.finfo(x.dtype).tiny))
    for witness in others:
      assert (abs(ours - witness) <= allowed).all(), (ours, witness, allowed)


def test_the_bounds_are_not_vacuous():
  """At scale 1 a factor of 1.001 lies far outside of them, in float32 too."""
  net, loss, *arguments = draw([3, 4, 4], 3, "float32", "tanh", "squared_error", 1.0, 1.0, seed=0)
  params, x, targets = jax.tree.map(lambda leaf: leaf.astype(np.float64), arguments)
  words, eps = in_oracle_words(net, params), float(np.finfo(np.float32).eps)
  _, grads, _ = oracle.value_and_grad(words, "squared_error", x, targets)
  errors, _ = rounding_errors(net, loss, params, x, targets, eps)
  for (w_bar, _), error in zip(grads, errors, strict=True):
    assert abs(0.001 * w_bar).max() > ROUNDINGS * eps * error.w.max()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(oracle.ACTIVATIONS))
@hypothesis.given(st.floats(-40, 40))
def test_the_oracle_has_the_slopes_of_its_functions(name, z):
  function, slope = oracle.ACTIVATIONS[name]
  hypothesis.assume(abs(z) > 1e-3)
  difference = (function(z + 1e-5) - function(z - 1e-5)) / 2e-5
  assert abs(difference - slope(z)) < 1e-9


@pytest.mark.parametrize("name", sorted(oracle.ACTIVATIONS))
@hypothesis.settings(max_examples=10)
@hypothesis.given(st.lists(st.floats(-40, 40) | st.sampled_from([0, 1, -1, 6]), max_size=8))
def test_activations_and_their_slopes_are_those_of_the_oracle(name, zs):
  """Absolutely to a few eps, the slopes being written in the output; at the kinks, too."""
  function, slope = oracle.ACTIVATIONS[name]
  layer = getattr(fb, name)
  with jax.enable_x64(True):
    z = jnp.asarray([[*zs, *[0.0] * (8 - len(zs))]], jnp.float64)  # One shape, one compilation.
    y, residuals = layer.forward((), z)
    _, x_bar = layer.backward((), residuals, jnp.ones_like(y))
  want = np.array([[function(v) for v in row] for row in np.asarray(z)])
  slopes = np.array([[slope(v) for v in row] for row in np.asarray(z)])
  np.testing.assert_allclose(y, want, rtol=1e-14, atol=1e-15)
  np.testing.assert_allclose(x_bar, slopes, rtol=1e-14, atol=1e-14)


SCALE = 1.0507009873554805
LIMIT = SCALE * 1.6732632423543772  # Of selu, at minus infinity.

FAR = [-1e4, -1e3, 0.0, 1e4]
SLOPES = {  # Values and slopes there.
  "relu": ([0, 0, 0, 1e4], [0, 0, 0, 1]),
  "sigmoid": ([0, 0, 0.5, 1], [0, 0, 0.25, 0]),
  "tanh": ([-1, -1, 0, 1], [0, 0, 1, 0]),
  "gelu": ([0, 0, 0, 1e4], [0, 0, 0.5, 1]),
  "gelu_tanh": ([0, 0, 0, 1e4], [0, 0, 0.5, 1]),
  "silu": ([0, 0, 0, 1e4], [0, 0, 0.5, 1]),
  "softplus": ([0, 0, np.log(2), 1e4], [0, 0, 0.5, 1]),
  "mish": ([0, 0, 0, 1e4], [0, 0, 0.6, 1]),
  "elu": ([-1, -1, 0, 1e4], [0, 0, 1, 1]),
  "selu": ([-LIMIT, -LIMIT, 0, SCALE * 1e4], [0, 0, LIMIT, SCALE]),
  "leaky_relu": ([-100, -10, 0, 1e4], [0.01, 0.01, 0.01, 1]),
  "relu6": ([0, 0, 0, 6], [0, 0, 0, 0]),
  "hard_tanh": ([-1, -1, 0, 1], [0, 0, 1, 0]),
}


# --- Extremes -------------------------------------------------------------------------------------


assert_eagerly = partial(assert_losses, rtol=1e-6, form=lambda f: f)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestExtremes:
  """Finite, and right, where e^z overflows, underflows, or has no logarithm."""

  @pytest.fixture(autouse=True)
  def _precision(self, dtype):
    with jax.enable_x64(dtype == "float64"):
      yield

  @pytest.mark.slow
  def test_softmax_of_large_logits(self, dtype):
    logits = [[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [1e4, 1e4, -1e4]]
    want = [0, 2e4, np.log(2)], [[0, 0, 0], [1, -1, 0], [-0.5, 0.5, 0]]
    assert_eagerly(fb.softmax_cross_entropy, logits, [0, 1, 0], want, dtype)

  @pytest.mark.slow
  @pytest.mark.parametrize("targets", [[1], [[0.0, 1.0, 0.0]]], ids=["labels", "rows"])
  def test_softmax_of_impossible_classes(self, dtype, targets):
    """A logit −inf where the target is 0 is as if the class weren't there."""
    want = [np.log(2)], [[0, -0.5, 0.5]]
    assert_eagerly(fb.softmax_cross_entropy, [[-np.inf, 0.0, 0.0]], targets, want, dtype)

  @pytest.mark.slow
  def test_sigmoid_cross_entropy_of_large_logits(self, dtype):
    logits = [[1e3, -1e3], [1e3, -1e3], [0.0, 0.0], [1e4, -1e4]]
    targets = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]
    want = [0, 2e3, 2 * np.log(2), 1e4], [[0, 0], [1, -1], [-0.5, 0.5], [0.5, -0.5]]
    assert_eagerly(fb.sigmoid_cross_entropy, logits, targets, want, dtype)

  @pytest.mark.slow
  @pytest.mark.parametrize("name", SLOPES)
  def test_activation_far_from_zero(self, dtype, name):
    layer, (values, slopes) = getattr(fb, name), SLOPES[name]
    x = jnp.asarray([FAR], dtype)
    y, residuals = layer.forward((), x)
    _, x_bar = layer.backward((), residuals, jnp.ones_like(y))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y, [values], rtol=4 * eps)
    np.testing.assert_allclose(x_bar, [slopes], rtol=4 * eps)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("layer", [fb.elu, fb.selu, fb.tanh, fb.sigmoid], ids=lambda f: f.name)
def test_the_slope_where_half_precision_saturates_is_zero(layer, dtype):
  """Times a cotangent of 1e4, anything else would be a wrong gradient."""
  y, residuals = layer.forward((), jnp.full((1, 1), -1e4, dtype))
  assert layer.backward((), residuals, jnp.ones_like(y))[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("name", ["identity", *SLOPES])
def test_activation_in_half_precision(name, dtype):
  """Over all of float16's range: finite, and what float32 says, to a few roundings."""
  layer = getattr(fb, name)
  sizes = np.concatenate([np.linspace(0, 12, 200), np.geomspace(12, 6e4, 200)])
  z = jnp.asarray(np.concatenate([-sizes, sizes])[None, :], dtype)

  def value_and_slope(z):
    y, residuals = layer.forward((), z)
    return y, layer.backward((), residuals, jnp.ones_like(y))[1]

  eps = float(jnp.finfo(dtype).eps)
  for got, want in zip(value_and_slope(z), value_and_slope(z.astype(jnp.float32)), strict=True):
    # Absolutely below 1: a slope that is written in the output has no other digits.
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=16 * eps, atol=16 * eps)
