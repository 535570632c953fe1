"""Per-example gradient clipping in one backward pass."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import check_floating, check_number, check_shape, is_concrete
from fbackprop.errors import RangeError, hint
from fbackprop.layers.factors import ByParameter, Factors
from fbackprop.quantities import parameters
from fbackprop.quantities.capture import copies_of, read, replace_factors
from fbackprop.quantities.gradients import summed
from fbackprop.quantities.kernels import layer_sqnorms, total_sqnorms
from fbackprop.ranges import POSITIVE, check_range
from fbackprop.types import Array, Params

CLIPPINGS = ("flat", "automatic", "per_layer")


def clipped_gradient(
  captured: Any, max_norm: Any, *, clipping: str = "flat", stability: float = 0.01
) -> Params:
  """Compute the sum of per-example gradients clipped to norm C = `max_norm`: Σ_i c_i g_i.

    flat:        c_i  = min(1, C / ‖g_i‖)
    automatic:   c_i  = C / (‖g_i‖ + γ), γ being `stability`
    per_layer:   c_il = min(1, C_l / ‖g_il‖) with C_l = C / √L, for each of the L layers

  A copy in a `repeat` is a layer. Since the norms are computed from the factors, the coefficients
  multiply ȳ before the sum, and no second backward pass is needed.

  Normalisation: a sum, not a mean, so that microbatches are additive: the sums over two halves of a
  batch add up to the sum over the batch. An example without gradient adds 0. An example whose norm
  or squared norm isn't finite (see `example_sqnorms`) makes every entry of its layers NaN: a
  coefficient of 0 would hide it. In bfloat16 and float16 the bound holds up to the rounding of ȳ.

  This is the clipping alone. A privacy guarantee also needs noise and privacy accounting, which
  other packages provide.

  Cost: that of `example_sqnorms` and of `gradient`.

  Args:
    captured: see `gradient`.
    max_norm: C, a number above 0, or a floating array `[]`.
    clipping: "flat", "automatic" or "per_layer".
    stability: γ, a number of at least 0; only "automatic" reads it. With 0 an example without
      gradient gives NaN.

  Returns:
    The structure, shapes and dtypes of the network's parameters.

  Raises:
    TypeError: an argument of another type; see `gradient` for `captured`.
    ValueError: `max_norm` isn't above 0 or is out of the range of the norms' dtype, `clipping` is
      none of the three, `stability` is negative; see `gradient` for `captured`.

  Example:
    >>> from fbackprop.quantities.capture import Linear
    >>> x, y_bar = jnp.array([[3.0], [0.0]]), jnp.array([[4.0], [1.0]])
    >>> clipped_gradient(Linear(x, y_bar), 2.0).w.tolist()
    [[2.0]]

  References:
    Abadi et al., "Deep learning with differential privacy", CCS (2016), algorithm 1; Bu, Wang, Zha,
    Karypis, "Automatic clipping", NeurIPS (2023), AUTO-S; McMahan et al., "Learning differentially
    private recurrent language models", ICLR (2018), per-layer clipping; in one pass: Bu et al.,
    "Differentially private optimization on large model at small cost", ICML (2023).
  """
  check_max_norm(max_norm)
  check_number("clipped_gradient", "stability", stability, 0)
  if clipping not in CLIPPINGS:
    told = hint(clipping, CLIPPINGS) if isinstance(clipping, str) else ""
    problem = f"must be one of {', '.join(CLIPPINGS)}, got {clipping!r} {told}"
    raise RangeError(problem, "clipping", "clipped_gradient")
  layers = read("clipped_gradient", captured)

  if clipping == "per_layer":
    count = sum(math.prod(copies_of(layer)) for layer in layers)

    def clip_layer(factors: Factors) -> Any:
      norms = jnp.sqrt(layer_sqnorms(factors))
      return summed(scaled(factors, shrink(norms, max_norm, math.sqrt(count))))

    return replace_factors(clip_layer, captured)

  if clipping == "automatic":
    norms = jnp.sqrt(total_sqnorms(layers))
    factors = finite_or_nan(norms, as_dtype(max_norm, norms) / (norms + stability))
  else:
    factors = clipping_factors(captured, max_norm)
  return weighted_gradient(captured, factors)


def clipping_factors(captured: Any, max_norm: Any) -> Array:
  """Compute min(1, C / ‖g_i‖) for each example, `[N]`."""
  return shrink(jnp.sqrt(total_sqnorms(read("clipped_gradient", captured))), max_norm, 1.0)


def weighted_gradient(captured: Any, coefficients: Array) -> Params:
  """Compute Σ_i c_i g_i for coefficients `[N]`."""
  return replace_factors(lambda factors: summed(scaled(factors, coefficients)), captured)


def shrink(norms: Array, max_norm: Any, parts: float) -> Array:
  """Compute min(1, C / ‖g‖) without division by zero; the bound is C / `parts`."""
  bound = as_dtype(max_norm, norms) / parts
  return finite_or_nan(norms, bound / jnp.maximum(norms, bound))


def finite_or_nan(norms: Array, factor: Array) -> Array:
  """Replace factors by NaN where the norm is not finite: 0 · ∞ would look like clipped."""
  return jnp.where(jnp.isfinite(norms), factor, jnp.nan)


def as_dtype(max_norm: Any, norms: Array) -> Array:
  """Cast `max_norm` to the norms' dtype and check that it is positive and finite there."""
  if not isinstance(max_norm, jax.Array):
    limits = np.finfo(norms.dtype)  # Never those of a half precision, which NumPy lacks.
    if not float(limits.tiny) <= max_norm <= float(limits.max):
      problem = f"must be in the range of {norms.dtype}, got {max_norm}"
      raise RangeError(problem, "max_norm", "clipped_gradient")
  return jnp.broadcast_to(jnp.asarray(max_norm).astype(norms.dtype), norms.shape)


def scaled(factors: Factors, factor: Array) -> Factors:
  """Scale the factors to those of c_i g_i, for c `[N]` or `[..., N]` with copies in front."""
  if isinstance(factors, ByParameter):
    scale = functools.partial(parameters.scaled, factor=factor)
    return ByParameter(parameters.replace_leaves(scale, factors))
  missing = factors.y_bar.ndim - 1 - factor.ndim
  factor = factor.reshape((1,) * missing + (*factor.shape, 1))
  return factors._replace(y_bar=factors.y_bar * factor.astype(factors.y_bar.dtype))


def check_max_norm(max_norm: Any) -> None:
  """Raise for an invalid bound; the value of a traced array isn't checked."""
  if isinstance(max_norm, jax.Array):
    check_floating("clipped_gradient", "max_norm", max_norm)
    check_shape("clipped_gradient", "max_norm", max_norm, ())
  if is_concrete(max_norm):
    number = float(max_norm) if isinstance(max_norm, jax.Array) else max_norm
    check_range("clipped_gradient", "max_norm", number, POSITIVE)
