"""The members of an ensemble: how they went, and how they end beside each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fbackprop.train.ensemble_results import EnsembleResult
from fbackprop.train.report.style import COLORS, MUTED, along_steps, legend_in_title_line

MOST_SHOWN = 2000  # Steps of a curve.


def draw_spread(axes: Any, result: EnsembleResult) -> None:
  """The members' mean losses and accuracies, and from the least to the largest a band."""
  axes.set(title="Loss", yscale="log")
  along_steps(axes)
  if result.losses.size:
    kept = np.unique(np.linspace(0, len(result.losses) - 1, MOST_SHOWN).astype(int))
    losses = known(result.losses[kept], above=0).mean(1).filled(np.nan)
    axes.plot(kept + 1, losses, color=COLORS[0], linewidth=0.6, alpha=0.2)
  steps = [e.step for e in result.evaluations]
  # The mean of the steps since the evaluation before stands in their middle.
  middles = [(before + 1 + step) / 2 for before, step in zip([0, *steps], steps, strict=False)]
  trained = [e.train_losses for e in result.evaluations]
  draw_band(axes, middles, trained, COLORS[0], ".-", above=0)
  axes.plot([], [], ".-", color=COLORS[0], label="training")
  tested = [e.test_losses for e in result.evaluations if e.test_losses is not None]
  if tested:
    draw_band(axes, steps, tested, COLORS[1], ".-", above=0)
    axes.plot([], [], ".-", color=COLORS[1], label="test")
  right = [e.test_accuracies for e in result.evaluations if e.test_accuracies is not None]
  if right:
    axes.plot([], [], ".--", color=COLORS[2], label="test accuracy")
    twin = axes.twinx()
    draw_band(twin, steps, right, COLORS[2], ".--")
    twin.spines["right"].set_visible(True)
    twin.set_ylabel("test accuracy")
  legend_in_title_line(axes)


def draw_band(
  axes: Any,
  steps: Sequence[float],
  rows: Sequence[np.ndarray],
  color: str,
  line: str,
  above: float = -np.inf,
) -> None:
  """At each step the mean of the members' numbers `[K]` as a point, and a band around it."""
  values = known(np.stack(rows), above)
  means, low, high = (
    found.filled(np.nan) for found in (values.mean(1), values.min(1), values.max(1))
  )
  axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
  axes.plot(steps, means, line, color=color)


def known(values: np.ndarray, above: float) -> Any:
  """The numbers that are finite and have a place on the axis; of the others none is counted."""
  is_known = np.isfinite(values) & (values > above)
  return np.ma.masked_array(values, ~is_known, dtype=np.float64)


def draw_ranks(axes: Any, scores: np.ndarray, together: float, name: str, is_good: bool) -> None:
  """What each member comes to, the best first, and what they come to together.

  Args:
    axes: the panel.
    scores: of the members, `[K]`.
    together: of all of them as one.
    name: of the score.
    is_good: whether more is better.
  """
  ranked = np.sort(scores)[::-1] if is_good else np.sort(scores)
  axes.axhline(together, color=COLORS[1], linewidth=1.5, label="together")
  axes.axhline(float(np.mean(scores)), color=MUTED, linewidth=0.8, label="their mean")
  axes.plot(np.arange(1, len(ranked) + 1), ranked, ".", ms=6, color=COLORS[0], label="a member")
  axes.set(title="Members", xlabel="members, the best first", ylabel=name)
  axes.xaxis.get_major_locator().set_params(integer=True)
  legend_in_title_line(axes)
