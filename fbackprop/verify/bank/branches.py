"""Bugs behind a branch: clips, masks and thresholds that the given arguments don't reach."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import normal, positive
from fbackprop.verify.bank.references import energy, linear, softplus, square, tanh
from fbackprop.verify.bank.specimen import bug


def tenth(x, gain):
  """Compute a tenth of x times its gain."""
  return 0.1 * x * gain


@bug(tenth, (4, 3), (3,), leaves="x", causes="clipped, cotangent", f_vjp=True)
def cotangent_clipped(x, gain, y_bar):
  """The input's cotangent is clipped to ±1; this call's is within."""
  return jnp.clip(0.1 * y_bar * gain, -1, 1), 0.1 * (y_bar * x).sum(0)


@bug(linear, normal(3, 4, seed=0, times=0.3), normal(4, 3, seed=1, times=0.3), leaves="w",
     causes="clipped, cotangent, constant factor")  # fmt: skip
def clipped_by_norm(x, w, y_bar):
  """The weights' cotangent is scaled down to norm 5 where it is longer."""
  w_bar = x.T @ y_bar
  norm = jnp.sqrt(jnp.sum(w_bar**2))
  return y_bar @ w.T, jnp.where(norm > 5, w_bar * 5 / norm, w_bar)


def half_square(x):
  """Compute ½ x²."""
  return 0.5 * x * x


@bug(half_square, (4, 3), leaves="x", causes="other function, clipped, zero", level="standard")
def masked_above_three(x, y_bar):
  """Inputs above 3 are treated as outliers and get no gradient; no given input is that large."""
  return (jnp.where(x > 3, 0, x * y_bar),)


def relu6(z):
  """Clip z to between 0 and 6."""
  return jnp.minimum(jnp.maximum(z, 0), 6)


@bug(relu6, (4, 3), leaves="z", causes="semantic, other function", level="standard", f_vjp=True)
def relu6_unbounded(z, y_bar):
  """relu6 is constant above 6; its rule is that of relu."""
  return (jnp.where(z > 0, y_bar, 0),)


@bug(softplus, (4, 3), leaves="z", causes="other function, zero", level="standard")
def softplus_shortcut(z, y_bar):
  """The forward shortcut for z above 20 has the slope 1; its rule has 0."""
  return (jnp.where(z > 20, 0, y_bar * jax.nn.sigmoid(z)),)


def weighted(x, w):
  """Multiply each column by its weight."""
  return x * w


@bug(weighted, (5, 3), (3,), leaves="w", causes="subset of examples, other function",
     level="standard", f_vjp=True)  # fmt: skip
def small_inputs_dropped(x, w, y_bar):
  """Inputs below 1e-3 are treated as zero, to save products."""
  return y_bar * w, jnp.where(jnp.abs(x) < 1e-3, 0, y_bar * x).sum(0)


@bug(energy, (3, 4), leaves="x", causes="constant factor", level="standard")
def branch_on_the_sum(x, energy_bar):
  """Where the inputs sum to more than 10, a cond takes the branch without the factor 2."""

  def plain(x):
    return x

  def doubled(x):
    return 2 * x

  return (energy_bar * jax.lax.cond(jnp.sum(x) > 10, plain, doubled, x),)


def clip(x):
  """Clip x to ±1."""
  return jnp.clip(x, -1, 1)


@bug(clip, (5, 3), leaves="x", causes="semantic")
def straight_through_clip(x, y_bar):
  """The function clips at ±1, and the rule passes the cotangent through."""
  return (y_bar,)


def smooth_size(x):
  """Sum log(1 + x²)."""
  return jnp.sum(jnp.log(1 + x * x))


@bug(smooth_size, (5, 3), leaves="x", causes="not finite", level="standard")
def ratio_at_zero(x, y_bar):
  """The rule multiplies by x² and by 2/x: 0 · ∞ at zero."""
  return (y_bar * (x * x) / (1 + x * x) * (2 / x),)


@bug(square, positive(5, 3), leaves="x", causes="not finite", level="standard", f_vjp=True)
def power_by_logarithm(x, y_bar):
  """The derivative uses x = exp(log x), which is NaN for x that isn't positive."""
  return (y_bar * 2 * jnp.exp(jnp.log(x)),)


@bug(tanh, (5, 3), leaves="z", causes="not finite", level="standard")
def tanh_overflow(z, y_bar):
  """The slope of tanh is 4 e²ᶻ / (e²ᶻ + 1)², which is inf/inf for large z."""
  e = jnp.exp(2 * z)
  return (y_bar * 4 * e / (e + 1) ** 2,)
