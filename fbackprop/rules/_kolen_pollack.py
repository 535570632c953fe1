"""Kolen and Pollack's rule: the feedback learns to be the weights, without being told them."""

from typing import Any

import jax

from fbackprop import checks
from fbackprop.rules.contract import RuleParams, make_rule, refuse_remat
from fbackprop.types import Layer, Params, Residuals


def kolen_pollack(net: Layer, decay: float = 1e-3) -> Layer:
  """Carry cotangents back by weights B that get the updates of W, with the same weight decay.

    x̄ = ȳ Bᵀ,     W ← W − η (w̄ + λ W),     B ← B − η (w̄ + λ B)

  so that W − B shrinks by the factor 1 − η λ in each step, whatever w̄ is. The decay is part of the
  update: use an optimiser that treats both alike, such as gradient descent, and no other decay.

  Args:
    net: any network without `remat`.
    decay: λ, from 0, which is feedback alignment with moving feedback.

  Returns:
    A `Layer` with `RuleParams(params, feedback)`; the feedback is like `params`.

  Raises:
    TypeError: `net` isn't a Layer, or has a `remat`.
    ValueError: `decay` is negative.

  References:
    Kolen, Pollack, "Backpropagation without weight transport", ICNN (1994); Akrout et al., "Deep
    learning without weight transport", NeurIPS (2019), eq. 16 and 17.
  """
  refuse_remat("kolen_pollack", net)
  checks.check_number("kolen_pollack", "decay", decay, 0)
  decay = float(decay)

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    update, x_bar = net.backward(params.feedback, residuals, y_bar)

    def decayed(own: Params) -> Params:
      return jax.tree.map(lambda bar, value: bar + decay * value, update, own)

    return RuleParams(decayed(params.params), decayed(params.feedback)), x_bar

  return make_rule("kolen_pollack", net, backward, feedback=net.init, linear=decay == 0)
