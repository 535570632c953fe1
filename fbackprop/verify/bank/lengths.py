"""Rules that depend on the length of an axis other than the first: steps, channels, tiles."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.specimen import bug, right


def sums(x):
  """Compute cumulative sums along the last axis."""
  return jnp.cumsum(x, -1)


def sums_backward(y_bar):
  """Pull a cotangent back through `sums`."""
  return jnp.flip(jnp.cumsum(jnp.flip(y_bar, -1), -1), -1)


@bug("x: subset of examples, zero, path", sums, (2, 8), level="standard")
def sums_in_tiles_of_four(x, y_bar):
  """What the length exceeds a multiple of four by has no gradient."""
  whole = x.shape[-1] // 4 * 4
  return (jnp.where(jnp.arange(x.shape[-1]) < whole, sums_backward(y_bar), 0),)


@right(sums, (2, 8))
def right_sums(x, y_bar):
  """Cumulative sums from the end."""
  return (sums_backward(y_bar),)


def attend(q, k, v):
  """Compute attention without a mask."""
  weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k))
  return jnp.einsum("bts,bsd->btd", weights, v)


def attend_backward(q, k, v, y_bar):
  """Pull a cotangent back through `attend`."""
  p = jax.nn.softmax(jnp.einsum("btd,bsd->bts", q, k))
  p_bar = jnp.einsum("btd,bsd->bts", y_bar, v)
  scores_bar = p * (p_bar - (p * p_bar).sum(-1, keepdims=True))
  return (
    jnp.einsum("bts,bsd->btd", scores_bar, k),
    jnp.einsum("bts,btd->bsd", scores_bar, q),
    jnp.einsum("bts,btd->bsd", p, y_bar),
  )


QKV = (2, 4, 3), (2, 4, 3), (2, 4, 3)


@bug("q, k, v: subset of examples, zero", attend, *QKV, level="standard")
def odd_key_left_out(q, k, v, y_bar):
  """With an odd number of keys the last value has no gradient."""
  q_bar, k_bar, v_bar = attend_backward(q, k, v, y_bar)
  return q_bar, k_bar, v_bar.at[:, k.shape[1] // 2 * 2 :].set(0)


@right(attend, *QKV)
def right_attention_of_any_length(q, k, v, y_bar):
  """Attention of as many keys as queries, or fewer."""
  return attend_backward(q, k, v, y_bar)


def pool_pairs(x):
  """Average pairs of steps; an odd step at the end is left out."""
  steps = x.shape[1] // 2 * 2
  return x[:, :steps].reshape(x.shape[0], -1, 2, x.shape[2]).mean(2)


@bug("x: permuted, path, other function", pool_pairs, (2, 6, 3), level="standard")
def pool_padded_in_front(x, y_bar):
  """The step that is left out is taken to be the first."""
  pairs = jnp.repeat(y_bar / 2, 2, axis=1)
  return (jnp.pad(pairs, ((0, 0), (x.shape[1] % 2, 0), (0, 0))),)
