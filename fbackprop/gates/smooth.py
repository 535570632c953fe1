"""Smooth gates of one input: exp, log, sigmoid, tanh, gelu.

Where the derivative can be written in the output it is, and the output is all that is kept: the
next layer holds the same array as its input, so that nothing is stored twice. Such a derivative is
accurate absolutely, to a few times the machine epsilon, but not in units in the last place where
the function saturates: 1 - y² has lost its digits once y rounds to 1.
"""

import math

import jax
import jax.numpy as jnp

from fbackprop.gates.arithmetic import check_inputs
from fbackprop.types import Array, Gate, Residuals


def exp_forward(z: Array) -> tuple[Array, Residuals]:
  """y = e^z. Keeps y."""
  check_inputs("exp", (z,))
  y = jnp.exp(z)
  return y, y


def exp_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient e^z = y."""
  return (y_bar * y,)


def log_forward(z: Array) -> tuple[Array, Residuals]:
  """y = ln z. Keeps z."""
  check_inputs("log", (z,))
  return jnp.log(z), z


def log_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient 1/z."""
  return (y_bar / z,)


def sigmoid_forward(z: Array) -> tuple[Array, Residuals]:
  """y = 1 / (1 + e^-z). Keeps y."""
  check_inputs("sigmoid", (z,))
  y = jax.nn.sigmoid(z)
  return y, y


def sigmoid_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient y (1 - y)."""
  return (y_bar * y * (1 - y),)


def tanh_forward(z: Array) -> tuple[Array, Residuals]:
  """y = tanh z. Keeps y."""
  check_inputs("tanh", (z,))
  y = jnp.tanh(z)
  return y, y


def tanh_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient 1 - y², as (1 - y)(1 + y), which loses less near saturation."""
  return (y_bar * (1 - y) * (1 + y),)


def gelu_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z Φ(z), Φ the normal distribution function: the exact form, not its tanh approximation.

  Keeps z: y is not monotone, so the derivative can't be written in it.

  References:
    Hendrycks, Gimpel, "Gaussian error linear units", arXiv:1606.08415 (2016), section 2.
  """
  check_inputs("gelu", (z,))
  return z * normal_cdf(z), z


def gelu_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient Φ(z) + z φ(z)."""
  density = jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
  return (y_bar * (normal_cdf(z) + z * density),)


def normal_cdf(z: Array) -> Array:
  """Φ(z) = erfc(-z/√2) / 2, which keeps its digits in the lower tail, where (1 + erf) / 2 is 0."""
  return 0.5 * jax.lax.erfc(z * -math.sqrt(0.5))


exp = Gate("exp", 1, exp_forward, exp_backward)
log = Gate("log", 1, log_forward, log_backward)
sigmoid = Gate("sigmoid", 1, sigmoid_forward, sigmoid_backward)
tanh = Gate("tanh", 1, tanh_forward, tanh_backward)
gelu = Gate("gelu", 1, gelu_forward, gelu_backward)
