"""A whole run: compile, train in chunks, evaluate, check the gradient, stop and say why."""

from dataclasses import asdict
from os import PathLike
from typing import Any

import jax
import numpy as np
import optax

from fbackprop.checks import check_key
from fbackprop.train.arguments import Monitor, StepRules, check_start, regroup
from fbackprop.train.checkpoint_writer import writing
from fbackprop.train.checkpoints import (
  Checkpoint,
  Checkpoints,
  CheckpointSpec,
  load_checkpoint,
)
from fbackprop.train.examples import digest
from fbackprop.train.optimizers import scaled
from fbackprop.train.problem import prepare
from fbackprop.train.results import BestEpoch, Result
from fbackprop.train.runner import Run, score_of
from fbackprop.train.step import Info, layer_names
from fbackprop.train.stop_rules import StopRules
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
    validation: `(x, targets)` or a `Batch`, the validation set: it is scored after each epoch as
      `stop.validation_fraction` says, instead of such a part of `data`.
    step: how a step is taken: shuffling, clipping of examples, and what happens where it isn't
      finite.
    monitor: what is measured and reported: test set, evaluations, gradient checks, diagnostics.
    checkpoints: where and how often the run is saved, and from where it is resumed.
    **deprecated: `check_every`, short for `Monitor(check_every=)`. The other attributes of
      `Monitor` and `StepRules`, and `resume`, were keywords of `fit` too; each works for one more
      version, with a `DeprecationWarning`.

  Returns:
    A `Result`. An interrupt (SIGINT, and where there are checkpoints SIGTERM) ends the run after
    the chunk in flight, with what was reached so far; so does a step that isn't finite.

  Raises:
    TypeError: an argument isn't what it must be.
    ValueError: shapes or values that don't fit; the message names the argument. The checkpoint is
      of another run; or every one there is is damaged.
    OSError: there is no checkpoint to resume; or the folder of checkpoints is in use by another
      run, or holds what another one left.

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
    "fit", deprecated, refused=("check_members",),
    monitor=monitor, step=step, checkpoints=checkpoints,
  )  # fmt: skip
  monitor, step = monitor or Monitor(), step or StepRules()
  resume = None if checkpoints is None else checkpoints.resume
  check_key("fit", key)
  if params is not None:
    if resume is not None:
      raise ValueError("fit: params and resume are mutually exclusive: a checkpoint holds its own")
    check_start(net, params)
  is_rollback = step.on_nonfinite == "rollback"
  if is_rollback:
    if checkpoints is None or checkpoints.folder is None or checkpoints.every is None:
      raise ValueError(
        "on_nonfinite='rollback' needs checkpoints to go back to: give checkpoints with every"
      )
    optimizer = scaled(optimizer)
  problem = prepare(
    "fit", net, loss, data, lambda rate: optimizer, stop, key, batch_size, validation, step, monitor
  )
  info = jax.eval_shape(problem.first_step, key, None, problem.train)[1]
  loop, member = problem.start(key, None, info.loss.dtype, params)
  names = layer_names(loop.state.params)
  own_stop = asdict(stop)
  identity: dict[str, Any] = {}
  if checkpoints is not None:
    identity = {
      "loss": loss.name,
      "examples": digest(problem.train),
      "examples set aside": digest(problem.validation),
      "batch_size": problem.batch_size,
      "shuffle": step.shuffle,
      "key": digest(jax.random.key_data(key)),
      "on_nonfinite='rollback'": is_rollback,
      "clip_examples": step.clip_examples,
      "watch": sorted(monitor.watch),
    }
  # Of shapes, as the loop itself is donated.
  shapes = jax.eval_shape(lambda loop: loop, loop)
  spec = CheckpointSpec(identity, shapes, info, jax.random.key_impl(key))

  def load(path: str | PathLike[str]) -> Checkpoint:
    return load_checkpoint(path, spec, monitor.handle)

  with writing(checkpoints, identity, own_stop) as writer:
    saved = None if resume is None else load(resume)
    run = Run(problem, loop, member, info, writer, load)
    compile_seconds = run.compile()
    reason = run.run(None if saved is None else run.restore(saved, own_stop))
    seconds = run.seconds
  loop, history, best = run.loop, run.history, None
  if loop.best is not None and (score := score_of(loop.best, "validation_loss")) is not None:
    scores = run.score_test(loop.best.params)
    best = BestEpoch(int(loop.best.step), score, loop.best.params, *scores)
  infos, is_diverged = history.infos(), reason == "diverged"
  return Result(
    state=loop.state,
    stop_reason=reason,
    losses=np.asarray(infos.loss),
    grad_norms=np.asarray(infos.grad_norms),
    layer_names=tuple(names),
    evaluations=tuple(history.evaluations),
    checks=tuple(history.checks),
    diverged_at=run.locate_nonfinite(loop, member) if is_diverged else None,
    interrupted=run.interrupted,
    seconds=seconds,
    check_seconds=history.check_seconds,
    compile_seconds=compile_seconds,
    best=best,
    skipped=skipped_steps(infos, is_diverged),
    rollbacks=history.rollbacks,
    saved_at=run.saved_at,
    unsaved=tuple(run.unsaved),
    watched=infos.watched,
  )


def skipped_steps(infos: Info, is_diverged: bool) -> tuple[int, ...]:
  """List the skipped steps; the one at which a run diverged is none of them."""
  refused = np.flatnonzero(~infos.finite) + 1
  return tuple(map(int, refused[:-1] if is_diverged else refused))
