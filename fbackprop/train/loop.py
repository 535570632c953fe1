"""The compiled training loop: a chunk of steps, of one network or of many, is one device program.

Method: two nested while loops. The outer one iterates over epochs, the inner one over the steps of
an epoch; it ends with the epoch, with the chunk, or at a nonfinite step. The validation set is
scored and the stop rules are evaluated only there, so that a run ends at the same step however it
is cut into chunks. The order of an epoch's examples is a function of the epoch's number alone (see
`shuffle`); a remainder smaller than a batch is dropped from that epoch.

An ensemble is the same program with a members' axis: whatever belongs to a member is mapped, by
`jax.vmap` along the first axis, or for tiny networks by `last_axis.vmap_last` along the last one.
The loops themselves are shared. All running members are at the same step, so that epochs begin for
all of them at once; one that has stopped, or has diverged, keeps its state.

Doubts: an ensemble's epoch continues until its last member halts, and steps of the stopped ones are
computed in vain; for an ensemble only the losses are recorded.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import example_count
from fbackprop.train import last_axis, stop_rules
from fbackprop.train.shuffle import SHUFFLES, draw_order, epoch_and_place, take_batch
from fbackprop.train.step import Batch, Info, State, all_finite, stays_finite
from fbackprop.train.stop_rules import DIVERGED, RUNNING, Best, Progress, StopNumbers, Validate
from fbackprop.types import Array, exportable

Step = Callable[[State, Any], tuple[State, Info]]
# The recorded fields of an `Info`, by name; see `row_of`.
Rows = dict[str, Any]
# The carry of the inner loop. The flag is whether the last step was finite, or, for an ensemble,
# whether each member still runs.
Carry = tuple[State, Progress, Array, Rows]


@exportable
class Loop(NamedTuple):
  """The carry of the outer loop, and the state of a run between chunks.

  Attributes:
    state: the training state.
    order: the random numbers of the shuffle for this epoch.
    progress: the running state of the stop rules.
    best: the best parameters so far, if there is a validation set.
  """

  state: State
  order: Array
  progress: Progress
  best: Best | None = None


class Member(NamedTuple):
  """Constants of a member: the key of its shuffles, and its learning rate if rates are given."""

  order_key: Array
  rate: Array | None = None


class Members(NamedTuple):
  """The members of an ensemble: their number, and their axis, 0 or −1, in arrays of a member."""

  size: int
  axis: int


def start_loop(state: State, n: int, dtype: Any, shuffle: str = "exact") -> Loop:
  """Build the loop's initial state, for n examples and losses of `dtype`."""
  drawn = jax.eval_shape(lambda key: SHUFFLES[shuffle].draw(key, n), jax.random.key(0))
  progress = stop_rules.start_progress(dtype)
  return Loop(state, jnp.zeros(drawn.shape, drawn.dtype), progress)


def make_chunk(
  step: Step | Callable[[Array | None], Step],
  batch_size: int,
  capacity: int,
  shuffle: str = "exact",
  validate: Validate = None,
  *,
  is_thorough: bool = True,
  members: Members | None = None,
) -> jax.stages.Wrapped:
  """Compile the loop over up to `capacity` steps.

  Args:
    step: the step of `make_step`; with `members`, a function of a member's rate that returns it.
    batch_size: batch size.
    capacity: the largest number of steps per call.
    shuffle: "exact" or "fast".
    validate: from `make_validate`, if there is a validation set; the loop then has a `best`.
    is_thorough: whether `step` checks every number. If not, the state is checked once, at the end
      of the call: if it isn't finite, the reason is `DIVERGED`, at an unknown step. The input loop
      isn't donated then, so that its steps can be computed again.
    members: the members' axis of an ensemble, whose steps are thorough; None for a single run.

  Returns:
    `chunk(loop, data, stop, until, member, one=None) -> (loop, rows)`: runs to step `until` (at
    most `capacity` further) or until a stop rule fires, for an ensemble until one has fired for
    every member. The input loop is donated. `rows` is the `Info` of each step, in arrays
    `[capacity, ...]`; rows of steps that weren't reached are undefined. A step that diverged has a
    row, but isn't counted in `state.step`. Where `step` isn't thorough it is counted, and the rows
    of a call that diverged are undefined. The rows of an ensemble hold the losses only,
    `[capacity, K]`, NaN where a member took no step. `one` is needed by an ensemble whose axis is
    the last: see `vmap_last`.
  """

  def step_of(member: Member) -> Any:
    own: Any = step
    return own if members is None else own(member.rate)

  @partial(jax.jit, donate_argnums=(0,) if is_thorough else ())
  def chunk(
    loop: Loop,
    data: Batch,
    stop: StopNumbers,
    until: Array,
    member: Member,
    one: Array | None = None,
  ) -> tuple[Loop, Info]:
    # The step of the run is that of the running members, which are the furthest.
    first, steps_per_epoch = loop.state.step.max(), example_count(data.x) // batch_size

    # Without weights each batch has the same share, 1: counted at the end of the inner loop, and
    # not by a kernel in each step.
    counts = members is None and data.weights is None

    def each(f: Callable[..., Any]) -> Any:
      """Map a member's function over all members."""
      if members is None:
        return f
      return last_axis.vmap_last(f, members.size, one) if members.axis else jax.vmap(f)

    def row_of(info: Info) -> Rows:
      # Each recorded field costs a kernel per step, which is noticeable for a small network: those
      # that are known after the loop aren't.
      known = {"finite"} if data.weights is not None else {"finite", "weight"}
      names = {"loss"} if members is not None else {*info._fields} - known
      row = {name: getattr(info, name) for name in sorted(names)}
      # In one array, as a kernel per step writes it.
      if members is None and info.loss.dtype == info.grad_norms.dtype:
        row["numbers"] = jnp.concatenate([row.pop("loss")[None], row.pop("grad_norms")])
      return row

    def goes_on(carry: tuple[Loop, Rows]) -> Array:
      loop, _ = carry
      return (loop.progress.reason == RUNNING).any() & (loop.state.step.max() < until)

    def run_epoch(carry: tuple[Loop, Rows]) -> tuple[Loop, Rows]:
      loop, rows = carry
      start, runs = loop.state.step.max(), loop.progress.reason == RUNNING

      def draw(order: Array, member: Member) -> Array:
        return draw_order(start, order, data, batch_size, member.order_key, shuffle)

      order = each(draw)(loop.order, member)
      left = steps_per_epoch - epoch_and_place(start, steps_per_epoch)[1]
      halt = start + jnp.minimum(left, jnp.minimum(until, stop.max_steps) - start)

      def stays(carry: Carry) -> Array:
        state, _, alive, _ = carry
        return alive.any() & (state.step.max() < halt)

      def take_step(carry: Carry) -> Carry:
        state, progress, alive, rows = carry
        at = state.step.max()

        def advance(
          state: State, progress: Progress, alive: Array, order: Array, member: Member
        ) -> Carry:
          batch = take_batch(at, order, data, batch_size, shuffle)
          new, info = step_of(member)(state, batch)
          share = info.weight / batch_size
          added = stop_rules.add_up(progress, info.loss, share, info.finite)
          if counts:
            added = added._replace(epoch_share=progress.epoch_share)
          if members is None:
            return new, added, info.finite, row_of(info)
          new, added = jax.tree.map(partial(jnp.where, alive), (new, added), (state, progress))
          loss = jnp.where(alive, info.loss, jnp.full_like(info.loss, jnp.nan))
          return new, added, alive & info.finite, row_of(info._replace(loss=loss))

        def record(column: Array, value: Array) -> Array:
          # Not `column.at[row].set`, which adds a bounds check.
          return jax.lax.dynamic_update_index_in_dim(column, value, at - first, 0)

        *carried, values = each(advance)(state, progress, alive, order, member)
        return *carried, jax.tree.map(record, rows, values)

      begin = (loop.state, loop.progress, jnp.ones((), bool) if members is None else runs, rows)
      if steps_per_epoch == 1:  # A while loop of one step would cost a tiny network a tenth of it.
        state, progress, alive, rows = take_step(begin)
      else:
        state, progress, alive, rows = jax.lax.while_loop(stays, take_step, begin)
      if counts:
        taken = (state.step - start).astype(progress.epoch_share.dtype)
        progress = progress._replace(epoch_share=progress.epoch_share + taken)
      # One predicate for all members: `cond` with a mapped predicate becomes a select, and the
      # validation set would be scored at every halt instead of at the end of epochs only.
      ends = alive.any() & (state.step.max() % steps_per_epoch == 0)

      def settle(loop: Loop, finite: Array, runs: Array, before: Loop) -> Loop:
        after = account(loop, finite, ends, steps_per_epoch, stop, validate)
        if members is None:
          return after
        kept = jax.tree.map(
          partial(jnp.where, runs), (after.progress, after.best), (before.progress, before.best)
        )
        return after._replace(progress=kept[0], best=kept[1])

      after = Loop(state, order, progress, loop.best)
      return each(settle)(after, alive, runs, loop), rows

    first_row = each(lambda state, member: row_of(step_of(member)(state, data)[1]))
    rows = jax.tree.map(
      lambda value: jnp.zeros((capacity, *value.shape), value.dtype),
      jax.eval_shape(first_row, loop.state, member),
    )
    after, rows = jax.lax.while_loop(goes_on, run_epoch, (loop, rows))
    if members is not None:
      return after, Info(rows["loss"], *[None] * 3)  # type: ignore[arg-type]
    if "numbers" in rows:
      numbers = rows.pop("numbers")
      rows |= {"loss": numbers[:, 0], "grad_norms": numbers[:, 1:]}
    # Derived instead of recorded: the steps counted in the state are those taken.
    rows["finite"] = jnp.arange(capacity, dtype=first.dtype) < after.state.step - first
    if data.weights is None:
      rows["weight"] = jnp.full(capacity, batch_size, stop.tol.dtype)  # That of `total_weight`.
    infos = Info(**rows)
    if is_thorough:
      return after, infos
    finite = all_finite(after.state.params)
    finite &= stays_finite(after.state.opt_state, loop.state.opt_state)
    reason = jnp.where(finite, after.progress.reason, DIVERGED).astype(jnp.int32)
    return after._replace(progress=after.progress._replace(reason=reason)), infos

  return chunk


def skip(loop: Loop, stop: StopNumbers, per_epoch: int, validate: Validate) -> Loop:
  """Advance a loop past the nonfinite step at which a chunk ended; see `StepRules.on_nonfinite`.

  As by a batch without examples: the step counts, and the parameters are unchanged. The arguments
  are those of `account`.
  """
  loop = loop._replace(state=loop.state._replace(step=loop.state.step + 1))
  ends = loop.state.step % per_epoch == 0
  return account(loop, jnp.ones((), bool), ends, per_epoch, stop, validate)


def account(
  loop: Loop, finite: Array, ends: Array, per_epoch: int, stop: StopNumbers, validate: Validate
) -> Loop:
  """Score the validation set at the end of an epoch, and evaluate the stop rules.

  Args:
    loop: the loop after the last step.
    finite: whether that step was finite.
    ends: whether it was the last of an epoch, as a scalar shared by all members.
    per_epoch: full batches in the data.
    stop: the rules.
    validate: from `make_validate`, if there is a validation set.
  """
  best, step = loop.best, loop.state.step
  if best is not None and validate is not None:
    best = validate(best, loop.state.params, step, ends, finite)
  progress = stop_rules.judge(loop.progress, finite, step, per_epoch, stop, best)
  return loop._replace(progress=progress, best=best)
