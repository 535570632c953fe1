"""Parameters that several layers share: their gradients add up.

Gradients are arrays, and are added. Factors of gradients are never added: for each example, the
uses of a weight are put side by side, so that norms and products of the examples' gradients have
their cross terms.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.errors import StructureError
from fbackprop.layers.dense import DenseParams
from fbackprop.layers.factors import (
  Affine,
  ByParameter,
  Each,
  Elementwise,
  Factors,
  Linear,
  Outer,
  Scaling,
  is_factors,
  is_leaf_factors,
)  # fmt: skip
from fbackprop.layers.normalization import NormParams


def by_parameter(factors: Factors) -> ByParameter:
  """Return the factors of a layer parameter by parameter, in the structure of its parameters."""
  if isinstance(factors, ByParameter):
    return factors
  if isinstance(factors, Affine | Linear):
    w: Any = Outer(factors.x[..., None, :], factors.y_bar[..., None, :])
    b: Any = Each(factors[1]) if isinstance(factors, Affine) else None
    return ByParameter(DenseParams(w, b))
  assert isinstance(factors, Elementwise | Scaling)
  scale: Any = Each(factors.x_hat * factors.y_bar)
  shift: Any = Each(factors.y_bar) if isinstance(factors, Elementwise) else None
  return ByParameter(NormParams(scale, shift))


def add_uses(a: Any, b: Any) -> Any:
  """Add the gradients of two nodes that share parameters; join the factors of their layers."""
  if is_factors(a) != is_factors(b):
    raise StructureError(
      "graph: of two nodes that share parameters only one is captured; capture the whole network, "
      "by fbackprop.quantities.captured(net)"
    )

  def add_use(p: Any, q: Any) -> Any:
    if not is_factors(p):
      return p if q is None else jnp.add(p, q)
    pair = by_parameter(p).leaves, by_parameter(q).leaves
    return ByParameter(jax.tree.map(join, *pair, is_leaf=is_leaf_factors))

  return jax.tree.map(add_use, a, b, is_leaf=is_factors)


def join(a: Any, b: Any) -> Any:
  """Put the uses of a weight side by side; add the examples' gradients of a small parameter."""
  if b is None:  # The other layer has no such parameter.
    return a
  if isinstance(a, Each):
    return dataclasses.replace(a, grads=a.grads + b.grads)
  x, y_bar = (jnp.concatenate(parts, -2) for parts in ((a.x, b.x), (a.y_bar, b.y_bar)))
  return dataclasses.replace(a, x=x, y_bar=y_bar)


def split_transposed(bar: Any) -> tuple[Any, Any]:
  """Split the gradient of y = x wᵀ + b into the owner's, of w, and the node's own, of b.

  The gradient of wᵀ is xᵀ ȳ, so that of w is ȳᵀ x: x and ȳ change places.
  """
  if not is_factors(bar):
    return DenseParams(jnp.swapaxes(bar.w, -1, -2), None), bar._replace(w=None)
  w, b = by_parameter(bar).leaves
  none: Any = None
  swapped: Any = Outer(w.y_bar, w.x)
  own = DenseParams(none, b)
  return ByParameter(DenseParams(swapped, None)), own if b is None else ByParameter(own)
