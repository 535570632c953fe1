"""The loop around the compiled chunks: evaluate, check the gradient, save, and say why it ended."""

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from fbackprop.checks import example_count
from fbackprop.train.checkpoints import Keeper, Saved
from fbackprop.train.divergence import locate_nonfinite
from fbackprop.train.history import History, mean_loss
from fbackprop.train.interrupts import deferred_interrupt
from fbackprop.train.loop import Loop, draw_order, take_batch
from fbackprop.train.method_names import NonfiniteName
from fbackprop.train.monitors import mean_clipped, mean_noise_scale
from fbackprop.train.results import Evaluation
from fbackprop.train.step import Batch, State
from fbackprop.train.stop_conditions import RUNNING, StopNumbers
from fbackprop.train.stop_rules import STOP_REASONS, StopRules, steps_left
from fbackprop.train.validation import Best
from fbackprop.types import Array, Layer, Loss
from fbackprop.verify.live import LiveCheck

# So many steps in a row that aren't finite, or so many rollbacks, and there is no more to be hoped.
MOST_SKIPPED = MOST_ROLLBACKS = 10


@dataclass
class Running:
  """A run on its way; what is fixed first, then what changes.

  To look at every parameter in every step would cost up to a quarter of it. So where a step that
  isn't finite ends the run, the chunk looks at the loss and the gradient alone, and at all else
  once, at its end. If anything isn't finite then, the chunk is done again from its beginning by a
  program that looks at everything in every step, and finds the one.

  Attributes:
    net, loss, optimizer, train, stop, batch_size, shuffle, eval_every, check_every, on_nonfinite,
      on_evaluation, clip_examples: as of `fit`.
    numbers: the stop rules.
    order_key: of the shuffles.
    capacity: the most steps of a chunk.
    chunk, pass_over: compiled; see `loop`.
    thorough_chunk: the chunk that looks at everything, compiled when it is needed; None if `chunk`
      does.
    evaluate: the mean loss and the accuracy of the test examples, or two times None.
    check: the gradient check at a state.
    health: each layer's at a state, or None.
    keeper: of the checkpoints, or None.
    load: reads the last good checkpoint of a folder.
    tell: takes a sentence about what a user would want to know.
    start: when it began, on `time.perf_counter`'s clock.
    loop, history: as far as it has come.
    saved_at: the step of the last checkpoint.
    unsaved: the steps whose checkpoints couldn't be written.
    diverged_at: the first place that wasn't finite.
    interrupted: whether an interrupt came.
  """

  net: Layer
  loss: Loss
  optimizer: optax.GradientTransformation
  train: Batch
  stop: StopRules
  batch_size: int
  shuffle: str
  eval_every: int | None
  check_every: int | None
  on_nonfinite: NonfiniteName
  on_evaluation: Callable[[Evaluation], None] | None
  clip_examples: float | None
  numbers: StopNumbers
  order_key: Array
  capacity: int
  chunk: Callable[..., Any]
  thorough_chunk: Callable[..., Any] | None
  pass_over: Callable[[Loop, StopNumbers], Loop]
  evaluate: Callable[[Any], tuple[float | None, float | None]]
  check: Callable[[State], LiveCheck]
  health: Callable[[State], dict[str, Any]] | None
  keeper: Keeper | None
  load: Callable[[str | PathLike[str]], Saved]
  tell: Callable[[str], None]
  start: float
  loop: Loop
  history: History
  saved_at: int | None = None
  unsaved: list[int] = field(default_factory=list)
  diverged_at: str | None = None
  interrupted: bool = False

  @property
  def done(self) -> int:
    """Steps taken, and those that were passed over."""
    return int(self.loop.state.step)

  @property
  def seconds(self) -> float:
    """Wall time of the run, compilation not counted, that of earlier processes included."""
    return self.history.seconds + time.perf_counter() - self.start

  def go_on_from(self, saved: Saved, stop: dict[str, Any]) -> str | None:
    """Takes over a checkpoint; returns the stop rule that had fired, if it is the same today."""
    self.loop, self.history, stop_then = saved
    self.saved_at = self.done
    if self.on_evaluation is not None:
      for evaluation in self.history.evaluations:
        self.on_evaluation(evaluation)
    if (reason := reason_of(self.loop)) is not None and stop_then == stop:
      return reason
    self.loop = running_again(self.loop)
    return None

  def run(self, reason: str | None = None) -> str:
    """Goes on until a stop rule fires, and returns which one; `reason`: it has fired already."""
    # With checkpoints a run can be told to end, too, and goes on elsewhere.
    signals = [signal.SIGINT, *([] if self.keeper is None else [signal.SIGTERM])]
    with deferred_interrupt(*signals) as interruption:
      while True:
        self.look_around(reason)
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

  def look_around(self, reason: str | None) -> None:
    """What is due at this step, and at the last one."""
    done, over = self.done, reason is not None
    # At the parameters of a run that diverged there is no truth to compare with.
    checks = self.check_every is not None and reason != "diverged"
    if checks and done % (self.check_every or 1) == 0:
      self.check_now()
    if self.eval_every is not None and done > 0 and done % self.eval_every == 0:
      self.evaluate_now()
    # Before what is due at the end alone: a run that goes on from here is to know nothing of that.
    if self.keeper is not None and reason != "diverged":
      every = self.keeper.rules.every
      is_due = every is not None and (over or (done > 0 and done % every == 0))
      is_first = self.on_nonfinite == "rollback" and self.saved_at is None
      if is_due or is_first or reason == "interrupted":
        self.save_now(self.keeper)
    if over:
      if checks:
        self.check_now()
      self.evaluate_now()

  def next_halt(self) -> int | None:
    """The step at which something is due next; None when the time is over."""
    done, stop = self.done, self.stop
    every = None if self.keeper is None else self.keeper.rules.every
    own = (self.eval_every, self.check_every, every)
    halts = [(done // each + 1) * each for each in own if each is not None]
    if stop.max_seconds is not None:
      left = steps_left(stop.max_seconds, self.seconds, done)
      if left == 0:
        return None
      halts.append(done + left)
    most_steps = stop.most_steps(example_count(self.train.x) // self.batch_size)
    return min(done + self.capacity, most_steps, *halts)

  def advance(self, until: int) -> str | None:
    """A chunk of steps; returns the stop rule that fired, if one did."""
    before = self.done
    own = (self.train, self.numbers, jnp.asarray(until, jnp.int32), self.order_key)
    first = self.loop
    self.loop, infos = self.chunk(first, *own)
    if self.thorough_chunk is not None and reason_of(self.loop) == "diverged":
      self.loop, infos = self.thorough_chunk(first, *own)
    reason = reason_of(self.loop)
    self.history.add(infos, self.done - before + (reason == "diverged"))
    return self.mend() if reason == "diverged" else reason

  def mend(self) -> str | None:
    """What is done about a step that wasn't finite; returns why the run ends, if it does."""
    where = self.where_nonfinite()
    step = self.done + 1
    if self.on_nonfinite == "skip" and self.history.refused_in_a_row() <= MOST_SKIPPED:
      self.loop = self.pass_over(self.loop, self.numbers)
      self.tell(f"step {step} was left out; first not finite: {where}")
      return reason_of(self.loop)
    if self.on_nonfinite == "rollback" and self.history.rollbacks < MOST_ROLLBACKS:
      seconds, rollbacks = self.history.seconds, self.history.rollbacks + 1
      assert self.keeper is not None  # See `fit`.
      loop, self.history, _ = self.load(self.keeper.folder)
      # That of the end of a run that was resumed since says why it had ended.
      self.loop = running_again(loop)
      self.history.seconds, self.history.rollbacks = seconds, rollbacks
      scale = jnp.asarray(0.5**rollbacks, jnp.float32)
      opt_state = self.loop.state.opt_state._replace(scale=scale)  # See `optimizers.scaled`.
      self.loop = self.loop._replace(state=self.loop.state._replace(opt_state=opt_state))
      self.saved_at = self.done
      self.tell(
        f"step {step} was not finite, first: {where}; back to step {self.done}, and on from there "
        f"with steps of {0.5**rollbacks:g} times the rate"
      )
      return None
    self.diverged_at = where
    return "diverged"

  def where_nonfinite(self) -> str:
    """The first place that wasn't finite in the step that comes next."""
    state, own = self.loop.state, (self.train, self.batch_size)
    order = draw_order(state.step, self.loop.order, *own, self.order_key, self.shuffle)
    batch = take_batch(state.step, order, *own, self.shuffle)
    return locate_nonfinite(self.net, self.loss, self.optimizer, state, batch, self.clip_examples)

  def check_now(self) -> None:
    """Compares our gradient with autodiff's, once for a step."""
    checks = self.history.checks
    if not checks or checks[-1][0] < self.done:
      before = time.perf_counter()
      checks.append((self.done, self.check(self.loop.state)))
      self.history.check_seconds += time.perf_counter() - before

  def evaluate_now(self) -> None:
    """Says how the run stands, once for a step."""
    history, done = self.history, self.done
    last = history.evaluations[-1].step if history.evaluations else 0
    if history.evaluations and last == done:
      return
    infos = history.infos()
    norms = infos.grad_norms[-1] if len(infos.grad_norms) else ()
    recent = jax.tree.map(lambda column: column[last:], infos)
    scores, watched = self.evaluate(self.loop.state.params), recent.watched
    evaluation = Evaluation(
      step=done,
      epoch=done / (example_count(self.train.x) // self.batch_size),
      train_loss=mean_loss(recent),
      test_loss=scores[0],
      test_accuracy=scores[1],
      grad_norms=tuple(float(v) for v in norms),
      gradient_error=history.checks[-1][1].rel_error if history.checks else None,
      seconds=self.seconds,
      validation_score=score_of(self.loop.best, "latest"),
      noise_scale=mean_noise_scale(watched.noise_scale, recent.finite),
      clipped=mean_clipped(watched.clipped, recent.finite),
      health=None if self.health is None else self.health(self.loop.state),
    )
    history.evaluations.append(evaluation)
    if self.on_evaluation is not None:
      self.on_evaluation(evaluation)

  def save_now(self, keeper: Keeper) -> None:
    """Writes a checkpoint, once for a step; a run whose disk is full goes on without."""
    if self.done in (self.saved_at, *self.unsaved[-1:]):
      return
    score = score_of(self.loop.best, "latest")
    if self.loop.best is None:
      since = self.saved_at or 0
      recent = mean_loss(jax.tree.map(lambda column: column[since:], self.history.infos()))
      score = None if recent is None or not math.isfinite(recent) else -recent
    try:
      keeper.save(self.loop, self.history, self.seconds, score)
      self.saved_at = self.done
    except OSError as error:
      self.unsaved.append(self.done)
      self.tell(
        f"the checkpoint of step {self.done} could not be written: {error.strerror or error}; "
        "those before are as they were"
      )


def running_again(loop: Loop) -> Loop:
  """The loop as if no stop rule had fired."""
  running = jnp.asarray(RUNNING, jnp.int32)
  return loop._replace(progress=loop.progress._replace(reason=running))


def reason_of(loop: Loop) -> str | None:
  """The stop rule that has fired, if one has."""
  code = int(loop.progress.reason)
  return None if code == RUNNING else STOP_REASONS[code]


def score_of(best: Best | None, which: Literal["badness", "latest"]) -> float | None:
  """The best or the latest score of the examples set aside; None before there is one."""
  badness = math.inf if best is None else float(getattr(best, which))
  return -badness if math.isfinite(badness) else None
