"""`fit_ensemble`: many networks, with different seeds or rates, trained by one program."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.train.arguments import (
  Monitor,
  StepRules,
  check_keys,
  check_members,
  check_rates,
  optimizer_by_rate,
  regroup,
)
from fbackprop.train.ensembles import (
  BestEpochs,
  EnsembleEvaluation,
  EnsembleResult,
  MemberCheck,
  Scores,
  make_ensemble_evaluate,
  mean_losses,
)
from fbackprop.train.last_axis import is_tiny, shape_of
from fbackprop.train.loop import Loop, Member, Members
from fbackprop.train.problem import Problem, prepare
from fbackprop.train.runner import Run
from fbackprop.train.step import Info
from fbackprop.train.stop_conditions import DIVERGED, RUNNING
from fbackprop.train.stop_rules import STOP_REASONS, StopRules
from fbackprop.types import Array, Layer, Loss

# Keywords that `fit` had and `fit_ensemble` hadn't, which are the attributes that it refuses.
OF_ONE = ("clip_examples", "on_nonfinite", "on_event", "watch")


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
  monitor, step = regroup("fit_ensemble", deprecated, OF_ONE, monitor=monitor, step=step)
  monitor, step = monitor or Monitor(), step or StepRules()
  refuse_unsupported(step, monitor)
  size = check_keys(keys)
  checked = check_members(monitor.check_members, size)
  rate_list = None if rates is None else check_rates(rates, size)
  optimizer_of = optimizer_by_rate(optimizer, rate_list is not None)
  problem = prepare(
    "fit_ensemble", net, loss, data, optimizer_of, stop, keys[0], batch_size, validation, step,
    monitor,
  )  # fmt: skip
  train = problem.train
  key = jax.eval_shape(lambda keys: keys[0], keys)
  dtype = jax.tree.leaves(train.x)[0].dtype
  rate = None if rate_list is None else shape_of((), dtype)
  batch = jax.tree.map(
    lambda part: shape_of((problem.batch_size, *part.shape[1:]), part.dtype), train
  )
  info = jax.eval_shape(problem.first_step, key, rate, train)[1]
  members = Members(size, is_tiny(problem.first_step, key, rate, batch))

  def start(key: Array, rate: Array | None) -> tuple[Loop, Member]:
    return problem.start(key, rate, info.loss.dtype)

  member_rates = None if rate_list is None else jnp.asarray(rate_list, dtype)
  loop, member = jax.jit(jax.vmap(start, 0, members.axis))(keys, member_rates)
  run = EnsembleRun(problem, loop, member, info, members, checked)
  compile_seconds = run.compile()
  reason = run.run()
  seconds, history, axis = run.seconds, run.history, members.axis
  loop, codes = run.loop, np.asarray(run.loop.progress.reason)
  diverged_at: list[str | None] = [None] * size
  for k in np.flatnonzero(codes == DIVERGED).tolist():
    own = member_of(loop, axis, k), member_of(member, axis, k)
    diverged_at[k] = run.locate_nonfinite(*own)
  in_front = partial(members_in_front, axis)
  params, best = jax.tree.map(in_front, loop.state.params), None
  if loop.best is not None:
    found = jax.tree.map(in_front, loop.best)
    best = BestEpochs(np.asarray(found.step), -np.asarray(found.validation_loss))
    params = jax.tree.map(
      partial(chosen, jnp.isfinite(found.validation_loss)), found.params, params
    )
  return EnsembleResult(
    params=params,
    rates=rate_list,
    stop_reasons=tuple(reason if code == RUNNING else STOP_REASONS[code] for code in codes),
    steps=np.asarray(loop.state.step),
    losses=np.asarray(history.infos().loss),
    evaluations=tuple(history.evaluations),
    interrupted=run.interrupted,
    seconds=seconds,
    compile_seconds=compile_seconds,
    best=best,
    checks=tuple(history.checks),
    check_seconds=history.check_seconds,
    diverged_at=tuple(diverged_at),
  )


class EnsembleRun(Run):
  """A `Run` of many networks at once; the losses are its only rows."""

  def __init__(
    self, problem: Problem, loop: Loop, member: Member, info: Info, members: Members,
    checked: Sequence[int],
  ) -> None:  # fmt: skip
    self.members: Members = members
    self.checked = checked
    row = shape_of((members.size,), info.loss.dtype)
    super().__init__(problem, loop, member, Info(row, *[None] * 3))  # type: ignore[arg-type]

  @property
  def done(self) -> int:
    """Steps taken by the running members, or by those that ran longest."""
    return self.recorded

  def handle_nonfinite(self) -> str | None:
    """End the run, as all members have diverged."""
    return "diverged"

  def checks(self) -> list[MemberCheck]:
    """Check the gradients of members that have stepped since their last check and not diverged."""
    codes = np.asarray(self.loop.progress.reason)
    known = {found[:2] for found in self.history.checks}
    states = [(k, member_of(self.loop.state, self.members.axis, k)) for k in self.checked]
    return [
      MemberCheck(int(state.step), k, self.check_gradient(state))
      for k, state in states
      if (int(state.step), k) not in known and codes[k] != DIVERGED
    ]

  def make_score(self) -> Callable[[Any], Scores]:
    """Build the test scores as a function of the parameters."""
    problem = self.problem
    evaluate = make_ensemble_evaluate(problem.net, problem.loss, self.members.axis)
    return lambda params: Scores() if problem.test is None else evaluate(params, problem.test)

  def evaluation(self) -> EnsembleEvaluation:
    """Evaluate the ensemble at its current parameters."""
    known, scores = self.history.evaluations, self.score_test(self.loop.state.params)
    recent = self.history.infos().loss[known[-1].step if known else 0 :]
    running = int((np.asarray(self.loop.progress.reason) == RUNNING).sum())
    if not self.problem.most_steps:
      running = 0
    losses = mean_losses(np.asarray(recent))
    return EnsembleEvaluation(self.done, running, losses, **scores._asdict(), seconds=self.seconds)


def refuse_unsupported(step: StepRules, monitor: Monitor) -> None:
  """Raise if an option is set that only a single run supports."""
  for group, default in ((step, StepRules()), (monitor, Monitor())):
    for name in OF_ONE:
      if (value := getattr(group, name, None)) != getattr(default, name, None):
        kind = type(group).__name__
        raise ValueError(f"fit_ensemble: {kind}({name}=...) is for a single run, got {value!r}")


def members_in_front(axis: int, leaf: Array) -> Array:
  """Move the members' axis to the front."""
  return jnp.moveaxis(leaf, axis, 0)


def member_of(tree: Any, axis: int, k: int) -> Any:
  """Index one member of a pytree along the members' axis."""
  return jax.tree.map(lambda leaf: members_in_front(axis, leaf)[k], tree)


def chosen(which: Array, new: Array, old: Array) -> Array:
  """Select the new arrays for the members marked in `which` `[K]`, the old ones for the others."""
  return jnp.where(which.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
