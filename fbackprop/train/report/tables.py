"""Tables of the page: numbers in cells, scores by class, and the worst test examples."""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.rows import Dataset
from fbackprop.train.metrics import r_squared, root_mean_square
from fbackprop.train.models import Model

MOST_WORST = 12
MOST_FEATURES, MOST_VALUES = 16, 4  # Columns of a table of examples.

# --- Cells ----------------------------------------------------------------------------------------


class Number(NamedTuple):
  """A number in a table, and the length of its bar, from 0 to 1; None for no bar."""

  text: str
  share: float | None = None


class Table(NamedTuple):
  """A table: column heads, and rows of text and numbers."""

  heads: Sequence[str]
  rows: Sequence[Sequence[str | Number]]


def measured(value: float | None) -> Number:
  """Format a measurement with four decimals, or in scientific notation where these are zeros."""
  if value is None:
    return Number("–")
  if not math.isfinite(value):
    return Number("not finite")
  return Number(f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}")


def percent(share: float | None) -> Number:
  """Format a fraction in percent."""
  return Number("–" if share is None else f"{100 * share:.1f} %")


def given(value: float, digits: int = 6) -> Number:
  """Format a number of the data with its own digits."""
  return Number(f"{value:.{digits}g}" if math.isfinite(value) else "not finite")


def counted(value: int) -> Number:
  """Format a count."""
  return Number(f"{value:,}")


def barred(values: Sequence[float | None]) -> list[Number]:
  """Format a column of measurements with bars relative to the largest finite one."""
  finite = [abs(value) for value in values if value is not None and math.isfinite(value)]
  full = max(finite, default=0.0)
  return [
    measured(value)._replace(share=abs(value) / full)
    if value is not None and math.isfinite(value) and full
    else measured(value)
    for value in values
  ]


def more_digits(size: float, spread: float) -> int:
  """Count the extra digits that distinguish numbers far from 0 and close to each other."""
  if not (math.isfinite(size) and math.isfinite(spread) and spread > 0):
    return 0
  return min(9, max(0, int(math.log10(size / spread)) - 1)) if size > spread else 0


# --- Scores ---------------------------------------------------------------------------------------


def scores_of(dataset: Dataset, outputs: np.ndarray) -> Table:
  """Return a table of scores, with a row for each class, label or value.

  Args:
    dataset: the data, in its own units.
    outputs: the network's outputs for the test set, in these units, `[N, C]`.

  Raises:
    ModuleNotFoundError: scikit-learn isn't installed; the message names the extra.
  """
  names, true = dataset.output_names, dataset.targets_test
  if dataset.task == "regression":
    pairs = zip(names, outputs.T, true.T, strict=True)
    return Table(
      ("value", "R²", "RMSE", "mean |error|", "largest |error|", "true deviation"),
      [(name, *scores_of_value(found, known)) for name, found, known in pairs],
    )
  found = outputs.argmax(1)
  if not dataset.is_classification:
    # scikit-learn treats a single column as a binary problem: a second one, of zeros, prevents it.
    true, found = (np.pad(labels, ((0, 0), (0, 1))) for labels in (true > 0.5, outputs > 0))
  metrics = need("sklearn.metrics", extra="data")
  *shares, support = metrics.precision_recall_fscore_support(
    true, found, labels=range(len(names)), zero_division=np.nan
  )
  rows = [
    (name, *(measured(None if math.isnan(share) else share) for share in own), counted(count))
    for name, *own, count in zip(names, *shares, support.tolist(), strict=True)
  ]
  kind = "class" if dataset.is_classification else "label"
  return Table((kind, "precision", "recall", "F1", "support"), rows)


def scores_of_value(found: np.ndarray, true: np.ndarray) -> Iterable[Number]:
  """Format the scores of one regression value, in its units."""
  error = found - true
  sizes = np.abs(error.astype(np.float64))
  rest = (root_mean_square(error), sizes.mean(), sizes.max(), true.std(dtype=np.float64))
  r2 = r_squared(found, true) if true.std() else None
  return [measured(r2), *map(measured, map(float, rest))]


# --- The worst examples ---------------------------------------------------------------------------

# The heads, and for each example the cells under them.
Answers = tuple[Sequence[str], Sequence[Sequence[str | Number]]]


class Picture(NamedTuple):
  """An example that is an image: a PNG in base64, and its caption."""

  png: str
  true: str
  predicted: str
  probability: Number
  loss: Number


def losses_of(dataset: Dataset, model: Model, outputs: np.ndarray) -> np.ndarray:
  """Compute the loss of each test example; `outputs` and targets are in the network's units."""
  losses = jax.jit(model.description.loss.forward)(outputs, dataset.targets_test)[0]
  return np.asarray(losses)


def worst_of(losses: np.ndarray) -> np.ndarray:
  """Return the indices of the largest losses, up to `MOST_WORST`; NaN counts as the largest."""
  largest_first = np.argsort(-np.nan_to_num(losses, nan=np.inf, posinf=np.inf), kind="stable")
  return largest_first[:MOST_WORST]


def pictures_of(
  dataset: Dataset, model: Model, losses: np.ndarray, outputs: np.ndarray
) -> list[Picture]:
  """Draw the worst examples of an image data set; `outputs` are logits."""
  imsave = need("matplotlib.image", extra="plot").imsave
  worst = worst_of(losses)
  pictures = []
  for row, (true, predicted, _, probability) in zip(
    worst, answers_of_class(dataset, model, outputs, worst)[1], strict=True
  ):
    file = io.BytesIO()
    image = dataset.x_test[row].reshape(dataset.image_shape)
    imsave(file, image, format="png", cmap="gray_r", metadata={"Software": None})
    png = base64.b64encode(file.getvalue()).decode()
    pictures.append(Picture(png, true, predicted, probability, measured(float(losses[row]))))
  return pictures


def worst_rows_of(dataset: Dataset, model: Model, losses: np.ndarray, outputs: np.ndarray) -> Table:
  """Return a table of the worst examples: truth, prediction, and features.

  Args:
    dataset: the data, in its own units.
    model: the network.
    losses: losses of the test set, `[N]`.
    outputs: logits, or values in the data's units, `[N, C]`.
  """
  worst = worst_of(losses)
  answers: Answers
  if dataset.is_classification:
    answers = answers_of_class(dataset, model, outputs, worst)
  elif dataset.task == "multilabel":
    answers = answers_of_labels(dataset, outputs, worst)
  else:
    answers = answers_of_values(dataset, outputs, worst)
  features = dataset.features[:MOST_FEATURES]
  # Digits beyond the rounding of standardisation aren't part of the data.
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
    for row, answer, x in zip(
      worst.tolist(), answers[1], dataset.x_test[worst].tolist(), strict=True
    )
  ]
  return Table(("test row", "loss", *answers[0], *features), rows)


def answers_of_class(
  dataset: Dataset, model: Model, outputs: np.ndarray, rows: np.ndarray
) -> tuple[Sequence[str], list[tuple[str, str, Number, Number]]]:
  """Describe examples with one label."""
  true, found = dataset.targets_test[rows], outputs[rows].argmax(1)
  each = np.arange(len(rows))
  probabilities = model.probabilities(outputs[rows])
  names = dataset.output_names
  answers = [
    (names[label], names[predicted], measured(p_true), measured(p_predicted))
    for label, predicted, p_true, p_predicted in zip(
      true.tolist(), found.tolist(),
      probabilities[each, true].tolist(), probabilities[each, found].tolist(), strict=True,
    )
  ]  # fmt: skip
  return ("true", "predicted", "p(true)", "p(predicted)"), answers


def answers_of_labels(dataset: Dataset, outputs: np.ndarray, rows: np.ndarray) -> Answers:
  """Describe examples with several labels."""

  def listed(has: np.ndarray) -> str:
    names = [name for name, is_one in zip(dataset.output_names, has, strict=True) if is_one]
    return ", ".join(names) or "none"

  pairs = zip(dataset.targets_test[rows] > 0.5, outputs[rows] > 0, strict=True)
  return ("true", "predicted"), [(listed(true), listed(found)) for true, found in pairs]


def answers_of_values(dataset: Dataset, outputs: np.ndarray, rows: np.ndarray) -> Answers:
  """Describe examples with values, in two columns per value."""
  names = dataset.output_names[:MOST_VALUES]
  alone = len(dataset.output_names) == 1
  heads = [word if alone else f"{name}, {word}" for name in names for word in ("true", "predicted")]
  true = dataset.targets_test[:, : len(names)]
  sizes, spreads = np.abs(true).max(0, initial=0.0).tolist(), np.ptp(true, 0).tolist()
  digits = [6 + more_digits(*both) for both in zip(sizes, spreads, strict=True) for _ in range(2)]
  both = np.stack([true[rows], outputs[rows, : len(names)]], -1).reshape(len(rows), -1)
  return heads, [tuple(map(given, row, digits)) for row in both.tolist()]
