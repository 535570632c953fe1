"""The metrics of a run: the fields of an evaluation, their values, and the columns of the table.

To add a column, add a field to `Evaluation`, its value in `evaluation_of`, and its row in
`COLUMNS`, from which the screen and a notebook print it; metrics.jsonl and checkpoints have every
field. For ensembles, add a field to `EnsembleEvaluation`, its value in `ensemble_evaluation_of`,
and its name in `PER_MEMBER`, if it has an entry for each member.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from fbackprop.quantities.gradients import NoiseScale
from fbackprop.train.step import Info
from fbackprop.train.stop_rules import RUNNING, score_of


@dataclass(frozen=True)
class Evaluation:
  """The state of a run at one step, printed as a line and written as a row of metrics.jsonl.

  Attributes:
    step: number of steps taken.
    epoch: number of passes over the training data.
    train_loss: mean of the steps' losses since the previous evaluation, weighted by the weights of
      their batches, without nonfinite steps; None before the first step, and where all those
      weights are zero.
    test_loss: mean test loss, if there is a test set.
    test_accuracy: fraction of the test examples whose largest output is at their label, if the
      targets are labels.
    grad_norms: norm of each layer's gradient at the last step, in the order of
      `Result.layer_names`; empty before the first step.
    gradient_error: relative error of our gradient in the latest check; None before the first.
    seconds: wall time since the start, without compilation.
    validation_score: validation score at the end of the last complete epoch; None without a
      validation set, and before the end of the first epoch.
    noise_scale: gradient noise scale of the steps since the previous evaluation, if watched; None
      where they are too few to estimate it. See `fbackprop.quantities.noise_scale`.
    clipped: fraction of the examples in those steps whose gradients were clipped, if clipping is
      on.
    health: if watched, the fields of `fbackprop.quantities.LayerHealth` of each layer by its name,
      for the examples that a gradient check at this step uses.
    alignment: if watched, the fields of `fbackprop.rules.Alignment` of each layer by its name, for
      the same examples; None where one isn't defined.
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
  alignment: dict[str, Any] | None = None


def evaluation_of(run: Any) -> Evaluation:
  """Evaluate a `runner.Run` at its current state."""
  recent: Any = run.history.since_evaluation()
  test_loss, test_accuracy = run.evaluate(run.loop.state.params, run.problem.test)
  return Evaluation(
    step=run.done,
    epoch=run.done / run.problem.steps_per_epoch,
    train_loss=mean_loss(recent),
    test_loss=test_loss,
    test_accuracy=test_accuracy,
    grad_norms=tuple(run.history.infos().grad_norms[-1:].ravel().tolist()),
    gradient_error=run.history.checks[-1][1].rel_error if run.history.checks else None,
    seconds=run.seconds,
    validation_score=score_of(run.loop.best, "latest"),
    noise_scale=mean_noise_scale(recent.watched.noise_scale, recent.finite),
    clipped=mean_clipped(recent.watched.clipped, recent.finite),
    health=run.health(run.loop.state),
    alignment=run.alignment(run.loop.state),
  )


def mean_loss(infos: Info) -> float | None:
  """Average the losses of some steps, weighted; None if the total weight is zero.

  Nonfinite steps are excluded, unless all steps are nonfinite.
  """
  taken = infos.finite if infos.finite.any() else np.ones_like(infos.finite)
  losses = infos.loss[taken].astype(np.float64)
  weights = infos.weight[taken].astype(np.float64)
  return float((weights * losses).sum() / weights.sum()) if weights.sum() else None


def mean_noise_scale(found: NoiseScale | None, finite: np.ndarray) -> float | None:
  """Compute the noise scale of some steps: the mean of tr Σ over the mean of ‖G‖².

  Both are unbiased in each step, and their ratio isn't. A step is excluded if the squared norm of
  an example overflowed.

  Args:
    found: estimates of the steps, each part `[steps]`.
    finite: whether each step was finite, `[steps]`.

  Returns:
    The noise scale in examples; None if the mean ‖G‖² isn't positive, as there are too few steps to
    resolve the gradient in its noise.
  """
  if found is None:
    return None
  known = finite & np.isfinite(found.trace) & np.isfinite(found.sqnorm)
  if not known.any():
    return None
  trace, sqnorm = (part[known].astype(np.float64).mean() for part in (found.trace, found.sqnorm))
  return float(trace / sqnorm) if sqnorm > 0 else None


def mean_clipped(found: np.ndarray | None, finite: np.ndarray) -> float | None:
  """Compute the fraction of clipped examples in some steps; None if none was finite."""
  return None if found is None or not finite.any() else float(found[finite].mean(dtype=np.float64))


# --- The table ------------------------------------------------------------------------------------


def number(value: Any) -> str:
  """Format a number of a run, such as a loss; "-" for None."""
  if not isinstance(value, Real) or isinstance(value, Integral):
    return "-" if value is None else str(value)
  value = float(value)
  return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def percent(share: float) -> str:
  """Format a fraction in percent."""
  return f"{100 * share:.1f} %"


def examples(count: float) -> str:
  """Format a number of examples."""
  return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def most_dead(health: dict[str, Any]) -> str:
  """Format the largest fraction of dead units of any layer; copies of a `repeat` have a list."""
  return percent(max(np.max(layer["dead"]) for layer in health.values())) if health else ""


def largest_angle(alignment: dict[str, Any]) -> str:
  """Format the largest angle of any layer's update to its gradient, in degrees."""
  known = [layer["angle"] for layer in alignment.values() if layer["angle"] is not None]
  return f"{max(known):.0f}°" if known else ""


class Column(NamedTuple):
  """A column of the table of a run's evaluations, on the screen and in a notebook.

  Attributes:
    name: its heading.
    width: its width on the screen.
    field: the field of `Evaluation` that it shows.
    format: formats a value that isn't None.
    needs: what a run must have for it to be on the screen: "labels", "validation", "clipping", or
      one of `Monitor.watch`; "" for any run.
  """

  name: str
  width: int
  field: str
  format: Callable[[Any], str]
  needs: str = ""

  def text(self, evaluation: Evaluation) -> str:
    """Return the cell of an evaluation, empty if its value is None."""
    value = getattr(evaluation, self.field)
    return "" if value is None else self.format(value)


COLUMNS = (
  Column("step", 8, "step", str),
  Column("epoch", 8, "epoch", "{:.1f}".format),
  Column("train loss", 12, "train_loss", number),
  Column("test loss", 11, "test_loss", number),
  Column("test accuracy", 14, "test_accuracy", number, "labels"),
  Column("validation", 12, "validation_score", number, "validation"),
  Column("clipped", 9, "clipped", percent, "clipping"),
  Column("noise scale", 13, "noise_scale", examples, "noise_scale"),
  Column("max dead", 11, "health", most_dead, "health"),
  Column("max angle", 11, "alignment", largest_angle, "alignment"),
  Column("error of gradient", 20, "gradient_error", "{:.1e}".format),
)


class Table:
  """The table of a run's evaluations, printed row by row, with the columns of what it has."""

  def __init__(self, watched: Collection[str], **has: Any) -> None:
    known = {"", *watched, *filter(has.get, has)}
    self.columns = [column for column in COLUMNS if column.needs in known]

  def head(self) -> str:
    """Format the heading of the table."""
    return "".join(f"{column.name:>{column.width}}" for column in self.columns)

  def row(self, evaluation: Evaluation) -> str:
    """Format an evaluation as a row of the table."""
    return "".join(f"{column.text(evaluation) or '-':>{column.width}}" for column in self.columns)


# --- Ensembles ------------------------------------------------------------------------------------


class Spread(NamedTuple):
  """Summary of some members' numbers; `deviation` is the sample standard deviation, 0 if K = 1."""

  mean: float
  deviation: float
  least: float
  most: float


def spread_of(values: np.ndarray) -> Spread:
  """Compute the spread of numbers `[K]`, K ≥ 1; NaN if any of them is NaN."""
  wide = np.asarray(values, np.float64)
  with np.errstate(invalid="ignore"):  # The deviation of an infinite loss is NaN.
    deviation = float(wide.std(ddof=1)) if len(wide) > 1 else 0.0
  return Spread(float(wide.mean()), deviation, float(wide.min()), float(wide.max()))


@dataclass(frozen=True)
class EnsembleEvaluation:
  """The state of an ensemble at one step; arrays are `[K]`, one entry per member.

  Attributes:
    step: steps taken by the running members, or by those that ran longest.
    running: number of members still running.
    train_losses: mean of each member's losses since the previous evaluation; NaN for a member that
      has taken no step since.
    test_losses: mean test loss, if there is a test set.
    test_accuracies: test accuracy, if the targets are labels.
    test_loss: loss of the ensemble as a whole (see `mean_outputs`).
    test_accuracy: accuracy of the ensemble as a whole.
    seconds: wall time since the start, without compilation.
  """

  step: int
  running: int
  train_losses: np.ndarray
  test_losses: np.ndarray | None
  test_accuracies: np.ndarray | None
  test_loss: float | None
  test_accuracy: float | None
  seconds: float


# Test losses and accuracies of the members, `[K]`, then the loss and accuracy of the ensemble; see
# `EnsembleEvaluation`.
Scores = tuple[np.ndarray | None, np.ndarray | None, float | None, float | None]
# The fields with an entry per member, by their names in metrics.jsonl.
PER_MEMBER = {
  "train_loss": "train_losses", "test_loss": "test_losses", "test_accuracy": "test_accuracies",
}  # fmt: skip


def ensemble_evaluation_of(run: Any) -> EnsembleEvaluation:
  """Evaluate a `runner.EnsembleRun` at its current parameters."""
  scores: Scores = run.evaluate(run.loop.state.params, run.problem.test)
  running = np.asarray(run.loop.progress.reason) == RUNNING
  count = int(running.sum()) if run.problem.most_steps else 0
  losses = np.asarray(run.history.since_evaluation().loss)
  with np.errstate(invalid="ignore"):  # 0 / 0 is NaN.
    means = np.nansum(losses, axis=0, dtype=np.float64) / (~np.isnan(losses)).sum(0)
  return EnsembleEvaluation(run.done, count, means, *scores, run.seconds)


def row_of_ensemble(evaluation: EnsembleEvaluation, rates: Sequence[float]) -> dict[str, Any]:
  """Convert an evaluation to a row of metrics.jsonl: the spread of the members' numbers per rate.

  Nonfinite numbers are excluded; "members" is the number of those included.
  """
  rows: list[dict[str, Any]] = [{"rate": rate} for rate in rates]
  for name, field in PER_MEMBER.items():
    if (values := getattr(evaluation, field)) is not None:
      for row, own in zip(rows, np.split(values, len(rates)), strict=True):
        own = own[np.isfinite(own)]
        row[name] = {**spread_of(own)._asdict(), "members": len(own)} if len(own) else None
  whole = {name: getattr(evaluation, name) for name in ("step", "running", "seconds")}
  return {**whole, "rates": rows}
