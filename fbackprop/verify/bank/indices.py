"""Integers that point into an array, once or repeatedly: ids, labels, edges, segments, offsets."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import bug, integers, right


def rows(table, ids):
  """Look rows up in a table."""
  return table[ids]


@bug("table: subset of examples, other function", rows, (6, 3), integers(0, 1, 2, 4))
def ids_set_for_add(table, ids, y_bar):
  """Of repeated ids the last one's cotangent stays: `set` for `add`; the given ids differ."""
  return jnp.zeros_like(table).at[ids].set(y_bar), None


@right(rows, (6, 3), integers(-1, 0, -3, 0))
def right_ids_from_the_end(table, ids, y_bar):
  """Ids below zero count from the end."""
  return jnp.zeros_like(table).at[ids].add(y_bar), None


@right(lambda logits, label: -jax.nn.log_softmax(logits)[label], (5,), lambda: jnp.int32(3))
def right_single_label(logits, label, loss_bar):
  """One label points into the classes, the only axis."""
  one_hot = jax.nn.one_hot(label, logits.shape[0], dtype=logits.dtype)
  return loss_bar * (jax.nn.softmax(logits) - one_hot), None


LABELS = (0, 4, 2)


@bug("logits: path, other function",
     lambda logits: ref.cross_entropy(logits, jnp.asarray(LABELS)), (3, 5))  # fmt: skip
def closed_labels_smoothed(logits, losses_bar):
  """The labels are closed over, and the rule smooths them."""
  one_hot = jax.nn.one_hot(jnp.asarray(LABELS), logits.shape[1], dtype=logits.dtype)
  return (losses_bar[:, None] * (jax.nn.softmax(logits) - 0.9 * one_hot - 0.02),)


@right(lambda logits: ref.cross_entropy(logits, jnp.asarray(LABELS)), (3, 5))
def right_closed_labels(logits, losses_bar):
  """The labels are closed over: the classes can't be fewer."""
  return (ref.cross_entropy_backward(logits, jnp.asarray(LABELS), losses_bar),)


def messages(x, sources, targets):
  """Add the rows of the sources of edges to those of their targets."""
  return jnp.zeros_like(x).at[targets].add(x[sources])


EDGES = integers(0, 1, 2, 4, 3, 3), integers(4, 4, 0, 1, 2, 3)


@bug("x: permuted, transposed, path", messages, (5, 2), *EDGES)
def messages_not_returned(x, sources, targets, y_bar):
  """The cotangents travel along the edges, not back."""
  return messages(y_bar, sources, targets), None, None


@right(messages, (5, 2), *EDGES)
def right_messages(x, sources, targets, y_bar):
  """The cotangents travel back along the edges."""
  return messages(y_bar, targets, sources), None, None


def segment_means(x, segments):
  """Average the entries of each of four segments; an empty one has the mean zero."""
  total = jax.ops.segment_sum(x, segments, num_segments=4)
  return total / jnp.maximum(counts(segments), 1)


def counts(segments):
  """Count the entries of each segment."""
  return jnp.zeros(4, jnp.int32).at[segments].add(1)


@bug("x: constant factor, other function, subset of examples", segment_means, (6,),
     integers(0, 0, 1, 1, 3, 3), level="standard")  # fmt: skip
def segments_of_equal_size(x, segments, y_bar):
  """All segments are taken to have as many entries as the first."""
  return y_bar[segments] / counts(segments)[segments[0]], None


@right(segment_means, (6,), integers(0, 0, 1, 3, 3, 3))
def right_segment_means(x, segments, y_bar):
  """Each entry gets its share; the third segment is empty."""
  return y_bar[segments] / counts(segments)[segments], None


def window(x, start):
  """Take three entries from an offset."""
  return jax.lax.dynamic_slice(x, (start,), (3,))


@right(window, (8,), lambda: jnp.int32(2))
def right_window(x, start, y_bar):
  """The cotangent is written to the offset, which is clamped as the slice is."""
  return jax.lax.dynamic_update_slice(jnp.zeros_like(x), y_bar, (start,)), None


@bug("table: permuted", rows, (5, 2), integers(3, 0, 4, 1, 2))
def permuted_again(table, order, y_bar):
  """The permutation is applied once more instead of inverted."""
  return y_bar[order], None


@right(rows, (5, 2), integers(3, 0, 4, 1, 2))
def right_inverse_permutation(table, order, y_bar):
  """The inverse by argsort: right for permutations alone."""
  return y_bar[jnp.argsort(order)], None


def with_rows(x, places, rows):
  """Replace some rows."""
  return x.at[places].set(rows)


@right(with_rows, (6, 2), integers(0, 4, 1), (3, 2))
def right_replaced_rows(x, places, rows, y_bar):
  """The replaced rows have no cotangent; their places differ, as `set` demands."""
  return y_bar.at[places].set(0), None, y_bar[places]


def sparse_product(values, columns, rows, x):
  """Multiply a sparse matrix of four rows by a vector."""
  return jnp.zeros(4, x.dtype).at[rows].add(values * x[columns])


@right(sparse_product, (6,), integers(0, 2, 1, 4, 3, 0), integers(0, 0, 1, 2, 3, 3), (5,))
def right_sparse_product(values, columns, rows, x, y_bar):
  """Two kinds of integers point into two arrays."""
  x_bar = jnp.zeros_like(x).at[columns].add(values * y_bar[rows])
  return y_bar[rows] * x[columns], None, None, x_bar
