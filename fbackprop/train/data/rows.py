"""The rows of a data set, from the reader to the run: the record `Dataset`, and its limits.

A reader (`csv_tables`, `npz`, `idx`, `built_in`) returns the rows in the source's numbers;
`datasets` splits off a test set where the source has none; `standardized` scales the columns to
mean 0 and standard deviation 1, fitted on the training set only, and rounds them to float32. Each
step takes a `Dataset` and returns another one.

Numbers stay float64 until they are standardised, so that the offset of a column, such as of time
stamps or ids, costs no precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from fbackprop.errors import RangeError
from fbackprop.train.data.names import Task

# Largest width of a layer, including input and output: the model file holds all their names.
WIDEST = 2**16
# float64 represents every integer up to this one.
EXACT_INTEGERS = 2**53
# Larger numbers are treated as errors: they aren't plausible data, and float32 can't represent
# them.
LARGEST = float(np.finfo(np.float32).max)


class Standardization(NamedTuple):
  """Columnwise (x − mean) / scale; `mean` and `scale` are `[D]`, float64."""

  mean: np.ndarray
  scale: np.ndarray

  def wide(self, x: np.ndarray) -> np.ndarray:
    """Standardise raw columns `[N, D]` in float64, so that a large offset costs no digits."""
    return np.asarray((np.asarray(x) - self.mean) / self.scale)

  def undo(self, x: np.ndarray) -> np.ndarray:
    """Convert standardised columns `[N, D]` back to the units of the data, in float64."""
    return np.asarray(x * self.scale + self.mean)


@dataclass(frozen=True)
class Dataset:
  """Rows, and the meanings of their columns.

  Attributes:
    x: features of the training set, `[N, D]`: from a reader in float64, or in float32 where that is
      exact; from `load_dataset` in float32.
    targets: labels `[N]` in int32, or values `[N, C]`, which are 0 and 1 for several labels.
    task: the kind of targets.
    output_names: names of the classes in the order of their labels, or of the C values.
    features: names of the columns of x.
    x_test, targets_test: the test set; empty before the split.
    weights: sample weights of the training set, `[N]`; None for equal ones.
    image_shape: rows and columns of an example, if it is an image.
    label: name of the label column.
    has_units: whether the columns have different units, so that they are standardised by default.
    inferred: the reason for an inferred task; "" if it was given.
    notes: sentences for the user, such as about a constant column.
    name: name of the data, as on the command line.
    standardization: standardisation of the features; None if they are raw.
    target_standardization: standardisation of a regression's values; None if they are raw.
    raw_targets_test: test values before standardisation, for scores in their units; None where they
      are `targets_test`.
    fingerprint: fingerprint of the rows and of their split; see `fingerprints`.
    columns: the raw columns of a table, each a `columns.Column`, and how they are read; empty for
      arrays. If there is anything but complete numbers among them, x is of objects until it is
      encoded.
    encoding: the `encodings.Encoding` of these columns, whose names are then the features; None
      without.
    decimal: how the source writes its numbers, "point" or "comma".
  """

  x: np.ndarray
  targets: np.ndarray
  task: Task
  output_names: tuple[str, ...]
  features: tuple[str, ...]
  x_test: np.ndarray = field(default_factory=partial(np.empty, (0, 0)))
  targets_test: np.ndarray = field(default_factory=partial(np.empty, (0,)))
  weights: np.ndarray | None = None
  image_shape: tuple[int, int] | None = None
  label: str = "label"
  has_units: bool = False
  inferred: str = ""
  notes: tuple[str, ...] = ()
  name: str = ""
  standardization: Standardization | None = None
  target_standardization: Standardization | None = None
  raw_targets_test: np.ndarray | None = None
  fingerprint: dict[str, Any] = field(default_factory=dict)
  columns: tuple[Any, ...] = ()
  encoding: Any = None
  decimal: str = "point"

  @property
  def outputs(self) -> int:
    """The number C of network outputs."""
    return len(self.output_names)

  @property
  def is_classification(self) -> bool:
    """Whether the targets are labels."""
    return self.task == "classification"


def check_width(path: str, what: str, count: int) -> None:
  """Raise if there are more columns than the widest layer has units."""
  if count > WIDEST:
    raise ValueError(f"{path} has {count:,} {what}, and a network at most {WIDEST:,}")


def numbered(prefix: str, count: int) -> tuple[str, ...]:
  """Return names for unnamed columns: "x0", "x1", ..."""
  return tuple(f"{prefix}{i}" for i in range(count))


def listed(names: tuple[str, ...] | list[str], most: int = 40) -> str:
  """Join names for a message, truncated to the first `most`."""
  return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def note_lost_values(
  name: str, raw: Sequence[Any], rounded: Sequence[np.ndarray], dtype: str
) -> list[str]:
  """Return a note if distinct values of a column coincide as `dtype`, and not just by chance.

  Among n random numbers, up to n² / 2²⁶ coincide, which is harmless.

  Args:
    name: name of the column.
    raw: parts `[N]` of the column, in the source's numbers.
    rounded: the same parts as `dtype`.
    dtype: its name.

  Returns:
    Sentences such as "column 'time' as float32: kept 17 of 31 distinct values".
  """
  before, after = (len(np.unique(np.concatenate(parts))) for parts in (raw, rounded))
  if before - after <= before / 1000 + before**2 / 2**25:
    return []
  return [f"column {name!r} as {dtype}: kept {after:,} of {before:,} distinct values"]


# --- Standardisation ------------------------------------------------------------------------------

# Distance from the training mean, in deviations, beyond which outputs are meaningless
# extrapolation.
FAR = 10.0
# Standardisation of the features, and of a regression's values.
Standardizations = tuple[Standardization | None, Standardization | None]


def standardized(
  dataset: Dataset, mode: Literal["auto", "on", "off"], like: Standardizations | None = None
) -> Dataset:
  """Standardise a split data set, and round it to float32.

  Args:
    dataset: rows in the source's numbers.
    mode: "auto" standardises columns of different units.
    like: standardisations of a pretrained network, in place of those of the training set.

  Raises:
    ValueError: `like` has another number of columns, or a number overflows float32.
  """
  is_on = like is None and (dataset.has_units if mode == "auto" else mode == "on")
  of_x, of_targets = like or (fit_standardization(dataset.x) if is_on else None, None)
  if like is None and of_x is not None and dataset.encoding is not None:  # 0 and 1 stay so.
    is_number = dataset.encoding.is_number
    of_x = Standardization(np.where(is_number, of_x.mean, 0), np.where(is_number, of_x.scale, 1))
  if dataset.task != "regression":
    of_targets = None
  elif is_on:
    of_targets = fit_standardization(dataset.targets)
  notes = list(dataset.notes)

  def narrow(
    names: tuple[str, ...], raw: tuple[np.ndarray, ...], own: Standardization | None
  ) -> list[np.ndarray]:
    parts = raw
    if own is not None:
      if len(own.mean) != len(names):
        has = f"{dataset.name} has {len(names)}: {listed(names)}"
        raise RangeError(f"was trained on {len(own.mean)} columns, and {has}", "init")
      is_constant = raw[0].min(0) == raw[0].max(0)
      constant = [name for name, is_same in zip(names, is_constant, strict=True) if is_same]
      if constant and dataset.image_shape is None:  # Images often have a constant margin.
        notes.append(f"constant in the training part: {listed(constant)}")
      parts = tuple(map(own.wide, raw))
      off = float(np.abs(parts[0].mean(0)).max(initial=0.0))
      if like is not None and off > FAR:
        notes.append(
          f"a mean lies {off:.3g} deviations from that of --init; --standardize on measures anew"
        )
    narrowed = [as_float32(part, names) for part in parts]
    notes.extend(lost_values(names, raw, narrowed))
    return narrowed

  x, x_test = narrow(dataset.features, (dataset.x, dataset.x_test), of_x)
  targets, targets_test = dataset.targets, dataset.targets_test
  if not dataset.is_classification:
    targets, targets_test = narrow(dataset.output_names, (targets, targets_test), of_targets)
  weights = dataset.weights
  if weights is not None:
    weights = as_float32(weights[:, None], ("sample_weights",))[:, 0]
  return replace(
    dataset, x=x, x_test=x_test, targets=targets, targets_test=targets_test, weights=weights,
    raw_targets_test=None if of_targets is None else dataset.targets_test,
    standardization=of_x, target_standardization=of_targets, notes=tuple(notes),
  )  # fmt: skip


def fit_standardization(x: np.ndarray) -> Standardization:
  """Compute mean and standard deviation of each column; the scale of a constant column is 1.

  Args:
    x: raw columns of the training set, `[N, D]`.

  Raises:
    ValueError: the range of a column exceeds float64.
  """
  wide = x.astype(np.float64)
  # Shifted by the first row: a large offset, as of time stamps, would round the sums. float32
  # columns have no offset that large.
  origin = wide[0] if x.dtype == np.float64 else np.zeros(wide.shape[1])
  with np.errstate(over="ignore", invalid="ignore"):
    shifted = wide - origin
    largest = np.abs(shifted).max(0)
    # Scaled, so that squares don't overflow or underflow; division by a power of two is exact.
    unit = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1.0))))
    shifted /= unit
    mean, scale = origin + unit * shifted.mean(0), unit * shifted.std(0)
  is_wrong = ~(np.isfinite(mean) & np.isfinite(scale))
  if is_wrong.any():
    column = int(is_wrong.argmax())
    raise ValueError(f"column {column}: the range of its numbers is too large to be standardised")
  return Standardization(mean, np.where((wide.min(0) == wide.max(0)) | (scale == 0), 1.0, scale))


def as_float32(x: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """Round columns `[N, D]` to float32.

  Raises:
    ValueError: a number overflows; the message names its column and row.
  """
  with np.errstate(over="ignore"):
    narrow: np.ndarray = np.asarray(x, np.float32)
  is_lost = np.isinf(narrow) & np.isfinite(x)
  if is_lost.any():
    row, column = np.argwhere(is_lost)[0]
    number = f"column {names[column]!r}, row {row}: {x[row, column]:g}, which the network takes"
    raise ValueError(f"{number}, is too large for float32")
  return narrow


def lost_values(
  names: Sequence[str], raw: Sequence[np.ndarray], narrow: Sequence[np.ndarray]
) -> list[str]:
  """Return a note for each column with distinct values that coincide in float32.

  Args:
    names: names of the columns.
    raw: parts `[N, D]` of the rows, in the source's numbers.
    narrow: the same parts in float32, standardised or not.
  """
  if raw[0].dtype != np.float64:  # float32 or narrower in the source: nothing was lost.
    return []
  notes: list[str] = []
  # Integers near each other and near 0 stay distinct under any scaling: an exact count is skipped.
  is_plain = np.array(
    [(np.abs(part).max(0, initial=0.0) < 2**21) & (part == np.rint(part)).all(0) for part in raw]
  ).all(0)
  for j in np.flatnonzero(~is_plain).tolist():
    before, after = ([part[:, j] for part in parts] for parts in (raw, narrow))
    notes += note_lost_values(names[j], before, after, "float32")
  return notes
