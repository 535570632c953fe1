"""Label smoothing, class weights and sample weights, as the targets and weights of a `Batch`.

Label smoothing and class weights modify the targets, and the loss stays the plain one of the task:
with t' = (1 − α) t + α/C and w_c t'_c for a row of targets, softmax cross-entropy is
`softmax_cross_entropy_with(label_smoothing=α, class_weights=w)`. The test set keeps its labels and
is scored by the plain loss, so that runs with and without these options are comparable.
"""

import jax.numpy as jnp
import numpy as np

from fbackprop.errors import RangeError
from fbackprop.ranges import check_in_range
from fbackprop.train.data.rows import Dataset
from fbackprop.train.limits import ClassWeights, check_class_weights
from fbackprop.train.step import Batch


def training_batch(
  dataset: Dataset, *, label_smoothing: float = 0.0, class_weights: ClassWeights = "none"
) -> Batch:
  """Build the training examples, as `fit` takes them.

  Args:
    dataset: the data.
    label_smoothing: α, 0 ≤ α < 1. For labels: t' = (1 − α) t + α/C; for several labels at once,
      each of which is binary: t' = (1 − α) t + α/2.
    class_weights: w_c, which multiplies the loss of examples of class c, for each class in the
      order of `dataset.output_names`; "balanced" for n / (C · n_c), whose mean over the examples is
      1. The mean loss is over the examples, and isn't divided by their class weights.

  Returns:
    The `Batch`, with `dataset.weights`.

  Raises:
    ValueError: the task doesn't support the option, or the number of weights differs from that of
      the classes. The attribute `argument` names the option.

  References:
    Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section
    7; King, Zeng, "Logistic regression in rare events data", Political Analysis 9 (2001), for the
    balanced weights, as in `sklearn.utils.class_weight.compute_class_weight`.
  """
  check_in_range("", "label_smoothing", label_smoothing)
  check_class_weights(class_weights)
  targets = dataset.targets
  if label_smoothing:
    if dataset.task == "regression":
      raise RangeError("needs labels, and this is a regression", "label_smoothing")
    choices = dataset.outputs if dataset.is_classification else 2
    targets = (1 - label_smoothing) * as_rows(dataset) + label_smoothing / choices
  if not isinstance(class_weights, str) or class_weights != "none":
    if not dataset.is_classification:
      problem = f"needs a classification, and this is a {dataset.task}"
      raise RangeError(problem, "class_weights")
    rows = targets if targets.ndim == 2 else as_rows(dataset)
    targets = weights_of_classes(dataset, class_weights) * rows
  if targets.ndim == 2:
    targets = targets.astype(np.float32)
  weights = None if dataset.weights is None else jnp.asarray(dataset.weights)
  return Batch(jnp.asarray(dataset.x), jnp.asarray(targets), weights)


def as_rows(dataset: Dataset) -> np.ndarray:
  """Return the targets as probabilities `[N, C]`, in float64."""
  if not dataset.is_classification:
    return dataset.targets.astype(np.float64)
  rows: np.ndarray = np.eye(dataset.outputs)[dataset.targets]
  return rows


def weights_of_classes(dataset: Dataset, class_weights: ClassWeights) -> np.ndarray:
  """Return the weight of each class, `[1, C]`, in float64."""
  if isinstance(class_weights, str):
    return balanced_weights(dataset.targets, dataset.outputs)[None, :]
  if len(class_weights) != dataset.outputs:
    names = ", ".join(dataset.output_names[:8]) + (", ..." if dataset.outputs > 8 else "")
    problem = f"must be {dataset.outputs} numbers, for {names}, got {len(class_weights)}"
    raise RangeError(problem, "class_weights")
  return np.asarray(class_weights, np.float64)[None, :]


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
  """Compute n / (C · n_c) for each class, `[classes]`, which equalises the classes' total weights.

  A class without examples has weight 0 and isn't counted in C.
  """
  counts = np.bincount(labels, minlength=classes)
  present = counts > 0
  return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)
