"""Our gradient against `jax.grad` at a moment of a run."""

from collections.abc import Callable

import numpy as np

from fbackprop.train.steps import Batch, State, noise_key
from fbackprop.types import Layer, Loss
from fbackprop.verify.live import LiveCheck, make_live_check


def make_gradient_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int
) -> Callable[[State], LiveCheck]:
  """Builds `check(state) -> LiveCheck`, of `batch_size` examples that the step's number draws."""
  live = make_live_check(net, loss)
  n = examples.x.shape[0]

  def check(state: State) -> LiveCheck:
    rows = np.random.default_rng(int(state.step)).choice(n, batch_size, replace=False)
    key, weights = noise_key(net, state), examples.weights
    return live(state.params, examples.x, examples.targets, key=key, weights=weights, rows=rows)

  return check
