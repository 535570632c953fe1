"""Patterns of one wrong leaf beside the right one: a factor, a clip, a transpose.

Each pattern is a concrete array that must reproduce every entry of the rule's numbers, and explain
their error rather than a remainder of it. To add a pattern, yield it here; a pattern with a free
parameter belongs among those that are tried last.

A number that a pattern takes from the leaf is free at the first point alone: at others it is held
(`Search.free`).

Doubts: a pattern that fits all points by coincidence is reported like the true one, and a pattern
of one entry needs a round factor to be believed.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from fbackprop.verify.explain.search import Candidates, Search
from fbackprop.verify.interpret.primitives import rounded

# Factors closer than this are equal.
SAME_FACTOR = 1e-9
NARROW: Any = [(t.__name__, t) for t in (ml_dtypes.bfloat16, np.float16, np.float32)]
ROUNDING = "precision: errors of the size of"
ROUND_NORMS = tuple(m * 10.0**e for e in range(-3, 4) for m in (1.0, 2.0, 2.5, 5.0))


# --- Tried first ----------------------------------------------------------------------------------


def plain_patterns(search: Search) -> Candidates:
  """Yield the simplest candidates."""
  got, want, error = search.got, search.want, search.error
  yield "zero: every entry", np.zeros_like(want)
  fitted = factor_of(search)
  for factor in search.free("a named factor", fitted) if fitted is not None else ():
    if name := name_factor(factor, search.sizes):
      yield f"constant factor: {name}", factor * want
  others = search.like_it()
  parameters = [("the leaf itself", search.floats[search.index])]
  parameters += [(name, argument) for name, _, _, argument in others]
  for what, parameter in parameters:
    for of, tensor in (("", parameter), ("the sign of ", np.sign(parameter))):
      if np.count_nonzero(tensor) >= 2:
        fitted = float(np.vdot(error, tensor) / np.vdot(tensor, tensor))
        for share in search.free(("a share of", of, what), fitted):
          text = f"proportional to a parameter: {share:.6g} times {of}{what}"
          yield text, want + share * tensor
  lowest = float(np.max(got, initial=-np.inf, where=error > search.tolerance))
  highest = float(np.min(got, initial=np.inf, where=error < -search.tolerance))
  for low, high in search.free("the limits of a clip", (lowest, highest)):
    # One cut entry, or all, would always fit.
    is_open = search.held is None and not 1 < search.wrong < got.size
    if low <= high and (low > -np.inf or high < np.inf) and not is_open:
      yield f"clipped: to [{low:.6g}, {high:.6g}]", np.clip(want, low, high)
  if got.size > 1:
    yield "cotangent: the absolute value", np.abs(want)
    yield "cotangent: its sign alone", np.sign(want)
  for name, their_got, their_want, _ in others:
    if np.allclose(their_got, want, rtol=1e-9, atol=0):
      yield f"permuted: exchanged with the cotangent of {name}", their_want
  for name, dtype in NARROW:
    is_near = (np.abs(error) <= float(np.spacing(dtype(1))) * np.abs(want)).all()
    if is_near and np.array_equal(got, rounded(got, dtype)):
      yield f"precision: the result is rounded to {name}", got


def shuffled(search: Search) -> Candidates:
  """Yield the right entries in other places: transposed, flipped, rolled, permuted."""
  got, want = search.got, search.want
  for i, j in itertools.combinations(range(want.ndim), 2):
    swapped = np.swapaxes(want, i, j)
    if want.shape[i] == want.shape[j]:
      yield f"transposed: axes {i} and {j}", swapped
    elif 1 not in (want.shape[i], want.shape[j]):
      yield f"transposed: axes {i} and {j}, then reshaped", swapped.reshape(want.shape)
  yield from shifted(want)
  for axis in range(want.ndim):
    order = order_along(got, want, axis)
    if order is not None:
      yield f"permuted: along axis {axis}", np.take(want, order, axis)
  order = order_along(got.ravel(), want.ravel(), 0)
  if order is not None and want.ndim > 1:
    yield "permuted: entries", want.ravel()[order].reshape(want.shape)


def shifted(tensor: np.ndarray) -> Candidates:
  """Yield a tensor flipped and rolled."""
  for axis, n in enumerate(tensor.shape):
    if n < 2:
      continue
    yield f"permuted: flipped along axis {axis}", np.flip(tensor, axis)
    for by in {1, n - 1, 2, n - 2, n // 2} - {0, n}:
      yield f"permuted: rolled by {by} along axis {axis}", np.roll(tensor, by, axis)


def rearranged(x: np.ndarray, what: str) -> Candidates:
  """Yield a tensor rounded, flipped, rolled, transposed."""
  for name, dtype in NARROW:
    yield f"precision: {what} is rounded to {name}", rounded(x, dtype)
  for text, moved in shifted(x):
    yield f"{text}, {what}", moved
  for i, j in itertools.combinations(range(x.ndim), 2):
    if x.shape[i] == x.shape[j]:
      yield f"transposed: {what}", np.swapaxes(x, i, j)


def order_along(got: np.ndarray, want: np.ndarray, axis: int) -> np.ndarray | None:
  """Return an order of slices that may turn want into got: their projections in the same order."""
  n = want.shape[axis]
  g, w = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (got, want))
  direction = np.random.default_rng(0).normal(size=g.shape[1])
  order = np.empty(n, int)
  order[np.argsort(g @ direction)] = np.argsort(w @ direction)
  return None if (order == np.arange(n)).all() else order


# --- Tried last -----------------------------------------------------------------------------------


def any_factor(search: Search) -> Candidates:
  """Yield an unnamed factor, but not of a single entry, which always has one."""
  fitted = factor_of(search)
  if fitted is None or np.count_nonzero(search.want) < 2:
    return
  norm, true_norm = (float(np.linalg.norm(x)) for x in (search.got, search.want))
  for least in ROUND_NORMS:
    if 0 < fitted < 1 and abs(norm / least - 1) < SAME_FACTOR:
      yield f"clipped: to norm {least:g}", least / true_norm * search.want
  for factor in search.free("any factor", fitted):
    yield f"constant factor: {factor:.10g}", factor * search.want


def last_patterns(search: Search) -> Candidates:
  """Yield unspecific candidates: another leaf's cotangent; a round factor in one entry."""
  got, want, error = search.got, search.want, search.error
  for name, _, other, _ in search.like_it():
    yield f"permuted: the cotangent of {name}", other
  if search.wrong == 1 and got.size > 1:
    (at,) = np.argwhere(np.abs(error) > search.tolerance).tolist()
    for factor in search.free(("in one entry", *at), float(got[*at] / want[*at])):
      # It must be too round to be a coincidence, since a single entry always has a factor.
      excess = abs(factor - 1)
      is_round = 1e-9 <= excess < 1e-2 and f"{excess:.4e}"[1:6] == ".0000"
      if is_round or any(abs(factor - value) <= SAME_FACTOR for value in (-1.0, 2.0, 0.5)):
        candidate = want.copy()
        candidate[*at] *= factor
        yield f"constant factor: {name_factor(factor, ())} in one entry, {at}", candidate


def blank_slices(search: Search) -> Candidates:
  """Yield rows, columns, ... that are zero or scaled while the others are right."""
  want = search.want
  for axis, n in enumerate(want.shape):
    g, w, tolerance = (
      np.moveaxis(a, axis, 0).reshape(n, -1) for a in (search.got, want, search.tolerance)
    )
    squares = (w * w).sum(1)
    is_right = (np.abs(g - w) <= tolerance).all(1) | (squares == 0)
    factors = np.where(is_right, 1.0, (g * w).sum(1) / squares)
    slices = np.flatnonzero(factors != 1.0)
    if n < 2 or len(slices) == n or np.count_nonzero(w[slices]) < 2:
      continue
    # A factor for each slice would be as many free numbers as there are slices.
    if np.ptp(factors[slices]) > SAME_FACTOR:
      continue
    fitted = (slices, float(factors[slices[0]]))
    for slices, factor in search.free(("slices along", axis), fitted):
      own = np.where(np.isin(np.arange(n), slices), factor, 1.0)
      candidate = want * np.expand_dims(own, [a for a in range(want.ndim) if a != axis])
      where = describe_indices(slices, n)
      if axis == 0 and n == search.batch:
        counted = "left out" if abs(factor) < 1e-12 else f"counted {factor:.6g} times"
        yield f"subset of examples: {where} {counted}", candidate
      elif abs(factor) < 1e-12:
        yield f"zero: {where} along axis {axis}, zero", candidate
      else:
        yield f"constant factor: {where} along axis {axis}, multiplied by {factor:.6g}", candidate


def looks_rounded(search: Search) -> str | None:
  """Return the dtype whose rounding has the size of the errors, where nothing reproduces them.

  Rounding errors have both signs and affect nearly every entry.
  """
  want, error = search.want, search.error
  if want.size < 8 or np.count_nonzero(error) < 0.75 * want.size:
    return None
  scale, size = (float(np.sqrt(np.mean(x**2))) for x in (want, error))
  for name, dtype in NARROW:
    unit = float(np.spacing(dtype(1))) / 2
    is_centred = abs(float(error.mean())) <= 0.75 * size
    if is_centred and 0 < scale < np.inf and unit / 8 <= size / scale <= unit * 2:
      return f"{ROUNDING} {name}'s rounding, {size / scale:.0e}"
  return None


# --- Names of factors and indices -----------------------------------------------------------------


def factor_of(search: Search) -> float | None:
  """Return ⟨got, want⟩ / ⟨want, want⟩, the factor if there is one."""
  square = float(np.vdot(search.want, search.want))
  return float(np.vdot(search.got, search.want)) / square if 0 < square < np.inf else None


@functools.lru_cache
def name_factor(factor: float, sizes: tuple[tuple[str, int], ...]) -> str | None:
  """Name a factor, or return None.

  Args:
    factor: the number.
    sizes: named dimensions, likelier ones first.

  Example:
    >>> name_factor(0.03125, (("N", 32),))
    '1/N, N = 32'
    >>> name_factor(1.25, (("N", 5),))
    '1.25, or N/(N-1), N = 5'
    >>> name_factor(1.000001, ())
    '1 + 1.0e-06'
    >>> name_factor(0.731, (("N", 32),)) is None
    True
  """
  for sign, minus in ((1.0, ""), (-1.0, "-")):
    for name, value in named_factors(sizes):
      if value != 1.0 and abs(sign * factor - value) <= SAME_FACTOR * abs(value):
        # A short decimal may also be meant as that, if it takes some arithmetic to name it.
        is_short = float(f"{value:.3g}") == value and "=" in name
        is_plain = re.fullmatch(r"(1/)?\w+, \w+ = \d+", name) is not None
        return f"{sign * value:g}, or {minus}{name}" if is_short and not is_plain else minus + name
  if abs(factor + 1) <= SAME_FACTOR:
    return "-1"
  if 0 < abs(factor - 1) < 1e-2:
    return f"1 {'+' if factor > 1 else '-'} {abs(factor - 1):.1e}"
  return None


def named_factors(sizes: Sequence[tuple[str, int]]) -> Iterator[tuple[str, float]]:
  """Yield numbers that occur as wrong factors."""
  yield from (("2", 2.0), ("1/2", 0.5), ("sqrt(2)", math.sqrt(2)), ("1/sqrt(2)", math.sqrt(0.5)))
  known = [(name, n, f", {name} = {n}") for name, n in sizes if n > 1]
  for a, m, at in known:
    yield from ((f"{a}{at}", float(m)), (f"1/{a}{at}", 1.0 / m))
  devices = jax.device_count()
  yield f"the number of devices, {devices}", float(devices)
  yield f"1 / the number of devices, {devices}", 1.0 / devices
  for a, m, at in known:
    yield from ((f"{a}/({a}-1){at}", m / (m - 1)), (f"({a}-1)/{a}{at}", (m - 1) / m))
    yield from ((f"sqrt({a}){at}", math.sqrt(m)), (f"1/sqrt({a}){at}", 1 / math.sqrt(m)))
  for (a, m, at), (b, n, of) in itertools.combinations_with_replacement(known, 2):
    product = f"({a} {b}){at}{of}" if a != b else f"{a}^2{at}"
    yield from ((product, float(m * n)), (f"1/{product}", 1.0 / (m * n)))
    yield from ((f"{a}/{b}{at}{of}", m / n), (f"{b}/{a}{at}{of}", n / m))
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
