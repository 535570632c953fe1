"""Panels of training: over the steps of a run or an ensemble, and of the members' scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fbackprop.train.ensembles import EnsembleResult
from fbackprop.train.report import figures
from fbackprop.train.report.figures import COLORS, Panel, panel
from fbackprop.train.report.tables import RateScores
from fbackprop.train.results import Result

MOST_STEPS = 2000  # Of the losses; more points are thinned out.
MOST_ROWS = 400  # Of each layer's norms.


@panel(
  "Loss over the steps",
  "Thin: the loss of each step's batch before its update. With dots: its mean since the evaluation "
  "before, and the test examples at each evaluation.",
)
def draw_losses(axes: Any, result: Result | EnsembleResult) -> None:
  """Draw each step's training loss, its means between evaluations, test and validation scores.

  Of an ensemble the means over the members, with bands from the least to the largest one.
  """
  axes.set(title="Loss", yscale="log")
  figures.along_steps(axes)
  one = result if isinstance(result, Result) else None
  names = ("train_loss", "test_loss", "test_accuracy")
  if one is None:
    names = ("train_losses", "test_losses", "test_accuracies")
  if result.losses.size:
    kept = figures.spread_out(len(result.losses), MOST_STEPS)
    losses = by_member(result.losses[kept], above=0).mean(1).filled(np.nan)
    is_few = one is not None and len(kept) < figures.FEW
    style = {"marker": ".", "alpha": 0.6} if is_few else {"alpha": 0.2}
    axes.plot(kept + 1, losses, color=COLORS[0], linewidth=0.6, **style)
  # Each mean loss in the middle of the steps averaged: at the step of its evaluation it would lag
  # behind these losses.
  evaluations: Sequence[Any] = result.evaluations
  pairs = zip([0, *(e.step for e in evaluations)], evaluations, strict=False)
  shown = [(start, e) for start, e in pairs if getattr(e, names[0]) is not None]
  steps, places = [e.step for _, e in shown], [(start + 1 + e.step) / 2 for start, e in shown]
  trained, tested, right = ([getattr(e, name) for _, e in shown] for name in names)
  draw_members(axes, places, trained, ".-", color=COLORS[0], label="training")
  if shown and tested[-1] is not None:
    draw_members(axes, steps, tested, ".-", color=COLORS[1], label="test")
  scores = {} if one is None else validation_of(one)
  # Accuracies are on the right; scores of values are minus losses, and among these.
  on, line, sign = axes, ".-", -1
  if shown and right[-1] is not None:
    on, line, sign = axes.twinx(), ".--", 1
    on.spines["right"].set_visible(True)
    on.set_ylabel("accuracy" if scores else "test accuracy")
    draw_members(on, steps, right, line, color=COLORS[2], label="test accuracy")
  if scores:
    values = [sign * score for score in scores.values()]
    on.plot(list(scores), values, line, color=COLORS[3], label="validation")
  if one is not None:
    mark_kept(on, one, COLORS[3], sign)
    mark_divergence(axes, one)
  figures.legend_in_title_line(*dict.fromkeys((axes, on)))


def by_member(rows: Sequence[Any], above: float = -np.inf) -> Any:
  """Return numbers of one network or of K members as `[N, K]`, masked where they can't be shown."""
  values = np.array(rows, np.float64).reshape(len(rows), -1 if len(rows) else 1)
  return np.ma.masked_where(~(np.isfinite(values) & (values > above)), values)


def draw_members(
  axes: Any, steps: Sequence[float], rows: Sequence[Any], line: str, **style: Any
) -> None:
  """Draw the numbers of one network, or the mean of several members' and a band around it."""
  values = by_member(rows, above=0 if axes.get_yscale() == "log" else -np.inf)
  found = (values.min(1), values.mean(1), values.max(1))
  low, means, high = (part.filled(np.nan) for part in found)
  if values.shape[1] > 1:
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
  axes.plot(steps, means, line, **style)


def validation_of(result: Result) -> dict[int, float]:
  """Collect the known validation scores by the steps of their epochs' ends.

  They are those of the epochs, and of a checkpoint of an older version those of the evaluations,
  which hold the latest epoch's, and the best one.
  """
  scores = {} if result.best is None else {result.best.step: result.best.score}
  scores |= dict(result.validation_scores)
  for evaluation in result.evaluations:
    if evaluation.validation_score is not None:
      steps_per_epoch = evaluation.step / evaluation.epoch
      scores[round(int(evaluation.epoch) * steps_per_epoch)] = evaluation.validation_score
  return dict(sorted(scores.items()))


def mark_kept(axes: Any, result: Result, color: str, sign: int) -> None:
  """Circle the best score, and draw a line down to the step whose parameters are kept."""
  best = result.best
  if best is None:
    return
  axes.axvline(best.step, color=color, linewidth=0.8, alpha=0.6)
  axes.plot(best.step, sign * best.score, "o", ms=9, mfc="none", mew=1.4, color=color)
  note_step(axes, f"kept: step {best.step:,}", (best.step, 0.02), color, xytext=(4, 0))


def note_step(axes: Any, text: str, place: tuple[float, float], color: str, **style: Any) -> None:
  """Write beside a step, at a height from 0 to 1."""
  words = axes.annotate(
    text, place, xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
    color=color, **style,
  )  # fmt: skip
  words.set_in_layout(False)


def mark_divergence(axes: Any, result: Result) -> None:
  """Mark the step that diverged by a line, labelled with the first nonfinite place."""
  if result.diverged_at is None:
    return
  step = len(result.losses)
  axes.axvline(step, color=COLORS[1], linestyle=":", linewidth=1.2)
  axes.set_xlim(0, 1.05 * step)  # Room for the label to the left of the line.
  text = f"diverged at step {step}:\n{result.diverged_at}"
  note_step(axes, text, (step, 0.05), COLORS[1], xytext=(-6, 0), ha="right")


@panel(
  "Gradient norm of each layer over the steps",
  "The norm of each layer's gradient, weights and biases together, at every step.",
)
def draw_gradients(axes: Any, result: Result) -> None:
  """Draw the norm of each layer's gradient at every step."""
  axes.set(title="Gradient norm", yscale="log")
  figures.along_steps(axes)
  kept = figures.spread_out(len(result.grad_norms), MOST_ROWS)
  names = [figures.place_of(name) for name in result.layer_names]
  if result.grad_norms.size:
    few = {"marker": "."} if len(kept) < figures.FEW else {}
    norms = by_member(result.grad_norms[kept], above=0).filled(np.nan)
    figures.draw_layers(axes, names, kept + 1, norms, "-", linewidth=0.9, **few)
  mark_divergence(axes, result)


# For each diagnostic: its field of `Evaluation` or of `LayerHealth`, a title, a label, and the name
# and the caption of its panel.
MONITORS = (
  ("noise_scale", "Noise scale", "examples", "Noise scale over the steps",
   "tr Σ over ‖G‖² of the steps since the previous evaluation: at this batch size gradient noise "
   "equals the gradient, and larger batches give diminishing returns. No dot: too few steps."),
  ("clipped", "Clipped examples", "share", "Clipped examples over the steps",
   "The share of the examples whose gradients were clipped."),
  ("x_rms", "RMS of x", "", "Inputs of each layer over the steps",
   "Root mean square of each layer's inputs, for a batch of training examples."),
  ("y_bar_rms", "RMS of ȳ", "", "Cotangents of each layer over the steps",
   "Root mean square of the cotangents of each layer's outputs, of each example's own loss."),
  ("dead", "Dead units", "share", "Dead units of each layer over the steps",
   "The share of each layer's outputs whose cotangent is 0 for every example of the batch: their "
   "weights don't learn from it."),
  ("angle", "Angle of update and gradient", "degrees", "Angle of the update to the gradient",
   "Of each layer, for a batch of training examples: 0° is backpropagation, and below 90° the "
   "update descends."),
  ("norm_ratio", "Norm of update over gradient", "", "Norm of the update over the gradient's",
   "Of each layer, for a batch of training examples."),
  ("weight_angle", "Angle of W and feedback", "degrees", "Angle of the weights to their feedback",
   "Of each layer whose feedback has the shape of its weights."),
)  # fmt: skip


def draw_monitor(axes: Any, result: Result, field: str, title: str, label: str) -> None:
  """Draw a diagnostic at each evaluation where it is known, or of each layer."""
  is_share, tops = label in ("share", "degrees"), {"share": 1.0, "degrees": 180.0}
  limits: dict[str, Any] = {"yscale": "log"}
  if is_share:
    limits = {"ylim": (-0.03 * tops[label], 1.03 * tops[label])}
  axes.set(title=title, ylabel=label, **limits)
  figures.along_steps(axes)
  steps = [e.step for e in result.evaluations]
  if hasattr(result.evaluations[0], field):
    values = [getattr(e, field) for e in result.evaluations]
    axes.plot(steps, np.array(values, np.float64), ".-", color=COLORS[0])
  else:
    watched = {e.step: found for e in result.evaluations if (found := by_layer_of(e, field))}
    layers = list(next(iter(watched.values())))
    # Averaged over the copies in a `repeat`; None, where an angle isn't defined, is a gap.
    rows = [
      [np.mean(np.asarray(own[layer][field], np.float64)) for layer in layers]
      for own in watched.values()
    ]
    shown = by_member(rows, above=-np.inf if is_share else 0).filled(np.nan)
    names = [layer.rpartition(".")[0] or layer for layer in layers]
    figures.draw_layers(axes, names, list(watched), shown, ".-")
  mark_divergence(axes, result)


def by_layer_of(evaluation: Any, field: str) -> dict[str, Any] | None:
  """Return what an evaluation has of each layer with this field; None without a number."""
  for found in (evaluation.health, evaluation.alignment):
    if found and any(own.get(field) is not None for own in found.values()):
      return dict(found)
  return None


def panels_of(result: Result) -> list[Panel]:
  """Return the panels over the steps of a run, with one for each diagnostic recorded."""
  note = "" if result.best is None else (
    "Validation: the scores of the validation set at the ends of epochs; in the ring the best one, "
    "whose parameters are kept."
  )  # fmt: skip
  panels = [draw_losses.of(result=result, note=note), draw_gradients.of(result=result)]
  for field, title, label, name, caption in MONITORS:
    if any(getattr(e, field, by_layer_of(e, field)) is not None for e in result.evaluations):
      monitor = Panel(name, caption, draw_monitor)
      panels.append(monitor.of(result=result, field=field, title=title, label=label))
  return panels


# --- Members --------------------------------------------------------------------------------------


@panel(
  "Scores of the members",
  "The score of each member, and of the ensemble: of their mean prediction.",
)
def draw_ranks(axes: Any, own: RateScores, name: str, is_good: bool) -> None:
  """Draw the members' scores, sorted, and the ensemble's.

  Args:
    axes: the panel.
    own: the scores.
    name: name of the score.
    is_good: whether a higher score is better.
  """
  ranked = np.sort(own.scores)[::-1] if is_good else np.sort(own.scores)
  axes.axhline(own.together, color=COLORS[1], linewidth=1.5, label="together")
  axes.axhline(np.mean(own.scores), color=figures.MUTED, linewidth=0.8, label="their mean")
  axes.plot(np.arange(1, len(ranked) + 1), ranked, ".", ms=6, color=COLORS[0], label="a member")
  axes.set(title="Members", xlabel="members, the best first", ylabel=name)
  axes.xaxis.get_major_locator().set_params(integer=True)
  figures.legend_in_title_line(axes)


def member_panels(result: EnsembleResult, own: RateScores, name: str, is_good: bool) -> list[Panel]:
  """Return the panels of the training and the scores of an ensemble's members."""
  losses = Panel(
    "Loss of the members over the steps",
    "Thin: the mean loss of the members' batches at each step. With dots: means over the members, "
    "of their losses since the evaluation before and of the test examples; the bands are from the "
    "least to the largest member.",
    draw_losses.draw,
  )
  return [losses.of(result=result), draw_ranks.of(own=own, name=name, is_good=is_good)]
