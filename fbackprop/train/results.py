"""The result of a run."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fbackprop.live_check import LiveCheck
from fbackprop.markup import BAD, GOOD, headline, paragraph, table_of
from fbackprop.train.metrics import COLUMNS, Evaluation
from fbackprop.train.step import State, Watched
from fbackprop.types import Params

MOST_ROWS = 20


@dataclass(frozen=True)
class BestEpoch:
  """The end of the epoch with the best validation score.

  Attributes:
    step: number of steps taken.
    score: accuracy for labels, else minus the mean loss.
    params: the parameters, which are those of the `Result`.
    test_loss: test loss of these parameters, if there is a test set.
    test_accuracy: their test accuracy, if the targets are labels.
  """

  step: int
  score: float
  params: Params
  test_loss: float | None
  test_accuracy: float | None


class Checked:
  """A result with gradient checks: tuples that end in a `LiveCheck`."""

  checks: Any

  @property
  def gradient_check_max_rel_error(self) -> float | None:
    """Largest relative error of our gradient in any check, in float64; None without checks."""
    return worst([found[-1].rel_error for found in self.checks])

  @property
  def checks_ok(self) -> bool:
    """Whether every gradient check agreed with `jax.grad`."""
    return all(found[-1].ok for found in self.checks)


@dataclass(frozen=True)
class Result(Checked):
  """The result of a run.

  Attributes:
    state: step, parameters, optimizer state and key at the end: the last finite ones, if the run
      diverged.
    stop_reason: one of "max_steps", "max_epochs", "loss_below", "tol", "max_seconds",
      "interrupted", "diverged".
    losses: mean loss of the batch at every step, before its update, `[steps]`, including a step
      that diverged.
    grad_norms: norm of each layer's gradient at every step, `[steps, layers]`.
    layer_names: path in `params` of each layer that has parameters.
    evaluations: all evaluations, in order; the last one is at the last step.
    checks: the gradient checks, each with its step.
    diverged_at: the first nonfinite place, such as "layer 2 (dense): value"; see
      `fbackprop.train.history`.
    interrupted: whether an interrupt occurred; one that was too late to end the run leaves the stop
      reason unchanged.
    seconds: wall time, without compilation.
    check_seconds: wall time of the gradient checks, included in `seconds`.
    compile_seconds: wall time of compilation.
    best: the best epoch, if there is a validation set.
    skipped: the nonfinite steps that were skipped, with `StepRules(on_nonfinite="skip")`.
    rollbacks: number of rollbacks, with `StepRules(on_nonfinite="rollback")`.
    saved_at: step of the last checkpoint; None without one.
    unsaved: steps of checkpoints that couldn't be written.
    watched: the diagnostics of every step, by `clip_examples` and `watch`, in arrays `[steps]`.
    validation_scores: the step and the validation score of each epoch's end, in order; beyond 256
      epochs of every second one, beyond 512 of every fourth one, and so on.
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
  validation_scores: tuple[tuple[int, float], ...] = ()

  def __repr__(self) -> str:
    """Show how the run ended, without the arrays."""
    last, names = self.evaluations[-1:], ("test_loss", "test_accuracy")
    scores = [(name, getattr(e, name)) for e in last for name in names]
    words = "".join(f", {name}={value:.4g}" for name, value in scores if value is not None)
    checks = f", checks_ok={self.checks_ok}" if self.checks else ""
    return f"Result(stop_reason={self.stop_reason!r}, steps={self.steps}{words}{checks})"

  def _repr_html_(self) -> str:
    """Render for a notebook, as an HTML fragment."""
    is_well = self.checks_ok and self.stop_reason != "diverged"
    rest = f"at step {self.steps:,}, {self.seconds:.1f} s"
    if self.best is not None:
      rest += f"; kept: step {self.best.step:,}, validation {self.best.score:.4g}"
    parts = [headline(self.stop_reason, GOOD if is_well else BAD, rest)]
    if self.diverged_at is not None:
      parts.append(paragraph(f"first not finite: {self.diverged_at}"))
    if (worst := self.gradient_check_max_rel_error) is not None:
      verdict = "agrees with" if self.checks_ok else "differs from"
      checks = f"gradient {verdict} jax.grad in {len(self.checks)} checks: worst {worst:.1e}"
      parts.append(paragraph(checks))
    every = self.evaluations
    shown = every if len(every) <= MOST_ROWS else (*every[:2], *every[2 - MOST_ROWS :])
    if len(shown) < len(every):
      parts.append(paragraph(f"{len(shown)} of {len(every)} evaluations:"))
    heads, rows = [c.name for c in COLUMNS], [[c.text(e) for c in COLUMNS] for e in shown]
    return "".join([*parts, table_of(heads, rows)])

  @property
  def params(self) -> Params:
    """The resulting parameters: those of the best epoch if there is one, else the last ones."""
    return self.state.params if self.best is None else self.best.params

  @property
  def steps(self) -> int:
    """Number of steps taken, without one that diverged."""
    return int(self.state.step)

  @property
  def gradient_rounding_max_rel_error(self) -> float | None:
    """Largest rounding error of the gradient in the working dtype; None without checks."""
    return worst([check.rounding for _, check in self.checks])


def worst(errors: list[float]) -> float | None:
  """Return the largest error, where NaN exceeds every number; None for an empty list."""
  return float(np.max(errors)) if errors else None
