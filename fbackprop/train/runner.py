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
from os import PathLike
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.train.checkpoint_writer import CheckpointWriter
from fbackprop.train.checkpoints import Checkpoint
from fbackprop.train.divergence import locate_nonfinite
from fbackprop.train.examples import make_evaluate
from fbackprop.train.history import History, mean_loss, no_rows
from fbackprop.train.interrupts import deferred_interrupt
from fbackprop.train.loop import Loop, Member, Members, make_chunk, make_skip
from fbackprop.train.monitors import (
  make_gradient_check,
  make_health_check,
  mean_clipped,
  mean_noise_scale,
)
from fbackprop.train.problem import Problem
from fbackprop.train.results import Evaluation
from fbackprop.train.shuffle import batch_of
from fbackprop.train.step import Info
from fbackprop.train.stop_conditions import DIVERGED, RUNNING
from fbackprop.train.stop_rules import STOP_REASONS, steps_left
from fbackprop.train.validation import Best, make_evaluate_validation

# Number of consecutive nonfinite steps, or of rollbacks, after which the run ends as diverged.
MOST_SKIPPED = MOST_ROLLBACKS = 10


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
    saved_at: step of the last checkpoint.
    unsaved: steps of checkpoints that couldn't be written.
    interrupted: whether an interrupt occurred.
  """

  members: Members | None = None

  def __init__(
    self,
    problem: Problem,
    loop: Loop,
    member: Member,
    info: Info,
    writer: CheckpointWriter | None = None,
    load: Callable[[str | PathLike[str]], Checkpoint] | None = None,
  ) -> None:
    self.problem, self.loop, self.member = problem, loop, member
    self.writer, self.load = writer, load
    self.history = History([no_rows(info)])
    self.saved_at: int | None = None
    self.unsaved: list[int] = []
    self.interrupted = False
    self.numbers = problem.numbers(info.loss.dtype)
    self.one = None if self.members is None else jnp.ones((), info.loss.dtype)
    self.score_test = self.make_score()
    clip = problem.step.clip_examples
    own = (problem.net, problem.loss, problem.train, problem.batch_size)
    self.check_gradient = make_gradient_check(*own, clip)
    self.health = make_health_check(*own) if "health" in problem.monitor.watch else None
    self.capacity = max(1, min(problem.monitor.chunk_steps, problem.most_steps))

  def compile(self) -> float:
    """Compile all programs that are certain to run; return the seconds that it took."""
    self.begin = begin = time.perf_counter()
    problem, evaluate = self.problem, None
    if problem.validation is not None:
      evaluate = make_evaluate_validation(problem.net, problem.loss, problem.validation)
    self.skip = make_skip(problem.steps_per_epoch, evaluate)

    def traced(is_thorough: bool) -> jax.stages.Wrapped:
      def step_of(rate: Any) -> Any:
        return problem.make_step(rate, is_thorough=is_thorough)[1]

      return make_chunk(
        step_of(None) if self.members is None else step_of, problem.batch_size, self.capacity,
        problem.step.shuffle, evaluate, is_thorough=is_thorough, members=self.members,
      )  # fmt: skip

    is_thorough = problem.is_thorough or self.members is not None
    self.thorough_chunk = None if is_thorough else traced(True)  # Compiled on first use.
    program = traced(is_thorough)
    self.chunk = program.lower(self.loop, *self.arguments(0)).compile()
    # Called for their compilation; the results are discarded.
    self.evaluation()
    if problem.monitor.check_every is not None:
      self.checks()
    self.begin = time.perf_counter()
    return self.begin - begin

  def arguments(self, until: int) -> tuple[Any, ...]:
    """Return the arguments of a chunk that runs to step `until`, without the loop."""
    own = (self.problem.train, self.numbers, jnp.asarray(until, jnp.int32), self.member)
    return own if self.members is None else (*own, self.one)

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

  def restore(self, saved: Checkpoint, stop: dict[str, Any]) -> str | None:
    """Restore a checkpoint; return the stop rule that had fired if the rules are unchanged."""
    self.loop, self.history, stop_then = saved
    self.saved_at = self.done
    if (report := self.problem.monitor.on_evaluation) is not None:
      for evaluation in self.history.evaluations:
        report(evaluation)
    if (reason := self.reason) is not None and stop_then == stop:
      return reason
    self.loop = running_again(self.loop)
    return None

  def run(self, reason: str | None = None) -> str:
    """Run until a stop rule fires, and return which one; `reason` is one that has fired already."""
    stop = self.problem.stop
    if reason is None and self.done >= self.problem.most_steps:
      is_steps = stop.max_steps is not None and self.done >= stop.max_steps
      reason = "max_steps" if is_steps else "max_epochs"
    # With checkpoints SIGTERM is deferred too: the run is saved and can be resumed elsewhere.
    signals = [signal.SIGINT, *([] if self.writer is None else [signal.SIGTERM])]
    with deferred_interrupt(*signals) as interruption:
      while True:
        self.on_step(reason)
        if reason is not None:
          break
        if interruption.requested:
          reason = "interrupted"
        elif (until := self.next_halt()) is None:
          reason = "max_seconds"
        else:
          reason = self.advance(until)
      self.interrupted = interruption.requested
    return reason

  def on_step(self, reason: str | None) -> None:
    """Do what is due at this step, and at the last step, where there is a stop `reason`."""
    done, is_over, monitor = self.done, reason is not None, self.problem.monitor
    # No gradient check after a divergence: there is no reference at such parameters.
    checks = monitor.check_every is not None and reason != "diverged"
    if checks and done % (monitor.check_every or 1) == 0:
      self.check_now()
    if monitor.eval_every is not None and done > 0 and done % monitor.eval_every == 0:
      self.evaluate_now()
    # Saved before the final evaluation and check, which a run resumed from here must not contain.
    if self.writer is not None and reason != "diverged":
      every = self.writer.rules.every
      is_due = every is not None and (is_over or (done > 0 and done % every == 0))
      is_first = self.problem.step.on_nonfinite == "rollback" and self.saved_at is None
      if is_due or is_first or reason == "interrupted":
        self.save_now(self.writer)
    if is_over:
      if checks:
        self.check_now()
      self.evaluate_now()

  def next_halt(self) -> int | None:
    """Return the step at which anything is due next; None if the time is over."""
    done, stop, monitor = self.done, self.problem.stop, self.problem.monitor
    every = None if self.writer is None else self.writer.rules.every
    own = (monitor.eval_every, monitor.check_every, every)
    halts = [(done // each + 1) * each for each in own if each is not None]
    if stop.max_seconds is not None:
      left = steps_left(stop.max_seconds, self.seconds, done)
      if left == 0:
        return None
      halts.append(done + left)
    return min(done + self.capacity, self.problem.most_steps, *halts)

  def advance(self, until: int) -> str | None:
    """Run a chunk of steps; return the stop rule that fired, or None."""
    before, first = self.recorded, self.loop
    self.loop, infos = self.chunk(first, *self.arguments(until))
    # The cheap program found the divergence at the end only: find the step. It didn't donate
    # `first`.
    if self.thorough_chunk is not None and self.reason == "diverged":
      self.loop, infos = self.thorough_chunk(first, *self.arguments(until))
    self.history.add(infos, self.recorded - before)
    return self.handle_nonfinite() if self.reason == "diverged" else self.reason

  def handle_nonfinite(self) -> str | None:
    """Skip a nonfinite step, or roll back; return the stop reason, or None if the run continues."""
    step, handle = self.done + 1, self.problem.monitor.handle
    on_nonfinite = self.problem.step.on_nonfinite
    if on_nonfinite == "skip" and self.history.refused_in_a_row() <= MOST_SKIPPED:
      where = self.locate_nonfinite(self.loop, self.member)
      self.loop = self.skip(self.loop, self.numbers)
      handle(f"step {step} was skipped; first not finite: {where}")
      return self.reason
    if on_nonfinite == "rollback" and self.history.rollbacks < MOST_ROLLBACKS:
      where = self.locate_nonfinite(self.loop, self.member)
      seconds, rollbacks = self.history.seconds, self.history.rollbacks + 1
      assert self.writer is not None  # See `fit`.
      assert self.load is not None
      loop, self.history, _ = self.load(self.writer.folder)
      # A run that had ended, and was then resumed, has its stop reason in the checkpoint.
      self.loop = running_again(loop)
      self.history.seconds, self.history.rollbacks = seconds, rollbacks
      scale = jnp.asarray(0.5**rollbacks, jnp.float32)
      opt_state = self.loop.state.opt_state._replace(scale=scale)  # See `optimizers.scaled`.
      self.loop = self.loop._replace(state=self.loop.state._replace(opt_state=opt_state))
      self.saved_at = self.done
      handle(
        f"step {step} was not finite, first: {where}; rolled back to step {self.done}, "
        f"with {0.5**rollbacks:g} times the learning rate"
      )
      return None
    return "diverged"

  def locate_nonfinite(self, loop: Loop, member: Member) -> str:
    """Locate the first nonfinite number in the step that a loop would take next."""
    problem, state = self.problem, loop.state
    batch = batch_of(
      state.step, problem.train, problem.batch_size, member.order_key, problem.step.shuffle
    )
    optimizer, clip = problem.optimizer_of(member.rate), problem.step.clip_examples
    return locate_nonfinite(problem.net, problem.loss, optimizer, state, batch, clip)

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

  def make_score(self) -> Callable[[Any], Any]:
    """Build the test loss and accuracy as a function of the parameters."""
    test, evaluate = self.problem.test, make_evaluate(self.problem.net, self.problem.loss)
    return lambda params: (None, None) if test is None else evaluate(params, test)

  def evaluation(self) -> Any:
    """Evaluate the run at its current state."""
    history, done = self.history, self.done
    last = history.evaluations[-1].step if history.evaluations else 0
    infos = history.infos()
    norms = infos.grad_norms[-1] if len(infos.grad_norms) else ()
    recent = jax.tree.map(lambda column: column[last:], infos)
    (test_loss, test_accuracy), watched = self.score_test(self.loop.state.params), recent.watched
    return Evaluation(
      step=done,
      epoch=done / self.problem.steps_per_epoch,
      train_loss=mean_loss(recent),
      test_loss=test_loss,
      test_accuracy=test_accuracy,
      grad_norms=tuple(float(v) for v in norms),
      gradient_error=history.checks[-1][1].rel_error if history.checks else None,
      seconds=self.seconds,
      validation_score=score_of(self.loop.best, "latest"),
      noise_scale=mean_noise_scale(watched.noise_scale, recent.finite),
      clipped=mean_clipped(watched.clipped, recent.finite),
      health=None if self.health is None else self.health(self.loop.state),
    )

  def save_now(self, writer: CheckpointWriter) -> None:
    """Write a checkpoint, unless there is one of this step; report a failed write and continue."""
    if self.done in (self.saved_at, *self.unsaved[-1:]):
      return
    score = score_of(self.loop.best, "latest")
    if self.loop.best is None:
      since = self.saved_at or 0
      recent = mean_loss(jax.tree.map(lambda column: column[since:], self.history.infos()))
      score = None if recent is None or not math.isfinite(recent) else -recent
    try:
      writer.save(self.loop, self.history, self.seconds, score)
      self.saved_at = self.done
    except OSError as error:
      self.unsaved.append(self.done)
      self.problem.monitor.handle(
        f"the checkpoint of step {self.done} could not be written: {error.strerror or error}; "
        "earlier checkpoints are unaffected"
      )


def running_again(loop: Loop) -> Loop:
  """Return the loop as if no stop rule had fired."""
  running = jnp.asarray(RUNNING, jnp.int32)
  return loop._replace(progress=loop.progress._replace(reason=running))


def score_of(best: Best | None, which: Literal["validation_loss", "latest"]) -> float | None:
  """Return the best or the latest validation score; None before the first."""
  value = math.inf if best is None else float(getattr(best, which))
  return -value if math.isfinite(value) else None
