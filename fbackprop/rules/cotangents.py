"""Backpropagation with changed cotangents: noisy, sparse, quantised, clipped.

The change is made to the cotangent that enters each block from the one above (see
`contract.Links`), so that the output layer's gradient is that of backpropagation. It answers the
question what a wrong backward pass costs.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.checks import check_number, check_size
from fbackprop.ranges import POSITIVE, Range, check_range
from fbackprop.rules.contract import Links, RuleParams, make_rule
from fbackprop.rules.norms import over_largest, root_mean_square
from fbackprop.transforms import nonzero
from fbackprop.types import Array, Layer, Params, Residuals, widen

OWN_KEY = 2**31 - 2  # Folded into the key of a step, so that no mask of a dropout is the same.


def noisy(net: Layer, scale: float) -> Layer:
  """Add noise to the cotangents:  h̄ + scale · rms(h̄) · ξ,  ξ standard normal.

  The noise is relative to the root mean square over the batch. Without a key there is none.

  Args:
    net: a chain of layers.
    scale: from 0, which is backpropagation.

  References:
    The angle of noise of scale s to a long vector is arctan s.
  """
  check_number("noisy", "scale", scale, 0)
  scale = float(scale)

  def change(bar: Array, key: Array | None) -> Array:
    if key is None:
      return bar
    return bar + scale * root_mean_square(bar) * jax.random.normal(key, bar.shape, bar.dtype)

  return changed("noisy", net, change, draws=True)


def top_k(net: Layer, k: int) -> Layer:
  """Keep the k largest magnitudes of each example's cotangent, and all that equal the smallest.

  Args:
    net: a chain of layers.
    k: from 1; at the width of a layer or above, it is backpropagation.

  References:
    Sun, Ren, Ma, Wang, "meProp: sparsified back propagation", ICML (2017).
  """
  check_size("top_k", "k", k)

  def change(bar: Array, key: Array | None) -> Array:
    if k >= bar.shape[1]:
      return bar
    least = jax.lax.top_k(jnp.abs(bar), k)[0][:, -1:]
    return jnp.where(jnp.abs(bar) < least, jnp.zeros_like(bar), bar)

  return changed("top_k", net, change, linear=False)


def quantized(net: Layer, bits: int) -> Layer:
  """Round each example's cotangent to 2^bits − 1 levels between ± its largest magnitude.

  Args:
    net: a chain of layers.
    bits: from 2, which has the levels −1, 0 and 1 times the largest magnitude, to 24.

  References:
    Hubara, Courbariaux, Soudry, El-Yaniv, Bengio, "Quantized neural networks", JMLR 18 (2018).
  """
  check_range("quantized", "bits", bits, Range(int, 2, 24))
  levels = 2 ** (int(bits) - 1) - 1

  def change(bar: Array, key: Array | None) -> Array:
    shares, largest = over_largest(bar, 1)
    return jnp.round(shares * levels) / levels * largest

  return changed("quantized", net, change, linear=False)


def clipped(net: Layer, bound: float) -> Layer:
  """Shorten each example's cotangent, that of its own loss, to a norm of at most `bound`.

  The cotangents of a mean loss are 1/N times those of the examples' losses, so that the bound for
  them is `bound` / N.

  Args:
    net: a chain of layers.
    bound: above 0; a bound above every norm is backpropagation.

  References:
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML
    (2013), section 3.2, there for the whole gradient.
  """
  check_range("clipped", "bound", bound, POSITIVE)
  bound = float(bound)

  def change(bar: Array, key: Array | None) -> Array:
    shares, largest = over_largest(bar, 1)
    norm, most = jnp.linalg.norm(shares, axis=1, keepdims=True), bound / max(bar.shape[0], 1)
    return jnp.where(norm * largest > most, most * (shares / nonzero(norm)), bar)

  return changed("clipped", net, change, linear=False)


def changed(
  name: str,
  net: Layer,
  change: Callable[[Array, Array | None], Array],
  *,
  draws: bool = False,
  linear: bool = True,
) -> Layer:
  """Build the rule that changes the cotangent of each block's output but the last's.

  Args:
    name: the rule's name.
    net: a chain of layers.
    change: `change(bar, key) -> bar`, for cotangents `[N, D]` of one block's output, in float32 at
      least.
    draws: whether it uses the key.
    linear: whether it is linear.
  """
  links = Links(name, net)
  links.refuse_several(last=False)

  def forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    y, residuals = net.forward(params, x, key if net.draws else None)
    return y, (residuals, key if draws else None)

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    residuals, key = residuals
    own, kept = links.flatten(params.params), links.flatten(residuals)
    updates: list[Any] = []
    bar = y_bar
    for i, block in reversed(list(enumerate(links.blocks))):
      bars, bar = links.backward_block(block, own, kept, bar)
      updates[:0] = bars
      if i:  # Not the cotangent of the data.
        own_key = None if key is None else jax.random.fold_in(key, OWN_KEY - i)
        bar = change(widen(bar), own_key).astype(bar.dtype)
    return RuleParams(links.unflatten(updates), ()), bar

  return make_rule(name, net, backward, forward=forward, draws=draws, linear=linear)
