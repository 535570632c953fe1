"""Examples set aside from the training ones: scored after each epoch, and the best are kept."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import example_count
from fbackprop.extras import need
from fbackprop.meshes import take_rows
from fbackprop.train.examples import check_examples, holds_labels
from fbackprop.train.step import Batch
from fbackprop.train.stop_rules import StopRules
from fbackprop.types import Array, Layer, Loss, Params, at_least_float32, exportable


@exportable
class Best(NamedTuple):
  """The parameters of the best score so far, in the loop.

  Attributes:
    badness: minus the score, infinite before the first, `[]`.
    step: steps taken to get there, `[]`.
    params: the parameters.
    latest: minus the score of the last epoch, NaN before the first, `[]`.
  """

  badness: Array
  step: Array
  params: Params
  latest: Array


def start_best(params: Params, dtype: jnp.dtype) -> Best:
  """Before the first epoch; the arrays are copies, since a loop's are donated."""
  dtype = at_least_float32(dtype)
  return Best(
    jnp.asarray(jnp.inf, dtype),
    jnp.zeros((), jnp.int32),
    jax.tree.map(jnp.copy, params),
    jnp.asarray(jnp.nan, dtype),
  )


def make_look(
  net: Layer, loss: Loss, validation: Batch
) -> Callable[[Best, Params, Array, Array, Array], Best]:
  """Builds `look(best, params, step, epoch_ends, counts) -> best`: at the end of an epoch, a score.

  It is forgotten where it doesn't count: of an ensemble, whose members look together, for those
  whose step wasn't taken.
  """
  measure = make_badness(net, loss)

  def look(best: Best, params: Params, step: Array, epoch_ends: Array, counts: Array) -> Best:
    def score() -> Best:
      badness = measure(params, validation).astype(best.badness.dtype)
      is_better = counts & (badness < best.badness)

      def better(new: Array, old: Array) -> Array:
        return jnp.where(is_better, new, old)

      kept = jax.tree.map(better, params, best.params)
      latest = jnp.where(counts, badness, best.latest)
      return Best(better(badness, best.badness), better(step, best.step), kept, latest)

    def keep() -> Best:
      return best

    looked: Best = jax.lax.cond(epoch_ends, score, keep)
    return looked

  return look


def make_badness(net: Layer, loss: Loss) -> Callable[[Params, Batch], Array]:
  """Builds the function that is to be small: minus the accuracy of labels, else the mean loss.

  Both are means by the examples' weights, if they have any.
  """

  def badness(params: Params, batch: Batch) -> Array:
    outputs = net.forward(params, batch.x)[0]
    if holds_labels(batch.targets):
      values = -(outputs.argmax(1) == batch.targets).astype(at_least_float32(outputs.dtype))
    else:
      values = loss.forward(outputs, batch.targets)[0]
    return values.mean() if batch.weights is None else jnp.average(values, weights=batch.weights)

  return badness


def watched_examples(stop: StopRules, validation: Any, net: Layer, loss: Loss) -> Batch | None:
  """The examples that were given to be scored after each epoch.

  Raises:
    ValueError: a fraction is to be set aside for that, too, or they can't be used.
    TypeError: they are no examples.
  """
  if validation is None:
    return None
  if stop.validation_fraction is not None:
    raise ValueError("either validation or stop.validation_fraction may be given, got both")
  return check_examples("validation", validation, net, loss)


def size_aside(n: int, labels: np.ndarray | None, fraction: float) -> int:
  """How many examples are set aside, rounded up to whole ones.

  Args:
    n: examples there are.
    labels: theirs, `[N]`; None if the targets are others.
    fraction: of them.

  Raises:
    ValueError: a part has fewer than there are classes, or a class is there once only.
  """
  aside = math.ceil(fraction * n)
  counts = np.array([n]) if labels is None else np.unique(labels, return_counts=True)[1]
  if min(aside, n - aside) < len(counts) or counts.min() < 2:
    classes = f"{len(counts)} examples, and each class two in all"
    needed = "one" if labels is None else classes
    raise ValueError(
      f"stop.validation_fraction of {fraction:g} divides {n} examples into {n - aside} and "
      f"{aside}; each part needs {needed}"
    )
  return aside


def rows_aside(
  n: int, labels: np.ndarray | None, fraction: float, key: Array
) -> tuple[np.ndarray, np.ndarray]:
  """Divides examples, each class in the same share, by scikit-learn's own split.

  Args:
    n: examples there are.
    labels: theirs, `[N]`; None if the targets are others.
    fraction: what is set aside.
    key: that of the run.

  Returns:
    The rows to train on, and those that are set aside.

  Raises:
    ValueError: they can't be divided so.
    ModuleNotFoundError: scikit-learn isn't there; the message names the extra.
  """
  model_selection = need("sklearn.model_selection", extra="data")
  own_key = jax.random.fold_in(jax.random.split(key)[1], 2**32 - 1)  # No epoch has this number.
  parts = model_selection.train_test_split(
    np.arange(n),
    test_size=size_aside(n, labels, fraction),
    stratify=labels,
    random_state=int(jax.random.bits(own_key, dtype=jnp.uint32)),
  )
  return parts[0], parts[1]


def set_aside(examples: Batch, fraction: float, key: Array) -> tuple[Batch, Batch]:
  """The two parts of a run's examples; see `rows_aside`.

  Raises:
    ValueError: they can't be divided so; those of a part have no weight.
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
