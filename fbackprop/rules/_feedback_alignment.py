"""Feedback alignment: fixed random weights carry the cotangents back."""

from typing import Any

from fbackprop.rules.contract import RuleParams, make_rule, refuse_remat, zeros_like
from fbackprop.types import Layer, Residuals


def feedback_alignment(net: Layer) -> Layer:
  """Carry cotangents back by fixed random weights B in place of W.

    backpropagation:     x̄ = ȳ Wᵀ        feedback alignment:  x̄ = ȳ Bᵀ,     w̄ = xᵀ ȳ in both

  All that changes is an argument: the contract of `Layer.backward` is that its parameters are read
  for x̄ only, so the feedback is given in their place. Scales of normalisations are read too, and
  begin at 1 in W and in B.

  Args:
    net: any network without `remat`.

  Returns:
    A `Layer` with `RuleParams(params, feedback)`; the feedback is like `params`, drawn by
    `net.init`, and its update is zero.

  Raises:
    TypeError: `net` isn't a Layer, or has a `remat`.

  Example:
    >>> import jax
    >>> from fbackprop.networks import mlp
    >>> rule = feedback_alignment(mlp([4, 8, 2]))
    >>> params = rule.init(jax.random.key(0))
    >>> jax.tree.structure(params.feedback) == jax.tree.structure(params.params)
    True

  References:
    Lillicrap, Cownden, Tweed, Akerman, "Random synaptic feedback weights support error
    backpropagation for deep learning", Nature Communications 7:13276 (2016).
  """
  refuse_remat("feedback_alignment", net)

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    update, x_bar = net.backward(params.feedback, residuals, y_bar)
    return RuleParams(update, zeros_like(params.feedback)), x_bar

  return make_rule("feedback_alignment", net, backward, feedback=net.init)
