"""The convolution: a dense layer that all places of a signal share.

A batch of signals is `[N, T · C]`, point by point and, of a point, channel by channel, so that data
enter as they are and a dense layer may follow. The gradient of the shared weights is the sum of
those of the places.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.errors import ShapeError
from fbackprop.layers.factors import Each, Outer
from fbackprop.meshes import contract, sum_rows
from fbackprop.ranges import Range, check_range
from fbackprop.types import Array, Layer, Residuals, Second, exportable


@exportable
class ConvParams(NamedTuple):
  """`w` `[K, C_in, C_out]`, a matrix for each of the K taps, and `b` `[C_out]`."""

  w: Array
  b: Array


class Window(NamedTuple):
  """How a window of K taps moves over T points: by `stride`, with `padding` zeros at either end."""

  taps: int
  length: int
  stride: int
  padding: int

  @property
  def places(self) -> int:
    """The number P of its places."""
    return (self.length + 2 * self.padding - self.taps) // self.stride + 1

  def points(self, tap: int) -> slice:
    """Return the points of the padded signal that a tap meets."""
    return slice(tap, tap + self.stride * (self.places - 1) + 1, self.stride)


def conv_forward(params: ConvParams, x: Array, window: Window) -> Array:
  """y_npo = Σ_k Σ_c x_n,sp+k,c w_kco + b_o: the sum of K dense layers on shifted inputs.

  Args:
    params: `w` `[K, C_in, C_out]`, `b` `[C_out]`.
    x: `[N, T, C_in]`.
    window: the places.

  Returns:
    y `[N, P, C_out]`.

  References:
    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 86 (1998), section II.
  """
  padded = pad(x, window)
  y: Array = params.b[None, None, :]
  for k in range(window.taps):
    y = y + jnp.einsum("npc,co->npo", padded[:, window.points(k)], params.w[k])
  return y


def conv_backward(
  params: ConvParams, x: Array, y_bar: Array, window: Window
) -> tuple[ConvParams, Array]:
  """Pull a cotangent back through `conv_forward`: each tap is a dense layer, and the shares add.

  With x_k the points that tap k met:   w_k_bar = Σ_n x_kᵀ y_bar,   b_bar = Σ_np y_bar,
  x_k_bar = y_bar w_kᵀ, which is added to x_bar where x_k was taken.

  Args:
    params: read for `x_bar` only.
    x: `[N, T, C_in]`.
    y_bar: `[N, P, C_out]`.
    window: as in the forward pass.

  Returns:
    `(params_bar, x_bar)`; `params_bar` is summed over examples and places.
  """
  padded = pad(x, window)
  w_bar, padded_bar = [], jnp.zeros_like(padded)
  for k in range(window.taps):
    seen = padded[:, window.points(k)]
    w_bar.append(contract("npc,npo->co", seen, y_bar, bar_of=params.w[k]))
    x_k_bar = jnp.einsum("npo,co->npc", y_bar, params.w[k])
    padded_bar += put_back(x_k_bar, window.points(k), padded.shape[1])
  x_bar = padded_bar[:, window.padding : window.padding + window.length]
  return ConvParams(jnp.stack(w_bar), sum_rows(y_bar.sum(1), bar_of=params.b)), x_bar


def pad(x: Array, window: Window) -> Array:
  """Add zeros at either end of the signal."""
  return jnp.pad(x, ((0, 0), (window.padding, window.padding), (0, 0)))


def put_back(tap_bar: Array, points: slice, length: int) -> Array:
  """Return zeros `[N, length, C]` with `tap_bar` at the points that the slice took."""
  zero = jnp.zeros((), tap_bar.dtype)
  along = (points.start, length - points.stop, points.step - 1)
  return jax.lax.pad(tap_bar, zero, ((0, 0, 0), along, (0, 0, 0)))


def conv1d(
  length: int,
  c_in: int,
  c_out: int,
  *,
  taps: int,
  stride: int = 1,
  padding: int = 0,
  w_init: Any = None,
  dtype: Any = jnp.float32,
) -> Layer:
  """Build a one-dimensional convolution (a cross-correlation, as in other libraries).

  Args:
    length: points T of the signal.
    c_in: channels of a point that enter.
    c_out: channels of a place that leave.
    taps: width K of the window.
    stride: points from one place of the window to the next.
    padding: zeros at either end.
    w_init: as of `fbackprop.dense`, called with the shape `(taps · c_in, c_out)`; by default
      `he_normal`.
    dtype: the floating dtype of the parameters that `init` returns.

  Returns:
    A `Layer` from `[N, length · c_in]` to `[N, P · c_out]`, P = (T + 2 padding − K) // stride + 1,
    with parameters `ConvParams(w [taps, c_in, c_out], b [c_out])`; b begins with zeros.

  Raises:
    TypeError: a size isn't an integer, or `dtype` isn't floating.
    ValueError: a size is too small, or the window doesn't fit in the signal. When traced: x or
      `params` don't fit.

  Example:
    >>> layer = conv1d(40, 1, 8, taps=5, stride=2, padding=2)
    >>> params = layer.init(jax.random.key(0))
    >>> layer.forward(params, jnp.ones((3, 40)))[0].shape
    (3, 160)
  """
  name = f"conv1d({length}, {c_in}, {c_out})"
  sizes = {"length": length, "c_in": c_in, "c_out": c_out, "taps": taps, "stride": stride}
  for argument, size in sizes.items():
    checks.check_size(name, argument, size)
  check_range(name, "padding", padding, Range(int, 0))
  if taps > length + 2 * padding:
    problem = f"must be at most the {length + 2 * padding} points of the padded signal, got {taps}"
    raise ShapeError(problem, "taps", name)
  dtype = checks.check_float_dtype(name, dtype)
  if w_init is not None:
    checks.check_callable(name, "w_init", w_init)
  w_init = jax.nn.initializers.he_normal() if w_init is None else w_init
  window = Window(taps, length, stride, padding)
  shapes, d_out = ((taps, c_in, c_out), (c_out,)), window.places * c_out

  def init(key: Array) -> ConvParams:
    checks.check_key(name, key)
    checks.check_available(name, dtype)
    w = w_init(key, (taps * c_in, c_out), dtype)
    return ConvParams(w.reshape(taps, c_in, c_out), jnp.zeros((c_out,), dtype))

  def forward(params: ConvParams, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    checks.check_params(name, params, ConvParams, shapes)
    checks.check_floating(name, "x", x)
    checks.check_shape(name, "x", x, ("N", length * c_in), params.w.dtype)
    y = conv_forward(params, signals(x), window)
    # x is kept as it came: it is the array that the layer before keeps, and is stored once.
    return y.reshape(x.shape[0], d_out), x

  def backward(params: ConvParams, x: Residuals, y_bar: Array) -> tuple[ConvParams, Array]:
    checks.check_params(name, params, ConvParams, shapes)
    checks.check_shape(name, "y_bar", y_bar, (x.shape[0], d_out), x.dtype)
    params_bar, x_bar = conv_backward(params, signals(x), by_place(y_bar), window)
    return params_bar, x_bar.reshape(x.shape)

  def factors(params: ConvParams, x: Residuals, y_bar: Array) -> tuple[Any, Array]:
    _, x_bar = backward(params, x, y_bar)
    padded, bars = pad(signals(x), window), by_place(y_bar)
    seen = jnp.concatenate([padded[:, window.points(k)] for k in range(taps)], 2)
    w: Any = Outer(seen, bars, shapes[0])
    b: Any = Each(bars.sum(1))
    return ConvParams(w, b), x_bar

  def signals(x: Array) -> Array:
    return x.reshape(x.shape[0], length, c_in)

  def by_place(y_bar: Array) -> Array:
    return y_bar.reshape(y_bar.shape[0], window.places, c_out)

  options = (*sizes.items(), ("padding", padding), ("dtype", dtype.name))
  rules = (init, forward, backward)
  return Layer("conv1d", *rules, options=options, factors=factors, second=Second())
