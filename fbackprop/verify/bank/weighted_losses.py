"""Losses with weights, with ignored rows, and with labels of conditional effect."""

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import integers, labels, positive
from fbackprop.verify.bank.references import cross_entropy, cross_entropy_backward
from fbackprop.verify.bank.specimen import bug, right

CLASS_WEIGHTS = (0.5, 1.0, 2.0, 4.0)


def mean_of_labelled(logits, labels):
  """Compute the mean cross-entropy over the rows with a label, those not below zero."""
  kept = (labels >= 0).astype(logits.dtype)
  return jnp.sum(kept * cross_entropy(logits, labels)) / jnp.maximum(kept.sum(), 1)


@bug(mean_of_labelled, (6, 4), integers(1, -1, 0, 3, -1, 2), leaves="logits",
     causes="constant factor")  # fmt: skip
def ignored_in_the_denominator(logits, labels, loss_bar):
  """The mean is over rows with a label; the rule divides by the number of all rows."""
  losses_bar = loss_bar * (labels >= 0) / labels.shape[0]
  return cross_entropy_backward(logits, labels, losses_bar), None


@right(mean_of_labelled, (6, 4), integers(1, -1, 0, 3, -1, 2))
def right_ignored_rows(logits, labels, loss_bar):
  """Rows with the label -1 count neither in the numerator nor in the denominator."""
  p, rows = jax.nn.softmax(logits), jnp.arange(labels.shape[0])
  bar = p.at[rows, jnp.maximum(labels, 0)].add(-1)
  count = jnp.maximum((labels >= 0).sum(), 1)
  return jnp.where((labels >= 0)[:, None], loss_bar * bar / count, 0), None


def sum_of_labelled(logits, labels):
  """Sum the cross-entropy over the rows with a label."""
  return jnp.sum(jnp.where(labels >= 0, cross_entropy(logits, labels), 0))


@bug(sum_of_labelled, (6, 4), integers(1, -1, 0, 3, -1, 2), leaves="logits",
     causes="subset of examples", f_vjp=True)  # fmt: skip
def ignored_rows_leak(logits, labels, loss_bar):
  """Rows without a label add nothing to the loss, but get the gradient of label 0."""
  return cross_entropy_backward(logits, labels, jnp.broadcast_to(loss_bar, labels.shape)), None


def weighted_mean(logits, labels, weights):
  """Compute the weighted mean of the cross-entropy."""
  return jnp.sum(weights * cross_entropy(logits, labels)) / weights.sum()


@bug(weighted_mean, (6, 4), labels(6, 4), positive(6), leaves="logits", causes="constant factor")
def weights_in_the_denominator(logits, labels, weights, loss_bar):
  """The mean divides by the sum of the weights, the rule by N."""
  mean = weighted_mean(logits, labels, weights)
  logits_bar = cross_entropy_backward(logits, labels, loss_bar * weights / len(weights))
  return logits_bar, None, loss_bar * (cross_entropy(logits, labels) - mean) / weights.sum()


def weighted(logits, labels, weights):
  """Multiply the cross-entropy of each example by its weight."""
  return weights * cross_entropy(logits, labels)


@bug(weighted, (6, 4), labels(6, 4), positive(6), leaves="logits",
     causes="other function, subset of examples", f_vjp=True)  # fmt: skip
def weights_twice(logits, labels, weights, losses_bar):
  """The weights enter the loss once and its rule twice."""
  logits_bar = cross_entropy_backward(logits, labels, losses_bar * weights * weights)
  return logits_bar, None, losses_bar * cross_entropy(logits, labels)


def weighted_absolute_error(predictions, targets, weights):
  """Sum the weighted absolute errors."""
  return jnp.sum(weights * jnp.abs(predictions - targets))


@bug(weighted_absolute_error, (7,), (7,), positive(7), leaves="weights", causes="zero")
def weights_without_gradient(predictions, targets, weights, loss_bar):
  """The weights are floats and enter the loss, and their cotangent is zero."""
  bar = loss_bar * weights * jnp.sign(predictions - targets)
  return bar, -bar, None


def weighted_squared_error(predictions, targets, weights):
  """Compute the weighted mean of the examples' squared errors."""
  return jnp.sum(weights * jnp.sum((predictions - targets) ** 2, axis=1)) / weights.sum()


def padded_forward(predictions, targets, weights):
  """Compute `weighted_squared_error` with four more rows of weight zero."""
  error = jnp.pad(predictions - targets, ((0, 4), (0, 0)))
  padded = jnp.pad(weights, (0, 4))
  total = padded.sum()
  losses = (error**2).sum(1)
  mean = padded @ losses / total
  return mean, (error, padded / total, (losses - mean) / total)


@right(weighted_squared_error, (5, 3), (5, 3), positive(5), forward=padded_forward, f_vjp=True)
def right_padded_with_zero_weights(error, shares, weights_slope, loss_bar):
  """Four rows of weight zero are appended, and removed from the cotangents."""
  n = error.shape[0] - 4
  bar = 2 * loss_bar * shares[:, None] * error
  return bar[:n], -bar[:n], (loss_bar * weights_slope)[:n]


def class_weighted(logits, labels):
  """Multiply the cross-entropy of each example by the weight of its label."""
  return jnp.take(np.array(CLASS_WEIGHTS, np.float32), labels) * cross_entropy(logits, labels)


@bug(class_weighted, (6, 4), labels(6, 4), leaves="logits", causes="other function", f_vjp=True)
def class_weights_of_the_prediction(logits, labels, losses_bar):
  """Each row's weight is that of its label; the rule uses the weight of each column."""
  class_weights = np.array(CLASS_WEIGHTS, np.float32)
  return cross_entropy_backward(logits, labels, losses_bar) * class_weights, None


@bug(cross_entropy, (5, 4), integers(1, 3, 2, 1, 2), leaves="logits",
     causes="subset of examples", level="standard")  # fmt: skip
def label_zero_as_padding(logits, labels, losses_bar):
  """The rule alone treats label 0 as padding; no given label is 0."""
  return cross_entropy_backward(logits, labels, jnp.where(labels > 0, losses_bar, 0)), None


def same_label(labels, dtype):
  """Return 1 for each pair of equal labels and 0 for any other."""
  return (labels[:, None] == labels).astype(dtype)


def attraction(x, labels):
  """Compute the sum of ½ |x_n - x_m|² over the pairs of equal labels."""
  pairs = same_label(labels, x.dtype)[..., None] * (x[:, None] - x[None]) ** 2
  return 0.5 * jnp.sum(pairs)


@bug(attraction, (5, 3), integers(3, 0, 4, 1, 2), leaves="x",
     causes="constant factor, path, subset of examples", level="standard", f_vjp=True)  # fmt: skip
def equal_labels(x, labels, y_bar):
  """Pairs of equal labels attract each other; the rule moves one of the two; here all differ."""
  same = same_label(labels, x.dtype)
  return y_bar * jnp.einsum("nm,nmd->nd", same, x[:, None] - x[None]), None
