"""`fit` and `fit_ensemble`: train one network, or many by one program, until a stop rule fires."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop.checks import check_key, check_like, is_integer
from fbackprop.errors import DtypeError, RangeError, ShapeError, check_that, describe
from fbackprop.meshes import take_rows
from fbackprop.ranges import RANGES, Range, check_range
from fbackprop.train import examples, last_axis, optimizers, runner
from fbackprop.train.arguments import Checkpoints, Monitor, StepRules, StopRules
from fbackprop.train.checkpoints import CheckpointSpec, CheckpointWriter, load_checkpoint
from fbackprop.train.ensembles import BestEpochs, EnsembleResult
from fbackprop.train.loop import Members
from fbackprop.train.problem import NEVER, Problem, regroup
from fbackprop.train.results import BestEpoch, Result
from fbackprop.train.step import layer_names
from fbackprop.train.stop_rules import DIVERGED, RUNNING, STOP_REASONS, score_of
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
  validation: Any = None,
  step: StepRules | None = None,
  monitor: Monitor | None = None,
  checkpoints: Checkpoints | None = None,
  **deprecated: Any,
) -> Result:
  """Train a network until a stop rule fires.

  Args:
    net: the network.
    loss: the loss.
    data: `(x, targets)` or a `Batch`: x `[N, D_in]` and the targets of the loss. Values are checked
      here, once: NaN, infinity and labels out of range are refused. NumPy arrays are converted as
      by JAX, to float32 without x64: values beyond its range are refused, and a warning names the
      columns that lose distinct values, such as time stamps.
    optimizer: `gradient_descent(rate)` or any of optax's; see `make_step`.
    stop: the stop rules.
    key: `jax.random.key(seed)`, which determines the parameters, the order of the examples and
      dropout.
    params: initial parameters, of `net`'s structure, shapes and dtypes, such as those of a
      `Result`; they are copied. None to draw them from `key`.
    batch_size: batch size, 1 to N; None for all examples, in order. Fewer than N are drawn in a new
      order each epoch; a remainder smaller than a batch is dropped from that epoch.
    validation: `(x, targets)` or a `Batch`, the validation set, scored after each epoch as
      described at `stop.validation_fraction`, in place of a fraction of `data`.
    step: options of a step: shuffling, per-example clipping, and the response to a nonfinite step.
    monitor: measurements and reports: test set, evaluations, gradient checks, diagnostics.
    checkpoints: where and how often the run is saved, and from where it is resumed.
    **deprecated: `check_every`, short for `Monitor(check_every=)`. The other attributes of
      `Monitor` and `StepRules`, and `resume`, were keywords of `fit` too; each works for one more
      version, with a `DeprecationWarning`.

  Returns:
    A `Result`. An interrupt (SIGINT, and with checkpoints SIGTERM) ends the run after the current
    chunk, with the results so far; so does a nonfinite step.

  Raises:
    TypeError: an argument has the wrong type.
    ValueError: shapes or values don't fit; the message names the argument. The checkpoint is of
      another run; or every checkpoint is damaged.
    OSError: there is no checkpoint to resume; or the folder of checkpoints is in use by another
      run, or holds the checkpoints of another run.

  Example:
    >>> import jax.numpy as jnp
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
  monitor, step, checkpoints = regroup(
    "fit", deprecated, monitor=monitor, step=step, checkpoints=checkpoints
  )
  resume = None if checkpoints is None else checkpoints.resume
  check_key("fit", key)
  if params is not None and resume is not None:
    said = "and resume are mutually exclusive: a checkpoint holds its own"
    raise RangeError(said, "params", "fit")
  is_rollback = step.on_nonfinite == "rollback"
  if is_rollback:
    if checkpoints is None or checkpoints.folder is None or checkpoints.every is None:
      needed = "needs checkpoints to go back to: give checkpoints with every"
      raise ValueError(f"on_nonfinite='rollback' {needed}")
    optimizer = optimizers.scaled(optimizer)
  problem = Problem(
    net, loss, optimizer, data, monitor.test, validation, stop, batch_size, step, monitor
  ).prepared("fit", key)
  if params is not None:
    check_like("fit", "params", params, jax.eval_shape(lambda: net.init(jax.random.key(0))))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      examples.check_finite(f"params{jax.tree_util.keystr(path)}", np.asarray(leaf))
  loop, member = jax.jit(problem.start)(key, None, params)
  identity = {} if checkpoints is None else {
    "loss": loss.name,
    "examples": examples.digest(problem.train),
    "examples set aside": examples.digest(problem.validation),
    "batch_size": problem.batch_size,
    "shuffle": step.shuffle,
    "key": examples.digest(jax.random.key_data(key)),
    "on_nonfinite='rollback'": is_rollback,
    "clip_examples": step.clip_examples,
    "watch": sorted(monitor.watch),
  }  # fmt: skip
  # By `eval_shape`, since the buffers of the loop itself are donated.
  shapes = jax.eval_shape(lambda loop: loop, loop)
  spec = CheckpointSpec(identity, shapes, problem.info, jax.random.key_impl(key))
  with ExitStack() as exits:
    writer = None
    if checkpoints is not None and checkpoints.folder is not None:
      writer = CheckpointWriter(checkpoints, spec, stop, exits)
    saved = None if resume is None else load_checkpoint(resume, spec, monitor.handle)
    run = runner.Run(problem, loop, member, writer)
    reason = run.run(saved)
  loop, history, best = run.loop, run.history, None
  if loop.best is not None and (score := score_of(loop.best, "validation_loss")) is not None:
    scores = run.evaluate(loop.best.params, problem.test)
    best = BestEpoch(int(loop.best.step), score, loop.best.params, *scores)
  infos, is_diverged = history.infos(), reason == "diverged"
  refused = np.flatnonzero(~infos.finite) + 1  # The last one isn't skipped if the run diverged.
  return Result(
    state=loop.state,
    stop_reason=reason,
    losses=np.asarray(infos.loss),
    grad_norms=np.asarray(infos.grad_norms),
    layer_names=tuple(layer_names(loop.state.params)),
    diverged_at=run.locate_nonfinite(loop, member) if is_diverged else None,
    best=best,
    skipped=tuple((refused[:-1] if is_diverged else refused).tolist()),
    rollbacks=history.rollbacks,
    saved_at=run.saved_at,
    unsaved=tuple(run.unsaved),
    watched=infos.watched,
    validation_scores=tuple(history.validation),
    **run.course(),
  )


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
  validation: Any = None,
  step: StepRules | None = None,
  monitor: Monitor | None = None,
  **deprecated: Any,
) -> EnsembleResult:
  """Train K networks at once, each until a stop rule fires for it.

  Member k is the run `fit(..., key=keys[k])`, up to rounding. The members share only the data and
  the rules: one that has stopped, or has diverged, is frozen while the others continue. Tiny
  networks are computed with the members along the last axis; see `fbackprop.train.last_axis`.

  Args:
    net, loss, data: as in `fit`.
    optimizer: as in `fit`; with `rates`, a function that returns one, given a rate, such as
      `optax.sgd`: the rate is traced.
    stop: the stop rules, the same for all.
    keys: typed keys `[K]`, such as `jax.random.split(jax.random.key(0), K)`.
    rates: learning rate of each member, K numbers above 0. A grid of rates and seeds is
      `rates=np.repeat(rates, len(seeds))` beside `keys=jnp.tile(keys, len(rates))`.
    batch_size: as in `fit`.
    validation: as in `fit`: each member keeps the parameters of its own best epoch.
      `stop.validation_fraction` splits off the same examples for all members, by the first key.
    step: as in `fit`; an ensemble supports the shuffle only.
    monitor: as in `fit`, without `watch`. The ensemble as a whole is scored on the test set too,
      and `on_evaluation` is called with an `EnsembleEvaluation`.
    **deprecated: as in `fit`.

  Returns:
    An `EnsembleResult`. An interrupt (SIGINT) ends the run after the current chunk.

  Raises:
    TypeError: an argument has the wrong type.
    ValueError: shapes or values don't fit; the message names the argument.

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
  monitor, step = regroup("fit_ensemble", deprecated, monitor=monitor, step=step)
  rates = None if rates is None else list(rates)
  check_ensemble(keys, rates, optimizer, step, monitor)
  problem = Problem(
    net, loss, optimizer, data, monitor.test, validation, stop, batch_size, step, monitor, rates
  ).prepared("fit_ensemble", keys[0])
  batch = take_rows(problem.train, np.arange(problem.batch_size))
  members = Members(len(keys), -1 if last_axis.is_tiny(problem.first_step, keys[0], batch) else 0)
  loop, member = jax.jit(jax.vmap(problem.start, 0, members.axis))(keys, problem.rates)
  run = runner.EnsembleRun(problem, loop, member, members)
  reason = run.run()
  loop, own = run.loop, (run.loop, member)
  codes = np.asarray(loop.progress.reason)
  diverged_at = [
    None if code != DIVERGED else run.locate_nonfinite(*runner.member_of(own, members.axis, k))
    for k, code in enumerate(codes)
  ]
  in_front = partial(jnp.moveaxis, source=members.axis, destination=0)
  params, found = jax.tree.map(in_front, (loop.state.params, loop.best))
  best = None
  if found is not None:
    best = BestEpochs(np.asarray(found.step), -np.asarray(found.validation_loss))
    chosen = partial(jax.vmap(jnp.where), jnp.isfinite(found.validation_loss))
    params = jax.tree.map(chosen, found.params, params)
  return EnsembleResult(
    params=params,
    rates=None if rates is None else np.asarray(rates, np.float64),
    stop_reasons=tuple(reason if code == RUNNING else STOP_REASONS[code] for code in codes),
    steps=np.asarray(loop.state.step),
    losses=np.asarray(run.history.infos().loss),
    best=best,
    diverged_at=tuple(diverged_at),
    **run.course(),
  )


def check_ensemble(
  keys: Any, rates: Any, optimizer: Any, step: StepRules, monitor: Monitor
) -> None:
  """Raise for arguments that are invalid for an ensemble, and for options of a single run."""
  where = "fit_ensemble"
  for group, default in ((step, StepRules()), (monitor, Monitor())):
    for name in NEVER[where]:
      if (value := getattr(group, name, None)) != getattr(default, name, None):
        kind = type(group).__name__
        raise ValueError(f"{where}: {kind}({name}=...) is for a single run, got {value!r}")
  is_typed = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
  wanted = "be typed keys [K], such as jax.random.split(jax.random.key(seed), K)"
  check_that(where, "keys", keys, is_typed, wanted)
  is_row = keys.ndim == 1 and len(keys)
  check_that(where, "keys", keys, is_row, "have shape [K], K at least 1", ShapeError)
  for k in monitor.check_members:
    check_that(where, "check_members", k, is_integer(k), "be integers")
    check_range(where, "check_members", k, Range(int, 0, len(keys) - 1))
  if rates is not None:
    if len(rates) != len(keys):
      problem = f"must be one for each of the {len(keys)} keys, got {len(rates)}"
      raise ShapeError(problem, "rates", where)
    for k, rate in enumerate(rates):
      check_range(where, f"rates[{k}]", rate, RANGES["rate"])
    if not callable(optimizer) or isinstance(optimizer, optax.GradientTransformation):
      problem = f"must be a function of the rate, such as optax.sgd, got {describe(optimizer)}"
      raise DtypeError(problem, "optimizer", where, before="with rates,")
