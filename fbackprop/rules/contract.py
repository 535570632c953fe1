"""The contract of a rule: a network in, a Layer out, whose parameters are `RuleParams`.

To add a rule, write `backward(params, residuals, y_bar) -> (RuleParams(update, feedback_update),
x_bar)` and hand it to `make_rule`. A rule that goes layer by layer takes the network's `Links`, the
layers of its chain.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.combinators import is_chain, keys_of_parts, remat
from fbackprop.errors import DtypeError, StructureError
from fbackprop.types import Array, Layer, Params, Residuals, exportable

# Folded into the key of `init`. By a small number k it would be the key of a chain's layer k, and
# feedback of the shape of its weights would be those weights.
FEEDBACK_KEY = 2**31


@exportable
class RuleParams(NamedTuple):
  """Parameters of a network under a rule.

  Attributes:
    params: the network's own.
    feedback: what the backward pass uses besides; what stands for weights has their shape.
  """

  params: Params
  feedback: Any


def make_rule(
  name: str,
  net: Layer,
  backward: Callable[[RuleParams, Residuals, Any], tuple[RuleParams, Any]],
  *,
  feedback: Callable[[Array], Any] | None = None,
  forward: Callable[..., tuple[Any, Residuals]] | None = None,
  draws: bool = False,
  linear: bool = True,
  weights: Callable[[RuleParams, Array | None], Any] | None = None,
) -> Layer:
  """Build the Layer of a rule.

  Args:
    name: its name.
    net: the network.
    backward: `backward(params, residuals, y_bar) -> (RuleParams, x_bar)`, the updates in the places
      of `params`, zeros for what is fixed. `y_bar` and `residuals` are as of the network.
    feedback: `feedback(key)` draws the feedback; None for none, `()`.
    forward: `forward(params.params, x, key) -> (y, residuals)`, if more is kept than by the
      network; y must be the network's.
    draws: whether the rule uses the key, which it keeps in its residuals.
    linear: whether the updates are linear in `y_bar`.
    weights: `weights(params, key)`, what stands for the network's parameters in the backward pass,
      if that isn't the feedback itself.

  Returns:
    The `Layer`. `init(key)` gives the parameters that `net.init(key)` gives.

  Raises:
    TypeError: `net` isn't a Layer.

  Example:
    >>> from fbackprop.networks import mlp
    >>> net = mlp([2, 3, 1])
    >>> def half(params, residuals, y_bar):
    ...   grads, x_bar = net.backward(params.params, residuals, y_bar)
    ...   return RuleParams(jax.tree.map(lambda g: g / 2, grads), ()), x_bar
    >>> make_rule("half", net, half).init(jax.random.key(0)).feedback
    ()
  """
  checks.check_unit(name, "net", net, Layer)
  net_forward = net.forward if forward is None else forward

  def init(key: Array) -> RuleParams:
    own = () if feedback is None else feedback(jax.random.fold_in(key, FEEDBACK_KEY))
    return RuleParams(net.init(key), own)

  def rule_forward(params: Params, x: Any, key: Array | None = None) -> tuple[Any, Residuals]:
    check_params(name, params)
    return net_forward(params.params, x, key)

  def rule_backward(params: Params, residuals: Residuals, y_bar: Any) -> tuple[Params, Any]:
    check_params(name, params)
    return backward(params, residuals, y_bar)

  draws, options = draws or net.draws, () if weights is None else (("weights", weights),)
  return Layer(name, init, rule_forward, rule_backward, (net,), options, draws, linear=linear)


def check_params(name: str, params: Any) -> None:
  """Raise for the parameters of a plain network, or of anything else."""
  wanted = "be RuleParams(params, feedback), as init gives them"
  checks.check_that(name, "params", params, isinstance(params, RuleParams), wanted, StructureError)


def network_of(layer: Layer) -> Layer:
  """Return the network under a rule; any other layer unchanged."""
  if len(layer.parts) != 1 or "combinator" in dict(layer.options):
    return layer
  is_rule = isinstance(jax.eval_shape(layer.init, jax.random.key(0)), RuleParams)
  return layer.parts[0] if is_rule else layer


def refuse_remat(name: str, net: Any) -> None:
  """Raise for a network that recomputes, which it would with the feedback in place of weights."""
  checks.check_unit(name, "net", net, Layer)
  if dict(net.options).get("combinator") is remat:
    problem = "must have no remat: it computes again with the parameters that backward is given"
    raise DtypeError(problem, "net", name)
  for part in net.parts:
    refuse_remat(name, part)


def zeros_like(tree: Any) -> Any:
  """Return the update of what is fixed."""
  return jax.tree.map(jnp.zeros_like, tree)


# --- Layer by layer -------------------------------------------------------------------------------


class Links:
  """The layers of a chain, nested chains flattened, in blocks.

  A block begins at a layer with parameters, and has the layers without parameters behind it; those
  before the first layer with parameters belong to the first block. A layer that isn't a chain (a
  graph, a skip, a repeat) is one link, and inside of it backpropagation is exact.

  Attributes:
    layers: the links.
    blocks: the indices of each block's links.
  """

  def __init__(self, name: str, net: Layer) -> None:
    checks.check_unit(name, "net", net, Layer)
    self.name, self.net, self.layers = name, net, list(flat_layers(net))
    starts = [i for i, layer in enumerate(self.layers) if has_params(layer)]
    if not starts:
      raise StructureError("must have a layer with parameters", "net", name)
    ends = [*starts[1:], len(self.layers)]
    self.blocks = [list(range(a, b)) for a, b in zip([0, *starts[1:]], ends, strict=True)]

  def flatten(self, tree: Any) -> list[Any]:
    """Return the node of each link of a tree like the parameters."""
    return list(flat_nodes(self.net, tree))

  def unflatten(self, nodes: list[Any]) -> Any:
    """Return the tree of such nodes."""
    return nest(self.net, iter(nodes))

  def forward(
    self, params: Params, x: Array, key: Array | None = None
  ) -> tuple[Array, tuple[Residuals, list[Array]]]:
    """Compute as the network does, and keep the output of each block besides."""
    own, keys, kept, outputs = self.flatten(params), self.keys(key), [], []
    for block in self.blocks:
      x, residuals = self.forward_block(block, own, x, keys)
      kept += residuals
      outputs.append(x)
    return x, (self.unflatten(kept), outputs)

  def forward_block(
    self, block: list[int], own: list[Any], x: Array, keys: list[Any]
  ) -> tuple[Array, list[Residuals]]:
    """Compute the links of a block."""
    kept = []
    for i in block:
      x, residuals = self.layers[i].forward(own[i], x, keys[i])
      kept.append(residuals)
    return x, kept

  def backward_block(
    self, block: list[int], own: list[Any], kept: list[Residuals], bar: Array
  ) -> tuple[list[Any], Array]:
    """Pull a cotangent back through the links of a block; `kept` are the residuals of all links."""
    bars: list[Any] = []
    for i in reversed(block):
      own_bar, bar = self.layers[i].backward(own[i], kept[i], bar)
      bars.insert(0, own_bar)
    return bars, bar

  def keys(self, key: Array | None) -> list[Array | None]:
    """Return the key of each link."""
    return list(flat_keys(self.net, key))

  def refuse_several(self, *, last: bool = True) -> None:
    """Raise for a graph with several inputs or outputs at a block's end; `last`: also the last."""
    for i, block in enumerate(self.blocks):
      begin, end = (dict(self.layers[place].options) for place in (block[0], block[-1]))
      is_free = {"inputs": i == 0, "output": i == len(self.blocks) - 1 and not last}
      for side, options in (("inputs", begin), ("output", end)):
        names = options.get(side, "")
        if not (isinstance(names, str) or is_free[side]):
          problem = f"must give one array to each block, and one as y, got a graph with {side}"
          raise StructureError(f"{problem}={names!r}", "net", self.name)

  def widths(self, params: Params, x: Any = None) -> list[int]:
    """Return the width of each block's output, for x or for an x of the width that is stated."""

    def outputs_of(params: Params, x: Any) -> list[Array]:
      return self.forward(params, x)[1][1]

    if x is not None:
      checks.check_arrays(self.name, "x", x)
    shape, dtype = (1, width_of(self.net) or 1), jax.tree.leaves(params)[0].dtype
    like = jax.eval_shape(lambda: jnp.zeros(shape, dtype)) if x is None else x
    try:
      return [output.shape[1] for output in jax.eval_shape(outputs_of, params, like)]
    except (TypeError, ValueError) as error:
      if x is not None:
        raise
      problem = "must begin with a layer that states its width, as fbackprop.dense does; else give"
      example = "x=, an array like the data or its jax.ShapeDtypeStruct"
      raise StructureError(f"{problem} {example}", "net", self.name) from error


def has_params(layer: Layer) -> bool:
  """Return whether a layer has parameters."""
  return bool(jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0))))


def width_of(layer: Layer) -> int | None:
  """Return the width of a layer's input, as its constructor was given it; None if it wasn't."""
  options, parts = dict(layer.options), layer.parts
  for option in ("d_in", "width", "c_in"):
    if option in options:
      return int(options[option] * options.get("length", 1))
  if "widths" in options:
    return int(sum(options["widths"]))
  if "nodes" in options:
    nodes = zip(options["nodes"], parts, strict=True)
    parts = tuple(part for node, part in nodes if node.inputs == (options["inputs"],))
  return next(filter(None, map(width_of, parts)), None)


def flat_layers(net: Layer) -> Iterator[Layer]:
  """Yield the links of a chain."""
  if not is_chain(net):
    yield net
    return
  for part in net.parts:
    yield from flat_layers(part)


def flat_nodes(net: Layer, tree: Any) -> Iterator[Any]:
  """Yield the node of each link."""
  if not is_chain(net):
    yield tree
    return
  for part, node in zip(net.parts, tree, strict=True):
    yield from flat_nodes(part, node)


def flat_keys(net: Layer, key: Array | None) -> Iterator[Array | None]:
  """Yield the key that each link gets in the network."""
  if not is_chain(net):
    yield key
    return
  for part, own in zip(net.parts, keys_of_parts(key, net.parts), strict=True):
    yield from flat_keys(part, own)


def nest(net: Layer, nodes: Iterator[Any]) -> Any:
  """Return the nodes of links as the tree of the network."""
  return tuple(nest(part, nodes) for part in net.parts) if is_chain(net) else next(nodes)
