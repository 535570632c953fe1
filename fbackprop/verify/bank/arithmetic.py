"""Bugs of elementary arithmetic: a sign, a factor, an exponent, the other operand."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen


def sign_of_center():
  """The distance's second operand gets the sign of the first."""

  def distance(x, centers):
    return 0.5 * jnp.sum((x - centers) ** 2, axis=-1)

  def f_vjp(x, centers):
    difference = x - centers

    def pullback(y_bar):
      x_bar = y_bar[:, None] * difference
      return x_bar, x_bar

    return distance(x, centers), pullback

  return Example(distance, draw((5, 3), (5, 3)), f_vjp)


def squares_without_two():
  """The square's factor 2 is forgotten."""

  @jax.custom_vjp
  def energy(x):
    return jnp.sum(x**2)

  def energy_fwd(x):
    return energy(x), x

  def energy_bwd(x, energy_bar):
    return (energy_bar * x,)

  energy.defvjp(energy_fwd, energy_bwd)
  return Example(energy, draw((5, 3)))


def variance_unbiased():
  """The variance divides by N, its rule by N - 1."""

  @jax.custom_vjp
  def variance(x):
    return jnp.var(x, axis=0)

  def variance_fwd(x):
    return variance(x), x - x.mean(0)

  def variance_bwd(centered, y_bar):
    return (2 * y_bar * centered / (centered.shape[0] - 1),)

  variance.defvjp(variance_fwd, variance_bwd)
  return Example(variance, draw((6, 3)))


def product_own_factor():
  """The cotangent of a product's first factor is multiplied by that factor, not by the other."""

  @jax.custom_vjp
  def multiply(a, b):
    return a * b

  def multiply_fwd(a, b):
    return a * b, (a, b)

  def multiply_bwd(residuals, y_bar):
    a, _ = residuals
    return y_bar * a, y_bar * a

  multiply.defvjp(multiply_fwd, multiply_bwd)
  return Example(multiply, draw((4, 3), (4, 3)))


def quotient_denominator():
  """The denominator's derivative divides by b, not by b squared."""

  def quotient(a, b):
    return a / b

  def f_vjp(a, b):
    def pullback(y_bar):
      return y_bar / b, -y_bar * a / b

    return a / b, pullback

  return Example(quotient, (*draw((4, 3)), *draw_positive((4, 3), seed=1)), f_vjp)


def power_exponent():
  """The derivative of x**3 keeps the exponent."""

  @jax.custom_vjp
  def cube(x):
    return x**3

  def cube_fwd(x):
    return x**3, x

  def cube_bwd(x, y_bar):
    return (y_bar * 3 * x**3,)

  cube.defvjp(cube_fwd, cube_bwd)
  return Example(cube, draw((7,)))


def product_cross_term():
  """In (a + b)² the cross term belongs to both, and b's is forgotten."""

  def square_of_sum(a, b):
    return a * a + 2 * a * b + b * b

  def f_vjp(a, b):
    def pullback(y_bar):
      return y_bar * (2 * a + 2 * b), y_bar * 2 * b

    return square_of_sum(a, b), pullback

  return Example(square_of_sum, draw((6,), (6,)), f_vjp)


BUGS = (
  Specimen("sign-of-center", sign_of_center, ("centers",), ("constant factor",)),
  Specimen("squares-without-two", squares_without_two, ("x",), ("constant factor",)),
  Specimen("variance-unbiased", variance_unbiased, ("x",), ("constant factor",)),
  Specimen("product-own-factor", product_own_factor, ("a",), ("wrong point",)),
  Specimen("quotient-denominator", quotient_denominator, ("b",), ("other function", "wrong point")),
  Specimen("power-exponent", power_exponent, ("x",), ("other function", "wrong point")),
  Specimen("product-cross-term", product_cross_term, ("b",), ("path",)),
)
