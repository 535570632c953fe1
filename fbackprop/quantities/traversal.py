"""The tree of factors: what may stand in it, and how it is gone through."""

from collections.abc import Callable
from typing import Any

import jax

from fbackprop.checks import ShapeError, StructureError, check_dtype, check_floating, describe
from fbackprop.layers.factors import Affine, Elementwise, Factors, Linear, is_factors
from fbackprop.types import Array


def read(where: str, captured: Any) -> list[Factors]:
  """The factors of each layer, in the order of the tree; refuses any other array.

  A layer that isn't captured gives its summed gradient, of which no example can be told; a tree
  without any factors doesn't say how many examples there are.
  """
  found: list[Factors] = []
  for path, node in jax.tree_util.tree_leaves_with_path(captured, is_leaf=is_factors):
    place = f"captured{jax.tree_util.keystr(path)}"
    if not is_factors(node):
      raise StructureError(
        f"{where}: {place} must be the factors of a layer, got {describe(node)}; every layer that "
        "has parameters must be made by fbackprop.quantities.captured(make), as in "
        "fbackprop.mlp(sizes, dense=captured(fbackprop.dense), "
        "normalization=captured(fbackprop.layer_norm))"
      )
    check_factors(where, place, node)
    if found and node[0].shape[-2] != found[0][0].shape[-2]:
      raise ShapeError(
        f"{where}: {place} must have the {found[0][0].shape[-2]} examples of the first layer, got "
        f"{describe(node[0])}"
      )
    found.append(node)
  if not found:
    raise StructureError(
      f"{where}: captured must hold the factors of a layer, got {describe(captured)}: no layer of "
      "the network has parameters"
    )
  return found


def check_factors(where: str, place: str, factors: Factors) -> None:
  """Refuses two arrays that can't be of one layer."""
  first, second = (f"{place}.{field}" for field in factors._fields)
  x, y_bar = factors
  check_floating(where, first, x)
  check_floating(where, second, y_bar)
  check_dtype(where, second, y_bar, x.dtype)
  same = x.shape[:-1] == y_bar.shape[:-1] if is_dense(factors) else x.shape == y_bar.shape
  if x.ndim < 2 or not same:
    wanted = "[..., N, D_in] and [..., N, D_out]" if is_dense(factors) else "[..., N, D], both"
    raise ShapeError(
      f"{where}: {first} and {second} must be {wanted}, got {describe(x)} and {describe(y_bar)}"
    )


def count_examples(layers: list[Factors]) -> int:
  """N, the same for every layer."""
  return int(layers[0][0].shape[-2])


def replace_factors(function: Callable[[Any], Any], captured: Any) -> Any:
  """The tree with `function(factors)` where each layer's factors stood."""
  return jax.tree.map(function, captured, is_leaf=is_factors)


def is_dense(factors: Factors) -> bool:
  """Whether an example's gradient is an outer product of the two; else it is their product."""
  return isinstance(factors, Affine | Linear)


def has_offset(factors: Factors) -> bool:
  """Whether there is a bias or a shift, whose gradient is y_bar itself."""
  return isinstance(factors, Affine | Elementwise)


def over_copies(values: Array) -> Array:
  """`[..., N]` summed over the copies of a `repeat`, `[N]`."""
  return values.sum(tuple(range(values.ndim - 1)))
