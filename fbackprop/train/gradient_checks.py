"""Our gradient against `jax.grad` at a moment of a run."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbackprop.train.steps import Batch, State, noise_key
from fbackprop.train.watching import make_gradient, make_health
from fbackprop.types import Array, Layer, Loss, Params
from fbackprop.verify.live import LiveCheck, make_live_check


def make_gradient_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int, clip_examples: float | None = None
) -> Callable[[State], LiveCheck]:
  """Builds `check(state) -> LiveCheck`, of `batch_size` examples that the step's number draws."""
  gradient_of = make_gradient(net, loss, clip_examples)

  def ours(params: Params, *batch: Any, **more: Any) -> tuple[Array, Params]:
    value, grads, _ = gradient_of(params, *batch, **more)
    return value, grads

  live = make_live_check(net, loss, ours=ours, clip_examples=clip_examples)

  def check(state: State) -> LiveCheck:
    rows = drawn_rows(state, examples, batch_size)
    key, weights = noise_key(net, state), examples.weights
    return live(state.params, examples.x, examples.targets, key=key, weights=weights, rows=rows)

  return check


def make_health_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int
) -> Callable[[State], dict[str, Any]]:
  """Builds `look(state)`, as of `make_health`, of the examples that a gradient check takes."""
  health_of = make_health(net, loss)

  def look(state: State) -> dict[str, Any]:
    rows = drawn_rows(state, examples, batch_size)
    x, targets, weights = jax.tree.map(lambda part: part[rows], examples)
    return health_of(state.params, x, targets, noise_key(net, state), weights)

  return look


def drawn_rows(state: State, examples: Batch, batch_size: int) -> np.ndarray:
  """The places of `batch_size` examples that the step's number draws."""
  generator = np.random.default_rng(int(state.step))
  return generator.choice(examples.x.shape[0], batch_size, replace=False)
