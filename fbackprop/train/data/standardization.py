"""Columns of mean zero and deviation one, as the training part alone has them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fbackprop.train.data.rows import kept


class Standardization(NamedTuple):
  """(x − mean) / scale for each column; `mean` and `scale` are `[D]`, float64."""

  mean: np.ndarray
  scale: np.ndarray

  def apply(self, x: np.ndarray) -> np.ndarray:
    """Raw columns `[N, D]` as the network has them, in float32."""
    return self.wide(x).astype(np.float32)

  def wide(self, x: np.ndarray) -> np.ndarray:
    """The same in float64, so that no offset costs a digit."""
    standardized: np.ndarray = (np.asarray(x) - self.mean) / self.scale
    return standardized

  def undo(self, x: np.ndarray) -> np.ndarray:
    """The network's columns `[N, D]` in the units of the data, in float64."""
    raw: np.ndarray = x * self.scale + self.mean
    return raw


def fit_standardization(x: np.ndarray) -> Standardization:
  """Mean and standard deviation of the training examples; a column that is constant becomes 0.

  Args:
    x: raw columns of the training part, `[N, D]`.

  Raises:
    ValueError: the numbers of a column lie further apart than float64 can say.
  """
  wide = x.astype(np.float64)
  # Their own offset, as of time stamps, would round the sums. float32 has none that is so large.
  origin = wide[0] if x.dtype == np.float64 else np.zeros(wide.shape[1])
  with np.errstate(over="ignore", invalid="ignore"):
    shifted = wide - origin
    largest = np.abs(shifted).max(0)
    # Squares must not leave float64's range; by a power of two nothing is rounded.
    unit = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1.0))))
    shifted /= unit
    mean, scale = origin + unit * shifted.mean(0), unit * shifted.std(0)
  if not (np.isfinite(mean) & np.isfinite(scale)).all():
    column = int((~(np.isfinite(mean) & np.isfinite(scale))).argmax())
    raise ValueError(f"column {column}: its numbers lie too far apart to be standardised")
  return Standardization(mean, np.where(is_constant(wide) | (scale == 0), 1.0, scale))


def is_constant(x: np.ndarray) -> np.ndarray:
  """Which columns of `[N, D]` hold one number alone, `[D]`."""
  constant: np.ndarray = x.min(0) == x.max(0)
  return constant


def as_float32(x: np.ndarray, names: Sequence[str]) -> np.ndarray:
  """Columns `[N, D]` as the network has them.

  Raises:
    ValueError: a number is too large for it; it is named by its column and row.
  """
  with np.errstate(over="ignore"):
    narrow: np.ndarray = np.asarray(x, np.float32)
  is_lost = np.isinf(narrow) & np.isfinite(x)
  if is_lost.any():
    row, column = np.argwhere(is_lost)[0]
    raise ValueError(
      f"column {names[column]!r}, row {row}: {x[row, column]:g}, which the network takes, is too "
      "large for float32"
    )
  return narrow


def lost_values(
  names: Sequence[str], raw: Sequence[np.ndarray], narrow: Sequence[np.ndarray]
) -> list[str]:
  """The columns whose distinct values aren't all distinct as the network has them.

  Args:
    names: of the columns.
    raw: parts `[N, D]` of the rows, as the data has them.
    narrow: the same parts in float32, standardised or not.

  Returns:
    A sentence for each, such as "column 'time' as float32: kept 17 of 31 distinct values".
  """
  if raw[0].dtype != np.float64:  # Then they were float32 before, or narrower.
    return []
  notes: list[str] = []
  # Integers that aren't far from each other and from 0 are kept, however they are standardised.
  is_plain = np.array(
    [(np.abs(part).max(0, initial=0.0) < 2**21) & (part == np.rint(part)).all(0) for part in raw]
  ).all(0)
  for j in np.flatnonzero(~is_plain).tolist():
    before, after = (
      len(np.unique(np.concatenate([part[:, j] for part in parts]))) for parts in (raw, narrow)
    )
    notes += kept(names[j], before, after, "float32")
  return notes
