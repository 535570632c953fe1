"""Smooth gates of one input whose derivative is a function of the output, or nearly so.

The only residual of exp, sqrt, sigmoid, tanh, softplus, elu and selu is the output: the next layer
holds the same array as its input, so that it isn't stored twice. (That of log, sin and cos is the
input.) Such a derivative is accurate absolutely, to a few times the machine epsilon, but not in
units in the last place where the function saturates: 1 - y² has lost its digits once y rounds to 1.
docs/slopes.md compares these slopes with those of other libraries.
"""

import jax
import jax.numpy as jnp

from fbackprop.checks import RangeError, check_flag, check_number
from fbackprop.gates.arithmetic import gate
from fbackprop.types import Array, Gate, Residuals

__all__ = [
  "cos", "elu", "elu_with", "exp", "log", "selu", "sigmoid", "sin", "softplus", "sqrt", "tanh",
]  # fmt: skip


def exp_forward(z: Array) -> tuple[Array, Residuals]:
  """y = e^z. Residuals: y."""
  y = jnp.exp(z)
  return y, y


def exp_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: e^z = y."""
  return (y_bar * y,)


def log_forward(z: Array) -> tuple[Array, Residuals]:
  """y = ln z. Residuals: z."""
  return jnp.log(z), z


def log_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1/z."""
  return (y_bar / z,)


def sqrt_forward(z: Array) -> tuple[Array, Residuals]:
  """y = √z, NaN for z < 0. Residuals: y."""
  y = jnp.sqrt(z)
  return y, y


def sqrt_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1/(2√z) = 1/(2y), which is infinite at 0."""
  return (y_bar / (2 * y),)


def sin_forward(z: Array) -> tuple[Array, Residuals]:
  """y = sin z. Residuals: z."""
  return jnp.sin(z), z


def sin_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: cos z."""
  return (y_bar * jnp.cos(z),)


def cos_forward(z: Array) -> tuple[Array, Residuals]:
  """y = cos z. Residuals: z."""
  return jnp.cos(z), z


def cos_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: -sin z."""
  return (y_bar * -jnp.sin(z),)


def sigmoid_forward(z: Array) -> tuple[Array, Residuals]:
  """y = 1 / (1 + e^-z). Residuals: y."""
  y = jax.nn.sigmoid(z)
  return y, y


def sigmoid_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: y (1 - y)."""
  return (y_bar * y * (1 - y),)


def tanh_forward(z: Array) -> tuple[Array, Residuals]:
  """y = tanh z. Residuals: y."""
  y = jnp.tanh(z)
  return y, y


def tanh_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1 - y², computed as (1 - y)(1 + y), which loses less near saturation."""
  return (y_bar * (1 - y) * (1 + y),)


def softplus_forward(z: Array) -> tuple[Array, Residuals]:
  """y = ln(1 + e^z). Residuals: y.

  References:
    Dugas et al., "Incorporating second-order functional knowledge for better option pricing",
    NIPS (2000), eq. 5.
  """
  y = jax.nn.softplus(z)
  return y, y


def softplus_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: σ(z) = 1 - e^-y, in a form that is accurate for small y."""
  return (y_bar * -jnp.expm1(-y),)


def elu_with(
  alpha: float = 1.0, *, scale: float = 1.0, name: str = "elu", accurate_tail: bool = False
) -> Gate:
  """Build the gate y = scale · z for z > 0, and y = scale · alpha (e^z - 1) elsewhere.

  At 0 the derivative is scale · alpha, that of the exponential piece: a kink belongs to the piece
  that isn't the identity. With alpha = 1 there is no kink.

  The derivative below 0, scale · alpha e^z, is computed from the output, as y + scale · alpha. Its
  error is at most two machine epsilons of scale · alpha, which in the tail is as large as the
  derivative: 1 % at about z = -12 in float32 and -32 in float64, and from about -17 and -37 down
  the result is 0. Once y is its limit, it doesn't determine e^z. With `accurate_tail` the residual
  is z instead, so that a layer between two dense ones stores two arrays, z and the next one's input
  y, and not one.

  Args:
    alpha: minus the value at -∞; above 0, so that y and z have the same sign.
    scale: the factor of both pieces, above 0.
    name: the name of the gate.
    accurate_tail: whether the residual is z in place of y, so that the derivative is accurate
      wherever e^z is a normal number.

  Returns:
    A `Gate` of one input; its residual is its output, or its input if `accurate_tail`.

  Raises:
    TypeError: an argument isn't a number, or `accurate_tail` isn't True or False.
    ValueError: a number isn't above 0.

  References:
    Clevert, Unterthiner, Hochreiter, "Fast and accurate deep network learning by exponential
    linear units", ICLR (2016), eq. 15.
  """
  for argument, value in (("alpha", alpha), ("scale", scale)):
    check_number("elu_with", argument, value)
    if value <= 0:
      raise RangeError(f"must be above 0, got {value}", argument, "elu_with")
  check_flag("elu_with", "accurate_tail", accurate_tail)
  alpha, scale = float(alpha), float(scale)

  def elu_forward(z: Array) -> tuple[Array, Residuals]:
    # The unused piece at large z must have no derivative: e^z overflows, and 0 · ∞ is NaN.
    below = jnp.where(z > 0, jnp.zeros_like(z), z)
    y = scale * jnp.where(z > 0, z, alpha * jnp.expm1(below))
    return y, y

  def elu_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
    # Minus the value at -∞, from the numbers as the forward rule rounds them, so that the slope is
    # 0 there.
    limit = jnp.full_like(y, scale) * alpha
    return (y_bar * jnp.where(y > 0, jnp.full_like(y, scale), y + limit),)

  def elu_forward_keeping_z(z: Array) -> tuple[Array, Residuals]:
    return elu_forward(z)[0], z

  def elu_backward_at_z(z: Residuals, y_bar: Array) -> tuple[Array]:
    below = jnp.exp(jnp.where(z > 0, jnp.zeros_like(z), z))
    return (y_bar * jnp.where(z > 0, jnp.full_like(z, scale), scale * alpha * below),)

  kinks = () if alpha == 1 else (0.0,)
  if accurate_tail:
    return gate(name, 1, elu_forward_keeping_z, elu_backward_at_z, kinks=kinks)
  return gate(name, 1, elu_forward, elu_backward, kinks=kinks)


exp = gate("exp", 1, exp_forward, exp_backward, symbol="eˣ", formula="{y}")
log = gate("log", 1, log_forward, log_backward, symbol="ln", formula="1 / {x}")
sqrt = gate("sqrt", 1, sqrt_forward, sqrt_backward, symbol="√x", formula="1 / (2 · {y})")
sin = gate("sin", 1, sin_forward, sin_backward, formula="cos({x})")
cos = gate("cos", 1, cos_forward, cos_backward, formula="-sin({x})")
sigmoid = gate(
  "sigmoid", 1, sigmoid_forward, sigmoid_backward, symbol="σ", formula="{y} · (1 - {y})"
)
tanh = gate("tanh", 1, tanh_forward, tanh_backward, formula="1 - {y}²")
softplus = gate("softplus", 1, softplus_forward, softplus_backward, formula="sigmoid({x})")
elu = elu_with()
# The fixed point of mean 0 and variance 1: Klambauer et al., "Self-normalizing neural networks",
# NIPS (2017), eq. 2 and 14.
selu = elu_with(1.6732632423543772, scale=1.0507009873554805, name="selu")._replace(
  initializer="lecun_normal"
)
