"""Sign symmetry: the feedback has the signs of the weights and other magnitudes."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from fbackprop.combinators import copies
from fbackprop.errors import check_choice
from fbackprop.rules.contract import RuleParams, make_rule, refuse_remat, zeros_like
from fbackprop.rules.norms import root_mean_square
from fbackprop.types import Array, Layer, Params, Residuals

Magnitudes = Literal["uniform", "batch", "fixed"]
OWN_KEY = 2**31 - 1  # Folded into the key of a step, so that no mask of a dropout is the same.


def sign_symmetry(net: Layer, magnitudes: Magnitudes = "uniform") -> Layer:
  """Carry cotangents back by weights B with the signs of W.

    uniform  (uSF):   B = rms(W) sign W
    batch   (brSF):   B = |M| ∘ sign W, with M drawn by `net.init` in each step
    fixed   (frSF):   B = |M| ∘ sign W, with M drawn once

  The published uniform rule has B = sign W and needs a normalisation of the updates; the root mean
  square keeps the size of W instead. In evaluation, without a key, "batch" is "uniform".

  Args:
    net: any network without `remat`.
    magnitudes: "uniform", "batch" or "fixed".

  Returns:
    A `Layer` with `RuleParams(params, feedback)`; the feedback is `()`, or for "fixed" M.

  Raises:
    TypeError: `net` isn't a Layer, or has a `remat`.
    ValueError: `magnitudes` is none of the three.

  References:
    Liao, Leibo, Poggio, "How important is weight symmetry in backpropagation?", AAAI (2016); the
    names of Moskovitz, Litwin-Kumar, Abbott, arXiv:1812.06488 (2018).
  """
  refuse_remat("sign_symmetry", net)
  check_choice("sign_symmetry", "magnitudes", magnitudes, get_args(Magnitudes))

  def forward(params: Params, x: Any, key: Array | None = None) -> tuple[Any, Residuals]:
    y, residuals = net.forward(params, x, key if net.draws else None)
    return y, (residuals, key if magnitudes == "batch" else None)

  def weights(params: RuleParams, key: Array | None) -> Params:
    """Return B."""
    sizes = params.feedback
    if magnitudes == "batch" and key is not None:
      sizes = net.init(jax.random.fold_in(key, OWN_KEY))
    elif magnitudes != "fixed":
      sizes = jax.tree.map(size_of, params.params, copies(net, params.params))
    return jax.tree.map(lambda m, w: jnp.abs(m) * jnp.sign(w), sizes, params.params)

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    kept, key = residuals
    update, x_bar = net.backward(weights(params, key), kept, y_bar)
    return RuleParams(update, zeros_like(params.feedback)), x_bar

  return make_rule(
    "sign_symmetry", net, backward, feedback=net.init if magnitudes == "fixed" else None,
    forward=forward, draws=magnitudes == "batch", weights=weights,
  )  # fmt: skip


def size_of(w: Array, loops: int) -> Array:
  """Compute the rms of each matrix, or of a vector; copies of a `repeat` have one each."""
  axes = tuple(range(max(w.ndim - 2, loops), w.ndim))
  return root_mean_square(w, axes).astype(w.dtype)
