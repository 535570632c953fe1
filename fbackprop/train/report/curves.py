"""How a run went, step by step: its losses and the norms of its gradients."""

from typing import Any

import numpy as np

from fbackprop.train.report.style import (
  COLORS,
  FEW,
  MOST_NAMES,
  colors_of,
  legend_in_title_line,
)
from fbackprop.train.results import Result


def draw_losses(axes: Any, result: Result) -> None:
  """Training loss of every step, thinly, its mean between evaluations, and the test loss."""
  shown = [e for e in result.evaluations if e.train_loss is not None]
  steps = [e.step for e in shown]
  axes.set(title="Loss", xlabel="step", yscale="log")
  if result.losses.size:
    kept = np.unique(np.linspace(0, len(result.losses) - 1, 2000).astype(int))
    losses = np.where(result.losses > 0, result.losses, np.nan)
    few = {"marker": ".", "alpha": 0.6} if len(kept) < FEW else {"alpha": 0.2}
    axes.plot(kept + 1, losses[kept], color=COLORS[0], linewidth=0.6, **few)
  # With dots, as a single evaluation would be a line without length.
  axes.plot(middles(result), [e.train_loss for e in shown], ".-", color=COLORS[0], label="training")
  if shown and shown[-1].test_loss is not None:
    axes.plot(steps, [e.test_loss for e in shown], ".-", color=COLORS[1], label="test")
    if shown[-1].test_accuracy is not None:
      axes.plot([], [], ".--", color=COLORS[2], label="test accuracy")
      twin = axes.twinx()
      twin.plot(steps, [e.test_accuracy for e in shown], ".--", color=COLORS[2])
      twin.spines["right"].set_visible(True)
      twin.set_ylabel("test accuracy")
  mark_divergence(axes, result)
  legend_in_title_line(axes)


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
  axes.xaxis.get_major_locator().set_params(integer=True)
  words = axes.annotate(
    f"diverged at step {step}:\n{result.diverged_at}",
    (step, 0.05), xycoords=("data", "axes fraction"), textcoords="offset points",
    xytext=(-6, 0), ha="right", fontsize=8, color=COLORS[1],
  )  # fmt: skip
  words.set_in_layout(False)


def draw_gradients(axes: Any, result: Result) -> None:
  """The norm of each layer's gradient at every step."""
  axes.set(title="Gradient norm", xlabel="step", yscale="log")
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
