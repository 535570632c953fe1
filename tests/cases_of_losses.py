"""The rows of the losses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbackprop as fb
from tests.table import CLASSES, Case, always


def outputs_and(rng, n, dtype, targets):
  outputs = (2 * rng.normal(size=(n, CLASSES))).astype(dtype)
  return outputs, targets(rng, n, dtype)


def real_targets(rng, n, dtype):
  return rng.normal(size=(n, CLASSES)).astype(dtype)


def labels(rng, n, dtype):
  return rng.integers(0, CLASSES, n, dtype=np.int32)


def labels_with_gaps(rng, n, dtype):
  """Every third row is to be ignored; not the second, in which a law plants a NaN."""
  return np.where(np.arange(n) % 3 == 0, -1, labels(rng, n, dtype)).astype(np.int32)


def one_hot_rows(rng, n, dtype):
  return np.eye(CLASSES, dtype=dtype)[labels(rng, n, dtype)]


def rows(rng, n, dtype):
  """Weights that don't sum to one."""
  return rng.uniform(0.1, 1, size=(n, CLASSES)).astype(dtype)


def counts(rng, n, dtype):
  return rng.poisson(1, size=(n, CLASSES)).astype(dtype)


def for_two_costs(rng, n, dtype):
  return labels(rng, n, dtype) % 3, real_targets(rng, n, dtype)[:, :2]


def at_equal_outputs(dtype, targets):
  """All outputs 0: tied logits, σ = ½."""
  return [(np.zeros((2, CLASSES), dtype), targets(np.random.default_rng(0), 2, dtype))]


def where_huber_bends(dtype):
  """Errors 0 and ±δ, where the square meets the line, and one beyond."""
  return [(np.array([[0, 0.5, -0.5, 2]], dtype), np.zeros((1, CLASSES), dtype))]


def where_log_cosh_branches(dtype):
  return [(np.array([[0, 1, -1, 20]], dtype), np.zeros((1, CLASSES), dtype))]


def where_the_hinge_bends(dtype):
  """A lead of exactly 1; two and three tied rivals; a right label that leads too little."""
  scores = [[2, 1, 0, -1], [2, 1, 1, 0], [0, 0, 0, 0], [1, 3, 3, 0], [1, 1, 2, 0]]
  return [(np.array(scores, dtype), np.array([0, 0, 1, 0, 2], np.int32))]


def half_squares(outputs, targets):
  return ((outputs - targets) ** 2).sum(1) / 2


def huber_of_optax(outputs, targets):
  return optax.losses.huber_loss(outputs, targets, delta=0.5).sum(1)


def log_of_cosh(outputs, targets):
  return jnp.log(jnp.cosh(outputs - targets)).sum(1)


def cross_entropy(outputs, targets):
  if targets.ndim == 1:
    targets = jax.nn.one_hot(targets, outputs.shape[1], dtype=outputs.dtype)
  return -(targets * jax.nn.log_softmax(outputs, axis=1)).sum(1)


OPTIONS = {"label_smoothing": 0.25, "class_weights": (0.5, 1.0, 2.0, 0.0), "ignore_label": -1}


def cross_entropy_with_options(outputs, targets):
  t = jax.nn.one_hot(targets, CLASSES, dtype=outputs.dtype) * 0.75 + 0.25 / CLASSES
  weights = jnp.asarray(OPTIONS["class_weights"], outputs.dtype)[None]
  return jnp.where(targets == -1, 0.0, cross_entropy(outputs, weights * t))


def binary_cross_entropy(outputs, targets):
  yes, no = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
  return -(targets * yes + (1 - targets) * no).sum(1)


def margin_to_the_best_rival(outputs, targets):
  own = jax.nn.one_hot(targets, CLASSES, dtype=bool)
  rival = jnp.where(own, -jnp.inf, outputs).max(1)
  return jax.nn.relu(1 + rival - jnp.where(own, outputs, 0.0).sum(1))


def poisson(outputs, targets):
  return (jnp.exp(outputs) - targets * outputs).sum(1)


# The two judge one output in common, and leave none out.
TWO_COSTS = fb.combine(
  (0.5, fb.softmax_cross_entropy, slice(0, 3)), (2.0, fb.squared_error, slice(-2, None))
)


def two_costs(outputs, targets):
  first = cross_entropy(outputs[:, :3], targets[0])
  return 0.5 * first + 2 * half_squares(outputs[:, 2:], targets[1])


def loss_row(name, loss, targets, reference, kinks=None):
  kinks = partial(at_equal_outputs, targets=targets) if kinks is None else kinks
  return Case(name, partial(always, loss), partial(outputs_and, targets=targets), reference, kinks)


LOSSES = (
  loss_row("squared_error", fb.squared_error, real_targets, half_squares),
  loss_row("huber", fb.huber_with(0.5), real_targets, huber_of_optax, where_huber_bends),
  loss_row("log_cosh", fb.log_cosh, real_targets, log_of_cosh, where_log_cosh_branches),
  loss_row("softmax_cross_entropy_labels", fb.softmax_cross_entropy, labels, cross_entropy),
  loss_row("softmax_cross_entropy_one_hot", fb.softmax_cross_entropy, one_hot_rows, cross_entropy),
  loss_row("softmax_cross_entropy_rows", fb.softmax_cross_entropy, rows, cross_entropy),
  loss_row(
    "softmax_cross_entropy_options",
    fb.softmax_cross_entropy_with(**OPTIONS),
    labels_with_gaps,
    cross_entropy_with_options,
  ),
  loss_row("sigmoid_cross_entropy", fb.sigmoid_cross_entropy, rows, binary_cross_entropy),
  loss_row("hinge", fb.hinge, labels, margin_to_the_best_rival, where_the_hinge_bends),
  loss_row("poisson_nll", fb.poisson_nll, counts, poisson),
  loss_row("combine", TWO_COSTS, for_two_costs, two_costs),
)
