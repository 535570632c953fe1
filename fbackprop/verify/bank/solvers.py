"""Functions that autodiff can't differentiate, where rules are written by hand: loops that end by a
tolerance, special functions, callbacks. Their only witness are differences.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.specimen import bug, draw, right


def resolvent(x):
  """Solve h + tanh(h) = x by Newton's method, until h rests."""

  def improve(state):
    h = state[0]
    return h - (h + jnp.tanh(h) - x) / (2 - jnp.tanh(h) ** 2), h

  def moves(state):
    h, before = state
    return (jnp.abs(h - before) > 1e-6 * (1 + jnp.abs(h))).any()

  return jax.lax.while_loop(moves, improve, (x, x + 1))[0]


def resolvent_slope(x):
  """Compute the implicit derivative of `resolvent`."""
  return 1 / (2 - jnp.tanh(resolvent(x)) ** 2)


@bug("x: constant factor, other function", resolvent, (6,), level="standard")
def resolvent_above_one(x, y_bar):
  """The slope is tripled above one."""
  return (y_bar * jnp.where(x > 1, 3, 1) * resolvent_slope(x),)


@bug("x: wrong point, other function", resolvent, (6,), custom_jvp=True)
def resolvent_at_the_argument(x, x_dot):
  """The slope is taken at the argument instead of the solution."""
  return x_dot / (2 - jnp.tanh(x) ** 2)


@right(resolvent, (6,))
def right_resolvent(x, y_bar):
  """The implicit derivative, of a loop that ends by a tolerance."""
  return (y_bar * resolvent_slope(x),)


def bessel(x):
  """Compute the Bessel function I₀ by NumPy."""
  out = jax.ShapeDtypeStruct(x.shape, x.dtype)
  return jax.pure_callback(
    lambda x: np.i0(np.asarray(x, np.float64)).astype(x.dtype), out, x, vmap_method="broadcast_all"
  )


@bug("x: constant factor, semantic", bessel, (5,))
def bessel_tripled(x, y_bar):
  """Three times the derivative I₁, of a function that is known by its values alone."""
  return (3 * y_bar * jax.scipy.special.i1(x),)


@right(bessel, (5,))
def right_bessel(x, y_bar):
  """The derivative of I₀ is I₁."""
  return (y_bar * jax.scipy.special.i1(x),)


def beta_share(x):
  """Compute the regularized incomplete beta function of 2 and 3."""
  return jax.scipy.special.betainc(2.0, 3.0, x)


def between_zero_and_one():
  """Draw numbers between 0.1 and 0.9."""
  return 0.5 + 0.4 * jnp.tanh(draw((5,))[0])


@bug("x: other function, semantic", beta_share, between_zero_and_one)
def density_exponents(x, y_bar):
  """The density has the exponent b for b - 1."""
  return (12 * y_bar * x * (1 - x) ** 3,)


@right(beta_share, between_zero_and_one)
def right_density(x, y_bar):
  """The derivative of a distribution function is its density."""
  return (12 * y_bar * x * (1 - x) ** 2,)
