"""Traversal of a network and of its tree of factors.

In a `repeat` the copies of a layer are stacked, so that the tree lists all copies of a block's
first layer before those of its second, although they alternate in the computation: `layer_order`
and `in_order` restore that order.
"""

from collections.abc import Callable, Iterator
from operator import lt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import check_dtype, check_floating, check_unit
from fbackprop.combinators import serial, skip
from fbackprop.errors import ShapeError, StructureError, describe
from fbackprop.layers.factors import Affine, Elementwise, Factors, Linear, is_factors
from fbackprop.repetition import remat, repeat
from fbackprop.types import Array, Layer


def read(where: str, captured: Any) -> list[Factors]:
  """Return the factors of each layer in the order of the tree; raise for any other array.

  A layer that isn't captured returns its summed gradient, which doesn't determine the examples'
  gradients; a tree without any factors doesn't determine the number of examples.
  """
  found: list[Factors] = []
  for path, node in jax.tree_util.tree_leaves_with_path(captured, is_leaf=is_factors):
    place = f"captured{jax.tree_util.keystr(path)}"
    if not is_factors(node):
      raise StructureError(
        f"must be the factors of a layer, got {describe(node)}; every layer that has parameters "
        "must be made by fbackprop.quantities.captured(make), as in fbackprop.mlp(sizes, "
        "dense=captured(fbackprop.dense), normalization=captured(fbackprop.layer_norm))",
        place, where,
      )  # fmt: skip
    check_factors(where, place, node)
    if found and node[0].shape[-2] != found[0][0].shape[-2]:
      first = found[0][0].shape[-2]
      problem = f"must have the {first} examples of the first layer, got {describe(node[0])}"
      raise ShapeError(problem, place, where)
    found.append(node)
  if not found:
    problem = f"must hold the factors of a layer, got {describe(captured)}: no layer of the network"
    raise StructureError(f"{problem} has parameters", "captured", where)
  return found


def check_factors(where: str, place: str, factors: Factors) -> None:
  """Raise for two arrays that aren't valid factors of one layer."""
  first, second = (f"{place}.{field}" for field in factors._fields)
  x, y_bar = factors
  check_floating(where, first, x)
  check_floating(where, second, y_bar)
  check_dtype(where, second, y_bar, x.dtype)
  same = x.shape[:-1] == y_bar.shape[:-1] if is_dense(factors) else x.shape == y_bar.shape
  if x.ndim < 2 or not same:
    wanted = "[..., N, D_in] and [..., N, D_out]" if is_dense(factors) else "[..., N, D], both"
    problem = f"must be {wanted}, got {describe(x)} and {describe(y_bar)}"
    raise ShapeError(problem, f"{first} and {second}", where)


def count_examples(layers: list[Factors]) -> int:
  """Return N, the same for every layer."""
  return int(layers[0][0].shape[-2])


def replace_factors(function: Callable[[Any], Any], captured: Any) -> Any:
  """Map `function` over each layer's factors in a pytree."""
  return jax.tree.map(function, captured, is_leaf=is_factors)


def is_dense(factors: Factors) -> bool:
  """Return whether an example's gradient is an outer product of its factors, not elementwise."""
  return isinstance(factors, Affine | Linear)


def has_offset(factors: Factors) -> bool:
  """Return whether there is a bias or a shift, whose gradient is y_bar itself."""
  return isinstance(factors, Affine | Elementwise)


def layer_order(net: Layer) -> list[str]:
  """Name the layers with parameters in the order of computation, with numbered copies.

  Args:
    net: any network; captured or not.

  Returns:
    Names such as "0.dense", and "2.1.dense[3]" for the fourth copy in a `repeat`.

  Raises:
    TypeError: `net` isn't a Layer.

  Example:
    >>> import fbackprop as fb
    >>> layer_order(fb.mlp([2, 8, 8, 8, 1], repeat_hidden=True))
    ['0.dense', '1.1.dense[0]', '1.1.dense[1]', '3.dense']
  """
  check_unit("layer_order", "net", net, Layer)
  params = jax.eval_shape(net.init, jax.random.key(0))
  places = [p for p in walk("layer_order", net, params) if jax.tree.leaves(p.node)]
  return [place.name + "".join(f"[{i}]" for i in place.copy) for place in places]


class LayerPath(NamedTuple):
  """The path of a layer, or of one copy of it: its name, its node of the tree, its copy."""

  name: str
  node: Any
  copy: tuple[int, ...]


def walk(
  where: str, net: Layer, tree: Any, path: str = "", copy: tuple[int, ...] = ()
) -> Iterator[LayerPath]:
  """Yield the layers of a network with their nodes of a parameter tree, in order of computation."""
  options = dict(net.options)
  combinator = options.get("combinator")
  if combinator is serial:
    if type(tree) is not tuple or is_factors(tree) or len(tree) != len(net.parts):
      place = f"at {path or 'its top'!r} is a chain of {len(net.parts)} layers"
      problem = f"must be of the network, which {place}, got {describe(tree)}"
      raise StructureError(problem, "captured", where)
    for i, (part, node) in enumerate(zip(net.parts, tree, strict=True)):
      yield from walk(where, part, node, f"{path}{i}.", copy)
  elif combinator is repeat:
    for i in range(options["n"]):
      yield from walk(where, net.parts[0], tree, path, (*copy, i))
  elif combinator is skip or combinator is remat:
    yield from walk(where, net.parts[0], tree, path, copy)
  elif jax.tree.leaves(tree):
    copies = tree[0].shape[:-2] if is_factors(tree) else None
    # Of parameters, as in `layer_order`, the copies aren't known.
    if copies is not None and not (len(copies) == len(copy) and all(map(lt, copy, copies))):
      place = f"has a copy {list(copy)} of {path + net.name}"
      problem = f"must be of the network, which {place}, got {describe(tree[0])}"
      raise StructureError(problem, "captured", where)
    yield LayerPath(path + net.name, tree, copy)


def in_order(places: list[LayerPath], look: Callable[[Factors], Array]) -> Array:
  """Compute a flag for each layer, in the order of computation, `[L]`.

  All copies in a `repeat` are examined in one operation, and then sorted, so that the program
  doesn't grow with their number.
  """
  flags: list[Array] = []
  begins: dict[str, int] = {}
  order, total = [], 0
  for name, node, copy in places:
    if name not in begins:
      begins[name] = total
      flags.append(look(node).reshape(-1))
      total += flags[-1].size
    place = int(np.ravel_multi_index(copy, node[0].shape[:-2])) if copy else 0
    order.append(begins[name] + place)
  return jnp.concatenate(flags)[np.array(order)]
