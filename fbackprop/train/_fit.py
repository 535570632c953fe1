"""A whole run: compile, train in chunks, evaluate, check the gradient, stop and say why."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from os import PathLike
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop.checks import (
  DtypeError,
  check_callable,
  check_key,
  check_like,
  describe,
  example_count,
)
from fbackprop.train.checkpoints import Checkpoints, Kind, Saved, keeping, load_checkpoint
from fbackprop.train.examples import check_examples, check_finite, digest, make_evaluate
from fbackprop.train.gradient_checks import make_gradient_check
from fbackprop.train.gradients import check_clip_examples, check_watch
from fbackprop.train.history import History, no_rows
from fbackprop.train.loop import make_chunk, make_pass_over, start_loop
from fbackprop.train.method_names import NonfiniteName, ShuffleName, WatchName
from fbackprop.train.monitors import make_health_check
from fbackprop.train.optimizers import scaled
from fbackprop.train.results import BestEpoch, Evaluation, Result
from fbackprop.train.runner import Running, score_of
from fbackprop.train.shuffle import find_shuffle
from fbackprop.train.step import Info, layer_names, make_guarded_step, make_step
from fbackprop.train.stop_conditions import stop_numbers
from fbackprop.train.stop_rules import StopRules, check_count
from fbackprop.train.validation import make_look, set_aside, start_best, watched_examples
from fbackprop.types import Array, Layer, Loss, Params


def fit(
  net: Layer,
  loss: Loss,
  data: Any,
  *,
  optimizer: optax.GradientTransformation,
  stop: StopRules,
  key: Array,
  params: Params = None,
  batch_size: int | None = None,
  shuffle: ShuffleName = "exact",
  test: Any = None,
  validation: Any = None,
  eval_every: int | None = None,
  check_every: int | None = None,
  chunk_steps: int = 1000,
  on_evaluation: Callable[[Evaluation], None] | None = None,
  checkpoints: Checkpoints | None = None,
  resume: str | PathLike[str] | None = None,
  on_nonfinite: NonfiniteName = "raise",
  on_event: Callable[[str], None] | None = None,
  clip_examples: float | None = None,
  watch: Sequence[WatchName] = (),
) -> Result:
  """Trains a network until a stop rule fires.

  Args:
    net: the network.
    loss: the loss.
    data: `(x, targets)` or a `Batch`: x `[N, D_in]` and what the loss takes. Values are looked at
      here, once: NaN, infinity and labels out of range are refused. NumPy arrays become what JAX
      makes of them, float32 without x64: what is too large for that is refused, and a warning names
      the columns that lose distinct values, as those of time stamps do.
    optimizer: `gradient_descent(rate)` or any of optax's; see `make_step`.
    stop: the stop rules.
    key: `jax.random.key(seed)`: parameters, order of the examples and dropout follow from it.
    params: parameters to start from, of `net`'s structure, shapes and dtypes, such as those of a
      `Result`; they are copied. None to draw them from `key`.
    batch_size: examples of a step, 1 to N; None for all of them, in order. Fewer than N are drawn
      in a new order each epoch; a remainder smaller than a batch is left out of that epoch.
    shuffle: "exact", which is `jax.random.permutation`, or "fast", a keyed bijection that saves a
      tiny network's epoch much of its time and reaches a small part of all orders; see `shuffles`.
    test: `(x, targets)` to evaluate on. It is reported and decides nothing.
    validation: `(x, targets)` or a `Batch` that decides: it is scored after each epoch as
      `stop.validation_fraction` says, in the place of such a part of `data`.
    eval_every: steps from one evaluation to the next; None for one at the end only.
    check_every: steps from one comparison of our gradient with `jax.grad` to the next, from step 0
      on; None for none. Both are computed in float64, whatever precision the products of the run
      have (TF32, bf16 passes), and on the CPU where the device has no float64: it is a check of the
      mathematics. `LiveCheck.rounding` says what the run's own arithmetic rounds.
    chunk_steps: the most steps of one compiled call. It changes no result, only how soon an
      interrupt is heard.
    on_evaluation: called with each `Evaluation`, as it comes, and first, of a run that goes on,
      with those that it had before.
    checkpoints: where and how often the run is saved; None for nowhere.
    resume: a folder of checkpoints, or one of them: the run goes on from there, to the same bits as
      if it had never been cut. All arguments must be those that it began with, but for what doesn't
      change a step: `stop`, by which it may go on further, `test`, how often what is done, and
      `checkpoints`, which may name the same folder. A damaged checkpoint is left out, and the one
      before it taken. Not together with `params`, which the checkpoint holds.
    on_nonfinite: what a step that isn't finite (see `Info.finite`) does. "raise" ends the run.
      "skip" leaves that step out, up to 10 in a row. "rollback" goes back to the last checkpoint
      and on from there with updates of half the size, up to 10 times; it needs
      `checkpoints.every`. A state that isn't finite is never kept, nor saved.
    on_event: called with a sentence about what wasn't planned: a damaged checkpoint, one that
      can't be written, a step that was left out, a rollback. By default a warning.
    clip_examples: the largest norm of an example's gradient; a longer one is shortened to it before
      a step takes their mean. The gradient check then takes `jax.grad` of each example.
    watch: what is told besides. "noise_scale": of the steps since the evaluation before, at the
      cost of each example's norm in each step. "health": of each layer, at the cost of a backward
      pass in each evaluation. These and `clip_examples` need a network of captured layers, as
      `fbackprop.mlp(sizes, dense=fbackprop.quantities.captured(fbackprop.dense))`.

  Returns:
    A `Result`. An interrupt (SIGINT, and where there are checkpoints SIGTERM) ends the run after
    the chunk in flight, with what was reached so far; so does a step that isn't finite.

  Raises:
    TypeError: an argument isn't what it must be.
    ValueError: shapes or values that don't fit; the message names the argument. The checkpoint is
      of another run; or every one there is is damaged.
    OSError: there is no checkpoint to go on from; or the folder of checkpoints is in use by another
      run, or holds what another one left.

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
  if params is not None:
    if resume is not None:
      raise ValueError("fit: params and resume are mutually exclusive: a checkpoint holds its own")
    check_start(net, params)
  find_shuffle(shuffle)  # Refuses any other name before anything is done.
  for what, function in (("on_evaluation", on_evaluation), ("on_event", on_event)):
    if function is not None:
      check_callable("fit", what, function)
  check_saving(checkpoints, on_nonfinite)
  if on_nonfinite == "rollback":
    optimizer = scaled(optimizer)
  # What is left out must be known at once; else a chunk may be done again, see `Running`.
  is_thorough = on_nonfinite != "raise"
  check_watch(watch)
  if clip_examples is not None:
    check_clip_examples(clip_examples)
    clip_examples = float(clip_examples)  # As a checkpoint can hold it.
  in_steps = tuple(name for name in watch if name != "health")
  asked: dict[str, Any] = {"clip_examples": clip_examples, "watch": in_steps}
  init, step = make_guarded_step(net, loss, optimizer, is_thorough, **asked)
  train = check_examples("data", data, net, loss)
  held_out = None if test is None else check_examples("test", test, net, loss)
  if held_out is not None and held_out.weights is not None:
    raise ValueError("fit: test must be a pair (x, targets), got weights too")
  watched = watched_examples(stop, validation, net, loss)
  if stop.validation_fraction is not None:
    train, watched = set_aside(train, stop.validation_fraction, key)
  n = example_count(train.x)
  batch_size = n if batch_size is None else batch_size
  for name, value in (("batch_size", batch_size), ("chunk_steps", chunk_steps)):
    check_count(name, value, least=1)
  for name, every in (("eval_every", eval_every), ("check_every", check_every)):
    if every is not None:
      check_count(name, every, least=1)
  if batch_size > n:
    raise ValueError(f"batch_size must be at most the number of examples, {n}, got {batch_size}")
  if "noise_scale" in watch and batch_size < 2:
    raise ValueError("watch: noise_scale needs batch_size to be at least 2, as one example has no "
                     f"scatter, got {batch_size}")  # fmt: skip

  init_key, order_key = jax.random.split(key)
  steps_per_epoch = n // batch_size
  most_steps = stop.most_steps(steps_per_epoch)
  state = init(init_key, params)
  names = layer_names(state.params)
  info = jax.eval_shape(step, state, train)[1]
  dtype = info.loss.dtype
  numbers = stop_numbers(stop, dtype, is_validated=watched is not None)
  loop, look = start_loop(state, n, dtype, shuffle), None
  if watched is not None:
    look = make_look(net, loss, watched)
    loop = loop._replace(best=start_best(state.params, dtype))
  test_scores = make_evaluate(net, loss)
  check_gradient = make_gradient_check(net, loss, train, batch_size, clip_examples)
  health = make_health_check(net, loss, train, batch_size) if "health" in watch else None
  own_stop = asdict(stop)
  identity: dict[str, Any] = {}
  if checkpoints is not None or resume is not None:
    identity = {
      "loss": loss.name,
      "examples": digest(train),
      "examples set aside": digest(watched),
      "batch_size": batch_size,
      "shuffle": shuffle,
      "key": digest(jax.random.key_data(key)),
      "on_nonfinite='rollback'": on_nonfinite == "rollback",
      "clip_examples": clip_examples,
      "watch": sorted(watch),
    }

  # Of shapes, as the loop itself is donated.
  kind = Kind(identity, jax.eval_shape(lambda loop: loop, loop), info, jax.random.key_impl(key))

  def tell(event: str) -> None:
    if on_event is None:
      warnings.warn(f"fit: {event}", stacklevel=2)
    else:
      on_event(event)

  def load(path: str | PathLike[str]) -> Saved:
    return load_checkpoint(path, kind, tell)

  def evaluate(params: Params) -> tuple[float | None, float | None]:
    return (None, None) if held_out is None else test_scores(params, held_out)

  with keeping(checkpoints, identity, own_stop, resume) as keeper:
    saved = None if resume is None else load(resume)
    compile_start = time.perf_counter()
    capacity = max(1, min(chunk_steps, most_steps))
    program = make_chunk(step, batch_size, capacity, shuffle, look, is_thorough=is_thorough)
    thorough = make_chunk(
      make_step(net, loss, optimizer, **asked)[1], batch_size, capacity, shuffle, look
    )  # Not compiled before it is needed.
    zero = jnp.zeros((), jnp.int32)
    chunk = program.lower(loop, train, numbers, zero, order_key).compile()
    evaluate(state.params)
    if check_every is not None:
      check_gradient(state)
    if health is not None:
      health(state)
    start = time.perf_counter()
    compile_seconds = start - compile_start
    running = Running(
      net=net,
      loss=loss,
      optimizer=optimizer,
      train=train,
      stop=stop,
      batch_size=batch_size,
      shuffle=shuffle,
      eval_every=eval_every,
      check_every=check_every,
      on_nonfinite=on_nonfinite,
      on_evaluation=on_evaluation,
      clip_examples=clip_examples,
      numbers=numbers,
      order_key=order_key,
      capacity=capacity,
      chunk=chunk,
      thorough_chunk=None if is_thorough else thorough,
      pass_over=make_pass_over(steps_per_epoch, look),
      evaluate=evaluate,
      check=check_gradient,
      health=health,
      keeper=keeper,
      load=load,
      tell=tell,
      start=start,
      loop=loop,
      history=History([no_rows(info)]),
    )
    reason = None
    if saved is not None:
      reason = running.go_on_from(saved, own_stop)
    if reason is None and running.done >= most_steps:
      is_steps = stop.max_steps is not None and running.done >= stop.max_steps
      reason = "max_steps" if is_steps else "max_epochs"
    reason = running.run(reason)
    seconds = running.seconds
  loop, history, best = running.loop, running.history, None
  if loop.best is not None and (score := score_of(loop.best, "badness")) is not None:
    scores = evaluate(loop.best.params)
    best = BestEpoch(int(loop.best.step), score, loop.best.params, *scores)
  infos = history.infos()
  return Result(
    state=loop.state,
    stop_reason=reason,
    losses=np.asarray(infos.loss),
    grad_norms=np.asarray(infos.grad_norms),
    layer_names=tuple(names),
    evaluations=tuple(history.evaluations),
    checks=tuple(history.checks),
    diverged_at=running.diverged_at,
    interrupted=running.interrupted,
    seconds=seconds,
    check_seconds=history.check_seconds,
    compile_seconds=compile_seconds,
    best=best,
    skipped=skipped_steps(infos, reason),
    rollbacks=history.rollbacks,
    saved_at=running.saved_at,
    unsaved=tuple(running.unsaved),
    watched=infos.watched,
  )


def check_start(net: Layer, params: Params) -> None:
  """Refuses parameters that a run of `net` can't start from, by the leaf."""
  check_like("fit: params", params, jax.eval_shape(net.init, jax.random.key(0)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    check_finite(f"params{jax.tree_util.keystr(path)}", np.asarray(leaf))


def check_saving(checkpoints: Any, on_nonfinite: Any) -> None:
  """Refuses what can't be, of the arguments that say what is saved and when it is needed."""
  if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
    raise DtypeError(f"fit: checkpoints must be a Checkpoints, got {describe(checkpoints)}")
  choices = get_args(NonfiniteName)
  if on_nonfinite not in choices:
    raise ValueError(f"on_nonfinite must be one of {', '.join(choices)}, got {on_nonfinite!r}")
  if on_nonfinite == "rollback" and (checkpoints is None or checkpoints.every is None):
    raise ValueError(
      "on_nonfinite='rollback' needs checkpoints to go back to: give checkpoints with every"
    )


def skipped_steps(infos: Info, reason: str) -> tuple[int, ...]:
  """The steps that were left out; the one at which a run diverged isn't."""
  refused = np.flatnonzero(~infos.finite) + 1
  return tuple(map(int, refused[:-1] if reason == "diverged" else refused))
