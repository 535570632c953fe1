"""Factors of a layer's gradient, before the sum over examples is taken.

The gradient that example i gives a dense layer is the outer product of x_i, which entered the
layer, and ȳ_i, the cotangent of what left it. A layer made by `fbackprop.quantities.captured`
returns the two where its gradient stood. They are concatenated over examples, never added: a sum of
factors means nothing, so whoever expects a gradient refuses them here.
"""

from typing import Any, NamedTuple

import jax

from fbackprop.checks import StructureError
from fbackprop.types import Array, exportable


@exportable
class Affine(NamedTuple):
  """Of y = x w + b: `x` `[N, D_in]` and `y_bar` `[N, D_out]`; w_bar = xᵀ ȳ, b_bar = Σ_n ȳ_n."""

  x: Array
  y_bar: Array


@exportable
class Linear(NamedTuple):
  """Of y = x w, without a bias: `x` `[N, D_in]` and `y_bar` `[N, D_out]`; w_bar = xᵀ ȳ."""

  x: Array
  y_bar: Array


@exportable
class Elementwise(NamedTuple):
  """Of y = x_hat scale + shift: both `[N, D]`; scale_bar = Σ_n ȳ_n x_hat_n, shift_bar = Σ_n ȳ_n."""

  x_hat: Array
  y_bar: Array


@exportable
class Scaling(NamedTuple):
  """Of y = x_hat scale, without a shift: both `[N, D]`; scale_bar = Σ_n ȳ_n x_hat_n."""

  x_hat: Array
  y_bar: Array


Factors = Affine | Linear | Elementwise | Scaling
"""Of a layer inside of a `repeat(.., n)` each array has the axis n in front."""


def is_factors(value: Any) -> bool:
  """Return whether a node of a pytree is one layer's factors."""
  return isinstance(value, Factors)


def refuse_factors(where: str, name: str, grads: Any) -> None:
  """Raise for factors where a gradient is expected."""
  for path, node in jax.tree_util.tree_leaves_with_path(grads, is_leaf=is_factors):
    if is_factors(node):
      place = name + jax.tree_util.keystr(path)
      raise StructureError(
        f"{where}: {place} must be a gradient, got the factors {type(node).__name__}"
        f"({', '.join(node._fields)}) of a captured layer, which can't be added up; take "
        "fbackprop.quantities.compute(net, loss, names), or build the network without `captured`"
      )
