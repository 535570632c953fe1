"""Localisation of a divergence: the first layer with a nonfinite value or cotangent."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from fbackprop.combinators import is_chain, keys_of_parts
from fbackprop.quantities._compute import captured_pass
from fbackprop.quantities.gradients import plain, without_factors
from fbackprop.quantities.kernels import example_sqnorms
from fbackprop.train.optimizers import make_update
from fbackprop.train.step import Batch, State, holds_floats, layer_norms, make_gradient, noise_key
from fbackprop.transforms import mean_weights, weighted_mean
from fbackprop.types import Array, Layer, Loss, Params

SQUARED_NORM = "squared norm of its gradient"


# A layer of a chain: its name in a report, the layer, its parameters, and its key.
Link = tuple[str, Layer, Params, Array | None]


def locate_nonfinite(
  net: Layer,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  state: State,
  batch: Batch,
  clip_examples: float | None = None,
) -> str:
  """Locate the first nonfinite number, in the order of computation.

  The step is recomputed one operation at a time, since the fused program hides its intermediate
  values.

  Args:
    net: the network; a chain, nested or not, is searched layer by layer, any other layer as a
      whole.
    loss: the loss.
    optimizer: the optimizer.
    state: the state before the failed step.
    batch: the batch of that step.
    clip_examples: as of `make_step`.

  Returns:
    A place, such as "layer 2 (dense): value", "loss, fed by layer 2 (dense)", "layer 0 (dense):
    cotangent", "layer 0 (dense): gradient", "layer 0 (dense): norm of the gradient" where only the
    squares overflow, "optimiser's state" or "update"; where examples are clipped, "example 3 of the
    batch: squared norm of its gradient" too. "nowhere, computed one operation at a time" if all of
    these are finite: the compiled step rounds differently.
  """
  found = computed(net, loss, optimizer, state, batch, clip_examples)
  places = (place for place, value in found if not finite(value))
  return next(places, "nowhere, computed one operation at a time")


def computed(
  net: Layer, loss: Loss, optimizer: Any, state: State, batch: Batch, clip_examples: float | None
) -> Iterator[tuple[str, Any]]:
  """Compute a step; yield each value with its place, before any that depends on it."""
  key = noise_key(net, state)
  links = links_of(net, state.params, key)
  x, kept = batch.x, []
  for name, layer, own, own_key in links:
    x, residuals = layer.forward(own, x, own_key)
    kept.append(residuals)
    yield f"{name}: value", x
  losses, loss_residuals = loss.forward(x, batch.targets)
  losses_bar = mean_weights(losses, batch.weights)
  value = weighted_mean(losses_bar, losses)
  yield f"loss, fed by {name}", value

  y_bar = loss.backward(loss_residuals, losses_bar)
  leaves: list[Array] = []  # Leaves of the gradient, in the order of the parameters.
  for (name, layer, own, _), residuals in zip(reversed(links), reversed(kept), strict=True):
    yield f"{name}: cotangent", y_bar
    params_bar, y_bar = layer.backward(own, residuals, y_bar)
    params_bar = without_factors(params_bar)
    yield f"{name}: gradient", params_bar
    yield f"{name}: norm of the gradient", layer_norms(params_bar)
    leaves[:0] = jax.tree.leaves(params_bar)

  # The plain gradient is finite: what remains are clipping and the optimizer.
  grads = jax.tree.unflatten(jax.tree.structure(state.params), leaves)
  if clip_examples is not None:
    args = (state.params, batch.x, batch.targets)
    _, captured = captured_pass("make_step", net, loss, *args, key, batch.weights)
    for i, sqnorm in enumerate(np.asarray(example_sqnorms(captured))):
      yield f"example {i} of the batch: {SQUARED_NORM}", sqnorm
    _, grads, _ = make_gradient(net, loss, clip_examples)(*args, key=key, weights=batch.weights)
    yield "clipped gradient", grads
  update = make_update(optimizer, plain(net), loss)
  params, opt_state = update(state.params, state.opt_state, batch, key, value, grads)
  for after, before in zip(*map(jax.tree.leaves, (opt_state, state.opt_state)), strict=True):
    if finite(before):
      yield "optimiser's state", after
  yield "update", params


def links_of(net: Layer, params: Params, key: Array | None, place: str = "") -> list[Link]:
  """List the layers of a chain in order, those of a nested chain under places such as 1.0."""
  if not is_chain(net) or not net.parts:
    return [(f"layer {place or 0} ({net.name})", net, params, key)]
  places = [f"{place}.{i}" if place else str(i) for i in range(len(net.parts))]
  inner = zip(net.parts, params, keys_of_parts(key, net.parts), places, strict=True)
  return [link for part in inner for link in links_of(*part)]


def finite(tree: Any) -> bool:
  """Return whether every number in a pytree is finite."""
  leaves = filter(holds_floats, jax.tree.leaves(tree))
  return all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)
