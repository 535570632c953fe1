"""The arguments of the bank: small, the same every time, no two dimensions alike but on purpose."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fbackprop.types import Array


def draw(*shapes: tuple[int, ...], seed: int = 0, dtype: Any = jnp.float32) -> tuple[Array, ...]:
  """Standard normal arrays, one for each shape."""
  generator = np.random.default_rng(seed)
  return tuple(jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes)


def draw_positive(
  *shapes: tuple[int, ...], seed: int = 0, dtype: Any = jnp.float32
) -> tuple[Array, ...]:
  """Arrays of numbers between 0.5 and 2."""
  generator = np.random.default_rng(seed)
  return tuple(jnp.asarray(generator.uniform(0.5, 2, size=shape), dtype) for shape in shapes)


def draw_labels(n: int, classes: int, seed: int = 0) -> Array:
  """Labels [N] from 0 to C - 1."""
  return jnp.asarray(np.random.default_rng(seed).integers(classes, size=n), jnp.int32)


def draw_probabilities(n: int, classes: int, seed: int = 0) -> Array:
  """Rows [N, C] that are positive and sum to one."""
  rows = np.random.default_rng(seed).uniform(0.1, 1, size=(n, classes))
  return jnp.asarray(rows / rows.sum(1, keepdims=True), jnp.float32)


def draw_mlp(sizes: Sequence[int], seed: int = 0) -> tuple[dict[str, Array], ...]:
  """Parameters of an MLP: for each layer a dictionary of w and b."""
  generator = np.random.default_rng(seed)
  return tuple(
    {
      "b": jnp.asarray(generator.normal(size=d_out) / 4, jnp.float32),
      "w": jnp.asarray(generator.normal(size=(d_in, d_out)) / np.sqrt(d_in), jnp.float32),
    }
    for d_in, d_out in itertools.pairwise(sizes)
  )
