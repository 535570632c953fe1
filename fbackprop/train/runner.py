"""The host loop around the compiled chunks: evaluate, check the gradient, save, and stop.

Method: the host computes the next step at which anything is due (an evaluation, a gradient check, a
checkpoint, the time limit), runs a chunk up to it, and does what is due there. Signals are recorded
during a chunk and handled between chunks.

Doubts: `max_seconds` is only tested between chunks, whose lengths are predicted from the speed so
far.
"""

import math
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.train import ensembles, examples, history, metrics, shuffle, stop_rules
from fbackprop.train.checkpoints import Checkpoint, CheckpointWriter, load_checkpoint
from fbackprop.train.interrupts import deferred_interrupt
from fbackprop.train.loop import Loop, Member, Members, make_chunk, skip
from fbackprop.train.problem import Problem
from fbackprop.train.step import Info
from fbackprop.train.stop_rules import DIVERGED, RUNNING, STOP_REASONS, score_of
from fbackprop.types import Array

# Number of consecutive nonfinite steps, or of rollbacks, after which the run ends as diverged.
MOST_SKIPPED = MOST_ROLLBACKS = 10
# Number of the first epochs each of whose validation scores is recorded.
EVERY_EPOCH = 256


class Run:
  """A run in progress, of one network; `EnsembleRun` is that of many.

  Checking every parameter in every step would cost up to a quarter of the step. So where a
  nonfinite step ends the run, the chunk checks only the loss and the gradient in each step, and
  everything else once, at its end. If anything isn't finite then, the chunk is recomputed from its
  beginning by a program that checks everything in every step, which finds the failing one.

  Attributes:
    problem: the constants of the run.
    member: the constants of its member.
    loop, history: its current state and its record.
    writer: writer of the checkpoints, or None.
    evaluate: the scores of parameters on a set of examples; none of them on None.
    saved_at: step of the last checkpoint.
    unsaved: steps of checkpoints that couldn't be written.
    interrupted: whether an interrupt occurred.
    compile_seconds, total_seconds: wall time of compilation, and of the run without it.
  """

  members: Members | None = None
  one: Array | None = None
  evaluation: Callable[..., Any] = metrics.evaluation_of

  def __init__(
    self, problem: Problem, loop: Loop, member: Member, writer: CheckpointWriter | None = None
  ) -> None:
    self.problem, self.loop, self.member, self.writer = problem, loop, member, writer
    rows = jax.tree.map(lambda a: np.zeros((0, *a.shape), a.dtype), problem.info)
    self.history = history.History([rows])
    self.saved_at: int | None = None
    self.unsaved: list[int] = []
    self.interrupted = False
    self.is_validated = problem.validation is not None and self.members is None
    self.numbers = stop_rules.stop_numbers(
      problem.stop, problem.info.loss.dtype, problem.validation is not None
    )
    self.evaluate: Any = examples.make_evaluate(problem.net, problem.loss)
    own = (problem.net, problem.loss, problem.train, problem.batch_size)
    self.check_gradient = history.make_gradient_check(*own, problem.step.clip_examples)
    is_watched = "health" in problem.monitor.watch
    self.health = history.make_health_check(*own) if is_watched else lambda state: None
    is_ruled = "alignment" in problem.monitor.watch
    self.alignment = history.make_alignment_check(*own) if is_ruled else lambda state: None
    self.capacity = max(1, min(problem.monitor.chunk_steps, problem.most_steps))

  def compile(self) -> None:
    """Compile all programs that are certain to run."""
    self.begin = begin = time.perf_counter()
    problem, per_epoch = self.problem, self.problem.steps_per_epoch
    validate = stop_rules.make_validate(problem.net, problem.loss, problem.validation)
    self.skip = jax.jit(lambda loop, stop: skip(loop, stop, per_epoch, validate))

    def traced(is_thorough: bool) -> jax.stages.Wrapped:
      def step_of(rate: Any) -> Any:
        return problem.make_step(rate, is_thorough=is_thorough)[1]

      return make_chunk(
        step_of(None) if self.members is None else step_of, problem.batch_size, self.capacity,
        problem.step.shuffle, validate, is_thorough=is_thorough, members=self.members,
      )  # fmt: skip

    is_thorough = problem.step.on_nonfinite != "raise" or self.members is not None
    self.thorough_chunk = None if is_thorough else traced(True)  # Compiled on first use.
    chunk = traced(is_thorough).lower(self.loop, *self.arguments(0))
    # XLA compiles it while Python traces the others.
    settings: Any = jax.config
    with ThreadPoolExecutor(1) as pool:
      compiling = pool.submit(compiled, chunk, settings.jax_enable_x64)
      # Called for their compilation; the results are discarded.
      self.evaluation()
      if problem.monitor.check_every is not None:
        self.checks()
      self.chunk = compiling.result()
    if problem.monitor.on_compiled is not None:
      problem.monitor.on_compiled()
    self.begin = time.perf_counter()
    self.compile_seconds = self.begin - begin

  def arguments(self, until: int) -> tuple[Any, ...]:
    """Return the arguments of a chunk that runs to step `until`, without the loop."""
    return self.problem.train, self.numbers, np.asarray(until, np.int32), self.member, self.one

  @property
  def recorded(self) -> int:
    """Number of rows recorded so far: one per step reached, including one that diverged."""
    progress, steps = self.loop.progress, np.asarray(self.loop.state.step)
    return int((steps + (np.asarray(progress.reason) == DIVERGED)).max())

  @property
  def done(self) -> int:
    """Number of steps taken or skipped."""
    return int(self.loop.state.step)

  @property
  def reason(self) -> str | None:
    """The stop rule that has fired; None while any member is running.

    For several stopped members it is "diverged" only if all have diverged.
    """
    codes = np.asarray(self.loop.progress.reason)
    return None if (codes == RUNNING).any() else STOP_REASONS[int(codes.min())]

  @property
  def seconds(self) -> float:
    """Wall time of the run, without compilation, including earlier processes."""
    return self.history.seconds + time.perf_counter() - self.begin

  def restore(self, saved: Checkpoint) -> str | None:
    """Restore a checkpoint; return the stop rule that had fired if the rules are unchanged."""
    self.loop, self.history, stop_then = saved
    self.saved_at = self.done
    if (report := self.problem.monitor.on_evaluation) is not None:
      for evaluation in self.history.evaluations:
        report(evaluation)
    if (reason := self.reason) is not None and stop_then == asdict(self.problem.stop):
      return reason
    self.loop = running_again(self.loop)
    return None

  def run(self, saved: Checkpoint | None = None) -> str:
    """Compile, and run from a checkpoint or the start until a stop rule fires; return which one."""
    self.compile()
    stop, reason = self.problem.stop, None if saved is None else self.restore(saved)
    if reason is None and self.done >= self.problem.most_steps:
      is_steps = stop.max_steps is not None and self.done >= stop.max_steps
      reason = "max_steps" if is_steps else "max_epochs"
    # With checkpoints SIGTERM is deferred too: the run is saved and can be resumed elsewhere.
    signals = [signal.SIGINT, *([] if self.writer is None else [signal.SIGTERM])]
    with deferred_interrupt(*signals) as interruption:
      self.on_step(reason)
      while reason is None:
        if interruption.signum is not None:
          reason = "interrupted"
        elif (until := self.next_halt()) is None:
          reason = "max_seconds"
        else:
          reason = self.advance(until)
        self.on_step(reason)
      self.interrupted = interruption.signum is not None
    self.total_seconds = self.seconds
    return reason

  def course(self) -> dict[str, Any]:
    """Return the fields that the results of one network and of many share."""
    history = self.history
    return {
      "evaluations": tuple(history.evaluations), "checks": tuple(history.checks),
      "interrupted": self.interrupted, "seconds": self.total_seconds,
      "check_seconds": history.check_seconds, "compile_seconds": self.compile_seconds,
    }  # fmt: skip

  def on_step(self, reason: str | None) -> None:
    """Do what is due at this step, and at the last step, where there is a stop `reason`."""
    done, is_over, monitor = self.done, reason is not None, self.problem.monitor

    def is_due(every: int | None) -> bool:
      return every is not None and done > 0 and done % every == 0

    if self.is_validated and done % self.problem.steps_per_epoch == 0:
      known, score = self.history.validation, score_of(self.loop.best, "latest")
      if score is not None and (not known or known[-1][0] < done):
        known.append((done, score))
    # No gradient check after a divergence: there is no reference at such parameters.
    checks = monitor.check_every is not None and reason != "diverged"
    if checks and (done == 0 or is_due(monitor.check_every)):
      self.check_now()
    if is_due(monitor.eval_every):
      self.evaluate_now()
    # Saved before the final evaluation and check, which a run resumed from here must not contain.
    if self.writer is not None and reason != "diverged":
      every = self.writer.rules.every
      is_first = self.problem.step.on_nonfinite == "rollback" and self.saved_at is None
      is_last = reason == "interrupted" or (is_over and every is not None)
      if is_due(every) or is_first or is_last:
        self.save_now(self.writer)
    if is_over:
      if checks:
        self.check_now()
      self.evaluate_now()

  def next_halt(self) -> int | None:
    """Return the step at which anything is due next; None if the time is over."""
    done, stop, monitor, elapsed = self.done, self.problem.stop, self.problem.monitor, self.seconds
    every = None if self.writer is None else self.writer.rules.every
    own = (monitor.eval_every, monitor.check_every, every)
    halts = [(done // each + 1) * each for each in own if each is not None]
    if self.is_validated:
      halts.append(next_epoch(done, self.problem.steps_per_epoch))
    if stop.max_seconds is not None:
      left = stop.max_seconds - elapsed
      if left <= 0:
        return None
      # The steps that should fit at the average speed so far, and few at the beginning of a run.
      halts.append(done + max(1, min(done, int(left * done / max(elapsed, 1e-9)))))
    return min(done + self.capacity, self.problem.most_steps, *halts)

  def advance(self, until: int) -> str | None:
    """Run a chunk of steps; return the stop rule that fired, or None."""
    before, first = self.recorded, self.loop
    self.loop, infos = self.chunk(first, *self.arguments(until))
    # The cheap program found the divergence at the end only: find the step. It didn't donate
    # `first`.
    if self.thorough_chunk is not None and self.reason == "diverged":
      self.loop, infos = self.thorough_chunk(first, *self.arguments(until))
    reached = self.recorded - before
    self.history.rows.append(jax.tree.map(lambda column: np.asarray(column)[:reached], infos))
    if self.reason != "diverged" or self.problem.step.on_nonfinite == "raise":
      return self.reason
    return self.handle_nonfinite()

  def handle_nonfinite(self) -> str | None:
    """Skip a nonfinite step, or roll back; return the stop reason, or None if the run continues."""
    step, record, rules = self.done + 1, self.history, self.problem.step
    monitor, finite = self.problem.monitor, record.infos().finite
    in_a_row = int(np.argmax(finite[::-1])) if finite.any() else len(finite)
    skips = rules.on_nonfinite == "skip" and in_a_row <= MOST_SKIPPED
    if not skips and (rules.on_nonfinite != "rollback" or record.rollbacks >= MOST_ROLLBACKS):
      return "diverged"
    where = self.locate_nonfinite(self.loop, self.member)
    if skips:
      self.loop = self.skip(self.loop, self.numbers)
      monitor.handle(f"step {step} was skipped; first not finite: {where}")
      return self.reason
    assert self.writer is not None  # See `fit`.
    loop, self.history, _ = load_checkpoint(self.writer.folder, self.writer.spec, monitor.handle)
    self.history.seconds, self.history.rollbacks = record.seconds, record.rollbacks + 1
    scale = 0.5**self.history.rollbacks
    opt_state = loop.state.opt_state._replace(scale=jnp.asarray(scale, jnp.float32))  # Of `scaled`.
    # A run that had ended, and was then resumed, has its stop reason in the checkpoint.
    self.loop = running_again(loop._replace(state=loop.state._replace(opt_state=opt_state)))
    self.saved_at = self.done
    back = f"rolled back to step {self.done}, with {scale:g} times the learning rate"
    monitor.handle(f"step {step} was not finite, first: {where}; {back}")
    return None

  def locate_nonfinite(self, loop: Loop, member: Member) -> str:
    """Locate the first nonfinite number in the step that a loop would take next."""
    problem, state = self.problem, loop.state
    batch = shuffle.batch_of(
      state.step, problem.train, problem.batch_size, member.order_key, problem.step.shuffle
    )
    optimizer, clip = problem.optimizer_of(member.rate), problem.step.clip_examples
    return history.locate_nonfinite(problem.net, problem.loss, optimizer, state, batch, clip)

  def check_now(self) -> None:
    """Compare our gradient with autodiff's, and record the time spent."""
    before = time.perf_counter()
    self.history.checks += self.checks()
    self.history.check_seconds += time.perf_counter() - before

  def checks(self) -> list[Any]:
    """Compare our gradient with autodiff's, unless it has been checked at this step."""
    known = self.history.checks
    if known and known[-1][0] >= self.done:
      return []
    return [(self.done, self.check_gradient(self.loop.state))]

  def evaluate_now(self) -> None:
    """Evaluate and report the run, unless it has been evaluated at this step."""
    known = self.history.evaluations
    if known and known[-1].step == self.done:
      return
    known.append(self.evaluation())
    if (report := self.problem.monitor.on_evaluation) is not None:
      report(known[-1])

  def save_now(self, writer: CheckpointWriter) -> None:
    """Write a checkpoint, unless there is one of this step; report a failed write and continue."""
    if self.done in (self.saved_at, *self.unsaved[-1:]):
      return
    score = score_of(self.loop.best, "latest")
    if self.loop.best is None:
      recent = metrics.mean_loss(self.history.infos(self.saved_at or 0))
      score = None if recent is None or not math.isfinite(recent) else -recent
    try:
      writer.save(self.loop, self.history, self.seconds, score)
      self.saved_at = self.done
    except OSError as error:
      self.unsaved.append(self.done)
      reason = f"{error.strerror or error}; earlier checkpoints are unaffected"
      event = f"the checkpoint of step {self.done} could not be written: {reason}"
      self.problem.monitor.handle(event)


class EnsembleRun(Run):
  """A `Run` of many networks at once; the losses are its only rows."""

  members: Members
  evaluation = metrics.ensemble_evaluation_of

  def __init__(self, problem: Problem, loop: Loop, member: Member, members: Members) -> None:
    self.members, dtype = members, problem.info.loss.dtype
    self.one = jnp.ones((), dtype)
    row = Info(jax.ShapeDtypeStruct((members.size,), dtype), *[None] * 3)  # type: ignore
    super().__init__(problem._replace(info=row), loop, member)
    self.evaluate = ensembles.make_ensemble_evaluate(problem.net, problem.loss, members.axis)

  @property
  def done(self) -> int:
    """Steps taken by the running members, or by those that ran longest."""
    return self.recorded

  def checks(self) -> list[Any]:
    """Check the gradients of members that have stepped since their last check and not diverged."""
    codes = np.asarray(self.loop.progress.reason)
    known = {found[:2] for found in self.history.checks}
    members = sorted(set(map(int, self.problem.monitor.check_members)))
    states = [(k, member_of(self.loop.state, self.members.axis, k)) for k in members]
    return [
      ensembles.MemberCheck(int(state.step), k, self.check_gradient(state))
      for k, state in states
      if (int(state.step), k) not in known and codes[k] != DIVERGED
    ]


def next_epoch(done: int, steps_per_epoch: int) -> int:
  """Return the step of the end of the next epoch whose validation score is recorded.

  Every epoch of the first 256 is, then every second one up to 512, and so on: the curve of a run of
  any length has enough points, and is drawn up in no time. It depends on the step alone, so that a
  resumed run records the same.
  """
  epoch = done // steps_per_epoch
  every = 1 << (epoch // EVERY_EPOCH).bit_length()
  return int((epoch // every + 1) * every * steps_per_epoch)


def compiled(program: jax.stages.Lowered, is_wide: bool) -> jax.stages.Compiled:
  """Compile a lowered program in another thread, which has JAX's settings but not its contexts."""
  with jax.enable_x64(is_wide):
    return program.compile()


def member_of(tree: Any, axis: int, k: int) -> Any:
  """Index one member of a pytree along the members' axis."""
  return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, axis, 0)[k], tree)


def running_again(loop: Loop) -> Loop:
  """Return the loop as if no stop rule had fired."""
  return loop._replace(progress=loop.progress._replace(reason=jnp.asarray(RUNNING, jnp.int32)))
