"""Kinks and ties: a slope outside of the one-sided slopes, or not the reference's."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, normal, normal_with_zeros
from fbackprop.verify.bank.references import relu
from fbackprop.verify.bank.specimen import bug, example, right


def jax_relu(z):
  """Compute the positive part, with the slope 0 at 0."""
  return jax.nn.relu(z)


@bug(jax_relu, normal_with_zeros(5, 4), leaves="z", causes="kink", ties="reference")
def relu_at_zero(z, y_bar):
  """relu's slope at 0 is 1, by z >= 0; the reference's is 0, as ties="reference" requires."""
  return (jnp.where(z >= 0, y_bar, 0),)


def relu_with_slope(slope):
  """Build a relu whose rule has this slope at exactly zero, where every third entry is."""

  def relu_forward(z):
    return relu(z), (jnp.sign(z),)

  def rule(sign, y_bar):
    return (y_bar * jnp.where(sign == 0, slope, (sign > 0).astype(sign.dtype)),)

  return example(relu, rule, normal_with_zeros(5, 4), forward=relu_forward)


@right()
def right_relu_slope_zero():
  """The slope of relu is 0 at 0."""
  return relu_with_slope(0)


@right()
def right_relu_slope_half():
  """The slope of relu is ½ at 0."""
  return relu_with_slope(0.5)


@right()
def right_relu_slope_one():
  """The slope of relu is 1 at 0."""
  return relu_with_slope(1)


def absolute(x):
  """Compute |x|."""
  return jnp.abs(x)


@bug(absolute, normal_with_zeros(5, 4), leaves="x", causes="kink", f_vjp=True)
def absolute_beyond(x, y_bar):
  """At 0 the slope of |x| is 2, outside of its one-sided slopes."""
  return (y_bar * jnp.where(x == 0, 2, jnp.sign(x)).astype(x.dtype),)


@right(absolute, normal_with_zeros(5, 4), f_vjp=True)
def right_absolute_slope_zero(x, y_bar):
  """|x| with the slope 0 at 0, by the sign."""
  return (jnp.copysign(1, x) * jnp.where(x == 0, 0, y_bar),)


def maximum(a, b):
  """Compute the larger of two entries."""
  return jnp.maximum(a, b)


def tied_matrix():
  """Draw the second of two matrices, every other row as in the first."""
  a, b = draw((4, 3), (4, 3))
  return b.at[::2].set(a[::2])


@bug(maximum, (4, 3), tied_matrix, leaves="a, b", causes="kink")
def maximum_to_both(a, b, y_bar):
  """Two tied inputs of a maximum both get the whole cotangent."""
  return jnp.where(a >= b, y_bar, 0), jnp.where(b >= a, y_bar, 0)


def pool(x):
  """Compute the largest entry of each row."""
  return jnp.max(x, axis=1)


def tied_rows(place):
  """Describe rows whose maximum occurs once more, at the given place."""

  def drawn():
    x = normal(5, 4, seed=0)()
    return x.at[:, place].set(x.max(1))

  return drawn


@bug(pool, tied_rows(0), leaves="x", causes="kink")
def pool_to_all(x, y_bar):
  """Every entry that equals its row's maximum gets the whole cotangent."""
  return (jnp.where(x == pool(x)[:, None], y_bar[:, None], 0),)


@bug(pool, tied_rows(0), leaves="x", causes="kink, zero", f_vjp=True)
def pool_to_none(x, y_bar):
  """The largest entry is found by x > the largest of the others, which is false at a tie."""
  descending = -jnp.sort(-x, axis=1)
  first, second = descending[:, :1], descending[:, 1:2]
  return (jnp.where((x == first) & (first > second), y_bar[:, None], 0),)


@bug(pool, tied_rows(0), leaves="x", causes="kink", ties="reference", f_vjp=True)
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


def binary_cross_entropy(z, targets):
  """Compute the cross-entropy of σ(z) by softplus."""
  return jax.nn.softplus(z) - z * targets


@bug(binary_cross_entropy, normal_with_zeros(5, 4), normal(5, 4, seed=1), leaves="z",
     causes="kink, other function")  # fmt: skip
def smooth_at_zero(z, targets, losses_bar):
  """The stable form's kinks cancel at z = 0, where the loss is smooth; the rule adds one slope."""
  slope = (z > 0) - jnp.sign(z) * jnp.exp(-jnp.abs(z)) / (1 + jnp.exp(-jnp.abs(z)))
  return losses_bar * (slope - targets), -losses_bar * z
