"""The members of an ensemble: panels of their training and scores, and tables of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fbackprop.train.ensembles import EnsembleResult, spread_of
from fbackprop.train.report import curves, figures
from fbackprop.train.report.figures import COLORS, Panel, panel
from fbackprop.train.report.tables import Number, Table, counted, measured, table_of

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


def panels_of(result: EnsembleResult, own: RateScores, name: str, is_good: bool) -> list[Panel]:
  """Return the panels of the training and the scores of an ensemble's members."""
  losses = Panel(
    "Loss of the members over the steps",
    "Thin: the mean loss of the members' batches at each step. With dots: means over the members, "
    "of their losses since the evaluation before and of the test examples; the bands are from the "
    "least to the largest member.",
    curves.draw_losses.draw,
  )
  return [losses.of(result=result), draw_ranks.of(own=own, name=name, is_good=is_good)]


def rates_of(rates: Sequence[RateScores], name: str, is_good: bool) -> Table:
  """Return a table with a row for each learning rate."""
  rows = []
  for rate, scores, together in rates:
    mean, deviation, *ends = spread_of(scores)
    numbers = (mean, deviation, *(reversed(ends) if is_good else ends), together)
    rows.append((Number(f"{rate:g}"), *map(measured, numbers)))
  return Table(("rate", f"{name}, mean", "deviation", "best", "worst", "together"), rows)


def members_of(result: EnsembleResult, own: RateScores, seed: int, name: str) -> Table:
  """Return a table with a row for each member, up to `MOST_MEMBERS`."""
  size, best = min(result.size, MOST_MEMBERS), result.best
  columns: dict[str, Sequence[str | Number]] = {
    "seed": [Number(str(seed + k)) for k in range(size)],
    "steps": list(map(counted, result.steps.tolist())),
    "ended by": result.stop_reasons,
    name: list(map(measured, own.scores.tolist())),
  }
  if best is not None:
    columns["kept step"] = list(map(counted, best.steps.tolist()))
    scores = [score if np.isfinite(score) else None for score in best.scores.tolist()]
    columns["validation"] = list(map(measured, scores))
  if any(result.diverged_at):
    columns["first not finite"] = [place or "–" for place in result.diverged_at]
  return table_of([(name, every[:size]) for name, every in columns.items()])
