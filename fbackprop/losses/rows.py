"""Shared parts of the losses: checks of arrays, one-hot rows, an exact difference, one product;
what the curvatures share.

The residual of every loss is one array `[N, C]`, the derivative of an example's loss by its
outputs, so that its backward rule is the product of these rows with the cotangents of the losses.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import checks
from fbackprop.errors import ShapeError, StructureError
from fbackprop.types import Array, Loss, LossCurvature, Residuals


def scale_rows(rows: Residuals, losses_bar: Array) -> Array:
  """Compute outputs_bar_nc = losses_bar_n · ∂losses_n/∂outputs_nc, every loss's backward rule."""
  checks.check_shape("loss", "losses_bar", losses_bar, (rows.shape[0],), rows.dtype)
  return losses_bar[:, None] * rows


def check_outputs(where: str, outputs: Array) -> None:
  """Raise unless outputs are a floating array `[N, C]`."""
  checks.check_floating(where, "outputs", outputs)
  checks.check_shape(where, "outputs", outputs, ("N", "C"))


def check_values(where: str, outputs: Array, targets: Array) -> None:
  """Raise unless outputs are a floating array `[N, C]` and targets have their shape and dtype."""
  check_outputs(where, outputs)
  checks.check_shape(where, "targets", targets, outputs.shape, outputs.dtype)


def check_logits(where: str, outputs: Array) -> None:
  """Raise unless outputs are a floating array `[N, C]` with at least one class."""
  check_outputs(where, outputs)
  wanted = "have at least one class"
  checks.check_that(where, "outputs", outputs, outputs.shape[1], wanted, ShapeError)


def one_hot(
  where: str, labels: Array, outputs: Array, ignore_label: int | None = None
) -> tuple[Array, Array]:
  """Encode labels `[N]` as rows t `[N, C]` of the dtype of `outputs`; also return which are kept.

  A row is 1 at the label and 0 elsewhere. The row of `ignore_label` is all 0, and isn't kept. The
  row of a label out of range is all NaN, and is kept, so that its loss and its gradient are NaN.

  Raises:
    TypeError: the labels aren't integers.
    ValueError: the shape differs, or, outside of a trace, a label is out of range.
  """
  n, c = outputs.shape
  checks.check_shape(where, "targets", labels, (n,))
  is_integer = jnp.issubdtype(labels.dtype, jnp.integer)
  checks.check_that(where, "targets", labels, is_integer, "be integer labels [N]")
  if checks.is_concrete(labels):
    checks.check_labels(where, "targets", np.asarray(labels), c, ignore_label)
  labels = jnp.asarray(labels)
  if labels.dtype.itemsize < 4:  # In int8 the number of classes may overflow.
    labels = labels.astype(jnp.int32)
  kept = jnp.ones(n, bool)
  limits = np.iinfo(labels.dtype)
  if ignore_label is not None and limits.min <= ignore_label <= limits.max:
    kept = labels != ignore_label
  at_label = labels[:, None] == jnp.arange(c, dtype=labels.dtype)[None, :]
  rows = (kept[:, None] & at_label).astype(outputs.dtype)
  wrong = kept & ((labels < 0) | (labels >= c))
  return jnp.where(wrong[:, None], jnp.nan, rows), kept


def diagonal_root(diagonal_of_root: Array) -> Array:
  """Return the root `[C, N, C]` of a Hessian that is diagonal, from the root of its diagonal."""
  identity = jnp.eye(diagonal_of_root.shape[1], dtype=diagonal_of_root.dtype)
  return identity[:, None, :] * diagonal_of_root[None]


def curvature_of(where: str, loss: Loss) -> LossCurvature:
  """Return a loss's curvature; raise if it states none."""
  if loss.curvature is None:
    raise StructureError(
      f"{where}: the loss {loss.name} states no curvature: give its Loss the field curvature, a "
      "fbackprop.LossCurvature, as docs/curvature.md shows"
    )
  return loss.curvature


def sampler_of(where: str, loss: Loss) -> Any:
  """Return the sampler of a loss's targets; raise for a loss that is no −log of a probability."""
  sample = curvature_of(where, loss).sample
  if sample is None:
    raise StructureError(
      f"{where}: the loss {loss.name} has no sampler: it is no −log of a probability, or its "
      'curvature states no sample; take kind="exact" or "empirical"'
    )
  return sample


def exact_difference(a: Array, b: Array) -> tuple[Array, Array]:
  """Compute a − b exactly as a sum: `high` is a − b rounded, `low` its rounding error.

  A logit of size 100 is rounded at 4e-6, so that without `low` e^(a − b) loses 5 bits of 24. `low`
  is a constant under differentiation, and 0 where `high` isn't finite. The compiler must not
  reassociate sums of floating numbers, which `tests/rules/test_extremes.py` tests.

  References:
    Knuth, "The Art of Computer Programming", volume 2, section 4.2.2, theorem B (TwoSum).
  """
  high = a - b
  moved = high - a
  low = (a - (high - moved)) - (b + moved)
  return high, jax.lax.stop_gradient(jnp.where(jnp.isfinite(high), low, jnp.zeros_like(low)))
