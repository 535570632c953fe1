"""The first lines of a run's page: what it came to, and why it ended."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fbackprop.train.data.datasets import Dataset
from fbackprop.train.metrics import accuracy, r_squared, root_mean_square
from fbackprop.train.report.cells import Number, counted, measured
from fbackprop.train.results import Result
from fbackprop.verify.live import LiveCheck


class Tile(NamedTuple):
  """A number at the head of the page, what it is, and what more there is to say."""

  label: str
  number: Number
  note: str


def tiles_of(result: Result, dataset: Dataset, outputs: np.ndarray) -> list[Tile]:
  """The numbers that are asked for first.

  Args:
    result: the run.
    dataset: in units of its own.
    outputs: of the network for the test examples: logits, or values in these units.
  """
  last = result.evaluations[-1]
  kept = last if result.best is None else result.best
  return [
    *score_tiles(dataset, outputs),
    Tile("test loss", measured(kept.test_loss), training_of(result)),
    Tile("steps", counted(result.steps), f"{last.epoch:.1f} passes over the data"),
    *cost_tiles(result, len(result.checks)),
  ]


def score_tiles(dataset: Dataset, outputs: np.ndarray) -> list[Tile]:
  """How good the outputs for the test examples are."""
  true = dataset.targets_test
  if dataset.task == "regression":
    return [
      Tile("R²", measured(r_squared(outputs, true)), "1 is perfect, 0 is no better than the mean"),
      Tile("RMSE", measured(root_mean_square(outputs - true)), "in the units of the data"),
    ]
  share = Number(f"{100 * accuracy(outputs, true):.2f} %")
  labels = "" if dataset.is_classification else f" × {number_of(dataset.outputs, 'labels')}"
  return [Tile("test accuracy", share, f"of {len(true):,} test examples{labels} are right")]


def cost_tiles(result: Any, checks: int) -> list[Tile]:
  """Time, and the worst of so many gradient checks; of a `Result` or an `EnsembleResult`."""
  error = result.gradient_check_max_rel_error
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
  """The training loss beside that of the test, and when, if the two are of different moments."""
  text = measured(result.evaluations[-1].train_loss).text
  if result.best is None or result.best.step == result.steps:
    return f"training {text}"
  return f"of step {result.best.step:,}; training {text} at the end"


def ending_of(result: Result) -> str:
  """Why the run ended, in a sentence, what is kept, and the gradient checks if they disagreed."""
  steps = f"step {result.steps:,}"
  judged = "loss had stopped falling" if result.best is None else "score had stopped rising"
  words = {
    "max_steps": f"Stopped by max_steps: all {result.steps:,} steps were taken.",
    "max_epochs": f"Stopped by max_epochs at {steps}: all epochs were gone through.",
    "loss_below": f"Stopped by loss_below at {steps}: the mean loss of an epoch came down to it.",
    "tol": f"Stopped by tol at {steps}: the {judged}.",
    "max_seconds": f"Stopped by max_seconds at {steps}: the time was over.",
    "interrupted": f"Interrupted at {steps}; the parameters are those of that step.",
    "diverged": f"Diverged at step {result.steps + 1:,}; first not finite: {result.diverged_at}. "
    f"The parameters are the last good ones, of {steps}.",
  }
  sentences = [words[result.stop_reason]]
  if result.best is not None:
    sentences.append(
      f"Kept are the parameters of step {result.best.step:,}, whose validation score is the best: "
      f"{result.best.score:.4g}."
    )
  sentences += wrong_gradient(result.checks)
  return " ".join(sentences)


def wrong_gradient(checks: Iterable[tuple[int, LiveCheck]]) -> list[str]:
  """A sentence on the first check that failed, if one did."""
  wrong = [(step, check) for step, check in checks if not check.ok]
  return [
    f"The gradient of {check.leaf} differed from jax.grad by {check.rel_error:.1e} at step "
    f"{step:,}."
    for step, check in wrong[:1]
  ]


def about(dataset: Dataset, aside: int = 0) -> str:
  """The data in a sentence; of the training examples so many were set aside."""
  kind = {"classification": "classes", "multilabel": "labels", "regression": "values"}[dataset.task]
  numbers = (
    f"{len(dataset.x) - aside:,} training, {aside:,} validation"
    if aside
    else f"{len(dataset.x):,} training"
  )
  words = [
    f"{dataset.name}: {numbers} and {len(dataset.x_test):,} test examples",
    number_of(dataset.x.shape[1], "features"),
    number_of(dataset.outputs, kind),
  ]
  if dataset.standardization is not None:
    words[1] += ", standardised by the training part"
  if dataset.inferred:
    words.append(f"{dataset.task}, as {dataset.inferred}")
  return "; ".join(words)


def number_of(count: int, things: str) -> str:
  """So many things, or one."""
  return f"{count:,} {things if count != 1 else things.removesuffix('s')}"
