"""What all losses share: what may enter, and the backward rule of one product."""

from fbackprop.checks import (
  ShapeError,
  check_dtype,
  check_floating,
  check_same,
  check_shape,
  describe,
)
from fbackprop.types import Array, Residuals


def scale_rows(rows: Residuals, losses_bar: Array) -> Array:
  """outputs_bar_nc = losses_bar_n · ∂losses_n/∂outputs_nc, the backward rule of every loss here."""
  check_shape("loss", "losses_bar", losses_bar, (rows.shape[0],))
  check_dtype("loss", "losses_bar", losses_bar, rows.dtype)
  outputs_bar: Array = losses_bar[:, None] * rows
  return outputs_bar


def check_outputs(where: str, outputs: Array) -> None:
  """Refuses outputs that aren't a floating `[N, C]`."""
  check_floating(where, "outputs", outputs)
  check_shape(where, "outputs", outputs, ("N", "C"))


def check_values(where: str, outputs: Array, targets: Array) -> None:
  """Refuses outputs that aren't a floating `[N, C]`, and targets of another shape or dtype."""
  check_outputs(where, outputs)
  check_same(where, ("outputs", "targets"), outputs, targets)


def check_logits(where: str, outputs: Array) -> None:
  """Refuses outputs that aren't a floating `[N, C]` of at least one class."""
  check_outputs(where, outputs)
  if outputs.shape[1] < 1:
    raise ShapeError(f"{where}: outputs must have at least one class, got {describe(outputs)}")
