"""The validation set: split from the training set, scored after each epoch; the best is kept."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import example_count
from fbackprop.errors import RangeError
from fbackprop.extras import need
from fbackprop.meshes import take_rows
from fbackprop.train.examples import holds_labels
from fbackprop.train.step import Batch
from fbackprop.types import Array, Layer, Loss, Params, at_least_float32, exportable


@exportable
class Best(NamedTuple):
  """The parameters of the best validation score so far, carried by the loop.

  Attributes:
    validation_loss: minus the score, infinite before the first, `[]`.
    step: number of steps taken at that score, `[]`.
    params: the parameters.
    latest: minus the latest epoch's score, NaN before the first, `[]`.
  """

  validation_loss: Array
  step: Array
  params: Params
  latest: Array


EvaluateValidation = Callable[[Best, Params, Array, Array, Array], Best]


def start_best(params: Params, dtype: jnp.dtype) -> Best:
  """Build the initial record, of copied parameters, since a loop's arrays are donated."""
  worst, unknown = (jnp.asarray(value, at_least_float32(dtype)) for value in (jnp.inf, jnp.nan))
  return Best(worst, jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), unknown)


def make_evaluate_validation(net: Layer, loss: Loss, validation: Batch) -> EvaluateValidation:
  """Build `evaluate(best, params, step, epoch_ends, counts) -> best`.

  It scores the validation set if `epoch_ends`. The members of an ensemble are scored together;
  `counts` excludes those whose step wasn't taken.
  """

  def evaluate(best: Best, params: Params, step: Array, epoch_ends: Array, counts: Array) -> Best:
    def score() -> Best:
      value = validation_loss(net, loss, params, validation).astype(best.validation_loss.dtype)
      is_better = counts & (value < best.validation_loss)

      def better(new: Array, old: Array) -> Array:
        return jnp.where(is_better, new, old)

      kept = jax.tree.map(better, params, best.params)
      latest = jnp.where(counts, value, best.latest)
      return Best(better(value, best.validation_loss), better(step, best.step), kept, latest)

    updated: Best = jax.lax.cond(epoch_ends, score, lambda: best)
    return updated

  return evaluate


def validation_loss(net: Layer, loss: Loss, params: Params, batch: Batch) -> Array:
  """Compute the objective to minimise: minus the accuracy for labels, else the mean loss.

  Both are weighted means if the examples have weights.
  """
  outputs = net.forward(params, batch.x)[0]
  if holds_labels(batch.targets):
    values = -(outputs.argmax(1) == batch.targets).astype(at_least_float32(outputs.dtype))
  else:
    values = loss.forward(outputs, batch.targets)[0]
  return values.mean() if batch.weights is None else jnp.average(values, weights=batch.weights)


def size_aside(n: int, labels: np.ndarray | None, fraction: float) -> int:
  """Compute the size of the validation set, rounded up to whole examples.

  Args:
    n: number of examples.
    labels: their labels, `[N]`; None for other targets.
    fraction: fraction of the validation set.

  Raises:
    ValueError: a part has fewer examples than classes, or a class has a single example.
  """
  aside = math.ceil(fraction * n)
  counts = np.array([n]) if labels is None else np.unique(labels, return_counts=True)[1]
  if min(aside, n - aside) < len(counts) or counts.min() < 2:
    needed = f"{len(counts)} examples, and each class two in all" if labels is not None else "one"
    problem = f"of {fraction:g} divides {n} examples into {n - aside} and {aside}; each part needs "
    raise RangeError(problem + needed, "stop.validation_fraction")
  return aside


def rows_aside(
  n: int, labels: np.ndarray | None, fraction: float, key: Array
) -> tuple[np.ndarray, np.ndarray]:
  """Split examples, stratified by class, with scikit-learn.

  Args:
    n: number of examples.
    labels: their labels, `[N]`; None for other targets.
    fraction: fraction of the validation set.
    key: key of the run.

  Returns:
    The rows of the training set, and those of the validation set.

  Raises:
    ValueError: the examples can't be split so.
    ModuleNotFoundError: scikit-learn isn't installed; the message names the extra.
  """
  model_selection = need("sklearn.model_selection", extra="data")
  own_key = jax.random.fold_in(jax.random.split(key)[1], 2**32 - 1)  # Not the number of any epoch.
  seed = int(jax.random.bits(own_key, dtype=jnp.uint32))
  size = size_aside(n, labels, fraction)
  train, validation = model_selection.train_test_split(
    np.arange(n), test_size=size, stratify=labels, random_state=seed
  )
  return train, validation


def set_aside(examples: Batch, fraction: float, key: Array) -> tuple[Batch, Batch]:
  """Split a run's examples into training and validation set; see `rows_aside`.

  Raises:
    ValueError: the examples can't be split so; or those of a part have zero weight.
  """
  labels = np.asarray(examples.targets) if holds_labels(examples.targets) else None
  parts = rows_aside(example_count(examples.x), labels, fraction, key)
  train, validation = (take_rows(examples, rows) for rows in parts)
  for name, part in (("training", train), ("validation", validation)):
    if part.weights is not None and not np.asarray(part.weights).any():
      raise ValueError(
        f"stop.validation_fraction of {fraction:g}: the weights of the {name} part are all zero"
      )
  return train, validation
