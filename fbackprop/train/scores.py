"""Scores of a model on labelled data.

Without scikit-learn, whose import takes a second: its `r2_score` and `accuracy_score` return other
numbers where a target is constant, an output isn't finite, or there are several labels.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fbackprop.train.data.datasets import read_source
from fbackprop.train.data.names import MissingTargets
from fbackprop.train.data.targets import relabel
from fbackprop.train.models import Description, Model


def score(model: Model, x: np.ndarray, targets: np.ndarray) -> dict[str, float]:
  """Score a model.

  Args:
    model: the model.
    x: raw features, `[N, D]`, N at least 1.
    targets: labels `[N]` or raw values `[N, C]`.

  Returns:
    Scores by name. For labels: mean loss and accuracy; for several labels at once: mean loss and
    the fraction of the N·C labels that are predicted right; for values: R² and the root mean
    squared error over all of them, in the units of the data.
  """
  outputs = model.outputs(x)
  if model.description.task == "regression":
    return {"r2": r_squared(outputs, targets), "rmse": root_mean_square(outputs - targets)}
  known = targets if targets.ndim == 1 else targets.astype(outputs.dtype)
  losses = model.description.loss.forward(jnp.asarray(outputs), jnp.asarray(known))[0]
  return {"loss": float(losses.mean()), "accuracy": accuracy(outputs, targets)}


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
  """Compute the accuracy: of labels `[N]`, or over all of several labels `[N, C]`."""
  is_labelled = targets.ndim == 1
  is_right = outputs.argmax(1) == targets if is_labelled else (outputs > 0) == (targets > 0.5)
  return float(is_right.mean())


def count_pairs(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
  """Count how often each class, by row, was taken for which, by column, `[classes, classes]`."""
  return np.bincount(classes * labels + predicted, minlength=classes**2).reshape(classes, classes)


def r_squared(outputs: np.ndarray, targets: np.ndarray) -> float:
  """Compute R² over all columns; NaN for targets without variance."""
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
) -> tuple[np.ndarray, np.ndarray]:
  """Read raw rows, with labels renumbered as the model's.

  Args:
    data: name of the data, as on the command line; a source with a test part yields that part.
    description: the model's description.
    target: for a file, the target columns or array of the training.
    seed: seed of synthetic data.
    missing_targets: as of `load_dataset`.

  Returns:
    (x `[N, D]`, targets).

  Raises:
    ValueError: the data doesn't fit the model; the message says how.
    OSError: a file can't be read.
  """
  found = read_source(
    data, seed, target=target, task=description.task, missing_targets=missing_targets,
    features=description.features,
  )  # fmt: skip
  if found.task != description.task:
    raise ValueError(f"{data} is a {found.task}, the model's is a {description.task}")
  x, targets = (found.x_test, found.targets_test) if len(found.x_test) else (found.x, found.targets)
  known = len(description.features)
  if x.shape[1] != known:
    raise ValueError(f"{data} has {x.shape[1]} features, the model was trained on {known}")
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
