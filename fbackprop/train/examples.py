"""The examples of a run: validated once on the host, and evaluated on the device."""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import (
  DtypeError,
  ShapeError,
  StructureError,
  check_array,
  check_arrays,
  describe,
  example_count,
)
from fbackprop.meshes import is_explicit, mesh_of
from fbackprop.train.data.standardization import lost_values
from fbackprop.train.step import Batch
from fbackprop.types import Array, Layer, Loss, Params


def check_examples(name: str, examples: Any, net: Layer, loss: Loss) -> Batch:
  """Validate the examples of a run and move them to the device.

  Args:
    name: the argument's name, "data" or "test".
    examples: `(x, targets)` or a `Batch`, of NumPy or JAX arrays; x may be a pytree of them, and
      targets a tuple.
    net: the network, traced on the shapes.
    loss: the loss, traced on the shapes.

  Returns:
    The `Batch`, on the device.

  Raises:
    TypeError: the value isn't a pair, or has the wrong dtype.
    ValueError: there are no examples, shapes don't fit, a value is NaN or infinite, or a label is
      out of range.
  """
  if not isinstance(examples, tuple | list) or len(examples) not in (2, 3):
    raise DtypeError(f"{name} must be a pair (x, targets) or a Batch, got {describe(examples)}")
  batch = Batch(*examples)
  check_arrays("fit", f"{name}.x", batch.x)
  for part, value in named_parts(batch):
    check_array("fit", f"{name}.{part}", value)
    mesh = mesh_of(value) if isinstance(value, jax.Array) else None
    if mesh and is_explicit(mesh) and jax.sharding.get_abstract_mesh() != mesh:
      raise ValueError(
        f"fit: {name}.{part} lives on a mesh with Explicit axes; call fit within "
        "`with jax.set_mesh(mesh):`"
      )
    check_finite(f"{name}.{part}", np.asarray(value))
  n = example_count(batch.x)
  if n == 0:
    raise ShapeError(f"{name}.x must hold at least one example, got {describe(batch.x)}")
  given = Batch(batch.x, batch.targets)  # Weights aren't converted: they need the loss's dtype.
  x, targets, _ = jax.tree_util.tree_map_with_path(
    lambda path, value: as_jax(f"{name}{jax.tree_util.keystr(path)}", value), given
  )
  batch = batch._replace(x=x, targets=targets)

  def outputs_of(params: Params, x: Array) -> Any:
    return net.forward(params, x)[0]

  params = jax.eval_shape(net.init, jax.random.key(0))
  try:
    outputs = jax.eval_shape(outputs_of, params, batch.x)
    # The targets are concrete, not tracers, so that the loss checks the values of its labels.
    losses = loss.forward(jnp.zeros(outputs.shape, outputs.dtype), targets)[0]
  except (TypeError, ValueError) as error:
    shapes = jax.tree.map(describe, batch.x), jax.tree.map(describe, targets)
    error.add_note(f"while fitting {name}: x {shapes[0]}, targets {shapes[1]}")
    raise
  if losses.shape != (n,):
    raise StructureError(
      f"fit: the loss must give one number for each example, got {describe(losses)}"
    )
  if batch.weights is not None:
    if batch.weights.shape != losses.shape or batch.weights.dtype != losses.dtype:
      raise ShapeError(
        f"fit: {name}.weights must be {describe(losses)}, got {describe(batch.weights)}"
      )
    if (np.asarray(batch.weights) < 0).any():
      raise ValueError(f"fit: {name}.weights must not be negative")
    if not np.asarray(batch.weights).any():
      raise ValueError(f"fit: {name}.weights must not be all zero")
  weights = None if batch.weights is None else jnp.asarray(batch.weights)
  return Batch(batch.x, batch.targets, weights)


def as_jax(name: str, value: Any) -> Array:
  """Convert an array to a dtype of JAX, such as float64 to float32, never silently.

  Warn of columns that lose distinct values by it, such as time stamps.

  Raises:
    TypeError: JAX has no such dtype.
    ValueError: an integer or a number is too large.
  """
  if not isinstance(value, np.ndarray):
    return jnp.asarray(value)
  if value.dtype.kind == "f" and value.dtype.itemsize > 8:
    raise DtypeError(
      f"fit: {name} must have a dtype that JAX has too, got {describe(value)}; convert it, as by "
      ".astype(numpy.float64)"
    )
  dtype = jax.dtypes.canonicalize_dtype(value.dtype.newbyteorder("="))
  with np.errstate(over="ignore"):
    own = value.astype(dtype)
  if jnp.issubdtype(dtype, jnp.integer):
    wrong = np.argwhere(own != value)
    if len(wrong):
      place = ", ".join(map(str, wrong[0]))
      raise ValueError(
        f"fit: {name} must fit into {dtype}, got {value[tuple(wrong[0])]} at [{place}]"
      )
  elif value.dtype.kind == "f" and own.dtype.itemsize < value.dtype.itemsize and value.ndim:
    check_finite(name, own)
    raw, narrow = (part.reshape(len(part), -1) for part in (value.astype(np.float64), own))
    for said in lost_values([f"{name}[:, {j}]" for j in range(raw.shape[1])], [raw], [narrow]):
      advice = "subtract its mean and divide by its deviation first, in float64"
      warnings.warn(f"fit: {said}; {advice}", stacklevel=4)
  return jnp.asarray(own)


def named_parts(batch: Batch) -> list[tuple[str, Any]]:
  """List the arrays of a batch by name, such as "x" or "targets[1]"."""
  inputs = jax.tree_util.tree_leaves_with_path(Batch(batch.x, None))
  leaves = jax.tree_util.tree_leaves_with_path(batch._replace(x=None), is_leaf=is_no_tuple)
  return [(jax.tree_util.keystr(path).removeprefix("."), leaf) for path, leaf in inputs + leaves]


def is_no_tuple(value: Any) -> bool:
  """Return whether a value isn't a tuple; for `check_array` a list isn't a pytree."""
  return value is not None and not isinstance(value, tuple)


def check_finite(name: str, values: np.ndarray) -> None:
  """Raise for NaN and infinity; the message has the index of the first."""
  if jnp.issubdtype(values.dtype, jnp.inexact):  # np.issubdtype doesn't know bfloat16.
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
      place = ", ".join(str(i) for i in wrong[0])
      value = values[tuple(wrong[0])]
      raise ValueError(f"fit: {name} must be finite, got {value} at [{place}], {len(wrong)} in all")


def holds_labels(targets: Any) -> bool:
  """Return whether targets are labels, one integer per example."""
  is_array = not isinstance(targets, tuple)
  return is_array and targets.ndim == 1 and bool(jnp.issubdtype(targets.dtype, jnp.integer))


def make_evaluate(net: Layer, loss: Loss) -> Callable[[Params, Batch], tuple[float, float | None]]:
  """Build `evaluate(params, batch) -> (mean loss, accuracy or None)`, without randomness."""

  @jax.jit
  def measure(params: Params, batch: Batch) -> tuple[Array, Array | None]:
    outputs = net.forward(params, batch.x)[0]
    mean = loss.forward(outputs, batch.targets)[0].mean()
    if not holds_labels(batch.targets):
      return mean, None
    return mean, (outputs.argmax(1) == batch.targets).sum()

  def evaluate(params: Params, batch: Batch) -> tuple[float, float | None]:
    mean, right = measure(params, batch)
    return float(mean), None if right is None else int(right) / len(batch.targets)

  return evaluate


def digest(tree: Any) -> str:
  """Compute a short SHA-256 fingerprint of a pytree."""
  leaves, structure = jax.tree.flatten(tree)
  found = hashlib.sha256(str(structure).encode())
  for leaf in leaves:
    array = np.asarray(leaf, order="C")
    found.update(f"{array.shape} {array.dtype}".encode())
    found.update(array.tobytes())
  return found.hexdigest()[:16]
