"""Diagnostics of a run: gradient checks, layer health, and averages over steps."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbackprop.live_check import Functions, Gradients, LiveCheck, Measure, make_live_check
from fbackprop.meshes import take_rows
from fbackprop.quantities._compute import compute
from fbackprop.quantities._health import Health
from fbackprop.quantities.moments import NoiseScale
from fbackprop.train.gradients import make_gradient
from fbackprop.train.step import Batch, State, drawn_rows, noise_key
from fbackprop.types import Array, Layer, Loss, Params

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

  def ours(params: Params, *batch: Any, **more: Any) -> tuple[Array, Params]:
    value, grads, _ = gradient_of(params, *batch, **more)
    return value, grads

  @functools.cache
  def measurement() -> Measure:
    # Imported at the first difference only; a run without one imports nothing of `verify`.
    from fbackprop.verify.live import make_measure

    return make_measure()

  def measure(functions: Functions, args: tuple[Any, ...], leaves: list[Any]) -> Gradients:
    return measurement()(functions, args, leaves)

  live = make_live_check(net, loss, ours=ours, clip_examples=clip_examples, measure=measure)

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
    rows = drawn_rows(state, examples, batch_size)
    x, targets, weights = take_rows(examples, rows)
    found: Health = jax.device_get(health(state.params, x, targets, None, weights)[2]["health"])
    return {
      layer: {field: np.asarray(value).tolist() for field, value in own._asdict().items()}
      for layer, own in found.layers.items()
    }

  return measure


def mean_noise_scale(found: NoiseScale | None, finite: np.ndarray) -> float | None:
  """Compute the noise scale of some steps: the mean of tr Σ over the mean of ‖G‖².

  Both are unbiased in each step, and their ratio isn't. A step is excluded if the squared norm of
  an example overflowed.

  Args:
    found: estimates of the steps, each part `[steps]`.
    finite: whether each step was finite, `[steps]`.

  Returns:
    The noise scale in examples; None if the mean ‖G‖² isn't positive, as there are too few steps to
    resolve the gradient in its noise.
  """
  if found is None:
    return None
  known = finite & np.isfinite(found.trace) & np.isfinite(found.sqnorm)
  if not known.any():
    return None
  trace, sqnorm = (part[known].astype(np.float64).mean() for part in (found.trace, found.sqnorm))
  return float(trace / sqnorm) if sqnorm > 0 else None


def mean_clipped(found: np.ndarray | None, finite: np.ndarray) -> float | None:
  """Compute the fraction of clipped examples in some steps; None if none was finite."""
  return None if found is None or not finite.any() else float(found[finite].mean(dtype=np.float64))
