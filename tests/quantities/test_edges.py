"""Examples without gradient, with inf and NaN; no examples, and one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop import quantities as q
from tests.support.cases_of_quantities import CLIPPED, assert_near, from_rows, quantities_of

# --- Examples that aren't as others ---------------------------------------------------------------

ODD = {"plain": 0, "zero": 1, "inf": 2, "nan": 3}
"""Which row of the batch has which gradient."""


def tree_of(rows):
  """Factors of four kinds, of the rows named, by their own seed each."""
  rng = np.random.default_rng(1)
  n = len(ODD)
  x, y_bar, x_hat = (rng.normal(size=(n, d)).astype(np.float32) for d in (3, 2, 2))
  y_bar[ODD["zero"]] = 0
  y_bar[ODD["inf"], 0], y_bar[ODD["nan"], 0] = np.inf, np.nan
  x, y_bar, x_hat = (jnp.asarray(v[[ODD[row] for row in rows]]) for v in (x, y_bar, x_hat))
  return (
    q.Affine(x, y_bar),
    q.Linear(x, y_bar),
    q.Elementwise(x_hat, y_bar),
    q.Scaling(x_hat, y_bar),
  )


everything = jax.jit(partial(quantities_of, bound=0.5))
SUMS = ("gradient", "second_moment", "global_norm", *CLIPPED)


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow
def test_an_example_without_gradient():
  """It adds nothing, has no direction, and brings no NaN."""
  both, alone = everything(tree_of(["plain", "zero"])), everything(tree_of(["plain"]))
  trace, sqnorm = both.pop("noise_scale")[1:]  # Of two, ‖G‖² is g_0 · g_1, here 0: no scale.
  np.testing.assert_allclose(trace, both["example_sqnorms"][0] / 2, rtol=1e-6)
  np.testing.assert_allclose(sqnorm, 0, atol=1e-6)
  assert all(np.isfinite(leaf).all() for leaf in leaves(both))
  for quantity in SUMS:
    for a, b in zip(leaves(both[quantity]), leaves(alone[quantity]), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6)
  assert all(not leaf[1].any() for leaf in leaves(both["example_gradients"]))
  assert both["example_sqnorms"][1] == 0
  assert not both["gram"][1].any()
  assert not both["gram"][:, 1].any()
  cosines = np.asarray(both["cosine_similarities"])
  np.testing.assert_allclose(cosines, [[1, 0], [0, 0]], atol=1e-6)


@pytest.mark.slow
def test_only_examples_without_gradient():
  got = everything(tree_of(["zero", "zero"]))
  noise = got.pop("noise_scale")
  assert not any(leaf.any() for leaf in leaves(got))
  assert (noise.trace, noise.sqnorm) == (0, 0)
  assert np.isnan(noise.scale)


@pytest.mark.slow
def test_without_a_stability_constant_the_automatic_clipping_of_nothing_is_nan():
  clipped = q.clipped_gradient(tree_of(["zero"]), 1.0, clipping="automatic", stability=0)
  assert all(np.isnan(leaf).all() for leaf in leaves(clipped))


@pytest.mark.parametrize("row", ["inf", "nan"])
def test_an_example_that_is_not_finite(row):
  """It stays in its own rows, and shows in every sum over examples."""
  got, alone = everything(tree_of(["plain", row])), everything(tree_of(["plain"]))
  wrong = np.isinf if row == "inf" else np.isnan
  # In what belongs to one example the other is as if alone.
  for quantity in ("example_gradients", "example_sqnorms", "gram"):
    for a, b in zip(leaves(got[quantity]), leaves(alone[quantity]), strict=True):
      np.testing.assert_allclose(a[:1] if quantity != "gram" else a[:1, :1], b, rtol=1e-6)
  assert wrong(got["example_sqnorms"][1])
  assert not np.isfinite(got["gram"][1, 1])
  np.testing.assert_allclose(got["cosine_similarities"][0, 0], 1, rtol=1e-6)
  assert np.isnan(got["cosine_similarities"][1]).all()
  assert np.isnan(got["cosine_similarities"][:, 1]).all()
  # Sums: what is wrong with one entry of the gradient is wrong in that entry.
  for quantity in ("gradient", "second_moment"):
    bias = got[quantity][0].b
    assert wrong(bias[0])
    assert np.isfinite(bias[1])
  assert np.isnan(got["variance"][0].b[0])
  assert np.isfinite(got["variance"][0].b[1])
  assert all(np.isnan(leaf) for leaf in got["noise_scale"])
  assert not np.isfinite(got["global_norm"])
  # A clipped one can't be told from a finite one, so that all of its layers' entries are NaN.
  assert all(np.isnan(leaf).all() for leaf in leaves([got[name] for name in CLIPPED]))


@pytest.mark.slow
def test_a_norm_whose_square_overflows_is_not_clipped_to_nothing():
  factors = q.Linear(jnp.full((1, 1), 1e15), jnp.full((1, 1), 1e15))
  assert np.isinf(q.example_sqnorms(factors)[0])
  assert np.isnan(q.clipped_gradient(factors, 1.0).w).all()


def test_no_examples():
  empty = jax.tree.map(lambda factor: factor[:0], tree_of(["plain"]))
  got = everything(empty)
  for quantity in SUMS:
    assert not any(leaf.any() for leaf in leaves(got[quantity])), quantity
  assert got["example_sqnorms"].shape == (0,)
  assert got["gram"].shape == got["cosine_similarities"].shape == (0, 0)
  assert got["example_gradients"][0].w.shape == (0, 3, 2)
  for quantity in ("variance", "noise_scale"):
    assert all(np.isnan(leaf).all() for leaf in leaves(got[quantity])), quantity


def test_the_mean_of_no_examples_is_zero():
  net = fb.mlp([3, 2], dense=q.captured(fb.dense))
  params = net.init(jax.random.key(0))
  run = jax.jit(q.compute(net, fb.squared_error, ("example_sqnorms", "variance")))
  loss, grads, found = run(params, jnp.ones((0, 3)), jnp.zeros((0, 2)))
  assert loss == 0
  assert jax.tree.structure(grads) == jax.tree.structure(params)
  assert not any(leaf.any() for leaf in leaves(grads))
  assert found["example_sqnorms"].shape == (0,)
  assert all(np.isnan(leaf).all() for leaf in leaves(found["variance"]))


def test_one_example():
  got = everything(tree_of(["plain"]))
  for quantity in ("variance", "noise_scale"):
    assert all(np.isnan(leaf).all() for leaf in leaves(got[quantity])), quantity
  squares = sum((leaf.astype(np.float64) ** 2).sum() for leaf in leaves(got["gradient"]))
  np.testing.assert_allclose(got["example_sqnorms"][0], squares, rtol=1e-6)
  np.testing.assert_allclose(got["global_norm"], np.sqrt(squares), rtol=1e-6)
  assert got["cosine_similarities"].shape == (1, 1)


@pytest.mark.slow
def test_the_witness_sees_a_wrong_rule():
  """Without the 1 of the bias, or with the sum where the mean belongs, the comparison fails."""
  with jax.enable_x64(True):
    rng = np.random.default_rng(2)
    factors = q.Affine(jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(4, 2))))
    want = from_rows(jax.tree.map(np.asarray, q.example_gradients(factors)), (0,))
    assert_near(q.example_sqnorms(factors), *want["example_sqnorms"])
    for quantity, wrong in (
      ("example_sqnorms", q.example_sqnorms(q.Linear(*factors))),
      ("global_norm", q.global_norm(factors) / 4),
      ("second_moment", jax.tree.map(lambda g: g / 4, q.second_moment(factors))),
      ("variance", jax.tree.map(lambda g: g * 3 / 4, q.variance(factors))),
    ):
      with pytest.raises(AssertionError):
        assert_near(wrong, *want[quantity])
