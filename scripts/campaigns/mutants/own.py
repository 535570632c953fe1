"""Right rules as people write them for a model: masks, indices, windows, square weights.

The bank's rules have few comparisons of integers, scatters and square matrices, where an edit of an
axis or a transpose keeps the shapes. Each rule here stands below its function; `OWN` lists them
with their arguments, as the bank's decorators do.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.specimen import integers, labels, positive

Array = Any


def causal_attention(q: Array, k: Array, v: Array) -> Array:
  """Attend to the present and the past, [T, D]."""
  allowed = jnp.arange(q.shape[0])[:, None] >= jnp.arange(k.shape[0])[None, :]
  return jax.nn.softmax(jnp.where(allowed, q @ k.T, -jnp.inf), axis=1) @ v


def causal_attention_backward(q: Array, k: Array, v: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `causal_attention`."""
  allowed = jnp.arange(q.shape[0])[:, None] >= jnp.arange(k.shape[0])[None, :]
  p = jax.nn.softmax(jnp.where(allowed, q @ k.T, -jnp.inf), axis=1)
  p_bar = y_bar @ v.T
  s_bar = p * (p_bar - jnp.sum(p * p_bar, axis=1, keepdims=True))
  return s_bar @ k, s_bar.T @ q, p.T @ y_bar


def window_attention(x: Array, w: Array) -> Array:
  """Average the neighbours at a distance below two, and multiply by square weights."""
  distance = jnp.abs(jnp.arange(x.shape[0])[:, None] - jnp.arange(x.shape[0])[None, :])
  near = (distance < 2).astype(x.dtype)
  return (near @ x) @ w / 3


def window_attention_backward(x: Array, w: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `window_attention`."""
  distance = jnp.abs(jnp.arange(x.shape[0])[:, None] - jnp.arange(x.shape[0])[None, :])
  near = (distance < 2).astype(x.dtype)
  z_bar = y_bar / 3
  return near.T @ (z_bar @ w.T), (near @ x).T @ z_bar


def bag(table: Array, ids: Array, bags: Array) -> Array:
  """Sum the rows of a table in three bags."""
  return jnp.zeros((3, table.shape[1]), table.dtype).at[bags].add(table[ids])


def bag_backward(table: Array, ids: Array, bags: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `bag`."""
  return jnp.zeros_like(table).at[ids].add(y_bar[bags]), None, None


def grid_scatter(values: Array, rows: Array, columns: Array) -> Array:
  """Add values to the cells of a square grid."""
  return jnp.zeros((4, 4), values.dtype).at[rows, columns].add(values) ** 2


def grid_scatter_backward(values: Array, rows: Array, columns: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `grid_scatter`."""
  grid = jnp.zeros((4, 4), values.dtype).at[rows, columns].add(values)
  grid_bar = 2 * grid * y_bar
  return grid_bar[rows, columns], None, None


def grid_gather(grid: Array, rows: Array, columns: Array) -> Array:
  """Take cells of a square grid."""
  return jnp.tanh(grid)[rows, columns]


def grid_gather_backward(grid: Array, rows: Array, columns: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `grid_gather`."""
  bar = jnp.zeros_like(grid).at[rows, columns].add(y_bar)
  return bar * (1 - jnp.tanh(grid) ** 2), None, None


def padded_loss(logits: Array, targets: Array, lengths: Array) -> Array:
  """Sum the squared errors before each row's length, divided by the number of them."""
  kept = jnp.arange(logits.shape[1])[None, :] < lengths[:, None]
  errors = jnp.where(kept, logits - targets, 0)
  return jnp.sum(errors**2) / jnp.maximum(jnp.sum(kept), 1)


def padded_loss_backward(logits: Array, targets: Array, lengths: Array, loss_bar: Array) -> Any:
  """Pull a cotangent back through `padded_loss`."""
  kept = jnp.arange(logits.shape[1])[None, :] < lengths[:, None]
  count = jnp.maximum(jnp.sum(kept), 1)
  bar = jnp.where(kept, 2 * (logits - targets) * loss_bar / count, 0)
  return bar, -bar, None


def last_state(x: Array, lengths: Array) -> Array:
  """Take the last entry before each row's length; that of no length is the first."""
  return x[jnp.arange(x.shape[0]), jnp.maximum(lengths - 1, 0)] ** 2


def last_state_backward(x: Array, lengths: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `last_state`."""
  rows, last = jnp.arange(x.shape[0]), jnp.maximum(lengths - 1, 0)
  return jnp.zeros_like(x).at[rows, last].add(2 * x[rows, last] * y_bar), None


def truncated(x: Array, labels: Array) -> Array:
  """Weight the rows whose label is at most two."""
  return jnp.where((labels <= 2)[:, None], jnp.sin(x), 0.5 * x)


def truncated_backward(x: Array, labels: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `truncated`."""
  return jnp.where((labels <= 2)[:, None], jnp.cos(x), 0.5) * y_bar, None


def convolution(x: Array, kernel: Array) -> Array:
  """Correlate [T, C] with a kernel [3, C, C], without padding."""
  steps = x.shape[0] - 2
  return sum(x[i : i + steps] @ kernel[i] for i in range(3))


def convolution_backward(x: Array, kernel: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `convolution`."""
  steps = x.shape[0] - 2
  x_bar = jnp.zeros_like(x)
  for i in range(3):
    x_bar = x_bar.at[i : i + steps].add(y_bar @ kernel[i].T)
  return x_bar, jnp.stack([x[i : i + steps].T @ y_bar for i in range(3)])


def recurrent_cell(x: Array, h: Array, w: Array, u: Array) -> Array:
  """Compute a recurrent cell whose weights are square."""
  return jnp.tanh(x @ w + h @ u)


def recurrent_cell_backward(x: Array, h: Array, w: Array, u: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `recurrent_cell`."""
  y = jnp.tanh(x @ w + h @ u)
  z_bar = y_bar * (1 - y * y)
  return z_bar @ w.T, z_bar @ u.T, x.T @ z_bar, h.T @ z_bar


def gated_cell(x: Array, h: Array, w: Array, u: Array) -> Array:
  """Mix a state with a candidate, by a gate of the same input."""
  gate = jax.nn.sigmoid(x @ w)
  return gate * h + (1 - gate) * jnp.tanh(x @ u)


def gated_cell_backward(x: Array, h: Array, w: Array, u: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `gated_cell`."""
  gate, new = jax.nn.sigmoid(x @ w), jnp.tanh(x @ u)
  a_bar = y_bar * (h - new) * gate * (1 - gate)
  b_bar = y_bar * (1 - gate) * (1 - new**2)
  return a_bar @ w.T + b_bar @ u.T, y_bar * gate, x.T @ a_bar, x.T @ b_bar


def bilinear(x: Array, a: Array, y: Array) -> Array:
  """Compute xᵀ A y for each row."""
  return jnp.einsum("ni,ij,nj->n", x, a, y)


def bilinear_backward(x: Array, a: Array, y: Array, z_bar: Array) -> Any:
  """Pull a cotangent back through `bilinear`."""
  x_bar = jnp.einsum("n,ij,nj->ni", z_bar, a, y)
  a_bar = jnp.einsum("n,ni,nj->ij", z_bar, x, y)
  return x_bar, a_bar, jnp.einsum("n,ij,ni->nj", z_bar, a, x)


def distances(x: Array, y: Array) -> Array:
  """Compute the squared distances of all pairs of rows."""
  return jnp.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=2)


def distances_backward(x: Array, y: Array, d_bar: Array) -> Any:
  """Pull a cotangent back through `distances`."""
  pairs = 2 * d_bar[:, :, None] * (x[:, None, :] - y[None, :, :])
  return jnp.sum(pairs, axis=1), -jnp.sum(pairs, axis=0)


def standardised(x: Array, gain: Array) -> Array:
  """Standardise the columns of a square matrix."""
  centered = x - jnp.mean(x, axis=0)
  return gain * centered / jnp.sqrt(jnp.mean(centered**2, axis=0) + 1e-3)


def standardised_backward(x: Array, gain: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `standardised`."""
  centered = x - jnp.mean(x, axis=0)
  rstd = 1 / jnp.sqrt(jnp.mean(centered**2, axis=0) + 1e-3)
  x_hat = centered * rstd
  g = y_bar * gain
  rest = g - jnp.mean(g, axis=0) - x_hat * jnp.mean(g * x_hat, axis=0)
  return rstd * rest, jnp.sum(y_bar * x_hat, axis=0)


def chain(a: Array, b: Array, c: Array) -> Array:
  """Compute A tanh(B C) of square matrices."""
  return a @ jnp.tanh(b @ c)


def chain_backward(a: Array, b: Array, c: Array, y_bar: Array) -> Any:
  """Pull a cotangent back through `chain`."""
  h = jnp.tanh(b @ c)
  z_bar = (a.T @ y_bar) * (1 - h**2)
  return y_bar @ h.T, z_bar @ c.T, b.T @ z_bar


def similarity(x: Array, y: Array) -> Array:
  """Compute the cosines of all pairs of rows."""
  x_hat = x / jnp.linalg.norm(x, axis=1, keepdims=True)
  y_hat = y / jnp.linalg.norm(y, axis=1, keepdims=True)
  return x_hat @ y_hat.T


def similarity_backward(x: Array, y: Array, s_bar: Array) -> Any:
  """Pull a cotangent back through `similarity`."""
  x_size = jnp.linalg.norm(x, axis=1, keepdims=True)
  y_size = jnp.linalg.norm(y, axis=1, keepdims=True)
  x_hat, y_hat = x / x_size, y / y_size
  g, k = s_bar @ y_hat, s_bar.T @ x_hat
  x_bar = (g - x_hat * jnp.sum(g * x_hat, axis=1, keepdims=True)) / x_size
  return x_bar, (k - y_hat * jnp.sum(k * y_hat, axis=1, keepdims=True)) / y_size


SQUARE = (4, 4)
# Of each function: its rule, and the arguments.
OWN: dict[Any, tuple[Any, ...]] = {
  causal_attention: (causal_attention_backward, SQUARE, SQUARE, SQUARE),
  window_attention: (window_attention_backward, SQUARE, SQUARE),
  bag: (bag_backward, (4, 3), labels(6, 4), integers(0, 2, 0, 1, 2, 2)),
  grid_scatter: (grid_scatter_backward, (5,), integers(0, 3, 0, 1, 0), integers(1, 3, 1, 0, 2)),
  grid_gather: (grid_gather_backward, SQUARE, integers(0, 3, 0, 1, 0), integers(1, 3, 1, 0, 2)),
  padded_loss: (padded_loss_backward, (3, 4), (3, 4), integers(2, 4, 1)),
  last_state: (last_state_backward, (3, 4), integers(2, 4, 1)),
  truncated: (truncated_backward, (5, 3), integers(0, 2, 3, 2, 4)),
  convolution: (convolution_backward, (6, 3), (3, 3, 3)),
  recurrent_cell: (recurrent_cell_backward, SQUARE, SQUARE, SQUARE, SQUARE),
  gated_cell: (gated_cell_backward, SQUARE, SQUARE, SQUARE, SQUARE),
  bilinear: (bilinear_backward, SQUARE, SQUARE, SQUARE),
  distances: (distances_backward, SQUARE, SQUARE),
  standardised: (standardised_backward, SQUARE, positive(4)),
  chain: (chain_backward, SQUARE, SQUARE, SQUARE),
  similarity: (similarity_backward, SQUARE, SQUARE),
}
