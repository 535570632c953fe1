"""The cells of the trust matrix: every activation × every loss, and the other layers, in 4 dtypes.

Targets and weights are rows of closed-over tables, selected by an integer argument: so they are
constants to every witness, the batch can be made longer, and "other labels" means other targets.
The numbers in the tables have few digits, so that every dtype represents them exactly.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop.verify.cases import ACTIVATIONS as ACTIVATION_ROWS
from fbackprop.verify.cases import COMPOSITIONS, LAYERS, MLPS, TITLED

DTYPES = ("float64", "float32", "bfloat16", "float16")
# All different, with N even, so that two devices can share a batch, and no power of two, so that
# 1/N is rounded.
N, WIDTH, HIDDEN, OUTPUTS = 6, 3, 7, 4
ACTIVATIONS = tuple(row.title for row in ACTIVATION_ROWS)


class LossCase(NamedTuple):
  """A loss, and its targets.

  Attributes:
    loss: the loss.
    rows: the integer argument, `[N]`.
    targets_of: `targets_of(rows, dtype)` returns the loss's targets.
  """

  loss: fb.Loss
  rows: tuple[int, ...]
  targets_of: Callable[[Any, Any], Any]


def rows_of(*table: tuple[float, ...]) -> Callable[[Any, Any], Any]:
  """Return rows of a table, in the dtype of the outputs."""
  return lambda rows, dtype: jnp.asarray(np.array(table), dtype)[rows]


real_rows = rows_of((1, -0.5, 0, 0.75), (-2, 0.25, 1.5, 0), (0.5, 3, -1, -0.25), (0, 0, 2, -4))
count_rows = rows_of((0, 1, 2, 3), (4, 0, 1, 0), (2, 2, 0, 1), (1, 0, 0, 3))
# Soft, one-hot, soft with a sum of 5/8, uniform.
share_rows = rows_of(
  (0.5, 0.25, 0.125, 0.125), (0, 0, 1, 0), (0.125, 0.25, 0, 0.25), (0.25, 0.25, 0.25, 0.25)
)
short_rows = rows_of((1, -0.5), (-2, 0.25), (0.5, 3))


LABELS = (0, 1, 2, 3, 1, 0)
TARGETS: dict[str, tuple[tuple[int, ...], Callable[[Any, Any], Any]]] = {
  "labels": (LABELS, lambda rows, dtype: rows),
  "labels_with_gaps": ((0, -1, 2, 3, 1, -1), lambda rows, dtype: rows),
  "shares": (LABELS, share_rows),
  "values": (LABELS, real_rows),
  "counts": (LABELS, count_rows),
  "labels_and_values": ((0, 1, 2) * 2, lambda rows, dtype: (rows, short_rows(rows, dtype))),
}
"""The integer argument and `targets_of`, by the kind of a loss's targets."""
# The order determines which pairs are weighted, also in the recorded results.
LOSSES = {
  name: LossCase(TITLED[name].make(None), *TARGETS[TITLED[name].targets])
  for name in (
    "softmax_cross_entropy", "softmax_cross_entropy, rows", "softmax_cross_entropy_with",
    "sigmoid_cross_entropy", "hinge", "squared_error", "huber", "huber_with", "log_cosh",
    "poisson_nll", "combine",
  )
}  # fmt: skip
# Row 0 has weight zero: where all rows are that one, the total weight is zero.
WEIGHTS = np.array([0.0, 1.0, 0.5, 2.0])

PARTS: dict[str, Callable[[Any], fb.Layer]] = {
  **{row.title: row.make for row in (*LAYERS, *COMPOSITIONS, *MLPS) if row.title},
  # The recorded results are for x `[N, WIDTH]`, and for this rate.
  "layer_norm": lambda dtype: fb.layer_norm(WIDTH),
  "rms_norm": lambda dtype: fb.rms_norm(WIDTH),
  "dropout": lambda dtype: fb.dropout(0.25),
}


class Cell(NamedTuple):
  """One cell; `loss` is "layer by layer" or "as_custom_vjp" where `net` is one of `PARTS`."""

  dtype: str
  loss: str
  net: str


BY_LAYER, AS_CUSTOM_VJP = "layer by layer", "as_custom_vjp"
FORMS = (BY_LAYER, AS_CUSTOM_VJP)


def cells() -> Iterator[Cell]:
  """Return all cells, with those of one loss and dtype together."""
  nets = {**dict.fromkeys(LOSSES, ACTIVATIONS), **dict.fromkeys(FORMS, tuple(PARTS))}
  return (Cell(dtype, loss, net) for dtype in DTYPES for loss in nets for net in nets[loss])


def is_weighted(cell: Cell) -> bool:
  """Return whether a cell is weighted, in a chessboard pattern: each pair in two of the dtypes."""
  place = DTYPES.index(cell.dtype) + list(LOSSES).index(cell.loss) + ACTIVATIONS.index(cell.net)
  return place % 2 == 1


def verify(cell: Cell, level: str = "standard") -> fb.verify.Report:
  """Return the report on one cell; float64 has x64 on, as for its users."""
  with jax.enable_x64(cell.dtype == "float64"):
    if cell.loss in LOSSES:
      return verify_mean_loss(cell, level)
    net = PARTS[cell.net](jnp.float32)
    params, x = arguments_of(net, cell.dtype)
    if cell.loss == AS_CUSTOM_VJP:
      return fb.verify.vjp(fb.as_custom_vjp(net), params, x, level=level)
    key = jax.random.key(1) if net.draws else None
    return fb.verify.layer(net, params, x, key=key, level=level)


def arguments_of(net: fb.Layer, dtype: str) -> tuple[Any, Any]:
  """Draw parameters, biases included, and data."""
  rng = np.random.default_rng(0)

  def drawn(shape: tuple[int, ...]) -> Any:
    return jnp.asarray(rng.normal(size=shape), dtype)

  shapes = jax.eval_shape(net.init, jax.random.key(0))
  return jax.tree.map(lambda leaf: drawn(leaf.shape), shapes), drawn((N, WIDTH))


def verify_mean_loss(cell: Cell, level: str) -> fb.verify.Report:
  """Verify `value_and_grad` of dense, activation, dense and the loss, against the explicit mean."""
  case = LOSSES[cell.loss]
  net = fb.serial(fb.dense(WIDTH, HIDDEN), getattr(fb, cell.net), fb.dense(HIDDEN, OUTPUTS))
  params, x = arguments_of(net, cell.dtype)
  gradient = fb.value_and_grad(net, case.loss, input_gradient=True)

  def weights_of(rows: Any, own_dtype: Any) -> Any:
    return jnp.asarray(WEIGHTS, own_dtype)[rows] if is_weighted(cell) else None

  def mean_loss(params: Any, x: Any, rows: Any) -> Any:
    losses = case.loss.forward(net.forward(params, x)[0], case.targets_of(rows, x.dtype))[0]
    weights = weights_of(rows, x.dtype)
    if weights is None:
      return losses.sum() / max(losses.shape[0], 1)
    total = weights.sum()
    return (weights * losses).sum() / jnp.where(total == 0, 1, total)

  def mean_loss_vjp(params: Any, x: Any, rows: Any) -> Any:
    targets, weights = case.targets_of(rows, x.dtype), weights_of(rows, x.dtype)
    value, grads = gradient(params, x, targets, weights=weights)

    return value, lambda y_bar: (*jax.tree.map(lambda leaf: y_bar * leaf, grads), None)

  rows = jnp.asarray(case.rows, jnp.int32)
  return fb.verify.vjp(mean_loss, params, x, rows, f_vjp=mean_loss_vjp, level=level)
