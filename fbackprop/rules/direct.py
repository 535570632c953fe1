"""Direct feedback: the error, or the target itself, goes to every block past those above it."""

from collections.abc import Callable
from typing import Any

import jax

from fbackprop.meshes import product
from fbackprop.rules.contract import Links, RuleParams, make_rule, zeros_like
from fbackprop.types import Array, Layer, Residuals


def direct_feedback_alignment(net: Layer, *, x: Any = None) -> Layer:
  """Carry the cotangent of the output to each block by fixed random weights.

    h̄_l = ȳ B_lᵀ  for the output h_l of each block but the last;   inside a block, backpropagation.

  A block is a layer with parameters and the layers without behind it.

  Args:
    net: a chain of layers, such as an `mlp`; a part that is no chain is one block.
    x: an array like the data, a `jax.ShapeDtypeStruct` or a tree of them, for a network whose first
      layer doesn't state its width.

  Returns:
    A `Layer` with `RuleParams(params, feedback)`; the feedback has B_l `[D_l, C]` for each block
    but the last, the shape of the product of the weights that it stands for.

  Raises:
    TypeError: `net` isn't a Layer.
    ValueError: no layer has parameters; a block's output, or y, isn't one array. In `init`: the
      width of x isn't stated.

  References:
    Nøkland, "Direct feedback alignment provides learning in deep neural networks", NIPS (2016),
    eq. 6 and 7.
  """
  return directly("direct_feedback_alignment", net, lambda y_bar: y_bar, x)


def drtp(net: Layer, *, x: Any = None) -> Layer:
  """Carry the target, in place of the error, to each block by fixed random weights.

    h̄_l = −t B_lᵀ / N,   t_c = 1 where ȳ_c < 0, else 0

  Of a loss of probabilities (softmax or sigmoid cross-entropy) the cotangent p − t is negative at
  the target classes alone, so that t is the one-hot target, and hidden blocks needn't wait for the
  output. It isn't where p rounds to 1 (in float32 from a margin of about 17): there t is 0; with
  smoothed labels t is 1 at each class whose p is below its share. The weight of an example doesn't
  reach the hidden blocks, but that of 0 does: then ȳ is 0, and so is t.

  Args, Returns, Raises: as `direct_feedback_alignment`.

  References:
    Frenkel, Lefebvre, Bol, "Learning without feedback: fixed random learning signals allow for
    feedforward training of deep neural networks", Frontiers in Neuroscience 15 (2021).
  """

  def target_of(y_bar: Array) -> Array:
    return -(y_bar < 0).astype(y_bar.dtype) / max(y_bar.shape[0], 1)

  return directly("drtp", net, target_of, x)


def directly(name: str, net: Layer, signal_of: Callable[[Array], Array], x: Any) -> Layer:
  """Build the rule that carries a signal of the output's cotangent to each block."""
  links = Links(name, net)
  links.refuse_several()

  def feedback(key: Array) -> tuple[Array, ...]:
    params = jax.eval_shape(net.init, key)
    *widths, outputs = links.widths(params, x)
    init, dtype = jax.nn.initializers.glorot_uniform(), jax.tree.leaves(params)[0].dtype
    keys = jax.random.split(key, len(links.blocks))
    return tuple(init(keys[i], (width, outputs), dtype) for i, width in enumerate(widths))

  def backward(params: RuleParams, residuals: Residuals, y_bar: Any) -> tuple[RuleParams, Any]:
    own, kept = links.flatten(params.params), links.flatten(residuals)
    signal, x_bar = signal_of(y_bar), y_bar
    updates: list[Any] = []
    for block, b in reversed(list(zip(links.blocks, (*params.feedback, None), strict=True))):
      bar = y_bar if b is None else product(signal, b.T)
      bars, x_bar = links.backward_block(block, own, kept, bar)
      updates[:0] = bars
    return RuleParams(links.unflatten(updates), zeros_like(params.feedback)), x_bar

  return make_rule(name, net, backward, feedback=feedback, linear=name != "drtp")
