"""Integer labels as rows of numbers."""

import jax.numpy as jnp
import numpy as np

from fbackprop.checks import DtypeError, check_labels, check_shape, describe, is_concrete
from fbackprop.types import Array


def one_hot(
  where: str, labels: Array, outputs: Array, ignore_label: int | None = None
) -> tuple[Array, Array]:
  """Labels `[N]` as rows t `[N, C]` in the dtype of `outputs`, and which of them are kept `[N]`.

  A row is 1 at the label and 0 elsewhere. That of `ignore_label` is all 0, and isn't kept. That of
  a label out of range is all NaN, and is kept, so that its loss and its gradient are NaN.

  Raises:
    TypeError: the labels aren't integers.
    ValueError: another shape, or, outside of a trace, a label out of range.
  """
  n, c = outputs.shape
  check_shape(where, "targets", labels, (n,))
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise DtypeError(f"{where}: targets must be integer labels [N], got {describe(labels)}")
  if is_concrete(labels):
    check_labels(f"{where}: targets", np.asarray(labels), c, ignore_label)
  labels = jnp.asarray(labels)
  if labels.dtype.itemsize < 4:  # In int8 the number of classes itself may not fit.
    labels = labels.astype(jnp.int32)
  kept = jnp.ones(n, bool)
  limits = np.iinfo(labels.dtype)
  if ignore_label is not None and limits.min <= ignore_label <= limits.max:
    kept = labels != ignore_label
  at_label = labels[:, None] == jnp.arange(c, dtype=labels.dtype)[None, :]
  rows = (kept[:, None] & at_label).astype(outputs.dtype)
  wrong = kept & ((labels < 0) | (labels >= c))
  return jnp.where(wrong[:, None], jnp.nan, rows), kept
