"""Gates that hand the gradient to some inputs and not to others: max, min, relu, identity.

At a kink or a tie the derivative doesn't exist; the value used is a choice, and it is one policy
everywhere: relu'(0) = 0 (as `jax.nn.relu`; Bertoin et al., NeurIPS 2021, find that it trains best),
and k tied inputs get 1/k each (as `jnp.maximum` for two, and the symmetric choice for more). Both
lie in the subdifferential.
"""

from functools import reduce

import jax.numpy as jnp

from fbackprop.gates.arithmetic import check_inputs
from fbackprop.types import Array, Gate, Residuals


def max_forward(*xs: Array) -> tuple[Array, Residuals]:
  """y = max(x_1, ..., x_n). Keeps, for each input, where it attains the maximum."""
  check_inputs("max", xs)
  y = reduce(jnp.maximum, xs)
  return y, tuple((x == y) | jnp.isnan(x) for x in xs)


def max_backward(attained: Residuals, y_bar: Array) -> tuple[Array, ...]:
  """Routes the gradient to the input that attained the maximum; k ties get 1/k each."""
  k = sum(a.astype(y_bar.dtype) for a in attained)
  return tuple(jnp.where(a, y_bar / k, jnp.zeros_like(y_bar)) for a in attained)


def min_forward(*xs: Array) -> tuple[Array, Residuals]:
  """y = min(x_1, ..., x_n). Keeps, for each input, where it attains the minimum."""
  check_inputs("min", xs)
  y = reduce(jnp.minimum, xs)
  return y, tuple((x == y) | jnp.isnan(x) for x in xs)


min_backward = max_backward  # The routing is the same; only who attained it differs.


def relu_forward(z: Array) -> tuple[Array, Residuals]:
  """y = max(z, 0), and NaN stays NaN. Keeps the output, which the next layer keeps as its input."""
  check_inputs("relu", (z,))
  y = jnp.where(z <= 0, jnp.zeros_like(z), z)
  return y, y


def relu_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient 1 where y > 0, else 0: relu'(0) = 0. (y > 0 says the same as z > 0.)

  At a NaN the gradient passes, so that nothing hides it.
  """
  return (jnp.where(y <= 0, jnp.zeros_like(y_bar), y_bar),)


def identity_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z. Keeps nothing."""
  check_inputs("identity", (z,))
  return z, ()


def identity_backward(residuals: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient 1."""
  return (y_bar,)


max = Gate("max", None, max_forward, max_backward)
min = Gate("min", None, min_forward, min_backward)
relu = Gate("relu", 1, relu_forward, relu_backward)
identity = Gate("identity", 1, identity_forward, identity_backward)
