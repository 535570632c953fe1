"""Rules that are meant to differ from the derivative: declared by `slope=` or `linear=False`."""

import jax.numpy as jnp

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import bug, normal, right


def itself(x):
  """Return x."""
  return x


def negated(x):
  """Return -x."""
  return -x


ROUND = lambda x: jnp.round(x), normal(6, seed=0, times=3)


@bug("x: semantic", *ROUND)
def straight_through_undeclared(x, y_bar):
  """Rounding with the identity's slope, which isn't declared."""
  return (y_bar,)


@bug("x: constant factor", *ROUND, slope=itself)
def straight_through_doubled(x, y_bar):
  """Twice the slope that is declared."""
  return (2 * y_bar,)


@right(*ROUND, slope=itself)
def right_straight_through(x, y_bar):
  """Rounding with the identity's slope."""
  return (y_bar,)


@right(lambda x: jnp.sign(x), (8,), slope=itself, custom_jvp=True)
def right_straight_through_tangent(x, x_dot):
  """The sign with the identity's slope, in forward mode."""
  return x_dot


@right(itself, (6,), slope=negated)
def right_reversal(x, y_bar):
  """A gradient reversal."""
  return (-y_bar,)


def spike(v):
  """Return one where v is positive, else zero."""
  return (v > 0).astype(v.dtype)


def fast_sigmoid(v):
  """Compute the function whose slope is the spike's surrogate."""
  return v / (1 + 10 * jnp.abs(v))


@right(spike, (8,), slope=fast_sigmoid)
def right_spike(v, y_bar):
  """A spiking neuron with the slope of a fast sigmoid."""
  return (y_bar / (1 + 10 * jnp.abs(v)) ** 2,)


@bug("z: other function", ref.tanh, (6,), linear=False)
def clipped_and_wrong(z, y_bar):
  """The cotangent is clipped, as declared; the slope of tanh is left out."""
  return (jnp.clip(y_bar, -0.1, 0.1),)


@right(ref.tanh, (6,), linear=False)
def right_clipped(z, y_bar):
  """The cotangent is clipped, as declared."""
  return (jnp.clip(y_bar, -0.1, 0.1) * (1 - jnp.tanh(z) ** 2),)
