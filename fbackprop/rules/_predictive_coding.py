"""Predictive coding: hidden states settle before the weights change."""

from typing import Any, NamedTuple

import jax

from fbackprop import checks
from fbackprop.ranges import POSITIVE, SHARE, check_range
from fbackprop.rules.contract import Links, RuleParams, make_rule, zeros_like
from fbackprop.types import Array, Layer, Params, Residuals


class Descent(NamedTuple):
  """How the states descend."""

  steps: int
  rate: float
  momentum: float


def predictive_coding(
  net: Layer,
  *,
  steps: int = 20,
  rate: float = 0.1,
  precision: float = 1.0,
  momentum: float = 0.0,
) -> Layer:
  """Let the states of the blocks descend an energy, and then each block descend its own term of it.

  With free states h_1, ..., h_{L−1} that begin at their feedforward values, and the output clamped
  at t = y − ē, ē being the cotangent of an example's own loss (for `squared_error` t is the
  target), the energy of an example is

    E = Σ_{l<L} ½ ‖ε_l‖² + ½ λ ‖ε_L‖²,     ε_l = h_l − f_l(h_{l−1}),   h_0 = x,   h_L = t.

  The states descend it by `steps` of `rate`:  ∂E/∂h_l = ε_l − J_{l+1}ᵀ π_{l+1} ε_{l+1},  π = λ for
  the last block and else 1. The update of a block is that of E / λ, −J_θᵀ π_l ε_l / λ. As λ → 0 the
  updates at equilibrium tend to the gradient, and the difference to zero linearly.

  Args:
    net: a chain of layers; blocks as in `direct_feedback_alignment`.
    steps: steps of inference, at least 1.
    rate: the rate of inference, above 0.
    precision: λ, above 0.
    momentum: the share of a state's last step that is added to the next one (the heavy ball), from
      0 and below 1. Without it the states of L blocks take some L² steps to settle, with it some L.

  Returns:
    A `Layer` with `RuleParams(params, ())`. A backward pass costs `steps` passes through the
    network and back.

  Raises:
    TypeError: an argument has another type.
    ValueError: an argument is out of range; a block's output, or y, isn't one array.

  References:
    Rao, Ballard, Nature Neuroscience 2 (1999); Whittington, Bogacz, Neural Computation 29 (2017);
    Millidge, Tschantz, Buckley, Neural Computation 34 (2022). The energy at equilibrium of a linear
    network: Innocenti, Achour, Singh, Buckley, NeurIPS (2024), theorem 1.
  """
  name = "predictive_coding"
  checks.check_size(name, "steps", steps)
  check_range(name, "rate", rate, POSITIVE)
  check_range(name, "precision", precision, POSITIVE)
  check_range(name, "momentum", momentum, SHARE)
  descent = Descent(int(steps), float(rate), float(momentum))
  precision = float(precision)
  links = Links(name, net)
  links.refuse_several()

  def forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    y, (_, outputs) = links.forward(params, x, key)
    return y, (x, outputs, key)

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    x, outputs, key = residuals
    n = max(y_bar.shape[0], 1)
    last = outputs[-1] - n * y_bar
    states = settle(links, params.params, x, outputs[:-1], last, key, precision, descent)
    _, weighted, pull = errors(links, params.params, [x, *states, last], key, precision)
    bars = [-error / (precision * n) for error in weighted]
    pulled = [pull(i, bar) for i, bar in enumerate(bars)]
    updates = [own_bar for own_bars, _ in pulled for own_bar in own_bars]
    return RuleParams(links.unflatten(updates), ()), pulled[0][1]

  return make_rule(name, net, backward, forward=forward, linear=False)


def settle(
  links: Links,
  params: Params,
  x: Array,
  states: list[Array],
  last: Array,
  key: Array | None,
  precision: float,
  descent: Descent,
) -> list[Array]:
  """Descend the energy by the states of the hidden blocks."""
  _, rate, momentum = descent

  def descend(_: Any, found: tuple[list[Array], list[Array]]) -> tuple[list[Array], list[Array]]:
    states, moved = found
    own, weighted, pull = errors(links, params, [x, *states, last], key, precision)
    above = [pull(i, error)[1] for i, error in enumerate(weighted) if i]
    moved = [
      momentum * v - rate * (error - from_above)
      for v, error, from_above in zip(moved, own[:-1], above, strict=True)
    ]
    return [h + v for h, v in zip(states, moved, strict=True)], moved

  if not states:
    return []
  return jax.lax.fori_loop(0, descent.steps, descend, (states, zeros_like(states)))[0]


def errors(
  links: Links, params: Params, states: list[Array], key: Array | None, precision: float
) -> tuple[list[Array], list[Array], Any]:
  """Compute ε_l and π_l ε_l of each block.

  Returns:
    `(errors, weighted errors, pull)`; `pull(l, bar)` is the backward pass of block l.
  """
  own, keys, kept = links.flatten(params), links.keys(key), []
  found = []
  for block, before, after in zip(links.blocks, states[:-1], states[1:], strict=True):
    y, residuals = links.forward_block(block, own, before, keys)
    kept += residuals
    found.append(after - y)
  weighted = [*found[:-1], precision * found[-1]]

  def pull(i: int, bar: Array) -> tuple[list[Any], Array]:
    return links.backward_block(links.blocks[i], own, kept, bar)

  return found, weighted, pull
