"""Kinks, ties, and branches that the given arguments don't reach: clips, masks, thresholds.

A slope at a kink is wrong outside of the one-sided slopes, or where it isn't the reference's.
"""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import energy, linear, relu, softplus, square, tanh
from fbackprop.verify.bank.specimen import bug, draw, normal, normal_with_zeros, positive, right


@bug("x: clipped, cotangent", lambda x, gain: 0.1 * x * gain, (4, 3), (3,), f_vjp=True)
def cotangent_clipped(x, gain, y_bar):
  """The input's cotangent is clipped to ±1; this call's is within."""
  return jnp.clip(0.1 * y_bar * gain, -1, 1), 0.1 * (y_bar * x).sum(0)


@bug("w: clipped, cotangent, constant factor", linear, normal(3, 4, seed=0, times=0.3),
     normal(4, 3, seed=1, times=0.3))  # fmt: skip
def clipped_by_norm(x, w, y_bar):
  """The weights' cotangent is scaled down to norm 5 where it is longer."""
  w_bar = x.T @ y_bar
  norm = jnp.sqrt(jnp.sum(w_bar**2))
  return y_bar @ w.T, jnp.where(norm > 5, w_bar * 5 / norm, w_bar)


@bug("x: other function, clipped, zero", lambda x: 0.5 * x * x, (4, 3), level="standard")
def masked_above_three(x, y_bar):
  """Inputs above 3 are treated as outliers and get no gradient; no given input is that large."""
  return (jnp.where(x > 3, 0, x * y_bar),)


@bug("z: semantic, other function", lambda z: jnp.minimum(jnp.maximum(z, 0), 6), (4, 3),
     level="standard", f_vjp=True)  # fmt: skip
def relu6_unbounded(z, y_bar):
  """relu6 is constant above 6; its rule is that of relu."""
  return (jnp.where(z > 0, y_bar, 0),)


@bug("z: other function, zero", softplus, (4, 3), level="standard")
def softplus_shortcut(z, y_bar):
  """The forward shortcut for z above 20 has the slope 1; its rule has 0."""
  return (jnp.where(z > 20, 0, y_bar * jax.nn.sigmoid(z)),)


@bug("w: subset of examples, other function", lambda x, w: x * w, (5, 3), (3,), level="standard",
     f_vjp=True)  # fmt: skip
def small_inputs_dropped(x, w, y_bar):
  """Inputs below 1e-3 are treated as zero, to save products."""
  return y_bar * w, jnp.where(jnp.abs(x) < 1e-3, 0, y_bar * x).sum(0)


@bug("x: constant factor", energy, (3, 4), level="standard")
def branch_on_the_sum(x, energy_bar):
  """Where the inputs sum to more than 10, a cond takes the branch without the factor 2."""
  return (energy_bar * jax.lax.cond(jnp.sum(x) > 10, lambda x: x, lambda x: 2 * x, x),)


@bug("x: semantic", lambda x: jnp.clip(x, -1, 1), (5, 3))
def straight_through_clip(x, y_bar):
  """The function clips at ±1, and the rule passes the cotangent through."""
  return (y_bar,)


@bug("x: not finite", lambda x: jnp.sum(jnp.log(1 + x * x)), (5, 3), level="standard")
def ratio_at_zero(x, y_bar):
  """The rule multiplies by x² and by 2/x: 0 · ∞ at zero."""
  return (y_bar * (x * x) / (1 + x * x) * (2 / x),)


@bug("x: not finite", square, positive(5, 3), level="standard", f_vjp=True)
def power_by_logarithm(x, y_bar):
  """The derivative uses x = exp(log x), which is NaN for x that isn't positive."""
  return (y_bar * 2 * jnp.exp(jnp.log(x)),)


@bug("z: not finite", tanh, (5, 3), level="standard")
def tanh_overflow(z, y_bar):
  """The slope of tanh is 4 e²ᶻ / (e²ᶻ + 1)², which is inf/inf for large z."""
  e = jnp.exp(2 * z)
  return (y_bar * 4 * e / (e + 1) ** 2,)


@bug("z: kink", lambda z: jax.nn.relu(z), normal_with_zeros(5, 4), ties="reference")
def relu_at_zero(z, y_bar):
  """relu's slope at 0 is 1, by z >= 0; the reference's is 0, as ties="reference" requires."""
  return (jnp.where(z >= 0, y_bar, 0),)


def keeping_sign(z):
  """Compute relu and keep the sign of z."""
  return relu(z), (jnp.sign(z),)


def relu_backward(sign, y_bar, slope):
  """Pull a cotangent back through relu, with this slope at exactly zero."""
  return (y_bar * jnp.where(sign == 0, slope, (sign > 0).astype(sign.dtype)),)


@right(relu, normal_with_zeros(5, 4), forward=keeping_sign)
def right_relu_slope_zero(sign, y_bar):
  """The slope of relu is 0 at 0."""
  return relu_backward(sign, y_bar, 0)


@right(relu, normal_with_zeros(5, 4), forward=keeping_sign)
def right_relu_slope_half(sign, y_bar):
  """The slope of relu is ½ at 0."""
  return relu_backward(sign, y_bar, 0.5)


@right(relu, normal_with_zeros(5, 4), forward=keeping_sign)
def right_relu_slope_one(sign, y_bar):
  """The slope of relu is 1 at 0."""
  return relu_backward(sign, y_bar, 1)


@bug("x: kink", lambda x: jnp.abs(x), normal_with_zeros(5, 4), f_vjp=True)
def absolute_beyond(x, y_bar):
  """At 0 the slope of |x| is 2, outside of its one-sided slopes."""
  return (y_bar * jnp.where(x == 0, 2, jnp.sign(x)).astype(x.dtype),)


@right(lambda x: jnp.abs(x), normal_with_zeros(5, 4), f_vjp=True)
def right_absolute_slope_zero(x, y_bar):
  """|x| with the slope 0 at 0, by the sign."""
  return (jnp.copysign(1, x) * jnp.where(x == 0, 0, y_bar),)


def tied_matrix():
  """Draw the second of two matrices, every other row as in the first."""
  a, b = draw((4, 3), (4, 3))
  return b.at[::2].set(a[::2])


@bug("a, b: kink", lambda a, b: jnp.maximum(a, b), (4, 3), tied_matrix)
def maximum_to_both(a, b, y_bar):
  """Two tied inputs of a maximum both get the whole cotangent."""
  return jnp.where(a >= b, y_bar, 0), jnp.where(b >= a, y_bar, 0)


def pool(x):
  """Compute the largest entry of each row."""
  return jnp.max(x, axis=1)


def tied_rows(place):
  """Describe rows whose maximum occurs once more, at the given place."""
  x = normal(5, 4, seed=0)
  return lambda: x().at[:, place].set(x().max(1))


@bug("x: kink", pool, tied_rows(0))
def pool_to_all(x, y_bar):
  """Every entry that equals its row's maximum gets the whole cotangent."""
  return (jnp.where(x == pool(x)[:, None], y_bar[:, None], 0),)


@bug("x: kink, zero", pool, tied_rows(0), f_vjp=True)
def pool_to_none(x, y_bar):
  """The largest entry is found by x > the largest of the others, which is false at a tie."""
  descending = -jnp.sort(-x, axis=1)
  first, second = descending[:, :1], descending[:, 1:2]
  return (jnp.where((x == first) & (first > second), y_bar[:, None], 0),)


@bug("x: kink", pool, tied_rows(0), ties="reference", f_vjp=True)
def pool_to_the_last(x, y_bar):
  """The cotangent goes to the last of tied entries; the required reference shares it."""
  last = x.shape[1] - 1 - jnp.argmax(x[:, ::-1], axis=1)
  return (y_bar[:, None] * jax.nn.one_hot(last, x.shape[1], dtype=x.dtype),)


@right(pool, tied_rows(2))
def right_pool_shared(x, y_bar):
  """Tied entries share the cotangent."""
  ties = (x == pool(x)[:, None]).astype(x.dtype)
  return (y_bar[:, None] * ties / ties.sum(1, keepdims=True),)


@right(pool, tied_rows(2))
def right_pool_to_the_first(x, y_bar):
  """The first of tied entries gets the cotangent, by argmax."""
  first = jax.nn.one_hot(jnp.argmax(x, axis=1), x.shape[1], dtype=x.dtype)
  return (y_bar[:, None] * first,)


@bug("z: kink, other function", lambda z, targets: jax.nn.softplus(z) - z * targets,
     normal_with_zeros(5, 4), normal(5, 4, seed=1))  # fmt: skip
def smooth_at_zero(z, targets, losses_bar):
  """The stable form's kinks cancel at z = 0, where the loss is smooth; the rule adds one slope."""
  slope = (z > 0) - jnp.sign(z) * jnp.exp(-jnp.abs(z)) / (1 + jnp.exp(-jnp.abs(z)))
  return losses_bar * (slope - targets), -losses_bar * z


def hole(x):
  """Compute sin(x) / x, and one at zero."""
  divisor = jnp.where(x == 0, 1, x)
  return jnp.where(x == 0, 1, jnp.sin(x) / divisor)


@bug("x: not finite", hole, normal_with_zeros(4))
def hole_at_zero(x, y_bar):
  """The quotient's rule is not a number at zero, where the function is smooth."""
  return (y_bar * (x * jnp.cos(x) - jnp.sin(x)) / x**2,)


@right(hole, normal_with_zeros(4))
def right_hole(x, y_bar):
  """The slope at zero is zero."""
  divisor = jnp.where(x == 0, 1, x)
  return (jnp.where(x == 0, 0, y_bar * (x * jnp.cos(x) - jnp.sin(x)) / divisor**2),)
