"""Smooth gates of one input.

Of most the derivative is a function of the output, or nearly so. The only residual of exp, sqrt,
sigmoid, tanh, softplus, elu and selu is the output: the next layer holds the same array as its
input, so that it isn't stored twice. (That of log, sin and cos is the input.) Such a derivative is
accurate absolutely, to a few times the machine epsilon, but not in units in the last place where
the function saturates: 1 - y² has lost its digits once y rounds to 1. docs/slopes.md compares these
slopes with those of other libraries.

gelu, silu and mish multiply their input by a gate of its own: y = z g(z). None of them is monotone,
so the derivative isn't a function of the output, and the residual is z. The formulas are accurate
in the lower tail: where Φ(z) is 1e-9 it is computed as that, and not as (1 + erf) / 2, which is 0.
At ±∞ itself they are NaN, as ∞ · 0 is, and as in `jax.nn`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.checks import check_flag
from fbackprop.gates.arithmetic import gate
from fbackprop.ranges import POSITIVE, check_range
from fbackprop.types import Array, Gate, Residuals

__all__ = [
  "cos", "elu", "elu_with", "exp", "gelu", "gelu_tanh", "log", "mish", "selu", "sigmoid", "silu",
  "sin", "softplus", "sqrt", "tanh",
]  # fmt: skip


def exp_forward(z: Array) -> tuple[Array, Residuals]:
  """y = e^z. Residuals: y."""
  y = jnp.exp(z)
  return y, y


def exp_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: e^z = y. It is the second derivative, too."""
  return (y_bar * y,)


def log_forward(z: Array) -> tuple[Array, Residuals]:
  """y = ln z. Residuals: z."""
  return jnp.log(z), z


def log_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1/z."""
  return (y_bar / z,)


def log_second(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: -1/z²."""
  return (-y_bar / (z * z),)


def sqrt_forward(z: Array) -> tuple[Array, Residuals]:
  """y = √z, NaN for z < 0. Residuals: y."""
  y = jnp.sqrt(z)
  return y, y


def sqrt_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1/(2√z) = 1/(2y), which is infinite at 0."""
  return (y_bar / (2 * y),)


def sqrt_second(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: -1/(4 z √z) = -1/(4y³), infinite at 0."""
  return (-y_bar / (4 * y * y * y),)


def sin_forward(z: Array) -> tuple[Array, Residuals]:
  """y = sin z. Residuals: z."""
  return jnp.sin(z), z


def sin_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: cos z."""
  return (y_bar * jnp.cos(z),)


def sin_second(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: -sin z."""
  return (y_bar * -jnp.sin(z),)


def cos_forward(z: Array) -> tuple[Array, Residuals]:
  """y = cos z. Residuals: z."""
  return jnp.cos(z), z


def cos_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: -sin z."""
  return (y_bar * -jnp.sin(z),)


def cos_second(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: -cos z."""
  return (y_bar * -jnp.cos(z),)


def sigmoid_forward(z: Array) -> tuple[Array, Residuals]:
  """y = 1 / (1 + e^-z). Residuals: y."""
  y = jax.nn.sigmoid(z)
  return y, y


def sigmoid_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: y (1 - y)."""
  return (y_bar * y * (1 - y),)


def sigmoid_second(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: y (1 - y) (1 - 2y)."""
  return (y_bar * y * (1 - y) * (1 - 2 * y),)


def tanh_forward(z: Array) -> tuple[Array, Residuals]:
  """y = tanh z. Residuals: y."""
  y = jnp.tanh(z)
  return y, y


def tanh_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1 - y², computed as (1 - y)(1 + y), which loses less near saturation."""
  return (y_bar * (1 - y) * (1 + y),)


def tanh_second(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: -2y (1 - y²)."""
  return (y_bar * (-2 * y) * (1 - y) * (1 + y),)


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


def softplus_second(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: σ(z) (1 - σ(z)) = (1 - e^-y) e^-y."""
  return (y_bar * -jnp.expm1(-y) * jnp.exp(-y),)


def elu_with(
  alpha: float = 1.0, *, scale: float = 1.0, name: str = "elu", accurate_tail: bool = False
) -> Gate:
  """Build the gate y = scale · z for z > 0, and y = scale · alpha (e^z - 1) elsewhere.

  At 0 the derivative is scale · alpha, that of the exponential piece: a kink belongs to the piece
  that isn't the identity. With alpha = 1 there is no kink, but the second derivative jumps from
  scale · alpha to 0; at 0 it is that of the exponential piece, too.

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
    check_range("elu_with", argument, value, POSITIVE)
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

  def elu_second(y: Residuals, y_bar: Array) -> tuple[Array]:
    limit = jnp.full_like(y, scale) * alpha
    return (y_bar * jnp.where(y > 0, jnp.zeros_like(y), y + limit),)

  def elu_forward_keeping_z(z: Array) -> tuple[Array, Residuals]:
    return elu_forward(z)[0], z

  def elu_backward_at_z(z: Residuals, y_bar: Array) -> tuple[Array]:
    below = jnp.exp(jnp.where(z > 0, jnp.zeros_like(z), z))
    return (y_bar * jnp.where(z > 0, jnp.full_like(z, scale), scale * alpha * below),)

  def elu_second_at_z(z: Residuals, y_bar: Array) -> tuple[Array]:
    below = jnp.exp(jnp.where(z > 0, jnp.zeros_like(z), z))
    return (y_bar * jnp.where(z > 0, jnp.zeros_like(z), scale * alpha * below),)

  facts: dict[str, Any] = {"name": name, "kinks": () if alpha == 1 else (0.0,)}
  if accurate_tail:
    return gate(elu_forward_keeping_z, elu_backward_at_z, second=elu_second_at_z, **facts)
  return gate(elu_forward, elu_backward, second=elu_second, **facts)


def gelu_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z Φ(z), Φ the normal distribution function: the exact form, not its tanh approximation.

  References:
    Hendrycks, Gimpel, "Gaussian error linear units", arXiv:1606.08415 (2016), section 2.
  """
  return z * normal_cdf(z), z


def gelu_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: Φ(z) + z φ(z)."""
  return (y_bar * (normal_cdf(z) + z * normal_density(z)),)


def gelu_second(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: φ(z) (2 - z²)."""
  density = normal_density(z)
  return (y_bar * (2 * density - z * density * z),)


def normal_density(z: Array) -> Array:
  """Compute φ(z) = e^(-z²/2) / √(2π)."""
  return jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))


def normal_cdf(z: Array) -> Array:
  """Compute Φ(z) = erfc(-z/√2) / 2, which is accurate in the lower tail."""
  return 0.5 * jax.lax.erfc(z * -math.sqrt(0.5))


def gelu_tanh_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z (1 + tanh u) / 2 = z σ(2u) with u = √(2/π) (z + 0.044715 z³): gelu, approximately.

  References:
    Hendrycks, Gimpel, "Gaussian error linear units", arXiv:1606.08415 (2016), section 2.
  """
  return z * jax.nn.sigmoid(twice_u(z)[0]), z


def gelu_tanh_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: σ(2u) (1 + z σ(-2u) · d(2u)/dz)."""
  v, slope, _ = twice_u(z)
  s = jax.nn.sigmoid(v)
  # s first: far down it is 0, and z times the slope may be infinite.
  return (y_bar * (s + z * (s * jax.nn.sigmoid(-v) * slope)),)


def gelu_tanh_second(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: d (2v' + z (v'² (1 - 2σ(v)) + v'')), v = 2u and d = σ(v) σ(-v)."""
  v, slope, bend = twice_u(z)
  s = jax.nn.sigmoid(v)
  d = s * jax.nn.sigmoid(-v)
  return (y_bar * (2 * d * slope + z * (d * slope * slope * (1 - 2 * s) + d * bend)),)


def twice_u(z: Array) -> tuple[Array, Array, Array]:
  """Compute 2u and its two derivatives, with z clipped to ±24.

  Beyond that σ(2u) is 0 or 1 even in float64, and the clip keeps z³ from overflowing.
  """
  z = jnp.clip(z, -24, 24)
  c, cubic = 2 * math.sqrt(2 / math.pi), 0.044715
  return c * (z + cubic * z * z * z), c * (1 + 3 * cubic * z * z), 6 * c * cubic * z


def silu_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z σ(z), also called swish.

  References:
    Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units", Neural Networks 107 (2018), eq. 6.
  """
  return z * jax.nn.sigmoid(z), z


def silu_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: σ(z) (1 + z σ(-z))."""
  return (y_bar * jax.nn.sigmoid(z) * (1 + z * jax.nn.sigmoid(-z)),)


def silu_second(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: σ(z) σ(-z) (2 + z (1 - 2σ(z))), in which 1 - 2σ(z) = -tanh(z/2)."""
  d = jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)
  return (y_bar * (2 * d - z * d * jnp.tanh(0.5 * z)),)


def mish_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z tanh(ln(1 + e^z)).

  References:
    Misra, "Mish: a self regularized non-monotonic activation function", BMVC (2020), eq. 1.
  """
  return z * jnp.tanh(jax.nn.softplus(z)), z


def mish_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: t + z (1 - t²) σ(z), t = tanh(ln(1 + e^z)) = n / (n + 2), n = e^z (e^z + 2).

  1 - t is computed as 2 / (n + 2), and not from t, which rounds to 1 from z = 8 on in float32.
  Above 0 every term is in e^-z, so that nothing overflows.
  """
  t, rest = tanh_of_softplus(z)
  return (y_bar * (t + z * rest * (1 + t) * jax.nn.sigmoid(z)),)


def mish_second(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: t' (2 + z (σ(-z) - 2t σ(z))), t' = (1 - t²) σ(z)."""
  t, rest = tanh_of_softplus(z)
  slope = rest * (1 + t) * jax.nn.sigmoid(z)
  return (y_bar * (2 * slope + z * slope * (jax.nn.sigmoid(-z) - 2 * t * jax.nn.sigmoid(z))),)


def tanh_of_softplus(z: Array) -> tuple[Array, Array]:
  """Compute t and 1 - t."""
  above = z >= 0
  e = jnp.exp(jnp.where(above, -z, z))
  denominator = jnp.where(above, 1 + 2 * e * (1 + e), 2 + e * (2 + e))
  t = jnp.where(above, 1 + 2 * e, e * (2 + e)) / denominator
  return t, jnp.where(above, 2 * e * e, jnp.full_like(e, 2)) / denominator


exp = gate(exp_forward, exp_backward, second=exp_backward, symbol="eˣ", formula="{y}")
log = gate(log_forward, log_backward, second=log_second, symbol="ln", formula="1 / {x}")
sqrt = gate(sqrt_forward, sqrt_backward, second=sqrt_second, symbol="√x", formula="1 / (2 · {y})")
sin = gate(sin_forward, sin_backward, second=sin_second, formula="cos({x})")
cos = gate(cos_forward, cos_backward, second=cos_second, formula="-sin({x})")
sigmoid = gate(
  sigmoid_forward, sigmoid_backward, second=sigmoid_second, symbol="σ", formula="{y} · (1 - {y})"
)
tanh = gate(tanh_forward, tanh_backward, second=tanh_second, formula="1 - {y}²")
softplus = gate(softplus_forward, softplus_backward, second=softplus_second, formula="sigmoid({x})")
elu = elu_with()
# The fixed point of mean 0 and variance 1: Klambauer et al., "Self-normalizing neural networks",
# NIPS (2017), eq. 2 and 14.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
selu = elu_with(SELU_ALPHA, scale=SELU_SCALE, name="selu")._replace(initializer="lecun_normal")
# He's initialiser is derived for a unit that passes half of its input, which these nearly do.
of_gelu, of_silu = "Φ({x}) + {x} · φ({x})", "sigmoid({x}) · (1 + {x} · sigmoid(-{x}))"
he = partial(gate, initializer="he_normal")
gelu = he(gelu_forward, gelu_backward, second=gelu_second, formula=of_gelu)
gelu_tanh = he(gelu_tanh_forward, gelu_tanh_backward, second=gelu_tanh_second)
silu = he(silu_forward, silu_backward, second=silu_second, formula=of_silu)
mish = he(mish_forward, mish_backward, second=mish_second)
