"""`fit(params=)`: a run that starts from given parameters, which stay the caller's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from tests.support.runs import descend

pytestmark = pytest.mark.usefixtures("as_a_user_has_it")

NET = fb.mlp([4, 8, 3], dropout=0.1)
X = jax.random.normal(jax.random.key(1), (48, 4))
LABELS = jnp.arange(48) % 3


def fit(steps, **options):
  options = {"optimizer": optax.adam(0.01), "batch_size": 16, **options}
  return descend(NET, (X, LABELS), steps, **options)


@pytest.mark.slow
@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_the_caller_keeps_what_a_run_started_from(on_nonfinite):
  """Also where the compiled loop donates its state ("skip")."""
  given = NET.init(jax.random.key(5))
  before = jax.tree.map(np.array, given)
  first, second = (fit(4, params=given, on_nonfinite=on_nonfinite) for _ in range(2))
  chex.assert_trees_all_equal(given, before)
  chex.assert_trees_all_equal(first.params, second.params)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((given, X, LABELS)))


@pytest.mark.slow
def test_a_run_from_the_drawn_parameters_is_the_run_without_any():
  """Order of the examples and masks are those of the key, whatever the parameters."""
  start = fb.train.make_step(NET, fb.softmax_cross_entropy, optax.adam(0.01))[0]
  given = start(jax.random.split(jax.random.key(0))[0]).params  # What `init` draws of the key.
  drawn, own = fit(4), fit(4, params=given)
  chex.assert_trees_all_equal((own.params, own.losses), (drawn.params, drawn.losses))


@pytest.mark.slow
def test_the_loss_begins_where_the_last_run_ended():
  def run(steps, params=None):
    return descend(fb.mlp([4, 3]), (X, LABELS), steps, params=params)

  first, whole = run(20), run(40)
  more = run(20, first.params)
  np.testing.assert_array_equal(np.concatenate([first.losses, more.losses]), whole.losses)
  chex.assert_trees_all_equal(more.params, whole.params)


@pytest.mark.slow
def test_numpy_arrays_are_taken_and_left_alone():
  given = jax.tree.map(np.array, NET.init(jax.random.key(5)))
  before = jax.tree.map(np.copy, given)
  fit(4, params=given)
  chex.assert_trees_all_equal(given, before)


@pytest.mark.slow
def test_captured_networks_start_from_the_parameters_of_plain_ones():
  captured = fb.mlp([4, 8, 3], dense=fb.quantities.captured(fb.dense))
  given = fb.mlp([4, 8, 3]).init(jax.random.key(5))
  result = descend(captured, (X, LABELS), 1, params=given, clip_examples=1e6)
  want = fb.value_and_grad(fb.mlp([4, 8, 3]), fb.softmax_cross_entropy)(given, X, LABELS)[0]
  np.testing.assert_allclose(result.losses[0], want, rtol=1e-6)


def test_parameters_that_are_not_finite_are_refused_by_leaf():
  given = NET.init(jax.random.key(5))
  given = (given[0]._replace(b=given[0].b.at[2].set(jnp.inf)), *given[1:])
  with pytest.raises(ValueError, match=r"params\[0\].b must be finite, got inf at \[2\]"):
    fit(1, params=given)


def test_a_number_in_the_place_of_an_array_is_refused():
  given = NET.init(jax.random.key(5))
  with pytest.raises(TypeError, match=r"params\[0\].b must be an array, got float 0.0"):
    fit(1, params=(given[0]._replace(b=0.0), *given[1:]))


@pytest.mark.slow
def test_a_checkpoint_holds_its_own_parameters(tmp_path):
  fit(4, checkpoints=fb.train.Checkpoints(tmp_path / "a", every=2))
  with pytest.raises(ValueError, match="params and resume are mutually exclusive"):
    fit(8, resume=tmp_path / "a", params=NET.init(jax.random.key(5)))
