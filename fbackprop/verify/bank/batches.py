"""Bugs that depend on the number of examples: tiles with a remainder, N = 1, N = 0."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import linear, scale
from fbackprop.verify.bank.specimen import bug

TILE = 8


@bug(linear, (16, 4), (4, 3), leaves="w", causes="subset of examples, zero")
def tile_remainder_dropped(x, w, y_bar):
  """The product is computed by tiles of 8 examples, and the last N % 8 are omitted; here N = 16."""
  w_bar = jnp.zeros_like(w)
  for i in range(x.shape[0] // TILE):
    rows = slice(i * TILE, (i + 1) * TILE)
    w_bar = w_bar + x[rows].T @ y_bar[rows]
  return y_bar @ w.T, w_bar


@bug(linear, (16, 4), (4, 3), leaves="w", causes="subset of examples", level="standard")
def tile_clamped(x, w, y_bar):
  """dynamic_slice clamps the last tile into the array, and its first rows count twice; N = 16."""

  def add_tile(i, total):
    rows = jax.lax.dynamic_slice_in_dim(x, i * TILE, TILE)
    return total + rows.T @ jax.lax.dynamic_slice_in_dim(y_bar, i * TILE, TILE)

  if x.shape[0] < TILE:
    return y_bar @ w.T, x.T @ y_bar
  tiles = -(-x.shape[0] // TILE)
  return y_bar @ w.T, jax.lax.fori_loop(0, tiles, add_tile, jnp.zeros_like(w))


@bug(linear, (5, 4), (4, 3), leaves="w", causes="subset of examples")
def first_example_left_out(x, w, y_bar):
  """The loop over examples starts at 1."""
  w_bar = jnp.zeros_like(w)
  for n in range(1, x.shape[0]):
    w_bar = w_bar + jnp.outer(x[n], y_bar[n])
  return y_bar @ w.T, w_bar


@bug(linear, (6, 4), (4, 3), leaves="w", causes="subset of examples")
def odd_batch_counts_last_twice(x, w, y_bar):
  """Examples are paired, and for odd N the last one wraps around and counts twice."""
  x_bar = y_bar @ w.T
  if x.shape[0] % 2:
    x, y_bar = jnp.concatenate([x, x[-1:]]), jnp.concatenate([y_bar, y_bar[-1:]])
  pairs = x.reshape(-1, 2, x.shape[1]), y_bar.reshape(-1, 2, y_bar.shape[1])
  return x_bar, jnp.einsum("npi,npo->io", *pairs)


@bug(linear, (19, 4), (4, 3), leaves="w", causes="subset of examples")
def last_row_of_tiles(x, w, y_bar):
  """With more than one tile, the tiles end at N - 1, one row short."""
  n = x.shape[0] if x.shape[0] <= 16 else x.shape[0] - 1
  return y_bar @ w.T, x[:16].T @ y_bar[:16] + x[16:n].T @ y_bar[16:n]


def mean_squared_error(predictions, targets):
  """Average the squared distance over the examples."""
  return jnp.mean(jnp.sum((predictions - targets) ** 2, axis=1))


@bug(mean_squared_error, (16, 3), (16, 3), leaves="predictions, targets", causes="constant factor")
def hard_coded_batch(predictions, targets, loss_bar):
  """The 1/N of the mean is hard-coded as 1/16, the batch size of the tests."""
  bar = loss_bar * 2 * (predictions - targets) / 16
  return bar, -bar


@bug(mean_squared_error, (6, 3), (6, 3), leaves="predictions, targets", causes="constant factor",
     f_vjp=True)  # fmt: skip
def single_example(predictions, targets, loss_bar):
  """For N = 1 the batch axis is squeezed, and the mean runs over the outputs."""
  error = jnp.squeeze(predictions - targets)
  bar = (loss_bar * 2 * error / error.shape[0]).reshape(predictions.shape)
  return bar, -bar


def mean_square(w, x):
  """Average (x w)² over the examples; 0 for none."""
  return jnp.sum((x @ w) ** 2) / max(x.shape[0], 1)


@bug(mean_square, (3,), (5, 3), leaves="w", causes="not finite", level="standard")
def empty_batch(w, x, loss_bar):
  """The mean of no examples is 0, but the rule's mean is 0/0."""
  n = max(x.shape[0], 1)
  y_bar = loss_bar * 2 * (x @ w) / n
  return (x * y_bar[:, None]).mean(axis=0) * n, y_bar[:, None] * w


@bug(scale, (6, 3), (3,), causes="raises", f_vjp=True)
def odd_batch_raises(x, gain, y_bar):
  """The rule folds the batch into two halves, which fails for an odd number of examples."""
  products = (x * y_bar).reshape(2, x.shape[0] // 2, x.shape[1])
  return y_bar * gain, products.sum((0, 1))
