"""Scores of a model on labelled data.

Without scikit-learn, whose import takes a second: its `r2_score` and `accuracy_score` return other
numbers where a target is constant, an output isn't finite, or there are several labels. Elsewhere
they are its numbers, to which the tests hold them.

References:
  ROC AUC as Mann and Whitney's U: Hanley, McNeil, "The meaning and use of the area under a receiver
  operating characteristic (ROC) curve", Radiology 143 (1982). Average precision and Brier score:
  scikit-learn's user guide, "Metrics and scoring"; Brier, "Verification of forecasts expressed in
  terms of probability", Monthly Weather Review 78 (1950).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from fbackprop.train.data.columns import Column
from fbackprop.train.data.datasets import read_source
from fbackprop.train.data.names import Decimal, MissingTargets, Separator, Task
from fbackprop.train.data.targets import relabel
from fbackprop.train.models import Description, Model

# The scores of a task, each with its key in summary.json, behind "test_".
KEYS = {
  "loss": "loss", "accuracy": "accuracy", "balanced": "balanced_accuracy", "ROC AUC": "roc_auc",
  "AP": "average_precision", "F1": "f1", "Brier": "brier", "r2": "r2", "rmse": "rmse", "mae": "mae",
}  # fmt: skip


def score(model: Model, x: np.ndarray, targets: np.ndarray) -> dict[str, float]:
  """Score a model.

  Args:
    model: the model.
    x: raw features, `[N, D]`, N at least 1.
    targets: labels `[N]` or raw values `[N, C]`.

  Returns:
    Scores by name; NaN where a score isn't defined. For labels: mean loss, which is the log loss,
    and the scores of `of_classes`; for several labels at once: mean loss and the scores of
    `of_labels`; for values: those of `of_values`, in the units of the data.
  """
  outputs = model.outputs(x)
  if model.description.task == "regression":
    return scores_of("regression", outputs, targets, None)
  known = targets if targets.ndim == 1 else targets.astype(outputs.dtype)
  losses = model.description.loss.forward(jnp.asarray(outputs), jnp.asarray(known))[0]
  own = scores_of(model.description.task, outputs, targets, model.probabilities(outputs))
  return {"loss": float(losses.mean()), **own}


def scores_of(
  task: Task, outputs: np.ndarray, targets: np.ndarray, probabilities: np.ndarray | None
) -> dict[str, float]:
  """Return all scores but the loss: of values without probabilities, else with them."""
  if task == "regression":
    return of_values(outputs, targets)
  assert probabilities is not None
  return (of_classes if task == "classification" else of_labels)(probabilities, outputs, targets)


def of_classes(
  probabilities: np.ndarray, outputs: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
  """Score the prediction of one class for each example, as scikit-learn does.

  | score | scikit-learn |
  |---|---|
  | accuracy | `accuracy_score` |
  | balanced | `balanced_accuracy_score`: the mean recall of the classes that occur |
  | ROC AUC | `roc_auc_score(multi_class="ovr")`: the mean over the classes, each against the others |
  | AP | `average_precision_score`, the mean over the classes |
  | F1 | `f1_score(average="macro")`, the mean over the classes that occur or are predicted |
  | Brier | `brier_score_loss`: Σ_c (p_c − y_c)² of an example, for two classes (p_1 − y_1)² |

  A class without any example, or with all of them, has no ROC AUC and no AP: it is left out.

  Args:
    probabilities: `[N, C]`.
    outputs: logits, `[N, C]`, the largest of which is the predicted class.
    labels: `[N]`.
  """  # noqa: E501
  classes = outputs.shape[1]
  counts = count_pairs(labels, outputs.argmax(1), classes)
  right, taken, support = counts.diagonal(), counts.sum(0), counts.sum(1)
  is_one = labels[:, None] == np.arange(classes)
  squares = ((probabilities.astype(np.float64) - is_one) ** 2).sum(1).mean()
  return {
    "accuracy": accuracy(outputs, labels),
    "balanced": mean_of(right, support),
    "ROC AUC": mean_known(map(roc_auc, probabilities.T, is_one.T)),
    "AP": mean_known(map(average_precision, probabilities.T, is_one.T)),
    "F1": mean_of(2 * right, taken + support),
    "Brier": float(squares / 2 if classes == 2 else squares),
  }


def of_labels(
  probabilities: np.ndarray, outputs: np.ndarray, targets: np.ndarray
) -> dict[str, float]:
  """Score several labels at once, `[N, C]`: the means over the labels, each by itself.

  Accuracy is that of all N·C labels, and F1 has only the labels that occur or are predicted.
  """
  is_one, found = targets > 0.5, outputs > 0
  return {
    "accuracy": accuracy(outputs, targets),
    "ROC AUC": mean_known(map(roc_auc, probabilities.T, is_one.T)),
    "AP": mean_known(map(average_precision, probabilities.T, is_one.T)),
    "F1": mean_of(2 * (is_one & found).sum(0), is_one.sum(0) + found.sum(0)),
    "Brier": float(((probabilities.astype(np.float64) - is_one) ** 2).mean()),
  }


def of_values(outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
  """Score values `[N, C]`: the means over the columns, scikit-learn's "uniform_average"."""
  rows = list(by_target(outputs, targets))
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def by_target(outputs: np.ndarray, targets: np.ndarray) -> Iterator[dict[str, float]]:
  """Yield R², root mean squared error and mean absolute error of each column of values."""
  for found, true in zip(outputs.T, targets.T, strict=True):
    error = (found - true).astype(np.float64)
    yield {
      "r2": r_squared(found, true), "rmse": root_mean_square(error),
      "mae": float(np.abs(error).mean()),
    }  # fmt: skip


def roc_auc(scores: np.ndarray, is_positive: np.ndarray) -> float:
  """Compute the area under the ROC curve; NaN unless there are positives and negatives.

  It is the share of the pairs of a positive and a negative in which the positive has the larger
  score, ties counting half: Mann and Whitney's U, from the mean ranks of equal scores.
  """
  positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
  if not (positives and negatives and np.isfinite(scores).all()):
    return float("nan")
  _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
  ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
  above = ranks[is_positive].sum() - positives * (positives + 1) / 2
  return float(above / (positives * negatives))


def average_precision(scores: np.ndarray, is_positive: np.ndarray) -> float:
  """Compute Σ (R_k − R_{k−1}) P_k over the distinct scores; NaN unless there are both kinds."""
  positives = int(is_positive.sum())
  if not (0 < positives < len(scores) and np.isfinite(scores).all()):
    return float("nan")
  _, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
  hits = np.bincount(place, is_positive)
  return float((hits / positives * (np.cumsum(hits) / np.cumsum(counts))).sum())


def probabilities_of(outputs: np.ndarray, *, is_single: bool) -> np.ndarray:
  """Compute probabilities `[N, C]` in float64: of one class each, or of each label by itself."""
  wide = outputs.astype(np.float64)
  if not is_single:
    return np.exp(-np.logaddexp(0.0, -wide))
  powers = np.exp(wide - wide.max(1, keepdims=True))
  return powers / powers.sum(1, keepdims=True)


def reliability(
  probabilities: np.ndarray, is_true: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Compare probabilities with frequencies, as scikit-learn's `calibration_curve` does.

  Args:
    probabilities: `[N]`.
    is_true: whether what was given the probability is so, `[N]`.
    bins: number of bins of equal width from 0 to 1.

  Returns:
    Of each bin that isn't empty: the mean probability, the share that is true, and the count.
  """
  edges = np.linspace(0.0, 1.0, bins + 1)
  place = np.searchsorted(edges[1:-1], probabilities)
  counts = np.bincount(place, minlength=bins)
  known = counts > 0
  sums = (np.bincount(place, weights, bins) for weights in (probabilities, is_true))
  means, shares = (total[known] / counts[known] for total in sums)
  return means, shares, counts[known]


def mean_of(parts: np.ndarray, wholes: np.ndarray) -> float:
  """Average the ratios whose whole isn't 0; NaN without any."""
  return mean_known((parts[wholes > 0] / wholes[wholes > 0]).tolist())


def mean_known(values: Iterable[float]) -> float:
  """Average the values that aren't NaN; NaN without any."""
  known = [value for value in values if not math.isnan(value)]
  return sum(known) / len(known) if known else float("nan")


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
  """Compute the accuracy: of labels `[N]`, or over all of several labels `[N, C]`."""
  is_labelled = targets.ndim == 1
  is_right = outputs.argmax(1) == targets if is_labelled else (outputs > 0) == (targets > 0.5)
  return float(is_right.mean())


def count_pairs(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
  """Count how often each class, by row, was taken for which, by column, `[classes, classes]`."""
  return np.bincount(classes * labels + predicted, minlength=classes**2).reshape(classes, classes)


def r_squared(outputs: np.ndarray, targets: np.ndarray) -> float:
  """Compute R² of a column, or over all of several; NaN for targets without variance."""
  error = (outputs - targets).astype(np.float64)
  around = targets - targets.mean(0, dtype=np.float64)
  variance = float((around**2).sum())
  return 1 - float((error**2).sum()) / variance if variance else float("nan")


def root_mean_square(values: np.ndarray) -> float:
  """Compute the root mean square, accumulated in float64."""
  return float(np.sqrt((values.astype(np.float64) ** 2).mean()))


def rows_of(
  data: str,
  description: Description,
  target: Sequence[str],
  seed: int,
  missing_targets: MissingTargets = "refuse",
  *,
  separator: Separator = "auto",
  decimal: Decimal = "auto",
) -> tuple[np.ndarray, np.ndarray]:
  """Read raw rows, with labels renumbered as the model's.

  Args:
    data: name of the data, as on the command line; a source with a test part yields that part.
    description: the model's description.
    target: for a file, the target columns or array of the training.
    seed: seed of synthetic data.
    missing_targets, separator, decimal: as of `load_dataset`.

  Returns:
    (x `[N, D]`, targets).

  Raises:
    ValueError: the data doesn't fit the model; the message says how.
    OSError: a file can't be read.
  """
  own, usual = description.encoding, cast(Any, description.decimal)
  known = tuple(Column(name, "complete") for name in description.features)
  found = read_source(
    data, seed, target=target, task=description.task, missing_targets=missing_targets,
    known=known if own is None else own.columns, usual=usual, separator=separator,
    decimal=decimal,
  )  # fmt: skip
  if found.task != description.task:
    raise ValueError(f"{data} is a {found.task}, the model's is a {description.task}")
  x, targets = (found.x_test, found.targets_test) if len(found.x_test) else (found.x, found.targets)
  width = len(description.features)
  if x.shape[1] != width:
    raise ValueError(f"{data} has {x.shape[1]} features, the model was trained on {width}")
  if found.is_classification:
    return x, own_labels(data, targets, found.output_names, description)
  if targets.shape[1] != len(description.outputs):
    given = f"{data} has {targets.shape[1]} values"
    raise ValueError(f"{given}, the model gives {len(description.outputs)}")
  return x, targets


def own_labels(
  data: str, labels: np.ndarray, names: Sequence[str], description: Description
) -> np.ndarray:
  """Renumber labels of the classes `names` as the model's; equal numbers are the same class.

  Raises:
    ValueError: a class is unknown to the model.
  """
  known = description.outputs
  said = f"the model knows {', '.join(known)}"
  return relabel(labels, names, known, lambda name: f"{data} has the label {name!r}; {said}")
