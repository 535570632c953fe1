"""The measured steps: ours, and the same step in plain JAX.

Plain JAX is `jax.value_and_grad` of `jax.numpy`, `jax.nn.relu`, `jax.nn.log_softmax` and a mean.
Both take the same arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from scripts.benchmarks.subjects import EXAMPLES, SIZES, Size

INPUTS = 4
Step = Callable[..., Any]
array: Callable[..., Any] = jax.ShapeDtypeStruct  # Untyped in jax.


def our_net(size: Size) -> tuple[fb.Layer, fb.Loss]:
  """Build the network and its loss, from our rules."""
  return fb.mlp(size.widths), fb.softmax_cross_entropy if size.classification else fb.squared_error


def our_step(size: Size) -> Step:
  """Build `step(params, x, targets) -> (mean loss, grads)` by our backward pass."""
  return fb.value_and_grad(*our_net(size))


def our_forward(size: Size) -> Step:
  """Build the forward pass `(params, x, targets) -> mean loss`, without residuals."""
  net, loss = our_net(size)
  return lambda params, x, targets: loss.forward(net.forward(params, x)[0], targets)[0].mean()


def plain_outputs(params: Any, x: Any, activation: Callable[[Any], Any]) -> Any:
  """Compute an MLP in plain JAX, with our tree of parameters."""
  *hidden, last = [layer for layer in params if layer]  # An activation's parameters are ().
  for w, b in hidden:
    x = activation(x @ w + b[None, :])
  return x @ last.w + last.b[None, :]


def plain_loss(size: Size) -> Step:
  """Build the same mean loss in plain JAX, with our tree of parameters."""

  def mean_loss(params: Any, x: Any, targets: Any) -> Any:
    outputs = plain_outputs(params, x, jax.nn.relu)
    if not size.classification:
      return 0.5 * ((outputs - targets) ** 2).sum(1).mean()
    log_p = jax.nn.log_softmax(outputs, axis=1)
    return -jnp.take_along_axis(log_p, targets[:, None], axis=1).mean()

  return mean_loss


def plain_step(size: Size) -> Step:
  """Build `step(params, x, targets) -> (mean loss, grads)` by autodiff."""
  return jax.value_and_grad(plain_loss(size))


def draw_params(size: Size) -> Any:
  """Draw the initial parameters of training."""
  return our_net(size)[0].init(jax.random.key(0))


def draw_data(size: Size, lead: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Draw examples `[*lead, D_0]` and their targets, on the host."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(*lead, size.widths[0])).astype(np.float32)
  if size.classification:
    return x, rng.integers(0, size.widths[-1], lead).astype(np.int32)
  return x, rng.normal(size=(*lead, size.widths[-1])).astype(np.float32)


def draw_batches(size: Size, seed: int) -> tuple[Any, ...]:
  """Draw `(x, targets)` of one timed call, with a leading axis for the scan if there is one."""
  lead = (size.scan, size.batch) if size.scan > 1 else (size.batch,)
  return tuple(map(jnp.asarray, draw_data(size, lead, seed)))


def draw_inputs(size: Size) -> tuple[Any, list[Any]]:
  """Draw parameters, and the different batches that the calls cycle through."""
  return draw_params(size), [draw_batches(size, seed) for seed in range(INPUTS)]


def cycling(step: Step, params: Any, batches: list[Any]) -> Callable[[int], None]:
  """Build a call of a step, on the batch of a number, that waits for its result."""
  return lambda number: jax.block_until_ready(step(params, *batches[number % len(batches)]))


# --- Epochs ---------------------------------------------------------------------------------------


class Epochs(NamedTuple):
  """A call that runs some epochs, continues from its last state, and waits for the result."""

  run: Callable[[int], None]
  epochs: int


def draw_examples(name: str) -> tuple[np.ndarray, np.ndarray]:
  """Draw the synthetic data set of a size, on the host."""
  return draw_data(SIZES[name], (EXAMPLES[name],), seed=0)


def draw_rows(name: str, rng: np.random.Generator) -> np.ndarray:
  """Draw the examples of each step of an epoch in a new order `[steps, N]`, for a Python loop."""
  return rng.permutation(EXAMPLES[name]).reshape(-1, SIZES[name].batch)
