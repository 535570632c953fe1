"""Captured layers, whose backward pass returns the factors of the gradient."""

import functools
from collections.abc import Callable
from typing import Any

from fbackprop.checks import DtypeError, describe
from fbackprop.layers.dense import dense
from fbackprop.layers.factors import Affine, Elementwise, Factors, Linear, Scaling
from fbackprop.layers.normalization import layer_norm, rms_norm
from fbackprop.types import Array, Layer, Params, Residuals

__all__ = ["Affine", "Elementwise", "Linear", "Scaling", "captured"]


def captured(make: Callable[..., Layer]) -> Callable[..., Layer]:
  """Wrap a layer's constructor so that the backward pass returns the gradient's factors.

  Where `backward` of a dense layer returns `DenseParams(xᵀ ȳ, Σ_n ȳ_n)`, that of the captured layer
  returns `Affine(x, y_bar)`, or `Linear(x, y_bar)` without bias; for `layer_norm` it is
  `Elementwise(x_hat, y_bar)` and for `rms_norm` `Scaling(x_hat, y_bar)`. The functions of
  `fbackprop.quantities` take the tree of these factors, and `gradient` converts it to the plain
  gradient.

  Nothing else changes: parameters, forward pass and x_bar are bitwise the same. The layer composes
  like any other; inside `repeat(.., n)` the factors are stacked, `[n, N, D]`. Seed its backward
  pass with the cotangents of a sum of losses, one for each example.

  Cost: the factors are x, a residual anyway, and ȳ, which the plain pass frees layer by layer: N
  (D_in + D_out) numbers per layer stay in memory until they are used. In a `repeat` x is copied
  into a stack. Under jit the layer's own product xᵀ ȳ isn't computed; outside of jit it is, and is
  discarded.

  Args:
    make: `fbackprop.dense`, `fbackprop.layer_norm` or `fbackprop.rms_norm`, or a
      `functools.partial` of one.

  Returns:
    A constructor with the arguments of `make`.

  Raises:
    TypeError: `make` is none of these; the factors of any other layer's gradient are unknown.

  Example:
    >>> import jax
    >>> layer = captured(dense)(3, 2)
    >>> params = layer.init(jax.random.key(0))
    >>> y, residuals = layer.forward(params, jax.numpy.ones((5, 3)))
    >>> factors, x_bar = layer.backward(params, residuals, jax.numpy.ones((5, 2)))
    >>> type(factors).__name__, factors.x.shape, factors.y_bar.shape
    ('Affine', (5, 3), (5, 2))

  References:
    Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799 (2015), section 4.
  """
  known = make
  while isinstance(known, functools.partial):
    known = known.func
  if known is not dense and known is not layer_norm and known is not rms_norm:
    raise DtypeError(
      "must be fbackprop.dense, fbackprop.layer_norm or fbackprop.rms_norm, or a functools.partial "
      f"of one, got {describe(make)}", "make", "captured",
    )  # fmt: skip

  @functools.wraps(make)
  def make_captured(*arguments: Any, **options: Any) -> Layer:
    return capture(make(*arguments, **options), is_dense=known is dense)

  return make_captured


def capture(layer: Layer, is_dense: bool) -> Layer:
  """Wrap a layer so that its backward pass returns factors in place of the gradient."""

  def captured_backward(
    params: Params, residuals: Residuals, y_bar: Array
  ) -> tuple[Factors, Array]:
    # Nothing reads the gradient here, so jit eliminates its product as dead code.
    _, x_bar = layer.backward(params, residuals, y_bar)
    if is_dense:
      kind = Linear if params.b is None else Affine
      return kind(residuals, y_bar), x_bar
    x_hat = residuals[0]
    return (Scaling if params.shift is None else Elementwise)(x_hat, y_bar), x_bar

  return layer._replace(backward=captured_backward)
