"""The members of an ensemble: panels of their training and scores, and tables of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fbackprop.train.ensembles import EnsembleResult, spread_of
from fbackprop.train.report.curves import MOST_STEPS, middles, twin_of
from fbackprop.train.report.figures import (
  COLORS,
  MUTED,
  Panel,
  along_steps,
  legend_in_title_line,
  panel,
  spread_out,
)
from fbackprop.train.report.tables import Number, Table, counted, measured

MOST_MEMBERS = 100  # Per table; the others are in summary.json.


class RateScores(NamedTuple):
  """Test scores of the members that share a learning rate.

  Attributes:
    rate: the learning rate.
    scores: score of each member, `[K]`: accuracies for labels, else mean losses.
    together: score of the ensemble.
  """

  rate: float
  scores: np.ndarray
  together: float


@panel(
  "Loss of the members over the steps",
  "Thin: the mean loss of the members' batches at each step. With dots: means over the members, of "
  "their losses since the evaluation before and of the test examples; the bands are from the least "
  "to the largest member.",
)
def draw_spread(axes: Any, result: EnsembleResult) -> None:
  """Draw the members' mean losses and accuracies, with bands from the minimum to the maximum."""
  axes.set(title="Loss", yscale="log")
  along_steps(axes)
  if result.losses.size:
    kept = spread_out(len(result.losses), MOST_STEPS)
    losses = known(result.losses[kept], above=0).mean(1).filled(np.nan)
    axes.plot(kept + 1, losses, color=COLORS[0], linewidth=0.6, alpha=0.2)
  steps = [e.step for e in result.evaluations]
  trained = [e.train_losses for e in result.evaluations]
  draw_band(axes, middles(result.evaluations), trained, COLORS[0], ".-", above=0)
  axes.plot([], [], ".-", color=COLORS[0], label="training")
  tested = [e.test_losses for e in result.evaluations if e.test_losses is not None]
  if tested:
    draw_band(axes, steps, tested, COLORS[1], ".-", above=0)
    axes.plot([], [], ".-", color=COLORS[1], label="test")
  right = [e.test_accuracies for e in result.evaluations if e.test_accuracies is not None]
  if right:
    axes.plot([], [], ".--", color=COLORS[2], label="test accuracy")
    draw_band(twin_of(axes, "test accuracy"), steps, right, COLORS[2], ".--")
  legend_in_title_line(axes)


def draw_band(
  axes: Any,
  steps: Sequence[float],
  rows: Sequence[np.ndarray],
  color: str,
  line: str,
  above: float = -np.inf,
) -> None:
  """Draw the mean of the members' numbers `[K]` over the steps, with a band around it."""
  values = known(np.stack(rows), above)
  means, low, high = (
    found.filled(np.nan) for found in (values.mean(1), values.min(1), values.max(1))
  )
  axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
  axes.plot(steps, means, line, color=color)


def known(values: np.ndarray, above: float) -> Any:
  """Mask the numbers that aren't finite or can't be shown on the axis."""
  is_known = np.isfinite(values) & (values > above)
  return np.ma.masked_array(values, ~is_known, dtype=np.float64)


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
  axes.axhline(float(np.mean(own.scores)), color=MUTED, linewidth=0.8, label="their mean")
  axes.plot(np.arange(1, len(ranked) + 1), ranked, ".", ms=6, color=COLORS[0], label="a member")
  axes.set(title="Members", xlabel="members, the best first", ylabel=name)
  axes.xaxis.get_major_locator().set_params(integer=True)
  legend_in_title_line(axes)


def panels_of(result: EnsembleResult, own: RateScores, name: str, is_good: bool) -> list[Panel]:
  """Return the panels of the training and the scores of an ensemble's members."""
  return [draw_spread.of(result=result), draw_ranks.of(own=own, name=name, is_good=is_good)]


def rates_of(rates: Sequence[RateScores], name: str, is_good: bool) -> Table:
  """Return a table with a row for each learning rate."""
  rows = []
  for row in rates:
    spread = spread_of(row.scores)
    ends = (spread.most, spread.least) if is_good else (spread.least, spread.most)
    numbers = map(measured, (spread.mean, spread.deviation, *ends, row.together))
    rows.append((Number(f"{row.rate:g}"), *numbers))
  return Table(("rate", f"{name}, mean", "deviation", "best", "worst", "together"), rows)


def members_of(result: EnsembleResult, own: RateScores, seed: int, name: str) -> Table:
  """Return a table with a row for each member, up to `MOST_MEMBERS`."""
  size, best = min(result.size, MOST_MEMBERS), result.best
  columns: dict[str, Sequence[str | Number]] = {
    "seed": [Number(str(seed + k)) for k in range(size)],
    "steps": [counted(int(steps)) for steps in result.steps],
    "ended by": result.stop_reasons,
    name: [measured(float(score)) for score in own.scores],
  }
  if best is not None:
    columns["kept step"] = [counted(int(step)) for step in best.steps]
    columns["validation"] = [
      measured(float(score) if np.isfinite(score) else None) for score in best.scores
    ]
  if any(result.diverged_at):
    columns["first not finite"] = [place or "–" for place in result.diverged_at]
  return Table(
    list(columns), list(zip(*(column[:size] for column in columns.values()), strict=True))
  )
