"""Activations known by their values, whatever function or operators they are."""

import functools
from typing import Any

import jax
import numpy as np

from fbackprop.export.chain import NAME_OF_GATE
from fbackprop.layers import activations
from fbackprop.types import Layer

# Where activations differ: gelu and gelu_tanh by up to 5e-4.
POINTS = np.concatenate([np.linspace(-6, 9, 61), [-30.0, 30.0]]).astype(np.float32)
TOLERANCE = 1e-5


@functools.cache
def known_values() -> dict[str, np.ndarray]:
  """Return the values of every activation at `POINTS`."""
  layers: dict[str, Layer] = {name: getattr(activations, name) for name in NAME_OF_GATE.values()}
  values = jax.jit(
    lambda x: {name: layer.forward((), x)[0][0] for name, layer in layers.items()}
  )(POINTS[None, :])  # fmt: skip
  return {name: np.asarray(own) for name, own in values.items()}


def name_of_values(values: Any) -> str | None:
  """Return the activation with these values at `POINTS`; None if there is none."""
  found = np.asarray(values, np.float64)
  if found.shape != POINTS.shape:
    return None
  near = functools.partial(np.allclose, found, rtol=TOLERANCE, atol=TOLERANCE)
  matches = [name for name, own in known_values().items() if near(own)]
  return matches[0] if len(matches) == 1 else None
