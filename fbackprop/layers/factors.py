"""Factors of a layer's gradient, before the sum over examples is taken.

The gradient of example i's loss with respect to a dense layer's weights is the outer product of the
layer's input x_i and ȳ_i, the cotangent of its output. A layer built by
`fbackprop.quantities.captured` returns the two in place of its gradient. A layer states its factors
in its field `factors`; those of a layer of another kind are stated parameter by parameter, by
`Outer` and `Each`. They are concatenated over
examples, never added: a sum of factors has no meaning, so functions that expect a gradient raise an
error for factors.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from fbackprop.checks import StructureError
from fbackprop.types import Array, exportable


@exportable
class Affine(NamedTuple):
  """Factors of y = x w + b: `x` `[N, D_in]`, `y_bar` `[N, D_out]`; w_bar = xᵀ ȳ, b_bar = Σ ȳ_n."""

  x: Array
  y_bar: Array


@exportable
class Linear(NamedTuple):
  """Factors of y = x w: `x` `[N, D_in]` and `y_bar` `[N, D_out]`; w_bar = xᵀ ȳ."""

  x: Array
  y_bar: Array


@exportable
class Elementwise(NamedTuple):
  """Factors of y = x_hat scale + shift, `[N, D]`; scale_bar = Σ ȳ_n x_hat_n, shift_bar = Σ ȳ_n."""

  x_hat: Array
  y_bar: Array


@exportable
class Scaling(NamedTuple):
  """Factors of y = x_hat scale, both `[N, D]`; scale_bar = Σ_n ȳ_n x_hat_n."""

  x_hat: Array
  y_bar: Array


@functools.partial(
  jax.tree_util.register_dataclass, data_fields=["x", "y_bar"], meta_fields=["shape"]
)
@dataclass(frozen=True)
class Outer:
  """Factors of one parameter that each example uses P times: g_n = Σ_p x_np ⊗ ȳ_np.

  So it is of a weight that places of a signal, steps of time or nodes of a graph share.

  Attributes:
    x: `[N, P, D_in]`.
    y_bar: `[N, P, D_out]`.
    shape: the parameter's shape, if it isn't `[D_in, D_out]` but an array of as many numbers.
  """

  x: Array
  y_bar: Array
  shape: tuple[int, ...] | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["grads"], meta_fields=["shape"])
@dataclass(frozen=True)
class Each:
  """The gradient of one parameter for each example, where it is small: a bias, a scale.

  Attributes:
    grads: `[N, D]`.
    shape: the parameter's shape, if it isn't `[D]` but an array of as many numbers.
  """

  grads: Array
  shape: tuple[int, ...] | None = None


class ByParameter(NamedTuple):
  """Factors of a layer parameter by parameter.

  `leaves` has the structure of the layer's parameters, an `Outer` or an `Each` for each array.
  """

  leaves: Any


Factors = Affine | Linear | Elementwise | Scaling | ByParameter
"""The factors of any layer; inside of a `repeat(.., n)` each array has a leading axis n."""


def is_factors(value: Any) -> bool:
  """Return whether a node of a pytree is one layer's factors."""
  return isinstance(value, Factors)


def is_leaf_factors(value: Any) -> bool:
  """Return whether a node of a pytree is one parameter's factors."""
  return isinstance(value, Outer | Each)


def refuse_factors(where: str, name: str, grads: Any) -> None:
  """Raise for factors where a gradient is expected."""
  for path, node in jax.tree_util.tree_leaves_with_path(grads, is_leaf=is_factors):
    if is_factors(node):
      raise StructureError(
        f"must be a gradient, got the factors {type(node).__name__}({', '.join(node._fields)}) of "
        "a captured layer, which can't be added up; take fbackprop.quantities.compute(net, loss, "
        "names), or build the network without `captured`", name + jax.tree_util.keystr(path), where,
      )  # fmt: skip
