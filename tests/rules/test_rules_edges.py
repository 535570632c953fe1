"""Backward rules at their edges: keys, weights in use, numbers and networks of any size."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop import rules
from fbackprop.rules.contract import Links
from tests.rules.test_rules import RULES, cotangent_of, vector
from tests.support.refusals import refusals
from tests.support.witness import assert_bitwise, random_like

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, TARGETS = random_like(RNG, (jnp.ones((8, 4)), jnp.ones((8, 3))))


def update(rule, params, x=X, targets=TARGETS, key=None):
  return fb.value_and_grad(rule, fb.squared_error)(params, x, targets, key=key)[1]


# --- Keys -----------------------------------------------------------------------------------------

CHAINS = {
  "chain": lambda: fb.serial(fb.dense(4, 8), fb.dense(8, 3)),
  "nested": lambda: fb.serial(fb.dense(4, 4), fb.serial(fb.dense(4, 4), fb.dense(4, 4))),
  "recurrent": lambda: fb.serial(fb.layers.recurrent(2, 2, 3), fb.dense(3, 3)),
  "convolution": lambda: fb.serial(fb.layers.conv1d(4, 1, 2, taps=1), fb.dense(8, 3)),
  "repeat": lambda: fb.serial(fb.repeat(fb.dense(4, 4), 2), fb.dense(4, 4)),
  "graph": lambda: fb.graph({"a": (fb.dense(4, 4), "x"), "y": (fb.dense(4, 4), "a")}, output="y"),
}
WITH_FEEDBACK = ("feedback_alignment", "direct_feedback_alignment", "fixed", "kolen_pollack",
                 "difference_target_propagation")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_no_random_feedback_is_a_weight(name):
  """Under the keys of JAX's default generator, `fold_in(key, k)` is `split(key, n)[k]`."""
  net = CHAINS[name]()
  weights = [w.ravel()[:4] for w in jax.tree.leaves(net.init(KEY)) if len(np.unique(w)) > 4]
  for rule in WITH_FEEDBACK:
    feedback = RULES[rule](net).init(KEY).feedback
    drawn = [b.ravel()[:4] for b in jax.tree.leaves(feedback) if len(np.unique(b)) > 4]
    assert drawn or len(Links("test", net).blocks) == 1
    # Initialisers scale by the widths: the same key gives proportional numbers.
    for w, b in itertools.product(weights, drawn):
      assert abs(np.corrcoef(w, b)[0, 1]) < 1 - 1e-6, rule


# --- The weights in use ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("magnitudes", ["uniform", "batch", "fixed"])
def test_the_weights_angle_of_sign_symmetry_is_to_the_weights_in_use(magnitudes):
  rule = rules.sign_symmetry(fb.dense(4, 3), magnitudes)
  params, key = rule.init(KEY), jax.random.key(1)
  kept = rule.forward(params, jnp.ones((3, 4)), key)[1]
  b = rule.backward(params, kept, jnp.eye(3))[1].T
  w = params.params.w
  cosine = float((w * b).sum() / jnp.linalg.norm(w) / jnp.linalg.norm(b))
  found = rules.alignment(rule, fb.squared_error)(params, X, TARGETS, key=key)["dense"]
  assert abs(float(found.weight_angle) - np.degrees(np.arccos(cosine))) < 1e-3
  assert float(found.weight_angle) < 90
  assert repr(rule) == "sign_symmetry(dense(4, 3))"


@pytest.mark.slow
def test_copies_of_a_repeat_have_magnitudes_of_their_own():
  """Those of the layers one after another, also of scales, which are vectors."""
  stacked, alone = fb.repeat(fb.layer_norm(4), 2), fb.serial(fb.layer_norm(4), fb.layer_norm(4))
  params = fb.NormParams(jnp.array([[1.0, -2, 3, 1], [10, 10, -20, 5]]), jnp.zeros((2, 4)))
  each = tuple(jax.tree.map(lambda a, i=i: a[i], params) for i in range(2))
  (a, x_bar), (b, want) = (
    fb.value_and_grad(rules.sign_symmetry(net), fb.squared_error, input_gradient=True)(
      rules.RuleParams(own, ()), X, X
    )[1]
    for net, own in ((stacked, params), (alone, each))
  )
  np.testing.assert_allclose(x_bar, want, rtol=0, atol=1e-6 * float(jnp.abs(want).max()))
  for i in range(2):
    np.testing.assert_allclose(a.params.scale[i], b.params[i].scale, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_biases_and_scales_of_a_repeat_are_no_weights():
  net = fb.serial(fb.repeat(fb.serial(fb.tanh, fb.dense(4, 4)), 3), fb.repeat(fb.layer_norm(4), 2))
  rule = rules.feedback_alignment(net)
  params = rule.init(KEY)
  bias = params.feedback[0][1]._replace(b=params.feedback[0][1].b + 100)
  changed = params._replace(feedback=((((), bias)), params.feedback[1]))
  measure = rules.alignment(rule, fb.squared_error)
  before, after = measure(params, X, X), measure(changed, X, X)
  assert np.isnan(after["1.layer_norm"].weight_angle)
  assert float(after["0.1.dense"].weight_angle) == float(before["0.1.dense"].weight_angle) > 0


# --- Numbers of any size --------------------------------------------------------------------------

SQUARES = fb.serial(*(fb.dense(4, 4, bias=False) for _ in range(2)))
Y_BAR = jnp.array([[3.0, -4.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [0.1, 0.2, -0.3, -0.4]])
CHANGES = {
  "noisy": lambda size: rules.noisy(SQUARES, 0.5), "top_k": lambda size: rules.top_k(SQUARES, 2),
  "quantized": lambda size: rules.quantized(SQUARES, 8),
  "fine": lambda size: rules.quantized(SQUARES, 24),
  "clipped": lambda size: rules.clipped(SQUARES, 3.0 * size),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("power", [-100, -70, 66, 125])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_cotangents_scales_with_them(name, power):
  """Their squares would be 0 or infinite: noise vanished, clipping gave 0, rounding NaN."""
  size = 2.0**power
  want = cotangent_of(CHANGES[name](1.0), SQUARES, Y_BAR, 4)
  got = cotangent_of(CHANGES[name](size), SQUARES, Y_BAR * size, 4)
  assert name == "fine" or (np.asarray(want) != np.asarray(Y_BAR)).any()
  np.testing.assert_allclose(np.asarray(got, float) / size, want, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_cotangents_in_float16_is_that_in_float32(name):
  small = fb.serial(*(fb.dense(4, 4, bias=False, dtype=jnp.float16) for _ in range(2)))
  y_bar = (Y_BAR * 2.0**-12).astype(jnp.float16)
  options = {"noisy": 0.5, "top_k": 2, "quantized": 8, "fine": 24, "clipped": 3 * 2.0**-12}[name]
  rule = getattr(rules, "quantized" if name == "fine" else name)(small, options)
  eye = fb.DenseParams(jnp.eye(4, dtype=jnp.float16), None)
  kept = rule.forward(rules.RuleParams((eye, eye), ()), jnp.ones_like(y_bar), KEY)[1]
  got = rule.backward(rules.RuleParams((eye, eye), ()), kept, y_bar)[1]
  want = cotangent_of(CHANGES[name](2.0**-12), SQUARES, y_bar.astype(jnp.float32), 4)
  assert got.dtype == jnp.float16
  # Half a unit in the last place, of numbers from 2^-12, and below 2^-14 of its subnormals.
  np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2.0**-11, atol=2.0**-25)


@pytest.mark.slow
def test_angles_and_magnitudes_of_tiny_weights():
  net = fb.serial(fb.dense(4, 4, bias=False), fb.dense(4, 3, bias=False))
  rule = rules.sign_symmetry(net)
  params = rule.init(KEY)
  tiny = params._replace(
    params=(params.params[0], fb.DenseParams(params.params[1].w * 1e-30, None))
  )
  measure = rules.alignment(rule, fb.squared_error)
  # Targets of 0, so that y has no part in the angle.
  found = measure(tiny, X, TARGETS)
  assert 0 < float(found["0.dense"].angle) < 90
  assert 0 < float(found["0.dense"].norm_ratio) < 10
  assert 0 < float(found["1.dense"].weight_angle) < 90


# --- NumPy's numbers ------------------------------------------------------------------------------

WITH_NUMBERS = [
  lambda net, n: rules.kolen_pollack(net, n(0.5)),
  lambda net, n: rules.noisy(net, n(0.5)),
  lambda net, n: rules.clipped(net, n(0.5)),
  lambda net, n: rules.gauss_seidel(net, n(0.5)),
  lambda net, n: rules.difference_target_propagation(net, step=n(0.5), noise=n(0.5)),
  lambda net, n: rules.predictive_coding(net, steps=2, rate=n(0.5), precision=n(0.5)),
  lambda net, n: rules.quantized(net, np.int64(4)),
  lambda net, n: rules.top_k(net, np.int64(2)),
  lambda net, n: rules.predictive_coding(net, steps=np.int64(2)),
]


@pytest.mark.slow
@pytest.mark.parametrize("make", WITH_NUMBERS)
@pytest.mark.parametrize("x64", [False, True])
def test_a_numpy_number_gives_the_updates_of_a_python_number(make, x64):
  with jax.enable_x64(x64):
    net = fb.mlp([4, 4, 3], fb.tanh, dtype=jnp.bfloat16)
    x, targets = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (X, TARGETS))
    params = make(net, float).init(KEY)
    got, want = (update(make(net, n), params, x, targets, KEY) for n in (np.float64, float))
    assert_bitwise("update", ("params",), (got,), (want,))
    for bar, primal in zip(*map(jax.tree.leaves, (got, params)), strict=True):
      assert bar.dtype == primal.dtype


# --- Networks of any shape ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_decoder_has_the_activation_behind_the_weights_and_none_before():
  net = fb.serial(fb.tanh, fb.dense(4, 5), fb.relu, fb.dense(5, 3))
  rule = rules.difference_target_propagation(net, noise=0.0)
  params = rule.init(KEY)
  (((w, b), own),) = params.feedback
  assert own == ()
  h = jax.nn.relu(jnp.tanh(X) @ params.params[1].w + params.params[1].b[None])

  def error(w):
    again = jax.nn.relu((h @ params.params[3].w + params.params[3].b[None]) @ w + b[None])
    return 0.5 * ((again - h) ** 2).sum() / len(X)

  got = update(rule, params).feedback[0][0].w
  np.testing.assert_allclose(got, jax.grad(error)(w), rtol=0, atol=1e-5)


def split_net():
  nodes = {
    "s": (fb.split(2, 2), "x"), "a": (fb.dense(2, 5), "s[0]"), "b": (fb.dense(2, 5), "s[1]"),
    "y": (fb.add, "a", "b"),
  }  # fmt: skip
  return fb.serial(fb.graph(nodes, output="y"), fb.tanh, fb.dense(5, 3))


def two_inputs(output="y"):
  nodes = {"a": (fb.dense(4, 5), "u"), "b": (fb.dense(2, 5), "v"), "y": (fb.add, "a", "b")}
  return fb.graph(nodes, output=output, inputs=("u", "v"))


NEED_WIDTHS = [rules.direct_feedback_alignment, rules.drtp, rules.difference_target_propagation]


@pytest.mark.slow
@pytest.mark.parametrize("make", NEED_WIDTHS)
def test_widths_are_found_in_a_graph_or_of_an_example(make):
  params = make(split_net()).init(KEY)
  assert {5, 3} in [set(leaf.shape) for leaf in jax.tree.leaves(params.feedback)]
  net = fb.serial(two_inputs(), fb.tanh, fb.dense(5, 3))
  x = (X, X[:, :2])
  like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
  for example in (x, like):
    rule = make(net, x=example)
    assert jax.tree.map(jnp.shape, update(rule, rule.init(KEY), x)) == (
      jax.tree.map(jnp.shape, rule.init(KEY))
    )


ENDS = fb.serial(fb.dense(4, 4), fb.graph({"y": (fb.dense(4, 3), "x")}, output=("y",)))
INSIDE = fb.serial(fb.graph({"y": (fb.dense(4, 3), "x")}, output=("y",)),
                   fb.graph({"y": (fb.dense(3, 3), "x")}, output="y", inputs=("x",)))  # fmt: skip
IDENTITY = rules.straight_through(fb.tanh)
REMAT = fb.serial(fb.dense(4, 4), fb.remat(fb.skip(fb.dense(4, 4))))
REFUSED = [
  *((lambda make=make: make(fb.serial(two_inputs(), fb.dense(5, 3))).init(KEY), ValueError,
     "net must begin with a layer that states its width, .* x=, an array like the data")
    for make in NEED_WIDTHS),
  *((lambda make=make: make(ENDS), ValueError,
     r"net must give one array to each block, .* graph with output=\('y',\)")
    for make in (*NEED_WIDTHS, rules.predictive_coding)),
  *((lambda make=make: make(INSIDE), ValueError, "net must give one array to each block")
    for make in (*NEED_WIDTHS, rules.predictive_coding, lambda net: rules.noisy(net, 1.0))),
  (lambda: rules.direct_feedback_alignment(split_net(), x=X[:, :3]).init(KEY), ValueError,
   "split: x must have shape"),
  (lambda: rules.drtp(split_net(), x=3).init(KEY), TypeError, "drtp: x must be an array, got int"),
  (lambda: IDENTITY.backward((), IDENTITY.forward((), X)[1], X[:1]), ValueError,
   r"straight_through: y_bar must have shape \[8, 4\], got float32\[1, 4\]"),
  (lambda: rules.gauss_seidel(REMAT, 0.1), TypeError, "gauss_seidel: net must have no remat"),
  (lambda: rules.clipped(SQUARES, 0), ValueError, "bound must be a finite number above 0, got 0"),
]  # fmt: skip

test_bad_networks_are_refused = refusals(lambda call: call(), REFUSED)


@pytest.mark.slow
def test_gauss_seidel_and_changed_cotangents_take_several_at_the_ends():
  """They carry on what backpropagation carries."""
  for make in (lambda net: rules.gauss_seidel(net, 0.0), lambda net: rules.top_k(net, 4)):
    params = ENDS.init(KEY)
    y, backward = fb.pullback(make(ENDS))(rules.RuleParams(params, ()), X)
    want = fb.pullback(ENDS)(params, X)[1](y)
    got = backward(y)
    assert_bitwise("ends", ("params", "x_bar"), (got[0].params, got[1]), want)


# --- Orders and limits ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_layer_local_order_is_the_simultaneous_one_to_the_bit():
  """Each layer changes at once, and the cotangent goes on by what it was before."""
  net, rate = fb.mlp([4, 6, 5, 3], fb.tanh), 0.1
  links, params = Links("test", net), net.init(KEY)
  y, kept = net.forward(params, X)
  bar = fb.squared_error.backward(fb.squared_error.forward(y, TARGETS)[1], jnp.full(8, 1 / 8))
  own, kept = links.flatten(params), links.flatten(kept)
  for i in reversed(range(len(links.layers))):
    grads, bar = links.layers[i].backward(own[i], kept[i], bar)
    own[i] = jax.tree.map(lambda p, g: p - rate * g, own[i], grads)  # In place of the old ones.
  grads = update(net, params)
  want = jax.tree.map(lambda p, g: p - rate * g, params, grads)
  assert_bitwise("layer-local", ("params",), (links.unflatten(own),), (want,))


@pytest.mark.slow
@pytest.mark.usefixtures("in_float64")
def test_predictive_coding_of_a_nonlinear_network_tends_to_backprop_linearly_too():
  """At equilibrium the states are within O(λ) of the feedforward ones, whatever the activation."""
  net = fb.mlp([4, 6, 5, 3], fb.tanh, dtype=jnp.float64)
  params = net.init(KEY)
  x, targets = (jnp.asarray(a, jnp.float64) for a in (X, TARGETS))
  true = vector(update(net, params, x, targets))
  differences = []
  for precision in (1e-1, 1e-2, 1e-3):
    rule = rules.predictive_coding(net, steps=200, rate=0.3, precision=precision)
    got = update(rule, rules.RuleParams(params, ()), x, targets).params
    differences.append(np.linalg.norm(vector(got) - true) / np.linalg.norm(true))
  slopes = np.log10(np.array(differences[:-1]) / differences[1:])
  assert abs(slopes[-1] - 1) < 0.02
  assert differences[-1] < 0.01
