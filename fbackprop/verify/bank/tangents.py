"""Rules in forward mode: a `custom_jvp` at any depth, and tangents beside the function."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import (
  Example,
  bug,
  draw,
  labels,
  normal_with_zeros,
  right,
)


@bug("z: other function, subset of examples", ref.softplus, (5, 3), level="standard",
     custom_jvp=True)  # fmt: skip
def tangent_beyond_twenty(z, z_dot):
  """Beyond 20, where softplus is its argument, the slope is 1.5."""
  return z_dot * jnp.where(z > 20, 1.5, jax.nn.sigmoid(z))


@bug("x, w: zero, path", ref.tanh_layer, (4, 3), (3, 2), f_jvp=True)
def tangent_without_weights(x, w, x_dot, w_dot):
  """The weights' tangent is left out."""
  return (1 - jnp.tanh(x @ w) ** 2) * (x_dot @ w)


@bug("cotangent", ref.tanh, (5,), custom_jvp=True)
def tangent_by_size(z, z_dot):
  """The tangent's size is taken for the tangent."""
  return (1 - jnp.tanh(z) ** 2) * jnp.abs(z_dot)


@bug("w, x: wrong point, other function")
def tangent_within_a_scan():
  """A layer within a scan within a jit, whose activation's slope is taken at its input."""
  act = jax.custom_jvp(jnp.tanh)
  act.defjvps(lambda z_dot, y, z: z_dot * (1 - z * z))

  @jax.jit
  def two_layers(w, x):
    return jax.lax.scan(lambda h, _: (act(h @ w), None), x, None, length=2)[0]

  return Example(two_layers, draw((3, 3), (4, 3)))


@bug("a, b: transposed, semantic")
def tangent_of_a_linear_solve():
  """The transposed system of a `custom_linear_solve` is solved with the matrix itself."""

  def solve(a, b):
    def own(_, right_hand_side):
      return jnp.linalg.solve(a, right_hand_side)

    return jax.lax.custom_linear_solve(lambda x: a @ x, b, own, own)

  a, b = draw((3, 3), (3,))
  return Example(solve, (a + 3 * jnp.eye(3, dtype=a.dtype), b))


@right(ref.relu, normal_with_zeros(5, 3), custom_jvp=True)
def right_tangent_half_at_zero(z, z_dot):
  """A positive part whose slope at zero is one half."""
  return z_dot * jnp.heaviside(z, 0.5)


@right(ref.chosen, (5, 3), labels(5, 3), f_jvp=True)
def right_tangent_with_labels(logits, labels, logits_dot, labels_dot):
  """The labels' tangent is float0, and isn't used."""
  return ref.chosen(logits_dot, labels)


@right(ref.tanh_layer, (4, 3), (3, 2), f_jvp=True)
def right_tangent_of_a_layer(x, w, x_dot, w_dot):
  """The tangents of both factors."""
  return (1 - jnp.tanh(x @ w) ** 2) * (x_dot @ w + x @ w_dot)


@right()
def right_tangent_of_one_argument():
  """Of a float and an integer argument, `defjvps` has a rule for the float alone."""
  power = jax.custom_jvp(lambda x, k: x**2 * k)
  power.defjvps(lambda x_dot, y, x, k: 2 * x * k * x_dot, None)
  return Example(power, (*draw((4,)), jnp.arange(4)))
