"""The compiled run: a chunk of steps is one program, with the data on the device.

A loop over epochs, and in it one over steps, which halts where a stop rule may fire or the chunk is
over: there the rules are asked, so that a run ends at the same step however it is cut into chunks.
The order of the examples is drawn anew each epoch, from the epoch's number (see `shuffles`); a
remainder smaller than a batch waits for the next epoch's order.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import example_count
from fbackprop.meshes import take_rows
from fbackprop.train.shuffle import find_shuffle
from fbackprop.train.step import Batch, Info, State, all_finite, stays_finite
from fbackprop.train.stop_conditions import (
  DIVERGED,
  RUNNING,
  Progress,
  StopNumbers,
  add_up,
  judge,
  start_progress,
)
from fbackprop.train.validation import Best
from fbackprop.types import Array, Params, exportable

# Of `make_look`: scores the examples set aside, at the end of an epoch.
Look = Callable[[Best, Params, Array, Array, Array], Best]


# Of each step what must be written down as it is taken, see `recorded`.
Rows = dict[str, Any]


@exportable
class Loop(NamedTuple):
  """What a chunk of steps carries on.

  Attributes:
    state: of the step.
    order: what the shuffle drew for this epoch.
    progress: of the stop rules.
    best: the best parameters so far, where examples are set aside.
  """

  state: State
  order: Array
  progress: Progress
  best: Best | None = None


def start_loop(state: State, n: int, dtype: Any, shuffle: str = "exact") -> Loop:
  """The loop before its first step, over n examples, with losses of `dtype`."""
  drawn = jax.eval_shape(lambda key: find_shuffle(shuffle).draw(key, n), jax.random.key(0))
  return Loop(state, jnp.zeros(drawn.shape, drawn.dtype), start_progress(dtype))


def make_chunk(
  step: Callable[[State, Any], tuple[State, Info]],
  batch_size: int,
  capacity: int,
  shuffle: str = "exact",
  look: Look | None = None,
  *,
  is_thorough: bool = True,
) -> jax.stages.Wrapped:
  """Compiles the loop over at most `capacity` steps.

  Args:
    step: of `make_step`.
    batch_size: examples in a step.
    capacity: the most steps of one call.
    shuffle: "exact" or "fast".
    look: of `make_look`, where examples are set aside; the loop has a `best` then.
    is_thorough: whether `step` looks at every number. If not, the state is looked at once, at the
      end of the call: if it isn't finite, the reason is `DIVERGED`, at a step that isn't known. The
      loop that went in isn't donated then, so that its steps can be done again.

  Returns:
    `chunk(loop, data, stop, until, order_key) -> (loop, rows)`: runs until step `until` (at most
    `capacity` further) or until a stop rule fires. The loop that went in is donated. `rows` is the
    `Info` of each step, in arrays `[capacity, ...]`; those of steps that weren't reached say
    nothing. A step that diverged has its row, and isn't counted in `state.step`. Where `step` isn't
    thorough it is counted, and the rows of a call that diverged mean nothing.
  """

  @partial(jax.jit, donate_argnums=(0,) if is_thorough else ())
  def chunk(
    loop: Loop, data: Batch, stop: StopNumbers, until: Array, order_key: Array
  ) -> tuple[Loop, Info]:
    first = loop.state.step
    steps_per_epoch = example_count(data.x) // batch_size

    def goes_on(carry: tuple[Loop, Rows]) -> Array:
      loop = carry[0]
      return (loop.progress.reason == RUNNING) & (loop.state.step < until)

    def run_epoch(carry: tuple[Loop, Rows]) -> tuple[Loop, Rows]:
      loop, rows = carry
      start = loop.state.step
      order = draw_order(start, loop.order, data, batch_size, order_key, shuffle)
      left = steps_per_epoch - epoch_and_place(start, steps_per_epoch)[1]
      halt = start + jnp.minimum(left, jnp.minimum(until, stop.max_steps) - start)

      def stays(carry: tuple[State, Progress, Array, Rows]) -> Array:
        state, _, finite, _ = carry
        return finite & (state.step < halt)

      def take_step(
        carry: tuple[State, Progress, Array, Rows],
      ) -> tuple[State, Progress, Array, Rows]:
        state, progress, _, rows = carry
        row = state.step - first
        state, info = step(state, take_batch(state.step, order, data, batch_size, shuffle))
        progress = add_up(progress, info.loss, info.weight / batch_size, info.finite)

        def record(column: Array, value: Array) -> Array:
          # Not `column.at[row].set`, which asks whether the row is within the column.
          updated: Array = jax.lax.dynamic_update_index_in_dim(column, value, row, 0)
          return updated

        return state, progress, info.finite, jax.tree.map(record, rows, recorded(info, data))

      begin = (loop.state, loop.progress, jnp.ones((), bool), rows)
      if steps_per_epoch == 1:  # A loop of one step would cost a tiny network a tenth of it.
        state, progress, finite, rows = take_step(begin)
      else:
        state, progress, finite, rows = jax.lax.while_loop(stays, take_step, begin)
      loop = Loop(state, order, progress, loop.best)
      return account(loop, finite, steps_per_epoch, stop, look), rows

    def empty(value: jax.ShapeDtypeStruct) -> Array:
      return jnp.zeros((capacity, *value.shape), value.dtype)

    info = jax.eval_shape(step, loop.state, data)[1]
    rows = jax.tree.map(empty, recorded(info, data))
    after, rows = jax.lax.while_loop(goes_on, run_epoch, (loop, rows))
    rows["finite"] = jnp.arange(capacity, dtype=first.dtype) < after.state.step - first
    if data.weights is None:
      rows["weight"] = jnp.full(capacity, batch_size, info.weight.dtype)
    infos = Info(**rows)
    if is_thorough:
      return after, infos
    finite = all_finite(after.state.params)
    finite &= stays_finite(after.state.opt_state, loop.state.opt_state)
    reason = jnp.where(finite, after.progress.reason, DIVERGED).astype(jnp.int32)
    return after._replace(progress=after.progress._replace(reason=reason)), infos

  return chunk


def recorded(info: Info, data: Batch) -> Rows:
  """What must be written down in each step: all but what is known when the loop has ended.

  Each number costs a kernel of its own, which a small network's step feels.
  """
  known = {"finite"} if data.weights is not None else {"finite", "weight"}
  return {name: value for name, value in info._asdict().items() if name not in known}


def draw_order(
  step: Array,
  order: Array,
  data: Batch,
  batch_size: int,
  order_key: Array,
  shuffle: str = "exact",
) -> Array:
  """What this epoch's shuffle drew: at its first step anew, and else the `order` that it was."""
  draw, n = find_shuffle(shuffle).draw, example_count(data.x)
  if batch_size == n:
    return order
  epoch, place = epoch_and_place(step, n // batch_size)

  def draw_anew() -> Array:
    return draw(jax.random.fold_in(order_key, epoch), n)

  def keep() -> Array:
    return order

  drawn: Array = jax.lax.cond(place == 0, draw_anew, keep)
  return drawn


def take_batch(
  step: Array, order: Array, data: Batch, batch_size: int, shuffle: str = "exact"
) -> Batch:
  """The examples of a step, by the `order` of its epoch.

  With all examples in a step no order is drawn and nothing is gathered: the lecture's full-batch
  descent.
  """
  n = example_count(data.x)
  if batch_size == n:
    return data
  place = epoch_and_place(step, n // batch_size)[1]
  rows = find_shuffle(shuffle).rows(order, n, place * batch_size, batch_size)
  batch: Batch = take_rows(data, rows)
  return batch


def epoch_and_place(step: Array, steps_per_epoch: int) -> tuple[Array, Array]:
  """The number of a step's epoch, and the step's own in it."""
  # Of numbers that are never negative: `jnp.divmod` would look after their signs.
  each = jnp.asarray(steps_per_epoch, step.dtype)
  return jax.lax.div(step, each), jax.lax.rem(step, each)


def make_pass_over(
  steps_per_epoch: int, look: Look | None = None
) -> Callable[[Loop, StopNumbers], Loop]:
  """Compiles the step that isn't taken, for `fit(on_nonfinite="skip")`.

  Args:
    steps_per_epoch: full batches in the data.
    look: of `make_look`, where examples are set aside.

  Returns:
    `pass_over(loop, stop) -> loop`: takes a loop that a chunk left at a step that wasn't finite
      past that step, as one without any examples: it counts, the parameters are as they were.
  """

  @jax.jit
  def pass_over(loop: Loop, stop: StopNumbers) -> Loop:
    state = loop.state._replace(step=loop.state.step + 1)
    finite = jnp.ones((), bool)
    return account(loop._replace(state=state), finite, steps_per_epoch, stop, look)

  return pass_over


def account(
  loop: Loop, finite: Array, steps_per_epoch: int, stop: StopNumbers, look: Look | None
) -> Loop:
  """What is done where the loop halts: the examples set aside are scored, the stop rules asked.

  Args:
    loop: after the last step.
    finite: what that said of itself.
    steps_per_epoch: full batches in the data.
    stop: the rules.
    look: of `make_look`, where examples are set aside.
  """
  best, step = loop.best, loop.state.step
  if best is not None:
    assert look is not None
    best = look(best, loop.state.params, step, finite & (step % steps_per_epoch == 0), finite)
  progress = judge(loop.progress, finite, step, steps_per_epoch, stop, best)
  return loop._replace(progress=progress, best=best)
