"""The loss's side of curvature: samplers, roots where the law of the table doesn't look, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb

OUTPUTS = jnp.array([[1.5, -0.3, 0.2], [-2.0, 0.5, 0.4]])
VALUES = jnp.array([[0.5, 1.0, 0.0], [0.0, 0.7, 3.0]])
LABELS = jnp.array([2, 0])
WEIGHTED = fb.softmax_cross_entropy_with(class_weights=[0.5, 1.0, 2.0], label_smoothing=0.1)
BOTH = fb.combine(
  (2.0, fb.squared_error, slice(0, 2)), (0.5, fb.sigmoid_cross_entropy, slice(1, 3))
)
CASES = {
  "squared_error": (fb.squared_error, VALUES),
  "huber": (fb.huber_with(0.7), VALUES),
  "log_cosh": (fb.log_cosh, VALUES),
  "poisson_nll": (fb.poisson_nll, VALUES),
  "sigmoid": (fb.sigmoid_cross_entropy, VALUES),
  "softmax": (fb.softmax_cross_entropy, LABELS),
  "softmax_with": (WEIGHTED, LABELS),
  "combine": (BOTH, (VALUES[:, :2], VALUES[:, 1:])),
}


@pytest.mark.parametrize("name", CASES)
def test_the_second_moment_of_the_draws_is_the_fisher_information(name):
  loss, targets = CASES[name]
  draws = 20_000

  @jax.jit
  def both(keys):
    samples = jax.vmap(lambda key: loss.curvature.sample(key, OUTPUTS, targets))(keys)
    root = (loss.curvature.fisher or loss.curvature.root)(OUTPUTS, targets)
    products = samples[:, :, :, None] * samples[:, :, None, :]
    return (
      samples.mean(0),
      products.mean(0),
      products.std(0),
      jnp.einsum("rnc,rnd->ncd", root, root),
    )

  mean, second, spread, want = map(np.asarray, both(jax.random.split(jax.random.key(3), draws)))
  # 5 standard errors of the mean of `draws` products, and their rounding in float32.
  assert (np.abs(second - want) <= 5 * spread / np.sqrt(draws) + 1e-5).all(), (second, want)
  # A score has the mean 0, which `combine` relies on.
  size = np.sqrt(np.diagonal(second, axis1=1, axis2=2))
  assert (np.abs(mean) <= 5 * size / np.sqrt(draws)).all()


def test_the_fisher_information_is_the_hessian_but_for_huber_and_log_cosh():
  stated = {name for name, (loss, _) in CASES.items() if loss.curvature.fisher is not None}
  assert stated == {"huber", "log_cosh", "combine"}
  loss, targets = CASES["combine"]
  roots = loss.curvature.root(OUTPUTS, targets), loss.curvature.fisher(OUTPUTS, targets)
  np.testing.assert_array_equal(*roots)


@pytest.mark.slow
def test_the_softmax_root_has_one_column_less_than_classes():
  assert fb.softmax_cross_entropy.curvature.root(OUTPUTS, LABELS).shape == (2, 2, 3)
  assert fb.softmax_cross_entropy.curvature.root(OUTPUTS[:, :2], LABELS * 0).shape == (1, 2, 2)
  one = fb.softmax_cross_entropy.curvature.root(OUTPUTS[:, :1], LABELS * 0)
  np.testing.assert_array_equal(one, np.zeros((1, 2, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_the_softmax_root_of_certain_and_excluded_classes(order):
  # p is (1, e^-40, e^-90, 0): the second derivative of the third underflows with any other.
  logits = np.array([[0.0, -40.0, -90.0, -np.inf]])[:, order]
  curvature = fb.softmax_cross_entropy.curvature
  with jax.enable_x64(True):
    root = np.asarray(curvature.root(jnp.asarray(logits), jnp.array([0])))[:, 0]
    got = root.T @ root
  e = np.exp(logits[0])
  p, rest = e / e.sum(), np.array([np.delete(e, c).sum() for c in range(4)]) / e.sum()
  want = np.diag(p * rest) - (np.outer(p, p) - np.diag(p * p))
  scale = np.sqrt(np.outer(np.diag(want), np.diag(want)))
  assert (np.abs(got - want) <= 1e-12 * scale).all()
  single = np.asarray(curvature.root(jnp.asarray(logits, jnp.float32), jnp.array([0])))[:, 0]
  assert np.isfinite(single).all()
  np.testing.assert_allclose(
    np.diag(single.T @ single)[p > 1e-30], (p * rest)[p > 1e-30], rtol=4e-6
  )


@pytest.mark.slow
def test_ignored_rows_have_no_curvature_and_labels_out_of_range_nan():
  loss = fb.softmax_cross_entropy_with(ignore_label=-1)
  root = jax.jit(loss.curvature.root)(OUTPUTS, jnp.array([-1, 7]))
  np.testing.assert_array_equal(root[:, 0], np.zeros((2, 3)))
  assert np.isnan(root[:, 1]).any()
  drawn = loss.curvature.sample(jax.random.key(0), OUTPUTS, jnp.array([-1, 1]))
  assert (drawn[0] == 0).all()
  assert (drawn[1] != 0).all()


def test_a_loss_without_curvature_is_named():
  mine = fb.Loss("mine", fb.squared_error.forward, fb.squared_error.backward)
  net = fb.dense(2, 3)
  with pytest.raises(fb.StructureError, match=r"ggn_vector_product: the loss mine states no"):
    fb.curvature.ggn_vector_product(net, mine)
  both = fb.combine((1.0, fb.squared_error, 0), (1.0, mine, 1))
  with pytest.raises(fb.StructureError, match="combine: the loss mine states no") as raised:
    both.curvature.root(OUTPUTS, (VALUES[:, :1], VALUES[:, 1:2]))
  assert "in part 1 (mine) of 2" in raised.value.__notes__[0]
  with pytest.raises(
    ValueError, match=r"the weight of part 0 must be at least 0 for a square root"
  ):
    fb.combine((-1.0, fb.squared_error, 0)).curvature.root(OUTPUTS, (VALUES[:, :1],))
  with pytest.raises(fb.StructureError, match="the loss hinge has no sampler"):
    fb.combine((1.0, fb.hinge, slice(0, 3))).curvature.sample(jax.random.key(0), OUTPUTS, (LABELS,))
