"""How well the members of an ensemble do, and all of them together."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.train.averaging import mean_outputs
from fbackprop.train.examples import holds_labels
from fbackprop.train.step import Batch
from fbackprop.types import Array, Layer, Loss, Params


class Scores(NamedTuple):
  """Of an evaluation what the test examples say; None without any."""

  test_losses: np.ndarray | None = None
  test_accuracies: np.ndarray | None = None
  test_loss: float | None = None
  test_accuracy: float | None = None


def make_ensemble_evaluate(net: Layer, loss: Loss, axis: int) -> Callable[[Params, Batch], Scores]:
  """Builds `evaluate(params, batch)`, without randomness; `axis` is that of the members."""

  @jax.jit
  def measure(params: Params, batch: Batch) -> Any:
    def outputs_of(params: Params) -> Array:
      return net.forward(params, batch.x)[0]

    def score(outputs: Array) -> tuple[Array, Array | None]:
      mean = loss.forward(outputs, batch.targets)[0].mean()
      is_labelled = holds_labels(batch.targets)
      return mean, (outputs.argmax(1) == batch.targets).mean() if is_labelled else None

    outputs = jax.vmap(outputs_of, axis)(params)  # [K, N, C]
    return *jax.vmap(score)(outputs), *score(mean_outputs(outputs, loss.name))

  def evaluate(params: Params, batch: Batch) -> Scores:
    losses, accuracies, own_loss, own_accuracy = measure(params, batch)
    if accuracies is None:
      return Scores(np.asarray(losses), None, float(own_loss), None)
    return Scores(np.asarray(losses), np.asarray(accuracies), float(own_loss), float(own_accuracy))

  return evaluate


def mean_losses(chunks: list[np.ndarray], size: int) -> np.ndarray:
  """Each member's mean over the steps that it took, `[K]`; NaN where it took none."""
  losses = np.concatenate([np.zeros((0, size)), *chunks])
  counts = (~np.isnan(losses)).sum(0)
  sums = np.nansum(losses, axis=0, dtype=np.float64)
  means: np.ndarray = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
  return means
