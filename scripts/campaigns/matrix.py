"""The cells of the trust matrix: every activation × every loss, and the other layers, in 4 dtypes.

Targets and weights are rows of tables that are closed over, picked by an integer argument: then
they are constants to every witness, the batch can be made longer, and "other labels" means other
targets. What stands in the tables has few digits, so that every dtype holds it exactly.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop.verify import library

DTYPES = ("float64", "float32", "bfloat16", "float16")
# All different, and N even, so that two devices can share a batch; no power of two, so that 1/N is
# rounded.
N, WIDTH, HIDDEN, OUTPUTS = 6, 3, 7, 4
ACTIVATIONS = tuple(sorted(name for name in dir(fb) if isinstance(getattr(fb, name), fb.Layer)))


class LossCase(NamedTuple):
  """A loss, and its targets.

  Attributes:
    loss: the loss.
    rows: the integer argument, `[N]`.
    targets_of: `targets_of(rows, dtype)` gives what the loss takes.
  """

  loss: fb.Loss
  rows: tuple[int, ...]
  targets_of: Callable[[Any, Any], Any]


def labels_of(rows: Any, dtype: Any) -> Any:
  """The rows themselves, as labels."""
  return rows


def rows_of(*table: tuple[float, ...]) -> Callable[[Any, Any], Any]:
  """Rows of a table, in the dtype of the outputs."""

  def targets_of(rows: Any, dtype: Any) -> Any:
    return jnp.asarray(np.array(table), dtype)[rows]

  return targets_of


real_rows = rows_of((1, -0.5, 0, 0.75), (-2, 0.25, 1.5, 0), (0.5, 3, -1, -0.25), (0, 0, 2, -4))
count_rows = rows_of((0, 1, 2, 3), (4, 0, 1, 0), (2, 2, 0, 1), (1, 0, 0, 3))
# Soft, one-hot, soft with a sum of 5/8, uniform.
share_rows = rows_of(
  (0.5, 0.25, 0.125, 0.125), (0, 0, 1, 0), (0.125, 0.25, 0, 0.25), (0.25, 0.25, 0.25, 0.25)
)
short_rows = rows_of((1, -0.5), (-2, 0.25), (0.5, 3))


def labels_and_rows(rows: Any, dtype: Any) -> Any:
  """For two losses in one."""
  return rows, short_rows(rows, dtype)


LABELS, LABELS_WITH_GAPS, LABELS_OF_THREE = (0, 1, 2, 3, 1, 0), (0, -1, 2, 3, 1, -1), (0, 1, 2) * 2
LOSSES = {
  "softmax_cross_entropy": LossCase(fb.softmax_cross_entropy, LABELS, labels_of),
  "softmax_cross_entropy, rows": LossCase(fb.softmax_cross_entropy, LABELS, share_rows),
  "softmax_cross_entropy_with": LossCase(
    fb.softmax_cross_entropy_with(
      label_smoothing=0.25, class_weights=(0.5, 1.0, 2.0, 0.0), ignore_label=-1
    ),
    LABELS_WITH_GAPS,
    labels_of,
  ),
  "sigmoid_cross_entropy": LossCase(fb.sigmoid_cross_entropy, LABELS, share_rows),
  "hinge": LossCase(fb.hinge, LABELS, labels_of),
  "squared_error": LossCase(fb.squared_error, LABELS, real_rows),
  "huber": LossCase(fb.huber, LABELS, real_rows),
  "huber_with": LossCase(fb.huber_with(0.5), LABELS, real_rows),
  "log_cosh": LossCase(fb.log_cosh, LABELS, real_rows),
  "poisson_nll": LossCase(fb.poisson_nll, LABELS, count_rows),
  "combine": LossCase(
    fb.combine(
      (0.5, fb.softmax_cross_entropy, slice(0, 3)), (2.0, fb.squared_error, slice(-2, None))
    ),
    LABELS_OF_THREE,
    labels_and_rows,
  ),
}
# Row 0 counts nothing: where all rows are that one, the total weight is zero.
WEIGHTS = np.array([0.0, 1.0, 0.5, 2.0])

PARTS: dict[str, Callable[[], fb.Layer]] = {
  "dense": lambda: fb.dense(WIDTH, OUTPUTS),
  "dense, no bias": lambda: fb.dense(WIDTH, OUTPUTS, bias=False),
  "layer_norm": lambda: fb.layer_norm(WIDTH),
  "rms_norm": lambda: fb.rms_norm(WIDTH),
  "dropout": lambda: fb.dropout(0.25),
  "serial, nested": library.chain,
  "skip": library.branch,
  "repeat": library.loop,
  "remat": library.computed_again,
  "mlp": library.plain_mlp,
  "mlp, no bias": library.mlp_without_bias,
  "mlp, rms_norm, repeat": library.normalized_mlp,
  "mlp, everything": library.mlp_with_everything,
}


class Cell(NamedTuple):
  """One cell; `loss` is "layer by layer" or "as_custom_vjp" where `net` is one of `PARTS`."""

  dtype: str
  loss: str
  net: str


BY_LAYER, AS_CUSTOM_VJP = "layer by layer", "as_custom_vjp"
FORMS = (BY_LAYER, AS_CUSTOM_VJP)


def cells() -> Iterator[Cell]:
  """All of them, those of one loss and dtype together."""
  for dtype in DTYPES:
    for loss in LOSSES:
      yield from (Cell(dtype, loss, activation) for activation in ACTIVATIONS)
    for form in FORMS:
      yield from (Cell(dtype, form, part) for part in PARTS)


def is_weighted(cell: Cell) -> bool:
  """Like the squares of a chess board: each pair in two of the dtypes."""
  place = DTYPES.index(cell.dtype) + list(LOSSES).index(cell.loss) + ACTIVATIONS.index(cell.net)
  return place % 2 == 1


def verify(cell: Cell, level: str = "standard") -> fb.verify.Report:
  """The report on one cell; float64 with x64 on, as its user has it."""
  with jax.enable_x64(True) if cell.dtype == "float64" else contextlib.nullcontext():
    if cell.loss in LOSSES:
      return verify_mean_loss(cell, level)
    net, params, x = arguments_of(PARTS[cell.net](), cell.dtype)
    if cell.loss == AS_CUSTOM_VJP:
      return fb.verify.vjp(fb.as_custom_vjp(net), params, x, level=level)
    key = jax.random.key(1) if net.draws else None
    return fb.verify.layer(net, params, x, key=key, level=level)


def arguments_of(net: fb.Layer, dtype: str) -> tuple[fb.Layer, Any, Any]:
  """A net with parameters and data, all of them drawn, biases too."""
  rng = np.random.default_rng(0)

  def drawn(shape: tuple[int, ...]) -> Any:
    return jnp.asarray(rng.normal(size=shape), dtype)

  shapes = jax.eval_shape(net.init, jax.random.key(0))
  return net, jax.tree.map(lambda leaf: drawn(leaf.shape), shapes), drawn((N, WIDTH))


def verify_mean_loss(cell: Cell, level: str) -> fb.verify.Report:
  """`value_and_grad` of dense, activation, dense and the loss, against the mean written out."""
  case = LOSSES[cell.loss]
  net, params, x = arguments_of(
    fb.serial(fb.dense(WIDTH, HIDDEN), getattr(fb, cell.net), fb.dense(HIDDEN, OUTPUTS)), cell.dtype
  )
  gradient = fb.value_and_grad(net, case.loss, input_gradient=True)

  def weights_of(rows: Any, own_dtype: Any) -> Any:
    return jnp.asarray(WEIGHTS, own_dtype)[rows] if is_weighted(cell) else None

  def mean_loss(params: Any, x: Any, rows: Any) -> Any:
    outputs = net.forward(params, x)[0]
    losses = case.loss.forward(outputs, case.targets_of(rows, x.dtype))[0]
    weights = weights_of(rows, x.dtype)
    if weights is None:
      return losses.sum() / max(losses.shape[0], 1)
    total = weights.sum()
    return (weights * losses).sum() / jnp.where(total == 0, 1, total)

  def mean_loss_vjp(params: Any, x: Any, rows: Any) -> Any:
    targets, weights = case.targets_of(rows, x.dtype), weights_of(rows, x.dtype)
    value, grads = gradient(params, x, targets, weights=weights)

    def pull(y_bar: Any) -> Any:
      return (*jax.tree.map(lambda leaf: y_bar * leaf, grads), None)

    return value, pull

  rows = jnp.asarray(case.rows, jnp.int32)
  return fb.verify.vjp(mean_loss, params, x, rows, f_vjp=mean_loss_vjp, level=level)
