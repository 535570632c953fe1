"""The test examples on which a network does worst, as the page shows them."""

import base64
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.datasets import Dataset
from fbackprop.train.models import Model
from fbackprop.train.report.cells import Number, Table, counted, given, measured, more_digits

MOST = 12
MOST_FEATURES, MOST_VALUES = 16, 4  # More columns aren't read.
# Heads, and for each example what stands under them.
Answers = tuple[Sequence[str], Sequence[Sequence[str | Number]]]


class Picture(NamedTuple):
  """An example that is a picture: a PNG in base64, and what is said of it."""

  png: str
  true: str
  predicted: str
  probability: Number
  loss: Number


def worst_of(losses: np.ndarray) -> np.ndarray:
  """Where the largest losses stand, up to `MOST`; one that isn't a number is larger than any."""
  return np.argsort(-np.nan_to_num(losses, nan=np.inf, posinf=np.inf), kind="stable")[:MOST]


def losses_of(dataset: Dataset, model: Model, outputs: np.ndarray) -> np.ndarray:
  """The loss of each test example; `outputs` and targets are in the network's units."""
  losses = jax.jit(model.description.loss.forward)(outputs, dataset.targets_test)[0]
  return np.asarray(losses)


def pictures_of(
  dataset: Dataset, model: Model, losses: np.ndarray, outputs: np.ndarray
) -> list[Picture]:
  """The worst examples of data that has pictures; `outputs` are logits."""
  imsave = need("matplotlib.image", extra="plot").imsave
  worst = worst_of(losses)
  _, cells = of_class(dataset, model, outputs, worst)
  pictures = []
  for row, (true, predicted, _, probability) in zip(worst, cells, strict=True):
    file = io.BytesIO()
    image = dataset.x_test[row].reshape(dataset.image_shape)
    imsave(file, image, format="png", cmap="gray_r", metadata={"Software": None})
    png = base64.b64encode(file.getvalue()).decode()
    pictures.append(Picture(png, true, predicted, probability, measured(float(losses[row]))))
  return pictures


def rows_of(dataset: Dataset, model: Model, losses: np.ndarray, outputs: np.ndarray) -> Table:
  """The worst examples as rows: what is true, what was told, and the features.

  Args:
    dataset: in units of its own.
    model: the network.
    losses: of the test examples, `[N]`.
    outputs: logits, or values in the data's units, `[N, C]`.
  """
  worst = worst_of(losses)
  answers: Sequence[Sequence[str | Number]]
  if dataset.is_classification:
    heads, answers = of_class(dataset, model, outputs, worst)
  elif dataset.task == "multilabel":
    heads, answers = of_labels(dataset, outputs, worst)
  else:
    heads, answers = of_values(dataset, outputs, worst)
  features = dataset.features[:MOST_FEATURES]
  # What standardising left of the last digits is no part of the data.
  sizes = np.abs(dataset.x_test).max(0, initial=0.0).tolist()
  more = list(map(more_digits, sizes, np.ptp(dataset.x_test, 0).tolist()))
  digits = [
    6 + n - math.floor(math.log10(size)) if size else 6 for size, n in zip(sizes, more, strict=True)
  ]
  rows = [
    (
      counted(row),
      measured(float(losses[row])),
      *answer,
      *map(given, map(round, x[: len(features)], digits), (6 + n for n in more)),
    )
    for row, answer, x in zip(worst.tolist(), answers, dataset.x_test[worst].tolist(), strict=True)
  ]
  return Table(("test row", "loss", *heads, *features), rows)


def of_class(
  dataset: Dataset, model: Model, outputs: np.ndarray, rows: np.ndarray
) -> tuple[Sequence[str], list[tuple[str, str, Number, Number]]]:
  """Of examples that have a label."""
  true, found = dataset.targets_test[rows], outputs[rows].argmax(1)
  each = np.arange(len(rows))
  probabilities = model.probabilities(outputs[rows])
  names = dataset.output_names
  answers = [
    (names[label], names[told], measured(p_true), measured(p_told))
    for label, told, p_true, p_told in zip(
      true.tolist(), found.tolist(),
      probabilities[each, true].tolist(), probabilities[each, found].tolist(), strict=True,
    )
  ]  # fmt: skip
  return ("true", "predicted", "p(true)", "p(predicted)"), answers


def of_labels(dataset: Dataset, outputs: np.ndarray, rows: np.ndarray) -> Answers:
  """Of examples that have several labels."""

  def listed(has: np.ndarray) -> str:
    names = [name for name, is_one in zip(dataset.output_names, has, strict=True) if is_one]
    return ", ".join(names) or "none"

  pairs = zip(dataset.targets_test[rows] > 0.5, outputs[rows] > 0, strict=True)
  return ("true", "predicted"), [(listed(true), listed(found)) for true, found in pairs]


def of_values(dataset: Dataset, outputs: np.ndarray, rows: np.ndarray) -> Answers:
  """Of examples with values, each of which has two columns."""
  names = dataset.output_names[:MOST_VALUES]
  alone = len(dataset.output_names) == 1
  said = [word if alone else f"{name}, {word}" for name in names for word in ("true", "predicted")]
  true = dataset.targets_test[:, : len(names)]
  sizes, spreads = np.abs(true).max(0, initial=0.0).tolist(), np.ptp(true, 0).tolist()
  digits = [6 + more_digits(*both) for both in zip(sizes, spreads, strict=True) for _ in range(2)]
  both = np.stack([true[rows], outputs[rows, : len(names)]], -1).reshape(len(rows), -1)
  return said, [tuple(map(given, row, digits)) for row in both.tolist()]
