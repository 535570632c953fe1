"""Normalization layers: standardise each example's features, then scale and shift them.

The residuals of both layers are x_hat `[N, D]`, the normalised input, and one number for each
example. Their statistics are computed in float32 at least, whatever the dtype of x. The derivative
is exact for any `eps`, since it is a function of x_hat and not of x.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import checks
from fbackprop.layers.factors import Elementwise, Scaling
from fbackprop.meshes import sum_rows
from fbackprop.types import Array, Layer, Residuals, Second, exportable, widen


@exportable
class NormParams(NamedTuple):
  """`scale` `[D]`, and `shift` `[D]`, or None for a layer without a shift."""

  scale: Array
  shift: Array | None


def layer_norm_forward(params: NormParams, x: Array, eps: float) -> tuple[Array, Residuals]:
  """y = x_hat scale + shift with x_hat = (x − mean x) / √(var x + eps), over an example's features.

  Args:
    params: `scale` and `shift` `[D]`.
    x: `[N, D]`, dtype of `scale`.
    eps: added to the variance, which is the biased one, Σ (x − mean)² / D.

  Returns:
    `(y, residuals)`: y `[N, D]`; the residuals are x_hat and 1 / √(var + eps) `[N, 1]`.

  References:
    Ba, Kiros, Hinton, "Layer normalization", arXiv:1607.06450 (2016), eq. 3 and 4.
  """
  wide = widen(x)
  centered = wide - wide.mean(1, keepdims=True)
  rstd = jax.lax.rsqrt((centered * centered).mean(1, keepdims=True) + eps)
  x_hat = (centered * rstd).astype(x.dtype)
  return scale_and_shift(params, x_hat), (x_hat, rstd)


def layer_norm_backward(
  params: NormParams, residuals: Residuals, y_bar: Array
) -> tuple[NormParams, Array]:
  """Pull a cotangent back through `layer_norm_forward`.

  scale_bar = Σ_n y_bar x_hat,   shift_bar = Σ_n y_bar,   and with g = y_bar scale

    x_bar = (g − mean g − x_hat mean(g x_hat)) / √(var x + eps),

  the means being over an example's features. The subtracted terms are the components along the
  features' mean and length, to which the output, but for eps, is invariant.

  Args:
    params: `scale` is read for `x_bar` only.
    residuals: x_hat and 1 / √(var + eps).
    y_bar: `[N, D]`.

  Returns:
    `(params_bar, x_bar)`; `params_bar` is summed over N.
  """
  x_hat, rstd = residuals
  wide_hat, g = widen(x_hat), widen(y_bar * params.scale[None, :])
  rest = g - g.mean(1, keepdims=True) - wide_hat * (g * wide_hat).mean(1, keepdims=True)
  x_bar = (rest * rstd).astype(y_bar.dtype)
  scale_bar = sum_rows(y_bar * x_hat, bar_of=params.scale)
  return NormParams(scale_bar, sum_rows(y_bar, bar_of=params.scale)), x_bar


def rms_norm_forward(params: NormParams, x: Array, eps: float) -> tuple[Array, Residuals]:
  """y = x_hat scale with x_hat = x / √(mean x² + eps), over an example's features.

  Args:
    params: `scale` `[D]`.
    x: `[N, D]`, dtype of `scale`.
    eps: added to the mean square.

  Returns:
    `(y, residuals)`: y `[N, D]`; the residuals are x_hat and 1 / √(mean x² + eps) `[N, 1]`.

  References:
    Zhang, Sennrich, "Root mean square layer normalization", NeurIPS (2019), eq. 4.
  """
  wide = widen(x)
  rrms = jax.lax.rsqrt((wide * wide).mean(1, keepdims=True) + eps)
  x_hat = (wide * rrms).astype(x.dtype)
  return scale_and_shift(params, x_hat), (x_hat, rrms)


def rms_norm_backward(
  params: NormParams, residuals: Residuals, y_bar: Array
) -> tuple[NormParams, Array]:
  """Pull a cotangent back through `rms_norm_forward`.

  scale_bar = Σ_n y_bar x_hat, and with g = y_bar scale

    x_bar = (g − x_hat mean(g x_hat)) / √(mean x² + eps).

  Args, Returns: as `layer_norm_backward`, without a shift.
  """
  x_hat, rrms = residuals
  wide_hat, g = widen(x_hat), widen(y_bar * params.scale[None, :])
  x_bar = ((g - wide_hat * (g * wide_hat).mean(1, keepdims=True)) * rrms).astype(y_bar.dtype)
  return NormParams(sum_rows(y_bar * x_hat, bar_of=params.scale), None), x_bar


def norm_bend(is_centered: bool, params: NormParams, residuals: Residuals, y_bar: Array) -> Array:
  """Σ_k ȳ_k ∂²y_k/∂x², of `layer_norm` if `is_centered`, else of `rms_norm`.

  With g = y_bar scale, r = 1 / √(var x + eps), and P what takes the mean away (for rms_norm I),

    −r² / D (P g x_hatᵀ + x_hat (P g)ᵀ + (g · x_hat) (P − 3 x_hat x_hatᵀ / D)).

  Returns:
    `[N, D, D]`.
  """
  x_hat, rstd = residuals
  wide_hat, g = widen(x_hat), widen(y_bar * params.scale[None, :])
  d = x_hat.shape[1]
  along = (g * wide_hat).sum(1)[:, None, None]
  centering = jnp.eye(d, dtype=g.dtype)
  if is_centered:
    g, centering = g - g.mean(1, keepdims=True), centering - 1 / d
  cross = g[:, :, None] * wide_hat[:, None, :]
  square = wide_hat[:, :, None] * wide_hat[:, None, :]
  bend = cross + jnp.swapaxes(cross, 1, 2) + along * (centering[None] - (3 / d) * square)
  return (-(rstd * rstd)[:, :, None] / d * bend).astype(y_bar.dtype)


def norm_squares(is_centered: bool, params: NormParams, residuals: Residuals, h: Array) -> Array:
  """Σ_k h_k (∂y_k/∂x_i)², with ∂y_k/∂x_i = scale_k r (δ_ki − (1 + x_hat_k x_hat_i) / D).

  The 1 is there for layer_norm only. With g = h scale² and x_hat the normalised input,

    r² (g_i (1 − 2 (1 + x_hat_i²) / D) + (Σ g + 2 x_hat_i Σ g x_hat + x_hat_i² Σ g x_hat²) / D²).
  """
  x_hat, rstd = residuals
  wide_hat, g = widen(x_hat), widen(h * (params.scale * params.scale)[None, :])
  d, one = x_hat.shape[1], float(is_centered)
  squares = wide_hat * wide_hat
  sums = squares * (g * squares).sum(1, keepdims=True)
  if is_centered:
    sums += g.sum(1, keepdims=True) + 2 * wide_hat * (g * wide_hat).sum(1, keepdims=True)
  own = g * (1 - 2 * (one + squares) / d)
  return (rstd * rstd * (own + sums / d**2)).astype(h.dtype)


def scale_and_shift(params: NormParams, x_hat: Array) -> Array:
  """Compute x_hat scale + shift, feature by feature."""
  y = x_hat * params.scale[None, :]
  return y if params.shift is None else y + params.shift[None, :]


def layer_norm(width: int, *, eps: float = 1e-5, dtype: Any = jnp.float32) -> Layer:
  """Build a layer that normalises each example's features to mean 0, variance 1, then scales them.

  Args:
    width: number of features D, at least 1.
    eps: added to the variance, a normal number of float32 above 0.
    dtype: the floating dtype of the parameters that `init` returns.

  Returns:
    A `Layer` with parameters `NormParams(scale [D], shift [D])`, initially ones and zeros.

  Raises:
    TypeError: an argument of another type.
    ValueError: `width` below 1 or `eps` too small. When traced: x or `params` don't fit.

  Example:
    >>> layer = layer_norm(4)
    >>> x = jnp.array([[1.0, 2.0, 3.0, 6.0]])
    >>> y, _ = layer.forward(layer.init(jax.random.key(0)), x)
    >>> bool(abs(y.mean()) < 1e-6), bool(abs(y.var() - 1) < 1e-4)
    (True, True)
  """
  return make_norm("layer_norm", (layer_norm_forward, layer_norm_backward), width, eps, dtype)


def rms_norm(width: int, *, eps: float = 1e-5, dtype: Any = jnp.float32) -> Layer:
  """Build a layer that normalises each example's features to mean square 1, then scales them.

  Args, Returns, Raises: as `layer_norm`; the parameters are `NormParams(scale [D], None)`.
  """
  return make_norm("rms_norm", (rms_norm_forward, rms_norm_backward), width, eps, dtype)


Rules = tuple[Callable[..., tuple[Array, Residuals]], Callable[..., tuple[NormParams, Array]]]


def make_norm(kind: str, rules: Rules, width: int, eps: float, dtype: Any) -> Layer:
  """Build the layer of a pair of rules, and check its arguments."""
  name = f"{kind}({width})"
  checks.check_size(name, "width", width)
  # Below the smallest normal number it would be flushed to 0, and a row of equal features be NaN.
  checks.check_number(name, "eps", eps, float(np.finfo(np.float32).tiny))
  dtype = checks.check_float_dtype(name, dtype)
  eps, has_shift = float(eps), kind == "layer_norm"
  forward_rule, backward_rule = rules
  shapes = ((width,), (width,) if has_shift else None)

  def init(key: Array) -> NormParams:
    checks.check_key(name, key)
    checks.check_available(name, dtype)
    return NormParams(jnp.ones(width, dtype), jnp.zeros(width, dtype) if has_shift else None)

  def forward(params: NormParams, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    checks.check_params(name, params, NormParams, shapes)
    checks.check_floating(name, "x", x)
    checks.check_shape(name, "x", x, ("N", width), params.scale.dtype)
    return forward_rule(params, x, eps)

  def backward(params: NormParams, residuals: Residuals, y_bar: Array) -> tuple[NormParams, Array]:
    checks.check_params(name, params, NormParams, shapes)
    x_hat = residuals[0]
    checks.check_shape(name, "y_bar", y_bar, tuple(x_hat.shape), x_hat.dtype)
    return backward_rule(params, residuals, y_bar)

  def factors(params: NormParams, residuals: Residuals, y_bar: Array) -> tuple[Any, Array]:
    _, x_bar = backward(params, residuals, y_bar)
    return (Scaling if params.shift is None else Elementwise)(residuals[0], y_bar), x_bar

  options = (("width", width), ("eps", eps), ("dtype", dtype.name))
  second = Second(partial(norm_bend, has_shift), partial(norm_squares, has_shift))
  return Layer(kind, init, forward, backward, options=options, factors=factors, second=second)
