"""The losses by loops alone: one example, and its derivative by each output.

The second half of `oracle.py`, with its rules: NumPy float64 and `math`, nothing of `fbackprop`.
Each function takes the outputs of one example and its target, and returns `(loss, y_bar)`.
"""

import math

import numpy as np


def squared_error(y, target):
  """Compute ½ Σ_c (y_c − t_c)², whose derivative is y_c − t_c."""
  loss = 0.0
  y_bar = np.zeros(len(y))
  for c in range(len(y)):
    loss += 0.5 * (y[c] - target[c]) ** 2
    y_bar[c] = y[c] - target[c]
  return loss, y_bar


def huber(y, target, delta=1.0):
  """Compute a square for errors up to ±δ, and beyond it the tangent at ±δ."""
  loss = 0.0
  y_bar = np.zeros(len(y))
  for c in range(len(y)):
    error = y[c] - target[c]
    if abs(error) < delta:
      loss += 0.5 * error**2
      y_bar[c] = error
    else:
      loss += 0.5 * delta**2 + delta * (abs(error) - delta)
      y_bar[c] = math.copysign(delta, error)
  return loss, y_bar


def log_cosh(y, target):
  """Compute Σ_c log cosh(y_c − t_c), whose derivative is tanh."""
  loss = 0.0
  y_bar = np.zeros(len(y))
  for c in range(len(y)):
    error = y[c] - target[c]
    loss += math.log(math.cosh(error)) if abs(error) < 300 else abs(error) - math.log(2)
    y_bar[c] = math.tanh(error)
  return loss, y_bar


def poisson_nll(y, target):
  """Compute Σ_c e^y_c − t_c y_c, whose derivative is e^y_c − t_c."""
  loss = 0.0
  y_bar = np.zeros(len(y))
  for c in range(len(y)):
    loss += math.exp(y[c]) - target[c] * y[c]
    y_bar[c] = math.exp(y[c]) - target[c]
  return loss, y_bar


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


def sigmoid_cross_entropy(y, target):
  """Compute −Σ_c [t log σ(y) + (1 − t) log(1 − σ(y))], whose derivative is σ(y_c) − t_c."""
  loss = 0.0
  y_bar = np.zeros(len(y))
  for c in range(len(y)):
    log_yes = -math.log1p(math.exp(-y[c])) if y[c] > 0 else y[c] - math.log1p(math.exp(y[c]))
    log_no = log_yes - y[c]  # log σ(−z) = log σ(z) − z
    loss -= target[c] * log_yes + (1 - target[c]) * log_no
    y_bar[c] = math.exp(log_yes) - target[c]
  return loss, y_bar


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
