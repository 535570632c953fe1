"""A loss at given outputs: what it is, and what it sends back."""

import jax
import jax.numpy as jnp
import numpy as np

from scripts import accuracy


def losses_and_slopes(loss, outputs, targets, dtype=None, form=jax.jit):
  """Compute the losses and the cotangent of the outputs for ones, in `form` of the function."""
  outputs = jnp.asarray(outputs, dtype)
  targets = jnp.asarray(targets, None if np.ndim(targets) == 1 else outputs.dtype)
  return form(accuracy.our_value_and_slope(loss))(outputs, targets)


def assert_losses(loss, outputs, targets, want, dtype=None, rtol=0.0, form=jax.jit):
  """Raise unless these are `want`, the losses up to `rtol`; targets but labels have `dtype`."""
  losses, rows = losses_and_slopes(loss, outputs, targets, dtype, form)
  np.testing.assert_allclose(losses, want[0], rtol=rtol)
  np.testing.assert_array_equal(rows, want[1])
