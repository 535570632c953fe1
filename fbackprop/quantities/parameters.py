"""Quantities of one parameter of which each example makes several uses, or whose rows are known.

Of a weight with factors x, ȳ `[..., N, P, D]` the gradient of example n is Σ_p x_np ⊗ ȳ_np. Norms
and inner products then have cross terms between the uses,

  g_n · g_m = Σ_pq (x_np · x_mq) (ȳ_np · ȳ_mq),

which cost P² (D_in + D_out) products; forming both gradients costs P D_in D_out. The cheaper one is
taken, by shapes alone; both are exact.

References:
  Bu, Mao, Xu, "Scalable and efficient training of large convolutional neural networks with
  differential privacy", NeurIPS (2022), for the choice.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.layers.factors import ByParameter, Each, Outer, is_leaf_factors
from fbackprop.meshes import pair_uses, product, sum_uses
from fbackprop.types import Array, widen

Leaf = Outer | Each


def replace_leaves(function: Callable[[Any], Any], factors: ByParameter) -> Any:
  """Map `function` over each parameter's factors; the result is like the layer's parameters."""
  return jax.tree.map(function, factors.leaves, is_leaf=is_leaf_factors)


def leaves_of(factors: ByParameter) -> list[Leaf]:
  """Return each parameter's factors."""
  return jax.tree.leaves(factors.leaves, is_leaf=is_leaf_factors)


def shaped(leaf: Leaf, array: Array, front: tuple[int, ...]) -> Array:
  """Reshape an array `[*front, D_in, D_out]`, or `[*front, D]`, to the parameter's shape."""
  return array if leaf.shape is None else array.reshape(*front, *leaf.shape)


def total(leaf: Leaf) -> Array:
  """Compute Σ_n g_n."""
  if isinstance(leaf, Each):
    return shaped(leaf, leaf.grads.sum(-2), leaf.grads.shape[:-2])
  return shaped(leaf, sum_uses(leaf.x, leaf.y_bar), leaf.x.shape[:-3])


def rows(leaf: Leaf) -> Array:
  """Compute g_n for each n, `[..., N, D_in, D_out]` or `[..., N, D]`."""
  if isinstance(leaf, Each):
    return leaf.grads
  return jnp.matmul(jnp.swapaxes(leaf.x, -1, -2), leaf.y_bar)


def unsummed(leaf: Leaf) -> Array:
  """Compute g_n in the parameter's shape, the axis N in front."""
  found = rows(leaf)
  axes = found.ndim - (1 if isinstance(leaf, Each) else 2)
  return jnp.moveaxis(shaped(leaf, found, found.shape[:axes]), axes - 1, 0)


def summed_squares(leaf: Leaf) -> Array:
  """Compute Σ_n g_n², elementwise, in float32 at least."""
  found = rows(widened(leaf)) ** 2
  axes = found.ndim - (1 if isinstance(leaf, Each) else 2)
  return shaped(leaf, found.sum(axes - 1), found.shape[: axes - 1])


def sqnorms(leaf: Leaf) -> Array:
  """Compute ‖g_n‖², `[..., N]`, in float32 at least."""
  wide = widened(leaf)
  if isinstance(wide, Each) or not has_few_uses(wide):
    found = rows(wide)
    return (found**2).sum((-1,) if isinstance(wide, Each) else (-2, -1))
  pairs = [jnp.matmul(each, jnp.swapaxes(each, -1, -2)) for each in (wide.x, wide.y_bar)]
  return (pairs[0] * pairs[1]).sum((-2, -1))


def gram(a: Leaf, b: Leaf) -> Array:
  """Compute g_n · h_m, `[..., N, M]`, in float32 at least."""
  a, b = widened(a), widened(b)
  if isinstance(a, Outer) and isinstance(b, Outer) and has_few_uses(a) and has_few_uses(b):
    return (pair_uses(a.x, b.x) * pair_uses(a.y_bar, b.y_bar)).sum((-2, -1))
  return inner(*(flat_rows(leaf) for leaf in (a, b)))


def inner(a: Array, b: Array) -> Array:
  """Compute a_i · b_j, `[..., N, M]`."""
  return product(a, jnp.swapaxes(b, -1, -2))


def flat_uses(array: Array) -> Array:
  """Reshape `[..., N, P, D]` to `[..., N P, D]`."""
  return array.reshape(*array.shape[:-3], -1, array.shape[-1])


def flat_rows(leaf: Leaf) -> Array:
  """Compute g_n, `[..., N, size]`."""
  found = rows(leaf)
  axes = found.ndim - (1 if isinstance(leaf, Each) else 2)
  return found.reshape(*found.shape[:axes], math.prod(found.shape[axes:]))


def has_few_uses(leaf: Outer) -> bool:
  """Return whether cross terms of the uses cost less than forming the gradient."""
  uses, d_in, d_out = leaf.x.shape[-2], leaf.x.shape[-1], leaf.y_bar.shape[-1]
  return uses * (d_in + d_out) <= d_in * d_out


def widened(leaf: Leaf) -> Any:
  """Cast to the dtype of sums."""
  return jax.tree.map(widen, leaf)


def scaled(leaf: Leaf, factor: Array) -> Leaf:
  """Scale g_n by c_n; c is `[..., N]`, or `[]`."""
  if isinstance(leaf, Each):
    return dataclasses.replace(leaf, grads=leaf.grads * aligned(factor, leaf.grads, 1))
  return dataclasses.replace(leaf, y_bar=leaf.y_bar * aligned(factor, leaf.y_bar, 2))


def aligned(factor: Array, array: Array, features: int) -> Array:
  """Return c `[..., N]` with as many axes as an array with that many axes of features."""
  missing = array.ndim - features - factor.ndim
  return factor.astype(array.dtype).reshape((1,) * missing + factor.shape + (1,) * features)
