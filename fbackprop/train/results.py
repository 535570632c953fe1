"""The evaluations and the result of a run."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fbackprop.live_check import LiveCheck
from fbackprop.markup import BAD, GOOD, headline, paragraph, table_of
from fbackprop.train.gradients import Watched
from fbackprop.train.step import State
from fbackprop.types import Params

MOST_ROWS = 20
HEADS = (
  "step",
  "epoch",
  "train loss",
  "test loss",
  "test accuracy",
  "validation",
  "gradient error",
)


@dataclass(frozen=True)
class Evaluation:
  """The state of a run at one moment: a line on the screen and a row of metrics.jsonl.

  Attributes:
    step: steps taken.
    epoch: passes over the training data.
    train_loss: mean of the steps' losses since the evaluation before, each by the weights of its
      batch, without those of steps that weren't taken; None before the first step, and where all
      those weights are zero.
    test_loss: mean loss of the test examples, if there are any.
    test_accuracy: fraction of the test examples whose largest output is at their label, if the
      targets are labels.
    grad_norms: norm of each layer's gradient at the last step, in the order of
      `Result.layer_names`; empty before the first step.
    gradient_error: relative error of our gradient in the latest check; None before the first.
    seconds: wall time since the start, compilation not counted.
    validation_score: of the validation set, at the end of the epoch before; None without one, and
      before the end of the first epoch.
    noise_scale: of the steps since the evaluation before, if it is watched; None where they are too
      few to tell. See `fbackprop.quantities.noise_scale`.
    clipped: the share of the examples in those steps whose gradients were clipped, if they are.
    health: if it is watched, of each layer by its name the fields of
      `fbackprop.quantities.LayerHealth`, for the examples that a gradient check at this step takes.
  """

  step: int
  epoch: float
  train_loss: float | None
  test_loss: float | None
  test_accuracy: float | None
  grad_norms: tuple[float, ...]
  gradient_error: float | None
  seconds: float
  validation_score: float | None = None
  noise_scale: float | None = None
  clipped: float | None = None
  health: dict[str, Any] | None = None


@dataclass(frozen=True)
class BestEpoch:
  """The end of the epoch with the best validation score.

  Attributes:
    step: steps taken.
    score: accuracy of labels, else minus the mean loss.
    params: the parameters, which are those of the `Result`.
    test_loss: of these parameters, if there are test examples.
    test_accuracy: likewise, if the targets are labels.
  """

  step: int
  score: float
  params: Params
  test_loss: float | None
  test_accuracy: float | None


@dataclass(frozen=True)
class Result:
  """The result of a run.

  Attributes:
    state: step, parameters, optimiser state and key at the end: the last good ones, if the run
      diverged.
    stop_reason: one of "max_steps", "max_epochs", "loss_below", "tol", "max_seconds",
      "interrupted", "diverged".
    losses: the batch's mean loss of every step, before its update, `[steps]`, and of the step that
      diverged.
    grad_norms: norm of each layer's gradient, likewise, `[steps, layers]`.
    layer_names: where each layer that has parameters stands in `params`.
    evaluations: in order; the last one is at the last step.
    checks: the gradient checks, each with its step.
    diverged_at: the first place that wasn't finite, such as "layer 2 (dense): value"; see
      `fbackprop.train.divergence`.
    interrupted: whether an interrupt came; one that was too late to end the run leaves the stop
      reason as it is.
    seconds: wall time, compilation not counted.
    check_seconds: how much of it the gradient checks took.
    compile_seconds: wall time of compilation.
    best: the epoch that is kept, if there is a validation set.
    skipped: the steps that weren't finite and were skipped, of `StepRules(on_nonfinite="skip")`.
    rollbacks: how often a checkpoint was restored, of `StepRules(on_nonfinite="rollback")`.
    saved_at: the step of the last checkpoint; None if there is none.
    unsaved: the steps whose checkpoints couldn't be written.
    watched: the diagnostics of every step, of `clip_examples` and `watch`, in arrays `[steps]`.
  """

  state: State
  stop_reason: str
  losses: np.ndarray
  grad_norms: np.ndarray
  layer_names: tuple[str, ...]
  evaluations: tuple[Evaluation, ...]
  checks: tuple[tuple[int, LiveCheck], ...]
  diverged_at: str | None
  interrupted: bool
  seconds: float
  check_seconds: float
  compile_seconds: float
  best: BestEpoch | None = None
  skipped: tuple[int, ...] = ()
  rollbacks: int = 0
  saved_at: int | None = None
  unsaved: tuple[int, ...] = ()
  watched: Watched = field(default_factory=Watched)

  def __repr__(self) -> str:
    """Show how it ended, without the arrays."""
    last = self.evaluations[-1] if self.evaluations else None
    scores = {
      name: value
      for name in ("test_loss", "test_accuracy")
      if (value := getattr(last, name, None)) is not None
    }
    words = "".join(f", {name}={value:.4g}" for name, value in scores.items())
    checks = f", checks_ok={self.checks_ok}" if self.checks else ""
    return f"Result(stop_reason={self.stop_reason!r}, steps={self.steps}{words}{checks})"

  def _repr_html_(self) -> str:
    """Render for a notebook: see `to_html`."""
    return to_html(self)

  @property
  def params(self) -> Params:
    """The parameters that are kept: those of the best epoch if there is one, else the last ones."""
    return self.state.params if self.best is None else self.best.params

  @property
  def steps(self) -> int:
    """Steps taken; one that diverged isn't."""
    return int(self.state.step)

  @property
  def gradient_check_max_rel_error(self) -> float | None:
    """The worst relative error of our gradient seen, in float64; None if it wasn't checked."""
    return worst([check.rel_error for _, check in self.checks])

  @property
  def gradient_rounding_max_rel_error(self) -> float | None:
    """The worst rounding of the gradient seen in the working dtype; None if it wasn't checked."""
    return worst([check.rounding for _, check in self.checks])

  @property
  def checks_ok(self) -> bool:
    """Whether every gradient check agreed with `jax.grad`."""
    return all(check.ok for _, check in self.checks)


def worst(errors: list[float]) -> float | None:
  """The largest error, NaN counting as larger than any; None of none."""
  return float(np.max(errors)) if errors else None


def to_html(result: Result) -> str:
  """Render a result as HTML, without a page around it."""
  is_well = result.checks_ok and result.stop_reason != "diverged"
  rest = f"at step {result.steps:,}, {result.seconds:.1f} s"
  if result.best is not None:
    rest += f"; kept: step {result.best.step:,}, validation {number(result.best.score)}"
  parts = [headline(result.stop_reason, GOOD if is_well else BAD, rest)]
  if result.diverged_at is not None:
    parts.append(paragraph(f"first not finite: {result.diverged_at}"))
  if (worst := result.gradient_check_max_rel_error) is not None:
    verdict = "agrees with" if result.checks_ok else "differs from"
    parts.append(
      paragraph(f"gradient {verdict} jax.grad in {len(result.checks)} checks: worst {worst:.1e}")
    )
  every = result.evaluations
  shown = every if len(every) <= MOST_ROWS else (*every[:2], *every[2 - MOST_ROWS :])
  if len(shown) < len(every):
    parts.append(paragraph(f"{len(shown)} of {len(every)} evaluations:"))
  parts.append(table_of(HEADS, map(row_of, shown)))
  return "".join(parts)


def row_of(evaluation: Evaluation) -> tuple[str, ...]:
  """Render an evaluation as the cells of `HEADS`."""
  error = evaluation.gradient_error
  return (
    f"{evaluation.step:,}",
    f"{evaluation.epoch:.1f}",
    number(evaluation.train_loss),
    number(evaluation.test_loss),
    number(evaluation.test_accuracy),
    number(evaluation.validation_score),
    "" if error is None else f"{error:.1e}",
  )


def number(value: float | None) -> str:
  """Format a number of a run; "" for None."""
  return "" if value is None else f"{value:.4g}"
