"""`clip_examples` and `watch` of `make_step` and `fit`: a step's gradient, and what it tells."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop import quantities as q
from fbackprop.train.metrics import mean_clipped, mean_noise_scale
from fbackprop.train.step import make_gradient
from tests.support.refusals import refusals
from tests.support.runs import descend

captured = q.captured
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(24, 3)), jnp.float32)
LABELS = jnp.asarray(np.asarray(X).sum(1) > 0, jnp.int32)
WEIGHTS = jnp.asarray(RNG.uniform(0, 2, 24), jnp.float32)


def nets(**options):
  """The same network, captured and plain."""
  own = {"activation": fb.tanh, **options}
  return fb.mlp([3, 8, 2], dense=captured(fb.dense), **own), fb.mlp([3, 8, 2], **own)


def example_gradients(net, params, x, labels, key, weights):
  """Of each example's loss, times N w_i / Σ w, by `jax.grad`: one array a leaf, `[N, ...]`."""

  def losses(params):
    return fb.softmax_cross_entropy.forward(net.forward(params, x, key)[0], labels)[0]

  each = jax.jacrev(losses)(params)
  shares = np.ones(len(x)) if weights is None else len(x) * weights / weights.sum()
  return jax.tree.map(lambda g: g * shares.reshape(-1, *[1] * (g.ndim - 1)), each)


def norms_of(each):
  squares = [(g**2).reshape(len(g), -1).sum(1) for g in jax.tree.leaves(each)]
  return np.sqrt(sum(squares))


CLIPPED = [
  (0.4, WEIGHTS),
  pytest.param(0.0, None, marks=pytest.mark.slow),
  pytest.param(0.0, WEIGHTS, marks=pytest.mark.slow),
  pytest.param(0.4, None, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("dropout", "weights"), CLIPPED, ids=["dropout and weights", "plain", "weights", "dropout"]
)
def test_the_gradient_of_clipped_examples_and_what_it_tells(in_float64, dropout, weights):
  net, plain = nets(dropout=dropout, dtype=jnp.float64)
  params, key = net.init(jax.random.key(0)), jax.random.key(1) if dropout else None
  x, weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (X, weights))
  each = example_gradients(plain, params, x, LABELS, key, weights)
  norms = norms_of(each)
  bound = float(np.median(norms))

  gradient_of = jax.jit(make_gradient(net, fb.softmax_cross_entropy, bound, ("noise_scale",)))
  loss, grads, watched = gradient_of(params, x, LABELS, key=key, weights=weights)

  want, plain_grads = fb.value_and_grad(plain, fb.softmax_cross_entropy)(
    params, x, LABELS, key=key, weights=weights
  )
  np.testing.assert_allclose(loss, want, rtol=1e-12)  # The loss itself isn't clipped.
  factors = np.minimum(1, bound / norms)
  clipped = jax.tree.map(lambda g: np.tensordot(factors, g, 1) / len(X), each)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-12), grads, clipped)
  assert any(
    abs(a - b).max() > 1e-3
    for a, b in zip(*map(jax.tree.leaves, (grads, plain_grads)), strict=True)
  )
  assert float(watched.clipped) == np.float32((norms > bound).mean())
  # tr Σ and ‖G‖² are of the gradients as they were: variance of the rows, and what it leaves.
  trace = sum(g.var(0, ddof=1).sum() for g in map(np.asarray, jax.tree.leaves(each)))
  mean = sum((g.mean(0) ** 2).sum() for g in jax.tree.leaves(each))
  np.testing.assert_allclose(watched.noise_scale.trace, trace, rtol=1e-10)
  np.testing.assert_allclose(watched.noise_scale.sqnorm, mean - trace / len(X), rtol=1e-9)


@pytest.mark.slow
def test_without_being_asked_it_is_the_plain_gradient_to_the_bit():
  net, plain = nets()
  params = net.init(jax.random.key(0))
  want = jax.jit(fb.value_and_grad(plain, fb.softmax_cross_entropy))(params, X, LABELS)
  loss, grads, watched = jax.jit(make_gradient(net, fb.softmax_cross_entropy))(params, X, LABELS)
  jax.tree.map(np.testing.assert_array_equal, (loss, grads), want)
  assert jax.tree.leaves(watched) == []


# --- A step, and a run ----------------------------------------------------------------------------


def fit(net, steps=40, data=(X, LABELS), **options):
  return descend(net, data, steps, 0.5, **{"batch_size": 8, "eval_every": 20, **options})


@pytest.mark.slow
def test_a_step_goes_along_the_clipped_mean():
  net, _ = nets()
  init, step = fb.train.make_step(
    net, fb.softmax_cross_entropy, fb.train.gradient_descent(1.0), clip_examples=0.1
  )
  state = init(jax.random.key(0))
  before = jax.tree.map(np.asarray, state.params)
  after, info = step(state, (X, LABELS))
  moved = jax.tree.map(lambda a, b: a - b, before, jax.tree.map(np.asarray, after.params))
  length = math.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved)))
  # No longer than the longest of what it is the mean of.
  assert 0 < length <= 0.1 * (1 + 1e-5)
  assert (float(info.watched.clipped), info.watched.noise_scale) == (1.0, None)


@pytest.mark.slow
def test_watching_changes_nothing():
  net, plain = nets(dropout=0.2)
  watched, want = fit(net, watch=("health", "noise_scale")), fit(plain)
  np.testing.assert_allclose(watched.losses, want.losses, rtol=1e-5)
  assert [e.noise_scale for e in want.evaluations] == [None, None]
  assert want.evaluations[-1].health is None


@pytest.mark.slow
def test_a_run_tells_what_it_was_asked_to_watch():
  net, _ = nets()
  result = fit(net, watch=("health", "noise_scale"), clip_examples=0.5, check_every=20)
  noise, clipped = result.watched
  assert noise.trace.shape == clipped.shape == (40,)
  first, last = result.evaluations
  want = noise.trace[:20].mean() / noise.sqnorm[:20].mean()
  assert first.noise_scale == pytest.approx(want, rel=1e-5)
  assert last.clipped == pytest.approx(clipped[20:].mean())
  assert list(last.health) == ["0.dense", "2.dense"]
  assert set(last.health["0.dense"]) == set(q.LayerHealth._fields)
  assert 0 < last.health["0.dense"]["x_rms"] < 3
  assert (result.checks_ok, len(result.checks)) == (True, 3)


@pytest.mark.slow
def test_health_is_of_the_parameters_at_that_evaluation():
  net, _ = nets(activation=fb.relu)
  result = fit(net, steps=20, watch=("health",), batch_size=24)
  params = result.params
  look = q.compute(net, fb.softmax_cross_entropy, ("health",))
  _, _, found = look(params, X, LABELS)
  want = found["health"].layers["2.dense"]
  got = result.evaluations[-1].health["2.dense"]
  np.testing.assert_allclose(got["x_rms"], want.x_rms, rtol=1e-5)
  np.testing.assert_allclose(got["dead"], want.dead)


def test_copies_of_a_repeat_are_told_as_a_list():
  net = fb.mlp([3, 6, 6, 6, 2], dense=captured(fb.dense), repeat_hidden=True)
  result = fit(net, steps=20, watch=("health",))
  lengths = {k: np.shape(v["dead"]) for k, v in result.evaluations[-1].health.items()}
  assert (2,) in lengths.values()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [optax.adam(0.01), optax.lbfgs()], ids=["adam", "lbfgs"])
def test_any_optimiser_takes_the_clipped_gradient(optimizer):
  """A line search too, which differentiates the loss itself, by our backward pass."""
  net, _ = nets()
  with jax.numpy_dtype_promotion("standard"):  # optax's counters meet its floats.
    result = fit(net, optimizer=optimizer, clip_examples=1.0, batch_size=24)
  assert result.losses[-1] < 0.8 * result.losses[0]


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_bits(tmp_path):
  net, _ = nets(dropout=0.2)
  asked = {"watch": ("noise_scale", "health"), "clip_examples": 0.5}
  whole = fit(net, **asked)
  kept = fb.train.Checkpoints(tmp_path, every=10)
  fit(net, steps=30, checkpoints=kept, **asked)
  rest = fit(net, checkpoints=kept, resume=tmp_path, **asked)
  jax.tree.map(np.testing.assert_array_equal, rest.state.params, whole.state.params)
  jax.tree.map(np.testing.assert_array_equal, rest.watched, whole.watched)
  own, other = (
    [{**vars(e), "seconds": 0} for e in r.evaluations if e.step in (20, 40)] for r in (rest, whole)
  )
  assert own == other
  with pytest.raises(ValueError, match=r"clip_examples was 0\.5, got None"):
    fit(net, checkpoints=kept, resume=tmp_path, watch=asked["watch"])
  with pytest.raises(ValueError, match=r"watch was \['health', 'noise_scale'\], got \[\]"):
    fit(net, checkpoints=kept, resume=tmp_path, clip_examples=0.5)


BROKEN = [
  (3e38, 1.0, "layer 0 (dense): value"),
  (1e20, 1.0, "example 3 of the batch: squared norm of its gradient"),
]


@pytest.mark.parametrize(("x", "bound", "where"), BROKEN)
def test_where_a_clipped_run_broke_is_named(x, bound, where):
  net, _ = nets(activation=fb.relu)
  bad = X.at[3].set(x * jnp.sign(X[3]))
  result = fit(net, data=(bad, LABELS), clip_examples=bound, batch_size=24)
  assert (result.stop_reason, result.diverged_at) == ("diverged", where)


@pytest.mark.slow
def test_a_step_that_cannot_be_clipped_is_left_out():
  """One example's squares overflow, in the batches that it is in."""
  net, _ = nets()
  bad = X.at[3].set(1e20)
  events = []
  result = fit(
    net, data=(bad, LABELS), clip_examples=0.5, on_nonfinite="skip", on_event=events.append
  )
  assert result.stop_reason == "max_steps"
  assert 8 <= len(result.skipped) <= 20  # Once in each of the thirteen epochs of three batches.
  assert all("squared norm of its gradient" in event for event in events)
  assert np.isfinite(result.losses[-1])


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"watch": ("noise_scale",)}, {"clip_examples": 500.0}])
def test_in_float16_the_mean_is_no_sum_that_overflows(asked):
  net = fb.mlp([3, 8, 1], fb.tanh, dense=captured(fb.dense), dtype=jnp.float16)
  plain = fb.mlp([3, 8, 1], fb.tanh, dtype=jnp.float16)
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=(1024, 3)), jnp.float16)
  params = plain.init(jax.random.key(0))
  targets = jnp.full((1024, 1), 100, jnp.float16)  # Gradients of 100, of which 1,024 are too many.
  want = jax.jit(fb.value_and_grad(plain, fb.squared_error))(params, x, targets)[1]
  gradient_of = jax.jit(make_gradient(net, fb.squared_error, **asked))
  got = gradient_of(params, x, targets)[1]
  jax.tree.map(partial(np.testing.assert_allclose, rtol=0.02, atol=0.05), got, want)
  assert np.isfinite(got[2].b).all()
  assert 1024 * abs(float(got[2].b[0])) > float(jnp.finfo(jnp.float16).max)


KINDS = [
  {"normalization": captured(fb.layer_norm)},
  {"normalization": captured(fb.rms_norm), "dropout": 0.3},
  {"dtype": jnp.bfloat16},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS, ids=["layer_norm", "rms_norm and dropout", "bfloat16"])
def test_networks_of_every_kind_are_clipped_watched_and_checked(options):
  net = fb.mlp([3, 8, 2], dense=captured(fb.dense), **options)
  dtype = options.get("dtype", jnp.float32)
  data = (jnp.asarray(X, dtype), LABELS, jnp.asarray(WEIGHTS, dtype))
  result = fit(
    net, data=fb.train.Batch(*data), clip_examples=0.5, watch=("health", "noise_scale"),
    check_every=20,
  )  # fmt: skip
  assert (result.checks_ok, len(result.checks)) == (True, 3)
  assert 0 < result.evaluations[0].clipped <= 1
  assert result.evaluations[0].health


# --- The noise scale of some steps ----------------------------------------------------------------


def test_the_noise_scale_of_steps_is_the_quotient_of_means():
  found = q.NoiseScale(
    *(np.array(v, np.float32) for v in ([9, 9, 9], [2.0, 4.0, 99], [1.0, 2.0, -90]))
  )
  assert mean_noise_scale(found, np.array([True, True, False])) == 2.0
  # Where ‖G‖² isn't seen through the noise there is nothing to tell.
  assert mean_noise_scale(found, np.array([True, True, True])) is None
  assert mean_noise_scale(found, np.array([False] * 3)) is None
  assert mean_noise_scale(None, np.array([True])) is None
  # A step whose squares overflowed has none, and the others still do.
  some = q.NoiseScale(*(np.array(v, np.float32) for v in ([1, 1], [2.0, np.nan], [1.0, np.nan])))
  assert mean_noise_scale(some, np.array([True, True])) == 2.0


def test_the_share_that_was_clipped_is_of_the_steps_that_were_taken():
  shares = np.array([0.5, 0.25, 1.0], np.float32)
  assert mean_clipped(shares, np.array([True, True, False])) == 0.375
  assert mean_clipped(shares, np.array([False] * 3)) is None
  assert mean_clipped(None, np.array([True])) is None


# --- Refused --------------------------------------------------------------------------------------


BAD = [
  ({"clip_examples": 0}, ValueError, r"clip_examples must be a number from 1.17549e-38 to 3"),
  ({"clip_examples": 1e60}, ValueError, r"to 3.40282e\+38, got 1e\+60"),
  ({"clip_examples": 1e-60}, ValueError, r"to 3.40282e\+38, got 1e-60"),
  ({"clip_examples": math.inf}, ValueError, "clip_examples must be a number from .* got inf"),
  ({"clip_examples": "1"}, TypeError, "clip_examples must be a"),
  ({"watch": "health"}, TypeError, "watch must be a tuple of names"),
  ({"watch": ("noise",)}, ValueError, "unknown value 'noise' for watch; did you mean 'noise_scale"),
  ({"watch": (3,)}, ValueError, "unknown value 3 for watch"),
  ({"watch": ("noise_scale",), "batch_size": 1}, ValueError, "needs batches of at least 2"),
]


test_fit_refuses = refusals(lambda options: fit(nets()[0], **options), BAD)


@pytest.mark.slow
@pytest.mark.parametrize(
  "options", [{"clip_examples": 1.0}, {"watch": ("noise_scale",)}, {"watch": ("health",)}]
)
def test_a_plain_network_is_refused_with_what_to_do(options):
  with pytest.raises(fb.StructureError, match=r"dense=captured\(fbackprop\.dense\)"):
    fit(nets()[1], **options)


def test_a_step_alone_has_no_health():
  said = "make_step: unknown value 'health' for watch; there are: noise_scal"
  parts = nets()[0], fb.softmax_cross_entropy, fb.train.gradient_descent(1.0)
  with pytest.raises(ValueError, match=said):
    fb.train.make_step(*parts, watch=("health",))


@pytest.mark.slow
def test_a_bound_of_numpy_can_be_saved(tmp_path):
  kept = fb.train.Checkpoints(tmp_path, 20)
  result = fit(nets()[0], clip_examples=np.float32(0.5), checkpoints=kept)
  assert result.saved_at == 40
