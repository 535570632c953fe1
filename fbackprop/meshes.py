"""Products and gathers on a mesh of devices: where their results live, which JAX wants to be told.

On Explicit axes, those of `jax.make_mesh`, an array's type says how it is split, and JAX refuses an
operation whose result might live in several places: xᵀ ȳ of examples that are split may end as a
sum on every device, or split again. Here the types of what comes in decide. Without a mesh, on Auto
axes and within `shard_map` nothing is said, and the program is that of `a @ b` and of `a[rows]`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from fbackprop.types import Array


def product(a: Array, b: Array, *, bar_of: Array | None = None) -> Array:
  """The matrix product a b.

  Args:
    a: `[..., n, k]`.
    b: `[..., k, m]`.
    bar_of: the primal whose cotangent the product is. It lives where that does; and where the
      primal is reduced, the product isn't summed over devices yet. By default the rows live where
      those of a do, and the columns where those of b do, unless the rows are split over that axis.

  Returns:
    `[..., n, m]`.
  """
  if bar_of is None:
    *rows, _ = splits_of(a)
    columns = splits_of(b)[-1]
    is_taken = set(jax.tree.leaves(columns)) & set(jax.tree.leaves(rows))
    spec = PartitionSpec(*rows, None if is_taken else columns)
  else:
    spec = jax.typeof(bar_of).to_ct_aval().sharding.spec
  return jnp.matmul(a, b, out_sharding=NamedSharding(mesh_of(a, b), spec))


def take_rows(array: Array, rows: Any) -> Array:
  """`array[rows]`, split as the array is; whole on each device where their number can't be split.

  Args:
    array: `[N, ...]`.
    rows: integers `[n]`.
  """
  mesh, (first, *others) = mesh_of(array), splits_of(array)
  devices = [mesh.shape[name] for name in jax.tree.leaves(first)]
  if len(rows) % math.prod(devices):
    first = None
  taken: Array = array.at[rows].get(out_sharding=NamedSharding(mesh, PartitionSpec(first, *others)))
  return taken


def diagonal(square: Array) -> Array:
  """The diagonal of `[N, N]`, whole on each device."""
  places = jnp.arange(square.shape[0])
  everywhere = NamedSharding(mesh_of(square), PartitionSpec(None))
  found: Array = square.at[places, places].get(out_sharding=everywhere)
  return found


def splits_of(array: Array) -> tuple[Any, ...]:
  """The axes of the mesh over which each dimension is split: a name, several, or None."""
  splits: tuple[Any, ...] = jax.typeof(array).sharding.spec.partitions
  return splits


def mesh_of(*arrays: Array) -> Any:
  """The mesh of the first array that lives on one; the others join it."""
  meshes = [jax.typeof(array).sharding.mesh for array in arrays]
  return next((mesh for mesh in meshes if not mesh.empty), meshes[0])
