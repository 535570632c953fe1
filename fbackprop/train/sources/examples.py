"""Examples as a source gives them: whole, raw, not yet split."""

from typing import NamedTuple

import numpy as np

from fbackprop.train.sources.names import Task

# As wide as a network may be. Its input and its output are no exception: all their names stand in
# the file of the model.
WIDEST = 2**16


class Examples(NamedTuple):
  """What a source has.

  Attributes:
    x: raw features, `[N, D]`, float32.
    targets: labels `[N]` in int32, or values `[N, C]` in float32, which are 0 and 1 for several
      labels at once.
    task: what is to be learned.
    outputs: the names of the classes by their labels, or of the C values.
    features: the names of the columns of x.
    test: `(x, targets)` of the source's own test part; None where it has none.
    image_shape: rows and columns of an example, if it is a picture.
    standardize: whether the features are of different units or sizes, so that they should be.
    inferred: how the task was told from the values; "" where nothing had to be.
    weights: what each example counts for in training, `[N]`, float32; None for all alike.
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


def check_width(path: str, what: str, count: int) -> None:
  """Refuses more columns than a network is wide."""
  if count > WIDEST:
    raise ValueError(f"{path} has {count:,} {what}, and a network at most {WIDEST:,}")


def numbered(prefix: str, count: int) -> tuple[str, ...]:
  """Names for what has none: "x0", "x1", ..."""
  return tuple(f"{prefix}{i}" for i in range(count))
