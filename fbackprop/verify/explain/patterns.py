"""Patterns of one wrong leaf beside the right one: a factor, a clip, a transpose.

Each pattern is a concrete array that must reproduce every entry of the rule's numbers, and explain
their error rather than a remainder of it. To add a pattern, yield it here; a pattern with a free
parameter belongs among those that are tried last.

Doubts: one leaf at one point is little evidence. A pattern that fits by coincidence is reported
like the true one, and a pattern of one entry needs a round factor to be believed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

# Relative to the largest entry of a leaf, beside four times the caller's bound.
LEAF_SHARE = 1e-12
# The unexplained remainder is at most this share of the explained error.
LEFT_OVER = 1e-2
# Factors closer than this are equal.
SAME_FACTOR = 1e-9
NARROW: tuple[tuple[str, Any], ...] = (
  ("bfloat16", ml_dtypes.bfloat16),
  ("float16", np.float16),
  ("float32", np.float32),
)
ROUND_NORMS = tuple(m * 10.0**e for e in range(-3, 4) for m in (1.0, 2.0, 2.5, 5.0))

Candidates = Iterator[tuple[str, np.ndarray]]


class WrongLeaf(NamedTuple):
  """The wrong leaf, with the data that may explain it.

  Attributes:
    got, want: the leaf's values and their truth, in float64.
    tolerance: the largest error of a reproduced entry.
    parameter: the argument whose cotangent the leaf is.
    sizes: named dimensions that may occur in a factor, such as ("N", 32).
    others: (name, got, want, argument) of the other leaves of this shape.
    batch: the number of examples.
  """

  got: np.ndarray
  want: np.ndarray
  tolerance: np.ndarray
  parameter: np.ndarray
  sizes: tuple[tuple[str, int], ...] = ()
  others: tuple[tuple[str, np.ndarray, np.ndarray, np.ndarray], ...] = ()
  batch: int | None = None

  def is_matched_by(self, candidate: np.ndarray) -> bool:
    """Return whether an array reproduces every entry, and the error with little rest."""
    with np.errstate(all="ignore"):
      left = np.abs(self.got - candidate)
      error = np.max(np.abs(self.got - self.want), initial=0.0)
      return bool((left <= self.tolerance).all() and np.max(left, initial=0.0) <= LEFT_OVER * error)

  def match(self, candidate: np.ndarray) -> str:
    """Format the largest deviation of a candidate, relative to the largest entry."""
    scale = max(np.max(np.abs(self.got), initial=0.0), np.max(np.abs(self.want), initial=0.0))
    return f"(match {np.max(np.abs(self.got - candidate), initial=0.0) / (scale or 1.0):.0e})"


def first_fit(wrong: WrongLeaf, *patterns: Callable[[WrongLeaf], Candidates]) -> str | None:
  """Return the text of the first candidate that fits."""
  for pattern in patterns:
    for text, candidate in pattern(wrong):
      if wrong.is_matched_by(candidate):
        return f"{text} {wrong.match(candidate)}"
  return None


def tolerance_of(got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> np.ndarray:
  """Return the largest error of a reproduced entry."""
  finite = [np.max(np.abs(x), initial=0.0, where=np.isfinite(x)) for x in (got, want)]
  return np.asarray(4 * np.where(np.isfinite(bound), bound, 0.0) + LEAF_SHARE * max(finite))


def narrowed(dtype: Any, x: np.ndarray) -> np.ndarray:
  """Round to a narrower dtype and back."""
  return x.astype(dtype).astype(np.float64)


# --- Tried first ----------------------------------------------------------------------------------


def plain_patterns(wrong: WrongLeaf) -> Candidates:
  """Yield the simplest candidates."""
  got, want = wrong.got, wrong.want
  yield "zero: every entry", np.zeros_like(want)
  factor = factor_of(wrong)
  if factor is not None and (name := name_factor(factor, wrong.sizes)):
    yield f"constant factor: {name}", factor * want
  error = got - want
  parameters = [(name, argument) for name, _, _, argument in wrong.others]
  for what, parameter in [("the leaf itself", wrong.parameter), *parameters]:
    for of, tensor in (("", parameter), ("the sign of ", np.sign(parameter))):
      if np.count_nonzero(tensor) >= 2:
        share = float(np.vdot(error, tensor) / np.vdot(tensor, tensor))
        yield f"proportional to a parameter: {share:.6g} times {of}{what}", want + share * tensor
  cut = int((np.abs(error) > wrong.tolerance).sum())
  if 1 < cut < got.size:  # One cut entry, or all, would always fit.
    low = float(np.max(got, initial=-np.inf, where=error > wrong.tolerance))
    high = float(np.min(got, initial=np.inf, where=error < -wrong.tolerance))
    if low <= high and (low > -np.inf or high < np.inf):
      yield f"clipped: to [{low:.6g}, {high:.6g}]", np.clip(want, low, high)
  if got.size > 1:
    yield "cotangent: the absolute value", np.abs(want)
    yield "cotangent: its sign alone", np.sign(want)
  for name, their_got, their_want, _ in wrong.others:
    if np.allclose(their_got, want, rtol=1e-9, atol=0):
      yield f"permuted: exchanged with the cotangent of {name}", their_want
  with np.errstate(all="ignore"):
    for name, dtype in NARROW:
      eps = float(np.spacing(dtype(1)))
      is_near = (np.abs(got - want) <= eps * np.abs(want)).all()
      if is_near and np.array_equal(got, narrowed(dtype, got)):
        yield f"precision: the result is rounded to {name}", got


def rearranged(wrong: WrongLeaf) -> Candidates:
  """Yield the right entries in other places: transposed, flipped, rolled, permuted."""
  want = wrong.want
  if want.size < 2:
    return
  for i in range(want.ndim):
    for j in range(i + 1, want.ndim):
      swapped = np.swapaxes(want, i, j)
      if want.shape[i] == want.shape[j]:
        yield f"transposed: axes {i} and {j}", swapped
      elif 1 not in (want.shape[i], want.shape[j]):
        yield f"transposed: axes {i} and {j}, then reshaped", swapped.reshape(want.shape)
  yield from shifted(want)
  for axis in range(want.ndim):
    order = order_along(wrong, axis)
    if order is not None:
      yield f"permuted: along axis {axis}", np.take(want, order, axis)
  order = order_along(wrong._replace(got=wrong.got.ravel(), want=want.ravel()), 0)
  if order is not None and want.ndim > 1:
    yield "permuted: entries", want.ravel()[order].reshape(want.shape)


def shifted(tensor: np.ndarray) -> Candidates:
  """Yield a tensor flipped and rolled."""
  for axis in range(tensor.ndim):
    n = tensor.shape[axis]
    if n < 2:
      continue
    yield f"permuted: flipped along axis {axis}", np.flip(tensor, axis)
    for by in {1, n - 1, 2, n - 2, n // 2} - {0, n}:
      yield f"permuted: rolled by {by} along axis {axis}", np.roll(tensor, by, axis)


def order_along(wrong: WrongLeaf, axis: int) -> np.ndarray | None:
  """Return an order of slices that may turn want into got: their projections in the same order."""
  n = wrong.want.shape[axis]
  if n < 2:
    return None
  g, w = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (wrong.got, wrong.want))
  direction = np.random.default_rng(0).normal(size=g.shape[1])
  by_got, by_want = np.argsort(g @ direction), np.argsort(w @ direction)
  order = np.empty(n, int)
  order[by_got] = by_want
  return None if (order == np.arange(n)).all() else order


# --- Tried last -----------------------------------------------------------------------------------


def any_factor(wrong: WrongLeaf) -> Candidates:
  """Yield an unnamed factor, but not of a single entry, which always has one."""
  factor = factor_of(wrong)
  if factor is None or np.count_nonzero(wrong.want) < 2:
    return
  norm = float(np.linalg.norm(wrong.got))
  if 0 < factor < 1:
    for least in ROUND_NORMS:
      if abs(norm / least - 1) < SAME_FACTOR:
        yield f"clipped: to norm {least:g}", factor * wrong.want
  yield f"constant factor: {factor:.10g}", factor * wrong.want


def last_patterns(wrong: WrongLeaf) -> Candidates:
  """Yield unspecific candidates: another leaf's cotangent; a round factor in one entry."""
  got, want = wrong.got, wrong.want
  error = got - want
  for name, _, other, _ in wrong.others:
    yield f"permuted: the cotangent of {name}", other
  entries = np.argwhere(np.abs(error) > wrong.tolerance)
  if len(entries) == 1 and got.size > 1 and want[tuple(entries[0])] != 0:
    at = tuple(int(i) for i in entries[0])
    factor = name_round_factor(float(got[at] / want[at]))
    if factor is not None:
      yield f"constant factor: {factor} in one entry, {list(at)}", np.where(error != 0, got, want)


def blank_slices(wrong: WrongLeaf) -> Candidates:
  """Yield rows, columns, ... that are zero or scaled while the others are right."""
  want = wrong.want
  for axis in range(want.ndim):
    n = want.shape[axis]
    if n < 2:
      continue
    g, w, tolerance = (
      np.moveaxis(a, axis, 0).reshape(n, -1) for a in (wrong.got, want, wrong.tolerance)
    )
    squares = (w * w).sum(1)
    with np.errstate(all="ignore"):
      factors = np.where(squares > 0, (g * w).sum(1) / squares, 1.0)
    factors = np.where((np.abs(g - w) <= tolerance).all(1), 1.0, factors)
    slices = np.flatnonzero(factors != 1.0)
    if len(slices) == n or np.count_nonzero(w[slices]) < 2:
      continue
    candidate = want * np.expand_dims(factors, [a for a in range(want.ndim) if a != axis])
    where = describe_indices(slices, n)
    is_zero = bool((np.abs(factors[slices]) < 1e-12).all())
    factor = f"{factors[slices[0]]:.6g}"
    if axis == 0 and n == wrong.batch:
      counted = "left out" if is_zero else f"counted {factor} times"
      yield f"subset of examples: {where} {counted}", candidate
    elif is_zero:
      yield f"zero: {where} along axis {axis}, zero", candidate
    else:
      yield f"constant factor: {where} along axis {axis}, multiplied by {factor}", candidate


def looks_rounded(wrong: WrongLeaf) -> str | None:
  """Return the dtype whose rounding has the size of the errors, where nothing reproduces them.

  Rounding errors have both signs and affect nearly every entry.
  """
  want, error = wrong.want, wrong.got - wrong.want
  scale = float(np.sqrt(np.mean(want**2))) if want.size else 0.0
  if want.size < 8 or not 0 < scale < np.inf or np.count_nonzero(error) < 0.75 * want.size:
    return None
  size = float(np.sqrt(np.mean(error**2)))
  if abs(float(error.mean())) > 0.75 * size:
    return None
  for name, dtype in NARROW:
    unit = float(np.spacing(dtype(1))) / 2
    if unit / 8 <= size / scale <= unit * 2:
      return f"precision: errors of the size of {name}'s rounding, {size / scale:.0e}"
  return None


# --- Names of factors and indices -----------------------------------------------------------------


def factor_of(wrong: WrongLeaf) -> float | None:
  """Return ⟨got, want⟩ / ⟨want, want⟩, the factor if there is one."""
  square = float(np.vdot(wrong.want, wrong.want))
  return float(np.vdot(wrong.got, wrong.want)) / square if 0 < square < np.inf else None


def name_factor(factor: float, sizes: Sequence[tuple[str, int]]) -> str | None:
  """Name a factor, or return None.

  Args:
    factor: the number.
    sizes: named dimensions, likelier ones first.

  Example:
    >>> name_factor(0.03125, [("N", 32)])
    '1/N, N = 32'
    >>> name_factor(1.000001, [])
    '1 + 1.0e-06'
    >>> name_factor(0.731, [("N", 32)]) is None
    True
  """
  for sign in (1.0, -1.0):
    for name, value in named_factors(sizes):
      if value != 1.0 and abs(sign * factor - value) <= SAME_FACTOR * abs(value):
        return name if sign > 0 else f"-{name}"
  if abs(factor + 1) <= SAME_FACTOR:
    return "-1"
  if 0 < abs(factor - 1) < 1e-2:
    return f"1 {'+' if factor > 1 else '-'} {abs(factor - 1):.1e}"
  return None


def name_round_factor(factor: float) -> str | None:
  """Name a factor too round to be a coincidence, since a single entry always has a factor."""
  for name, value in (("-1", -1.0), ("2", 2.0), ("1/2", 0.5)):
    if abs(factor - value) <= SAME_FACTOR:
      return name
  excess = abs(factor - 1)
  if not 1e-9 <= excess <= 1e-2:
    return None
  is_round = f"{excess:.4e}"[1:6] == ".0000"
  return name_factor(factor, ()) if is_round else None


def named_factors(sizes: Sequence[tuple[str, int]]) -> Iterator[tuple[str, float]]:
  """Yield numbers that occur as wrong factors."""
  yield from (("2", 2.0), ("1/2", 0.5), ("sqrt(2)", math.sqrt(2)), ("1/sqrt(2)", math.sqrt(0.5)))
  sizes = [(name, n) for name, n in sizes if n > 1]
  for name, n in sizes:
    yield f"{name}, {name} = {n}", float(n)
    yield f"1/{name}, {name} = {n}", 1.0 / n
  devices = jax.device_count()
  if devices > 1:
    yield f"the number of devices, {devices}", float(devices)
    yield f"1 / the number of devices, {devices}", 1.0 / devices
  for name, n in sizes:
    yield f"{name}/({name}-1), {name} = {n}", n / (n - 1)
    yield f"({name}-1)/{name}, {name} = {n}", (n - 1) / n
    yield f"sqrt({name}), {name} = {n}", math.sqrt(n)
    yield f"1/sqrt({name}), {name} = {n}", 1 / math.sqrt(n)
  for i, (a, m) in enumerate(sizes):
    for b, n in sizes[i:]:
      product = f"({a} {b}), {a} = {m}, {b} = {n}" if a != b else f"{a}^2, {a} = {m}"
      yield product, float(m * n)
      yield f"1/{product}", 1.0 / (m * n)
      if m != n:
        yield f"{a}/{b}, {a} = {m}, {b} = {n}", m / n
        yield f"{b}/{a}, {a} = {m}, {b} = {n}", n / m
  yield from (("3", 3.0), ("1/3", 1 / 3), ("4", 4.0), ("1/4", 0.25), ("10", 10.0), ("1/10", 0.1))


def describe_indices(indices: np.ndarray, n: int) -> str:
  """Describe in words which of n indices are given.

  Example:
    >>> describe_indices(np.array([16, 17, 18]), 19)
    'the last 3 of 19'
    >>> describe_indices(np.array([0, 4]), 19)
    'numbers 0, 4 of 19'
  """
  count = len(indices)
  if count and (np.diff(indices) == 1).all():
    for end, is_end in (("last", indices[-1] == n - 1), ("first", indices[0] == 0)):
      if is_end:
        return f"the {end} {count} of {n}" if count > 1 else f"the {end} of {n}"
  shown = ", ".join(str(i) for i in indices[:6])
  return f"number{'s' if count > 1 else ''} {shown}{', ...' if count > 6 else ''} of {n}"
