"""A network as other programs hold it: a list of layers, one after another, each with its arrays.

`unroll` takes `serial`, `repeat` and `remat` apart, and `roll` puts parameters together again.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks, gates
from fbackprop.combinators import is_chain, remat, repeat, skip
from fbackprop.errors import RangeError, StructureError
from fbackprop.layers import activations
from fbackprop.layers.dense import DenseParams
from fbackprop.layers.normalization import NormParams
from fbackprop.types import Layer, Params

# Activations by their gate: a gate of the reader's own may have the name of one of ours.
NAME_OF_GATE = {
  id(getattr(gates, name)): name
  for name in (
    "relu", "leaky_relu", "relu6", "hard_tanh", "sigmoid", "tanh", "softplus", "elu", "selu",
    "gelu", "gelu_tanh", "silu", "mish", "identity",
  )
}  # fmt: skip


class Unit(NamedTuple):
  """A layer of the list.

  Attributes:
    kind: "dense", "layer_norm", "rms_norm", "dropout", "skip", or the name of an activation.
    layer: the layer.
    params: its parameters.
    inner: the list within a skip connection.
  """

  kind: str
  layer: Layer
  params: Params
  inner: tuple["Unit", ...] = ()

  @property
  def options(self) -> dict[str, Any]:
    """The constructor's options."""
    return dict(self.layer.options)


def units_of(where: str, net: Layer, params: Params, members: int | None = None) -> list[Unit]:
  """List a network's layers; see `unroll`.

  Raises:
    TypeError: `net` isn't a Layer.
    ValueError: the parameters are of another network; see `unroll`.
  """
  checks.check_unit(where, "net", net, Layer)
  like = jax.eval_shape(lambda: net.init(jax.random.key(0)))
  if members is not None:
    like = jax.tree.map(lambda leaf: leaf.update(shape=(members, *leaf.shape)), like)
  ours, own = (jax.tree.structure(tree) for tree in (like, params))
  if str(ours) == str(own):  # In any dtype.
    like = jax.tree.map(lambda leaf, own: leaf.update(dtype=own.dtype), like, params)
  checks.check_like(where, "params", params, like)
  return unroll(where, net, params, 0 if members is None else 1)


def unroll(where: str, net: Layer, params: Params, front: int = 0) -> list[Unit]:
  """List a network's layers in the order of its forward pass.

  Args:
    where: prefix of an error.
    net: a network of dense layers, activations, normalizations and dropout, in `serial`, `skip`,
      `repeat` and `remat`, such as any `mlp`.
    params: its parameters, or their shapes.
    front: the number of axes in front of each array, as of an ensemble's members.

  Raises:
    ValueError: it is a graph, or has another layer, such as one of the reader's own.
  """
  combinator = dict(net.options).get("combinator")
  if is_chain(net):
    pairs = zip(net.parts, params, strict=True)
    return [unit for part, own in pairs for unit in unroll(where, part, own, front)]
  if combinator is remat:
    return unroll(where, net.parts[0], params, front)
  if combinator is repeat:
    units = []
    for i in range(dict(net.options)["n"]):
      own = jax.tree.map(copy_of(i, front), params)
      units += unroll(where, net.parts[0], own, front)
    return units
  if combinator is skip:
    return [Unit("skip", net, params, tuple(unroll(where, net.parts[0], params, front)))]
  return [Unit(kind_of(where, net, params), net, params)]


def copy_of(i: int, front: int) -> Callable[[Any], Any]:
  """Return a function that takes copy i of a stacked array, or of its shape."""

  def take(leaf: Any) -> Any:
    if not hasattr(leaf, "__getitem__"):
      return leaf.update(shape=(*leaf.shape[:front], *leaf.shape[front + 1 :]))
    return leaf[(slice(None),) * front + (i,)]

  return take


def kind_of(where: str, layer: Layer, params: Params) -> str:
  """Name a primitive layer; raise for one that other programs don't have."""
  name = layer.name
  if isinstance(params, DenseParams) and name == "dense":
    return name
  if isinstance(params, NormParams) and name in ("layer_norm", "rms_norm"):
    return name
  options = dict(layer.options)
  if name == "dropout" and "rate" in options:
    return name
  if layer is activations.softmax:
    return "softmax"
  known = NAME_OF_GATE.get(id(options.get("gate")))
  if known is not None:
    return known
  if "nodes" in options:
    problem = "is a graph, which is no list of layers"
  else:
    problem = f"has the layer {name!r}, which has no counterpart there"
  advice = "fbackprop.export.to_stablehlo exports any network"
  raise StructureError(f"{problem}; {advice}", "net", where)


def roll(net: Layer, arrays: Iterator[Params], front: int = 0) -> Params:
  """Build a network's parameters from those of its layers, in the order of `unroll`."""
  combinator = dict(net.options).get("combinator")
  if is_chain(net):
    return tuple(roll(part, arrays, front) for part in net.parts)
  if combinator is remat or combinator is skip:
    return roll(net.parts[0], arrays, front)
  if combinator is repeat:
    copies = [roll(net.parts[0], arrays, front) for _ in range(dict(net.options)["n"])]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, front), *copies)
  return next(arrays)


def flat(units: list[Unit] | tuple[Unit, ...]) -> Iterator[Unit]:
  """Yield the primitive layers, those within skip connections too."""
  for unit in units:
    if unit.kind == "skip":
      yield from flat(unit.inner)
    else:
      yield unit


def refuse_skips(where: str, units: list[Unit]) -> None:
  """Raise for a skip connection, which a plain list of modules can't have."""
  if any(unit.kind == "skip" for unit in units):
    advice = "; export it as onnx or stablehlo"
    raise RangeError(f"has skip connections, and a Sequential none{advice}", "net", where)
