"""Hidden state: the result of a call depends on earlier calls.

Each function here creates new state, which the rule closes over.
"""

import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.references import linear, scale, square, tanh
from fbackprop.verify.bank.specimen import Example, bug, example


@bug(leaves="w", causes="state, wrong point")
def last_residual():
  """The input is stored in one place for all calls, so that a pullback reads the latest call's."""
  saved = {}

  def f_vjp(x, w):
    saved["x"] = x

    def pullback(y_bar):
      return y_bar @ w.T, saved["x"].T @ y_bar

    return x @ w, pullback

  return Example(linear, draw((5, 4), (4, 3)), f_vjp)


@bug(leaves="z", causes="state, raises, wrong point")
def kept_by_shape():
  """The slope of tanh is cached by shape, and reused for the next input of that shape."""
  kept = {}

  def rule(z, y_bar):
    if z.shape not in kept:
      kept[z.shape] = np.asarray(1 - jnp.tanh(z) ** 2)
    return (y_bar * kept[z.shape],)

  return example(tanh, rule, (5, 3), f_vjp=True)


@bug(leaves="x", causes="state, constant factor")
def counted_calls():
  """A warm-up remains in the rule: after three calls of the pullback the cotangent is halved."""
  calls = []

  def rule(x, y_bar):
    calls.append(None)
    return (y_bar * x * (2 if len(calls) <= 3 else 1),)

  return example(square, rule, (5, 3), f_vjp=True)


@bug(leaves="x", causes="state")
def numpy_noise():
  """Noise of a thousandth, from a NumPy generator, is added to the cotangent."""
  generator = np.random.default_rng(0)

  def rule(x, gain, y_bar):
    noise = 1 + 1e-3 * generator.normal(size=x.shape).astype(np.float32)
    return y_bar * gain * noise, (y_bar * x).sum(0)

  return example(scale, rule, (5, 3), (3,), f_vjp=True)


@bug(leaves="w", causes="state, raises")
def running_mean():
  """The cotangent is averaged with that of the preceding call."""
  before = []

  def rule(x, w, y_bar):
    w_bar = x.T @ y_bar
    before.append(w_bar)
    if len(before) > 1 and before[-2].shape == w_bar.shape:
      w_bar = 0.9 * w_bar + 0.1 * before[-2]
    return y_bar @ w.T, w_bar

  return example(linear, rule, (5, 4), (4, 3), f_vjp=True)


def sine_of_shifted(x, b):
  """Compute sin(x + b)."""
  return jnp.sin(x + b)


@bug(leaves="b", causes="state, raises")
def accumulated():
  """Cotangents are accumulated and never reset: the second call doubles."""
  grads = {}

  def rule(x, b, y_bar):
    z_bar = y_bar * jnp.cos(x + b)
    grads["b"] = grads.get("b", 0) + z_bar.sum(0)
    return z_bar, grads["b"]

  return example(sine_of_shifted, rule, (5, 3), (3,), f_vjp=True)
