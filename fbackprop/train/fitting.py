"""A whole run: compile, train in chunks, evaluate, check the gradient, stop and say why."""

import math
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop.checks import DtypeError, check_callable, check_key, describe
from fbackprop.train.divergence import locate_nonfinite
from fbackprop.train.examples import check_examples, make_evaluate
from fbackprop.train.gradient_checks import make_gradient_check
from fbackprop.train.interruption import deferred_interrupt
from fbackprop.train.loop import make_chunk, start_loop, stop_numbers, take_batch
from fbackprop.train.method_names import ShuffleName
from fbackprop.train.results import BestEpoch, Evaluation, Result
from fbackprop.train.shuffles import find_shuffle
from fbackprop.train.steps import Info, layer_names, make_step
from fbackprop.train.stopping import STOP_REASONS, StopRules, check_count, steps_left
from fbackprop.train.validation import Best, make_look, set_aside, start_best, watched_examples
from fbackprop.types import Array, Layer, Loss
from fbackprop.verify.live import LiveCheck


def fit(
  net: Layer,
  loss: Loss,
  data: Any,
  *,
  optimizer: optax.GradientTransformation,
  stop: StopRules,
  key: Array,
  batch_size: int | None = None,
  shuffle: ShuffleName = "exact",
  test: Any = None,
  validation: Any = None,
  eval_every: int | None = None,
  check_every: int | None = None,
  chunk_steps: int = 1000,
  on_evaluation: Callable[[Evaluation], None] | None = None,
) -> Result:
  """Trains a network until a stop rule fires.

  Args:
    net: the network.
    loss: the loss.
    data: `(x, targets)` or a `Batch`: x `[N, D_in]` and what the loss takes. Values are looked at
      here, once: NaN, infinity and labels out of range are refused.
    optimizer: `gradient_descent(rate)` or any of optax's; see `make_step`.
    stop: the stop rules.
    key: `jax.random.key(seed)`: parameters, order of the examples and dropout follow from it.
    batch_size: examples of a step, 1 to N; None for all of them, in order. Fewer than N are drawn
      in a new order each epoch; a remainder smaller than a batch is left out of that epoch.
    shuffle: "exact", which is `jax.random.permutation`, or "fast", a keyed bijection that saves a
      tiny network's epoch much of its time and reaches a small part of all orders; see `shuffles`.
    test: `(x, targets)` to evaluate on. It is reported and decides nothing.
    validation: `(x, targets)` or a `Batch` that decides: it is scored after each epoch as
      `stop.validation_fraction` says, in the place of such a part of `data`.
    eval_every: steps from one evaluation to the next; None for one at the end only.
    check_every: steps from one comparison of our gradient with `jax.grad` to the next, from step 0
      on; None for none.
    chunk_steps: the most steps of one compiled call. It changes no result, only how soon an
      interrupt is heard.
    on_evaluation: called with each `Evaluation`, as it comes.

  Returns:
    A `Result`. An interrupt (SIGINT) ends the run after the chunk in flight, and a step that isn't
    finite (see `Info.finite`) ends it at once, with what was reached so far.

  Raises:
    TypeError: an argument isn't what it must be.
    ValueError: shapes or values that don't fit; the message names the argument.

  Example:
    >>> import fbackprop as fb
    >>> x = jnp.linspace(-1, 1, 32)[:, None]
    >>> result = fit(
    ...   fb.mlp([1, 16, 1], fb.tanh), fb.squared_error, (x, x * x),
    ...   optimizer=fb.train.gradient_descent(0.1), stop=StopRules(5000, loss_below=1e-3),
    ...   key=jax.random.key(0),
    ... )
    >>> result.stop_reason
    'loss_below'
  """
  if not isinstance(stop, StopRules):
    raise DtypeError(f"fit: stop must be a StopRules, got {describe(stop)}")
  check_key("fit", key)
  find_shuffle(shuffle)  # Refuses any other name before anything is done.
  if on_evaluation is not None:
    check_callable("fit", "on_evaluation", on_evaluation)
  init, step = make_step(net, loss, optimizer)
  train = check_examples("data", data, net, loss)
  held_out = None if test is None else check_examples("test", test, net, loss)
  if held_out is not None and held_out.weights is not None:
    raise ValueError("fit: test must be a pair (x, targets), got weights too")
  watched = watched_examples(stop, validation, net, loss)
  if stop.validation_fraction is not None:
    train, watched = set_aside(train, stop.validation_fraction, key)
  n = train.x.shape[0]
  batch_size = n if batch_size is None else batch_size
  for name, value in (("batch_size", batch_size), ("chunk_steps", chunk_steps)):
    check_count(name, value, least=1)
  for name, every in (("eval_every", eval_every), ("check_every", check_every)):
    if every is not None:
      check_count(name, every, least=1)
  if batch_size > n:
    raise ValueError(f"batch_size must be at most the number of examples, {n}, got {batch_size}")

  init_key, order_key = jax.random.split(key)
  most_steps = stop.most_steps(n // batch_size)
  state = init(init_key)
  names = layer_names(state.params)
  info = jax.eval_shape(step, state, train)[1]
  dtype = info.loss.dtype
  rules = stop_numbers(stop, dtype, is_validated=watched is not None)
  loop, look = start_loop(state, n, dtype, shuffle), None
  if watched is not None:
    look = make_look(net, loss, watched)
    loop = loop._replace(best=start_best(state.params, dtype))
  evaluate = make_evaluate(net, loss)
  check_gradient = make_gradient_check(net, loss, train, batch_size)

  compile_start = time.perf_counter()
  capacity = max(1, min(chunk_steps, most_steps))
  program = make_chunk(step, batch_size, capacity, shuffle, look)
  chunk = program.lower(loop, train, rules, as_step(0), order_key).compile()
  if held_out is not None:
    evaluate(state.params, held_out)
  if check_every is not None:
    check_gradient(state)
  start = time.perf_counter()
  compile_seconds, check_seconds = start - compile_start, 0.0

  rows = [jax.tree.map(no_rows, info)]  # Of each chunk, the Info of its steps.
  shown = len(rows)  # Of those, how many are in an evaluation already.
  evaluations: list[Evaluation] = []
  checks: list[tuple[int, LiveCheck]] = []

  def check_now(done: int) -> None:
    nonlocal check_seconds
    if not checks or checks[-1][0] < done:
      check_start = time.perf_counter()
      checks.append((done, check_gradient(loop.state)))
      check_seconds += time.perf_counter() - check_start

  def evaluate_now(done: int) -> None:
    nonlocal shown
    if evaluations and evaluations[-1].step == done:
      return
    recent, shown = rows[shown:], len(rows)
    last = next((r.grad_norms[-1] for r in reversed(rows) if len(r.grad_norms)), ())
    scores = (None, None) if held_out is None else evaluate(loop.state.params, held_out)
    evaluations.append(
      Evaluation(
        step=done,
        epoch=done / (n // batch_size),
        train_loss=mean_loss(recent),
        test_loss=scores[0],
        test_accuracy=scores[1],
        grad_norms=tuple(float(v) for v in last),
        gradient_error=checks[-1][1].rel_error if checks else None,
        seconds=time.perf_counter() - start,
        validation_score=score_of(loop.best, "latest"),
      )
    )
    if on_evaluation is not None:
      on_evaluation(evaluations[-1])

  done, reason = 0, None
  if most_steps == 0:
    reason = "max_epochs" if stop.max_epochs == 0 else "max_steps"
  with deferred_interrupt(signal.SIGINT) as interruption:
    while True:
      over = reason is not None
      # At the parameters of a run that diverged there is no truth to compare with.
      if check_every is not None and (over or done % check_every == 0) and reason != "diverged":
        check_now(done)
      if over or (eval_every is not None and done > 0 and done % eval_every == 0):
        evaluate_now(done)
      if over:
        break
      if interruption.requested:
        reason = "interrupted"
        continue  # The last check and evaluation are still to come.
      ends = [(done // every + 1) * every for every in (eval_every, check_every) if every]
      if stop.max_seconds is not None:
        left = steps_left(stop.max_seconds, time.perf_counter() - start, done)
        if left == 0:
          reason = "max_seconds"
          continue
        ends.append(done + left)
      until = min(done + capacity, most_steps, *ends)
      loop, infos = chunk(loop, train, rules, as_step(until), order_key)
      code, before, done = int(loop.progress.reason), done, int(loop.state.step)
      reason = None if code < 0 else STOP_REASONS[code]
      reached = done - before + (reason == "diverged")
      rows.append(jax.tree.map(partial(first_rows, reached), infos))
    seconds = time.perf_counter() - start
    diverged_at = None
    if reason == "diverged":
      at = (loop.state.step, loop.order, train, batch_size, order_key, shuffle)
      batch = take_batch(*at)[1]
      diverged_at = locate_nonfinite(net, loss, optimizer, loop.state, batch)
  assert reason is not None  # The loop ends with one.
  best = None
  if loop.best is not None and (score := score_of(loop.best, "badness")) is not None:
    scores = (None, None) if held_out is None else evaluate(loop.best.params, held_out)
    best = BestEpoch(int(loop.best.step), score, loop.best.params, *scores)
  return Result(
    state=loop.state,
    stop_reason=reason,
    losses=np.concatenate([r.loss for r in rows]),
    grad_norms=np.concatenate([r.grad_norms for r in rows]),
    layer_names=tuple(names),
    evaluations=tuple(evaluations),
    checks=tuple(checks),
    diverged_at=diverged_at,
    interrupted=interruption.requested,
    seconds=seconds,
    check_seconds=check_seconds,
    compile_seconds=compile_seconds,
    best=best,
  )


def score_of(best: Best | None, which: Literal["badness", "latest"]) -> float | None:
  """The best or the latest score of the examples set aside; None before there is one."""
  badness = math.inf if best is None else float(getattr(best, which))
  return -badness if math.isfinite(badness) else None


def as_step(step: int) -> Array:
  """A step number that a compiled loop takes."""
  return jnp.asarray(step, jnp.int32)


def no_rows(value: jax.ShapeDtypeStruct) -> np.ndarray:
  """The rows of no steps at all."""
  return np.zeros((0, *value.shape), value.dtype)


def first_rows(count: int, column: Array) -> np.ndarray:
  """The rows of the steps that were reached, on the host."""
  return np.asarray(column)[:count]


def mean_loss(chunks: list[Info]) -> float | None:
  """The mean loss of the examples of some steps, by their weights; None without any weight."""
  if not chunks:
    return None
  # Put together first, so that the sum is one sum however the run was cut into chunks.
  losses = np.concatenate([chunk.loss for chunk in chunks]).astype(np.float64)
  weights = np.concatenate([chunk.weight for chunk in chunks]).astype(np.float64)
  return float((weights * losses).sum() / weights.sum()) if weights.sum() else None
