"""docs/recipes.md: accumulated gradients and a rate per layer, by optax around an optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbackprop as fb

NET = fb.mlp([3, 4, 2])
PARAMS = NET.init(jax.random.key(0))
X = jax.random.normal(jax.random.key(1), (8, 3))
Y = jnp.arange(8) % 2


def stepped(optimizer, batches):
  """Parameters after a step for each batch."""
  init, step = fb.train.make_step(NET, fb.softmax_cross_entropy, optimizer)
  state = init(jax.random.key(0))._replace(params=PARAMS, opt_state=optimizer.init(PARAMS))
  # optax's MultiSteps divides a gradient by an integer, which strict promotion refuses.
  with jax.numpy_dtype_promotion("standard"):
    for rows in batches:
      state, _ = step(state, (X[rows], Y[rows]))
  return state.params


def assert_near(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), got, want)


@pytest.mark.slow
def test_gradients_of_four_batches_are_one_update_of_their_mean():
  """The same as of one batch of all of them, and none of the first three changes anything."""
  batches = [slice(i, i + 2) for i in range(0, 8, 2)]
  accumulated = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=4).gradient_transformation()
  assert_near(stepped(accumulated, batches), stepped(optax.sgd(0.5), [slice(None)]))
  assert_near(stepped(accumulated, batches[:3]), PARAMS)


@pytest.mark.slow
def test_a_layer_has_its_own_rate():
  labels = jax.tree.map(lambda leaf: "body", PARAMS)
  labels = (*labels[:-1], jax.tree.map(lambda leaf: "head", PARAMS[-1]))
  rates = optax.multi_transform({"body": optax.sgd(0.1), "head": optax.sgd(1.0)}, labels)
  _, grads = fb.value_and_grad(NET, fb.softmax_cross_entropy)(PARAMS, X, Y)
  scale = (*[0.1] * (len(PARAMS) - 1), 1.0)
  want = tuple(
    jax.tree.map(lambda p, g, rate=rate: p - rate * g, p, g)
    for p, g, rate in zip(PARAMS, grads, scale, strict=True)
  )
  assert_near(stepped(rates, [slice(None)]), want)
