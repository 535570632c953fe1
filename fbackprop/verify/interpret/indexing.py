"""Primitives that pick, place or order entries, in NumPy.

JAX would compile each of them for each shape, which takes longer than all else in the verification
of a rule that indexes. Every array has the axis of samples in front; indices rarely vary from
sample to sample, and then one NumPy index serves all.

A gather takes from an operand windows of one size, whose corners the indices name; a scatter
combines windows with an operand. Both become a NumPy index: one array of integers for each axis of
the operand, of the shape of the batch of corners and then that of a window.

References:
  The operation semantics of XLA: Gather, Scatter, Pad, DynamicSlice, DynamicUpdateSlice, Sort.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Move = Callable[..., list[np.ndarray]]


def by_sample(function: Callable[..., np.ndarray], fixed: Sequence[Any], moving: Any) -> np.ndarray:
  """Apply a function to the arrays at once, or to each sample where what addresses them varies.

  Args:
    function: of `addresses`, then of the arrays `moving`, each with an axis of samples.
    fixed: the addresses, each with an axis of samples.
    moving: the arrays whose entries are moved, likewise.
  """
  if all(x.shape[0] == 1 for x in fixed):
    return function([x[0] for x in fixed], *moving)
  count = max(x.shape[0] for x in (*fixed, *moving))

  def sample(x: np.ndarray, k: int) -> np.ndarray:
    return x[min(k, x.shape[0] - 1)]

  rows = [
    function([sample(x, k) for x in fixed], *(sample(x, k)[None] for x in moving))
    for k in range(count)
  ]
  return np.concatenate(rows)


# --- Gather and scatter ---------------------------------------------------------------------------


def corners(
  indices: np.ndarray, shape: Sequence[int], starts: Any, batching: Any, index_batching: Any
) -> list[np.ndarray]:
  """Return the corner of each window along each axis of the operand.

  Args:
    indices: an array [*batch, K].
    shape: that of the operand.
    starts: the axis of the operand that each of the K components addresses.
    batching, index_batching: axes of the operand and of the batch that are counted along together.
  """
  batch = indices.shape[:-1]
  found = [np.zeros(batch, np.int64) for _ in shape]
  for k, axis in enumerate(starts):
    found[axis] = indices[..., k].astype(np.int64)
  for axis, along in zip(batching, index_batching, strict=True):
    count = np.arange(batch[along]).reshape(-1, *(1,) * (len(batch) - 1 - along))
    found[axis] = np.broadcast_to(count, batch)
  return found


def window_index(
  own_corners: Sequence[np.ndarray], sizes: Sequence[int], kept: Sequence[int]
) -> tuple[np.ndarray, ...]:
  """Return the NumPy index of all windows, of shape [*batch, *window].

  Args:
    own_corners: the corner of each window along each axis.
    sizes: the size of a window along each axis.
    kept: the axes of the operand that are axes of a window.
  """
  found = []
  for axis, corner in enumerate(own_corners):
    index = corner.reshape((*corner.shape, *(1,) * len(kept)))
    if axis in kept:
      place = kept.index(axis)
      along = np.arange(sizes[axis]).reshape(-1, *(1,) * (len(kept) - 1 - place))
      index = index + along
    found.append(index)
  return tuple(np.broadcast_arrays(*found)) if found else ()


def are_inside(
  own_corners: Sequence[np.ndarray], shape: Sequence[int], sizes: Sequence[int]
) -> np.ndarray:
  """Return for each window whether all of it lies within the operand."""
  inside = [
    (corner >= 0) & (corner <= n - size)
    for corner, n, size in zip(own_corners, shape, sizes, strict=True)
  ]
  return np.asarray(np.all(inside, axis=0)) if inside else np.asarray(True)


def clamped(
  own_corners: Sequence[np.ndarray], shape: Sequence[int], sizes: Sequence[int]
) -> list[np.ndarray]:
  """Move each window into the operand."""
  triples = zip(own_corners, shape, sizes, strict=True)
  return [np.clip(corner, 0, max(0, n - size)) for corner, n, size in triples]


def drops(params: Any) -> bool:
  """Return whether windows outside of the operand are left out, rather than moved into it."""
  return "FILL" in str(params["mode"]).upper()


def gather(params: Any, operand: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
  """Take windows of an operand."""
  numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
  batching = getattr(numbers, "operand_batching_dims", ())
  index_batching = getattr(numbers, "start_indices_batching_dims", ())
  left_out = {*numbers.collapsed_slice_dims, *batching}
  kept = [axis for axis in range(operand.ndim - 1) if axis not in left_out]

  def taken(fixed: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    shape = x.shape[1:]
    own = corners(fixed[0], shape, numbers.start_index_map, batching, index_batching)
    inside = are_inside(own, shape, sizes)
    index = window_index(clamped(own, shape, sizes), sizes, kept)
    batch = inside.ndim
    whole: tuple[Any, ...] = (slice(None), *index)
    found = x[whole]
    if drops(params):
      mask = inside.reshape((*inside.shape, *(1,) * len(kept)))
      found = np.where(mask, found, filler(params.get("fill_value"), x.dtype))
    places = [1 + axis for axis in numbers.offset_dims]
    return np.moveaxis(found, range(1 + batch, found.ndim), places)

  return [by_sample(taken, [indices], [operand])]


def filler(value: Any, dtype: Any) -> Any:
  """Return what a gather yields outside of its operand."""
  if value is not None:
    return value
  if dtype.kind in "fc":
    return np.nan
  if dtype.kind in "iu":
    limits = np.iinfo(dtype)
    return dtype.type(limits.min if dtype.kind == "i" else limits.max)
  return True


def placing(combine: Callable[..., Any]) -> Move:
  """Return the scatter that combines entries by a function of (array, index, values), in place."""

  def scatter(
    params: Any, operand: np.ndarray, indices: np.ndarray, updates: np.ndarray
  ) -> list[np.ndarray]:
    numbers = params["dimension_numbers"]
    batching = getattr(numbers, "operand_batching_dims", ())
    index_batching = getattr(numbers, "scatter_indices_batching_dims", ())
    left_out = {*numbers.inserted_window_dims, *batching}
    kept = [axis for axis in range(operand.ndim - 1) if axis not in left_out]
    windows = [updates.shape[1 + axis] for axis in numbers.update_window_dims]
    by_axis = dict(zip(kept, windows, strict=True))
    sizes = [by_axis.get(axis, 1) for axis in range(operand.ndim - 1)]

    def placed(fixed: list[np.ndarray], x: np.ndarray, new: np.ndarray) -> np.ndarray:
      shape = x.shape[1:]
      starts = numbers.scatter_dims_to_operand_dims
      own = corners(fixed[0], shape, starts, batching, index_batching)
      batch = fixed[0].ndim - 1
      count = max(x.shape[0], new.shape[0])
      out = np.array(np.broadcast_to(x, (count, *shape)))
      # The axes of the windows behind those of the batch, as in the index.
      ordered = np.moveaxis(
        new, [1 + a for a in numbers.update_window_dims], range(1 + batch, new.ndim)
      )
      if "CLIP" in str(params["mode"]).upper():
        own = clamped(own, shape, sizes)
      inside = np.broadcast_to(are_inside(own, shape, sizes), fixed[0].shape[:-1])
      index = window_index([corner[inside] for corner in own], sizes, kept)
      values = ordered[:, inside]
      if values.size:
        combine(out, (slice(None), *index), np.broadcast_to(values, (count, *values.shape[1:])))
      return out

    return [by_sample(placed, [indices], [operand, updates])]

  return scatter


def replace_at(out: np.ndarray, index: Any, values: np.ndarray) -> None:
  """Write the entries; of several for one place the last remains, as on a CPU."""
  out[index] = values


# --- Slices, padding and order --------------------------------------------------------------------


def slices_at(starts: Sequence[Any], shape: Sequence[int], sizes: Sequence[int]) -> tuple[Any, ...]:
  """Return the NumPy index of a window whose corner is moved into the operand."""
  triples = zip(starts, shape, sizes, strict=True)
  corner = [int(np.clip(int(start), 0, n - size)) for start, n, size in triples]
  return (slice(None), *(slice(c, c + size) for c, size in zip(corner, sizes, strict=True)))


def dynamic_slice(params: Any, operand: np.ndarray, *starts: np.ndarray) -> list[np.ndarray]:
  """Take one window."""
  sizes = params["slice_sizes"]
  return [by_sample(lambda at, x: x[slices_at(at, x.shape[1:], sizes)], starts, [operand])]


def dynamic_update_slice(
  params: Any, operand: np.ndarray, update: np.ndarray, *starts: np.ndarray
) -> list[np.ndarray]:
  """Replace one window."""

  def replaced(at: list[np.ndarray], x: np.ndarray, new: np.ndarray) -> np.ndarray:
    out = np.array(np.broadcast_to(x, (max(x.shape[0], new.shape[0]), *x.shape[1:])))
    out[slices_at(at, x.shape[1:], new.shape[1:])] = new
    return out

  return [by_sample(replaced, starts, [operand, update])]


def pad(params: Any, operand: np.ndarray, value: np.ndarray) -> list[np.ndarray]:
  """Pad before, behind and between the entries of each axis; a negative number crops."""
  shape, own, crops = [], [], []
  for n, (low, high, inner) in zip(operand.shape[1:], params["padding_config"], strict=True):
    spread = n + max(0, n - 1) * inner
    shape.append(spread + max(low, 0) + max(high, 0))
    own.append(slice(max(low, 0), max(low, 0) + spread, inner + 1))
    crops.append(slice(max(-low, 0), shape[-1] - max(-high, 0)))
  out = np.empty((max(operand.shape[0], value.shape[0]), *shape), operand.dtype)
  out[...] = value.reshape(-1, *(1,) * len(shape))
  out[(slice(None), *own)] = operand
  return [out[(slice(None), *crops)]]


def split(params: Any, operand: np.ndarray) -> list[np.ndarray]:
  """Split an axis."""
  edges = list(itertools.accumulate(params["sizes"]))[:-1]
  return list(np.split(operand, edges, axis=1 + params["axis"]))


def sort(params: Any, *operands: np.ndarray) -> list[np.ndarray]:
  """Sort along an axis by the first operands; NaN comes last, and the two zeros are equal."""
  axis = 1 + params["dimension"]
  full = list(np.broadcast_arrays(*operands))
  keys = full[: params["num_keys"]]
  if any(key.dtype.kind == "c" for key in keys):
    keys = [part for key in keys for part in (key.real, key.imag)]
  order = np.lexsort(keys[::-1], axis=axis)
  return [np.take_along_axis(x, order, axis) for x in full]


# These round nothing.
EXACT: dict[str, Move] = {
  "gather": gather, "dynamic_slice": dynamic_slice, "dynamic_update_slice": dynamic_update_slice,
  "pad": pad, "split": split, "sort": sort, "scatter": placing(replace_at),
  "scatter-min": placing(np.minimum.at), "scatter-max": placing(np.maximum.at),
}  # fmt: skip
# These round wherever an entry is added or multiplied.
ROUNDED: dict[str, Move] = {
  "scatter-add": placing(np.add.at), "scatter-mul": placing(np.multiply.at),
  "scatter-sub": placing(np.subtract.at),
}  # fmt: skip


def is_known(equation: Any) -> bool:
  """Return whether NumPy evaluates an equation exactly; not a scatter of any function."""
  is_apply = equation.primitive.name == "scatter" and equation.params.get("update_jaxpr")
  return equation.primitive.name in EXACT and not is_apply
