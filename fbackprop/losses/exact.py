"""The difference of two floating numbers without an error."""

import jax
import jax.numpy as jnp

from fbackprop.types import Array


def exact_difference(a: Array, b: Array) -> tuple[Array, Array]:
  """a − b as the sum of two numbers, exactly: `high` is a − b rounded, `low` what rounding took.

  A logit of size 100 is rounded at 4e-6, so that e^(a − b) has lost 5 bits of 24 if `low` is left
  out. `low` is a constant to whoever differentiates, and 0 where `high` isn't finite. The compiler
  doesn't reassociate sums of floating numbers: `tests/test_extremes.py` holds it to that.

  References:
    Knuth, "The Art of Computer Programming", volume 2, section 4.2.2, theorem B (TwoSum).
  """
  high = a - b
  moved = high - a
  low = (a - (high - moved)) - (b + moved)
  return high, jax.lax.stop_gradient(jnp.where(jnp.isfinite(high), low, jnp.zeros_like(low)))
