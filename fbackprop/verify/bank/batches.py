"""Bugs that depend on the number of examples: tiles with a remainder, N = 1, N = 0."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen

TILE = 8


def linear_with(w_rule, n):
  """x @ w, whose weights' cotangent is `w_rule(x, y_bar)`, with N examples."""

  @jax.custom_vjp
  def linear(x, w):
    return x @ w

  def linear_fwd(x, w):
    return x @ w, (x, w)

  def linear_bwd(residuals, y_bar):
    x, w = residuals
    return y_bar @ w.T, w_rule(x, y_bar)

  linear.defvjp(linear_fwd, linear_bwd)
  return Example(linear, draw((n, 4), (4, 3)))


def remainder_dropped():
  """The product goes by tiles of 8 examples, and N % 8 examples are left out; here N = 16."""

  def w_rule(x, y_bar):
    total = jnp.zeros((x.shape[1], y_bar.shape[1]), x.dtype)
    for i in range(x.shape[0] // TILE):
      rows = slice(i * TILE, (i + 1) * TILE)
      total = total + x[rows].T @ y_bar[rows]
    return total

  return linear_with(w_rule, 16)


def last_tile_clamped():
  """dynamic_slice moves the last tile back into the array: its first rows count twice; N = 16."""

  def w_rule(x, y_bar):
    def add_tile(i, total):
      rows = jax.lax.dynamic_slice_in_dim(x, i * TILE, TILE)
      return total + rows.T @ jax.lax.dynamic_slice_in_dim(y_bar, i * TILE, TILE)

    if x.shape[0] < TILE:
      return x.T @ y_bar
    zeros = jnp.zeros((x.shape[1], y_bar.shape[1]), x.dtype)
    return jax.lax.fori_loop(0, -(-x.shape[0] // TILE), add_tile, zeros)

  return linear_with(w_rule, 16)


def first_example_left_out():
  """The loop over examples starts at 1."""

  def w_rule(x, y_bar):
    total = jnp.zeros((x.shape[1], y_bar.shape[1]), x.dtype)
    for n in range(1, x.shape[0]):
      total = total + jnp.outer(x[n], y_bar[n])
    return total

  return linear_with(w_rule, 5)


def half_for_odd():
  """Examples are paired, and for an odd N the last one is wrapped around and counted twice."""

  def w_rule(x, y_bar):
    if x.shape[0] % 2:
      x, y_bar = jnp.concatenate([x, x[-1:]]), jnp.concatenate([y_bar, y_bar[-1:]])
    pairs = x.reshape(-1, 2, x.shape[1]), y_bar.reshape(-1, 2, y_bar.shape[1])
    return jnp.einsum("npi,npo->io", *pairs)

  return linear_with(w_rule, 6)


def last_of_seventeen():
  """The tiles end at N - 1, one row short, where there is more than one tile."""

  def w_rule(x, y_bar):
    if x.shape[0] <= 16:
      return x.T @ y_bar
    return x[:16].T @ y_bar[:16] + x[16:-1].T @ y_bar[16:-1]

  return linear_with(w_rule, 19)


def hard_coded_batch():
  """The mean's 1/N is written as 1/16, the batch size of the tests."""

  @jax.custom_vjp
  def loss(predictions, targets):
    return jnp.mean(jnp.sum((predictions - targets) ** 2, axis=1))

  def loss_fwd(predictions, targets):
    return loss(predictions, targets), predictions - targets

  def loss_bwd(error, loss_bar):
    bar = loss_bar * 2 * error / 16
    return bar, -bar

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, draw((16, 3), (16, 3)))


def single_example():
  """For N = 1 the batch axis is squeezed away, and the mean runs over the outputs."""

  def loss(predictions, targets):
    return jnp.mean(jnp.sum((predictions - targets) ** 2, axis=1))

  def f_vjp(predictions, targets):
    error = jnp.squeeze(predictions - targets)

    def pullback(loss_bar):
      bar = loss_bar * 2 * error / error.shape[0]
      bar = bar.reshape(predictions.shape)
      return bar, -bar

    return loss(predictions, targets), pullback

  return Example(loss, draw((6, 3), (6, 3)), f_vjp)


def empty_batch():
  """A safe mean gives 0 for no examples; the rule's regulariser is 0/0 then."""

  @jax.custom_vjp
  def loss(w, x):
    return jnp.sum((x @ w) ** 2) / max(x.shape[0], 1)

  def loss_fwd(w, x):
    return loss(w, x), (w, x)

  def loss_bwd(residuals, loss_bar):
    w, x = residuals
    y_bar = loss_bar * 2 * (x @ w) / max(x.shape[0], 1)
    return (x * y_bar[:, None]).mean(axis=0) * max(x.shape[0], 1), y_bar[:, None] * w

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, draw((3,), (5, 3)))


def odd_batch_raises():
  """The rule folds the batch in two halves, which an odd number of examples doesn't have."""

  def scale(x, gain):
    return x * gain

  def f_vjp(x, gain):
    def pullback(y_bar):
      products = (x * y_bar).reshape(2, x.shape[0] // 2, x.shape[1])
      return y_bar * gain, products.sum((0, 1))

    return x * gain, pullback

  return Example(scale, draw((6, 3), (3,)), f_vjp)


BUGS = (
  Specimen("tile-remainder-dropped", remainder_dropped, ("w",), ("subset of examples", "zero")),
  Specimen("tile-clamped", last_tile_clamped, ("w",), ("subset of examples",), level="standard"),
  Specimen("first-example-left-out", first_example_left_out, ("w",), ("subset of examples",)),
  Specimen("odd-batch-counts-last-twice", half_for_odd, ("w",), ("subset of examples",)),
  Specimen("last-row-of-tiles", last_of_seventeen, ("w",), ("subset of examples",)),
  Specimen("hard-coded-batch", hard_coded_batch, ("predictions", "targets"), ("constant factor",)),
  Specimen("single-example", single_example, ("predictions", "targets"), ("constant factor",)),
  Specimen("empty-batch", empty_batch, ("w",), ("not finite",), level="standard"),
  Specimen("odd-batch-raises", odd_batch_raises, (), ("raises",)),
)
