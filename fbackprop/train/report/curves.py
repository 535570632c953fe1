"""How a run went, step by step: its losses and the norms of its gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fbackprop.train.report.style import (
  COLORS,
  FEW,
  MOST_NAMES,
  along_steps,
  colors_of,
  legend_in_title_line,
)
from fbackprop.train.results import Result


def draw_losses(axes: Any, result: Result) -> None:
  """Training loss of every step, thinly, its mean between evaluations, test and validation."""
  shown = [e for e in result.evaluations if e.train_loss is not None]
  steps = [e.step for e in shown]
  axes.set(title="Loss", yscale="log")
  along_steps(axes)
  if result.losses.size:
    kept = np.unique(np.linspace(0, len(result.losses) - 1, 2000).astype(int))
    losses = np.where(result.losses > 0, result.losses, np.nan)
    few = {"marker": ".", "alpha": 0.6} if len(kept) < FEW else {"alpha": 0.2}
    axes.plot(kept + 1, losses[kept], color=COLORS[0], linewidth=0.6, **few)
  # With dots, as a single evaluation would be a line without length.
  axes.plot(middles(result), [e.train_loss for e in shown], ".-", color=COLORS[0], label="training")
  if shown and shown[-1].test_loss is not None:
    axes.plot(steps, [e.test_loss for e in shown], ".-", color=COLORS[1], label="test")
  scores = validation_of(result)
  if shown and shown[-1].test_accuracy is not None:
    # In the legend of the losses, whose axis both share from left to right.
    twin = axes.twinx()
    twin.spines["right"].set_visible(True)
    twin.set_ylabel("accuracy" if scores else "test accuracy")
    draw_both(axes, twin, steps, [e.test_accuracy for e in shown], COLORS[2], "test accuracy")
    if scores:
      draw_both(axes, twin, list(scores), list(scores.values()), COLORS[3], "validation")
      mark_kept(twin, result, COLORS[3])
  elif scores:
    scored = [-score for score in scores.values()]  # Which are losses.
    axes.plot(list(scores), scored, ".-", color=COLORS[3], label="validation")
    mark_kept(axes, result, COLORS[3], sign=-1)
  mark_divergence(axes, result)
  legend_in_title_line(axes)


def draw_both(
  axes: Any, twin: Any, steps: Sequence[int], values: Sequence[float | None], color: str, label: str
) -> None:
  """A dashed curve of the right axis that the legend of the left one names."""
  axes.plot([], [], ".--", color=color, label=label)
  twin.plot(steps, values, ".--", color=color)


def validation_of(result: Result) -> dict[int, float]:
  """The scores of the examples set aside that are known, by the steps of their epochs' ends.

  Those of the evaluations, which tell the latest epoch's, and the best one.
  """
  scores = {} if result.best is None else {result.best.step: result.best.score}
  for evaluation in result.evaluations:
    if evaluation.validation_score is not None:
      steps_per_epoch = evaluation.step / evaluation.epoch
      scores[round(int(evaluation.epoch) * steps_per_epoch)] = evaluation.validation_score
  return dict(sorted(scores.items()))


def mark_kept(axes: Any, result: Result, color: str, sign: int = 1) -> None:
  """A ring around the best score, and a line down to the step whose parameters are kept."""
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


def middles(result: Result) -> list[float]:
  """Where a mean over the steps since the evaluation before stands: in the middle of them.

  At their end, where it is known, it would lag behind the losses that it is of.
  """
  places, before = [], 0
  for evaluation in result.evaluations:
    if evaluation.train_loss is not None:
      places.append((before + 1 + evaluation.step) / 2)
    before = evaluation.step
  return places


def mark_divergence(axes: Any, result: Result) -> None:
  """A line at the step that wasn't taken, with what was the first that wasn't finite."""
  if result.diverged_at is None:
    return
  step = len(result.losses)
  axes.axvline(step, color=COLORS[1], linestyle=":", linewidth=1.2)
  axes.set_xlim(0, 1.05 * step)  # So that there is a place for the words, left of the line.
  words = axes.annotate(
    f"diverged at step {step}:\n{result.diverged_at}",
    (step, 0.05), xycoords=("data", "axes fraction"), textcoords="offset points",
    xytext=(-6, 0), ha="right", fontsize=8, color=COLORS[1],
  )  # fmt: skip
  words.set_in_layout(False)


def draw_gradients(axes: Any, result: Result) -> None:
  """The norm of each layer's gradient at every step."""
  axes.set(title="Gradient norm", yscale="log")
  along_steps(axes)
  kept = np.unique(np.linspace(0, max(len(result.grad_norms) - 1, 0), 400).astype(int))
  count = len(result.layer_names)
  colors = colors_of(count)
  # Of many, some are enough to read the others' colors by, and have place above the panel.
  named = np.linspace(0, count - 1, min(count, MOST_NAMES)).astype(int)
  few = {"marker": "."} if len(kept) < FEW else {}
  for i, name in enumerate(result.layer_names):
    norms = np.where(result.grad_norms[:, i] > 0, result.grad_norms[:, i], np.nan)
    if norms.size:
      place = name.strip("[]").replace("][", ".")
      label = f"layer {place}" if i in named else None
      axes.plot(kept + 1, norms[kept], color=colors[i], linewidth=0.9, label=label, **few)
  mark_divergence(axes, result)
  if result.layer_names and result.grad_norms.size:
    legend_in_title_line(axes)
