"""The order of updates: all at once, which is the gradient, or one after another.

Backpropagation computes every cotangent with the old weights, and then all weights change: the
simultaneous rule, Jacobi's in the language of linear systems. In Gauss and Seidel's, each layer
changes as soon as its own gradient is known, and the cotangent is carried on by its new weights. A
well-known worked example of backpropagation does so without saying it, and its numbers differ from
the gradient's in the sixth digit.
"""

from typing import Any

import jax

from fbackprop import checks
from fbackprop.rules.contract import Links, RuleParams, has_params, make_rule, refuse_remat
from fbackprop.types import Layer, Residuals


def gauss_seidel(net: Layer, rate: float) -> Layer:
  """Carry cotangents back by the weights that gradient descent at `rate` has already updated.

    w̄ = xᵀ ȳ,     x̄ = ȳ (W − rate · w̄)ᵀ

  Args:
    net: a chain of layers without `remat`; a part that is no chain is one layer.
    rate: the rate of the gradient descent that it is used with; at 0 it is backpropagation.

  Returns:
    A `Layer` with `RuleParams(params, ())`. Each layer's backward rule runs twice.

  Raises:
    TypeError: `net` isn't a Layer, or has a `remat`; `rate` isn't a number.
    ValueError: `rate` is negative.

  References:
    Mazur, "A step by step backpropagation example" (2015): the error after one step of rate 0.5 is
    0.291027924 in this order, and 0.291027774 in the simultaneous one.
  """
  refuse_remat("gauss_seidel", net)
  checks.check_number("gauss_seidel", "rate", rate, 0)
  rate = float(rate)
  links = Links("gauss_seidel", net)

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    own, kept = links.flatten(params.params), links.flatten(residuals)
    updates: list[Any] = []
    bar = y_bar
    for i, layer in reversed(list(enumerate(links.layers))):
      own_bar, x_bar = layer.backward(own[i], kept[i], bar)
      if has_params(layer):
        updated = jax.tree.map(lambda p, g: p - rate * g, own[i], own_bar)
        _, x_bar = layer.backward(updated, kept[i], bar)
      updates.insert(0, own_bar)
      bar = x_bar
    return RuleParams(links.unflatten(updates), ()), bar

  return make_rule("gauss_seidel", net, backward, linear=rate == 0)
