"""The health of every layer: magnitudes, dead units, saturation, the first nonfinite value."""

import math
from collections import OrderedDict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import StructureError, check_unit, describe
from fbackprop.layers.factors import ByParameter, Factors, Outer, is_factors
from fbackprop.quantities import parameters
from fbackprop.quantities.capture import first_array, in_order, read, walk
from fbackprop.types import Array, Layer, exportable, widen


@exportable
class LayerHealth(NamedTuple):
  """Statistics of one layer; each `[]`, or `[n]` for the copies of a `repeat(.., n)`.

  For a normalisation, x is its normalised input x_hat; for a weight with several uses, x and ȳ are
  those of all uses. A number can leave its dtype's range at both
  ends: a subnormal number has lost some digits, and an infinite one all.

  Attributes:
    x_rms: root mean square of the layer's input, in float32 at least.
    y_bar_rms: root mean square of the cotangent of the layer's output, with the seed 1 for each
      example.
    dead: the share of the layer's outputs whose cotangent is 0 for every example: a relu that is
      never active, a sigmoid that is always saturated. Its weights get no gradient from this batch.
    saturated: the share of (example, output) pairs whose cotangent is 0. A tanh counts
      only where it has rounded to ±1. An example without gradient counts with all its outputs.
    x_underflow: the number of subnormal entries of x, int32. An underflow to 0 is indistinguishable
      from a true 0; a processor may flush every subnormal number to 0.
    x_overflow: the number of infinite entries of x, int32.
    y_bar_underflow: likewise of the cotangent.
    y_bar_overflow: likewise of the cotangent.
  """

  x_rms: Array
  y_bar_rms: Array
  dead: Array
  saturated: Array
  x_underflow: Array
  x_overflow: Array
  y_bar_underflow: Array
  y_bar_overflow: Array


@exportable
class Health(NamedTuple):
  """Statistics of every layer, and the position of the first nonfinite value.

  Attributes:
    layers: by the layer's position and name, such as "0.dense", in the order of the network.
    first_layer: int32 `[]`: its position in `layer_order(net)`, or −1 if all values are finite. The
      search follows the computation: x from the first layer to the last, then ȳ from the last to
      the first. The fault lies between the preceding layer in that order and this one.
    direction: int32 `[]`: 1 if it occurred forward, in x, −1 if backward, in ȳ, and 0 if nowhere.
  """

  layers: "OrderedDict[str, LayerHealth]"
  first_layer: Array
  direction: Array


def health(captured: Any, net: Layer) -> Health:
  """Compute statistics of each layer: magnitudes, dead units, nonfinite values.

    rms(v) = √(Σ v² / size),   dead = #{j : ȳ_ij = 0 for all i} / D_out,
    saturated = #{(i, j) : ȳ_ij = 0} / (N D_out)

  Normalisation: ȳ is the cotangent for one example's loss, so that its rms doesn't shrink with N.
  Without examples every statistic is 0. Inf and NaN appear in the rms, and in `first_layer`. The
  size of the result doesn't depend on the batch, and the function is pure: it can be called inside
  jit, at each step.

  Cost: some reductions of x and of ȳ; the result has eight numbers per layer.

  Args:
    captured: see `gradient`.
    net: the network of `captured`; its chains and repetitions determine the order and the names.

  Returns:
    `Health(layers, first_layer, direction)`.

  Raises:
    TypeError: `net` isn't a Layer; see `gradient` for `captured`.
    ValueError: `captured` is from another network; see `gradient` for the rest.

  Example:
    >>> import fbackprop as fb
    >>> from fbackprop.quantities.capture import captured
    >>> net = fb.mlp([2, 8, 1], dense=captured(fb.dense))
    >>> _, backward = fb.pullback(net)(net.init(jax.random.key(0)), jnp.ones((5, 2)))
    >>> report = health(backward(jnp.ones((5, 1)))[0], net)
    >>> list(report.layers), int(report.first_layer)
    (['0.dense', '2.dense'], -1)
  """
  check_unit("health", "net", net, Layer)
  read("health", captured)
  places = list(walk("health", net, captured))
  for place in places:
    if not is_factors(place.node):
      problem = "must be a layer of its own, or made by serial, skip, repeat, remat or graph"
      said = f"{problem}, got {describe(place.node)} for its factors"
      raise StructureError(said, place.name, "health")
  layers = OrderedDict((place.name, place.node) for place in places)
  reports = OrderedDict((name, layer_health(factors)) for name, factors in layers.items())

  def finite(side: int) -> Array:
    """Return whether all of x (0) or ȳ (1) is finite, for each layer and copy."""
    return in_order(places, lambda factors: jnp.isfinite(signals(factors)[side]).all((-2, -1)))

  return Health(reports, *find_first(finite(0), finite(1)))


def find_first(x_finite: Array, y_bar_finite: Array) -> tuple[Array, Array]:
  """Return `(layer, direction)` of the first nonfinite value, forward and then backward."""
  count = x_finite.shape[0]
  bad = ~jnp.concatenate([x_finite, y_bar_finite[::-1]])
  first = jnp.argmax(bad).astype(jnp.int32)
  forward = first < count
  layer = jnp.where(forward, first, 2 * count - 1 - first)
  direction = jnp.where(forward, 1, -1).astype(jnp.int32)
  return jnp.where(bad.any(), layer, -1), jnp.where(bad.any(), direction, 0)


def layer_health(factors: Factors) -> LayerHealth:
  """Compute the statistics of one layer."""
  x, y_bar = signals(factors)
  is_zero = magnitude_bits(y_bar) == 0
  rows = y_bar.shape[-2]
  return LayerHealth(
    rms(x),
    rms(y_bar),
    # Without examples, "for all" would be true.
    mean(is_zero.all(-2) & (rows > 0), (-1,)),
    mean(is_zero, (-2, -1)),
    *count_extremes(x),
    *count_extremes(y_bar),
  )


def signals(factors: Factors) -> tuple[Array, Array]:
  """Return a layer's x and ȳ, `[..., N, D]`; those of all uses of a weight, one after another."""
  if not isinstance(factors, ByParameter):
    return factors[0], factors[1]
  weights = [leaf for leaf in parameters.leaves_of(factors) if isinstance(leaf, Outer)]
  if weights:
    return parameters.flat_uses(weights[0].x), parameters.flat_uses(weights[0].y_bar)
  first = first_array(factors)  # The gradients are all that is known.
  return first, first


def rms(v: Array) -> Array:
  """Compute the root mean square over the last two axes; 0 without entries."""
  return jnp.sqrt((widen(v) ** 2).sum((-2, -1)) / max(v.shape[-2] * v.shape[-1], 1))


def mean(flags: Array, axes: tuple[int, ...]) -> Array:
  """Compute the fraction of true entries; 0 without entries."""
  size = math.prod(flags.shape[axis] for axis in axes)
  return flags.sum(axes).astype(jnp.float32) / max(size, 1)


def count_extremes(v: Array) -> list[Array]:
  """Count the subnormal and the infinite entries."""
  bits = magnitude_bits(v)
  mantissa = int(jnp.finfo(v.dtype).nmant)  # type: ignore[no-untyped-call]
  is_subnormal = (bits > 0) & (bits < jnp.asarray(1 << mantissa, bits.dtype))
  return [flags.sum((-2, -1)).astype(jnp.int32) for flags in (is_subnormal, jnp.isinf(v))]


def magnitude_bits(v: Array) -> Array:
  """Return the bits of |v| as an integer, since flushed subnormals compare equal to 0."""
  unsigned = jnp.dtype(f"uint{8 * v.dtype.itemsize}")
  bits = jax.lax.bitcast_convert_type(v, unsigned)
  return bits & jnp.asarray((1 << (8 * v.dtype.itemsize - 1)) - 1, unsigned)
