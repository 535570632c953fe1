"""Captured layers, whose backward pass returns the factors of the gradient, and their traversal.

In a `repeat` the copies of a layer are stacked, so that the tree lists all copies of a block's
first layer before those of its second, although they alternate in the computation: `layer_order`
and `in_order` restore that order.
"""

import functools
from collections.abc import Callable, Iterator
from operator import lt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import checks
from fbackprop.combinators import map_layers, remat, repeat, serial, skip
from fbackprop.errors import ShapeError, StructureError, describe
from fbackprop.layers.factors import (
  Affine,
  ByParameter,
  Each,
  Elementwise,
  Factors,
  Linear,
  Outer,
  Scaling,
  is_factors,
  is_leaf_factors,
)  # fmt: skip
from fbackprop.types import Array, Layer, Params, Residuals

__all__ = [
  "Affine", "ByParameter", "Each", "Elementwise", "Linear", "Outer", "Scaling", "captured"
]  # fmt: skip


def captured(make: Any) -> Any:
  """Wrap a network, or a layer's constructor, so that `backward` returns the gradient's factors.

  Where `backward` of a dense layer returns `DenseParams(xᵀ ȳ, Σ_n ȳ_n)`, that of the captured layer
  returns `Affine(x, y_bar)`, or `Linear(x, y_bar)` without bias; for `layer_norm` it is
  `Elementwise(x_hat, y_bar)` and for `rms_norm` `Scaling(x_hat, y_bar)`; for a layer whose weight
  each example uses several times, as of a convolution or of nodes that share it, `ByParameter`. The
  functions of `fbackprop.quantities` take the tree of these factors, and `gradient` converts it to
  the plain gradient.

  Nothing else changes: parameters, forward pass and x_bar are bitwise the same. The layer composes
  like any other; inside `repeat(.., n)` the factors are stacked, `[n, N, D]`. Seed its backward
  pass with the cotangents of a sum of losses, one for each example.

  Cost: the factors are x, a residual anyway, and ȳ, which the plain pass frees layer by layer: N
  (D_in + D_out) numbers per layer stay in memory until they are used. In a `repeat` x is copied
  into a stack. Under jit the layer's own product xᵀ ȳ isn't computed; outside of jit it is, and is
  discarded.

  Args:
    make: a network, or a function that makes a layer, such as `fbackprop.dense`. Each layer with
      parameters must state its factors, in its field `factors`, as those of this package do.

  Returns:
    The network, or a constructor with the arguments of `make`.

  Raises:
    TypeError: `make` is neither.
    StructureError: a layer has parameters and states no factors; from a constructor, when it is
      called.

  Example:
    >>> import jax
    >>> from fbackprop.layers.dense import dense
    >>> layer = captured(dense)(3, 2)
    >>> params = layer.init(jax.random.key(0))
    >>> y, residuals = layer.forward(params, jax.numpy.ones((5, 3)))
    >>> factors, x_bar = layer.backward(params, residuals, jax.numpy.ones((5, 2)))
    >>> type(factors).__name__, factors.x.shape, factors.y_bar.shape
    ('Affine', (5, 3), (5, 2))

  References:
    Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799 (2015), section 4.
  """
  if isinstance(make, Layer):
    return map_layers(captured_layer, make)
  wanted = "be a network, or the constructor of a layer, such as fbackprop.dense"
  checks.check_that("captured", "make", make, callable(make), wanted)

  @functools.wraps(make)
  def make_captured(*arguments: Any, **options: Any) -> Layer:
    return map_layers(captured_layer, make(*arguments, **options))

  return make_captured


def captured_layer(layer: Layer) -> Layer:
  """Return a layer whose backward pass returns its factors, or, without parameters, the layer."""
  factors_of = layer.factors
  if factors_of is None:
    if jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0))):
      raise StructureError(
        f"captured: the layer {layer.name} states no factors of its gradient: give its Layer the "
        "field factors, as docs/write_your_own_layer.md shows"
      )
    return layer

  def backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Factors, Array]:
    factors, x_bar = factors_of(params, residuals, y_bar)
    return factors if is_factors(factors) else ByParameter(factors), x_bar

  return layer._replace(backward=backward)


# --- Traversal ------------------------------------------------------------------------------------


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
    found.append(node)
    n = count_examples(found[0])
    wanted = f"have the {n} examples of the first layer"
    first = first_array(node)
    checks.check_that(where, place, first, count_examples(node) == n, wanted, ShapeError)
  if not found:
    problem = f"must hold the factors of a layer, got {describe(captured)}: no layer of the network"
    raise StructureError(f"{problem} has parameters", "captured", where)
  return found


def check_factors(where: str, place: str, factors: Factors) -> None:
  """Raise for arrays that aren't valid factors of one layer."""
  if isinstance(factors, ByParameter):
    check_leaves(where, place, factors)
    return
  first, second = (f"{place}.{field}" for field in factors._fields)
  x, y_bar = factors
  checks.check_floating(where, first, x)
  checks.check_floating(where, second, y_bar)
  checks.check_dtype(where, second, y_bar, x.dtype)
  same = x.shape[:-1] == y_bar.shape[:-1] if is_dense(factors) else x.shape == y_bar.shape
  if x.ndim < 2 or not same:
    wanted = "[..., N, D_in] and [..., N, D_out]" if is_dense(factors) else "[..., N, D], both"
    problem = f"must be {wanted}, got {describe(x)} and {describe(y_bar)}"
    raise ShapeError(problem, f"{first} and {second}", where)


def check_leaves(where: str, place: str, factors: ByParameter) -> None:
  """Raise unless each parameter's factors are valid, and all have the same N and copies."""
  leaves = jax.tree_util.tree_leaves_with_path(factors.leaves, is_leaf=is_leaf_factors)
  if not leaves:
    raise StructureError("must hold an Outer or an Each for each parameter", place, where)
  for path, leaf in leaves:
    name = f"{place}.leaves{jax.tree_util.keystr(path)}"
    wanted = "be fbackprop.quantities.Outer(x, y_bar) or Each(grads)"
    checks.check_that(where, name, leaf, is_leaf_factors(leaf), wanted, StructureError)
    axes = (2, ("N", "P", "D")) if isinstance(leaf, Outer) else (1, ("N", "D"))
    for field in ("x", "y_bar") if isinstance(leaf, Outer) else ("grads",):
      array = getattr(leaf, field)
      checks.check_floating(where, f"{name}.{field}", array)
      wanted = f"have shape [..., {', '.join(axes[1])}]"
      checks.check_that(where, f"{name}.{field}", array, array.ndim > axes[0], wanted, ShapeError)
    first = first_array(factors)
    fits = leading_axes(leaf) == leading_axes(leaves[0][1])
    wanted = f"have the copies and examples of {describe(first)}"
    checks.check_that(where, name, jax.tree.leaves(leaf)[0], fits, wanted, ShapeError)
    if isinstance(leaf, Outer):
      same = leaf.x.shape[:-1] == leaf.y_bar.shape[:-1]
      wanted = f"have the examples and uses of x, {describe(leaf.x)}"
      checks.check_that(where, f"{name}.y_bar", leaf.y_bar, same, wanted, ShapeError)


def leading_axes(leaf: Outer | Each) -> tuple[int, ...]:
  """Return the numbers of copies, and N."""
  return leaf.x.shape[:-2] if isinstance(leaf, Outer) else leaf.grads.shape[:-1]


def first_array(factors: Factors) -> Any:
  """Return an array of a layer's factors."""
  return jax.tree.leaves(factors)[0]


def count_examples(factors: Factors) -> int:
  """Return N."""
  if isinstance(factors, ByParameter):
    first = jax.tree.leaves(factors.leaves, is_leaf=is_leaf_factors)[0]
    return leading_axes(first)[-1]
  return factors.y_bar.shape[-2]


def copies_of(factors: Factors) -> tuple[int, ...]:
  """Return the numbers of copies in the loops around a layer."""
  if isinstance(factors, ByParameter):
    return leading_axes(jax.tree.leaves(factors.leaves, is_leaf=is_leaf_factors)[0])[:-1]
  return factors[0].shape[:-2]


def widths_of(captured: Any) -> list[tuple[int, ...]]:
  """Return the shape of each array, without N."""
  found = []
  for factors in jax.tree.leaves(captured, is_leaf=is_factors):
    front = len(copies_of(factors))
    found += [(*a.shape[:front], *a.shape[front + 1 :]) for a in jax.tree.leaves(factors)]
  return found


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
  checks.check_unit("layer_order", "net", net, Layer)
  params = jax.eval_shape(lambda: net.init(jax.random.key(0)))
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
    fits = type(tree) is tuple and len(tree) == len(net.parts)
    place = f"at {path or 'its top'!r} is a chain of {len(net.parts)} layers"
    wanted = f"be of the network, which {place}"
    checks.check_that(where, "captured", tree, fits, wanted, StructureError)
    for i, (part, node) in enumerate(zip(net.parts, tree, strict=True)):
      yield from walk(where, part, node, f"{path}{i}.", copy)
  elif combinator is repeat:
    for i in range(options["n"]):
      yield from walk(where, net.parts[0], tree, path, (*copy, i))
  elif combinator is skip or combinator is remat:
    yield from walk(where, net.parts[0], tree, path, copy)
  elif "nodes" in options:
    pairs = {n.name: part for n, part in zip(options["nodes"], net.parts, strict=True)}
    wanted = f"be of the network, which at {path or 'its top'!r} is a graph"
    checks.check_that(where, "captured", tree, isinstance(tree, dict), wanted, StructureError)
    for name, part in pairs.items():
      if name in tree:  # Nodes that only share have none.
        yield from walk(where, part, tree[name], f"{path}{name}.", copy)
  elif jax.tree.leaves(tree):
    copies = copies_of(tree) if is_factors(tree) else None
    # Of parameters, as in `layer_order`, the copies aren't known.
    if copies is not None and not (len(copies) == len(copy) and all(map(lt, copy, copies))):
      place = f"has a copy {list(copy)} of {path + net.name}"
      problem = f"must be of the network, which {place}, got {describe(first_array(tree))}"
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
    place = int(np.ravel_multi_index(copy, copies_of(node))) if copy else 0
    order.append(begins[name] + place)
  return jnp.concatenate(flags)[np.array(order)]
