"""Activation gates and losses in NumPy's longdouble, as the terms of their sums.

Each function returns the terms of the value and the terms of the slope. The truth is their sum;
where terms of both signs cancel, the largest term determines the attainable accuracy of any rounded
computation. No numbers of equal sign are subtracted, so that the result has longdouble's accuracy.
On machines where longdouble is float64 it is still accurate enough for float32.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Wide = npt.NDArray[Any]
Terms = tuple[Wide, ...]


# --- Gates of one input ---------------------------------------------------------------------------


def sigma(z: Wide) -> Wide:
  """Compute the sigmoid, without cancellation in either tail."""
  return 1 / (1 + np.exp(-z))


def normal_cdf(z: Wide) -> Wide:
  """Compute Φ, in float64."""
  erfc = np.vectorize(math.erfc, otypes=[np.longdouble])
  return 0.5 * np.asarray(erfc(-z.astype(np.float64) / math.sqrt(2)))


def relu(z: Wide) -> tuple[Terms, Terms]:
  return (np.maximum(z, 0),), ((z > 0) * np.ones_like(z),)


def identity(z: Wide) -> tuple[Terms, Terms]:
  return (z,), (np.ones_like(z),)


def sigmoid(z: Wide) -> tuple[Terms, Terms]:
  return (sigma(z),), (sigma(z) * sigma(-z),)


def tanh(z: Wide) -> tuple[Terms, Terms]:
  return (np.tanh(z),), (1 / np.cosh(z) ** 2,)


def gelu(z: Wide) -> tuple[Terms, Terms]:
  density = np.exp(-z * z / 2) / np.sqrt(2 * np.longdouble(math.pi))
  return (z * normal_cdf(z),), (normal_cdf(z), z * density)


def leaky_relu(z: Wide) -> tuple[Terms, Terms]:
  slope = np.where(z > 0, 1, np.longdouble("0.01"))
  return (slope * z,), (slope,)


def clip(z: Wide, low: float, high: float) -> tuple[Terms, Terms]:
  return (np.clip(z, low, high),), (np.where((low < z) & (z < high), 1, 0 * z),)


relu6, hard_tanh = partial(clip, low=0, high=6), partial(clip, low=-1, high=1)


def softplus(z: Wide) -> tuple[Terms, Terms]:
  return (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))),), (sigma(z),)


def elu(z: Wide, alpha: Any = 1, scale: Any = 1) -> tuple[Terms, Terms]:
  below = np.minimum(z, 0)
  value, slope = np.where(z > 0, z, alpha * np.expm1(below)), alpha * np.exp(below)
  return (scale * value,), (scale * np.where(z > 0, 1, slope),)


def selu(z: Wide) -> tuple[Terms, Terms]:
  return elu(z, np.longdouble("1.67326324235437728"), np.longdouble("1.05070098735548049"))


def gelu_tanh(z: Wide) -> tuple[Terms, Terms]:
  """Return the terms of z σ(2u), u the polynomial under the tanh."""
  c, cubic = np.sqrt(8 / np.longdouble(np.pi)), np.longdouble("0.044715")
  v, v_slope = c * (z + cubic * z**3), c * (1 + 3 * cubic * z**2)
  return (z * sigma(v),), (sigma(v), z * sigma(v) * sigma(-v) * v_slope)


def silu(z: Wide) -> tuple[Terms, Terms]:
  return (z * sigma(z),), (sigma(z), z * sigma(z) * sigma(-z))


def mish(z: Wide) -> tuple[Terms, Terms]:
  (y,), (y_slope,) = softplus(z)
  return (z * np.tanh(y),), (np.tanh(y), z * y_slope / np.cosh(y) ** 2)


# --- Losses, and their slopes by the outputs ------------------------------------------------------


def added(*terms: Wide) -> Terms:
  """Return terms of every output as terms of the example's sum."""
  return tuple(column for term in terms for column in term.T)


def squared_error(y: Wide, t: Wide) -> tuple[Terms, Terms]:
  return added((y - t) ** 2 / 2), (y - t,)


def huber(y: Wide, t: Wide) -> tuple[Terms, Terms]:
  error = np.abs(y - t)
  return added(np.where(error <= 1, error**2 / 2, error - 0.5)), (np.clip(y - t, -1, 1),)


def log_cosh(y: Wide, t: Wide) -> tuple[Terms, Terms]:
  error = np.abs(y - t)
  near = np.log1p(2 * np.sinh(np.minimum(error, 1) / 2) ** 2)
  far = error + np.log1p(np.exp(-2 * error)) - np.log(np.longdouble(2))
  return added(np.where(error < 1, near, far)), (np.tanh(y - t),)


def poisson_nll(z: Wide, t: Wide) -> tuple[Terms, Terms]:
  return added(np.exp(z), -t * z), (np.exp(z), -t)


def hinge(z: Wide, labels: Wide) -> tuple[Terms, Terms]:
  is_own = labels[:, None] == np.arange(z.shape[1])
  rivals = np.where(is_own, -np.inf, z)
  violation = np.maximum(0, 1 + rivals.max(1) - z[is_own])
  rows = (rivals == rivals.max(1, keepdims=True)).astype(z.dtype) - is_own
  return (violation,), (np.where(violation[:, None] > 0, rows, 0),)


def softmax_cross_entropy(z: Wide, t: Wide) -> tuple[Terms, Terms]:
  """Return the terms of log Σ e^(z_k − z_c), and both terms of p Σ t − t, without cancellation."""
  if t.ndim == 1:
    t = np.eye(z.shape[1], dtype=z.dtype)[t]
  classes = range(z.shape[1])
  shifted = z - z.max(1, keepdims=True)
  e = np.exp(shifted)
  others = np.stack([np.delete(e, c, axis=1).sum(1) for c in classes], axis=1)
  largest = z.argmax(1)[:, None]
  surprise = np.log1p(np.take_along_axis(others, largest, 1)) - shifted
  other_targets = np.stack([np.delete(t, c, axis=1).sum(1) for c in classes], axis=1)
  total = e.sum(1, keepdims=True)
  losses = np.where(t == 0, 0, t * surprise)
  return (losses.sum(1),), (e / total * other_targets, -t * others / total)


def sigmoid_cross_entropy(z: Wide, t: Wide) -> tuple[Terms, Terms]:
  yes, no = softplus(z)[0][0], softplus(-z)[0][0]
  return added(t * no, (1 - t) * yes), ((1 - t) * sigma(z), -t * sigma(-z))
