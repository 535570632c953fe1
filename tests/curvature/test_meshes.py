"""Curvature on two devices, examples split: Auto and Explicit axes give one device's values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import fbackprop as fb
from tests.support.witness import jit_quickly

NET, LOSS = fb.mlp([3, 4, 4, 4, 3], fb.tanh, repeat_hidden=True), fb.softmax_cross_entropy


@functools.cache
def everything():
  c = fb.curvature

  def all_of(params, x, labels):
    return (
      c.ggn_vector_product(NET, LOSS)(params, x, labels, params),
      c.hessian_vector_product(NET, LOSS)(params, x, labels, params),
      c.ggn_diagonal(NET, LOSS)(params, x, labels),
      c.hessian_diagonal(NET, LOSS)(params, x, labels),
      c.hesscale_diagonal(NET, LOSS)(params, x, labels),
      c.kronecker_factors(NET, LOSS)(params, x, labels),
    )

  return all_of


@functools.cache
def data():
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(NET.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
  x, labels = rng.normal(size=(6, 3)), rng.integers(0, 3, 6)
  return params, jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_two_devices_give_the_values_of_one(kind):
  want = jit_quickly(everything())(*data())
  mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,))
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
  params, x, labels = data()
  with jax.set_mesh(mesh):
    placed = jax.device_put(params, whole), jax.device_put(x, split), jax.device_put(labels, split)
    got = jit_quickly(everything())(*placed)
  for one, two in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    # Sums over examples in another order.
    np.testing.assert_allclose(np.asarray(two), one, rtol=1e-5, atol=1e-6)
