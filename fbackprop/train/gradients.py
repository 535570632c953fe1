"""The gradient of a step: of the mean loss or of clipped examples, with its diagnostics."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from fbackprop.checks import example_count
from fbackprop.quantities._compute import captured_pass
from fbackprop.quantities.clipping import clipping_factors, weighted_gradient
from fbackprop.quantities.gradients import NoiseScale, mean_gradient, noise_scale, plain
from fbackprop.ranges import check_in_range
from fbackprop.train.arguments import WatchName, check_watch
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params, exportable


@exportable
class Watched(NamedTuple):
  """The diagnostics of a step's examples; None for those that aren't requested.

  Attributes:
    noise_scale: gradient noise scale of the batch, each part `[]`; sum the parts over steps before
      dividing, as their ratio is biased.
    clipped: fraction of the examples whose gradients were clipped, `[]`.
  """

  noise_scale: NoiseScale | None = None
  clipped: Array | None = None


def make_gradient(
  net: Layer, loss: Loss, clip_examples: float | None = None, watch: Sequence[WatchName] = ()
) -> Callable[..., tuple[Array, Params, Watched]]:
  """Build the gradient function of a step.

  Args:
    net: the network, with captured layers if examples are clipped or the noise scale is watched;
      see `fbackprop.quantities`.
    loss: the loss.
    clip_examples: C; the gradient is then Σ_i min(1, C / ‖g_i‖) g_i / N, where g_i is the gradient
      of example i's loss, times N w_i / Σ w with weights. None for the plain mean.
    watch: "noise_scale" or nothing.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> (loss, grads, Watched)`, with the mean
    loss without clipping.

  Raises:
    TypeError, ValueError: `clip_examples` isn't a norm in float32's range, or `watch` holds a name
      that isn't a diagnostic of a step.
  """
  check_watch(watch, ("noise_scale",))
  if clip_examples is not None:
    check_in_range("make_step", "clip_examples", clip_examples)
  plain_pass = value_and_grad(plain(net), loss)

  def loss_and_gradient(
    params: Params, x: Array, targets: Any, *, key: Any = None, weights: Any = None
  ) -> tuple[Array, Params, Watched]:
    if clip_examples is None and not watch:
      return *plain_pass(params, x, targets, key=key, weights=weights), Watched()
    value, captured = captured_pass("make_step", net, loss, params, x, targets, key, weights)
    noise = noise_scale(captured) if watch else None
    if clip_examples is None:
      return value, mean_gradient(captured), Watched(noise)
    factors = clipping_factors(captured, clip_examples)
    # Divided before the sum, as in the mean without clipping.
    grads = weighted_gradient(captured, factors / max(example_count(x), 1))
    return value, grads, Watched(noise, (factors < 1).mean(dtype=jnp.float32))

  return loss_and_gradient
