"""Examples that are left out, counted twice, or with factors of their own."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import MOST_ENTRIES, PRODUCT_SHARE, Group, Matcher, say
from fbackprop.verify.explain.paths import path_bars
from fbackprop.verify.explain.rearrangement import describe_indices
from fbackprop.verify.explain.tape import Tape

# So many examples are looked through for a run of them that doesn't touch either end.
LONGEST_FOR_RANGES = 256
LARGEST_FOR_THRESHOLDS = 20_000


def left_out(matcher: Matcher, is_first: bool = True) -> Iterator[Group]:
  """Some slices of a cotangent left out, or counted twice; along the first axis, or another."""
  tape = matcher.tape
  for place, bar, _ in path_bars(matcher):
    terms = bar * matcher.tangents[place]
    for axis in range(bar.ndim - 1)[:1] if is_first else range(1, bar.ndim - 1):
      n = bar.shape[axis + 1]
      others = tuple(a for a in range(1, bar.ndim) if a != axis + 1)
      if not 2 <= n <= 4096:
        continue
      each = terms.sum(others)
      size = np.abs(terms).sum(tuple(range(1, bar.ndim)))
      slack = matcher.slack + PRODUCT_SHARE * size
      for selected in fitting_sets(each, -matcher.target, slack):
        yield subset_group(tape, place, bar, axis, selected, -1.0)
      for selected in fitting_sets(each, matcher.target, slack):
        yield subset_group(tape, place, bar, axis, selected, 1.0)


def fitting_sets(each: np.ndarray, target: np.ndarray, slack: np.ndarray) -> Iterator[np.ndarray]:
  """Sets of columns of `each` `[DIRECTIONS, n]` whose sum is the target."""
  n = each.shape[1]
  sums = np.cumsum(each, 1)
  index = np.arange(n)
  for m in np.flatnonzero((np.abs(each - target[:, None]) <= slack[:, None]).all(0)):
    yield index[m : m + 1]
  for m in np.flatnonzero((np.abs(sums - target[:, None]) <= slack[:, None]).all(0)):
    if 0 < m < n - 1:
      yield index[: m + 1]
  rest = sums[:, -1:] - sums
  for m in np.flatnonzero((np.abs(rest - target[:, None]) <= slack[:, None]).all(0)):
    if m < n - 2:
      yield index[m + 1 :]
  if n <= LONGEST_FOR_RANGES:
    ranges = sums[:, None, :] - sums[:, :, None]  # From after the first index to the second.
    fits = (np.abs(ranges - target[:, None, None]) <= slack[:, None, None]).all(0)
    for start, end in np.argwhere(fits):
      if start + 2 <= end < n - 1:
        yield index[start + 1 : end + 1]
  for step in range(2, 5):
    for start in range(step):
      chosen = each[:, start::step].sum(1)
      if n > step and (np.abs(chosen - target) <= slack).all():
        yield index[start::step]


def beyond_thresholds(matcher: Matcher) -> Iterator[Group]:
  """A cotangent that is cut where a value of its shape is large, or small."""
  tape = matcher.tape
  for place, bar, where in path_bars(matcher):
    if not 2 <= bar.size <= LARGEST_FOR_THRESHOLDS:
      continue
    terms = (bar * matcher.tangents[place]).reshape(len(matcher.target), -1)
    slack = matcher.slack + PRODUCT_SHARE * np.abs(terms).sum(1)
    for other in tape.alike(place, is_own=True):
      value = np.asarray(tape.values[other]).ravel()
      for sense, key in (("", value), ("the magnitude of ", np.abs(value))):
        for sign, relation in ((1.0, "below"), (-1.0, "above")):
          order = np.argsort(sign * key, kind="stable")
          sums = np.cumsum(terms[:, order], 1)
          fits = (np.abs(sums + matcher.target[:, None]) <= slack[:, None]).all(0)
          for m in np.flatnonzero(fits[:-1]):
            limit = key[order[m]]
            if sign * key[order[m + 1]] <= sign * limit:
              continue
            part = np.zeros(bar.size)
            part[order[: m + 1]] = bar.ravel()[order[: m + 1]]
            text = (
              f"other function: nothing passes through {where} where {sense}"
              f"{tape.describe(other)} is {relation} some {limit:.3g}"
            )
            yield Group({place: -part.reshape(bar.shape)}, partial(say, text))


def subset_group(
  tape: Tape, place: int, bar: np.ndarray, axis: int, selected: np.ndarray, k: float
) -> Group:
  """The cotangent's slices that are left out or doubled."""
  part = np.zeros_like(bar)
  slices = (slice(None),) * (axis + 1) + (selected,)
  part[slices] = bar[slices]
  what = "left out" if k < 0 else "counted twice"
  where = describe_indices(selected, bar.shape[axis + 1])
  along = "" if axis == 0 else f" along axis {axis}"
  text = f"subset of examples: {where}{along} of {tape.describe(place)} {what}"
  return Group({place: k * part}, partial(say, text))


def weighted_examples(matcher: Matcher) -> Iterator[Group]:
  """Each example counted with a factor of its own, by least squares."""
  tape, leaf = matcher.tape, matcher.leaf
  error = matcher.errors[leaf].ravel()
  for place in dict.fromkeys([*tape.outputs, *consumers(tape, tape.float_leaves[leaf])]):
    bar = tape.bars.get(place)
    if bar is None or bar.ndim < 2 or not matcher.is_upstream(place):
      continue
    n = bar.shape[1]
    if not 2 <= n <= 128 or n + 2 > error.size or n * error.size > MOST_ENTRIES:
      continue
    masked = np.eye(n).reshape(n, n, *(1,) * (bar.ndim - 2)) * bar
    each = tape.at_leaves(tape.sweep({place: masked})[0])[leaf].reshape(n, -1)
    factors = np.linalg.lstsq(each.T, error, rcond=None)[0]
    factors = np.where(np.abs(factors) < 1e-9, 0.0, factors)
    wrong = np.flatnonzero(factors)
    if not len(wrong) or np.ptp(factors) < 1e-9:
      continue
    exact = np.where(np.abs(factors - np.round(factors)) < 1e-7, np.round(factors), factors)
    counts = sorted({float(f"{1 + c:.6g}") for c in exact[wrong]})
    what = "left out" if counts == [0.0] else f"counted {', '.join(map(str, counts[:4]))} times"
    text = f"subset of examples: {describe_indices(wrong, n)} {what}"
    weights = exact.reshape(1, n, *(1,) * (bar.ndim - 2))
    yield Group({place: weights * bar}, partial(say, text))


def consumers(tape: Tape, place: int) -> list[int]:
  """The outputs of the steps that read a value, through broadcasts."""
  found: list[int] = []
  for step in tape.steps:
    if place in step.inputs:
      own = list(step.outputs)
      found += own
      if step.name in ("broadcast_in_dim", "reshape"):
        found += consumers(tape, own[0])
  return found
