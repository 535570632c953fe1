"""Averaged weights, accumulated gradients and a rate per layer, by optimizers around others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb
from fbackprop.train import Batch, averaged, gradient_descent, make_step

NET = fb.mlp([3, 4, 2], fb.tanh)
X = jax.random.normal(jax.random.key(1), (8, 3))
TARGETS = jax.random.normal(jax.random.key(2), (8, 2))
pytestmark = pytest.mark.usefixtures("as_a_user_has_it")


def steps(optimizer, batches):
  """The states of a run, with the one before it."""
  init, step = make_step(NET, fb.squared_error, optimizer)
  step, states = jax.jit(step), [init(jax.random.key(0))]
  for batch in batches:
    states.append(step(states[-1], batch)[0])
  return states


def assert_same(found, wanted):
  for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_average_follows_the_weights():
  plain = [s.params for s in steps(gradient_descent(0.1), [Batch(X, TARGETS)] * 4)]
  states = steps(averaged(gradient_descent(0.1), 0.75), [Batch(X, TARGETS)] * 4)
  average = plain[0]
  for params, state in zip(plain[1:], states[1:], strict=True):
    average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, average, params)
    assert_same(state.params, params)  # The steps are the optimizer's own.
    assert_same(state.opt_state.average, average)


@pytest.mark.slow
def test_four_parts_of_a_batch_make_the_step_of_the_whole():
  parts = [Batch(X[i : i + 2], TARGETS[i : i + 2]) for i in range(0, 8, 2)]
  *_, before, after = steps(optax.MultiSteps(optax.sgd(0.1), 4), parts)
  _, whole = steps(optax.sgd(0.1), [Batch(X, TARGETS)])
  assert_same(after.params, whole.params)
  assert not np.array_equal(before.params[0].w, after.params[0].w)


@pytest.mark.slow
def test_each_layer_has_its_rate():
  params = jax.eval_shape(NET.init, jax.random.key(0))
  names = jax.tree.map(lambda _: "body", params)
  names = (*names[:-1], jax.tree.map(lambda _: "head", names[-1]))
  rates = {"body": optax.sgd(0.01), "head": optax.sgd(0.1)}
  before, after = steps(optax.multi_transform(rates, names), [Batch(X, TARGETS)])
  _, grads = fb.value_and_grad(NET, fb.squared_error)(before.params, X, TARGETS)
  assert_same(after.params[0].w, before.params[0].w - 0.01 * grads[0].w)
  assert_same(after.params[-1].w, before.params[-1].w - 0.1 * grads[-1].w)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), "0.9"])
def test_a_decay_out_of_range_is_refused(decay):
  with pytest.raises((ValueError, TypeError), match="averaged: decay must be"):
    averaged(gradient_descent(0.1), decay)
  assert averaged(gradient_descent(0.1), 0).init({"w": jnp.ones(2)}).average["w"].shape == (2,)
