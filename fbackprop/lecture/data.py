"""The data sets of the network's page, and the cases on which it is compared with JAX."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.gates import (
  gelu,
  leaky_relu,
  relu,
  sigmoid,
  silu,
  softplus,
  tanh,
)
from fbackprop.layers.activations import activation
from fbackprop.layers.dense import DenseParams
from fbackprop.losses.classification import sigmoid_cross_entropy
from fbackprop.losses.regression import squared_error
from fbackprop.networks import mlp
from fbackprop.transforms import value_and_grad

ACTIVATIONS = (relu, tanh, sigmoid, leaky_relu, gelu, silu, softplus)
LOSSES = {"sigmoid_cross_entropy": sigmoid_cross_entropy, "squared_error": squared_error}
POINTS = 60
DATA_SEED, CASE_SEED = 0, 1


@cache
def data_sets() -> dict[str, dict[str, Any]]:
  """Generate the data sets: of each the points `[N, D_in]`, the targets and the loss."""
  rng = np.random.default_rng(DATA_SEED)
  half = POINTS // 2
  labels = np.repeat([0.0, 1.0], half)
  angle = np.pi * rng.random(half)
  moon = np.stack([np.cos(angle), np.sin(angle)], 1)
  moons = np.concatenate([moon, [1, 0.5] - moon]) - [0.5, 0.25]
  around = 2 * np.pi * rng.random(POINTS)
  radius = np.where(labels == 0, 0.4, 1.2) + 0.08 * rng.standard_normal(POINTS)
  circles = radius[:, None] * np.stack([np.cos(around), np.sin(around)], 1)
  square = rng.uniform(-1.2, 1.2, (POINTS, 2))
  square = square[np.abs(square.prod(1)) > 0.05]
  turn = np.tile(np.linspace(0.15, 1, half), 2)
  way = 3 * np.pi * turn + np.pi * labels
  spiral = 1.3 * turn[:, None] * np.stack([np.cos(way), np.sin(way)], 1)
  line = np.linspace(-1.5, 1.5, 40)[:, None]
  classes = {
    "moons": (moons + 0.07 * rng.standard_normal((POINTS, 2)), labels),
    "circles": (circles, labels),
    "xor": (square, (square.prod(1) > 0).astype(float)),
    "spiral": (spiral, labels),
  }
  found = {name: describe(*data, "sigmoid_cross_entropy") for name, data in classes.items()}
  return found | {"sine": describe(line, np.sin(2.5 * line[:, 0]), "squared_error")}


def describe(x: np.ndarray, targets: np.ndarray, loss: str) -> dict[str, Any]:
  """Return a data set as JSON has it, in numbers that a reader can type."""
  return {"x": x.round(3).tolist(), "targets": targets.round(3).tolist(), "loss": loss}


@cache
def cases() -> list[dict[str, Any]]:
  """Compute loss and gradients of a small network for each activation and loss, in float64."""
  rng = np.random.default_rng(CASE_SEED)
  found = []
  with jax.enable_x64(True):
    for gate in ACTIVATIONS:
      for name, loss in LOSSES.items():
        net = mlp([2, 3, 2, 1], activation(gate))
        sizes = [(2, 3), (3, 2), (2, 1)]
        layers = [(rng.standard_normal(size), 0.3 * rng.standard_normal(size[1])) for size in sizes]
        x = rng.standard_normal((4, 2))
        targets = np.array([0.0, 1.0, 1.0, 0.0]) if name != "squared_error" else x[:, 0]
        dense = [DenseParams(jnp.asarray(w), jnp.asarray(b)) for w, b in layers]
        params = (dense[0], (), dense[1], (), dense[2])
        step = value_and_grad(net, loss)
        value, grads = step(params, jnp.asarray(x), jnp.asarray(targets)[:, None])
        found.append({
          "activation": gate.name, "loss": name, "x": x.tolist(), "targets": targets.tolist(),
          "params": [as_data(each) for each in dense], "value": float(value),
          "grads": [as_data(each) for each in grads[::2]],
        })  # fmt: skip
  return found


def as_data(layer: Any) -> dict[str, Any]:
  """Return a dense layer's weights, or their gradients, as JSON has them."""
  return {"w": np.asarray(layer.w).tolist(), "b": np.asarray(layer.b).tolist()}
