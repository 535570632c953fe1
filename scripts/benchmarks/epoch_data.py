"""The data of every contestant of `bench.py epoch`, and its interface."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scripts.benchmarks.contestants import EXAMPLES
from scripts.benchmarks.models import draw_data
from scripts.benchmarks.sizes import SIZES


class Epochs(NamedTuple):
  """A call that runs some epochs, continues from its last state, and waits for the result."""

  run: Callable[[int], None]
  epochs: int


def draw_examples(name: str) -> tuple[np.ndarray, np.ndarray]:
  """Draw the synthetic data set of a size, on the host."""
  return draw_data(SIZES[name], (EXAMPLES[name],), seed=0)


def draw_batches(name: str, rng: np.random.Generator) -> np.ndarray:
  """Draw the examples of each step of an epoch in a new order `[steps, N]`, for a Python loop."""
  return rng.permutation(EXAMPLES[name]).reshape(-1, SIZES[name].batch)
