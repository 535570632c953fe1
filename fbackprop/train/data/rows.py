"""The rows of a data set, from the reader to the run: the record `Dataset`, and its limits.

A reader (`csv_tables`, `npz`, `idx`, `built_in`) returns the rows in the source's numbers;
`datasets` splits off a test set where the source has none; `standardization` scales the columns and
rounds them to float32. Each step takes a `Dataset` and returns another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

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
    standardized: np.ndarray = (np.asarray(x) - self.mean) / self.scale
    return standardized

  def undo(self, x: np.ndarray) -> np.ndarray:
    """Convert standardised columns `[N, D]` back to the units of the data, in float64."""
    raw: np.ndarray = x * self.scale + self.mean
    return raw


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
