"""`fit`: compile, train in chunks, evaluate, check the gradient, and stop for a stated reason."""

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
  # By `eval_shape`, since the buffers of the loop itself are donated.
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
  """List the skipped steps; a step at which the run diverged isn't among them."""
  refused = np.flatnonzero(~infos.finite) + 1
  return tuple(map(int, refused[:-1] if is_diverged else refused))
