"""Backward rules as values: what each of them is exactly, and that they work as Layers do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop import rules
from fbackprop.train import Monitor, StopRules
from tests.support.refusals import refusals
from tests.support.witness import assert_bitwise, random_like

pytestmark = pytest.mark.usefixtures("in_float64")

KEY = jax.random.key(0)
LOSS = fb.squared_error
WIDE = {"dtype": jnp.float64}
X, TARGETS = (
  np.random.default_rng(0).normal(size=(8, width)).astype(np.float64) for width in (4, 3)
)


def tanh_net(*sizes):
  return fb.mlp(sizes or (4, 6, 5, 3), fb.tanh, **WIDE)


def linear_net(*sizes):
  return fb.mlp(sizes, fb.identity, bias=False, **WIDE)


def update(rule, params, key=None, x=X, targets=TARGETS):
  """The updates and the cotangent of the data, of the mean loss."""
  run = fb.value_and_grad(rule, LOSS, input_gradient=True)
  return run(params, jnp.asarray(x), jnp.asarray(targets), key=key)[1]


def assert_is_backprop(rule, net, params, feedback, key=None):
  """To the bit, of the parameters and of the data."""
  got, x_bar = update(rule, rules.RuleParams(params, feedback), key)
  want, want_x_bar = update(net, params, key if net.draws else None)
  assert_bitwise(rule.name, ("params", "x_bar"), (got.params, x_bar), (want, want_x_bar))


RULES = {
  "feedback_alignment": rules.feedback_alignment,
  "direct_feedback_alignment": rules.direct_feedback_alignment,
  "uniform": rules.sign_symmetry,
  "batch": lambda net: rules.sign_symmetry(net, "batch"),
  "fixed": lambda net: rules.sign_symmetry(net, "fixed"),
  "kolen_pollack": rules.kolen_pollack,
  "drtp": rules.drtp,
  "noisy": lambda net: rules.noisy(net, 0.5),
  "top_k": lambda net: rules.top_k(net, 2),
  "quantized": lambda net: rules.quantized(net, 3),
  "clipped": lambda net: rules.clipped(net, 0.1),
  "gauss_seidel": lambda net: rules.gauss_seidel(net, 0.5),
  "difference_target_propagation": rules.difference_target_propagation,
  "predictive_coding": lambda net: rules.predictive_coding(net, steps=3),
}


# --- The contract ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_a_layer_whose_forward_is_the_network_s(name):
  net = fb.mlp([4, 6, 5, 3], fb.tanh, dropout=0.3, normalization=fb.layer_norm, **WIDE)
  rule = RULES[name](net)
  params = rule.init(KEY)
  assert_bitwise(name, ("params",), (params.params,), (net.init(KEY),))
  key = jax.random.key(1)
  for own_key in (None, key):
    y = rule.forward(params, jnp.asarray(X), own_key)[0]
    assert_bitwise(name, ("y",), (y,), (net.forward(params.params, jnp.asarray(X), own_key)[0],))
  got, x_bar = jax.jit(lambda p: update(rule, p, key))(params)
  for bar, primal in zip(*map(jax.tree.leaves, ((got, x_bar), (params, X))), strict=True):
    assert (bar.shape, bar.dtype) == (primal.shape, primal.dtype)
  assert jax.tree.structure(got) == jax.tree.structure(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RULES.keys() - {"predictive_coding"}))
def test_the_output_layer_s_gradient_is_untouched(name):
  """Up to Kolen and Pollack's decay, which is subtracted here."""
  net = tanh_net()
  rule = RULES[name](net) if name != "kolen_pollack" else rules.kolen_pollack(net, 0.0)
  params = rule.init(KEY)
  got, _ = update(rule, params, jax.random.key(1))
  want, _ = update(net, params.params)
  assert_bitwise(name, ("last",), (got.params[-1],), (want[-1],))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feedback_alignment", "kolen_pollack", "fixed"])
def test_feedback_that_is_the_weights_is_backprop_to_the_bit(name):
  nodes = {
    "h": (fb.dense(4, 4, **WIDE), "x"), "a": (fb.tanh, "h"), "y": (fb.add, "a", "x"),
    "z": (fb.shared("h"), "y"),
  }  # fmt: skip
  graph = fb.serial(fb.graph(nodes, output="z"), fb.layer_norm(4, **WIDE), fb.dense(4, 3, **WIDE))
  deep = fb.mlp([4, 5, 5, 5, 3], fb.gelu, repeat_hidden=True, **WIDE)
  recurrent = fb.serial(fb.layers.recurrent(2, 2, 3, **WIDE))
  for net in (tanh_net(), graph, deep, recurrent):
    params = random_like(np.random.default_rng(1), net.init(KEY))
    rule = RULES[name](net) if name != "kolen_pollack" else rules.kolen_pollack(net, 0.0)
    assert_is_backprop(rule, net, params, params)


@pytest.mark.slow
def test_direct_feedback_by_the_weights_above_is_backprop_of_one_hidden_layer():
  net = tanh_net(4, 6, 3)
  params = net.init(KEY)
  assert_is_backprop(rules.direct_feedback_alignment(net), net, params, (params[2].w,))


def test_direct_feedback_by_the_product_of_the_weights_is_backprop_of_a_linear_network():
  net = linear_net(4, 6, 5, 3)
  params = net.init(KEY)
  w2, w3 = params[2].w, params[4].w
  got, _ = update(rules.direct_feedback_alignment(net), rules.RuleParams(params, (w2 @ w3, w3)))
  want, _ = update(net, params)
  for a, b in zip(*map(jax.tree.leaves, (got.params, want)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
  "make",
  [
    lambda net: rules.noisy(net, 0.0), lambda net: rules.top_k(net, 6),
    lambda net: rules.clipped(net, 1e9), lambda net: rules.gauss_seidel(net, 0.0),
  ],
  ids=["no noise", "all of k", "no bound reached", "rate 0"],
)  # fmt: skip
def test_a_rule_without_its_change_is_backprop_to_the_bit(make):
  net = fb.mlp([4, 6, 5, 3], fb.tanh, dropout=0.3, **WIDE)
  assert_is_backprop(make(net), net, net.init(KEY), (), jax.random.key(1))


@pytest.mark.slow
@pytest.mark.parametrize("make", [rules.feedback_alignment, rules.kolen_pollack])
def test_a_rule_trains_where_layers_do(make):
  """In `fit` with a check of the network's gradient, and through `jax.grad`."""
  with jax.numpy_dtype_promotion("standard"):
    result = fb.train.fit(
      make(tanh_net()), LOSS, (X, TARGETS), optimizer=optax.sgd(0.1), key=KEY,
      stop=StopRules(max_steps=300),
      monitor=Monitor(check_every=150, watch=("alignment",), eval_every=150),
    )  # fmt: skip
  assert result.losses[-1] < 0.7 * result.losses[0]
  assert result.checks_ok
  assert list(result.evaluations[-1].alignment) == ["0.dense", "2.dense", "4.dense"]
  rule = make(tanh_net())
  params = rule.init(KEY)
  through = jax.grad(lambda p: fb.as_custom_vjp(rule)(p, jnp.asarray(X)).sum())(params)
  y, backward = fb.pullback(rule)(params, jnp.asarray(X))
  assert_bitwise("custom_vjp", ("params",), (through,), (backward(jnp.ones_like(y))[0],))


# --- Laws of single rules -------------------------------------------------------------------------


@pytest.mark.slow
def test_feedback_alignment_of_a_deep_linear_network_turns_below_a_right_angle():
  """From small weights, as its theory has it, for the data of a linear teacher."""
  net = linear_net(4, 8, 8, 3)
  rule = rules.feedback_alignment(net)
  x, teacher = random_like(np.random.default_rng(0), (jnp.ones((64, 4)), jnp.ones((4, 3))))
  targets = x @ teacher
  run, measure = fb.value_and_grad(rule, LOSS), rules.alignment(rule, LOSS)

  @jax.jit
  @jax.vmap
  def angles(key):
    params = rule.init(key)
    params = params._replace(params=jax.tree.map(lambda w: 0.1 * w, params.params))

    def step(params, _):
      loss, updates = run(params, x, targets)
      return jax.tree.map(lambda p, g: p - 0.05 * g, params, updates), loss

    after, losses = jax.lax.scan(step, params, length=200)
    return [measure(p, x, targets) for p in (params, after)], losses

  (before, after), losses = angles(jax.random.split(KEY, 5))
  assert (losses[:, -1] < 0.1 * losses[:, 0]).all()
  for layer in ("0.dense", "2.dense"):
    assert (after[layer].angle < 75).all()
    assert after[layer].angle.mean() < before[layer].angle.mean() - 20
  assert (after["4.dense"].angle < 1e-5).all()
  assert (after["2.dense"].weight_angle < before["2.dense"].weight_angle).all()


@pytest.mark.slow
def test_kolen_pollack_s_difference_decays_at_the_rate_of_the_decay():
  rate, decay, steps = 0.1, 0.05, 20
  rule = rules.kolen_pollack(tanh_net(), decay)
  init, step = fb.train.make_step(rule, LOSS, fb.train.gradient_descent(rate))
  start = state = init(KEY)
  for _ in range(steps):
    state, _ = step(state, (jnp.asarray(X), jnp.asarray(TARGETS)))
  for w, b, w_0, b_0 in zip(*(jax.tree.leaves(tree) for tree in (
    state.params.params, state.params.feedback, start.params.params, start.params.feedback
  )), strict=True):  # fmt: skip
    want = (w_0 - b_0) * (1 - rate * decay) ** steps
    np.testing.assert_allclose(w - b, want, rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("magnitudes", ["uniform", "batch", "fixed"])
def test_the_feedback_of_sign_symmetry_has_the_signs_of_the_weights(magnitudes):
  """Read off the cotangent of the data, of one linear layer: x_bar = y_bar Bᵀ."""
  net = fb.dense(4, 3, **WIDE)
  rule = rules.sign_symmetry(net, magnitudes)
  params = rule.init(KEY)
  kept = rule.forward(params, jnp.ones((3, 4)), jax.random.key(1))[1]
  b = rule.backward(params, kept, jnp.eye(3))[1].T
  np.testing.assert_array_equal(jnp.sign(b), jnp.sign(params.params.w))
  if magnitudes == "uniform":
    np.testing.assert_allclose(jnp.abs(b), jnp.sqrt((params.params.w**2).mean()), rtol=1e-15)
  else:
    assert len(np.unique(np.abs(b))) == b.size
  again = rule.forward(params, jnp.ones((3, 4)), jax.random.key(2))[1]
  same = bool((b == rule.backward(params, again, jnp.eye(3))[1].T).all())
  assert same == (magnitudes != "batch")


@pytest.mark.slow
def test_drtp_projects_the_target_and_not_the_error():
  net = fb.mlp([4, 6, 3], fb.tanh, **WIDE)
  rule = rules.drtp(net)
  params = rule.init(KEY)
  labels = jnp.arange(8) % 3
  run = fb.value_and_grad(rule, fb.softmax_cross_entropy)
  got = run(params, jnp.asarray(X), labels)[1].params[0]
  h = jnp.tanh(jnp.asarray(X) @ params.params[0].w + params.params[0].b[None])
  z_bar = -(jax.nn.one_hot(labels, 3) @ params.feedback[0].T) / 8 * (1 - h**2)
  np.testing.assert_allclose(got.w, jnp.asarray(X).T @ z_bar, rtol=0, atol=1e-15)


def cotangent_of(rule, net, y_bar, width):
  """The cotangent behind the second of two identity layers: what the rule changed it to."""
  params = (fb.DenseParams(jnp.eye(width), None), fb.DenseParams(jnp.eye(width), None))
  kept = rule.forward(rules.RuleParams(params, ()), jnp.ones_like(y_bar), KEY)[1]
  return rule.backward(rules.RuleParams(params, ()), kept, y_bar)[1]


@pytest.mark.slow
def test_changed_cotangents_are_what_they_are_called():
  net = fb.serial(*(fb.dense(4, 4, bias=False, **WIDE) for _ in range(2)))
  y_bar = jnp.array([[3.0, -4.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [0.1, 0.2, -0.3, -0.4]])
  sparse = cotangent_of(rules.top_k(net, 2), net, y_bar, 4)
  np.testing.assert_array_equal(sparse, [[3, -4, 0, 0], [0, 0, 0, 0], [0, 0, -0.3, -0.4]])
  levels = cotangent_of(rules.quantized(net, 2), net, y_bar, 4)
  np.testing.assert_allclose(levels, [[4, -4, 0, 0], [0, 0, 0, 0], [0, 0, -0.4, -0.4]])
  fine = cotangent_of(rules.quantized(net, 16), net, y_bar, 4)
  assert float(jnp.abs(fine - y_bar).max()) <= 4 / (2**15 - 1) / 2
  # N = 3, so that the bound on the cotangents of the mean loss is a third.
  short = cotangent_of(rules.clipped(net, 3.0), net, y_bar, 4)
  np.testing.assert_allclose(jnp.linalg.norm(short, axis=1), [1.0, 0.0, jnp.sqrt(0.3)])
  many = jnp.ones((1000, 4))
  noise = cotangent_of(rules.noisy(net, 0.5), net, many, 4) - many
  # 4,000 draws: the relative deviation of the standard deviation is 1.1 %, and 5 of them are left.
  assert abs(float(noise.std()) / 0.5 - 1) < 5 * 0.0112


def test_mazur_s_two_errors():
  """The well-known 0.291027924 is of weights that were updated one after another."""
  net = fb.mlp([2, 2, 2], fb.sigmoid, output_activation=fb.sigmoid, **WIDE)
  w1, w2 = jnp.array([[0.15, 0.25], [0.2, 0.3]]), jnp.array([[0.4, 0.5], [0.45, 0.55]])
  b1, b2 = jnp.full(2, 0.35), jnp.full(2, 0.6)
  params = (fb.DenseParams(w1, b1), (), fb.DenseParams(w2, b2), ())
  x, target = jnp.array([[0.05, 0.1]]), jnp.array([[0.01, 0.99]])

  def error_after(rule):
    value, grads = fb.value_and_grad(rule, LOSS)(rules.RuleParams(params, ()), x, target)
    assert abs(float(value) - 0.2983711087600027) < 1e-15
    # Mazur keeps the biases.
    new = [p if p == () else p._replace(w=p.w - 0.5 * g.w)
           for p, g in zip(params, grads.params, strict=True)]  # fmt: skip
    return float(fb.value_and_grad(net, LOSS)(tuple(new), x, target)[0])

  assert f"{error_after(rules.gauss_seidel(net, 0.5)):.9f}" == "0.291027924"
  assert abs(error_after(rules.gauss_seidel(net, 0.0)) - 0.29102777369360) < 1e-14


def vector(tree):
  return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


@pytest.mark.slow
def test_the_target_of_an_invertible_linear_network_is_gauss_newton_s():
  net = linear_net(3, 3, 3, 3)
  params = random_like(np.random.default_rng(2), net.init(KEY))
  rule = rules.difference_target_propagation(net)
  decoders = tuple(
    (fb.DenseParams(jnp.linalg.inv(w.w), jnp.zeros(3)), *own[1:])
    for w, own in zip(params[2::2], rule.init(KEY).feedback, strict=True)
  )
  x, targets = random_like(np.random.default_rng(3), (jnp.ones((6, 3)), jnp.ones((6, 3))))
  got, _ = update(rule, rules.RuleParams(params, decoders), None, x, targets)
  # Its step of h solves (∂y/∂h) Δh = Δy, here exactly; the block's update descends ½ ‖Δh‖².
  h = [x]
  for own in params[::2]:
    h.append(h[-1] @ own.w)
  y_step = (h[-1] - targets) / 6
  for place in (2, 1):
    behind = params[4].w if place == 2 else params[2].w @ params[4].w
    h_step = jnp.linalg.lstsq(behind.T, y_step.T)[0].T
    want = h[place - 1].T @ h_step
    scale = float(jnp.abs(want).max())
    np.testing.assert_allclose(got.params[2 * place - 2].w, want, rtol=0, atol=1e-11 * scale)


@pytest.mark.slow
def test_decoders_learn_to_reconstruct():
  rule = rules.difference_target_propagation(tanh_net(), noise=0.0)
  params = rule.init(KEY)
  x = jnp.asarray(X)

  def error(feedback):
    h1 = jnp.tanh(x @ params.params[0].w + params.params[0].b[None])
    h2 = jnp.tanh(h1 @ params.params[2].w + params.params[2].b[None])
    return 0.5 * ((jnp.tanh(h2 @ feedback[0][0].w + feedback[0][0].b[None]) - h1) ** 2).sum() / 8

  want = jax.grad(error)(params.feedback)[0][0]
  got = update(rule, params)[0].feedback[0][0]
  np.testing.assert_allclose(got.w, want.w, rtol=0, atol=1e-14)
  np.testing.assert_allclose(got.b, want.b, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_the_energy_at_equilibrium_has_its_closed_form():
  """½ Σ rᵀ S⁻¹ r with S = I/λ + Σ_l P_l P_lᵀ, P_l the weights behind h_l."""
  from fbackprop.rules._predictive_coding import Descent, errors, settle
  from fbackprop.rules.contract import Links

  net, precision = linear_net(3, 4, 4, 2), 2.0
  params = net.init(jax.random.key(7))
  links = Links("test", net)
  x, t = random_like(np.random.default_rng(4), (jnp.ones((6, 3)), jnp.ones((6, 2))))
  y, (_, outputs) = links.forward(params, x)
  descent = Descent(3000, 0.1, 0.0)
  states = jax.jit(lambda s: settle(links, params, x, s, t, None, precision, descent))(outputs[:-1])
  found, _, _ = errors(links, params, [x, *states, t], None, precision)
  energy = 0.5 * sum((e**2).sum() for e in found[:-1]) + 0.5 * precision * (found[-1] ** 2).sum()
  p2 = params[2].w @ params[4].w
  p3 = params[4].w
  s = jnp.eye(2) / precision + p2.T @ p2 + p3.T @ p3
  r = t - y
  want = 0.5 * (r * jnp.linalg.solve(s, r.T).T).sum()
  assert abs(float(energy / want) - 1) < 1e-12


@pytest.mark.slow
def test_predictive_coding_tends_to_backprop_linearly_in_the_precision():
  net = linear_net(3, 4, 4, 2)
  params = net.init(jax.random.key(7))
  x, t = random_like(np.random.default_rng(4), (jnp.ones((6, 3)), jnp.ones((6, 2))))
  true = vector(update(net, params, None, x, t)[0])
  differences = []
  for precision in (1e-1, 1e-2, 1e-3):
    rule = rules.predictive_coding(net, steps=1000, rate=0.3, precision=precision)
    got = update(rule, rules.RuleParams(params, ()), None, x, t)[0].params
    differences.append(np.linalg.norm(vector(got) - true) / np.linalg.norm(true))
  slopes = np.log10(np.array(differences[:-1]) / differences[1:])
  assert abs(slopes[-1] - 1) < 0.02
  assert differences[-1] < 0.02


@pytest.mark.slow
def test_with_momentum_the_states_settle_in_fewer_steps_at_the_same_equilibrium():
  net = fb.mlp([3, *[8] * 4, 2], fb.tanh, **WIDE)
  params = net.init(KEY)
  x, t = random_like(np.random.default_rng(4), (jnp.ones((6, 3)), jnp.ones((6, 2))))
  make = partial(rules.predictive_coding, net, precision=0.5)
  settled = vector(update(make(steps=5000, rate=0.2), rules.RuleParams(params, ()), None, x, t)[0])

  def distance(**options):
    found = update(make(rate=0.2, **options), rules.RuleParams(params, ()), None, x, t)[0]
    return np.linalg.norm(vector(found) - settled) / np.linalg.norm(settled)

  assert distance(steps=400, momentum=0.8) < 1e-10
  assert distance(steps=30, momentum=0.8) < 0.2 * distance(steps=30)


def test_predictive_coding_of_one_layer_is_backprop():
  net = fb.serial(fb.dense(4, 3, **WIDE))
  params = net.init(KEY)
  got, x_bar = update(rules.predictive_coding(net), rules.RuleParams(params, ()))
  want, want_x_bar = update(net, params)
  np.testing.assert_allclose(vector((got.params, x_bar)), vector((want, want_x_bar)), rtol=1e-13)


# --- Slopes ---------------------------------------------------------------------------------------

STEP = fb.activation(
  fb.Gate("step", 1, lambda z: (jnp.sign(z), z), lambda z, y_bar: (jnp.zeros_like(y_bar),))
)


@pytest.mark.slow
def test_surrogates_are_declared_to_verify_and_to_fit():
  net = fb.serial(
    fb.dense(4, 6, **WIDE), rules.surrogate(STEP, fb.tanh), fb.dense(6, 3, **WIDE),
    rules.straight_through(STEP),
  )  # fmt: skip
  params = net.init(KEY)
  report = fb.verify.layer(net, params, jnp.asarray(X), level="quick")
  assert report.verdict == "pass", report.table()
  stop, monitor = StopRules(max_steps=20), Monitor(check_every=10)
  with jax.numpy_dtype_promotion("standard"):
    result = fb.train.fit(
      net, LOSS, (X, TARGETS), optimizer=optax.sgd(0.01), key=KEY, stop=stop, monitor=monitor
    )
  assert result.checks_ok


def test_a_surrogate_with_the_true_slope_is_the_layer_itself():
  layer = rules.surrogate(fb.tanh, fb.tanh)
  x, y_bar = jnp.asarray(X), jnp.ones((8, 4))
  (y, kept), (want, kept_) = layer.forward((), x), fb.tanh.forward((), x)
  pair = (y, layer.backward((), kept, y_bar)[1]), (want, fb.tanh.backward((), kept_, y_bar)[1])
  assert_bitwise("surrogate", ("y", "x_bar"), *pair)


# --- Bad input ------------------------------------------------------------------------------------

NET = fb.mlp([4, 3, 2])

REFUSED = [
  (lambda: rules.feedback_alignment(3), TypeError, "feedback_alignment: net must be a Layer"),
  (lambda: rules.feedback_alignment(fb.serial(fb.remat(NET))), TypeError, "must have no remat"),
  (lambda: rules.kolen_pollack(NET, -1), ValueError, "decay must be"),
  (lambda: rules.sign_symmetry(NET, "random"), ValueError, "unknown value 'random' for magnitudes"),
  (lambda: rules.direct_feedback_alignment(fb.relu), ValueError, "must have a layer with param"),
  (lambda: rules.noisy(NET, -0.1), ValueError, "scale must be"),
  (lambda: rules.top_k(NET, 0), ValueError, "k must be at least 1"),
  (lambda: rules.quantized(NET, 1), ValueError, "bits must be"),
  (lambda: rules.clipped(NET, -1), ValueError, "bound must be"),
  (lambda: rules.gauss_seidel(NET, "fast"), TypeError, "rate must be a number"),
  (lambda: rules.difference_target_propagation(NET, step=0), ValueError, "step must be"),
  (lambda: rules.predictive_coding(NET, steps=0), ValueError, "steps must be at least 1"),
  (lambda: rules.predictive_coding(NET, precision=0), ValueError, "precision must be"),
  (lambda: rules.predictive_coding(NET, momentum=1), ValueError, "momentum must be at least 0 and"),
  (lambda: rules.straight_through(NET), ValueError, "layer must have no parameters, got mlp"),
  (lambda: rules.surrogate(fb.relu, 3), TypeError, "surrogate: smooth must be a Layer"),
  (lambda: rules.alignment(NET, LOSS), ValueError, "rule must be a network under a rule"),
  (lambda: rules.drtp(NET).forward(NET.init(KEY), jnp.ones((2, 4))), ValueError,
   r"drtp: params must be RuleParams\(params, feedback\)"),
]  # fmt: skip


test_bad_input_is_refused = refusals(lambda call: call(), REFUSED)
