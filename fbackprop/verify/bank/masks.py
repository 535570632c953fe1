"""Masks, flags and lengths at their edges: all, none, an empty row, an episode's last step."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.specimen import bug, integers, right

MASK = integers(True, False, True, True, False)


def masked_mean(x, mask):
  """Average the rows that a mask keeps."""
  return (x * mask[:, None]).sum(0) / jnp.maximum(mask.sum(), 1)


def masked_mean_backward(x, mask, y_bar):
  """Pull a cotangent back through `masked_mean`."""
  return mask[:, None] * y_bar / jnp.maximum(mask.sum(), 1)


@bug("x: constant factor, path", masked_mean, (5, 3), MASK, level="standard")
def mask_of_nothing(x, mask, y_bar):
  """Where the mask keeps nothing, all rows get a share."""
  spread = jnp.broadcast_to(y_bar / x.shape[0], x.shape)
  return jnp.where(mask.any(), masked_mean_backward(x, mask, y_bar), spread), None


@right(masked_mean, (5, 3), MASK)
def right_masked_mean(x, mask, y_bar):
  """The rows that are kept share the cotangent."""
  return masked_mean_backward(x, mask, y_bar), None


def means(x, lengths):
  """Average the first entries of each row, as many as its length says."""
  return (x * before(x, lengths)).sum(1) / jnp.maximum(lengths, 1)


def before(x, lengths):
  """Return the mask of the entries before each row's length."""
  return jnp.arange(x.shape[1]) < lengths[:, None]


@bug("x: subset of examples, path, constant factor", means, (3, 5), integers(2, 5, 3),
     level="standard")  # fmt: skip
def length_of_zero(x, lengths, y_bar):
  """A row of length zero is treated as one of length one."""
  kept = jnp.maximum(lengths, 1)
  return before(x, kept) * (y_bar / kept)[:, None], None


@bug("x: subset of examples, zero", means, (3, 5), integers(2, 1, 3), level="standard")
def length_of_all(x, lengths, y_bar):
  """The last entry of a row is always taken for padding; no given row is full."""
  kept = jnp.minimum(lengths, x.shape[1] - 1)
  return before(x, kept) * (y_bar / jnp.maximum(lengths, 1))[:, None], None


@right(means, (3, 5), integers(2, 5, 3))
def right_lengths(x, lengths, y_bar):
  """The entries before the length share the cotangent."""
  return before(x, lengths) * (y_bar / jnp.maximum(lengths, 1))[:, None], None


def returns(rewards, done):
  """Compute discounted returns, which start anew where an episode is done."""

  def step(later, now):
    reward, is_done = now
    total = reward + 0.9 * later * (1 - is_done)
    return total, total

  return jax.lax.scan(step, jnp.zeros((), rewards.dtype), (rewards, done), reverse=True)[1]


def returns_backward(rewards, done, y_bar):
  """Pull a cotangent back through `returns`."""

  def step(earlier, now):
    bar, was_done = now
    total = bar + 0.9 * earlier * (1 - was_done)
    return total, total

  was_done = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])
  rewards_bar = jax.lax.scan(step, jnp.zeros_like(y_bar[0]), (y_bar, was_done))[1]
  later = jnp.concatenate([returns(rewards, done)[1:], jnp.zeros_like(rewards[:1])])
  return rewards_bar, -0.9 * rewards_bar * later


def episodes():
  """Return the ends of episodes as zeros and ones."""
  return jnp.asarray([0, 0, 1, 0, 0, 0], jnp.float32)


@bug("rewards: subset of examples, zero, other function", returns, (6,), episodes,
     level="standard")  # fmt: skip
def episode_that_ends_last(rewards, done, y_bar):
  """Where the last step ends an episode, its reward has no gradient."""
  rewards_bar, done_bar = returns_backward(rewards, done, y_bar)
  return rewards_bar.at[-1].multiply(1 - done[-1]), done_bar


@right(returns, (6,), episodes)
def right_returns(rewards, done, y_bar):
  """The returns' cotangents run forward in time, and stop at an episode's end."""
  return returns_backward(rewards, done, y_bar)


@bug("x: constant factor", lambda x, training: jnp.where(training, 2 * x, x), (4,),
     lambda: jnp.asarray(True), level="standard")  # fmt: skip
def flag_ignored(x, training, y_bar):
  """The flag's other value is forgotten."""
  return 2 * y_bar, None
