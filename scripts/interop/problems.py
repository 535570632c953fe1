"""The networks, losses and batches of all packages, as NumPy arrays of float64.

Weights are [D_in, D_out], with y = x w + b. The bound lies in the middle of the examples' norms, so
that some examples are clipped and others aren't.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

Tree = list[np.ndarray]
"""Arrays in the order of the parameters, w and b of each layer; or a single array."""

WIDTHS = (5, 7, 6, 3)
CROSS_ENTROPY, SQUARED_ERROR = "cross-entropy", "squared error"


class Problem(NamedTuple):
  """A problem: activation, whether there are biases, loss, and the number of examples."""

  activation: str
  bias: bool
  loss: str
  n: int

  @property
  def name(self) -> str:
    """The displayed name."""
    return f"{self.activation}, {'' if self.bias else 'no '}bias, {self.loss}, N = {self.n}"


class Data(NamedTuple):
  """The numbers of a problem: `weights[l]` is (w, b) or (w, None)."""

  weights: list[tuple[np.ndarray, np.ndarray | None]]
  x: np.ndarray
  targets: np.ndarray


PROBLEMS = (
  Problem("tanh", True, CROSS_ENTROPY, 8),
  Problem("tanh", True, SQUARED_ERROR, 8),
  Problem("tanh", False, CROSS_ENTROPY, 8),
  Problem("relu", True, SQUARED_ERROR, 8),
  Problem("relu", False, CROSS_ENTROPY, 8),
  Problem("tanh", True, CROSS_ENTROPY, 1),
  Problem("relu", False, SQUARED_ERROR, 1),
)


def draw(problem: Problem) -> Data:
  """Draw the numbers of a problem, deterministically."""
  rng = np.random.default_rng(PROBLEMS.index(problem))
  weights: list[tuple[np.ndarray, np.ndarray | None]] = []
  for d_in, d_out in pairwise(WIDTHS):
    w = rng.normal(size=(d_in, d_out)) / np.sqrt(d_in)
    weights.append((w, rng.normal(size=d_out) if problem.bias else None))
  x = rng.normal(size=(problem.n, WIDTHS[0]))
  if problem.loss == CROSS_ENTROPY:
    return Data(weights, x, rng.integers(0, WIDTHS[-1], problem.n).astype(np.int32))
  return Data(weights, x, rng.normal(size=(problem.n, WIDTHS[-1])))


def bound_of(norms: np.ndarray) -> float:
  """Return C, a little below the median norm."""
  return 0.9 * float(np.median(norms))
