"""The check while training, of clipped examples: a right rule passes, planted wrong ones don't."""

import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb
from fbackprop import quantities as q
from fbackprop.train.step import make_gradient
from fbackprop.verify import make_live_check
from tests.train.test_watching import LABELS, WEIGHTS, X, example_gradients, nets, norms_of

BOUND = 1.4
"""Longer than some of the gradients, and shorter than others: the test of the right rule asks."""


def clipped_by(factor):
  """A clipped mean of which `factor(norms)` says by how much each example is shortened."""
  net, _ = nets()

  def ours(params, x, targets, *, key=None, weights=None):
    loss, _, found = q.compute(net, fb.softmax_cross_entropy, ("example_gradients",))(
      params, x, targets, key, weights
    )
    each = found["example_gradients"]
    norms = jnp.sqrt(sum((g**2).reshape(len(g), -1).sum(1) for g in jax.tree.leaves(each)))
    return loss, jax.tree.map(lambda g: jnp.tensordot(factor(norms), g, 1) / len(x), each)

  return net, ours


FACTORS = [
  (lambda norms: jnp.minimum(1, BOUND / norms), True),
  (lambda norms: jnp.ones_like(norms), False),
  (lambda norms: BOUND / norms, False),  # Lengthens the short ones.
  (lambda norms: jnp.minimum(1, BOUND / (norms + 1e-6)), False),  # As some packages have it.
  (lambda norms: jnp.minimum(1, BOUND**2 / norms**2), False),  # Of the square.
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("factor", "is_right"),
  FACTORS,
  ids=["right", "not clipped", "normalised", "with 1e-6", "squared"],
)
def test_the_check_knows_a_clipped_gradient_from_another(factor, is_right):
  net, ours = clipped_by(factor)
  check = make_live_check(net, fb.softmax_cross_entropy, ours=ours, clip_examples=BOUND)
  found = check(net.init(jax.random.key(0)), X, LABELS)
  assert found.ok == is_right
  if is_right:
    assert found.rel_error < 1e-13
    each = example_gradients(nets()[1], net.init(jax.random.key(0)), X, LABELS, None, None)
    assert 0.2 < (norms_of(each) > BOUND).mean() < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [fb.softmax_cross_entropy, "two costs"], ids=["labels", "tuple"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_check_sees_weights_dropout_and_several_targets(dropout, loss, weighted):
  net, _ = nets(dropout=dropout)
  targets = LABELS
  if loss == "two costs":
    loss = fb.combine((1.0, fb.squared_error, slice(0, 1)), (0.5, fb.huber, slice(1, 2)))
    targets = (jnp.sin(X[:, :1]), jnp.cos(X[:, 1:2]))
  key = jax.random.key(7) if dropout else None
  weights = WEIGHTS if weighted else None
  params = net.init(jax.random.key(0))
  gradient_of = make_gradient(net, loss, 0.9)

  def ours(*batch, **options):
    return gradient_of(*batch, **options)[:2]

  def other(params, x, targets, *, key=None, weights=None):
    """Without the weights, or with another mask."""
    if weighted:
      return gradient_of(params, x, targets, key=key)[:2]
    return gradient_of(params, x, targets, key=jax.random.key(8))[:2]

  check = make_live_check(net, loss, ours=ours, clip_examples=0.9)
  found = check(params, X, targets, key=key, weights=weights)
  assert found.ok
  assert found.rel_error < 1e-12
  if weighted or dropout:
    wrong = make_live_check(net, loss, ours=other, clip_examples=0.9)
    assert not wrong(params, X, targets, key=key, weights=weights).ok
