"""The rows of a data set, from the reader to the run: one record, `Dataset`, and its limits.

A reader (`csv_tables`, `npz`, `idx`, `bundled`, `synthetic`) gives the rows as the source has them;
`split` sets a test part apart where the source has none; `standardization` scales the columns and
rounds them to float32. Each step takes a `Dataset` and returns another one.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fbackprop.train.data.names import Task

# The widest layer of a network, input and output included: all their names are in the model's file.
WIDEST = 2**16
# Up to here float64 has every integer.
EXACT_INTEGERS = 2**53
# A larger number is taken for an error: nobody has measured it, and float32 can't represent it.
LARGEST = float(np.finfo(np.float32).max)


class Standardization(NamedTuple):
  """(x − mean) / scale for each column; `mean` and `scale` are `[D]`, float64."""

  mean: np.ndarray
  scale: np.ndarray

  def apply(self, x: np.ndarray) -> np.ndarray:
    """Standardise raw columns `[N, D]`, in float32."""
    return self.wide(x).astype(np.float32)

  def wide(self, x: np.ndarray) -> np.ndarray:
    """Standardise raw columns in float64, so that an offset costs no digit."""
    standardized: np.ndarray = (np.asarray(x) - self.mean) / self.scale
    return standardized

  def undo(self, x: np.ndarray) -> np.ndarray:
    """Return standardised columns `[N, D]` in the units of the data, in float64."""
    raw: np.ndarray = x * self.scale + self.mean
    return raw


@dataclass(frozen=True)
class Dataset:
  """Rows and what their columns mean.

  Attributes:
    x: features of the training part, `[N, D]`. From a reader float64, or float32 where that holds
      each number exactly; from `load_dataset` float32.
    targets: labels `[N]` in int32, or values `[N, C]`, which are 0 and 1 for several labels.
    task: the kind of targets.
    output_names: the classes in the order of their labels, or the C values.
    features: the columns of x.
    x_test, targets_test: the test part; no rows before the split.
    weights: sample weights of the training part, `[N]`; None for equal ones.
    image_shape: rows and columns of an example, if it is an image.
    label: the column of the labels.
    has_units: whether the columns have different units, so that they are standardised by default.
    inferred: the reason for an inferred task; "" where it was given.
    notes: sentences for the user, such as about a constant column.
    name: as on the command line.
    standardization: of the features; None if they are raw.
    target_standardization: of the values of a regression, likewise.
    raw_targets_test: values of the test part before standardisation, by which outputs are scored;
      None where that is `targets_test`.
    fingerprint: of the rows and of their split; see `fingerprints`.
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
    """The number C of outputs that a network needs."""
    return len(self.output_names)

  @property
  def is_classification(self) -> bool:
    """Whether the targets are labels."""
    return self.task == "classification"


def check_width(path: str, what: str, count: int) -> None:
  """Raise if there are more columns than a layer may have units."""
  if count > WIDEST:
    raise ValueError(f"{path} has {count:,} {what}, and a network at most {WIDEST:,}")


def numbered(prefix: str, count: int) -> tuple[str, ...]:
  """Number columns without names: "x0", "x1", ..."""
  return tuple(f"{prefix}{i}" for i in range(count))


def listed(names: tuple[str, ...] | list[str], most: int = 40) -> str:
  """Join names for a message, of many the first ones."""
  return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def note_lost_values(name: str, before: int, after: int, dtype: str) -> list[str]:
  """Note that distinct values of a column became equal as `dtype`, if more than by chance.

  Of n random numbers up to n² / 2²⁶ do, and nobody misses them.
  """
  if before - after <= before / 1000 + before**2 / 2**25:
    return []
  return [f"column {name!r} as {dtype}: kept {after:,} of {before:,} distinct values"]


def note_dropped_rows(path: str, is_hole: np.ndarray) -> list[str]:
  """Note how many rows were dropped as they have no target."""
  count = int(is_hole.sum())
  said = f"{path}: {count:,} of {len(is_hole):,} rows left out, as they have no target"
  return [said] if count else []
