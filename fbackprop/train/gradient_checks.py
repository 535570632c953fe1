"""Our gradient against `jax.grad` at a moment of a run."""

from collections.abc import Callable
from typing import Any

from fbackprop.train.gradients import make_gradient
from fbackprop.train.step import Batch, State, drawn_rows, noise_key
from fbackprop.types import Array, Layer, Loss, Params
from fbackprop.verify.live import LiveCheck, make_live_check

MOST_CLIPPED = 32


def make_gradient_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int, clip_examples: float | None = None
) -> Callable[[State], LiveCheck]:
  """Builds `check(state) -> LiveCheck`, of `batch_size` examples that the step's number draws.

  Of clipped examples no more than `MOST_CLIPPED`: what is done is done to each, and `jax.grad` goes
  from one to the next.
  """
  if clip_examples is not None:
    batch_size = min(batch_size, MOST_CLIPPED)
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
