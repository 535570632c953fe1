"""Panels over the steps of a run: losses, gradient norms, and extra diagnostics."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fbackprop.train.report.figures import (
  COLORS,
  FEW,
  Panel,
  along_steps,
  draw_layers,
  legend_in_title_line,
  panel,
  spread_out,
)
from fbackprop.train.results import Result

MOST_STEPS = 2000  # Of the losses; more points are thinned out.
MOST_ROWS = 400  # Of each layer's norms.


@panel(
  "Loss over the steps",
  "Thin: the loss of each step's batch before its update. With dots: its mean since the evaluation "
  "before, and the test examples at each evaluation.",
)
def draw_losses(axes: Any, result: Result) -> None:
  """Draw each step's training loss, its means between evaluations, test and validation loss."""
  pairs = zip(result.evaluations, middles(result.evaluations), strict=True)
  known = [(e, place) for e, place in pairs if e.train_loss is not None]
  shown, places = [e for e, _ in known], [place for _, place in known]
  steps = [e.step for e in shown]
  axes.set(title="Loss", yscale="log")
  along_steps(axes)
  if result.losses.size:
    kept = spread_out(len(result.losses), MOST_STEPS)
    losses = positive(result.losses)[kept]
    few = {"marker": ".", "alpha": 0.6} if len(kept) < FEW else {"alpha": 0.2}
    axes.plot(kept + 1, losses, color=COLORS[0], linewidth=0.6, **few)
  # With markers, since a single evaluation would be a line of zero length.
  axes.plot(places, [e.train_loss for e in shown], ".-", color=COLORS[0], label="training")
  if shown and shown[-1].test_loss is not None:
    axes.plot(steps, [e.test_loss for e in shown], ".-", color=COLORS[1], label="test")
  scores = validation_of(result)
  if shown and shown[-1].test_accuracy is not None:
    twin = twin_of(axes, "accuracy" if scores else "test accuracy")
    draw_both(axes, twin, steps, [e.test_accuracy for e in shown], COLORS[2], "test accuracy")
    if scores:
      draw_both(axes, twin, list(scores), list(scores.values()), COLORS[3], "validation")
      mark_kept(twin, result, COLORS[3])
  elif scores:
    scored = [-score for score in scores.values()]  # Scores are minus the losses.
    axes.plot(list(scores), scored, ".-", color=COLORS[3], label="validation")
    mark_kept(axes, result, COLORS[3], sign=-1)
  mark_divergence(axes, result)
  legend_in_title_line(axes)


def twin_of(axes: Any, name: str) -> Any:
  """Add an axis on the right for accuracies."""
  twin = axes.twinx()
  twin.spines["right"].set_visible(True)
  twin.set_ylabel(name)
  return twin


def draw_both(
  axes: Any, twin: Any, steps: Sequence[int], values: Sequence[float | None], color: str, label: str
) -> None:
  """Draw a dashed curve on the right axis, with an entry in the legend of the left one."""
  axes.plot([], [], ".--", color=color, label=label)
  twin.plot(steps, values, ".--", color=color)


def positive(values: np.ndarray) -> np.ndarray:
  """Replace values that a logarithmic axis can't show by NaN, which is drawn as a gap."""
  return np.where(values > 0, values, np.nan)


def validation_of(result: Result) -> dict[int, float]:
  """Collect the known validation scores by the steps of their epochs' ends.

  They are those of the evaluations, which hold the latest epoch's, and the best one.
  """
  scores = {} if result.best is None else {result.best.step: result.best.score}
  for evaluation in result.evaluations:
    if evaluation.validation_score is not None:
      steps_per_epoch = evaluation.step / evaluation.epoch
      scores[round(int(evaluation.epoch) * steps_per_epoch)] = evaluation.validation_score
  return dict(sorted(scores.items()))


def mark_kept(axes: Any, result: Result, color: str, sign: int = 1) -> None:
  """Circle the best score, and draw a line down to the step whose parameters are kept."""
  best = result.best
  if best is None:
    return
  axes.axvline(best.step, color=color, linewidth=0.8, alpha=0.6)
  axes.plot(best.step, sign * best.score, "o", ms=9, mfc="none", mew=1.4, color=color)
  words = axes.annotate(
    f"kept: step {best.step:,}", (best.step, 0.02), xycoords=("data", "axes fraction"),
    textcoords="offset points", xytext=(4, 0), fontsize=8, color=color,
  )  # fmt: skip
  words.set_in_layout(False)


def middles(evaluations: Sequence[Any]) -> list[float]:
  """Return the place of each evaluation's mean loss: the middle of the steps averaged.

  Drawn at the step of the evaluation, the mean would lag behind the losses that it averages.
  """
  steps = [e.step for e in evaluations]
  return [(before + 1 + step) / 2 for before, step in zip([0, *steps], steps, strict=False)]


def mark_divergence(axes: Any, result: Result) -> None:
  """Mark the step that diverged by a line, labelled with the first nonfinite place."""
  if result.diverged_at is None:
    return
  step = len(result.losses)
  axes.axvline(step, color=COLORS[1], linestyle=":", linewidth=1.2)
  axes.set_xlim(0, 1.05 * step)  # Room for the label to the left of the line.
  words = axes.annotate(
    f"diverged at step {step}:\n{result.diverged_at}",
    (step, 0.05), xycoords=("data", "axes fraction"), textcoords="offset points",
    xytext=(-6, 0), ha="right", fontsize=8, color=COLORS[1],
  )  # fmt: skip
  words.set_in_layout(False)


@panel(
  "Gradient norm of each layer over the steps",
  "The norm of each layer's gradient, weights and biases together, at every step.",
)
def draw_gradients(axes: Any, result: Result) -> None:
  """Draw the norm of each layer's gradient at every step."""
  axes.set(title="Gradient norm", yscale="log")
  along_steps(axes)
  kept = spread_out(len(result.grad_norms), MOST_ROWS)
  names = [name.strip("[]").replace("][", ".") for name in result.layer_names]
  if result.grad_norms.size:
    few = {"marker": "."} if len(kept) < FEW else {}
    draw_layers(axes, names, kept + 1, positive(result.grad_norms)[kept], "-", linewidth=0.9, **few)
  mark_divergence(axes, result)


# --- Monitors -------------------------------------------------------------------------------------


@panel(
  "Noise scale over the steps",
  "tr Σ over ‖G‖² of the steps since the previous evaluation: at this batch size gradient noise "
  "equals the gradient, and larger batches give diminishing returns. No dot: too few steps.",
)
def draw_noise_scale(axes: Any, result: Result) -> None:
  """Draw the gradient noise scale, in examples, at each evaluation where it is known."""
  axes.set(title="Noise scale", yscale="log", ylabel="examples")
  draw_evaluations(axes, result, lambda e: e.noise_scale)


@panel(
  "Clipped examples over the steps",
  "The share of the examples whose gradients were clipped.",
)
def draw_clipped(axes: Any, result: Result) -> None:
  """Draw the fraction of clipped examples at each evaluation."""
  axes.set(title="Clipped examples", ylabel="share", ylim=(-0.03, 1.03))
  draw_evaluations(axes, result, lambda e: e.clipped)


def draw_evaluations(axes: Any, result: Result, value_of: Callable[[Any], float | None]) -> None:
  """Draw a curve over the evaluations, with markers, and gaps where a value is unknown."""
  along_steps(axes)
  steps = [e.step for e in result.evaluations]
  values = [np.nan if (value := value_of(e)) is None else value for e in result.evaluations]
  axes.plot(steps, values, ".-", color=COLORS[0])
  mark_divergence(axes, result)


def draw_health(axes: Any, result: Result, field: str, title: str) -> None:
  """Draw a field of `LayerHealth` for each layer, averaged over the copies in a `repeat`."""
  watched = [(e.step, e.health) for e in result.evaluations if e.health]
  layers = list(watched[0][1])
  axes.set(title=title)
  along_steps(axes)
  values = np.array([[np.mean(health[layer][field]) for layer in layers] for _, health in watched])
  if field == "dead":
    axes.set(ylabel="share", ylim=(-0.03, 1.03))
  else:
    axes.set_yscale("log")
    values = positive(values)
  names = [layer.rpartition(".")[0] or layer for layer in layers]
  draw_layers(axes, names, [step for step, _ in watched], values, ".-")
  mark_divergence(axes, result)


HEALTH = (
  ("x_rms", "RMS of x", "Inputs of each layer over the steps",
   "Root mean square of each layer's inputs, for a batch of training examples."),
  ("y_bar_rms", "RMS of ȳ", "Cotangents of each layer over the steps",
   "Root mean square of the cotangents of each layer's outputs, of each example's own loss."),
  ("dead", "Dead units", "Dead units of each layer over the steps",
   "The share of each layer's outputs whose cotangent is 0 for every example of the batch: their "
   "weights don't learn from it."),
)  # fmt: skip


def monitors_of(result: Result) -> list[Panel]:
  """Return a panel for each extra diagnostic recorded."""
  panels = []
  if any(e.noise_scale is not None for e in result.evaluations):
    panels.append(draw_noise_scale.of(result=result))
  if any(e.clipped is not None for e in result.evaluations):
    panels.append(draw_clipped.of(result=result))
  if any(e.health for e in result.evaluations):
    panels += [
      Panel(name, caption, draw_health).of(result=result, field=field, title=title)
      for field, title, name, caption in HEALTH
    ]
  return panels


KEPT = (
  "Validation: the scores of the validation set at the ends of epochs; in the ring the best one, "
  "whose parameters are kept."
)


def panels_of(result: Result) -> list[Panel]:
  """Return the panels over the steps of a run."""
  note = "" if result.best is None else KEPT
  losses = draw_losses.of(result=result, note=note)
  return [losses, draw_gradients.of(result=result), *monitors_of(result)]
