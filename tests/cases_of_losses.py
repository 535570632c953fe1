"""The rows of the losses."""

from functools import partial

import jax
import numpy as np

import fbackprop as fb
from tests.table import CLASSES, Case, always


def outputs_and(rng, n, dtype, targets):
  outputs = (2 * rng.normal(size=(n, CLASSES))).astype(dtype)
  return outputs, targets(rng, n, dtype)


def real_targets(rng, n, dtype):
  return rng.normal(size=(n, CLASSES)).astype(dtype)


def labels(rng, n, dtype):
  return rng.integers(0, CLASSES, n, dtype=np.int32)


def one_hot_rows(rng, n, dtype):
  return np.eye(CLASSES, dtype=dtype)[labels(rng, n, dtype)]


def rows(rng, n, dtype):
  """Weights that don't sum to one."""
  return rng.uniform(0.1, 1, size=(n, CLASSES)).astype(dtype)


def at_equal_outputs(dtype, targets):
  """All outputs 0: tied logits, σ = ½."""
  return [(np.zeros((2, CLASSES), dtype), targets(np.random.default_rng(0), 2, dtype))]


def half_squares(outputs, targets):
  return ((outputs - targets) ** 2).sum(1) / 2


def cross_entropy(outputs, targets):
  if targets.ndim == 1:
    targets = jax.nn.one_hot(targets, outputs.shape[1], dtype=outputs.dtype)
  return -(targets * jax.nn.log_softmax(outputs, axis=1)).sum(1)


def binary_cross_entropy(outputs, targets):
  yes, no = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
  return -(targets * yes + (1 - targets) * no).sum(1)


def loss_row(name, loss, targets, reference):
  kinks = partial(at_equal_outputs, targets=targets)
  return Case(name, partial(always, loss), partial(outputs_and, targets=targets), reference, kinks)


LOSSES = (
  loss_row("squared_error", fb.squared_error, real_targets, half_squares),
  loss_row("softmax_cross_entropy_labels", fb.softmax_cross_entropy, labels, cross_entropy),
  loss_row("softmax_cross_entropy_one_hot", fb.softmax_cross_entropy, one_hot_rows, cross_entropy),
  loss_row("softmax_cross_entropy_rows", fb.softmax_cross_entropy, rows, cross_entropy),
  loss_row("sigmoid_cross_entropy", fb.sigmoid_cross_entropy, rows, binary_cross_entropy),
)
