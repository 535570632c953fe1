"""Attention, and orders along an axis: a wrong axis, mask, scale, shift or permutation."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import softmax_backward
from fbackprop.verify.bank.specimen import bug, right


def attend(q, k, v):
  """Attend to all keys, without a scale."""
  return jax.nn.softmax(q @ k.T) @ v


@bug("q, k: path", attend, (4, 3), (5, 3), (5, 6))
def attention_without_jacobian(q, k, v, y_bar):
  """The softmax's rule is p p_bar, without the sum from its normalisation."""
  p = jax.nn.softmax(q @ k.T)
  scores_bar = p * (y_bar @ v.T)
  return scores_bar @ k, scores_bar.T @ q, p.T @ y_bar


@bug("q, k: path, other function", attend, (4, 3), (4, 3), (4, 5), f_vjp=True)
def attention_softmax_axis(q, k, v, y_bar):
  """The sum in the softmax's rule runs over the queries, which are as many as the keys."""
  p, p_bar = jax.nn.softmax(q @ k.T), y_bar @ v.T
  scores_bar = p * (p_bar - (p * p_bar).sum(axis=0))
  return scores_bar @ k, scores_bar.T @ q, p.T @ y_bar


@bug("k: constant factor", lambda q, k, v: jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5) @ v, (4, 3),
     (5, 3), (5, 6))  # fmt: skip
def attention_scale_of_keys(q, k, v, y_bar):
  """The factor 1/sqrt(D) of the scores is applied to the queries' cotangent only."""
  p = jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5)
  scores_bar = softmax_backward(p, y_bar @ v.T)
  return scores_bar @ k / q.shape[-1] ** 0.5, scores_bar.T @ q, p.T @ y_bar


def causal_scores(q, k):
  """Compute the scores, -inf where a key is later than the query."""
  return jnp.where(jnp.tril(jnp.ones((q.shape[0], k.shape[0]), bool)), q @ k.T, -jnp.inf)


def attend_causally(q, k, v):
  """Attend to the keys up to the query's own."""
  return jax.nn.softmax(causal_scores(q, k)) @ v


@bug("v: other function, wrong point", attend_causally, (5, 3), (5, 3), (5, 4), f_vjp=True)
def attention_causal_mask_forgotten(q, k, v, y_bar):
  """The rule recomputes the probabilities without the causal mask."""
  p = jax.nn.softmax(q @ k.T)
  scores_bar = softmax_backward(p, y_bar @ v.T)
  return scores_bar @ k, scores_bar.T @ q, p.T @ y_bar


def causal_forward(q, k, v):
  """Compute `attend_causally`, and keep the scores, their logsumexp and the output."""
  scores = causal_scores(q, k)
  lse = jax.nn.logsumexp(scores, axis=1)
  y = jnp.exp(scores - lse[:, None]) @ v
  return y, (q, k, v, scores, lse, y)


@right(attend_causally, (5, 3), (5, 3), (5, 4), forward=causal_forward, f_vjp=True)
def right_attention_by_rows(q, k, v, scores, lse, y, y_bar):
  """Causal attention, row by row by vmap, with D = Σ y y_bar in place of Σ p p_bar."""

  def row(q, scores, lse, y_bar, delta):
    p = jnp.exp(scores - lse)
    bar = p * (v @ y_bar - delta)
    return bar @ k, jnp.outer(bar, q), jnp.outer(p, y_bar)

  q_bar, k_bars, v_bars = jax.vmap(row)(q, scores, lse, y_bar, (y * y_bar).sum(1))
  return q_bar, k_bars.sum(0), v_bars.sum(0)


def heads_of(x):
  """Split the last axis into two heads."""
  return x.reshape(x.shape[0], 2, x.shape[1] // 2)


@bug("x: permuted", lambda x, gain: (heads_of(x) * gain[None, :, None]).reshape(x.shape), (5, 6),
     (2,), f_vjp=True)  # fmt: skip
def heads_permuted(x, gain, y_bar):
  """Heads are split as (heads, width), and merged in the rule as (width, heads)."""
  bar = heads_of(y_bar)
  x_bar = (bar * gain[None, :, None]).swapaxes(1, 2).reshape(x.shape)
  return x_bar, (bar * heads_of(x)).sum((0, 2))


@bug("x: permuted, other function, path", lambda x: jnp.cumsum(x, axis=0), (6, 3))
def cumsum_forward(x, y_bar):
  """The cotangent of a running sum is summed from the front, too."""
  return (jnp.cumsum(y_bar, axis=0),)


@right(lambda x: jnp.cumsum(x, axis=0), (6, 3))
def right_cumsum_from_total(x, y_bar):
  """The reversed running sum as the total minus the running sum before it."""
  return (y_bar.sum(0) - jnp.cumsum(y_bar, axis=0) + y_bar,)


def sort_forward(x):
  """Sort by a permutation, which is kept."""
  order = jnp.argsort(x)
  return x[order], (order,)


@bug("x: permuted", lambda x: jnp.sort(x), (7,), forward=sort_forward, f_vjp=True)
def sort_not_inverted(order, y_bar):
  """The cotangent is permuted like the data, instead of by the inverse."""
  return (y_bar[order],)


@right(lambda x: jnp.sort(x), (7,), forward=sort_forward)
def right_sort_inverted(order, y_bar):
  """The cotangent of a sort is permuted by the inverse permutation."""
  return (y_bar[jnp.argsort(order)],)


@bug("x: permuted, other function, path", lambda x: x - jnp.roll(x, 1, axis=1), (3, 6), f_vjp=True)
def roll_same_way(x, y_bar):
  """The rule of a difference of neighbours rolls in the same direction as the function."""
  return (y_bar - jnp.roll(y_bar, 1, axis=1),)
