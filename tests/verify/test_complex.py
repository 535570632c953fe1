"""Rounding inside of complex arithmetic: rules that are right where an entry nearly cancels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify import vjp

X = jnp.asarray(np.random.default_rng(0).normal(size=8), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).normal(size=8), jnp.float32)


@pytest.fixture(autouse=True)
def standard_promotion():
  """Complex numbers are made of floats."""
  with jax.numpy_dtype_promotion("standard"):
    yield


def power(x):
  """Each frequency's power, |x̂|²."""
  return jnp.abs(jnp.fft.fft(x)) ** 2


def power_vjp(x):
  z = jnp.fft.fft(x)
  y = z.real**2 + z.imag**2
  return y, lambda y_bar: (2 * x.size * jnp.fft.ifft(y_bar * z).real,)


def without_mirror_vjp(x):
  """A wrong rule: a frequency is left out."""
  z = jnp.fft.fft(x)
  y = z.real**2 + z.imag**2
  return y, lambda y_bar: (2 * x.size * jnp.fft.ifft((y_bar * z).at[3].set(0)).real,)


def rotated(x, w):
  """The real part of a product of complex numbers, whose two terms may cancel."""
  return ((x[:4] + 1j * x[4:]) * (w[:4] + 1j * w[4:])).real


def rotated_vjp(x, w):
  def pull(y_bar):
    def times(v):
      z = y_bar * jnp.conj(v[:4] + 1j * v[4:])
      return jnp.concatenate([z.real, z.imag])

    return times(w), times(x)

  return rotated(x, w), pull


def convolved(x, w):
  return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), x.size)


def convolved_vjp(x, w, conjugate=jnp.conj):
  def pull(y_bar):
    z = jnp.fft.rfft(y_bar)
    return (
      jnp.fft.irfft(z * conjugate(jnp.fft.rfft(w)), x.size),
      jnp.fft.irfft(z * conjugate(jnp.fft.rfft(x)), x.size),
    )

  return convolved(x, w), pull


def modulus(x):
  return jnp.abs(x[:4] + 1j * x[4:] * jnp.exp(1j * x[:4]))


def modulus_vjp(x):
  """By parts: z = a + ib(cos a + i sin a)."""
  a, b = x[:4], x[4:]
  re, im = a - b * jnp.sin(a), b * jnp.cos(a)
  y = jnp.sqrt(re**2 + im**2)

  def pull(y_bar):
    re_bar, im_bar = y_bar * re / y, y_bar * im / y
    a_bar = re_bar * (1 - b * jnp.cos(a)) - im_bar * b * jnp.sin(a)
    return (jnp.concatenate([a_bar, im_bar * jnp.cos(a) - re_bar * jnp.sin(a)]),)

  return y, pull


def cancelling(f_vjp, *args, leaf=0, entry=2):
  """Cotangents at which one entry of a rule's result nearly vanishes, as if by chance."""
  y, pull = f_vjp(*args)
  rng = np.random.default_rng(2)
  one, other = (np.asarray(rng.normal(size=y.shape), np.float32) for _ in range(2))
  a, b = (float(np.asarray(pull(v)[leaf], np.float64)[entry]) for v in (one, other))
  return one - other * (a / b)


RIGHT = {
  "power": (power, power_vjp, (X,)),
  "rotated": (rotated, rotated_vjp, (X, W)),
  "convolved": (convolved, convolved_vjp, (X, W)),
  "modulus": (modulus, modulus_vjp, (X,)),
}


def weighted(f, f_vjp, weights):
  """The sum of f with weights, so that its cotangents are those weights times one number."""

  def total(*args):
    return (f(*args) * weights).sum()

  def total_vjp(*args):
    y, pull = f_vjp(*args)
    return (y * weights).sum(), lambda y_bar: pull(y_bar * weights)

  return total, total_vjp


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rule_at_a_point_where_an_entry_cancels(name):
  f, f_vjp, args = RIGHT[name]
  weights = jnp.asarray(cancelling(f_vjp, *args), jnp.float32)
  total, total_vjp = weighted(f, f_vjp, weights)
  report = vjp(total, *args, f_vjp=total_vjp, level="quick")
  assert report.verdict == "pass", report.table()


def test_a_phase_that_turns_back():
  """exp(iθ) exp(-iθ) has no imaginary part but rounding, in the rule as in the function."""

  def f(x):
    z = jnp.exp(1j * x)
    return x * ((z * jnp.conj(z)).imag + 1)

  def rule(x):
    return f(x), lambda y_bar: (y_bar,)

  report = vjp(f, X, f_vjp=rule, level="quick")
  assert report.verdict == "pass", report.table()


@pytest.mark.slow
def test_a_transform_whose_entry_is_zero_up_to_rounding():
  """A constant has no frequencies but one, up to the rounding of the whole transform."""

  def f(x):
    return jnp.fft.fft(x).real

  def rule(x):
    n = jnp.arange(x.size)
    cosines = jnp.cos(2 * jnp.pi * n[:, None] * n[None] / x.size).astype(x.dtype)
    return cosines @ x, lambda y_bar: (cosines @ y_bar,)

  report = vjp(f, jnp.full(7, 0.1, jnp.float32), f_vjp=rule, level="quick")
  assert report.verdict == "pass", report.table()


@pytest.mark.parametrize(
  ("name", "rule"),
  [
    ("power", without_mirror_vjp),
    ("power", lambda x: (power_vjp(x)[0], lambda b: (1.0001 * power_vjp(x)[1](b)[0],))),
    ("convolved", lambda x, w: convolved_vjp(x, w, conjugate=lambda z: z)),
    ("rotated", lambda x, w: (rotated(x, w), lambda b: rotated_vjp(x, w)[1](b)[::-1])),
  ],
)
def test_a_wrong_rule_of_complex_arithmetic(name, rule):
  f, _, args = RIGHT[name]
  report = vjp(f, *args, f_vjp=rule, level="quick")
  assert report.verdict == "fail", report.table()
  assert report.findings[0].leaf in ("x", "w")
  assert report.findings[0].check == "maths"
