"""Tables of the page: numbers in cells, scores by class, members, and the worst test examples."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.rows import Dataset
from fbackprop.train.ensembles import EnsembleResult
from fbackprop.train.metrics import number, spread_of
from fbackprop.train.models import Description
from fbackprop.train.scores import count_pairs, r_squared, root_mean_square
from fbackprop.train.scores import scores_of as of_task

MOST_WORST = 12
MOST_MEMBERS = 100  # The others are in summary.json.
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


Columns = list[tuple[str, Sequence[str | Number]]]


def table_of(columns: Columns) -> Table:
  """Return a table of columns of equal length, each with its head."""
  heads, cells = zip(*columns, strict=True)
  return Table(heads, list(zip(*cells, strict=True)))


def measured(value: float | None, full: float = 0.0) -> Number:
  """Format a measurement with four decimals, or in scientific notation where these are zeros.

  Args:
    value: the measurement; None if it isn't known.
    full: the size that a full bar stands for; 0 for no bar.
  """
  if value is None:
    return Number("–")
  if not math.isfinite(value):
    return Number("not finite")
  return Number(number(value), abs(value) / full if full else None)


def barred(values: Sequence[float | None]) -> list[Number]:
  """Format a column of measurements with bars relative to the largest finite one."""
  sizes = [abs(value) for value in values if value is not None and math.isfinite(value)]
  return [measured(value, max(sizes, default=0.0)) for value in values]


def percent(share: float | None) -> Number:
  """Format a fraction in percent."""
  return Number("–" if share is None else f"{100 * share:.1f} %")


def given(value: float, digits: int) -> Number:
  """Format a number of the data with its own digits."""
  return Number(f"{value:.{digits}g}" if math.isfinite(value) else "not finite")


def counted(value: int) -> Number:
  """Format a count."""
  return Number(f"{value:,}")


def more_digits(values: np.ndarray) -> int:
  """Count the extra digits that distinguish numbers far from 0 and close to each other."""
  size, spread = float(np.abs(values).max()), float(np.ptp(values))
  if not (math.isfinite(size) and math.isfinite(spread) and size > spread > 0):
    return 0
  return min(9, max(0, int(math.log10(size / spread)) - 1))


# --- Scores ---------------------------------------------------------------------------------------


def scores_of(dataset: Dataset, outputs: np.ndarray) -> Table:
  """Return a table of scores, with a row for each class, label or value.

  Args:
    dataset: the data, in its own units.
    outputs: the network's outputs for the test set, in these units, `[N, C]`.
  """
  names, true = dataset.output_names, dataset.targets_test
  rows: list[tuple[str | Number, ...]] = []
  if dataset.task == "regression":
    for name, found, known in zip(names, outputs.T, true.T, strict=True):
      error = (found - known).astype(np.float64)
      sizes, deviation = np.abs(error), known.std(dtype=np.float64)
      r2 = r_squared(found, known) if known.std() else None
      numbers = (r2, root_mean_square(error), sizes.mean(), sizes.max(), deviation)
      rows.append((name, *map(measured, numbers)))
    return Table(("value", "R²", "RMSE", "mean |error|", "largest |error|", "true deviation"), rows)
  if dataset.is_classification:
    counts = count_pairs(true, outputs.argmax(1), len(names))
    right, taken, support = counts.diagonal(), counts.sum(0), counts.sum(1)
  else:
    right, taken, support = (part.sum(0) for part in (
      (true > 0.5) & (outputs > 0), outputs > 0, true > 0.5
    ))  # fmt: skip
  for name, *own in zip(names, *(part.tolist() for part in (right, taken, support)), strict=True):
    hits, found, known = own
    # Precision, recall, and F1, their harmonic mean; none where nothing is to be divided.
    ratios = (hits, found), (hits, known), (2 * hits, found + known)
    shares = [part / whole if whole else None for part, whole in ratios]
    rows.append((name, *map(measured, shares), counted(known)))
  kind = "class" if dataset.is_classification else "label"
  return Table((kind, "precision", "recall", "F1", "support"), rows)


def totals_of(dataset: Dataset, answers: "Answers", outputs: np.ndarray) -> Table:
  """Return a table of the scores over all classes, labels or values.

  Args:
    dataset: the data, in its own units.
    answers: losses and probabilities of the test set.
    outputs: logits, or values in the data's units, `[N, C]`.
  """
  scores = scores_of_test(dataset, answers, outputs)
  words = {"r2": "R²", "rmse": "RMSE", "mae": "mean |error|", "AP": "average precision"}
  words |= {"balanced": "balanced accuracy", "Brier": "Brier score"}
  heads = [words.get(name, name) for name in scores]
  # NaN is a score that isn't defined, such as the ROC AUC of a single class.
  values = [None if math.isnan(value) else value for value in scores.values()]
  return Table(heads, [list(map(measured, values))])


def scores_of_test(dataset: Dataset, answers: "Answers", outputs: np.ndarray) -> dict[str, float]:
  """Score the test set, all but its loss; the arguments are those of `totals_of`."""
  return of_task(dataset.task, outputs, dataset.targets_test, answers.probabilities)


# --- The members of an ensemble -------------------------------------------------------------------


class RateScores(NamedTuple):
  """Test scores of the members that share a learning rate.

  Attributes:
    rate: the learning rate.
    scores: score of each member, `[K]`: accuracies for labels, else mean losses.
    together: score of the ensemble.
  """

  rate: float
  scores: np.ndarray
  together: float


def rates_of(rates: Sequence[RateScores], name: str, is_good: bool) -> Table:
  """Return a table with a row for each learning rate."""
  rows = []
  for rate, scores, together in rates:
    mean, deviation, *ends = spread_of(scores)
    numbers = (mean, deviation, *(reversed(ends) if is_good else ends), together)
    rows.append((Number(f"{rate:g}"), *map(measured, numbers)))
  return Table(("rate", f"{name}, mean", "deviation", "best", "worst", "together"), rows)


def members_of(result: EnsembleResult, own: RateScores, seed: int, name: str) -> Table:
  """Return a table with a row for each member, up to `MOST_MEMBERS`."""
  size, best = min(result.size, MOST_MEMBERS), result.best
  columns: dict[str, Sequence[str | Number]] = {
    "seed": [Number(str(seed + k)) for k in range(size)],
    "steps": list(map(counted, result.steps.tolist())),
    "ended by": result.stop_reasons,
    name: list(map(measured, own.scores.tolist())),
  }
  if best is not None:
    columns["kept step"] = list(map(counted, best.steps.tolist()))
    scores = [score if np.isfinite(score) else None for score in best.scores.tolist()]
    columns["validation"] = list(map(measured, scores))
  if any(result.diverged_at):
    columns["first not finite"] = [place or "–" for place in result.diverged_at]
  return table_of([(name, every[:size]) for name, every in columns.items()])


# --- The worst examples ---------------------------------------------------------------------------


class Answers(NamedTuple):
  """What is known of each test example: its loss `[N]`, and its probabilities `[N, C]`.

  A regression has None for probabilities.
  """

  losses: Any
  probabilities: Any


def answers_to(description: Description, outputs: Any, targets: Any) -> Answers:
  """Compute the `Answers` of outputs and targets, both in the network's units; to be jitted."""
  losses = description.loss.forward(outputs, targets)[0]
  is_valued = description.task == "regression"
  return Answers(losses, None if is_valued else description.probabilities(outputs))


def worst_of(losses: np.ndarray) -> np.ndarray:
  """Return the indices of the largest losses, up to `MOST_WORST`; NaN counts as the largest."""
  return np.argsort(-np.nan_to_num(losses, nan=np.inf, posinf=np.inf), kind="stable")[:MOST_WORST]


def pictures_of(dataset: Dataset, losses: np.ndarray) -> list[str]:
  """Draw the worst examples of an image data set; return PNG files in base64."""
  pictures = []
  for row in worst_of(losses):
    file, image = io.BytesIO(), dataset.x_test[row].reshape(dataset.image_shape)
    imsave = need("matplotlib.image", extra="plot").imsave
    imsave(file, image, format="png", cmap="gray_r", metadata={"Software": None})
    pictures.append(base64.b64encode(file.getvalue()).decode())
  return pictures


def worst_rows_of(dataset: Dataset, answers: Answers, outputs: np.ndarray) -> Table:
  """Return a table of the worst examples: truth, prediction, and features.

  Args:
    dataset: the data, in its own units.
    answers: losses and probabilities of the test set.
    outputs: logits, or values in the data's units, `[N, C]`.
  """
  losses = answers.losses
  worst = worst_of(losses)
  columns: Columns = [
    ("test row", list(map(counted, worst))), ("loss", list(map(measured, losses[worst]))),
    *columns_of(dataset, answers, outputs, worst),
  ]  # fmt: skip
  for name, values in zip(dataset.features[:MOST_FEATURES], dataset.x_test.T, strict=False):
    more, size = more_digits(values), float(np.abs(values).max())
    # Digits beyond the rounding of standardisation aren't part of the data.
    digits = 6 + more - math.floor(math.log10(size)) if size else 6
    # Zero is added, as a number that is rounded to −0 is 0.
    own = [round(v, digits) + 0.0 for v in values[worst].tolist()]
    columns.append((name, [given(v, 6 + more) for v in own]))
  return table_of(columns)


def columns_of(
  dataset: Dataset, answers: Answers, outputs: np.ndarray, rows: np.ndarray
) -> Columns:
  """Describe the truth and the prediction of examples: classes, labels, or values."""
  true, found, names = dataset.targets_test[rows], outputs[rows], dataset.output_names
  if dataset.is_classification:
    shares, best = answers.probabilities[rows], found.argmax(1)
    sides = ("true", true), ("predicted", best)
    return [
      *((side, [names[label] for label in labels]) for side, labels in sides),
      *((f"p({side})", list(map(measured, shares[np.arange(len(rows)), labels])))
        for side, labels in sides),
    ]  # fmt: skip
  if dataset.task == "multilabel":
    return [
      (side, [", ".join(np.array(names)[row]) or "none" for row in has])
      for side, has in (("true", true > 0.5), ("predicted", found > 0))
    ]
  columns: Columns = []
  for i, name in enumerate(names[:MOST_VALUES]):
    digits = 6 + more_digits(dataset.targets_test[:, i])
    for side, values in (("true", true), ("predicted", found)):
      head = side if len(names) == 1 else f"{name}, {side}"
      columns.append((head, [given(value, digits) for value in values[:, i].tolist()]))
  return columns
