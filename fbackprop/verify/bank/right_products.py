"""Right rules of sums and products, in other orders: tiles, padding, one-hot, compensated sums."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_labels
from fbackprop.verify.bank.specimen import Example, Specimen

TILE = 8


def linear_with(product, n):
  """x @ w with N examples; `product(x, y_bar)` is its own way to xᵀ y_bar."""

  @jax.custom_vjp
  def linear(x, w):
    return x @ w

  def linear_fwd(x, w):
    return x @ w, (x, w)

  def linear_bwd(residuals, y_bar):
    x, w = residuals
    return y_bar @ w.T, product(x, y_bar)

  linear.defvjp(linear_fwd, linear_bwd)
  return Example(linear, draw((n, 4), (4, 3)))


def by_einsum():
  """The product is an einsum with its operands in the other order, transposed."""

  def product(x, y_bar):
    return jnp.einsum("no,ni->oi", y_bar, x).T

  return linear_with(product, 5)


def tiles_with_remainder():
  """Tiles of 8 examples, and the remainder apart."""

  def product(x, y_bar):
    total = jnp.zeros((x.shape[1], y_bar.shape[1]), x.dtype)
    for start in range(0, x.shape[0], TILE):
      total = total + x[start : start + TILE].T @ y_bar[start : start + TILE]
    return total

  return linear_with(product, 19)


def padded_to_tiles():
  """N is padded by zeros to a multiple of 8, and the tiles are summed by a scan."""

  def product(x, y_bar):
    more = -x.shape[0] % TILE
    tiles = [jnp.pad(a, ((0, more), (0, 0))).reshape(-1, TILE, a.shape[1]) for a in (x, y_bar)]

    def add(total, tile):
      return total + tile[0].T @ tile[1], None

    return jax.lax.scan(add, jnp.zeros((x.shape[1], y_bar.shape[1]), x.dtype), tuple(tiles))[0]

  return linear_with(product, 11)


def examples_summed():
  """One outer product for each example by vmap, then their sum."""

  def product(x, y_bar):
    return jax.vmap(jnp.outer)(x, y_bar).sum(axis=0)

  return linear_with(product, 6)


def halves_first():
  """A sum of halves of halves, with the odd example carried along."""

  def product(x, y_bar):
    terms = x[:, :, None] * y_bar[:, None, :]
    while terms.shape[0] > 1:
      half = terms.shape[0] // 2
      terms = jnp.concatenate([terms[:half] + terms[half : 2 * half], terms[2 * half :]])
    return terms.sum(0)

  return linear_with(product, 7)


def compensated_sum():
  """The bias's cotangent is summed by Kahan's method."""

  @jax.custom_vjp
  def shift(x, b):
    return x + b

  def shift_fwd(x, b):
    return x + b, b

  def add(carry, row):
    total, lost = carry
    corrected = row - lost
    new = total + corrected
    return (new, (new - total) - corrected), None

  def shift_bwd(b, y_bar):
    zero = jnp.zeros_like(b)
    return y_bar, jax.lax.scan(add, (zero, zero), y_bar)[0][0]

  shift.defvjp(shift_fwd, shift_bwd)
  return Example(shift, draw((9, 3), (3,)))


def loop_in_float32():
  """A fori_loop over examples whose accumulator is float32 by name."""

  def product(x, y_bar):
    def add(n, total):
      return total + jnp.outer(x[n], y_bar[n]).astype(jnp.float32)

    zeros = jnp.zeros((x.shape[1], y_bar.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, x.shape[0], add, zeros).astype(x.dtype)

  return linear_with(product, 6)


def embedding_with(table_rule):
  """table[indices]; `table_rule(table, indices, y_bar)` gives the table's cotangent."""

  @jax.custom_vjp
  def embed(table, indices):
    return table[indices]

  def embed_fwd(table, indices):
    return table[indices], (table, indices)

  def embed_bwd(residuals, y_bar):
    return table_rule(*residuals, y_bar), None

  embed.defvjp(embed_fwd, embed_bwd)
  return Example(embed, (*draw((5, 3)), draw_labels(9, 5)))


def embedding_one_hot():
  """The table's cotangent is a product with one-hot rows."""

  def table_rule(table, indices, y_bar):
    return jax.nn.one_hot(indices, table.shape[0], dtype=y_bar.dtype).T @ y_bar

  return embedding_with(table_rule)


def embedding_segments():
  """The table's cotangent is a segment_sum."""

  def table_rule(table, indices, y_bar):
    return jax.ops.segment_sum(y_bar, indices, num_segments=table.shape[0])

  return embedding_with(table_rule)


def embedding_sorted():
  """The rows are sorted by index before they are added up."""

  def table_rule(table, indices, y_bar):
    order = jnp.argsort(indices)
    return jnp.zeros_like(table).at[indices[order]].add(y_bar[order], indices_are_sorted=True)

  return embedding_with(table_rule)


def convolution_by_product():
  """A convolution as a product of patches, whose cotangents are added back slice by slice."""

  def smooth(x, kernel):
    left, middle, right = kernel
    padded = jnp.pad(x, 1)
    return left * padded[:-2] + middle * padded[1:-1] + right * padded[2:]

  def f_vjp(x, kernel):
    padded = jnp.pad(x, 1)
    patches = jnp.stack([padded[i : i + x.shape[0]] for i in range(3)], axis=1)

    def pullback(y_bar):
      padded_bar = jnp.zeros_like(padded)
      for i in range(3):
        padded_bar = padded_bar.at[i : i + x.shape[0]].add(y_bar * kernel[i])
      return padded_bar[1:-1], patches.T @ y_bar

    return patches @ kernel, pullback

  return Example(smooth, draw((9,), (3,)), f_vjp)


def heads_by_dot_general():
  """A batched product by dot_general, with the heads as its batch."""

  def per_head(x, w):
    return jnp.einsum("nhi,hij->nhj", x, w)

  def f_vjp(x, w):
    def pullback(y_bar):
      x_bar = jax.lax.dot_general(y_bar, w, (((2,), (2,)), ((1,), (0,))))
      w_bar = jax.lax.dot_general(x, y_bar, (((0,), (0,)), ((1,), (1,))))
      return x_bar.transpose(1, 0, 2), w_bar

    y = jax.lax.dot_general(x, w, (((2,), (1,)), ((1,), (0,))))
    return y.transpose(1, 0, 2), pullback

  return Example(per_head, draw((5, 2, 4), (2, 4, 3)), f_vjp)


RIGHT = (
  Specimen("right-einsum", by_einsum),
  Specimen("right-tiles-with-remainder", tiles_with_remainder),
  Specimen("right-padded-to-tiles", padded_to_tiles),
  Specimen("right-examples-summed", examples_summed),
  Specimen("right-halves-first", halves_first),
  Specimen("right-compensated-sum", compensated_sum),
  Specimen("right-loop-in-float32", loop_in_float32),
  Specimen("right-embedding-one-hot", embedding_one_hot),
  Specimen("right-embedding-segments", embedding_segments),
  Specimen("right-embedding-sorted", embedding_sorted),
  Specimen("right-convolution-by-product", convolution_by_product),
  Specimen("right-heads-by-dot-general", heads_by_dot_general),
)
