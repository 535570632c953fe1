"""Many networks at once, of other seeds or rates, as one compiled program."""

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop.checks import DtypeError, ShapeError, check_callable, check_number, describe
from fbackprop.train.averaging import mean_outputs
from fbackprop.train.ensemble_results import BestEpochs, EnsembleEvaluation, EnsembleResult
from fbackprop.train.examples import check_examples, holds_labels
from fbackprop.train.interruption import deferred_interrupt
from fbackprop.train.last_axis import is_tiny, shape_of, vmap_last
from fbackprop.train.loop import (
  RUNNING,
  Loop,
  StopNumbers,
  judge,
  start_loop,
  stop_numbers,
  take_batch,
)
from fbackprop.train.method_names import ShuffleName
from fbackprop.train.shuffles import find_shuffle
from fbackprop.train.steps import Batch, make_step
from fbackprop.train.stopping import STOP_REASONS, StopRules, check_count, steps_left
from fbackprop.train.validation import (
  Best,
  make_look,
  set_aside,
  start_best,
  watched_examples,
)
from fbackprop.types import Array, Layer, Loss, Params


class Fixed(NamedTuple):
  """What is a member's own and never changes: the key of its orders, and its rate or None."""

  order_key: Array
  rate: Array | None


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
  n = train.x.shape[0]
  batch_size = n if batch_size is None else batch_size
  for name, value in (("batch_size", batch_size), ("chunk_steps", chunk_steps)):
    check_count(name, value, least=1)
  if eval_every is not None:
    check_count("eval_every", eval_every, least=1)
  if batch_size > n:
    raise ValueError(f"batch_size must be at most the number of examples, {n}, got {batch_size}")
  rate_list = None if rates is None else check_rates(rates, size)
  optimizer_of = optimizer_by_rate(optimizer, rate_list is not None)

  start_key = jax.eval_shape(lambda keys: keys[0], keys)
  rate = None if rate_list is None else shape_of((), train.x.dtype)
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

  member_rates = None if rate_list is None else jnp.asarray(rate_list, train.x.dtype)
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

  done, running = 0, size if most_steps else 0
  is_late = False
  with deferred_interrupt(signal.SIGINT) as interruption:
    while running and not interruption.requested:
      ends = [(done // eval_every + 1) * eval_every] if eval_every else []
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
    if not evaluations or evaluations[-1].step != done or not running:
      evaluate_now(done, running)
    seconds = time.perf_counter() - start_time
  unfinished = "max_seconds" if is_late else "interrupted"
  if not most_steps:
    unfinished = "max_epochs" if stop.max_epochs == 0 else "max_steps"
  codes = np.asarray(loop.progress.reason)
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
  )


def chosen(which: Array, new: Array, old: Array) -> Array:
  """The new arrays of some members `[K]`, the old ones of the others."""
  return jnp.where(which.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


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
    steps_per_epoch = data.x.shape[0] // batch_size

    def goes_on(carry: tuple[Loop, Array, Array]) -> Array:
      loop, at, _ = carry
      return (at < until) & (loop.progress.reason == RUNNING).any()

    def body(carry: tuple[Loop, Array, Array]) -> tuple[Loop, Array, Array]:
      loop, at, rows = carry

      def advance(loop: Loop, fixed: Fixed) -> tuple[Loop, Array]:
        # Members that run are all at the same step, so that one epoch begins for all of them.
        step = make_step(net, loss, optimizer_of(fixed.rate))[1]
        order, batch = take_batch(at, loop.order, data, batch_size, fixed.order_key, shuffle)
        state, info = step(loop.state, batch)
        share = info.weight / batch_size
        best = loop.best
        if best is not None:
          assert look is not None
          epoch_ends = (at + 1) % steps_per_epoch == 0
          best = look(best, state.params, state.step, epoch_ends, info.finite)
        progress = judge(
          loop.progress, info.loss, share, info.finite, state.step, steps_per_epoch, stop, best
        )
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


class Scores(NamedTuple):
  """Of an evaluation what the test examples say; None without any."""

  test_losses: np.ndarray | None = None
  test_accuracies: np.ndarray | None = None
  test_loss: float | None = None
  test_accuracy: float | None = None


def make_ensemble_evaluate(net: Layer, loss: Loss, axis: int) -> Callable[[Params, Batch], Scores]:
  """Builds `evaluate(params, batch)`, without randomness; `axis` is that of the members."""

  @jax.jit
  def measure(params: Params, batch: Batch) -> Any:
    def outputs_of(params: Params) -> Array:
      return net.forward(params, batch.x)[0]

    def score(outputs: Array) -> tuple[Array, Array | None]:
      mean = loss.forward(outputs, batch.targets)[0].mean()
      is_labelled = holds_labels(batch.targets)
      return mean, (outputs.argmax(1) == batch.targets).mean() if is_labelled else None

    outputs = jax.vmap(outputs_of, axis)(params)  # [K, N, C]
    return *jax.vmap(score)(outputs), *score(mean_outputs(outputs, loss.name))

  def evaluate(params: Params, batch: Batch) -> Scores:
    losses, accuracies, own_loss, own_accuracy = measure(params, batch)
    if accuracies is None:
      return Scores(np.asarray(losses), None, float(own_loss), None)
    return Scores(np.asarray(losses), np.asarray(accuracies), float(own_loss), float(own_accuracy))

  return evaluate


def members_in_front(axis: int, leaf: Array) -> Array:
  """An array with the axis of the members in front."""
  return jnp.moveaxis(leaf, axis, 0)


def mean_losses(chunks: list[np.ndarray], size: int) -> np.ndarray:
  """Each member's mean over the steps that it took, `[K]`; NaN where it took none."""
  losses = np.concatenate([np.zeros((0, size)), *chunks])
  counts = (~np.isnan(losses)).sum(0)
  sums = np.nansum(losses, axis=0, dtype=np.float64)
  means: np.ndarray = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
  return means


def check_keys(keys: Any) -> int:
  """How many members there are; refuses what isn't a row of typed keys."""
  is_keys = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
  if not is_keys:
    raise DtypeError(
      "fit_ensemble: keys must be typed keys [K], such as jax.random.split(jax.random.key(seed), "
      f"K), got {describe(keys)}"
    )
  if keys.ndim != 1 or not len(keys):
    raise ShapeError(f"fit_ensemble: keys must have shape [K], K at least 1, got {describe(keys)}")
  return len(keys)


def check_rates(rates: Any, size: int) -> np.ndarray:
  """The rates `[K]` in float64; refuses other numbers of them, and those that can't be."""
  rates = list(rates)
  if len(rates) != size:
    raise ShapeError(
      f"fit_ensemble: rates must be one for each of the {size} keys, got {len(rates)}"
    )
  for k, rate in enumerate(rates):
    check_number("fit_ensemble", f"rates[{k}]", rate)
    if rate <= 0:
      raise ValueError(f"fit_ensemble: rates[{k}] must be above 0, got {rate}")
  return np.asarray(rates, np.float64)


def optimizer_by_rate(
  optimizer: Any, has_rates: bool
) -> Callable[[Any], optax.GradientTransformation]:
  """The optimiser as a function of a member's rate, whether it is one or not."""
  if has_rates:
    if not callable(optimizer) or isinstance(optimizer, optax.GradientTransformation):
      raise DtypeError(
        "fit_ensemble: with rates, optimizer must be a function of the rate, such as optax.sgd, "
        f"got {describe(optimizer)}"
      )
    by_rate: Callable[[Any], optax.GradientTransformation] = optimizer
    return by_rate
  return lambda rate: optimizer
