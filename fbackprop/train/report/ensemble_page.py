"""The page of an ensemble: that of a run, with its members in the place of its layers."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from fbackprop.train.data.datasets import Dataset
from fbackprop.train.ensemble_results import EnsembleResult, Spread, spread_of
from fbackprop.train.models import Model
from fbackprop.train.report.cells import Number, Table, counted, measured
from fbackprop.train.report.ensemble_curves import draw_ranks, draw_spread
from fbackprop.train.report.figures import Panel
from fbackprop.train.report.headline import Tile, cost_tiles, score_tiles, wrong_gradient
from fbackprop.train.report.page import Told, in_own_units, render
from fbackprop.train.report.panels import drawn
from fbackprop.train.report.worst import losses_of

MOST_MEMBERS = 100  # More rows aren't read.


class RateScores(NamedTuple):
  """The members of a rate on the test examples: accuracies of labels, else mean losses."""

  rate: float
  scores: np.ndarray
  together: float


def draw_ensemble_page(
  told: Told,
  result: EnsembleResult,
  rates: Sequence[RateScores],
  kept: int,
  dataset: Dataset,
  model: Model,
) -> bytes:
  """Writes the page.

  Args:
    told: what the run was told; member k has the seed `told.seed` + k.
    result: the members that are kept.
    rates: of each rate what its members come to.
    kept: which of them is kept.
    dataset: what they were trained on.
    model: the ensemble.

  Returns:
    An HTML file in UTF-8.

  Raises:
    ModuleNotFoundError: jinja2 or matplotlib isn't installed; the message names the extra.
  """
  # The test examples are in the network's units already, and so are to be its outputs.
  bare = model.description._replace(standardization=None, target_standardization=None)
  own = rates[kept]
  with np.errstate(all="ignore"):
    outputs = Model(bare, model.params).outputs(dataset.x_test)
    name = "test accuracy" if dataset.is_classification else "test loss"
    spread = spread_of(own.scores)
    loss = float(losses_of(dataset, model, outputs).mean())
    longest = "of the member that ran longest"
    tiles = [
      *score_tiles(*in_own_units(dataset, outputs)),
      Tile("test loss", measured(loss), "of all members together"),
      Tile("members", counted(result.size), f"{name} {between(spread)}"),
      Tile("steps", counted(int(result.steps.max())), longest),
      *cost_tiles(result, len(result.checks)),
    ]
    return render(
      told, dataset, model, outputs,
      tiles=tiles,
      ending=ending_of(result, rates, kept),
      is_well=result.checks_ok and "diverged" not in result.stop_reasons,
      curves=drawn(curves_of(result, own, name, dataset.is_classification)),
      members=members_of(result, own, told.seed, name),
      more_members=max(0, result.size - MOST_MEMBERS),
      rates=rates_of(rates, name, dataset.is_classification) if len(rates) > 1 else None,
    )  # fmt: skip


def between(spread: Spread) -> str:
  """A mean and a deviation in words."""
  return f"{measured(spread.mean).text} ± {measured(spread.deviation).text}"


def ending_of(result: EnsembleResult, rates: Sequence[RateScores], kept: int) -> str:
  """How the members ended, which are kept, and the gradient checks if they disagreed."""
  counts = Counter(result.stop_reasons).most_common()
  ways = ", ".join(f"{count:,} {how(reason)}" for reason, count in counts)
  word = "networks" if result.size > 1 else "network"
  sentences = [f"{result.size:,} {word} of rate {rates[kept].rate:g}: {ways}."]
  if len(rates) > 1:
    measure = "had the lowest mean training loss" if result.best is None else (
      "had the best mean validation score"
    )  # fmt: skip
    sentences.append(f"Of {len(rates)} rates it is kept, as its members {measure}.")
  if result.best is not None:
    sentences.append("Each member keeps the parameters of its own best epoch.")
  diverged = [k for k, reason in enumerate(result.stop_reasons) if reason == "diverged"]
  if diverged:
    k = min(diverged, key=lambda k: int(result.steps[k]))
    sentences.append(
      f"The first that diverged is member {k}, at step {result.steps[k] + 1:,}; first not finite: "
      f"{result.diverged_at[k]}."
    )
  sentences += wrong_gradient([(found.step, found.check) for found in result.checks])
  return " ".join(sentences)


def how(reason: str) -> str:
  """A stop reason as the end of a sentence."""
  return reason if reason in ("diverged", "interrupted") else f"stopped by {reason}"


def curves_of(result: EnsembleResult, own: RateScores, name: str, is_good: bool) -> list[Panel]:
  """How the members went, and what they came to."""
  ranks = partial(
    draw_ranks, scores=own.scores, together=own.together, name=name, is_good=is_good
  )  # fmt: skip
  return [
    Panel(
      "Loss of the members over the steps",
      "Thin: the mean loss of the members' batches at each step. With dots: means over the "
      "members, of their losses since the evaluation before and of the test examples; the bands "
      "are from the least to the largest member.",
      partial(draw_spread, result=result),
    ),
    Panel(
      "Scores of the members",
      f"The {name} of each member, and of all of them together: of the mean of what they say.",
      ranks,
    ),
  ]


def rates_of(rates: Sequence[RateScores], name: str, is_good: bool) -> Table:
  """A row for each rate."""
  rows = []
  for row in rates:
    spread = spread_of(row.scores)
    ends = (spread.most, spread.least) if is_good else (spread.least, spread.most)
    numbers = map(measured, (spread.mean, spread.deviation, *ends, row.together))
    rows.append((Number(f"{row.rate:g}"), *numbers))
  return Table(("rate", f"{name}, mean", "deviation", "best", "worst", "together"), rows)


def members_of(result: EnsembleResult, own: RateScores, seed: int, name: str) -> Table:
  """A row for each member, up to `MOST_MEMBERS`."""
  heads, rows = ["seed", "steps", "ended by", name], []
  if result.best is not None:
    heads += ["kept step", "validation"]
  if any(result.diverged_at):
    heads.append("first not finite")
  for k in range(min(result.size, MOST_MEMBERS)):
    row: list[str | Number] = [
      Number(str(seed + k)), counted(int(result.steps[k])), result.stop_reasons[k],
      measured(float(own.scores[k])),
    ]  # fmt: skip
    if result.best is not None:
      score = float(result.best.scores[k])
      row.append(counted(int(result.best.steps[k])))
      row.append(measured(score if np.isfinite(score) else None))
    if any(result.diverged_at):
      row.append(result.diverged_at[k] or "–")
    rows.append(row)
  return Table(heads, rows)
