"""The order in which a network's layers compute, which a tree of factors doesn't show.

In a `repeat` the copies of a layer are stacked, so that two layers of a block, which take turns,
stand one behind the other.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import StructureError, check_unit, describe
from fbackprop.combinators import serial, skip
from fbackprop.layers.factors import Factors, is_factors
from fbackprop.repetition import remat, repeat
from fbackprop.types import Array, Layer


def layer_order(net: Layer) -> list[str]:
  """The layers that have parameters, in the order in which they compute; copies are counted.

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
  copies = (
    place.name + "".join(f"[{i}]" for i in place.copy)
    for place in walk("layer_order", net, params)
    if jax.tree.leaves(place.node)
  )
  return list(copies)


class Place(NamedTuple):
  """A layer, or one copy of it: its name, its node of the tree, and which copy it is."""

  name: str
  node: Any
  copy: tuple[int, ...]


def walk(
  where: str, net: Layer, tree: Any, path: str = "", copy: tuple[int, ...] = ()
) -> Iterator[Place]:
  """Goes through a network and a tree of its parameters' structure, in the order of computation."""
  options = dict(net.options)
  combinator = options.get("combinator")
  if combinator is serial:
    if type(tree) is not tuple or is_factors(tree) or len(tree) != len(net.parts):
      raise StructureError(
        f"{where}: captured must be of the network, which at {path or 'its top'!r} is a chain of "
        f"{len(net.parts)} layers, got {describe(tree)}"
      )
    for i, (part, node) in enumerate(zip(net.parts, tree, strict=True)):
      yield from walk(where, part, node, f"{path}{i}.", copy)
  elif combinator is repeat:
    for i in range(options["n"]):
      yield from walk(where, net.parts[0], tree, path, (*copy, i))
  elif combinator is skip or combinator is remat:
    yield from walk(where, net.parts[0], tree, path, copy)
  elif jax.tree.leaves(tree):
    yield check_place(where, Place(path + net.name, tree, copy))


def check_place(where: str, place: Place) -> Place:
  """Refuses factors that have other copies than the network."""
  if is_factors(place.node):
    copies = place.node[0].shape[:-2]
    if len(copies) != len(place.copy) or any(
      i >= n for i, n in zip(place.copy, copies, strict=True)
    ):
      raise StructureError(
        f"{where}: captured must be of the network, which has a copy {list(place.copy)} of "
        f"{place.name}, got {describe(place.node[0])}"
      )
  return place


def in_order(places: list[Place], look: Callable[[Factors], Array]) -> Array:
  """The flags of every layer in the order of computation, `[L]`.

  All copies in a `repeat` are looked at in one operation, and then put in order: the program
  doesn't grow with their number.
  """
  flags, begins, total = [], {}, 0
  for place in places:
    if place.name not in begins:
      begins[place.name] = total
      flags.append(look(place.node).reshape(-1))
      total += flags[-1].size
  order = [
    begins[place.name] + int(np.ravel_multi_index(place.copy, place.node[0].shape[:-2]))
    if place.copy
    else begins[place.name]
    for place in places
  ]
  return jnp.concatenate(flags)[np.array(order)]
