"""Products, convolutions and embeddings: axes, scales, transposes, tiles, padding."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import dense, linear, shift, tanh_layer
from fbackprop.verify.bank.specimen import bug, draw, integers, labels, right

TILE = 8


@bug("b: constant factor", dense, (5, 4), (4, 3), (3,))
def bias_mean(x, w, b, y_bar):
  """The bias's cotangent is averaged over the examples instead of summed."""
  return y_bar @ w.T, x.T @ y_bar, y_bar.mean(axis=0)


@bug("w: constant factor",
     lambda w, b, x, targets: 0.5 * jnp.mean(jnp.sum((x @ w + b - targets) ** 2, axis=1)), (4, 3),
     (3,), (7, 4), (7, 3), f_vjp=True)  # fmt: skip
def divided_twice(w, b, x, targets, loss_bar):
  """y_bar contains the mean's 1/N, and the weights' cotangent divides by N again."""
  y_bar = loss_bar * (x @ w + b - targets) / x.shape[0]
  return x.T @ y_bar / x.shape[0], y_bar.sum(0), y_bar @ w.T, -y_bar


@bug("x: transposed", dense, (5, 4), (4, 4), (4,))
def input_not_transposed(x, w, b, y_bar):
  """The rule has y_bar @ w in place of y_bar @ w.T; the shapes agree, since w is square."""
  return y_bar @ w, x.T @ y_bar, y_bar.sum(0)


@bug("w: transposed", linear, (6, 4), (4, 4), f_vjp=True)
def weights_transposed(x, w, y_bar):
  """The weights' cotangent is transposed; the shapes agree, since w is square."""
  return y_bar @ w.T, y_bar.T @ x


@bug("a: transposed", lambda a, b: jnp.einsum("nij,njk->nik", a, b), (5, 3, 3), (5, 3, 3))
def batched_product_square(a, b, y_bar):
  """The left factor's cotangent uses the right factor untransposed in each square matrix."""
  return jnp.matmul(y_bar, b), jnp.einsum("nij,nik->njk", a, y_bar)


@bug("bias: transposed, structure", lambda x, bias: x + bias[:, None], (4, 4), (4,), f_vjp=True)
def row_bias_axis(x, bias, y_bar):
  """The cotangent of a bias per row is summed over the rows; N equals D here."""
  return y_bar, y_bar.sum(axis=0)


@bug("w: proportional to a parameter", tanh_layer, (5, 4), (4, 3))
def weight_decay(x, w, y_bar):
  """The optimiser's weight decay, 1e-4 w, is added in the rule."""
  z_bar = y_bar * (1 - tanh_layer(x, w) ** 2)
  return z_bar @ w.T, x.T @ z_bar + 1e-4 * w


@bug("x: transposed, path", lambda x, a: jnp.einsum("ni,ij,nj->n", x, a, x), (5, 4), (4, 4),
     f_vjp=True)  # fmt: skip
def bilinear_symmetric(x, a, y_bar):
  """The rule of xᵀ A x assumes a symmetric A."""
  return 2 * y_bar[:, None] * (x @ a), jnp.einsum("n,ni,nj->ij", y_bar, x, x)


@right(linear, (5, 4), (4, 3))
def right_einsum(x, w, y_bar):
  """The weights' cotangent is an einsum with its operands in the other order, transposed."""
  return y_bar @ w.T, jnp.einsum("no,ni->oi", y_bar, x).T


@right(linear, (19, 4), (4, 3))
def right_tiles_with_remainder(x, w, y_bar):
  """The product is summed over tiles of 8 examples, the last of them smaller."""
  w_bar = jnp.zeros_like(w)
  for start in range(0, x.shape[0], TILE):
    w_bar = w_bar + x[start : start + TILE].T @ y_bar[start : start + TILE]
  return y_bar @ w.T, w_bar


@right(linear, (11, 4), (4, 3))
def right_padded_to_tiles(x, w, y_bar):
  """N is zero-padded to a multiple of 8, and the tiles are summed by a scan."""
  padding = -x.shape[0] % TILE
  tiles = [jnp.pad(a, ((0, padding), (0, 0))).reshape(-1, TILE, a.shape[1]) for a in (x, y_bar)]

  def add(total, tile):
    return total + tile[0].T @ tile[1], None

  return y_bar @ w.T, jax.lax.scan(add, jnp.zeros_like(w), tuple(tiles))[0]


@right(linear, (6, 4), (4, 3))
def right_examples_summed(x, w, y_bar):
  """One outer product for each example by vmap, then their sum."""
  return y_bar @ w.T, jax.vmap(jnp.outer)(x, y_bar).sum(axis=0)


@right(linear, (7, 4), (4, 3))
def right_halves_first(x, w, y_bar):
  """The outer products are summed pairwise, with an odd one carried along."""
  terms = x[:, :, None] * y_bar[:, None, :]
  while terms.shape[0] > 1:
    half = terms.shape[0] // 2
    terms = jnp.concatenate([terms[:half] + terms[half : 2 * half], terms[2 * half :]])
  return y_bar @ w.T, terms.sum(0)


@right(shift, (9, 3), (3,))
def right_compensated_sum(x, b, y_bar):
  """The bias's cotangent is summed by Kahan's method."""

  def add(carry, row):
    total, lost = carry
    corrected = row - lost
    new = total + corrected
    return (new, (new - total) - corrected), None

  zero = jnp.zeros_like(b)
  return y_bar, jax.lax.scan(add, (zero, zero), y_bar)[0][0]


@right(linear, (6, 4), (4, 3))
def right_loop_in_float32(x, w, y_bar):
  """A fori_loop over examples accumulates in an explicit float32."""

  def add(n, total):
    return total + jnp.outer(x[n], y_bar[n]).astype(jnp.float32)

  zeros = jnp.zeros(w.shape, jnp.float32)
  return y_bar @ w.T, jax.lax.fori_loop(0, x.shape[0], add, zeros).astype(x.dtype)


def per_head_forward(x, w):
  """Compute `per_head` by dot_general, with the heads as its batch."""
  y = jax.lax.dot_general(x, w, (((2,), (1,)), ((1,), (0,))))
  return y.transpose(1, 0, 2), (x, w)


@right(lambda x, w: jnp.einsum("nhi,hij->nhj", x, w), (5, 2, 4), (2, 4, 3),
       forward=per_head_forward, f_vjp=True)  # fmt: skip
def right_heads_by_dot_general(x, w, y_bar):
  """All three products are a dot_general with the heads as its batch."""
  x_bar = jax.lax.dot_general(y_bar, w, (((2,), (2,)), ((1,), (0,))))
  w_bar = jax.lax.dot_general(x, y_bar, (((0,), (0,)), ((1,), (1,))))
  return x_bar.transpose(1, 0, 2), w_bar


# Convolutions.


@bug("x: permuted, other function", lambda x, kernel: jnp.convolve(x, kernel, mode="same"), (8,),
     (3,))  # fmt: skip
def convolution_shifted(x, kernel, y_bar):
  """The input's cotangent is sliced out of the full convolution one place too far."""
  full = jnp.convolve(y_bar, kernel[::-1])
  padded = jnp.pad(x, 1)
  kernel_bar = jnp.stack([padded[2 - i : 2 - i + x.size] @ y_bar for i in range(3)])
  return full[2:] if full.size == x.size + 2 else full[: x.size], kernel_bar


def correlate(x, kernel):
  """Correlate a signal with a kernel of three."""
  padded = jnp.pad(x, 1)
  return kernel[0] * padded[:-2] + kernel[1] * padded[1:-1] + kernel[2] * padded[2:]


def patches(x):
  """Stack each entry with its two neighbours, [N, 3]."""
  padded = jnp.pad(x, 1)
  return jnp.stack([padded[i : i + x.shape[0]] for i in range(3)], axis=1)


@right(correlate, (9,), (3,), forward=lambda x, k: (patches(x) @ k, (x, k)), f_vjp=True)
def right_convolution_by_product(x, kernel, y_bar):
  """A convolution as a product of patches, whose cotangents are added back slice by slice."""
  padded_bar = jnp.zeros(x.shape[0] + 2, x.dtype)
  for i in range(3):
    padded_bar = padded_bar.at[i : i + x.shape[0]].add(y_bar * kernel[i])
  return padded_bar[1:-1], patches(x).T @ y_bar


# Embeddings.


EMBED = (lambda table, indices: table[indices], (5, 3), labels(9, 5))


@bug("table: subset of examples", EMBED[0], (6, 3), integers(4, 1, 4, 0, 2))
def embedding_overwrites(table, indices, y_bar):
  """Rows of the table that are used twice keep the last cotangent instead of the sum."""
  return jnp.zeros_like(table).at[indices].set(y_bar), None


@right(*EMBED)
def right_embedding_one_hot(table, indices, y_bar):
  """The table's cotangent is a product with one-hot rows."""
  return jax.nn.one_hot(indices, table.shape[0], dtype=y_bar.dtype).T @ y_bar, None


@right(*EMBED)
def right_embedding_segments(table, indices, y_bar):
  """The table's cotangent is a segment_sum."""
  return jax.ops.segment_sum(y_bar, indices, num_segments=table.shape[0]), None


@right(*EMBED)
def right_embedding_sorted(table, indices, y_bar):
  """The rows are sorted by index before they are summed."""
  order = jnp.argsort(indices)
  rows = jnp.zeros_like(table)
  return rows.at[indices[order]].add(y_bar[order], indices_are_sorted=True), None


# Rules that assume a structure which the given arguments have.


def symmetric():
  """Draw a symmetric matrix."""
  a = draw((3, 3))[0]
  return a + a.T


@bug("x: transposed, raises", lambda a, x: a @ x, symmetric, (3,))
def matrix_taken_as_symmetric(a, x, y_bar):
  """The matrix isn't transposed, which is right for a symmetric one."""
  return jnp.outer(y_bar, x), a @ y_bar


@bug("a: zero, other function", lambda a, x: a @ x, lambda: jnp.tril(draw((3, 3))[0]), (3,))
def matrix_taken_as_triangular(a, x, y_bar):
  """The cotangent of the upper triangle is zero."""
  return jnp.tril(jnp.outer(y_bar, x)), a.T @ y_bar


@bug("x: permuted", lambda x: jnp.sort(x), lambda: jnp.arange(5.0) ** 1.5)
def taken_as_sorted(x, y_bar):
  """The entries are taken to be sorted already."""
  return (y_bar,)
