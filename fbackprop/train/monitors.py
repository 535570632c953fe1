"""What a run was asked to watch: each layer's health at a moment, and means over some steps."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbackprop.meshes import take_rows
from fbackprop.quantities._compute import compute
from fbackprop.quantities._health import Health
from fbackprop.quantities.moments import NoiseScale
from fbackprop.train.step import Batch, State, drawn_rows
from fbackprop.types import Layer, Loss


def make_health_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int
) -> Callable[[State], dict[str, Any]]:
  """Builds what tells the health of a run's layers at a state, as JSON can hold it.

  Args:
    net: of captured layers.
    loss: the loss.
    examples: that are learned from.
    batch_size: how many of them are looked at.

  Returns:
    `look(state)`: by the layer's name, such as "0.dense", the fields of `LayerHealth`, a number
    each, or of the copies of a `repeat` a list. Of the examples that a gradient check of the same
    step takes, and without dropout, whose units would pass for dead.
  """
  health = jax.jit(compute(net, loss, ("health",)))

  def look(state: State) -> dict[str, Any]:
    rows = drawn_rows(state, examples, batch_size)
    x, targets, weights = take_rows(examples, rows)
    found: Health = jax.device_get(health(state.params, x, targets, None, weights)[2]["health"])
    return {
      layer: {field: np.asarray(value).tolist() for field, value in own._asdict().items()}
      for layer, own in found.layers.items()
    }

  return look


def mean_noise_scale(found: NoiseScale | None, finite: np.ndarray) -> float | None:
  """The noise scale of some steps: the mean of tr Σ over that of ‖G‖².

  Each of the two is unbiased in a step, and their quotient isn't. A step in which an example's
  squared norm overflowed has neither, and is left out.

  Args:
    found: of the steps, each part `[steps]`.
    finite: whether a step was taken, `[steps]`.

  Returns:
    In examples; None where the steps are too few to see the gradient through its noise, so that
    the mean ‖G‖² isn't above 0.
  """
  if found is None:
    return None
  known = finite & np.isfinite(found.trace) & np.isfinite(found.sqnorm)
  if not known.any():
    return None
  trace, sqnorm = (part[known].astype(np.float64).mean() for part in (found.trace, found.sqnorm))
  return float(trace / sqnorm) if sqnorm > 0 else None


def mean_clipped(found: np.ndarray | None, finite: np.ndarray) -> float | None:
  """The share of the examples of some steps that were clipped; None where none was taken."""
  return None if found is None or not finite.any() else float(found[finite].mean(dtype=np.float64))
