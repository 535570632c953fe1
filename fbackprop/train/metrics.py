"""How well a model does on rows with known targets."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fbackprop.train.data.datasets import examples_of
from fbackprop.train.data.names import MissingTargets, kind_and_path
from fbackprop.train.data.targets import places_of
from fbackprop.train.models import Description, Model


def score(model: Model, x: np.ndarray, targets: np.ndarray) -> dict[str, float]:
  """The numbers that say how well a model does.

  Args:
    model: the model.
    x: raw features, `[N, D]`, N at least 1.
    targets: labels `[N]` or raw values `[N, C]`.

  Returns:
    By name. Of labels: the mean loss and the accuracy; of several labels at once: the mean loss and
    the share of the N·C answers that are right; of values: R² and the root of the mean squared
    error, in the units of the data, over all of them.
  """
  outputs = model.outputs(x)
  if model.description.task == "regression":
    return {"r2": r_squared(outputs, targets), "rmse": root_mean_square(outputs - targets)}
  known = targets if targets.ndim == 1 else targets.astype(outputs.dtype)
  losses = model.description.loss.forward(jnp.asarray(outputs), jnp.asarray(known))[0]
  return {"loss": float(losses.mean()), "accuracy": accuracy(outputs, targets)}


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
  """How much is right: of labels `[N]` by the largest output, of several, `[N, C]`, by its sign."""
  is_labelled = targets.ndim == 1
  is_right = outputs.argmax(1) == targets if is_labelled else (outputs > 0) == (targets > 0.5)
  return float(is_right.mean())


def r_squared(outputs: np.ndarray, targets: np.ndarray) -> float:
  """How much of the targets' variance is explained, over all columns; NaN if they have none."""
  error = (outputs - targets).astype(np.float64)
  around = targets - targets.mean(0, dtype=np.float64)
  variance = float((around**2).sum())
  return 1 - float((error**2).sum()) / variance if variance else float("nan")


def root_mean_square(values: np.ndarray) -> float:
  """The root of the mean square, added up in float64."""
  return float(np.sqrt((values.astype(np.float64) ** 2).mean()))


def rows_of(
  data: str,
  description: Description,
  target: Sequence[str],
  seed: int,
  missing_targets: MissingTargets = "refuse",
) -> tuple[np.ndarray, np.ndarray]:
  """Raw rows, with targets as the model numbers them.

  Args:
    data: as of the command line; of what has a test part, that one.
    description: of the model.
    target: of a file, what it was trained to tell.
    seed: of data that is made.
    missing_targets: as of `load_dataset`.

  Returns:
    (x `[N, D]`, targets).

  Raises:
    ValueError: the data doesn't fit the model; the message says how.
    OSError: a file can't be read.
  """
  kind, path = kind_and_path(data)
  task = description.task if kind in ("csv", "npz") else None
  examples = examples_of(
    kind, path, seed, target, task, None, missing_targets, description.features
  )
  if examples.task != description.task:
    raise ValueError(f"{data} is a {examples.task}, the model's is a {description.task}")
  x, targets = examples.test or (examples.x, examples.targets)
  if x.shape[1] != len(description.features):
    raise ValueError(
      f"{data} has {x.shape[1]} features, the model was trained on {len(description.features)}"
    )
  if targets.ndim == 2:
    if targets.shape[1] != len(description.outputs):
      raise ValueError(
        f"{data} has {targets.shape[1]} values, the model gives {len(description.outputs)}"
      )
    return x, targets
  return x, own_labels(data, targets, examples.outputs, description)


def own_labels(
  data: str, labels: np.ndarray, names: Sequence[str], description: Description
) -> np.ndarray:
  """Labels of the classes `names` as the model numbers them; equal numbers are one class.

  Raises:
    ValueError: the model doesn't know one of them.
  """
  places = places_of(names, description.outputs)
  for name, place in zip(names, places, strict=True):
    if place is None:
      raise ValueError(
        f"{data} has the label {name!r}; the model knows {', '.join(description.outputs)}"
      )
  own: np.ndarray = np.array(places, np.int32)[labels]
  return own
