"""Difference target propagation: learned inverses carry targets back, in place of cotangents."""

from typing import Any

import jax

from fbackprop import checks
from fbackprop.combinators import serial
from fbackprop.layers.dense import dense
from fbackprop.ranges import POSITIVE, check_range
from fbackprop.rules.contract import Links, RuleParams, has_params, make_rule
from fbackprop.types import Array, Layer, Params, Residuals

OWN_KEY = 2**31 - 3  # Folded into the key of a step, so that no mask of a dropout is the same.


def difference_target_propagation(
  net: Layer, *, step: float = 0.1, noise: float = 0.1, x: Any = None
) -> Layer:
  """Carry targets back by a learned decoder g_l of each block f_l, with a correction of its error.

    ĥ_L = h_L − s ē_L,     ĥ_{l−1} = h_{l−1} + g_l(ĥ_l) − g_l(h_l),

  with ē the cotangent of an example's own loss. Each block descends its local loss
  ½ ‖h_l − ĥ_l‖² / s, so that the last one's update is its gradient; each decoder descends
  ½ ‖g_l(f_l(h + ε)) − (h + ε)‖² at its block's input h under noise ε.

  In a linear network whose decoders are inverses, ĥ_l − h_l is the Gauss–Newton step of h_l. The
  first target is that of the output, as in Meulemans et al.; in Lee et al.'s algorithm 1 it is that
  of the last hidden block, ĥ_{L−1} = h_{L−1} − s ∂/∂h_{L−1}, by the true gradient.

  Args:
    net: a chain of layers; blocks as in `direct_feedback_alignment`.
    step: s, above 0.
    noise: the standard deviation of ε; without a key ε is 0.
    x: as of `direct_feedback_alignment`.

  Returns:
    A `Layer` with `RuleParams(params, feedback)`; the feedback has the parameters of a decoder for
    each block but the first: a dense layer, and the activation of the block before.

  Raises:
    TypeError: an argument has another type.
    ValueError: `step` isn't above 0, or `noise` is negative; a block's output, or y, isn't one
      array.

  References:
    Lee, Zhang, Fischer, Bengio, "Difference target propagation", ECML (2015), eq. 8–15; Meulemans
    et al., "A theoretical framework for target propagation", NeurIPS (2020), theorem 2.
  """
  name = "difference_target_propagation"
  check_range(name, "step", step, POSITIVE)
  checks.check_number(name, "noise", noise, 0)
  step, noise = float(step), float(noise)
  links = Links(name, net)
  links.refuse_several()

  def decoders(params: Params) -> list[Layer]:
    widths, dtype = links.widths(params, x), jax.tree.leaves(params)[0].dtype
    made = []
    for i in range(1, len(links.blocks)):
      layers = [links.layers[place] for place in links.blocks[i - 1]]
      after = layers[1 + list(map(has_params, layers)).index(True) :]
      made.append(serial(dense(widths[i], widths[i - 1], dtype=dtype), *after))
    return made

  def feedback(key: Array) -> tuple[Params, ...]:
    made = decoders(jax.eval_shape(net.init, key))
    keys = jax.random.split(key, max(len(made), 1))
    return tuple(decoder.init(keys[i]) for i, decoder in enumerate(made))

  def forward(params: Params, x: Array, key: Array | None = None) -> tuple[Array, Residuals]:
    y, kept = links.forward(params, x, key if net.draws else None)
    return y, (kept, key)

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    (kept, outputs), key = residuals
    own, kept = links.flatten(params.params), links.flatten(kept)
    n, made = max(y_bar.shape[0], 1), decoders(params.params)
    updates: list[Any] = []
    feedback_bar: list[Any] = []
    x_bar, bar = None, y_bar
    for i, block in reversed(list(enumerate(links.blocks))):
      bars, x_bar = links.backward_block(block, own, kept, bar)
      updates[:0] = bars
      if i:
        decoder, weights, h = made[i - 1], params.feedback[i - 1], outputs[i]
        # In cotangents, h̄ = (h − ĥ) / (s N): targets of a mean loss, per unit of the step.
        back, reach = decoder.forward(weights, h)[0], step * n
        bar = (back - decoder.forward(weights, h - reach * bar)[0]) / reach
        feedback_bar.insert(0, decoder_bar(decoder, weights, own, outputs[i - 1], i, key))
    return RuleParams(links.unflatten(updates), tuple(feedback_bar)), x_bar

  def decoder_bar(
    decoder: Layer, weights: Params, own: list[Any], h: Array, i: int, key: Array | None
  ) -> Params:
    """Compute the gradient of a decoder's reconstruction error at its block's input."""
    if key is not None and noise:
      own_key = jax.random.fold_in(key, OWN_KEY - i)
      h = h + noise * jax.random.normal(own_key, h.shape, h.dtype)
    code, _ = links.forward_block(links.blocks[i], own, h, [None] * len(links.layers))
    again, residuals = decoder.forward(weights, code)
    return decoder.backward(weights, residuals, (again - h) / max(h.shape[0], 1))[0]

  return make_rule(
    name, net, backward, feedback=feedback, forward=forward, draws=noise > 0, linear=False
  )
