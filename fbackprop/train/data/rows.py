"""Examples as a source gives them: whole, raw, not yet split."""

from typing import NamedTuple

import numpy as np

from fbackprop.train.data.names import Task

# As wide as a network may be. Its input and its output are no exception: all their names stand in
# the file of the model.
WIDEST = 2**16
# Up to here float64 has every integer.
EXACT_INTEGERS = 2**53
# What is larger is taken for no number: nobody has measured it, and float32 has no place for it.
LARGEST = float(np.finfo(np.float32).max)


class Examples(NamedTuple):
  """What a source has.

  Attributes:
    x: raw features, `[N, D]`: float64, or float32 where that holds each number exactly.
    targets: labels `[N]` in int32, or values `[N, C]` likewise, which are 0 and 1 for several
      labels at once.
    task: what is to be learned.
    outputs: the names of the classes by their labels, or of the C values.
    features: the names of the columns of x.
    test: `(x, targets)` of the source's own test part; None where it has none.
    image_shape: rows and columns of an example, if it is a picture.
    standardize: whether the features are of different units or sizes, so that they should be.
    inferred: how the task was told from the values; "" where nothing had to be.
    weights: what each example counts for in training, `[N]`; None for all alike.
    notes: sentences about what a user of the data would want to know.
    label: the name of the column that the labels stand in.
  """

  x: np.ndarray
  targets: np.ndarray
  task: Task
  outputs: tuple[str, ...]
  features: tuple[str, ...]
  test: tuple[np.ndarray, np.ndarray] | None = None
  image_shape: tuple[int, int] | None = None
  standardize: bool = False
  inferred: str = ""
  weights: np.ndarray | None = None
  notes: tuple[str, ...] = ()
  label: str = "label"


def check_width(path: str, what: str, count: int) -> None:
  """Refuses more columns than a network is wide."""
  if count > WIDEST:
    raise ValueError(f"{path} has {count:,} {what}, and a network at most {WIDEST:,}")


def numbered(prefix: str, count: int) -> tuple[str, ...]:
  """Names for what has none: "x0", "x1", ..."""
  return tuple(f"{prefix}{i}" for i in range(count))


def kept(name: str, before: int, after: int, dtype: str) -> list[str]:
  """Says of a column that values which differ are one as `dtype`, if there are so many.

  Of n numbers at random up to n² / 2²⁶ are, and nobody misses them.
  """
  if before - after <= before / 1000 + before**2 / 2**25:
    return []
  return [f"column {name!r} as {dtype}: kept {after:,} of {before:,} distinct values"]


def left_out(path: str, is_hole: np.ndarray) -> tuple[str, ...]:
  """Says how many rows have no target."""
  count = int(is_hole.sum())
  return (f"{path}: {count:,} of {len(is_hole):,} rows left out, as they have no target",) * (
    count > 0
  )
