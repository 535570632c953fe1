"""Matrix products and gathers on a mesh of devices, and the shardings of their results.

On Explicit axes, those of `jax.make_mesh`, an array's type carries its sharding, and JAX refuses an
operation with an ambiguous output sharding: xᵀ ȳ of sharded examples may be summed onto every
device, or sharded again. This module derives the output sharding from the operands' types. Without
a mesh, on Auto axes and within `shard_map` no sharding is given, and the program is that of `a @ b`
and of `a[rows]`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fbackprop.types import Array


def product(a: Array, b: Array, *, bar_of: Array | None = None) -> Array:
  """Compute the matrix product a b.

  Args:
    a: `[..., n, k]`.
    b: `[..., k, m]`.
    bar_of: the primal whose cotangent the product is. The product is sharded as that; where the
      primal is reduced, the product isn't summed over devices yet. By default the rows are sharded
      as those of a, and the columns as those of b, unless the rows already use that mesh axis.

  Returns:
    `[..., n, m]`.
  """
  if bar_of is None:
    *rows, _ = splits_of(a)
    columns = splits_of(b)[-1]
    # A mesh axis can shard only one dimension of an array.
    is_taken = set(jax.tree.leaves(columns)) & set(jax.tree.leaves(rows))
    sharding = split_over(mesh_of(a, b), *rows, None if is_taken else columns)
  else:
    sharding = NamedSharding(mesh_of(a, b), jax.typeof(bar_of).to_ct_aval().sharding.spec)
  return jnp.matmul(a, b, out_sharding=sharding)


def contract(subscripts: str, a: Array, b: Array, *, bar_of: Array) -> Array:
  """Compute an `einsum` that sums over examples, sharded as the primal whose cotangent it is."""
  spec = jax.typeof(bar_of).to_ct_aval().sharding.spec
  return jnp.einsum(subscripts, a, b, out_sharding=NamedSharding(mesh_of(a, b), spec))


def sum_uses(x: Array, y_bar: Array) -> Array:
  """Compute Σ_np x_np ⊗ ȳ_np of `[..., N, P, D]`, `[..., D_in, D_out]`, on every device."""
  copies = splits_of(x)[:-3]
  sharding = split_over(mesh_of(x, y_bar), *copies, None, None)
  return jnp.einsum("...npi,...npo->...io", x, y_bar, out_sharding=sharding)


def pair_uses(a: Array, b: Array) -> Array:
  """Compute a_np · b_mq of `[..., N, P, D]`, `[..., N, M, P, Q]`, sharded as the rows of a."""
  *copies, rows, _, _ = splits_of(a)
  sharding = split_over(mesh_of(a, b), *copies, rows, None, None, None)
  return jnp.einsum("...npi,...mqi->...nmpq", a, b, out_sharding=sharding)


def take_rows(tree: Any, rows: Any) -> Any:
  """Gather `array[rows]`, sharded as the array; replicated where the rows aren't divisible.

  Args:
    tree: pytree of arrays `[N, ...]`.
    rows: integers `[n]`.
  """

  def take(array: Array) -> Any:
    if is_on_host(array) and is_on_host(rows):  # Each shape would be eight compilations.
      found = np.asarray(array)[np.asarray(rows)]
      is_placed = isinstance(array, jax.Array) and array.committed
      return jax.device_put(found, array.sharding if is_placed else None)
    mesh, (first, *others) = mesh_of(array), splits_of(array)
    devices = math.prod(mesh.shape[name] for name in jax.tree.leaves(first))
    sharding = split_over(mesh, None if rows.shape[0] % devices else first, *others)
    return jnp.asarray(array).at[rows].get(out_sharding=sharding)

  return jax.tree.map(take, tree)


def is_on_host(array: Any) -> bool:
  """Return whether an array's values are in the host's memory: NumPy's, or of one CPU device."""
  if not isinstance(array, jax.Array):
    return isinstance(array, np.ndarray)
  if isinstance(array, jax.core.Tracer):
    return False
  return len(devices := array.devices()) == 1 and next(iter(devices)).platform == "cpu"


def second_moment(subscripts: str, a: Array, b: Array) -> Array:
  """Compute an `einsum` that sums over examples, replicated on every device.

  Args:
    subscripts: such as "r...npi,r...npj->...ij".
    a, b: arrays with the same axes.
  """
  letters = subscripts.partition("->")[0].split(",")[0].replace("...", "")
  front = a.ndim - len(letters)
  sharding = split_over(mesh_of(a, b), *[None] * (front + 2))
  return jnp.einsum(subscripts, a, b, out_sharding=sharding)


def sum_squares(columns: Array) -> Array:
  """Compute Σ_r of the squares of a few wide columns `[R, ...]`, sharded as each of them.

  As a product: XLA's own sum over a short first axis takes some twenty times as long on two threads
  as on one in jax 0.10.2 (findings/jax_sum_of_a_few_wide_rows_is_slow_on_two_threads.sh).
  """
  ones = jnp.ones(columns.shape[0], columns.dtype)
  return jnp.einsum("r,r...->...", ones, columns**2, precision=jax.lax.Precision.HIGHEST)


def sum_rows(y_bar: Array, bar_of: Array) -> Array:
  """Compute Σ_n of `[N, D]`, the cotangent of a primal `[D]`, sharded as that primal."""
  total: Array = y_bar.sum(0)
  sharding = jax.typeof(bar_of).to_ct_aval().sharding
  if not is_explicit(sharding.mesh) or jax.typeof(total).sharding == sharding:
    return total
  return jax.sharding.reshard(total, sharding)  # type: ignore[no-untyped-call]


def split_like(array: Any, other: Array) -> Any:
  """Shard an array's leading dimensions as those of another array."""
  mesh = mesh_of(other)
  if not (is_explicit(mesh) and hasattr(array, "ndim")):  # Other types are refused by later checks.
    return array
  sharding = split_over(mesh, *splits_of(other)[: array.ndim])
  return jax.sharding.reshard(jnp.asarray(array), sharding)  # type: ignore[no-untyped-call]


def diagonal(square: Array) -> Array:
  """Return the diagonal of `[N, N]`, replicated on every device."""
  places = jnp.arange(square.shape[0])
  everywhere = split_over(mesh_of(square), None)
  return jnp.asarray(square.at[places, places].get(out_sharding=everywhere))


def vary_alike(tree: Any) -> Any:
  """Mark all arrays of a pytree as varying over every axis over which any of them varies.

  To be called within `shard_map`. The cotangents of a rule then vary too, and autodiff sums those
  of shared primals over the devices: JAX transposes `pcast` to a psum, and refuses a varying
  cotangent of an unvarying primal otherwise.
  """
  varying = (jax.typeof(leaf).mat.varying for leaf in jax.tree.leaves(tree))
  axes = frozenset[str]().union(*varying)

  def vary(leaf: Array) -> Array:
    missing = tuple(sorted(axes - jax.typeof(leaf).mat.varying))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

  return jax.tree.map(vary, tree)


def off_mesh(tree: Any) -> Any:
  """Copy the arrays of a pytree from a mesh to one device; not to be called within a trace."""

  def copy(array: Array) -> Any:
    if mesh_of(array).empty:
      return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
      data, impl = copy(jax.random.key_data(array)), jax.random.key_impl(array)
      return jax.random.wrap_key_data(data, impl=impl)
    return jnp.asarray(np.asarray(array))

  return jax.tree.map(copy, tree)


def splits_of(array: Array) -> tuple[Any, ...]:
  """Return the mesh axes that shard each dimension: a name, several, or None."""
  return tuple(jax.typeof(array).sharding.spec.partitions)


def is_explicit(mesh: Any) -> bool:
  """Return whether a mesh has Explicit axes, which are part of the arrays' types."""
  return AxisType.Explicit in mesh.axis_types


def split_over(mesh: Any, *splits: Any) -> NamedSharding:
  """Return the sharding of an array whose dimensions are split over the given mesh axes."""
  return NamedSharding(mesh, PartitionSpec(*splits))  # type: ignore[no-untyped-call]


def mesh_of(*arrays: Array) -> Any:
  """Return the mesh of the first array that has one."""
  meshes = [jax.typeof(array).sharding.mesh for array in arrays]
  return next((mesh for mesh in meshes if not mesh.empty), meshes[0])
