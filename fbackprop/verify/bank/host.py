"""Rules of the host: written in NumPy, branching on values, or raising where the function does."""

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import bug, normal, right


def in_numpy(x, w):
  """Compute tanh(x w) in NumPy, and keep the arguments and the output."""
  x, w = np.asarray(x), np.asarray(w)
  y = np.tanh(x @ w)
  return y, (x, w, y)


@bug("w: path, other function", ref.tanh_layer, (4, 3), (3, 2), forward=in_numpy, f_vjp=True)
def numpy_without_slope(x, w, y, y_bar):
  """In NumPy: the weights' cotangent lacks the slope of tanh."""
  y_bar = np.asarray(y_bar)
  return (y_bar * (1 - y * y)) @ w.T, x.T @ y_bar


@right(ref.tanh_layer, (4, 3), (3, 2), forward=in_numpy, f_vjp=True)
def right_numpy(x, w, y, y_bar):
  """In NumPy, which can't be traced."""
  z_bar = np.asarray(y_bar) * (1 - y * y)
  return z_bar @ w.T, x.T @ z_bar


def leaky(x):
  """Compute the leaky positive part."""
  return jnp.where(x > 0, x, 0.1 * x)


@bug("x: constant factor, other function, subset of examples", leaky, normal(8, seed=0, times=2),
     f_vjp=True)  # fmt: skip
def branch_in_python(x, y_bar):
  """A loop of Python over the entries gives those below -1 another slope."""
  bar = np.array(y_bar)
  for i, value in enumerate(np.asarray(x)):
    bar[i] *= 1 if value > 0 else 0.1 if value > -1 else 0.3
  return (jnp.asarray(bar),)


def pairs(x):
  """Add neighbours; an odd number of entries isn't accepted."""
  if isinstance(x, jax.core.Tracer) and x.shape[0] % 2:
    raise ValueError("x must have an even length")
  return x.reshape(-1, 2).sum(1)


@right(pairs, (6,))
def right_even_lengths(x, y_bar):
  """Where the function raises, the rule may too."""
  return (jnp.repeat(y_bar, 2),)
