"""Where a run broke: the first layer whose value or cotangent isn't finite."""

from typing import Any

import jax
import numpy as np

from fbackprop.train.steps import Batch
from fbackprop.transforms import mean_weights
from fbackprop.types import Array, Layer, Loss, Params


def locate_nonfinite(
  net: Layer, loss: Loss, params: Params, batch: Batch, key: Array | None = None
) -> str:
  """Names the first place, in the order of computation, where a number isn't finite.

  Args:
    net: a chain (its `parts` are walked one by one), or any layer, which is then walked whole.
    loss: the loss.
    params: the parameters before the step that failed.
    batch: the batch of that step.
    key: the key of that step's forward pass, for a chain that draws.

  Returns:
    Such as "layer 2 (dense): value", "loss", "layer 0 (dense): cotangent", "layer 0 (dense):
    gradient", or "update" if all of these are finite and the optimiser's step overflowed.
  """
  chain = net.parts and type(params) is tuple and len(params) == len(net.parts) and not net.draws
  layers = net.parts if chain else (net,)
  layer_params = params if chain else (params,)

  x, kept = batch.x, []
  for i, layer in enumerate(layers):
    x, residuals = layer.forward(layer_params[i], x, key)
    kept.append(residuals)
    if not finite(x):
      return f"layer {i} ({layer.name}): value"
  losses, loss_residuals = loss.forward(x, batch.targets)
  losses_bar = mean_weights(losses, batch.weights)
  if not finite((losses_bar * losses).sum()):
    return "loss"

  y_bar = loss.backward(loss_residuals, losses_bar)
  for i in reversed(range(len(layers))):
    if not finite(y_bar):
      return f"layer {i} ({layers[i].name}): cotangent"
    params_bar, y_bar = layers[i].backward(layer_params[i], kept[i], y_bar)
    if not finite(params_bar):
      return f"layer {i} ({layers[i].name}): gradient"
  return "update"


def finite(tree: Any) -> bool:
  """Whether every number in the tree is finite."""
  return all(bool(np.isfinite(np.asarray(leaf)).all()) for leaf in jax.tree.leaves(tree))
