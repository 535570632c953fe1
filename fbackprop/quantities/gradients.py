"""The summed gradient, and the gradient of each example."""

from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.layers.dense import DenseParams
from fbackprop.layers.factors import Factors, is_factors
from fbackprop.layers.normalization import NormParams
from fbackprop.meshes import product
from fbackprop.quantities.traversal import has_offset, is_dense, read, replace_factors
from fbackprop.types import Array, Layer, Params, Residuals


def gradient(captured: Any) -> Params:
  """Compute the summed gradient Σ_i g_i that the plain backward pass returns.

    w_bar = xᵀ ȳ,   b_bar = Σ_i ȳ_i;   scale_bar = Σ_i ȳ_i x_hat_i,   shift_bar = Σ_i ȳ_i.

  Normalisation: a sum, not a mean. A nonfinite entry of one example is nonfinite in the sum, and a
  batch without examples gives zero.

  Cost: the products of the plain backward pass.

  Args:
    captured: the parameters' result of the backward pass of a network of captured layers.

  Returns:
    The structure, shapes and dtypes of the network's parameters.

  Raises:
    TypeError: an array isn't floating, or two arrays of one layer differ in dtype.
    ValueError: a node of the tree isn't factors, or their shapes don't fit. The message names its
      path.

  Example:
    >>> from fbackprop.quantities.capture import Affine
    >>> x, y_bar = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0], [10.0]])
    >>> grads = gradient(Affine(x, y_bar))
    >>> grads.w.tolist(), grads.b.tolist()
    ([[31.0], [42.0]], [11.0])

  References:
    Rumelhart, Hinton, Williams, Nature 323 (1986), 533–536, eq. 6.
  """
  read("gradient", captured)
  return replace_factors(summed, captured)


def summed(factors: Factors) -> DenseParams | NormParams:
  """Compute Σ_i g_i of one layer."""
  x, y_bar = factors
  is_outer = is_dense(factors)
  first = product(jnp.swapaxes(x, -1, -2), y_bar) if is_outer else (y_bar * x).sum(-2)
  return as_params(factors, first, y_bar.sum(-2))


def as_params(factors: Factors, first: Array, offset: Array) -> DenseParams | NormParams:
  """Return the statistics of w and b, or of scale and shift, as the layer's parameters."""
  kind = DenseParams if is_dense(factors) else NormParams
  return kind(first, offset if has_offset(factors) else None)


def mean_gradient(captured: Any) -> Params:
  """Compute Σ_i g_i / N, or 0 for N = 0; divide before the sum, which in float16 might overflow.

  The plain backward pass does the same, since its seed cotangents are 1/N.
  """
  return replace_factors(mean_of, captured)


def mean_of(factors: Factors) -> DenseParams | NormParams:
  """Compute Σ_i g_i / N of one layer."""
  n = max(factors.y_bar.shape[-2], 1)
  return summed(factors._replace(y_bar=factors.y_bar / n))


def without_factors(tree: Any) -> Any:
  """Replace factors in a pytree by summed gradients, and leave all else unchanged."""
  return jax.tree.map(
    lambda node: summed(node) if is_factors(node) else node, tree, is_leaf=is_factors
  )


def plain(net: Layer) -> Layer:
  """Return a network with the plain backward pass, its layers captured or not."""

  def plain_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    params_bar, x_bar = net.backward(params, residuals, y_bar)
    return without_factors(params_bar), x_bar

  return net._replace(backward=plain_backward)


def example_gradients(captured: Any) -> Params:
  """Compute the gradient of each example's loss, g_i, with the axis N in front.

    w_bar_i = x_i ⊗ ȳ_i,   b_bar_i = ȳ_i;   scale_bar_i = ȳ_i x_hat_i,   shift_bar_i = ȳ_i.

  Normalisation: each is the gradient of one example's loss, not divided by N. Nonfinite values of
  an example stay in its own row.

  Cost: N times the memory of the parameters. For most statistics of these gradients there is a
  function here that doesn't form them.

  Args:
    captured: see `gradient`.

  Returns:
    The structure and dtypes of the parameters, each leaf `[N, *shape]`, as from `vmap` of a
    gradient.

  Raises:
    TypeError, ValueError: see `gradient`.

  References:
    Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799 (2015), section 3.
  """
  read("example_gradients", captured)
  return replace_factors(unsummed, captured)


def unsummed(factors: Factors) -> DenseParams | NormParams:
  """Compute g_i of one layer for all i."""
  x, y_bar = factors
  if is_dense(factors):
    first = jnp.moveaxis(x[..., :, None] * y_bar[..., None, :], -3, 0)
  else:
    first = jnp.moveaxis(y_bar * x, -2, 0)
  return as_params(factors, first, jnp.moveaxis(y_bar, -2, 0))
