"""The data of every contestant of `bench.py epoch`, and its interface."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scripts.benchmarks.contestants import EXAMPLES
from scripts.benchmarks.sizes import SIZES


class Epochs(NamedTuple):
  """A call that runs some epochs, continues from its last state, and waits for the result."""

  run: Callable[[int], None]
  epochs: int


def draw_data(name: str) -> tuple[np.ndarray, np.ndarray]:
  """Draw synthetic examples and their targets, on the host."""
  size, n = SIZES[name], EXAMPLES[name]
  rng = np.random.default_rng(0)
  x = rng.normal(size=(n, size.widths[0])).astype(np.float32)
  if size.classification:
    return x, rng.integers(0, size.widths[-1], n).astype(np.int32)
  return x, rng.normal(size=(n, size.widths[-1])).astype(np.float32)


def draw_batches(name: str, rng: np.random.Generator) -> np.ndarray:
  """Draw the examples of each step of an epoch in a new order `[steps, N]`, for a Python loop."""
  return rng.permutation(EXAMPLES[name]).reshape(-1, SIZES[name].batch)
