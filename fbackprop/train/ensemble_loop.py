"""The compiled run of many networks: a chunk of steps of all members is one program."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fbackprop.checks import example_count
from fbackprop.train.last_axis import vmap_last
from fbackprop.train.loop import Loop, draw_order, take_batch
from fbackprop.train.method_names import ShuffleName
from fbackprop.train.step import Batch, make_step
from fbackprop.train.stop_conditions import RUNNING, StopNumbers, add_up, judge
from fbackprop.train.validation import Best
from fbackprop.types import Array, Layer, Loss, Params


class Fixed(NamedTuple):
  """What is a member's own and never changes: the key of its orders, and its rate or None."""

  order_key: Array
  rate: Array | None


def first_step(
  net: Layer, loss: Loss, optimizer_of: Callable[[Any], Any], key: Array, rate: Any, batch: Batch
) -> Any:
  """The start and the first step of one member, which are only traced."""
  init, step = make_step(net, loss, optimizer_of(rate))
  return step(init(key), batch)


def make_ensemble_chunk(
  net: Layer,
  loss: Loss,
  optimizer_of: Callable[[Any], optax.GradientTransformation],
  batch_size: int,
  capacity: int,
  size: int,
  is_last: bool,
  shuffle: ShuffleName,
  look: Callable[[Best, Params, Array, Array, Array], Best] | None,
) -> jax.stages.Wrapped:
  """Compiles the loop of all members over at most `capacity` steps.

  Returns:
    `chunk(loop, fixed, data, stop, first, until, one) -> (loop, reached, losses)`: from step
    `first` to step `until`, or until no member runs. The members stand along the last axis of
    `loop` and `fixed`, or along the first. `losses` is `[capacity, K]`, NaN where a member took no
    step. The loop that went in is donated.
  """

  @partial(jax.jit, donate_argnums=0)
  def chunk(
    loop: Loop,
    fixed: Fixed,
    data: Batch,
    stop: StopNumbers,
    first: Array,
    until: Array,
    one: Array,
  ) -> tuple[Loop, Array, Array]:
    steps_per_epoch = example_count(data.x) // batch_size

    def goes_on(carry: tuple[Loop, Array, Array]) -> Array:
      loop, at, _ = carry
      return (at < until) & (loop.progress.reason == RUNNING).any()

    def body(carry: tuple[Loop, Array, Array]) -> tuple[Loop, Array, Array]:
      loop, at, rows = carry

      def advance(loop: Loop, fixed: Fixed) -> tuple[Loop, Array]:
        # Members that run are all at the same step, so that one epoch begins for all of them.
        step = make_step(net, loss, optimizer_of(fixed.rate))[1]
        order = draw_order(at, loop.order, data, batch_size, fixed.order_key, shuffle)
        batch = take_batch(at, order, data, batch_size, shuffle)
        state, info = step(loop.state, batch)
        best = loop.best
        if best is not None:
          assert look is not None
          epoch_ends = (at + 1) % steps_per_epoch == 0
          best = look(best, state.params, state.step, epoch_ends, info.finite)
        progress = add_up(loop.progress, info.loss, info.weight / batch_size, info.finite)
        progress = judge(progress, info.finite, state.step, steps_per_epoch, stop, best)
        runs = loop.progress.reason == RUNNING
        new = jax.tree.map(partial(jnp.where, runs), Loop(state, order, progress, best), loop)
        return new, jnp.where(runs, info.loss, jnp.full_like(info.loss, jnp.nan))

      if is_last:
        loop, losses = vmap_last(advance, size, one)(loop, fixed)
      else:
        loop, losses = jax.vmap(advance)(loop, fixed)
      # Not `rows.at[row].set`, whose check of the row would be a pass over all rows in each step.
      rows = jax.lax.dynamic_update_index_in_dim(rows, losses, at - first, 0)
      return loop, at + 1, rows

    rows = jnp.full((capacity, size), jnp.nan, one.dtype)
    return jax.lax.while_loop(goes_on, body, (loop, first, rows))

  return chunk
