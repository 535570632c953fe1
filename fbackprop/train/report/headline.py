"""The head of a page: the data, the stop reason, and the most important numbers.

To add a number, add a `Tile` to `tiles_of` or `ensemble_tiles_of`, or to what both share.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fbackprop.live_check import LiveCheck
from fbackprop.train.data.rows import Dataset
from fbackprop.train.ensembles import EnsembleResult, spread_of
from fbackprop.train.metrics import accuracy, r_squared, root_mean_square
from fbackprop.train.report.members import RateScores
from fbackprop.train.report.tables import Number, counted, measured
from fbackprop.train.results import Result


class Tile(NamedTuple):
  """A number at the head of the page: its name, its value, and a note."""

  label: str
  number: Number
  note: str


def tiles_of(result: Result, dataset: Dataset, outputs: np.ndarray) -> list[Tile]:
  """Return the most important numbers of a run.

  Args:
    result: the result of the run.
    dataset: the data, in its own units.
    outputs: the network's outputs for the test set: logits, or values in these units.
  """
  last = result.evaluations[-1]
  kept = last if result.best is None else result.best
  return [
    *score_tiles(dataset, outputs),
    Tile("test loss", measured(kept.test_loss), training_of(result)),
    Tile("steps", counted(result.steps), f"{last.epoch:.1f} passes over the data"),
    *cost_tiles(result),
  ]


def ensemble_tiles_of(
  result: EnsembleResult, dataset: Dataset, outputs: np.ndarray, own: RateScores, loss: float
) -> list[Tile]:
  """Return the most important numbers of an ensemble; `loss` is its mean test loss."""
  spread = spread_of(own.scores)
  between = f"{measured(spread.mean).text} ± {measured(spread.deviation).text}"
  return [
    *score_tiles(dataset, outputs),
    Tile("test loss", measured(loss), "of all members together"),
    Tile("members", counted(result.size), f"{score_name(dataset)} {between}"),
    Tile("steps", counted(int(result.steps.max())), "of the member that ran longest"),
    *cost_tiles(result),
  ]


def score_name(dataset: Dataset) -> str:
  """Return the name of the score by which members are compared."""
  return "test accuracy" if dataset.is_classification else "test loss"


def score_tiles(dataset: Dataset, outputs: np.ndarray) -> list[Tile]:
  """Return the scores of the outputs for the test set."""
  true = dataset.targets_test
  if dataset.task == "regression":
    return [
      Tile("R²", measured(r_squared(outputs, true)), "1 is perfect, 0 is no better than the mean"),
      Tile("RMSE", measured(root_mean_square(outputs - true)), "in the units of the data"),
    ]
  share = Number(f"{100 * accuracy(outputs, true):.2f} %")
  labels = "" if dataset.is_classification else f" × {number_of(dataset.outputs, 'labels')}"
  return [Tile("test accuracy", share, f"of {len(true):,} test examples{labels} are right")]


def cost_tiles(result: Result | EnsembleResult) -> list[Tile]:
  """Return the time of a run, and its largest gradient error."""
  error, checks = result.gradient_check_max_rel_error, len(result.checks)
  worst = measured(error) if error is None or not np.isfinite(error) else Number(f"{error:.1e}")
  seconds = (
    f"{result.check_seconds:.1f} of them checks; {result.compile_seconds:.1f} more to compile"
  )
  checked = f"worst of {checks} against jax.grad" if checks else "not checked"
  return [
    Tile("seconds", Number(f"{result.seconds:,.1f}"), seconds),
    Tile("gradient error", worst, checked),
  ]


def training_of(result: Result) -> str:
  """Describe the training loss, and the step of the test loss if it is another one."""
  text = measured(result.evaluations[-1].train_loss).text
  if result.best is None or result.best.step == result.steps:
    return f"training {text}"
  return f"of step {result.best.step:,}; training {text} at the end"


def ending_of(result: Result) -> str:
  """Describe why a run ended, which parameters are kept, and the first failed gradient check."""
  steps = f"step {result.steps:,}"
  judged = "loss had stopped falling" if result.best is None else "score had stopped rising"
  words = {
    "max_steps": f"Stopped by max_steps: all {result.steps:,} steps were taken.",
    "max_epochs": f"Stopped by max_epochs at {steps}: all epochs were completed.",
    "loss_below": f"Stopped by loss_below at {steps}: the mean loss of an epoch reached it.",
    "tol": f"Stopped by tol at {steps}: the {judged}.",
    "max_seconds": f"Stopped by max_seconds at {steps}: the time was over.",
    "interrupted": f"Interrupted at {steps}; the parameters are those of that step.",
    "diverged": f"Diverged at step {result.steps + 1:,}; first not finite: {result.diverged_at}. "
    f"The parameters are the last good ones, of {steps}.",
  }
  sentences = [words[result.stop_reason]]
  if result.best is not None:
    sentences.append(
      f"The parameters are those of step {result.best.step:,}, of the best validation score, "
      f"{result.best.score:.4g}."
    )
  return " ".join([*sentences, *wrong_gradient(result.checks)])


def ensemble_ending_of(result: EnsembleResult, rates: Sequence[RateScores], kept: int) -> str:
  """Describe how the members ended, which are kept, and the first failed gradient check."""
  ways = ", ".join(
    f"{count:,} {reason if reason in ('diverged', 'interrupted') else f'stopped by {reason}'}"
    for reason, count in Counter(result.stop_reasons).most_common()
  )
  size, rate = number_of(result.size, "networks"), rates[kept].rate
  sentences = [f"{size} with learning rate {rate:g}: {ways}."]
  if len(rates) > 1:
    measure = "lowest mean training loss" if result.best is None else "best mean validation score"
    sentences.append(f"Of {len(rates)} rates this is the one with the {measure}.")
  if result.best is not None:
    sentences.append("Each member keeps the parameters of its own best epoch.")
  diverged = [k for k, reason in enumerate(result.stop_reasons) if reason == "diverged"]
  if diverged:
    k = min(diverged, key=lambda k: int(result.steps[k]))
    sentences.append(
      f"The first that diverged is member {k}, at step {result.steps[k] + 1:,}; first not finite: "
      f"{result.diverged_at[k]}."
    )
  checks = [(found.step, found.check) for found in result.checks]
  return " ".join([*sentences, *wrong_gradient(checks)])


def wrong_gradient(checks: Iterable[tuple[int, LiveCheck]]) -> list[str]:
  """Describe the first failed gradient check, if any."""
  wrong = [(step, check) for step, check in checks if not check.ok]
  return [
    f"The gradient of {check.leaf} differed from jax.grad by {check.rel_error:.1e} at step "
    f"{step:,}."
    for step, check in wrong[:1]
  ]


def about(dataset: Dataset, n_validation: int = 0) -> str:
  """Describe the data in a sentence; `n_validation` is the size of the validation set."""
  kind = {"classification": "classes", "multilabel": "labels", "regression": "values"}[dataset.task]
  validation = f" {n_validation:,} validation" if n_validation else ""
  training = f"{len(dataset.x) - n_validation:,} training{',' if validation else ''}{validation}"
  words = [
    f"{dataset.name}: {training} and {len(dataset.x_test):,} test examples",
    number_of(dataset.x.shape[1], "features"),
    number_of(dataset.outputs, kind),
  ]
  if dataset.standardization is not None:
    words[1] += ", standardised by the training part"
  if dataset.inferred:
    words.append(f"{dataset.task}, as {dataset.inferred}")
  return "; ".join(words)


def number_of(count: int, things: str) -> str:
  """Format a number of things, in the singular or plural."""
  return f"{count:,} {things if count != 1 else things.removesuffix('s')}"
