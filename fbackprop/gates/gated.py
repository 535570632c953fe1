"""Smooth gates of one input that multiply it by a gate of its own: y = z g(z), as gelu, silu, mish.

None of them is monotone, so the derivative isn't a function of the output, and the residual is z.
The formulas are accurate in the lower tail: where Φ(z) is 1e-9 it is computed as that, and not as
(1 + erf) / 2, which is 0. At ±∞ itself they are NaN, as ∞ · 0 is, and as in `jax.nn`.
"""

import math

import jax
import jax.numpy as jnp

from fbackprop.gates.arithmetic import gate
from fbackprop.types import Array, Residuals

__all__ = ["gelu", "gelu_tanh", "mish", "silu"]


def gelu_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z Φ(z), Φ the normal distribution function: the exact form, not its tanh approximation.

  References:
    Hendrycks, Gimpel, "Gaussian error linear units", arXiv:1606.08415 (2016), section 2.
  """
  return z * normal_cdf(z), z


def gelu_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: Φ(z) + z φ(z)."""
  density = jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
  return (y_bar * (normal_cdf(z) + z * density),)


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
  v, slope = twice_u(z)
  s = jax.nn.sigmoid(v)
  # s first: far down it is 0, and z times the slope may be infinite.
  return (y_bar * (s + z * (s * jax.nn.sigmoid(-v) * slope)),)


def twice_u(z: Array) -> tuple[Array, Array]:
  """Compute 2u and its derivative, with z clipped to ±24.

  Beyond that σ(2u) is 0 or 1 even in float64, and the clip keeps z³ from overflowing.
  """
  z = jnp.clip(z, -24, 24)
  c, cubic = 2 * math.sqrt(2 / math.pi), 0.044715
  return c * (z + cubic * z * z * z), c * (1 + 3 * cubic * z * z)


def silu_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z σ(z), also called swish.

  References:
    Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units", Neural Networks 107 (2018), eq. 6.
  """
  return z * jax.nn.sigmoid(z), z


def silu_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: σ(z) (1 + z σ(-z))."""
  return (y_bar * jax.nn.sigmoid(z) * (1 + z * jax.nn.sigmoid(-z)),)


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
  above = z >= 0
  e = jnp.exp(jnp.where(above, -z, z))
  denominator = jnp.where(above, 1 + 2 * e * (1 + e), 2 + e * (2 + e))
  t = jnp.where(above, 1 + 2 * e, e * (2 + e)) / denominator
  rest = jnp.where(above, 2 * e * e, jnp.full_like(e, 2)) / denominator
  return (y_bar * (t + z * rest * (1 + t) * jax.nn.sigmoid(z)),)


# He's initialiser is derived for a unit that passes half of its input, which these nearly do.
gelu = gate(
  "gelu", 1, gelu_forward, gelu_backward,
  formula="Φ({x}) + {x} · φ({x})", initializer="he_normal",
)  # fmt: skip
gelu_tanh = gate("gelu_tanh", 1, gelu_tanh_forward, gelu_tanh_backward, initializer="he_normal")
silu = gate(
  "silu", 1, silu_forward, silu_backward,
  formula="sigmoid({x}) · (1 + {x} · sigmoid(-{x}))", initializer="he_normal",
)  # fmt: skip
mish = gate("mish", 1, mish_forward, mish_backward, initializer="he_normal")
