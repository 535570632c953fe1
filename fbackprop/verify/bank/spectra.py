"""Complex numbers inside of a real function: spectra, phases, complex division."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.specimen import bug, positive, right


def power(x):
  """Compute the power spectrum |FFT(x)|²."""
  return jnp.abs(jnp.fft.rfft(x)) ** 2


def back_to_time(half, steps):
  """Return n times the real part of the inverse transform of half a spectrum, zero elsewhere."""
  return jnp.fft.ifft(half, steps).real * steps


@bug("x: other function, path", power, (8,), f_vjp=True)
def spectrum_by_irfft(x, y_bar):
  """irfft counts each frequency but the outer ones twice."""
  return (2 * jnp.fft.irfft(y_bar * jnp.fft.rfft(x), x.shape[0]) * x.shape[0],)


@right(power, (8,))
def right_spectrum(x, y_bar):
  """The real part of the inverse transform, each frequency once."""
  return (back_to_time(2 * y_bar * jnp.fft.rfft(x), x.shape[0]),)


def response(a, b):
  """Compute the real part of 1 / (1 + z²) at z = a + b i."""
  z = jax.lax.complex(a, b)
  return (1 / (1 + z * z)).real


def response_slope(a, b):
  """Compute the complex derivative of 1 / (1 + z²)."""
  z = jax.lax.complex(a, b)
  return -2 * z / (1 + z * z) ** 2


@bug("b: constant factor", response, positive(4), positive(4, seed=1))
def response_conjugated(a, b, y_bar):
  """The imaginary part's cotangent has the sign of the conjugate."""
  slope = response_slope(a, b)
  return y_bar * slope.real, y_bar * slope.imag


@right(response, positive(4), positive(4, seed=1))
def right_response(a, b, y_bar):
  """By Cauchy-Riemann: the derivative by b is minus the slope's imaginary part."""
  slope = response_slope(a, b)
  return y_bar * slope.real, -y_bar * slope.imag
