"""The head of a page: the data, the stop reason, and the most important numbers.

To add a number, add a `Tile` to `tiles_of` or `ensemble_tiles_of`, or to `tiles_with` for both.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fbackprop.live_check import LiveCheck
from fbackprop.train.data.rows import Dataset
from fbackprop.train.ensembles import EnsembleResult
from fbackprop.train.metrics import spread_of
from fbackprop.train.report.tables import Number, RateScores, counted, measured
from fbackprop.train.results import Result
from fbackprop.train.scores import accuracy, r_squared, root_mean_square


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
  return tiles_with(result, dataset, outputs, [
    Tile("test loss", measured(kept.test_loss), training_of(result)),
    Tile("steps", counted(result.steps), f"{last.epoch:.1f} passes over the data"),
  ])  # fmt: skip


def ensemble_tiles_of(
  result: EnsembleResult, dataset: Dataset, outputs: np.ndarray, own: RateScores, loss: float
) -> list[Tile]:
  """Return the most important numbers of an ensemble; `loss` is its mean test loss."""
  mean, deviation, *_ = map(measured, spread_of(own.scores))
  scores = f"{score_name(dataset)} {mean.text} ± {deviation.text}"
  return tiles_with(result, dataset, outputs, [
    Tile("test loss", measured(loss), "of all members together"),
    Tile("members", counted(result.size), scores),
    Tile("steps", counted(int(result.steps.max())), "of the member that ran longest"),
  ])  # fmt: skip


def tiles_with(
  result: Result | EnsembleResult, dataset: Dataset, outputs: np.ndarray, course: list[Tile]
) -> list[Tile]:
  """Return the test scores, some tiles, and the time of a run with its largest gradient error."""
  true = dataset.targets_test
  if dataset.task == "regression":
    r2, rmse = r_squared(outputs, true), root_mean_square(outputs - true)
    scores = [
      Tile("R²", measured(r2), "1 is perfect, 0 is no better than the mean"),
      Tile("RMSE", measured(rmse), "in the units of the data"),
    ]
  else:
    share = Number(f"{100 * accuracy(outputs, true):.2f} %")
    labels = "" if dataset.is_classification else f" × {number_of(dataset.outputs, 'labels')}"
    scores = [Tile("test accuracy", share, f"of {len(true):,} test examples{labels} are right")]
  error, checks = result.gradient_check_max_rel_error, len(result.checks)
  worst = measured(error) if error is None or not np.isfinite(error) else Number(f"{error:.1e}")
  spent = f"{result.check_seconds:.1f} of them checks; {result.compile_seconds:.1f} more to compile"
  checked = f"worst of {checks} against jax.grad" if checks else "not checked"
  return [
    *scores, *course,
    Tile("seconds", Number(f"{result.seconds:,.1f}"), spent),
    Tile("gradient error", worst, checked),
  ]  # fmt: skip


def score_name(dataset: Dataset) -> str:
  """Return the name of the score by which members are compared."""
  return "test accuracy" if dataset.is_classification else "test loss"


def training_of(result: Result) -> str:
  """Describe the training loss, and the step of the test loss if it is another one."""
  text = measured(result.evaluations[-1].train_loss).text
  if result.best is None or result.best.step == result.steps:
    return f"training {text}"
  return f"of step {result.best.step:,}; training {text} at the end"


def ending_of(result: Result) -> str:
  """Describe why a run ended, which parameters are kept, and the first failed gradient check."""
  steps, best = f"step {result.steps:,}", result.best
  judged = "loss had stopped falling" if best is None else "score had stopped rising"
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
  ending = words.get(result.stop_reason, f"Stopped by {result.stop_reason} at {steps}.")
  if best is not None:
    of_best = f"of step {best.step:,}, of the best validation score, {best.score:.4g}."
    ending += f" The parameters are those {of_best}"
  return ending + wrong_gradient(result.checks)


def ensemble_ending_of(result: EnsembleResult, rates: Sequence[RateScores], kept: int) -> str:
  """Describe how the members ended, which are kept, and the first failed gradient check."""
  ways = ", ".join(
    f"{count:,} {reason if reason in ('diverged', 'interrupted') else f'stopped by {reason}'}"
    for reason, count in Counter(result.stop_reasons).most_common()
  )
  size, rate = number_of(result.size, "networks"), rates[kept].rate
  ending = f"{size} with learning rate {rate:g}: {ways}."
  if len(rates) > 1:
    measure = "lowest mean training loss" if result.best is None else "best mean validation score"
    ending += f" Of {len(rates)} rates this is the one with the {measure}."
  if result.best is not None:
    ending += " Each member keeps the parameters of its own best epoch."
  diverged = [k for k, reason in enumerate(result.stop_reasons) if reason == "diverged"]
  if diverged:
    k = min(diverged, key=lambda k: int(result.steps[k]))
    step, place = f"step {result.steps[k] + 1:,}", result.diverged_at[k]
    ending += f" The first that diverged is member {k}, at {step}; first not finite: {place}."
  return ending + wrong_gradient([(found.step, found.check) for found in result.checks])


def wrong_gradient(checks: Iterable[tuple[int, LiveCheck]]) -> str:
  """Describe the first failed gradient check, if any."""
  for step, check in checks:
    if not check.ok:
      error = f"{check.rel_error:.1e} at step {step:,}"
      return f" The gradient of {check.leaf} differed from jax.grad by {error}."
  return ""


def about(dataset: Dataset, n_validation: int = 0) -> str:
  """Describe the data in a sentence; `n_validation` is the size of the validation set."""
  kind = {"classification": "classes", "multilabel": "labels", "regression": "values"}[dataset.task]
  validation = f" {n_validation:,} validation" if n_validation else ""
  training = f"{len(dataset.x) - n_validation:,} training{',' if validation else ''}{validation}"
  features = number_of(dataset.x.shape[1], "features")
  if dataset.standardization is not None:
    features += ", standardised by the training part"
  examples = f"{dataset.name}: {training} and {len(dataset.x_test):,} test examples"
  inferred = [f"{dataset.task}, as {dataset.inferred}"] if dataset.inferred else []
  return "; ".join([examples, features, number_of(dataset.outputs, kind), *inferred])


def number_of(count: int, things: str) -> str:
  """Format a number of things, in the singular or plural."""
  return f"{count:,} {things if count != 1 else things.removesuffix('s')}"
