"""Each loss against loops, against the libraries that people know, and at its kinks."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import mean_poisson_deviance

import fbackprop as fb
from fbackprop.verify.cases.losses import CLASSES, LOSSES, OPTIONS
from tests.support import oracle_losses as loops
from tests.support.losses import assert_losses, losses_and_slopes

pytestmark = pytest.mark.usefixtures("in_float64")

RNG = np.random.default_rng(0)
OUTPUTS = 2 * RNG.normal(size=(9, CLASSES))
VALUES = 2 * RNG.normal(size=OUTPUTS.shape)
COUNTS = RNG.poisson(2, size=OUTPUTS.shape).astype(float)
SHARES = RNG.dirichlet(np.ones(CLASSES), 9)
LABELS = np.arange(9) % CLASSES
GAPS = np.where(LABELS == 2, -1, LABELS)
WEIGHTS = OPTIONS["class_weights"]
smooth = partial(loops.softmax_cross_entropy, smoothing=0.25)
weighted = partial(loops.softmax_cross_entropy, weights=WEIGHTS)
with_options = partial(smooth, weights=WEIGHTS, ignored=-1)


WITNESSES = {
  "squared_error": (fb.squared_error, VALUES, loops.squared_error),
  "huber": (fb.huber, VALUES, loops.huber),
  "huber_with": (fb.huber_with(3), VALUES, partial(loops.huber, delta=3)),
  "log_cosh": (fb.log_cosh, VALUES, loops.log_cosh),
  "poisson_nll": (fb.poisson_nll, COUNTS, loops.poisson_nll),
  "hinge": (fb.hinge, LABELS, loops.hinge),
  "softmax labels": (fb.softmax_cross_entropy, LABELS, loops.softmax_cross_entropy),
  "softmax rows": (fb.softmax_cross_entropy, SHARES, loops.softmax_cross_entropy),
  "smoothing": (fb.softmax_cross_entropy_with(label_smoothing=0.25), LABELS, smooth),
  "smooth rows": (fb.softmax_cross_entropy_with(label_smoothing=0.25), SHARES, smooth),
  "weights": (fb.softmax_cross_entropy_with(class_weights=WEIGHTS), LABELS, weighted),
  "rows, weights": (fb.softmax_cross_entropy_with(class_weights=WEIGHTS), SHARES, weighted),
  "options": (fb.softmax_cross_entropy_with(**OPTIONS), GAPS, with_options),
  "sigmoid": (fb.sigmoid_cross_entropy, SHARES, loops.sigmoid_cross_entropy),
}


@pytest.mark.parametrize("name", WITNESSES)
def test_a_loss_agrees_with_loops(name):
  loss, targets, by_loops = WITNESSES[name]
  got = losses_and_slopes(loss, OUTPUTS, targets)
  want = zip(*(by_loops(y, t) for y, t in zip(OUTPUTS, targets, strict=True)), strict=True)
  for ours, theirs in zip(got, want, strict=True):
    np.testing.assert_allclose(ours, np.stack(theirs), rtol=1e-13, atol=1e-14)


def smoothed_of_optax(outputs, labels):
  t = optax.losses.smooth_labels(jax.nn.one_hot(labels, CLASSES), 0.25)
  return optax.losses.softmax_cross_entropy(outputs, t)


OF_OPTAX = {
  "huber": (fb.huber, VALUES, optax.losses.huber_loss),
  "log_cosh": (fb.log_cosh, VALUES, optax.losses.log_cosh),
  "smoothing": (fb.softmax_cross_entropy_with(label_smoothing=0.25), LABELS, smoothed_of_optax),
  "hinge": (fb.hinge, LABELS, optax.losses.multiclass_hinge_loss),
}


@pytest.mark.parametrize("name", OF_OPTAX)
def test_a_loss_is_the_one_that_optax_knows(name):
  loss, targets, of_optax = OF_OPTAX[name]
  want = of_optax(jnp.asarray(OUTPUTS), jnp.asarray(targets))
  want = want.sum(1) if want.ndim == 2 else want  # Theirs are elementwise, ours add outputs.
  np.testing.assert_allclose(losses_and_slopes(loss, OUTPUTS, targets)[0], want, rtol=1e-12)


def test_poisson_nll_is_half_the_deviance_that_scikit_learn_knows():
  """Up to the loss at the best rate, which is t: for a count of 0 a log rate of −inf."""
  log_counts = np.log(COUNTS, where=COUNTS > 0, out=np.full(COUNTS.shape, -np.inf))
  at_best, _ = losses_and_slopes(fb.poisson_nll, log_counts, COUNTS)
  losses, _ = losses_and_slopes(fb.poisson_nll, OUTPUTS, COUNTS)
  deviance = mean_poisson_deviance(COUNTS.ravel(), np.exp(OUTPUTS).ravel())
  np.testing.assert_allclose(2 * (losses - at_best).sum() / COUNTS.size, deviance, rtol=1e-12)


# --- Kinks ----------------------------------------------------------------------------------------


def test_the_hinge_at_its_kinks():
  """A lead of exactly 1: no gradient. Ties of the rivals: equal shares."""
  scores = [[2.0, 1.0, 0.0], [1.0, 1.5, 1.5], [0.0, 0.0, 0.0]]
  want = [0, 1.5, 1], [[0, 0, 0], [-1, 0.5, 0.5], [0.5, 0.5, -1]]
  assert_losses(fb.hinge, scores, [0, 0, 2], want)


def test_the_hinge_decides_by_the_logits_and_not_by_their_rounding():
  """A lead of 1 − 2^-30, of which float32 would make 1."""
  assert_losses(fb.hinge, [[1.0, 2.0**-30]], [0], ([2.0**-30], [[-1, 1]]), "float32")


def test_the_hinge_without_a_rival():
  assert_losses(fb.hinge, np.ones((2, 1)), [0, 0], ([0, 0], [[0], [0]]))


@pytest.mark.slow
def test_curvature_where_it_jumps():
  """Huber at |e| = δ counts as the line; log cosh has curvature 1 at 0."""

  def curvature(loss, error):
    y, zero = jnp.full((1, 1), error), jnp.zeros((1, 1))
    _, (_, slope) = jax.jvp(lambda y: losses_and_slopes(loss, y, zero), (y,), (jnp.ones((1, 1)),))
    return slope.item()

  assert [curvature(fb.huber, e) for e in (-1.5, -1.0, 0.0, 1.0)] == [0, 0, 1, 0]
  assert curvature(fb.log_cosh, 0.0) == 1
  by_the_value = jax.hessian(lambda y: fb.log_cosh.forward(y, jnp.zeros((1, 1)))[0].sum())
  np.testing.assert_array_equal(by_the_value(jnp.zeros((1, 1))), np.ones((1, 1, 1, 1)))


# --- Ignored rows and class weights, in a mean ----------------------------------------------------

NET = fb.mlp([2, CLASSES], dtype="float64")
X = RNG.normal(size=(9, 2))


def mean_and_gradient(loss, x, labels, weights=None):
  params = NET.init(jax.random.key(0))
  step = jax.jit(fb.value_and_grad(NET, loss))
  return step(params, jnp.asarray(x), jnp.asarray(labels), weights=weights)


assert_same_numbers = partial(chex.assert_trees_all_close, rtol=1e-13, atol=1e-15)


@pytest.mark.slow
def test_ignored_rows_count_in_the_mean_unless_weights_leave_them_out():
  ignoring = fb.softmax_cross_entropy_with(ignore_label=-1)
  kept = GAPS != -1
  of_kept = mean_and_gradient(fb.softmax_cross_entropy, X[kept], GAPS[kept])
  over_all = jax.tree.map(lambda leaf: leaf * kept.mean(), of_kept)
  assert_same_numbers(mean_and_gradient(ignoring, X, GAPS), over_all)
  weights = jnp.asarray(kept, jnp.float64)
  assert_same_numbers(mean_and_gradient(ignoring, X, GAPS, weights), of_kept)


@pytest.mark.slow
def test_class_weights_divide_the_mean_if_they_are_the_weights_of_the_rows():
  """As in torch, whose mean of a weighted loss is Σ w_y loss / Σ w_y."""
  weighted = fb.softmax_cross_entropy_with(class_weights=WEIGHTS)
  weights = jnp.asarray(WEIGHTS)[LABELS]
  by_rows = mean_and_gradient(fb.softmax_cross_entropy, X, LABELS, weights)
  over_all = mean_and_gradient(weighted, X, LABELS)
  assert_same_numbers(by_rows, jax.tree.map(lambda leaf: leaf / weights.mean(), over_all))


@pytest.mark.slow
def test_an_ignored_row_may_hold_anything():
  loss = fb.softmax_cross_entropy_with(ignore_label=255, label_smoothing=0.1)
  outputs = [[np.nan, 0.0], [-np.inf, -np.inf], [np.inf, 0.0], [0.0, 0.0]]
  losses, rows = losses_and_slopes(loss, outputs, np.array([255, 255, 255, 1], np.uint8))
  np.testing.assert_array_equal(losses[:3], [0, 0, 0])
  np.testing.assert_array_equal(rows[:3], np.zeros((3, 2)))
  assert losses[3] > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_a_label_is_its_row_of_probabilities_to_the_bit(dtype):
  """A label's term is taken, and of rows of probabilities all are added; others than it are 0."""
  rng, labels = np.random.default_rng(0), np.array([0, 4, 2, 2, 1], dtype)
  outputs = 5 * rng.normal(size=(5, 5))
  outputs[2, 3], outputs[3, 2] = -np.inf, -np.inf  # An impossible class, and the right one.
  loss = fb.softmax_cross_entropy_with(class_weights=[1.0, 0.5, 2.0, 1.0, 0.0])
  got = losses_and_slopes(loss, outputs, labels)
  want = losses_and_slopes(loss, outputs, np.eye(5)[labels])
  for ours, own in zip(got, want, strict=True):
    np.testing.assert_array_equal(ours, own)
  wrong = np.array([0, 4, 100, 2, 1], dtype)
  losses, rows = jax.jit(lambda z, y: loss.forward(z, y))(outputs, wrong)
  np.testing.assert_array_equal(np.isnan(losses), wrong == 100)
  np.testing.assert_array_equal(np.isnan(rows).all(1), wrong == 100)


def test_a_negative_label_to_ignore_is_none_of_the_unsigned():
  loss = fb.softmax_cross_entropy_with(ignore_label=-1)
  losses, _ = losses_and_slopes(loss, np.zeros((1, 256)), np.array([255], np.uint8))
  np.testing.assert_allclose(losses, np.log(256))


# --- What is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LOSSES, ids=[case.id for case in LOSSES])
def test_one_number_is_kept_for_each_output_that_is_judged(case):
  primals = case.primals(np.random.default_rng(0), 5, jnp.dtype("float32"))
  kept = jax.tree.leaves(jax.eval_shape(case.make("float32").forward, *primals)[1])
  judged = 5 if case.id == "combine" else CLASSES
  assert sum(leaf.size * leaf.dtype.itemsize for leaf in kept) == 5 * judged * 4
