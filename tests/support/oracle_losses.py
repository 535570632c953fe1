"""The losses by loops alone: one example, and its derivative by each output.

The second half of `oracle.py`, with its rules: NumPy float64 and `math`, nothing of `fbackprop`.
Each function takes the outputs of one example and its target, and returns `(loss, y_bar)`.
"""

import functools
import math

import numpy as np


def summed(function):
  """Build the loss Σ_c of `function(y_c, t_c)`, which returns one output's loss and derivative."""

  @functools.wraps(function)
  def loss_of(y, target, **options):
    loss = 0.0
    y_bar = np.zeros(len(y))
    for c in range(len(y)):
      own, y_bar[c] = function(y[c], target[c], **options)
      loss += own
    return loss, y_bar

  return loss_of


@summed
def squared_error(y, t):
  """Compute ½ Σ_c (y_c − t_c)², whose derivative is y_c − t_c."""
  return 0.5 * (y - t) ** 2, y - t


@summed
def huber(y, t, delta=1.0):
  """Compute a square for errors up to ±δ, and beyond it the tangent at ±δ."""
  error = y - t
  if abs(error) < delta:
    return 0.5 * error**2, error
  return 0.5 * delta**2 + delta * (abs(error) - delta), math.copysign(delta, error)


@summed
def log_cosh(y, t):
  """Compute Σ_c log cosh(y_c − t_c), whose derivative is tanh."""
  error = y - t
  loss = math.log(math.cosh(error)) if abs(error) < 300 else abs(error) - math.log(2)
  return loss, math.tanh(error)


@summed
def poisson_nll(y, t):
  """Compute Σ_c e^y_c − t_c y_c, whose derivative is e^y_c − t_c."""
  return math.exp(y) - t * y, math.exp(y) - t


def softmax_cross_entropy(y, target, smoothing=0.0, weights=None, ignored=None):
  """Compute −Σ_c t_c log p_c with p = softmax(y); the target is a label, or a row of weights t.

  A smoothed target has a share of every class; the weight of a class multiplies its t_c.
  """
  if np.ndim(target) == 0:
    if target == ignored:
      return 0.0, np.zeros(len(y))
    target = [1.0 if c == target else 0.0 for c in range(len(y))]
  target = [(1 - smoothing) * t + smoothing / len(y) for t in target]
  if weights is not None:
    target = [w * t for w, t in zip(weights, target, strict=True)]
  largest = max(y)  # Subtracted from all logits against overflow; p stays the same.
  exponentials = [math.exp(z - largest) for z in y]
  total = sum(exponentials)
  loss = 0.0
  for c in range(len(y)):
    if target[c] != 0:
      loss -= target[c] * (y[c] - largest - math.log(total))
  weight = sum(target)
  y_bar = [exponentials[c] / total * weight - target[c] for c in range(len(y))]
  return loss, np.array(y_bar)


@summed
def sigmoid_cross_entropy(y, t):
  """Compute −Σ_c [t log σ(y) + (1 − t) log(1 − σ(y))], whose derivative is σ(y_c) − t_c."""
  log_yes = -math.log1p(math.exp(-y)) if y > 0 else y - math.log1p(math.exp(y))
  log_no = log_yes - y  # log σ(−z) = log σ(z) − z
  return -(t * log_yes + (1 - t) * log_no), math.exp(log_yes) - t


def hinge(y, target):
  """Compute what a lead of 1 over the strongest rival lacks; tied rivals share the gradient."""
  rivals = [c for c in range(len(y)) if c != target]
  strongest = max(y[c] for c in rivals)
  missing = 1 + strongest - y[target]
  y_bar = np.zeros(len(y))
  if missing <= 0:  # At exactly 0 there is no derivative; the choice is 0.
    return 0.0, y_bar
  tied = [c for c in rivals if y[c] == strongest]
  for c in tied:
    y_bar[c] = 1 / len(tied)
  y_bar[target] = -1.0
  return missing, y_bar


LOSSES = {
  "squared_error": squared_error,
  "huber": huber,
  "log_cosh": log_cosh,
  "poisson_nll": poisson_nll,
  "softmax_cross_entropy": softmax_cross_entropy,
  "sigmoid_cross_entropy": sigmoid_cross_entropy,
  "hinge": hinge,
}
