"""Differences of single entries: the truth of a function that autodiff can't differentiate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify.witnesses.entries import compare_entries, drawn_entries, slopes_of_entries
from fbackprop.verify.witnesses.rule import as_numpy, rule_of, signature_of
from fbackprop.verify.witnesses.traces import Setting, gather_witnesses

X = jnp.array([[0.5, -1.0, 2.0], [0.0, 1.5, -0.5]])
SCALE = jnp.array([1.0, 3.0, 0.25])
EVERYWHERE = [(0, (i, j)) for i in range(2) for j in range(3)]


def setting(f, *args):
  """The programs of f at these arguments, with a cotangent of ones."""
  signature, leaves = signature_of(f, args)
  with jax.numpy_rank_promotion("allow"):
    witnesses = gather_witnesses(rule_of(f, None, signature, leaves), leaves)
  y_bar = [np.ones(o.shape) for o in witnesses.forward.out_avals]
  return Setting(witnesses, as_numpy(leaves), y_bar)


def scaled(x, scale):
  return jnp.sin(x) * scale


def test_half_of_the_entries_are_the_largest():
  bars = [np.array([0.1, -9.0, 0.2, np.nan, 0.3, 8.0]), np.zeros((2, 2))]
  drawn = drawn_entries(bars, 4, seed=0)
  places = [index[0] for leaf, index in drawn if leaf == 0]
  assert places[:2] == [3, 1]  # What isn't finite comes first.
  assert len(set(places)) == 4
  assert len([index for leaf, index in drawn if leaf == 1]) == 4
  assert drawn == drawn_entries(bars, 4, seed=0)


def test_of_a_smaller_leaf_every_entry_is_drawn():
  assert sorted(drawn_entries([np.zeros((2, 3))], 100, seed=0)) == EVERYWHERE
  assert drawn_entries([np.zeros((0, 3))], 4, seed=0) == []


def test_slopes_of_a_smooth_function():
  left, right, error, _ = slopes_of_entries(setting(scaled, X, SCALE), EVERYWHERE, True)
  truth = (np.cos(np.asarray(X, np.float64)) * np.asarray(SCALE)).reshape(-1)
  assert (np.abs(left - truth) <= error).all()
  assert (np.abs(right - truth) <= error).all()
  assert error.max() < 1e-7


def test_one_sided_slopes_at_a_kink():
  left, right, *_ = slopes_of_entries(setting(lambda x: jnp.abs(x), X), [(0, (1, 0))], True)
  np.testing.assert_allclose((left[0], right[0]), (-1, 1), rtol=1e-9)


def test_a_side_that_isn_t_finite_has_no_slope():
  at = setting(lambda x: jnp.sqrt(x), jnp.array([0.0, 2.0]))
  *_, error, _ = slopes_of_entries(at, [(0, (0,)), (0, (1,))], True)
  assert np.isinf(error[0])
  assert error[1] < 1e-6


@pytest.mark.parametrize("leaf", [0, 1])
def test_the_wrong_entry_of_a_leaf_is_found(leaf):
  at = setting(scaled, X, SCALE)
  x, scale = (np.asarray(a, np.float64) for a in (X, SCALE))
  bars = [np.cos(x) * scale, np.sin(x).sum(0)]
  right = compare_entries(at, [b[None] for b in bars], 100, 0, True)
  assert not any(d.is_wrong.any() or d.is_vacuous.any() for d in right)
  bars[leaf].reshape(-1)[2] *= 1.001
  found = compare_entries(at, [b[None] for b in bars], 100, 0, True)
  assert [int(d.is_wrong.sum()) for d in found] == [int(i == leaf) for i in range(2)]
  assert found[leaf].worst == np.unravel_index(2, bars[leaf].shape)


@pytest.mark.parametrize(
  ("slope", "is_wrong"), [(-1, False), (0.3, False), (1, False), (1.1, True)]
)
def test_at_a_kink_every_slope_between_the_sides_is_right(slope, is_wrong):
  at = setting(lambda x: jnp.abs(x), X)
  bar = np.sign(np.asarray(X, np.float64))
  bar[1, 0] = slope
  (found,) = compare_entries(at, [bar[None]], 100, 0, True)
  assert bool(found.is_wrong[1, 0]) == is_wrong
