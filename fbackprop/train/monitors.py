"""Diagnostics of a run: gradient checks, and the health of its layers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbackprop.checks import example_count
from fbackprop.live_check import LiveCheck, Measure, make_live_check
from fbackprop.meshes import take_rows
from fbackprop.quantities._compute import compute
from fbackprop.train.gradients import make_gradient
from fbackprop.train.step import Batch, State, noise_key
from fbackprop.types import Layer, Loss

MOST_CLIPPED = 32


def make_gradient_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int, clip_examples: float | None = None
) -> Callable[[State], LiveCheck]:
  """Build `check(state) -> LiveCheck`, on `batch_size` examples drawn by the step's number.

  With clipping, at most `MOST_CLIPPED` examples, as `jax.grad` is taken of each in turn.
  """
  if clip_examples is not None:
    batch_size = min(batch_size, MOST_CLIPPED)
  gradient_of = make_gradient(net, loss, clip_examples)

  @functools.cache
  def measurement() -> Measure:
    # Imported at the first difference only; a run without one imports nothing of `verify`.
    from fbackprop.verify.live import make_measure

    return make_measure()

  live = make_live_check(
    net, loss, ours=lambda *batch, **more: gradient_of(*batch, **more)[:2],
    clip_examples=clip_examples, measure=lambda *point: measurement()(*point),
  )  # fmt: skip

  def check(state: State) -> LiveCheck:
    rows = drawn_rows(state, examples, batch_size)
    key, weights = noise_key(net, state), examples.weights
    return live(state.params, examples.x, examples.targets, key=key, weights=weights, rows=rows)

  return check


def make_health_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int
) -> Callable[[State], dict[str, Any]]:
  """Build a function that measures the health of a network's layers at a state.

  Args:
    net: the network, of captured layers.
    loss: the loss.
    examples: the training set.
    batch_size: number of examples used.

  Returns:
    `measure(state)`, in JSON types: by the layer's name, such as "0.dense", the fields of
    `LayerHealth`, each a number, or for the copies of a `repeat` a list. The examples are those of
    a gradient check at the same step. Dropout is off, since dropped units would count as dead.
  """
  health = jax.jit(compute(net, loss, ("health",)))

  def measure(state: State) -> dict[str, Any]:
    x, targets, weights = take_rows(examples, drawn_rows(state, examples, batch_size))
    found: Any = jax.device_get(health(state.params, x, targets, None, weights)[2]["health"])
    return {
      layer: {field: np.asarray(value).tolist() for field, value in own._asdict().items()}
      for layer, own in found.layers.items()
    }

  return measure


def drawn_rows(state: State, examples: Batch, count: int) -> np.ndarray:
  """Draw the indices of `count` examples from the step's number, `[count]`."""
  generator = np.random.default_rng(int(state.step))
  return generator.choice(example_count(examples.x), count, replace=False)
