"""Bugs at a kink or a tie: no slope between the left and the right one, or not the reference's."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen

REFERENCE = {"ties": "reference"}


def with_zeros(x):
  """The array, with an exact zero in every third entry."""
  return x.ravel().at[::3].set(0).reshape(x.shape)


def relu_at_zero():
  """relu's slope at 0 is 1 by z >= 0; the reference's is 0, which is asked for."""

  @jax.custom_vjp
  def relu(z):
    return jax.nn.relu(z)

  def relu_fwd(z):
    return relu(z), z

  def relu_bwd(z, y_bar):
    return (jnp.where(z >= 0, y_bar, 0),)

  relu.defvjp(relu_fwd, relu_bwd)
  return Example(relu, (with_zeros(*draw((5, 4))),), None, REFERENCE)


def absolute_beyond():
  """At 0 the slope of |x| is 2, neither left nor right nor between."""

  def absolute(x):
    return jnp.abs(x)

  def f_vjp(x):
    def pullback(y_bar):
      return (y_bar * jnp.where(x == 0, 2, jnp.sign(x)).astype(x.dtype),)

    return jnp.abs(x), pullback

  return Example(absolute, (with_zeros(*draw((5, 4))),), f_vjp)


def maximum_to_both():
  """Of two equal inputs of a maximum both get the whole cotangent."""

  @jax.custom_vjp
  def maximum(a, b):
    return jnp.maximum(a, b)

  def maximum_fwd(a, b):
    return maximum(a, b), (a, b)

  def maximum_bwd(residuals, y_bar):
    a, b = residuals
    return jnp.where(a >= b, y_bar, 0), jnp.where(b >= a, y_bar, 0)

  maximum.defvjp(maximum_fwd, maximum_bwd)
  a, b = draw((4, 3), (4, 3))
  return Example(maximum, (a, b.at[::2].set(a[::2])))


def pool_to_all():
  """Every entry that equals its row's maximum gets the whole cotangent."""

  @jax.custom_vjp
  def pool(x):
    return jnp.max(x, axis=1)

  def pool_fwd(x):
    y = pool(x)
    return y, x == y[:, None]

  def pool_bwd(is_largest, y_bar):
    return (jnp.where(is_largest, y_bar[:, None], 0),)

  pool.defvjp(pool_fwd, pool_bwd)
  (x,) = draw((5, 4))
  return Example(pool, (x.at[:, 0].set(x.max(1)),))


def pool_to_none():
  """The largest entry is found by x > the largest of the others, which a tie never is."""

  def pool(x):
    return jnp.max(x, axis=1)

  def f_vjp(x):
    descending = -jnp.sort(-x, axis=1)
    first, second = descending[:, :1], descending[:, 1:2]

    def pullback(y_bar):
      return (jnp.where((x == first) & (first > second), y_bar[:, None], 0),)

    return pool(x), pullback

  (x,) = draw((5, 4))
  return Example(pool, (x.at[:, 0].set(x.max(1)),), f_vjp)


def pool_between_ties():
  """The cotangent goes to the last of equal entries; the reference shares it, as is asked for."""

  def pool(x):
    return jnp.max(x, axis=1)

  def f_vjp(x):
    last = x.shape[1] - 1 - jnp.argmax(x[:, ::-1], axis=1)

    def pullback(y_bar):
      return (y_bar[:, None] * jax.nn.one_hot(last, x.shape[1], dtype=x.dtype),)

    return pool(x), pullback

  (x,) = draw((5, 4))
  return Example(pool, (x.at[:, 0].set(x.max(1)),), f_vjp, REFERENCE)


def cross_entropy_at_zero():
  """The stable form's kinks cancel at z = 0, where the loss is smooth; the rule adds one slope."""

  @jax.custom_vjp
  def loss(z, targets):
    return jax.nn.softplus(z) - z * targets

  def loss_fwd(z, targets):
    return loss(z, targets), (z, targets)

  def loss_bwd(residuals, losses_bar):
    z, targets = residuals
    slope = (z > 0) - jnp.sign(z) * jnp.exp(-jnp.abs(z)) / (1 + jnp.exp(-jnp.abs(z)))
    return losses_bar * (slope - targets), -losses_bar * z

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, (with_zeros(*draw((5, 4))), *draw((5, 4), seed=1)))


BUGS = (
  Specimen("relu-at-zero", relu_at_zero, ("z",), ("kink",)),
  Specimen("absolute-beyond", absolute_beyond, ("x",), ("kink",)),
  Specimen("maximum-to-both", maximum_to_both, ("a", "b"), ("kink",)),
  Specimen("pool-to-all", pool_to_all, ("x",), ("kink",)),
  Specimen("pool-to-none", pool_to_none, ("x",), ("kink", "zero")),
  Specimen("pool-to-the-last", pool_between_ties, ("x",), ("kink",)),
  Specimen("smooth-at-zero", cross_entropy_at_zero, ("z",), ("kink", "other function")),
)
