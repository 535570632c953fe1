"""Weighted sums of losses, each applied to its own slice of the outputs."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.errors import DtypeError, RangeError, ShapeError, StructureError, describe, noted
from fbackprop.losses.rows import check_outputs, curvature_of, sampler_of
from fbackprop.types import Array, Loss, LossCurvature, Residuals


def combine(*parts: tuple[float, Loss, slice | int]) -> Loss:
  """Build the weighted sum of losses, each of a slice of the outputs, as a `Loss`.

  losses_n = Σ_i weight_i · loss_i(outputs_n[slice_i], targets_i). Backward, each part's cotangent
  is added to its slice; cotangents of overlapping slices are summed, and an output in no slice gets
  0.

  Args:
    *parts: `(weight, loss, output_slice)`: a finite number, which even if 0 requires a finite loss;
      a `Loss`, which may be a combination itself; and its outputs, a `slice` without a step, or an
      integer for one output, which the loss gets as `[N, 1]`. Negative positions count from the
      end.

  Returns:
    The `Loss`. Its targets are the tuple of the parts' targets, in order; the residuals are those
    of the parts, and an empty array as wide as the outputs.

  Raises:
    TypeError: there are no parts, or a part isn't such a triple.
    ValueError: when traced: a slice doesn't fit the outputs, or the targets aren't a tuple of the
      right length. The error of a part has a note that names the part.

  Example:
    >>> from fbackprop.losses.classification import softmax_cross_entropy
    >>> from fbackprop.losses.regression import squared_error
    >>> loss = combine((1.0, softmax_cross_entropy, slice(0, 3)), (0.1, squared_error, 3))
    >>> targets = jnp.array([0, 2]), jnp.ones((2, 1))
    >>> losses, residuals = loss.forward(jnp.zeros((2, 4)), targets)
    >>> print(losses)  # ln 3 + 0.05
    [1.1486123 1.1486123]
  """
  if not parts:
    raise DtypeError("combine: takes at least one (weight, loss, output_slice), got none")
  for i, part in enumerate(parts):
    check_part(i, part)
  weights = tuple(float(weight) for weight, _, _ in parts)

  def combined_forward(outputs: Array, targets: tuple[Any, ...]) -> tuple[Array, Residuals]:
    check_outputs("combine", outputs)
    check_tuple(targets, parts)
    losses = jnp.zeros(outputs.shape[0], outputs.dtype)
    kept = []
    for i, (_, loss, output_slice) in enumerate(parts):
      start, stop = columns(i, output_slice, outputs)
      with noted(f"in part {i} ({loss.name}) of {len(parts)}, outputs {start} to {stop - 1}"):
        part_losses, part_kept = loss.forward(outputs[:, start:stop], targets[i])
      losses = losses + weights[i] * part_losses
      kept.append(part_kept)
    # The residuals of the parts don't determine the number of outputs; an array without rows does,
    # at no cost.
    return losses, (tuple(kept), outputs[:0])

  def combined_backward(residuals: Residuals, losses_bar: Array) -> Array:
    kept, empty = residuals
    checks.check_shape("combine", "losses_bar", losses_bar, ("N",), empty.dtype)
    c = empty.shape[1]
    outputs_bar = jnp.zeros((losses_bar.shape[0], c), empty.dtype)
    for i, (_, loss, output_slice) in enumerate(parts):
      start, stop = columns(i, output_slice, empty)
      part_bar = loss.backward(kept[i], weights[i] * losses_bar)
      around = ((0, 0, 0), (start, c - stop, 0))
      outputs_bar = outputs_bar + jax.lax.pad(part_bar, jnp.zeros((), empty.dtype), around)
    return outputs_bar

  return Loss("combine", combined_forward, combined_backward, combined_curvature(parts))


def combined_curvature(parts: tuple[tuple[float, Loss, slice | int], ...]) -> LossCurvature:
  """H_n = Σ_i weight_i H_ni, each within its slice: the columns of the parts' roots, side by side.

  The draws of the parts are independent and have the mean 0, so that they may be added where slices
  overlap. A root and a draw need weights that aren't negative.
  """

  def each(outputs: Array, targets: tuple[Any, ...], of_part: Any) -> list[Array]:
    """Compute `of_part(i, loss, outputs, targets)` of each part, with zeros around its slice."""
    check_tuple(targets, parts)
    found = []
    for i, (_, loss, output_slice) in enumerate(parts):
      start, stop = columns(i, output_slice, outputs)
      with noted(f"in part {i} ({loss.name}) of {len(parts)}, outputs {start} to {stop - 1}"):
        value = of_part(i, loss, slice(start, stop), targets[i])
      around = [(0, 0)] * (value.ndim - 1) + [(start, outputs.shape[1] - stop)]
      found.append(jnp.pad(value, around))
    return found

  def root_of_weight(i: int) -> float:
    weight = float(parts[i][0])
    if weight < 0:
      problem = f"must be at least 0 for a square root of the curvature, got {weight}"
      raise RangeError(problem, f"the weight of part {i}", "combine")
    return math.sqrt(weight)

  def roots(outputs: Array, targets: tuple[Any, ...], is_fisher: bool) -> Array:
    def root_of_part(i: int, loss: Loss, at: slice, target: Any) -> Array:
      curvature = curvature_of("combine", loss)
      root = (curvature.fisher if is_fisher else None) or curvature.root
      return root_of_weight(i) * root(outputs[:, at], target)

    return jnp.concatenate(each(outputs, targets, root_of_part))

  def combined_product(outputs: Array, targets: tuple[Any, ...], v: Array) -> Array:
    def product_of_part(i: int, loss: Loss, at: slice, target: Any) -> Array:
      product = curvature_of("combine", loss).product
      return float(parts[i][0]) * product(outputs[:, at], target, v[:, at])

    return functools.reduce(jnp.add, each(outputs, targets, product_of_part))

  def combined_sample(key: Array, outputs: Array, targets: tuple[Any, ...]) -> Array:
    def draw_of_part(i: int, loss: Loss, at: slice, target: Any) -> Array:
      draw = sampler_of("combine", loss)
      return root_of_weight(i) * draw(jax.random.fold_in(key, i), outputs[:, at], target)

    return functools.reduce(jnp.add, each(outputs, targets, draw_of_part))

  return LossCurvature(
    functools.partial(roots, is_fisher=False), combined_product, combined_sample,
    functools.partial(roots, is_fisher=True),
  )  # fmt: skip


def check_tuple(targets: Any, parts: tuple[Any, ...]) -> None:
  """Raise unless the targets are a tuple, one for each part."""
  if type(targets) is not tuple or len(targets) != len(parts):
    got = f"a tuple of {len(targets)}" if type(targets) is tuple else describe(targets)
    raise StructureError(f"must be a tuple of {len(parts)}, got {got}", "targets", "combine")


def check_part(i: int, part: Any) -> None:
  """Raise unless a part is a weight, a loss, and a slice of the outputs."""
  is_triple = isinstance(part, tuple) and not isinstance(part, Loss) and len(part) == 3
  checks.check_that("combine", f"part {i}", part, is_triple, "be (weight, loss, output_slice)")
  weight, loss, output_slice = part
  checks.check_number("combine", f"the weight of part {i}", weight)
  checks.check_unit("combine", f"the loss of part {i}", loss, Loss)
  is_range = isinstance(output_slice, slice) and output_slice.step in (None, 1)
  ends = (output_slice.start, output_slice.stop) if is_range else (output_slice,)
  is_right = all(checks.is_integer(end) or (is_range and end is None) for end in ends)
  name, wanted = f"the output_slice of part {i}", "be an integer, or a slice without a step"
  checks.check_that("combine", name, output_slice, is_right, wanted)


def columns(i: int, output_slice: slice | int, outputs: Array) -> tuple[int, int]:
  """Return a part's first column and the one after its last; raise if a slice is out of range."""
  c = outputs.shape[1]
  if isinstance(output_slice, slice):
    start = 0 if output_slice.start is None else output_slice.start
    stop = c if output_slice.stop is None else output_slice.stop
    start, stop = (place + c if place < 0 else place for place in (start, stop))
  else:
    start = output_slice + c if output_slice < 0 else output_slice
    stop = start + 1
  if not 0 <= start < stop <= c:
    name = f"the output_slice of part {i}, {output_slice},"
    raise ShapeError(f"must select some of {c} outputs", name, "combine")
  return int(start), int(stop)
