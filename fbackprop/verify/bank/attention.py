"""Bugs of attention and other sums along an axis: the wrong axis, mask, shift or order."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


def softmax_pullback(p, p_bar):
  """The cotangent of the logits of p = softmax over the last axis."""
  return p * (p_bar - (p * p_bar).sum(-1, keepdims=True))


def jacobian_missing():
  """Attention passes the cotangent of the probabilities on as that of the scores."""

  @jax.custom_vjp
  def attend(q, k, v):
    return jax.nn.softmax(q @ k.T) @ v

  def attend_fwd(q, k, v):
    p = jax.nn.softmax(q @ k.T)
    return p @ v, (q, k, v, p)

  def attend_bwd(residuals, y_bar):
    q, k, v, p = residuals
    scores_bar = p * (y_bar @ v.T)
    return scores_bar @ k, scores_bar.T @ q, p.T @ y_bar

  attend.defvjp(attend_fwd, attend_bwd)
  return Example(attend, draw((4, 3), (5, 3), (5, 6)))


def jacobian_axis():
  """The softmax's sum runs over the queries; there are as many as keys."""

  def attend(q, k, v):
    return jax.nn.softmax(q @ k.T) @ v

  def f_vjp(q, k, v):
    p = jax.nn.softmax(q @ k.T)

    def pullback(y_bar):
      p_bar = y_bar @ v.T
      scores_bar = p * (p_bar - (p * p_bar).sum(axis=0))
      return scores_bar @ k, scores_bar.T @ q, p.T @ y_bar

    return p @ v, pullback

  return Example(attend, draw((4, 3), (4, 3), (4, 5)), f_vjp)


def scale_of_the_keys():
  """1/sqrt(D) scales the scores, and the cotangent of the queries only."""

  @jax.custom_vjp
  def attend(q, k, v):
    return jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5) @ v

  def attend_fwd(q, k, v):
    p = jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5)
    return p @ v, (q, k, v, p)

  def attend_bwd(residuals, y_bar):
    q, k, v, p = residuals
    scores_bar = softmax_pullback(p, y_bar @ v.T)
    return scores_bar @ k / q.shape[-1] ** 0.5, scores_bar.T @ q, p.T @ y_bar

  attend.defvjp(attend_fwd, attend_bwd)
  return Example(attend, draw((4, 3), (5, 3), (5, 6)))


def causal_mask_forgotten():
  """The probabilities are recomputed in the rule without the causal mask."""

  def probabilities(q, k):
    mask = jnp.tril(jnp.ones((q.shape[0], k.shape[0]), bool))
    return jax.nn.softmax(jnp.where(mask, q @ k.T, -jnp.inf))

  def attend(q, k, v):
    return probabilities(q, k) @ v

  def f_vjp(q, k, v):
    def pullback(y_bar):
      p = jax.nn.softmax(q @ k.T)
      scores_bar = softmax_pullback(p, y_bar @ v.T)
      return scores_bar @ k, scores_bar.T @ q, p.T @ y_bar

    return attend(q, k, v), pullback

  return Example(attend, draw((5, 3), (5, 3), (5, 4)), f_vjp)


def heads_permuted():
  """Heads are split off as (heads, width) and merged in the rule as (width, heads)."""

  def per_head(x, gain):
    n, d = x.shape
    return (x.reshape(n, 2, d // 2) * gain[None, :, None]).reshape(n, d)

  def f_vjp(x, gain):
    n, d = x.shape
    heads = x.reshape(n, 2, d // 2)

    def pullback(y_bar):
      bar = y_bar.reshape(n, 2, d // 2)
      x_bar = (bar * gain[None, :, None]).swapaxes(1, 2).reshape(n, d)
      return x_bar, (bar * heads).sum((0, 2))

    return per_head(x, gain), pullback

  return Example(per_head, draw((5, 6), (2,)), f_vjp)


def cumsum_forward():
  """The cotangent of a running sum is summed from the front, too."""

  @jax.custom_vjp
  def running_sum(x):
    return jnp.cumsum(x, axis=0)

  def running_sum_fwd(x):
    return running_sum(x), None

  def running_sum_bwd(_, y_bar):
    return (jnp.cumsum(y_bar, axis=0),)

  running_sum.defvjp(running_sum_fwd, running_sum_bwd)
  return Example(running_sum, draw((6, 3)))


def sort_not_inverted():
  """The cotangent is permuted like the data, not back."""

  def sort(x):
    return jnp.sort(x)

  def f_vjp(x):
    order = jnp.argsort(x)

    def pullback(y_bar):
      return (y_bar[order],)

    return x[order], pullback

  return Example(sort, draw((7,)), f_vjp)


def convolution_shifted():
  """The input's cotangent is cut out of the full convolution one place too far."""

  @jax.custom_vjp
  def smooth(x, kernel):
    return jnp.convolve(x, kernel, mode="same")

  def smooth_fwd(x, kernel):
    return smooth(x, kernel), (x, kernel)

  def smooth_bwd(residuals, y_bar):
    x, kernel = residuals
    full = jnp.convolve(y_bar, kernel[::-1])
    padded = jnp.pad(x, 1)
    kernel_bar = jnp.stack([padded[2 - i : 2 - i + x.size] @ y_bar for i in range(3)])
    return full[2:] if full.size == x.size + 2 else full[: x.size], kernel_bar

  smooth.defvjp(smooth_fwd, smooth_bwd)
  return Example(smooth, draw((8,), (3,)))


def roll_same_way():
  """The difference to the neighbour is rolled the same way in the rule as in the function."""

  def difference(x):
    return x - jnp.roll(x, 1, axis=1)

  def f_vjp(x):
    def pullback(y_bar):
      return (y_bar - jnp.roll(y_bar, 1, axis=1),)

    return difference(x), pullback

  return Example(difference, draw((3, 6)), f_vjp)


BUGS = (
  Specimen("attention-without-jacobian", jacobian_missing, ("q", "k"), ("path",)),
  Specimen("attention-softmax-axis", jacobian_axis, ("q", "k"), ("path", "other function")),
  Specimen("attention-scale-of-keys", scale_of_the_keys, ("k",), ("constant factor",)),
  Specimen(
    "attention-causal-mask-forgotten",
    causal_mask_forgotten,
    ("v",),
    ("other function", "wrong point"),
  ),
  Specimen("heads-permuted", heads_permuted, ("x",), ("permuted",)),
  Specimen("cumsum-forward", cumsum_forward, ("x",), ("permuted", "other function", "path")),
  Specimen("sort-not-inverted", sort_not_inverted, ("x",), ("permuted",)),
  Specimen("convolution-shifted", convolution_shifted, ("x",), ("permuted", "other function")),
  Specimen("roll-same-way", roll_same_way, ("x",), ("permuted", "other function", "path")),
)
