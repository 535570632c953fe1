"""The examples of a run: looked at once on the host, and evaluated on the device."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import DtypeError, ShapeError, StructureError, check_array, describe
from fbackprop.losses import check_labels
from fbackprop.train.steps import Batch
from fbackprop.types import Array, Layer, Loss, Params


def check_examples(name: str, examples: Any, net: Layer, loss: Loss) -> Batch:
  """Refuses examples that a run can't be made of, by the name of the argument.

  Args:
    name: "data" or "test".
    examples: `(x, targets)` or a `Batch`, of NumPy or JAX arrays.
    net: the network, which is traced on the shapes.
    loss: likewise.

  Returns:
    The `Batch`, on the device.

  Raises:
    TypeError: not a pair, or another dtype.
    ValueError: no examples, shapes that don't fit, NaN or infinity, labels out of range.
  """
  if not isinstance(examples, tuple | list) or len(examples) not in (2, 3):
    raise DtypeError(f"{name} must be a pair (x, targets) or a Batch, got {describe(examples)}")
  batch = Batch(*examples)
  for part, value in batch._asdict().items():
    if value is not None:
      check_array("fit", f"{name}.{part}", value)
      check_finite(f"{name}.{part}", np.asarray(value))
  if batch.x.ndim < 1 or batch.x.shape[0] == 0:
    raise ShapeError(f"{name}.x must hold at least one example, got {describe(batch.x)}")

  def losses_of(params: Params, x: Array, targets: Array) -> tuple[Array, Array]:
    outputs = net.forward(params, x)[0]
    return outputs, loss.forward(outputs, targets)[0]

  params = jax.eval_shape(net.init, jax.random.key(0))
  try:
    outputs, losses = jax.eval_shape(losses_of, params, batch.x, batch.targets)
  except (TypeError, ValueError) as error:
    error.add_note(
      f"while fitting {name}: x {describe(batch.x)}, targets {describe(batch.targets)}"
    )
    raise
  if losses.shape != (batch.x.shape[0],):
    raise StructureError(f"fit: the loss must give one number for each example, got {losses}")
  if holds_labels(batch.targets):
    check_labels(f"fit: {name}.targets", np.asarray(batch.targets), outputs.shape[-1])
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
  return Batch(jnp.asarray(batch.x), jnp.asarray(batch.targets), weights)


def check_finite(name: str, values: np.ndarray) -> None:
  """Refuses NaN and infinity, by the place of the first."""
  if jnp.issubdtype(values.dtype, jnp.inexact):  # NumPy's own doesn't know bfloat16.
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
      place = ", ".join(str(i) for i in wrong[0])
      value = values[tuple(wrong[0])]
      raise ValueError(f"fit: {name} must be finite, got {value} at [{place}], {len(wrong)} in all")


def holds_labels(targets: Any) -> bool:
  """Whether targets are one integer for each example."""
  return targets.ndim == 1 and bool(jnp.issubdtype(targets.dtype, jnp.integer))


def make_evaluate(net: Layer, loss: Loss) -> Callable[[Params, Batch], tuple[float, float | None]]:
  """Builds `evaluate(params, batch) -> (mean loss, accuracy or None)`, without randomness."""

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
