"""The dense layer: every neuron's multiplication and summation gates, in matrix form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.layers.factors import Affine, Linear
from fbackprop.meshes import product, sum_rows
from fbackprop.types import Array, Layer, Residuals, Second, exportable

Initializer = Callable[..., Array]
"""`init(key, shape, dtype) -> array`, as in `jax.nn.initializers`."""


@exportable
class DenseParams(NamedTuple):
  """`w` `[D_in, D_out]` and `b` `[D_out]`, or None for a layer without bias."""

  w: Array
  b: Array | None


def dense_forward(params: DenseParams, x: Array) -> tuple[Array, Residuals]:
  """y = x w + b: neuron j outputs y_j = Σ_i x_i w_ij + b_j.

  Args:
    params: `w` `[D_in, D_out]`, `b` `[D_out]` or None.
    x: `[N, D_in]`, dtype of `w`.

  Returns:
    `(y, residuals)`: y `[N, D_out]`; the residual is x, which the preceding layer may hold too.

  References:
    Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, algorithm 6.3.
  """
  y = product(x, params.w)
  if params.b is not None:
    y = y + params.b[None, :]
  return y, x


def dense_backward(params: DenseParams, x: Residuals, y_bar: Array) -> tuple[DenseParams, Array]:
  """Pull a cotangent back through `dense_forward`.

  For y = x w + b:   w_bar = xᵀ y_bar,   b_bar = Σ_n y_bar,   x_bar = y_bar wᵀ.

  Args:
    params: `w` `[D_in, D_out]`, `b` `[D_out]` or None. `w` is read for `x_bar` only.
    x: the residual: the layer's input, `[N, D_in]`.
    y_bar: cotangent of the output, `[N, D_out]`, dtype of y.

  Returns:
    `(params_bar, x_bar)` with the structure, shapes and dtypes of `(params, x)`. `params_bar` is
    summed over N, not averaged.

  References:
    Rumelhart, Hinton, Williams, Nature 323 (1986), 533–536, eq. 6 and 7.
  """
  w_bar = product(x.T, y_bar, bar_of=params.w)
  b_bar = None if params.b is None else sum_rows(y_bar, bar_of=params.b)
  x_bar = product(y_bar, params.w.T, bar_of=x)
  return DenseParams(w_bar, b_bar), x_bar


def dense(
  d_in: int,
  d_out: int,
  *,
  bias: bool = True,
  w_init: Initializer | None = None,
  b_init: Initializer | None = None,
  dtype: Any = jnp.float32,
) -> Layer:
  """Build a layer of `d_out` neurons, each connected to all `d_in` inputs: y = x w + b.

  Args:
    d_in: number of inputs, at least 1.
    d_out: number of outputs, at least 1.
    bias: whether b is added.
    w_init: `init(key, shape, dtype)`, as in `jax.nn.initializers`; by default `glorot_uniform`
      (Glorot, Bengio, AISTATS 2010). `mlp` uses `he_normal` (He et al., ICCV 2015) for a layer
      before relu or gelu.
    b_init: likewise for b; by default zeros.
    dtype: the floating dtype of the parameters that `init` returns. The passes use the dtype of
      their parameters, and x must have the same.

  Returns:
    A `Layer` with parameters `DenseParams(w [d_in, d_out], b [d_out] or None)`.

  Raises:
    TypeError: a size isn't an integer, `dtype` isn't floating, or, by `init`, it is float64 and
      x64 is off.
    ValueError: a size is below 1. When traced: x or `params` don't fit (see `fbackprop.checks`).

  Example:
    >>> layer = dense(3, 2)
    >>> params = layer.init(jax.random.key(0))
    >>> params.w.shape, params.b.shape
    ((3, 2), (2,))
  """
  name = f"dense({d_in}, {d_out})"
  checks.check_size(name, "d_in", d_in)
  checks.check_size(name, "d_out", d_out)
  dtype = checks.check_float_dtype(name, dtype)
  checks.check_flag(name, "bias", bias)
  for argument, initializer in (("w_init", w_init), ("b_init", b_init)):
    if initializer is not None:
      checks.check_callable(name, argument, initializer)
  w_init = jax.nn.initializers.glorot_uniform() if w_init is None else w_init
  b_init = jax.nn.initializers.zeros if b_init is None else b_init
  shapes = ((d_in, d_out), (d_out,) if bias else None)

  def init(key: Array) -> DenseParams:
    checks.check_key(name, key)
    checks.check_available(name, dtype)
    w_key, b_key = jax.random.split(key)
    b = b_init(b_key, (d_out,), dtype) if bias else None
    return DenseParams(w_init(w_key, (d_in, d_out), dtype), b)

  def forward(params: DenseParams, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    checks.check_params(name, params, DenseParams, shapes)
    checks.check_floating(name, "x", x)
    checks.check_shape(name, "x", x, ("N", d_in), params.w.dtype)
    return dense_forward(params, x)

  def backward(params: DenseParams, x: Residuals, y_bar: Array) -> tuple[DenseParams, Array]:
    checks.check_params(name, params, DenseParams, shapes)
    checks.check_shape(name, "y_bar", y_bar, (x.shape[0], d_out), x.dtype)
    return dense_backward(params, x, y_bar)

  def factors(params: DenseParams, x: Residuals, y_bar: Array) -> tuple[Any, Array]:
    # Nothing reads the gradient here, so jit eliminates its product as dead code.
    _, x_bar = backward(params, x, y_bar)
    return (Linear if params.b is None else Affine)(x, y_bar), x_bar

  def squares(params: DenseParams, x: Residuals, h: Array) -> Array:
    # Σ_j h_j w_ij²: the backward rule with the squares of the weights.
    return backward(DenseParams(params.w * params.w, params.b), x, h)[1]

  options = (("d_in", d_in), ("d_out", d_out), ("bias", bias), ("dtype", dtype.name))
  second = Second(squares=squares)
  return Layer("dense", init, forward, backward, options=options, factors=factors, second=second)
