"""Norms of the per-example gradients, without forming them."""

from typing import Any

import jax.numpy as jnp

from fbackprop.checks import check_flag
from fbackprop.layers.factors import Factors
from fbackprop.quantities.traversal import has_offset, is_dense, over_copies, read, replace_factors
from fbackprop.types import Array, widen


def example_sqnorms(captured: Any, *, per_layer: bool = False) -> Any:
  """Compute the squared norm of each example's gradient, ‖g_i‖², without forming g_i.

  The norm of an outer product is the product of the norms, hence, over the layers l,

    ‖g_i‖² = Σ_l (‖x_i‖² + 1) ‖ȳ_i‖²,

  without the 1 where there is no bias; for a normalisation ‖ȳ_i x_hat_i‖² + ‖ȳ_i‖².

  Normalisation: that of one example's loss, not divided by N. An example without gradient has
  exactly 0; an example with an infinite or NaN gradient has inf or NaN, and affects no other.
  Squares are summed in float32 at least, so that in float32 a norm above 1.8e19 gives inf and one
  below 1e-19 may give 0.

  Cost: N (D_in + D_out) products per layer, where the gradients would take N D_in D_out.

  Args:
    captured: see `gradient`.
    per_layer: whether to return a norm for each layer. Each copy in a `repeat` is a layer.

  Returns:
    `[N]`, in float32 at least. With `per_layer` the tree of `captured`, with an array `[N]` in
    place of each layer's factors; `[n, N]` in a `repeat(.., n)`.

  Raises:
    TypeError, ValueError: see `gradient`.

  Example:
    >>> from fbackprop.quantities.capture import Linear
    >>> x, y_bar = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[2.0], [0.0]])
    >>> example_sqnorms(Linear(x, y_bar)).tolist()
    [100.0, 0.0]

  References:
    Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799 (2015), section 4.
  """
  check_flag("example_sqnorms", "per_layer", per_layer)
  layers = read("example_sqnorms", captured)
  if per_layer:
    return replace_factors(layer_sqnorms, captured)
  return total_sqnorms(layers)


def total_sqnorms(layers: list[Factors]) -> Array:
  """Compute ‖g_i‖² over all layers, `[N]`."""
  return sum_layers([over_copies(layer_sqnorms(layer)) for layer in layers])


def layer_sqnorms(factors: Factors) -> Array:
  """Compute ‖g_i‖² of one layer, `[..., N]`, the copies of a `repeat` in front."""
  x, y_bar = (widen(factor) for factor in factors)
  if not is_dense(factors):
    squares = ((y_bar * x) ** 2).sum(-1)
    return squares + (y_bar**2).sum(-1) if has_offset(factors) else squares
  x_squares, y_bar_squares = (x**2).sum(-1), (y_bar**2).sum(-1)
  return (x_squares + 1 if has_offset(factors) else x_squares) * y_bar_squares


def sum_layers(values: list[Array]) -> Array:
  """Sum arrays of one shape in the widest of their dtypes."""
  dtype = jnp.result_type(*{value.dtype: value for value in values})
  total = values[0].astype(dtype)
  for value in values[1:]:
    total = total + value.astype(dtype)
  return total
