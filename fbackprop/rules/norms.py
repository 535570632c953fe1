"""Norms of numbers of any size: their squares neither overflow nor underflow to zero."""

import jax.numpy as jnp

from fbackprop.transforms import nonzero
from fbackprop.types import Array, widen


def over_largest(x: Array, axes: int | tuple[int, ...] | None = None) -> tuple[Array, Array]:
  """Divide by the largest magnitude along some axes, in float32 at least.

  Returns:
    `(x / largest, largest)`, with these axes kept; x as it is where all are zero.
  """
  x = widen(x)
  largest = jnp.abs(x).max(axes, keepdims=True, initial=0)
  # By a power of two first: XLA multiplies by 1 / largest, which is flushed to 0 above 2^126.
  power = -jnp.frexp(largest)[1]
  return jnp.ldexp(x, power) / nonzero(jnp.ldexp(largest, power)), largest


def root_mean_square(x: Array, axes: int | tuple[int, ...] | None = None) -> Array:
  """Compute the root mean square along some axes, which are kept."""
  x, largest = over_largest(x, axes)
  return largest * jnp.sqrt((x * x).mean(axes, keepdims=True))
