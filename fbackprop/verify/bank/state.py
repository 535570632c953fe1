"""Bugs of hidden state: what a call does depends on the calls before it."""

import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


def last_residual():
  """The input is kept in one place for all calls, so that a pullback sees the latest call's."""
  saved = {}

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    saved["x"] = x

    def pullback(y_bar):
      return y_bar @ w.T, saved["x"].T @ y_bar

    return x @ w, pullback

  return Example(linear, draw((5, 4), (4, 3)), f_vjp)


def kept_by_shape():
  """The tanh of the input is kept for its shape, and used for the next input of that shape."""
  kept = {}

  def tanh(z):
    return jnp.tanh(z)

  def f_vjp(z):
    y = jnp.tanh(z)

    def pullback(y_bar):
      if z.shape not in kept:
        kept[z.shape] = np.asarray(1 - y * y)
      return (y_bar * kept[z.shape],)

    return y, pullback

  return Example(tanh, draw((5, 3)), f_vjp)


def counted_calls():
  """A warm-up was left in: after three calls of the pullback the cotangent is halved."""
  calls = []

  def square(x):
    return x * x

  def f_vjp(x):
    def pullback(y_bar):
      calls.append(None)
      return (y_bar * x * (2 if len(calls) <= 3 else 1),)

    return x * x, pullback

  return Example(square, draw((5, 3)), f_vjp)


def numpy_noise():
  """Noise of a thousandth, from a NumPy generator, smooths the cotangent."""
  generator = np.random.default_rng(0)

  def scale(x, gain):
    return x * gain

  def f_vjp(x, gain):
    def pullback(y_bar):
      noise = 1 + 1e-3 * generator.normal(size=x.shape).astype(np.float32)
      return y_bar * gain * noise, (y_bar * x).sum(0)

    return x * gain, pullback

  return Example(scale, draw((5, 3), (3,)), f_vjp)


def running_mean():
  """The cotangent is averaged with that of the call before."""
  before = []

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    def pullback(y_bar):
      w_bar = x.T @ y_bar
      before.append(w_bar)
      if len(before) > 1 and before[-2].shape == w_bar.shape:
        w_bar = 0.9 * w_bar + 0.1 * before[-2]
      return y_bar @ w.T, w_bar

    return x @ w, pullback

  return Example(linear, draw((5, 4), (4, 3)), f_vjp)


def accumulated():
  """Cotangents are added to what is there, and nobody sets it to zero: the second call doubles."""
  grads = {}

  def shift(x, b):
    return jnp.sin(x + b)

  def f_vjp(x, b):
    def pullback(y_bar):
      z_bar = y_bar * jnp.cos(x + b)
      grads["b"] = grads.get("b", 0) + z_bar.sum(0)
      return z_bar, grads["b"]

    return jnp.sin(x + b), pullback

  return Example(shift, draw((5, 3), (3,)), f_vjp)


BUGS = (
  Specimen("last-residual", last_residual, ("w",), ("state", "wrong point")),
  Specimen("kept-by-shape", kept_by_shape, ("z",), ("state", "raises", "wrong point")),
  Specimen("counted-calls", counted_calls, ("x",), ("state", "constant factor")),
  Specimen("numpy-noise", numpy_noise, ("x",), ("state",)),
  Specimen("running-mean", running_mean, ("w",), ("state", "raises")),
  Specimen("accumulated", accumulated, ("b",), ("state", "raises")),
)
