"""One step of training: the lecture's update, as a pure function."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.train.optimizers import make_mean_loss
from fbackprop.train.step import layer_names
from tests.support import oracle
from tests.support.refusals import refusals
from tests.support.runs import descend

pytestmark = pytest.mark.usefixtures("as_a_user_has_it")

RATE = 0.25


def batch_of(n: int = 6) -> fb.train.Batch:
  x = jax.random.normal(jax.random.key(1), (n, 4))
  return fb.train.Batch(x, jnp.arange(n) % 3)


def net_of() -> fb.Layer:
  return fb.mlp([4, 5, 3])


def make(optimizer: optax.GradientTransformation):
  return fb.train.make_step(net_of(), fb.softmax_cross_entropy, optimizer)


@pytest.mark.slow
def test_step_is_the_lecture_s_update_of_the_oracle():
  with jax.enable_x64(True):
    net = fb.mlp([4, 5, 3], dtype=jnp.float64)
    init, step = fb.train.make_step(net, fb.softmax_cross_entropy, fb.train.gradient_descent(RATE))
    state = init(jax.random.key(0))
    layers = [(np.asarray(p.w), np.asarray(p.b)) for p in (state.params[0], state.params[2])]
    before = [(*layers[0], "relu"), (*layers[1], "identity")]
    x = np.random.default_rng(0).normal(size=(6, 4))
    labels = np.arange(6) % 3
    _, grads, _ = oracle.value_and_grad(before, "softmax_cross_entropy", x, labels)
    after = oracle.descend(before, grads, RATE)
    state, _ = step(state, (jnp.asarray(x), jnp.asarray(labels)))
    for ours, (w, b, _) in zip((state.params[0], state.params[2]), after, strict=True):
      # A weight is a sum of some ten terms of size one: a few of float64's epsilon of 2e-16.
      np.testing.assert_allclose(ours.w, w, rtol=0, atol=1e-14)
      np.testing.assert_allclose(ours.b, b, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_gradient_descent_is_optax_sgd_to_the_bit():
  states = []
  for optimizer in (fb.train.gradient_descent(RATE), optax.sgd(RATE)):
    init, step = make(optimizer)
    state = init(jax.random.key(0))
    for _ in range(5):
      state, _ = step(state, batch_of())
    states.append(state.params)
  chex.assert_trees_all_equal(*states)


OPTIMIZERS = {
  "adam": optax.adam(0.01),
  "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
  "clipped_adamw": optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 9))
  ),
  "reduce_on_plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)),
  "noise": optax.chain(optax.add_noise(0.01, 0.5, 0), optax.sgd(0.1)),
  "lbfgs": optax.lbfgs(),
  "backtracking": optax.chain(
    optax.sgd(1.0), optax.scale_by_backtracking_linesearch(9, store_grad=True)
  ),
  "polyak": optax.polyak_sgd(),
  "multi_steps": optax.MultiSteps(
    optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()), 3
  ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optax_transformation_is_taken_as_it_is(name):
  init, step = make(OPTIMIZERS[name])
  state = init(jax.random.key(0))
  first = None
  for _ in range(9):
    state, info = step(state, batch_of())
    first = info.loss if first is None else first
  assert int(state.step) == 9
  assert info.loss < first


@pytest.mark.slow
def test_multi_steps_gathers_gradients_and_takes_one_step():
  thrice = make(optax.MultiSteps(fb.train.gradient_descent(RATE), 3))
  once = make(fb.train.gradient_descent(RATE))
  states = []
  for (init, step), steps in ((thrice, 3), (once, 1)):
    state = init(jax.random.key(0))
    for _ in range(steps):
      state, _ = step(state, batch_of())
    states.append(state.params)
  # A mean of three equal gradients, gathered in float32.
  chex.assert_trees_all_close(*states, atol=1e-6)


@pytest.mark.slow
def test_the_loss_that_a_line_search_takes_differentiates_by_our_rule():
  def doubled(params, x, y_bar):
    return jax.tree.map(lambda a: 2 * a, net_of().parts[2].backward(params, x, y_bar))

  parts = net_of().parts
  net = fb.serial(*parts[:2], parts[2]._replace(backward=doubled))
  params, weights = net.init(jax.random.key(0)), jnp.arange(6.0)
  batch = batch_of()._replace(weights=weights)
  value, grads = fb.value_and_grad(net, fb.softmax_cross_entropy)(
    params, *batch[:2], weights=weights
  )
  mean_loss = make_mean_loss(net, fb.softmax_cross_entropy)
  reverse = jax.value_and_grad(mean_loss)(params, batch, None)
  np.testing.assert_array_equal(reverse[0], value)
  chex.assert_trees_all_equal(reverse[1], grads)  # Doubled: it is our rule that was asked.
  _, slope = jax.jvp(lambda p: mean_loss(p, batch, None), (params,), (grads,))
  squares = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads))
  np.testing.assert_allclose(slope, squares, rtol=1e-6)


@pytest.mark.slow
def test_nothing_is_donated_unless_asked_for():
  init, step = make(optax.adam(RATE))
  given = net_of().init(jax.random.key(3))
  state = init(jax.random.key(0), given)
  batch = batch_of()
  once, twice = step(state, batch)[0], step(state, batch)[0]
  chex.assert_trees_all_equal(once, twice)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((given, state, batch)))


@pytest.mark.slow
def test_state_is_donated_where_asked_for():
  init, step = fb.train.make_step(
    net_of(), fb.softmax_cross_entropy, fb.train.gradient_descent(RATE), donate=True
  )
  given, key = net_of().init(jax.random.key(3)), jax.random.key(0)
  state = init(key, given)
  step(state, batch_of())
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
  # They were copied: what the caller gave is alive.
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((given, key)))


@pytest.mark.slow
def test_init_starts_from_given_parameters():
  traces, net = [], net_of()

  def counted(params, x, key=None):
    traces.append(x.shape)
    return net.forward(params, x, key)

  init, step = fb.train.make_step(
    net._replace(forward=counted), fb.softmax_cross_entropy, optax.adam(RATE)
  )
  given = net.init(jax.random.key(3))
  state, drawn = init(jax.random.key(0), given), init(jax.random.key(0))
  chex.assert_trees_all_equal(state.params, given)
  assert (state.key, int(state.step)) == (drawn.key, 0)  # The same dropout masks either way.
  step(step(state, batch_of())[0], batch_of())
  assert len(traces) == 1  # The second state is of the first one's types.


SPOILT = [
  (lambda p: p[:2], fb.StructureError, "missing [2].b, [2].w; not expected none"),
  (lambda p: (*p, p[0]), fb.StructureError, "not expected [3].b, [3].w"),
  (list, fb.StructureError, "must have the structure"),
  (lambda p: (p[0], (), p[2]._replace(w=p[2].w.T)), fb.ShapeError,
   "params[2].w must have shape [5, 3], got float32[3, 5]"),
  (lambda p: jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), fb.DtypeError,
   "params[0].w must have dtype float32, got bfloat16[4, 5]"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "said"), SPOILT)
def test_parameters_of_another_network_are_refused_by_leaf(spoil, error, said):
  given = spoil(net_of().init(jax.random.key(3)))
  with pytest.raises(error, match=re.escape(said)):
    make(fb.train.gradient_descent(RATE))[0](jax.random.key(0), given)
  with pytest.raises(error, match=re.escape(said)):
    descend(net_of(), batch_of(), 1, params=given)


@pytest.mark.slow
def test_step_compiles_once_for_a_shape():
  traces = []
  dense = fb.dense(4, 3)

  def counted(params, x, key=None):
    traces.append(x.shape)
    return dense.forward(params, x, key)

  init, step = fb.train.make_step(
    dense._replace(forward=counted), fb.squared_error, fb.train.gradient_descent(RATE)
  )
  state = init(jax.random.key(0))
  for n in (2, 2, 3, 2, 3):
    state, _ = step(state, (jnp.ones((n, 4)), jnp.ones((n, 3))))
  assert traces == [(2, 4), (3, 4)]


@pytest.mark.slow
def test_weights_of_a_batch_enter_the_mean():
  init, step = make(fb.train.gradient_descent(RATE))
  batch = batch_of()
  picked = jnp.asarray([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
  weighted, _ = step(init(jax.random.key(0)), batch._replace(weights=picked))
  alone, _ = step(init(jax.random.key(0)), (batch.x[:2], batch.targets[:2]))
  infos = [step(init(jax.random.key(0)), b)[1] for b in (batch._replace(weights=3 * picked), batch)]
  assert [float(info.weight) for info in infos] == [6, 6]  # Σ w, and N where there are none.
  # The zero terms don't change a float32 sum; its order may.
  chex.assert_trees_all_close(weighted.params, alone.params, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["loss", "update"])
def test_a_step_that_is_not_finite_is_not_taken(where):
  init, step = make(fb.train.gradient_descent(3e38 if where == "update" else RATE))
  state = init(jax.random.key(0))
  before = jax.tree.map(np.array, state.params)
  batch = batch_of()
  x = batch.x.at[:, 0].set(jnp.nan if where == "loss" else 1e6)
  state, info = step(state, batch._replace(x=x))
  assert (info.finite, int(state.step)) == (False, 0)
  chex.assert_trees_all_equal(state.params, before)


@pytest.mark.slow
def test_a_state_may_begin_at_infinity_but_not_become_infinite():
  # The best loss of reduce_on_plateau stays infinite until four losses are gathered.
  plateau = optax.contrib.reduce_on_plateau(accumulation_size=4)
  init, step = make(optax.chain(optax.sgd(0.1), plateau))
  state = init(jax.random.key(0))
  assert not np.isfinite(state.opt_state[1].best_value)
  for _ in range(5):
    state, info = step(state, batch_of())
    assert info.finite
  assert np.isfinite(state.opt_state[1].best_value)

  def overflowing(updates, state, params=None):
    return updates, jax.tree.map(lambda v: v * 1e30, state)

  growing = optax.GradientTransformation(lambda params: {"size": jnp.ones(3)}, overflowing)
  init, step = make(growing)
  state, first = step(init(jax.random.key(0)), batch_of())
  kept = np.array(state.opt_state["size"])
  state, second = step(state, batch_of())
  assert (bool(first.finite), bool(second.finite), int(state.step)) == (True, False, 1)
  np.testing.assert_array_equal(state.opt_state["size"], kept)


@pytest.mark.slow
def test_a_key_in_the_optimiser_s_state_is_no_number():
  def take(updates, state, params=None):
    return updates, jax.random.fold_in(state, 1)

  init, step = make(optax.GradientTransformation(lambda params: jax.random.key(5), take))
  _, info = step(init(jax.random.key(0)), batch_of())
  assert info.finite


def test_norms_in_float16_do_not_overflow_at_256():
  net = fb.mlp([1, 1], dtype=jnp.float16, w_init=jax.nn.initializers.zeros)
  init, step = fb.train.make_step(net, fb.squared_error, fb.train.gradient_descent(2.0**-10))
  batch = (jnp.ones((1, 1), jnp.float16), jnp.full((1, 1), 250, jnp.float16))
  _, info = step(init(jax.random.key(0)), batch)
  assert (info.loss.dtype, info.finite) == (jnp.float16, True)
  np.testing.assert_allclose(info.grad_norms, [250 * 2**0.5], rtol=1e-6)


def test_grad_norms_are_those_of_each_layer():
  init, step = make(fb.train.gradient_descent(RATE))
  state = init(jax.random.key(0))
  assert layer_names(state.params) == ["[0]", "[2]"]
  _, grads = fb.value_and_grad(net_of(), fb.softmax_cross_entropy)(state.params, *batch_of()[:2])
  flat = [np.concatenate([np.ravel(grads[i].w), grads[i].b]) for i in (0, 2)]
  _, info = step(state, batch_of())
  np.testing.assert_allclose(info.grad_norms, [np.linalg.norm(v) for v in flat], rtol=1e-5)


def test_a_network_without_parameters_can_be_stepped():
  init, step = fb.train.make_step(fb.relu, fb.squared_error, fb.train.gradient_descent(RATE))
  _, info = step(init(jax.random.key(0)), (jnp.ones((2, 3)), jnp.ones((2, 3))))
  assert info.grad_norms.shape == (0,)


@pytest.mark.slow
def test_layers_that_draw_get_a_new_key_each_step():
  def noisy_forward(params, x, key=None):
    return (x, ()) if key is None else (x + jax.random.normal(key, x.shape), ())

  def noisy_backward(params, residuals, y_bar):
    return (), y_bar

  def noisy_init(key):
    return ()

  noise = fb.Layer("noise", noisy_init, noisy_forward, noisy_backward, draws=True)
  net = fb.serial(noise, fb.dense(3, 3))
  init, step = fb.train.make_step(net, fb.squared_error, fb.train.gradient_descent(1e-30))
  state, losses = init(jax.random.key(0)), []
  for _ in range(3):
    state, info = step(state, (jnp.ones((4, 3)), jnp.ones((4, 3))))
    losses.append(float(info.loss))
  assert len(set(losses)) == 3


BAD_STEPS = [
  (("net", fb.squared_error, optax.sgd(0.1)), TypeError, "net must be a Layer, got str 'net'"),
  ((fb.relu, fb.relu, optax.sgd(0.1)), TypeError, "loss must be a Loss, got the Layer"),
  ((fb.relu, fb.squared_error, 0.1), TypeError, "optimizer must be an optax Grad.*got float 0.1"),
]


test_make_step_refuses = refusals(lambda arguments: fb.train.make_step(*arguments), BAD_STEPS)


BAD_BATCHES = [
  (batch_of().x, TypeError, r"batch must be \(x, targets\) or a Batch, got float32\[6, 4\]"),
  (batch_of()[:1], TypeError, r"batch must be \(x, targets\) or a Batch, got tuple"),
  ({"x": 1, "targets": 2}, TypeError, r"batch must be \(x, targets\) or a Batch, got dict"),
  ((batch_of().x[:, :3], batch_of().targets), ValueError, r"\[N, 4\], got float32\[6, 3\]"),
  ((batch_of().x, batch_of().targets[:5]), ValueError, "same number N of examples"),
  ((*batch_of()[:2], jnp.ones(5)), ValueError, r"weights must have shape \[6\]"),
]


@pytest.mark.parametrize(("batch", "error", "message"), BAD_BATCHES)
def test_step_refuses_a_bad_batch_and_leaves_the_state(batch, error, message):
  init, step = make(fb.train.gradient_descent(RATE))
  state = init(jax.random.key(0))
  with pytest.raises(error, match=message):
    step(state, batch)
  assert int(step(state, batch_of())[0].step) == 1


BAD_RATES = [
  *((rate, ValueError, "rate must be a finite number above 0") for rate in (0, -1, np.nan, np.inf)),
  *((rate, TypeError, "rate must be a number") for rate in ("0.1", True, None)),
]
test_gradient_descent_refuses = refusals(fb.train.gradient_descent, BAD_RATES)


def test_init_refuses_a_seed_for_a_key():
  init, _ = make(fb.train.gradient_descent(RATE))
  with pytest.raises(TypeError, match=r"key must be made by jax.random.key"):
    init(0)


def drifting(start, after):
  """An optimiser that keeps the gradient, and whose update gives another state than its init."""

  def init(params):
    return {"seen": jax.tree.map(start, params)}

  def update(grads, state, params=None):
    return grads, after(grads)

  return optax.GradientTransformation(init, update)


def in_bfloat16(leaf):
  return leaf.astype(jnp.bfloat16)


DRIFTS = {
  "dtype": (
    drifting(in_bfloat16, lambda grads: {"seen": grads}),
    TypeError,
    r"step: of the optimizer's state, the leaf \['seen'\]\[0\].w is bfloat16 by its init and "
    r"float32 after its update; let init make it float32, or end update with .astype\('bfloat16'\)",
  ),
  "shape": (
    drifting(jnp.sum, lambda grads: {"seen": grads}),
    ValueError,
    r"\['seen'\]\[0\].w has shape \[\] by its init and \[4, 5\] after its update",
  ),
  "structure": (
    drifting(jnp.copy, lambda grads: grads),
    ValueError,
    r"must give a state of the structure that its init gives, PyTreeDef\(\{'seen'",
  ),
}


@pytest.mark.parametrize("case", DRIFTS)
def test_an_optimizer_whose_state_changes_its_kind_is_refused(case):
  optimizer, error, message = DRIFTS[case]
  init, step = make(optimizer)
  with pytest.raises(error, match=message):
    jax.eval_shape(step, jax.eval_shape(init, jax.random.key(0)), batch_of())


def test_a_state_kept_in_less_precision_on_purpose_is_taken():
  optimizer = drifting(in_bfloat16, lambda grads: {"seen": jax.tree.map(in_bfloat16, grads)})
  init, step = make(optimizer)
  state = jax.eval_shape(step, jax.eval_shape(init, jax.random.key(0)), batch_of())[0]
  assert state.opt_state["seen"][0].w.dtype == jnp.bfloat16
