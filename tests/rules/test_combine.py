"""Several losses in one: each of its own outputs, with its own targets."""

from functools import partial

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify.cases.losses import CLASSES, TWO_COSTS

RNG = np.random.default_rng(0)
NET = fb.mlp([2, CLASSES])
X = RNG.normal(size=(9, 2)).astype("float32")
OUTPUTS = RNG.normal(size=(9, CLASSES)).astype("float32")
VALUES = RNG.normal(size=OUTPUTS.shape).astype("float32")
LABELS = np.arange(9) % CLASSES


def losses_and_slopes(loss, outputs, targets):
  """The losses, and the cotangent of the outputs for ones."""
  losses, residuals = loss.forward(jnp.asarray(outputs), jax.tree.map(jnp.asarray, targets))
  return losses, loss.backward(residuals, jnp.ones_like(losses))


def mean_and_gradient(loss, targets):
  step = jax.jit(fb.value_and_grad(NET, loss))
  return step(NET.init(jax.random.key(0)), jnp.asarray(X), jax.tree.map(jnp.asarray, targets))


assert_same_numbers = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


parts = st.lists(
  st.tuples(
    st.floats(-2, 2), st.sampled_from(["squared_error", "huber", "hinge"]),
    st.integers(0, 3), st.integers(1, 4),
  ),
  min_size=1, max_size=3,
)  # fmt: skip


@pytest.mark.slow
@hypothesis.settings(max_examples=12)
@hypothesis.given(parts, st.booleans())
def test_combine_is_the_weighted_sum_of_its_parts(parts, from_the_end):
  """Whatever the slices cover, leave out or share."""
  losses, rows = np.zeros(9), np.zeros(OUTPUTS.shape)
  triples, targets = [], []
  for weight, name, start, width in parts:
    stop = min(start + width, CLASSES)
    target = LABELS % (stop - start) if name == "hinge" else VALUES[:, start:stop]
    part_losses, part_rows = losses_and_slopes(getattr(fb, name), OUTPUTS[:, start:stop], target)
    losses += weight * part_losses
    rows[:, start:stop] += weight * np.asarray(part_rows)
    place = slice(start - CLASSES, stop) if from_the_end else slice(start, stop)
    triples.append((weight, getattr(fb, name), place))
    targets.append(target)
  got = losses_and_slopes(fb.combine(*triples), OUTPUTS, tuple(targets))
  assert_same_numbers(got, (losses, rows))


@pytest.mark.slow
def test_two_costs_flow_back_through_one_network():
  """The lecture's J1 and J2: the gradient of the sum is the sum of the gradients."""
  targets = LABELS % 3, VALUES[:, :2]
  got = mean_and_gradient(TWO_COSTS, targets)
  first = mean_and_gradient(fb.combine((0.5, fb.softmax_cross_entropy, slice(3))), targets[:1])
  second = mean_and_gradient(fb.combine((2, fb.squared_error, slice(2, 4))), targets[1:])
  assert_same_numbers(got, jax.tree.map(jnp.add, first, second))


@pytest.mark.slow
def test_combinations_nest():
  inner = fb.combine((1.0, fb.huber, 0), (0.5, fb.squared_error, -1))
  outer = fb.combine((2.0, inner, slice(0, 3)), (1.0, fb.hinge, slice(None)))
  targets = ((VALUES[:, :1], VALUES[:, 1:2]), LABELS)
  mean, grads = mean_and_gradient(outer, targets)
  flat = fb.combine((2.0, fb.huber, 0), (1.0, fb.squared_error, 2), (1.0, fb.hinge, slice(None)))
  assert_same_numbers((mean, grads), mean_and_gradient(flat, (*targets[0], LABELS)))


@pytest.mark.slow
def test_fit_takes_the_targets_of_several_losses():
  """Minibatches, evaluation and the live check, with bad labels found out."""
  loss = fb.combine((1.0, fb.softmax_cross_entropy, slice(0, 3)), (1.0, fb.squared_error, 3))
  targets = LABELS % 3, VALUES[:, :1]
  options = {
    "optimizer": fb.train.gradient_descent(0.1), "stop": fb.train.StopRules(20), "batch_size": 4,
    "key": jax.random.key(0),
    "monitor": fb.train.Monitor(check_every=10, test=(X, targets)),
  }  # fmt: skip
  result = fb.train.fit(NET, loss, (X, targets), **options)
  assert result.losses[-1] < result.losses[0]
  assert all(check.ok for _, check in result.checks)
  with pytest.raises(ValueError, match="labels from 0 to 2, got 3 in row 3"):
    fb.train.fit(NET, loss, (X, (LABELS, targets[1])), **options)
  with pytest.raises(ValueError, match=r"data.targets\[1\] must be finite"):
    fb.train.fit(NET, loss, (X, (targets[0], targets[1] * np.inf)), **options)
