"""Many networks at once, of other seeds or rates, as one compiled program."""

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import DtypeError, check_callable, describe, example_count
from fbackprop.train.divergence import locate_nonfinite
from fbackprop.train.ensemble_arguments import (
  check_keys,
  check_numbers,
  check_rates,
  optimizer_by_rate,
)
from fbackprop.train.ensemble_loop import Fixed, first_step, make_ensemble_chunk
from fbackprop.train.ensemble_results import (
  BestEpochs,
  EnsembleEvaluation,
  EnsembleResult,
  MemberCheck,
)
from fbackprop.train.ensemble_scores import Scores, make_ensemble_evaluate, mean_losses
from fbackprop.train.examples import check_examples
from fbackprop.train.gradient_checks import make_gradient_check
from fbackprop.train.interrupts import deferred_interrupt
from fbackprop.train.last_axis import is_tiny, shape_of
from fbackprop.train.loop import Loop, draw_order, start_loop, take_batch
from fbackprop.train.method_names import ShuffleName
from fbackprop.train.shuffle import find_shuffle
from fbackprop.train.step import make_step
from fbackprop.train.stop_conditions import DIVERGED, RUNNING, stop_numbers
from fbackprop.train.stop_rules import STOP_REASONS, StopRules, check_count, steps_left
from fbackprop.train.validation import make_look, set_aside, start_best, watched_examples
from fbackprop.types import Array, Layer, Loss


def fit_ensemble(
  net: Layer,
  loss: Loss,
  data: Any,
  *,
  optimizer: Any,
  stop: StopRules,
  keys: Array,
  rates: Sequence[float] | None = None,
  batch_size: int | None = None,
  shuffle: ShuffleName = "exact",
  test: Any = None,
  validation: Any = None,
  eval_every: int | None = None,
  check_every: int | None = None,
  check_members: Sequence[int] = (0,),
  chunk_steps: int = 1000,
  on_evaluation: Callable[[EnsembleEvaluation], None] | None = None,
) -> EnsembleResult:
  """Trains K networks at once, each until a stop rule fires for it.

  Member k is the run `fit(..., key=keys[k])`, up to rounding. The members share nothing but the
  data and the rules: one that has stopped, or has diverged, waits as it is for the others. Tiny
  networks are computed with the members along the last axis; see `fbackprop.train.last_axis`.

  Args:
    net: the network.
    loss: the loss.
    data: as in `fit`.
    optimizer: as in `fit`; with `rates`, a function of the rate that gives one, such as
      `optax.sgd`: the rate that it gets is traced.
    stop: the stop rules, the same for all.
    keys: typed keys `[K]`, such as `jax.random.split(jax.random.key(0), K)`.
    rates: of each member, K numbers above 0. A grid of rates and seeds is
      `rates=np.repeat(rates, len(seeds))` beside `keys=jnp.tile(keys, len(rates))`.
    batch_size, shuffle: as in `fit`.
    test: as in `fit`. All members together are scored too.
    validation: as in `fit`: each member keeps the parameters of its own best epoch.
      `stop.validation_fraction` sets the same examples aside for all, by the first key.
    eval_every: as in `fit`; counted in the steps of the members that still run.
    check_every: likewise, from step 0 on and at the end.
    check_members: whose gradients are compared then, each a number from 0 to K − 1.
    chunk_steps: as in `fit`.
    on_evaluation: called with each `EnsembleEvaluation`, as it comes.

  Returns:
    An `EnsembleResult`. An interrupt (SIGINT) ends the run after the chunk in flight.

  Raises:
    TypeError: an argument isn't what it must be.
    ValueError: shapes or values that don't fit; the message names the argument.

  Example:
    >>> import fbackprop as fb
    >>> x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> y = jnp.array([[0.0], [1.0], [1.0], [0.0]])
    >>> result = fit_ensemble(
    ...   fb.mlp([2, 4, 1], fb.tanh), fb.squared_error, (x, y),
    ...   optimizer=fb.train.gradient_descent(0.5), stop=StopRules(1000, loss_below=1e-2),
    ...   keys=jax.random.split(jax.random.key(0), 100),
    ... )
    >>> result.size, result.stop_reasons.count("loss_below") > 50
    (100, True)
  """
  if not isinstance(stop, StopRules):
    raise DtypeError(f"fit_ensemble: stop must be a StopRules, got {describe(stop)}")
  size = check_keys(keys)
  find_shuffle(shuffle)  # Refuses any other name before anything is done.
  if on_evaluation is not None:
    check_callable("fit_ensemble", "on_evaluation", on_evaluation)
  train = check_examples("data", data, net, loss)
  held_out = None if test is None else check_examples("test", test, net, loss)
  if held_out is not None and held_out.weights is not None:
    raise ValueError("fit_ensemble: test must be a pair (x, targets), got weights too")
  watched = watched_examples(stop, validation, net, loss)
  if stop.validation_fraction is not None:
    train, watched = set_aside(train, stop.validation_fraction, keys[0])
  n = example_count(train.x)
  batch_size = n if batch_size is None else batch_size
  for name, value in (("batch_size", batch_size), ("chunk_steps", chunk_steps)):
    check_count(name, value, least=1)
  for name, every in (("eval_every", eval_every), ("check_every", check_every)):
    if every is not None:
      check_count(name, every, least=1)
  checked = check_numbers(check_members, size)
  if batch_size > n:
    raise ValueError(f"batch_size must be at most the number of examples, {n}, got {batch_size}")
  rate_list = None if rates is None else check_rates(rates, size)
  optimizer_of = optimizer_by_rate(optimizer, rate_list is not None)

  start_key = jax.eval_shape(lambda keys: keys[0], keys)
  rate = None if rate_list is None else shape_of((), jax.tree.leaves(train.x)[0].dtype)
  info = jax.eval_shape(partial(first_step, net, loss, optimizer_of), start_key, rate, train)[1]
  dtype = info.loss.dtype
  rules = stop_numbers(stop, dtype, is_validated=watched is not None)
  most_steps = stop.most_steps(n // batch_size)
  batch = jax.tree.map(lambda part: shape_of((batch_size, *part.shape[1:]), part.dtype), train)
  is_last = is_tiny(partial(first_step, net, loss, optimizer_of), start_key, rate, batch)
  axis = -1 if is_last else 0

  def start(key: Array, rate: Array | None) -> tuple[Loop, Fixed]:
    init_key, order_key = jax.random.split(key)
    state = make_step(net, loss, optimizer_of(rate))[0](init_key)
    best = None if watched is None else start_best(state.params, dtype)
    return start_loop(state, n, dtype, shuffle)._replace(best=best), Fixed(order_key, rate)

  member_rates = (
    None if rate_list is None else jnp.asarray(rate_list, jax.tree.leaves(train.x)[0].dtype)
  )
  loop, fixed = jax.jit(jax.vmap(start, 0, axis))(keys, member_rates)
  evaluate = make_ensemble_evaluate(net, loss, axis)

  compile_start = time.perf_counter()
  capacity = max(1, min(chunk_steps, most_steps))
  look = None if watched is None else make_look(net, loss, watched)
  traced = make_ensemble_chunk(
    net, loss, optimizer_of, batch_size, capacity, size, is_last, shuffle, look
  )
  one = jnp.ones((), dtype)
  zero = jnp.zeros((), jnp.int32)
  chunk = traced.lower(loop, fixed, train, rules, zero, zero, one).compile()
  if held_out is not None:
    evaluate(loop.state.params, held_out)
  check_gradient = make_gradient_check(net, loss, train, batch_size)
  if check_every is not None and checked:
    check_gradient(member_of(loop.state, axis, checked[0]))
  start_time = time.perf_counter()
  compile_seconds = start_time - compile_start

  losses = [np.zeros((0, size), dtype)]  # Of each chunk.
  shown = len(losses)  # Of those, how many are in an evaluation already.
  evaluations: list[EnsembleEvaluation] = []

  def evaluate_now(done: int, running: int) -> None:
    nonlocal shown
    recent, shown = losses[shown:], len(losses)
    scores = Scores() if held_out is None else evaluate(loop.state.params, held_out)
    seconds = time.perf_counter() - start_time
    means = mean_losses(recent, size)
    evaluations.append(EnsembleEvaluation(done, running, means, *scores, seconds))
    if on_evaluation is not None:
      on_evaluation(evaluations[-1])

  checks: dict[tuple[int, int], MemberCheck] = {}
  check_seconds = 0.0

  def check_now() -> None:
    """Of those that have taken a step since; one that diverged is no place for a truth."""
    nonlocal check_seconds
    check_start = time.perf_counter()
    for k in checked:
      state = member_of(loop.state, axis, k)
      place = int(state.step), k
      if place not in checks and int(loop.progress.reason[k]) != DIVERGED:
        checks[place] = MemberCheck(*place, check_gradient(state))
    check_seconds += time.perf_counter() - check_start

  done, running = 0, size if most_steps else 0
  is_late = False
  with deferred_interrupt(signal.SIGINT) as interruption:
    while running and not interruption.requested:
      if check_every is not None and done % check_every == 0:
        check_now()
      ends = [(done // every + 1) * every for every in (eval_every, check_every) if every]
      if stop.max_seconds is not None:
        left = steps_left(stop.max_seconds, time.perf_counter() - start_time, done)
        is_late = left == 0
        if is_late:
          break
        ends.append(done + left)
      until = min(done + capacity, most_steps, *ends)
      limits = (jnp.asarray(step, jnp.int32) for step in (done, until))
      loop, reached, rows = chunk(loop, fixed, train, rules, *limits, one)
      losses.append(np.asarray(rows)[: int(reached) - done])
      done, running = int(reached), int((np.asarray(loop.progress.reason) == RUNNING).sum())
      if running and eval_every is not None and done % eval_every == 0:
        evaluate_now(done, running)
    if check_every is not None:
      check_now()
    if not evaluations or evaluations[-1].step != done or not running:
      evaluate_now(done, running)
    seconds = time.perf_counter() - start_time
    codes = np.asarray(loop.progress.reason)
    diverged_at: list[str | None] = [None] * size
    for k in np.flatnonzero(codes == DIVERGED).tolist():
      own, of = member_of(loop, axis, k), member_of(fixed, axis, k)
      at = own.state.step
      order = draw_order(at, own.order, train, batch_size, of.order_key, shuffle)
      batch = take_batch(at, order, train, batch_size, shuffle)
      diverged_at[k] = locate_nonfinite(net, loss, optimizer_of(of.rate), own.state, batch)
  unfinished = "max_seconds" if is_late else "interrupted"
  if not most_steps:
    unfinished = "max_epochs" if stop.max_epochs == 0 else "max_steps"
  in_front = partial(members_in_front, axis)
  params, best = jax.tree.map(in_front, loop.state.params), None
  if loop.best is not None:
    found = jax.tree.map(in_front, loop.best)
    best = BestEpochs(np.asarray(found.step), -np.asarray(found.badness))
    params = jax.tree.map(partial(chosen, jnp.isfinite(found.badness)), found.params, params)
  return EnsembleResult(
    params=params,
    rates=rate_list,
    stop_reasons=tuple(unfinished if code < 0 else STOP_REASONS[code] for code in codes),
    steps=np.asarray(loop.state.step),
    losses=np.concatenate(losses),
    evaluations=tuple(evaluations),
    interrupted=interruption.requested,
    seconds=seconds,
    compile_seconds=compile_seconds,
    best=best,
    checks=tuple(checks.values()),
    check_seconds=check_seconds,
    diverged_at=tuple(diverged_at),
  )


def members_in_front(axis: int, leaf: Array) -> Array:
  """An array with the axis of the members in front."""
  return jnp.moveaxis(leaf, axis, 0)


def member_of(tree: Any, axis: int, k: int) -> Any:
  """What is one member's own, without the axis of the members."""
  return jax.tree.map(lambda leaf: members_in_front(axis, leaf)[k], tree)


def chosen(which: Array, new: Array, old: Array) -> Array:
  """The new arrays of some members `[K]`, the old ones of the others."""
  return jnp.where(which.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
