"""Shuffling: the examples of each step, by an exact shuffle of the epoch or by a fast one.

Both shuffles are pure functions of the epoch's key, which is derived from the run's key and the
epoch's number: the examples of a step don't depend on how a run is cut into chunks.

"exact" draws each of the N! permutations with equal probability, as nearly as
`jax.random.permutation` does, bit for bit the same. It sorts random bits, and sorting is most of a
tiny network's epoch.

"fast" is a keyed pseudorandom permutation of 0 ... N-1 that is evaluated at single indices and
never stored: a Feistel network on the next power of two, with cycle-walking.

Doubts: "fast" reaches only a small fraction of the N! permutations, as its ten round keys have 320
bits, and log2(2048!) is 19,581; nor is it cryptographically secure. It spreads the examples evenly,
which suffices for gradient descent, but not for permutation statistics.

References:
  Luby, Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", SIAM J.
    Comput. 17 (1988): the Feistel network.
  Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, section 4: cycle-walking.
  Appleby, MurmurHash3, 2011: the multipliers of `mix`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import example_count
from fbackprop.meshes import take_rows
from fbackprop.train.step import Batch
from fbackprop.types import Array

# With 6 rounds an example was followed by its neighbour 10 % too often among 24 examples, and 4 %
# among 100; with 8 rounds 2 % among 24, and nothing measurable among 100.
ROUNDS = 10


class Shuffle(NamedTuple):
  """A shuffle of the examples of an epoch.

  Attributes:
    draw: `draw(key, n) -> drawn`: the random numbers of an epoch of `n` examples.
    rows: `rows(drawn, n, start, count) -> [count]`: the indices of the examples at `count`
      consecutive places from `start`, in int32.
  """

  draw: Callable[[Array, int], Array]
  rows: Callable[[Array, int, Array, int], Array]


def exact_order(key: Array, n: int) -> Array:
  """Compute `jax.random.permutation(key, n)`, `[n]`, in a quarter of its time on a CPU.

  The algorithm sorts by 32 random bits, and again by others where equal bits are likely, stably.
  Here bits and index are packed into one 64-bit number, since XLA sorts single numbers with a
  compiled comparison and pairs with an interpreted one; the index in the low bits makes the sort
  stable.
  """
  order = jnp.arange(n, dtype=jnp.int32)
  # As many rounds as in `jax.random.permutation`: more where 32 bits are likely to repeat among n.
  for _ in range(math.ceil(3 * math.log(n) / math.log(2**32 - 1))):
    key, bits_key = jax.random.split(key)
    bits = jax.random.bits(bits_key, (n,), jnp.uint32)
    with jax.enable_x64(True):
      places = jnp.arange(n, dtype=jnp.uint64)
      numbers = jax.lax.sort(bits.astype(jnp.uint64) << 32 | places, is_stable=False)
      places = (numbers & 0xFFFFFFFF).astype(jnp.int32)
    order = order[places]
  return order


def exact_rows(order: Array, n: int, start: Array, count: int) -> Array:
  """Slice the permutation."""
  return jax.lax.dynamic_slice(order, (start,), (count,))


def fast_keys(key: Array, n: int) -> Array:
  """Draw the round keys `[ROUNDS]`."""
  return jax.random.bits(key, (ROUNDS,), jnp.uint32)


def fast_rows(keys: Array, n: int, start: Array, count: int) -> Array:
  """Encipher indices within the next power of two, repeatedly while outside of 0 ... n-1.

  Cycle-walking terminates, and is a bijection of 0 ... n-1: an index moves along its own cycle to
  the next member. At most half of the numbers are outside, so that it takes at most two tries on
  average.
  """
  encipher = partial(feistel, keys, bits=(n - 1).bit_length())
  rows = encipher(start.astype(jnp.uint32) + jnp.arange(count, dtype=jnp.uint32))
  # A loop even if n is a power of two and nothing is outside: it keeps XLA from recomputing the
  # cipher for each feature that is gathered.
  walked: Array = jax.lax.while_loop(
    lambda rows: (rows >= n).any(), lambda rows: jnp.where(rows >= n, encipher(rows), rows), rows
  )
  return walked.astype(jnp.int32)


def feistel(keys: Array, numbers: Array, bits: int) -> Array:
  """Apply a Feistel network, a bijection of the numbers below 2^bits.

  Args:
    keys: one number per round, uint32 `[ROUNDS]`.
    numbers: uint32, of any shape.
    bits: width of the numbers; if odd, the upper half has one bit less.
  """
  low_bits = (bits + 1) // 2
  high, low = numbers >> low_bits, numbers & ((1 << low_bits) - 1)
  for i in range(ROUNDS):
    if i % 2 == 0:
      low ^= mix(high ^ keys[i]) & ((1 << low_bits) - 1)
    else:
      high ^= mix(low ^ keys[i]) & ((1 << bits - low_bits) - 1)
  return high << low_bits | low


def mix(numbers: Array) -> Array:
  """Mix 32-bit numbers so that each output bit depends on all input bits."""
  numbers = numbers * jnp.uint32(0x85EBCA6B)
  numbers = (numbers ^ numbers >> 13) * jnp.uint32(0xC2B2AE35)
  return numbers ^ numbers >> 16


SHUFFLES: dict[str, Shuffle] = {
  "exact": Shuffle(exact_order, exact_rows),
  "fast": Shuffle(fast_keys, fast_rows),
}


def draw_order(
  step: Array, order: Array, data: Batch, batch_size: int, order_key: Array, shuffle: str
) -> Array:
  """Draw the shuffle of an epoch at its first step; return `order` unchanged at any other."""
  n = example_count(data.x)
  if batch_size == n:
    return order
  epoch, place = epoch_and_place(step, n // batch_size)

  def draw_anew() -> Array:
    return SHUFFLES[shuffle].draw(jax.random.fold_in(order_key, epoch), n)

  return jax.lax.cond(place == 0, draw_anew, lambda: order)


def take_batch(step: Array, order: Array, data: Batch, batch_size: int, shuffle: str) -> Batch:
  """Gather the examples of a step, in the `order` of its epoch.

  With full batches nothing is drawn or gathered: the lecture's full-batch descent.
  """
  n = example_count(data.x)
  if batch_size == n:
    return data
  place = epoch_and_place(step, n // batch_size)[1]
  rows = SHUFFLES[shuffle].rows(order, n, place * batch_size, batch_size)
  return take_rows(data, rows)


def batch_of(step: Array, data: Batch, batch_size: int, order_key: Array, shuffle: str) -> Batch:
  """Gather the examples of any step outside of the loop, bit for bit the same."""
  n = example_count(data.x)
  epoch, _ = epoch_and_place(step, n // batch_size)
  order = SHUFFLES[shuffle].draw(jax.random.fold_in(order_key, epoch), n)
  return take_batch(step, order, data, batch_size, shuffle)


def epoch_and_place(step: Array, steps_per_epoch: int) -> tuple[Array, Array]:
  """Split a step's number into its epoch and its place within the epoch."""
  # Not `jnp.divmod`, which adds the handling of negative numbers.
  each = jnp.asarray(steps_per_epoch, step.dtype)
  return jax.lax.div(step, each), jax.lax.rem(step, each)
