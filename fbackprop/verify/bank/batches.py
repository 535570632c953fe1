"""Examples of a batch: their number (tiles with a remainder, N = 1, N = 0), weights, labels."""

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.references import cross_entropy, cross_entropy_backward, linear, scale
from fbackprop.verify.bank.specimen import bug, integers, labels, positive, right

TILE = 8


@bug("w: subset of examples, zero", linear, (16, 4), (4, 3))
def tile_remainder_dropped(x, w, y_bar):
  """The product is computed by tiles of 8 examples, and the last N % 8 are omitted; here N = 16."""
  w_bar = jnp.zeros_like(w)
  for i in range(x.shape[0] // TILE):
    rows = slice(i * TILE, (i + 1) * TILE)
    w_bar = w_bar + x[rows].T @ y_bar[rows]
  return y_bar @ w.T, w_bar


@bug("w: subset of examples", linear, (16, 4), (4, 3), level="standard")
def tile_clamped(x, w, y_bar):
  """dynamic_slice clamps the last tile into the array, and its first rows count twice; N = 16."""

  def add_tile(i, total):
    rows = jax.lax.dynamic_slice_in_dim(x, i * TILE, TILE)
    return total + rows.T @ jax.lax.dynamic_slice_in_dim(y_bar, i * TILE, TILE)

  if x.shape[0] < TILE:
    return y_bar @ w.T, x.T @ y_bar
  tiles = -(-x.shape[0] // TILE)
  return y_bar @ w.T, jax.lax.fori_loop(0, tiles, add_tile, jnp.zeros_like(w))


@bug("w: subset of examples", linear, (5, 4), (4, 3))
def first_example_left_out(x, w, y_bar):
  """The loop over examples starts at 1."""
  w_bar = jnp.zeros_like(w)
  for n in range(1, x.shape[0]):
    w_bar = w_bar + jnp.outer(x[n], y_bar[n])
  return y_bar @ w.T, w_bar


@bug("w: subset of examples", linear, (6, 4), (4, 3))
def odd_batch_counts_last_twice(x, w, y_bar):
  """Examples are paired, and for odd N the last one wraps around and counts twice."""
  x_bar = y_bar @ w.T
  if x.shape[0] % 2:
    x, y_bar = jnp.concatenate([x, x[-1:]]), jnp.concatenate([y_bar, y_bar[-1:]])
  pairs = x.reshape(-1, 2, x.shape[1]), y_bar.reshape(-1, 2, y_bar.shape[1])
  return x_bar, jnp.einsum("npi,npo->io", *pairs)


@bug("w: subset of examples", linear, (19, 4), (4, 3))
def last_row_of_tiles(x, w, y_bar):
  """With more than one tile, the tiles end at N - 1, one row short."""
  n = x.shape[0] if x.shape[0] <= 16 else x.shape[0] - 1
  return y_bar @ w.T, x[:16].T @ y_bar[:16] + x[16:n].T @ y_bar[16:n]


def mean_squared_error(predictions, targets):
  """Average the squared distance over the examples."""
  return jnp.mean(jnp.sum((predictions - targets) ** 2, axis=1))


@bug("predictions, targets: constant factor", mean_squared_error, (16, 3), (16, 3))
def hard_coded_batch(predictions, targets, loss_bar):
  """The 1/N of the mean is hard-coded as 1/16, the batch size of the tests."""
  bar = loss_bar * 2 * (predictions - targets) / 16
  return bar, -bar


@bug("predictions, targets: constant factor", mean_squared_error, (6, 3), (6, 3), f_vjp=True)
def single_example(predictions, targets, loss_bar):
  """For N = 1 the batch axis is squeezed, and the mean runs over the outputs."""
  error = jnp.squeeze(predictions - targets)
  bar = (loss_bar * 2 * error / error.shape[0]).reshape(predictions.shape)
  return bar, -bar


@bug("w: not finite", lambda w, x: jnp.sum((x @ w) ** 2) / max(x.shape[0], 1), (3,), (5, 3),
     level="standard")  # fmt: skip
def empty_batch(w, x, loss_bar):
  """The mean of no examples is 0, but the rule's mean is 0/0."""
  n = max(x.shape[0], 1)
  y_bar = loss_bar * 2 * (x @ w) / n
  return (x * y_bar[:, None]).mean(axis=0) * n, y_bar[:, None] * w


@bug("raises", scale, (6, 3), (3,), f_vjp=True)
def odd_batch_raises(x, gain, y_bar):
  """The rule folds the batch into two halves, which fails for an odd number of examples."""
  products = (x * y_bar).reshape(2, x.shape[0] // 2, x.shape[1])
  return y_bar * gain, products.sum((0, 1))


CLASS_WEIGHTS = (0.5, 1.0, 2.0, 4.0)


def mean_of_labelled(logits, labels):
  """Compute the mean cross-entropy over the rows with a label, those not below zero."""
  kept = (labels >= 0).astype(logits.dtype)
  return jnp.sum(kept * cross_entropy(logits, labels)) / jnp.maximum(kept.sum(), 1)


@bug("logits: constant factor, wrong point", mean_of_labelled, (6, 4), integers(1, -1, 0, 3, -1, 2))
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


@bug("logits: subset of examples", sum_of_labelled, (6, 4), integers(1, -1, 0, 3, -1, 2),
     f_vjp=True)  # fmt: skip
def ignored_rows_leak(logits, labels, loss_bar):
  """Rows without a label add nothing to the loss, but get the gradient of label 0."""
  return cross_entropy_backward(logits, labels, jnp.broadcast_to(loss_bar, labels.shape)), None


def weighted_mean(logits, labels, weights):
  """Compute the weighted mean of the cross-entropy."""
  return jnp.sum(weights * cross_entropy(logits, labels)) / weights.sum()


@bug("logits: constant factor, wrong point", weighted_mean, (6, 4), labels(6, 4), positive(6))
def weights_in_the_denominator(logits, labels, weights, loss_bar):
  """The mean divides by the sum of the weights, the rule by N."""
  mean = weighted_mean(logits, labels, weights)
  logits_bar = cross_entropy_backward(logits, labels, loss_bar * weights / len(weights))
  return logits_bar, None, loss_bar * (cross_entropy(logits, labels) - mean) / weights.sum()


def weighted(logits, labels, weights):
  """Multiply the cross-entropy of each example by its weight."""
  return weights * cross_entropy(logits, labels)


@bug("logits: other function, subset of examples", weighted, (6, 4), labels(6, 4), positive(6),
     f_vjp=True)  # fmt: skip
def weights_twice(logits, labels, weights, losses_bar):
  """The weights enter the loss once and its rule twice."""
  logits_bar = cross_entropy_backward(logits, labels, losses_bar * weights * weights)
  return logits_bar, None, losses_bar * cross_entropy(logits, labels)


@bug("weights: zero",
     lambda predictions, targets, weights: jnp.sum(weights * jnp.abs(predictions - targets)), (7,),
     (7,), positive(7))  # fmt: skip
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


@bug("logits: other function, wrong point", class_weighted, (6, 4), labels(6, 4), f_vjp=True)
def class_weights_of_the_prediction(logits, labels, losses_bar):
  """Each row's weight is that of its label; the rule uses the weight of each column."""
  class_weights = np.array(CLASS_WEIGHTS, np.float32)
  return cross_entropy_backward(logits, labels, losses_bar) * class_weights, None


@bug("logits: subset of examples", cross_entropy, (5, 4), integers(1, 3, 2, 1, 2), level="standard")
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


@bug("x: constant factor, path, subset of examples", attraction, (5, 3), integers(3, 0, 4, 1, 2),
     level="standard", f_vjp=True)  # fmt: skip
def equal_labels(x, labels, y_bar):
  """Pairs of equal labels attract each other; the rule moves one of the two; here all differ."""
  same = same_label(labels, x.dtype)
  return y_bar * jnp.einsum("nm,nmd->nd", same, x[:, None] - x[None]), None
