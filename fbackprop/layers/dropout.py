"""Dropout: random zeros in training, the identity in evaluation."""

from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.checks import check_floating, check_key
from fbackprop.gates.arithmetic import check_upstream
from fbackprop.layers.activations import check_no_params, no_params
from fbackprop.ranges import RANGES, check_range
from fbackprop.types import Array, Layer, Params, Residuals, Second


def dropout(rate: float) -> Layer:
  """Build a layer that zeroes each entry with probability `rate` and scales the rest.

  So the mean over masks is x, and evaluation (`key=None`) needs no factor: it is the identity.
  There is no train flag. Entries are multiplied by 0, not replaced, so that a NaN isn't hidden.

  Args:
    rate: the drop probability, from 0, which is the identity and draws nothing, to below 1.

  Returns:
    A `Layer` without parameters. Its residual is the mask `[N, D]`, a byte per entry, or nothing
    without a key.

  Raises:
    TypeError: `rate` isn't a number.
    ValueError: `rate` isn't from 0 to below 1.

  Example:
    >>> layer = dropout(0.5)
    >>> x = jax.numpy.ones((1, 8))
    >>> print(layer.forward((), x)[0])
    [[1. 1. 1. 1. 1. 1. 1. 1.]]
    >>> y, mask = layer.forward((), x, jax.random.key(0))
    >>> sorted(set(y[0].tolist()))
    [0.0, 2.0]

  References:
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 15 (2014), section 10 for the scaling while training.
  """
  check_range("dropout", "rate", rate, RANGES["dropout"])
  factor = 1 / (1 - float(rate))

  def scaled(mask: Array, dtype: Any) -> Array:
    return jnp.where(mask, jnp.full((), factor, dtype), jnp.zeros((), dtype))

  def dropout_forward(
    params: Params, x: Array, key: Array | None = None
  ) -> tuple[Array, Residuals]:
    check_no_params("dropout", params)
    check_floating("dropout", "x", x)
    if key is None or rate == 0:
      return x, ()
    check_key("dropout", key)
    # In float32: the dtype of a Python number, and with it the mask, would depend on x64.
    share, split = jnp.float32(1 - rate), jax.typeof(x).sharding
    mask = jax.random.bernoulli(key, share, x.shape, out_sharding=split)
    return x * scaled(mask, x.dtype), mask

  def dropout_backward(params: Params, mask: Residuals, y_bar: Array) -> tuple[Params, Array]:
    check_no_params("dropout", params)
    if isinstance(mask, tuple):  # Nothing was drawn.
      return (), y_bar
    check_upstream("dropout", mask, y_bar)
    return (), y_bar * scaled(mask, y_bar.dtype)

  def squares(params: Params, mask: Residuals, h: Array) -> Array:
    return dropout_backward(params, mask, dropout_backward(params, mask, h)[1])[1]

  options, draws, second = (("rate", rate),), rate > 0, Second(squares=squares)
  rules = (no_params, dropout_forward, dropout_backward)
  return Layer("dropout", *rules, options=options, draws=draws, second=second)
