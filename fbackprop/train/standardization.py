"""Columns of mean zero and deviation one, as the training part alone has them."""

from typing import NamedTuple

import numpy as np


class Standardization(NamedTuple):
  """(x − mean) / scale for each column; `mean` and `scale` are `[D]`, float64."""

  mean: np.ndarray
  scale: np.ndarray

  def apply(self, x: np.ndarray) -> np.ndarray:
    """Raw columns `[N, D]` as the network has them, in float32."""
    return np.asarray((x - self.mean) / self.scale, np.float32)

  def undo(self, x: np.ndarray) -> np.ndarray:
    """The network's columns `[N, D]` in the units of the data, in float32."""
    return np.asarray(x * self.scale + self.mean, np.float32)


def fit_standardization(x: np.ndarray) -> Standardization:
  """Mean and standard deviation of the training examples; a column that is constant stays so.

  Args:
    x: raw columns of the training part, `[N, D]`.
  """
  wide = x.astype(np.float64)
  mean, scale = wide.mean(0), wide.std(0)
  # The deviation of equal numbers is the rounding of their mean.
  is_constant = scale <= 1e-12 * np.abs(mean)
  return Standardization(mean, np.where(is_constant, 1.0, scale))
