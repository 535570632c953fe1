"""Elementary arithmetic: a wrong sign, factor, exponent or operand."""

import jax.numpy as jnp

from fbackprop.verify.bank.arguments import positive
from fbackprop.verify.bank.references import cube, energy
from fbackprop.verify.bank.specimen import bug


def distance(x, centers):
  """Compute ½ |x - c|² for each example."""
  return 0.5 * jnp.sum((x - centers) ** 2, axis=-1)


@bug(distance, (5, 3), (5, 3), leaves="centers", causes="constant factor", f_vjp=True)
def sign_of_center(x, centers, y_bar):
  """The second operand of a distance gets the sign of the first."""
  x_bar = y_bar[:, None] * (x - centers)
  return x_bar, x_bar


@bug(energy, (5, 3), leaves="x", causes="constant factor")
def squares_without_two(x, energy_bar):
  """The factor 2 of the square's derivative is missing."""
  return (energy_bar * x,)


def variance(x):
  """Compute the variance over the examples."""
  return jnp.var(x, axis=0)


@bug(variance, (6, 3), leaves="x", causes="constant factor")
def variance_unbiased(x, y_bar):
  """The variance divides by N, its rule by N - 1."""
  return (2 * y_bar * (x - x.mean(0)) / (x.shape[0] - 1),)


def multiply(a, b):
  """Compute a b."""
  return a * b


@bug(multiply, (4, 3), (4, 3), leaves="a", causes="wrong point")
def product_own_factor(a, b, y_bar):
  """The cotangent of a product's first factor is multiplied by that factor instead of the other."""
  return y_bar * a, y_bar * a


def quotient(a, b):
  """Compute a / b."""
  return a / b


@bug(quotient, (4, 3), positive(4, 3, seed=1), leaves="b", causes="other function, wrong point",
     f_vjp=True)  # fmt: skip
def quotient_denominator(a, b, y_bar):
  """The denominator's derivative divides by b instead of b squared."""
  return y_bar / b, -y_bar * a / b


@bug(cube, (7,), leaves="x", causes="other function, wrong point")
def power_exponent(x, y_bar):
  """The derivative of x³ doesn't reduce the exponent."""
  return (y_bar * 3 * x**3,)


def square_of_sum(a, b):
  """Compute (a + b)² in expanded form."""
  return a * a + 2 * a * b + b * b


@bug(square_of_sum, (6,), (6,), leaves="b", causes="path", f_vjp=True)
def product_cross_term(a, b, y_bar):
  """The cross term of (a + b)² contributes to both cotangents; b's contribution is missing."""
  return y_bar * (2 * a + 2 * b), y_bar * 2 * b
