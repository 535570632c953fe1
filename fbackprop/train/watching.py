"""The gradient of a step, and what is read off its factors on the way.

What is asked for here needs the pair (x, ȳ) of each layer, so the network is one of `captured`
layers; see `fbackprop.quantities`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import DtypeError, check_number, describe
from fbackprop.hints import hint
from fbackprop.quantities.gradients import plain
from fbackprop.quantities.moments import NoiseScale
from fbackprop.quantities.passes import compute
from fbackprop.quantities.vitals import Health
from fbackprop.train.method_names import WatchName
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params


class Watched(NamedTuple):
  """What a step tells of its examples; None of what isn't asked for.

  Attributes:
    noise_scale: of the batch, each part `[]`; add the parts up over steps before you divide.
    clipped: the share of the examples whose gradients were shortened, `[]`.
  """

  noise_scale: NoiseScale | None = None
  clipped: Array | None = None


def make_gradient(
  net: Layer, loss: Loss, clip_examples: float | None = None, watch: Sequence[WatchName] = ()
) -> Callable[..., tuple[Array, Params, Watched]]:
  """The gradient that a step goes along.

  Args:
    net: of captured layers, if anything is asked for.
    loss: the loss.
    clip_examples: C; the gradient is then Σ_i min(1, C / ‖g_i‖) g_i / N, with g_i that of example
      i's loss, times N w_i / Σ w where there are weights. None for the plain mean.
    watch: what is asked for; "health" isn't a matter of steps, and read by `make_health`.

  Returns:
    `f(params, x, targets, *, key=None, weights=None) -> (loss, grads, Watched)`, with the mean
    loss, which isn't clipped.

  Raises:
    TypeError, ValueError: one of these can't be.
  """
  check_watch(watch)
  names: dict[str, dict[str, Any]] = {}
  if clip_examples is not None:
    check_clip_examples(clip_examples)
    names = {"clipped_gradient": {"max_norm": clip_examples}, "example_sqnorms": {}}
  if "noise_scale" in watch:
    names["noise_scale"] = {}
  plain_pass, one_pass = value_and_grad(plain(net), loss), compute(net, loss, names)

  def loss_and_gradient(
    params: Params,
    x: Array,
    targets: Any,
    *,
    key: Array | None = None,
    weights: Array | None = None,
  ) -> tuple[Array, Params, Watched]:
    if not names:
      value, grads = plain_pass(params, x, targets, key=key, weights=weights)
      return value, grads, Watched()
    value, grads, found = one_pass(params, x, targets, key, weights)
    noise = found.get("noise_scale")
    if clip_examples is None:
      return value, grads, Watched(noise)
    n = max(x.shape[0], 1)
    grads = jax.tree.map(lambda total: total / n, found["clipped_gradient"])
    is_clipped = jnp.sqrt(found["example_sqnorms"]) > clip_examples
    return value, grads, Watched(noise, is_clipped.mean(dtype=jnp.float32))

  return loss_and_gradient


def make_health(net: Layer, loss: Loss) -> Callable[..., dict[str, Any]]:
  """Compiles `f(params, x, targets, key, weights)`: what `health` tells, as JSON can hold it.

  Returns:
    By the layer's name, such as "0.dense", the fields of `LayerHealth`: a number of each, or of the
    copies of a `repeat` a list.
  """
  look = jax.jit(compute(net, loss, ("health",)))

  def health_of(
    params: Params, x: Array, targets: Any, key: Array | None, weights: Array | None
  ) -> dict[str, Any]:
    found: Health = jax.device_get(look(params, x, targets, key, weights)[2]["health"])
    return {
      layer: {field: np.asarray(value).tolist() for field, value in own._asdict().items()}
      for layer, own in found.layers.items()
    }

  return health_of


def mean_noise_scale(found: NoiseScale | None, finite: np.ndarray) -> float | None:
  """The noise scale of some steps: the mean of tr Σ over that of ‖G‖².

  Each of the two is unbiased in a step, and their quotient isn't.

  Args:
    found: of the steps, each part `[steps]`.
    finite: whether a step was taken, `[steps]`.

  Returns:
    In examples; None where the steps are too few to see the gradient through its noise, so that
    the mean ‖G‖² isn't above 0.
  """
  if found is None or not finite.any():
    return None
  trace, sqnorm = (part[finite].astype(np.float64).mean() for part in (found.trace, found.sqnorm))
  return float(trace / sqnorm) if sqnorm > 0 and np.isfinite(trace) else None


def mean_clipped(found: np.ndarray | None, finite: np.ndarray) -> float | None:
  """The share of the examples of some steps that were clipped; None where none was taken."""
  return None if found is None or not finite.any() else float(found[finite].mean(dtype=np.float64))


def check_watch(watch: Any) -> None:
  """Refuses what can't be watched."""
  if isinstance(watch, str) or not isinstance(watch, Sequence):
    raise DtypeError(f"watch must be a tuple of names, got {describe(watch)}")
  for name in watch:
    if name not in get_args(WatchName):
      told = hint(str(name), get_args(WatchName))
      raise ValueError(f"watch: {name!r} is nothing that is known; {told}")


def check_clip_examples(clip_examples: Any) -> None:
  """Refuses what is no length."""
  check_number("make_step", "clip_examples", clip_examples)
  if clip_examples <= 0:
    raise ValueError(f"make_step: clip_examples must be above 0, got {clip_examples}")
