"""Entries that stand where others should: transposed, flipped, rolled, permuted, rows left out."""

from collections.abc import Iterator

import numpy as np

from fbackprop.verify.explain.patterns import Problem, first_fit


def find_rearrangement(problem: Problem) -> str | None:
  """How the entries got are those wanted in another order, or None."""
  if problem.want.ndim == 0 or problem.want.size < 2:
    return None
  return first_fit(problem, rearranged)


def find_blank_slices(problem: Problem, batch: int | None) -> str | None:
  """Rows, columns, ... that are zero or scaled where the others are right, or None.

  Args:
    problem: the leaf.
    batch: the number of examples; a first axis of this length counts them.
  """
  got, want = problem.got, problem.want
  for axis in range(want.ndim):
    n = want.shape[axis]
    if n < 2:
      continue
    g, w = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (got, want))
    squares = (w * w).sum(1)
    with np.errstate(all="ignore"):
      factors = np.where(squares > 0, (g * w).sum(1) / squares, 1.0)
    tolerance = np.moveaxis(problem.tolerance, axis, 0).reshape(n, -1)
    factors = np.where((np.abs(g - w) <= tolerance).all(1), 1.0, factors)
    wrong = np.flatnonzero(factors != 1.0)
    if len(wrong) == n or np.count_nonzero(w[wrong]) < 2:
      continue
    shape = [-1 if a == axis else 1 for a in range(want.ndim)]
    candidate = want * factors.reshape(shape)
    if not problem.is_matched_by(candidate):
      continue
    is_batch = axis == 0 and n == batch
    where = describe_indices(wrong, n)
    zeros = bool((np.abs(factors[wrong]) < 1e-12).all())
    counted = "left out" if zeros else f"counted {factors[wrong[0]]:.6g} times"
    if is_batch:
      return f"subset of examples: {where} {counted} {problem.match(candidate)}"
    kind = "zero" if zeros else "constant factor"
    what = "zero" if zeros else f"multiplied by {factors[wrong[0]]:.6g}"
    return f"{kind}: {where} along axis {axis}, {what} {problem.match(candidate)}"
  return None


def describe_indices(indices: np.ndarray, n: int) -> str:
  """Which of n, in words.

  Example:
    >>> describe_indices(np.array([16, 17, 18]), 19)
    'the last 3 of 19'
    >>> describe_indices(np.array([0, 4]), 19)
    'numbers 0, 4 of 19'
  """
  count = len(indices)
  if count and (np.diff(indices) == 1).all():
    if indices[-1] == n - 1:
      return f"the last {count} of {n}" if count > 1 else f"the last of {n}"
    if indices[0] == 0:
      return f"the first {count} of {n}" if count > 1 else f"the first of {n}"
  shown = ", ".join(str(i) for i in indices[:6])
  return f"number{'s' if count > 1 else ''} {shown}{', ...' if count > 6 else ''} of {n}"


def rearranged(problem: Problem) -> Iterator[tuple[str, np.ndarray]]:
  """Candidates, the simplest first."""
  want = problem.want
  for i in range(want.ndim):
    for j in range(i + 1, want.ndim):
      swapped = np.swapaxes(want, i, j)
      if want.shape[i] == want.shape[j]:
        yield f"transposed: axes {i} and {j}", swapped
      elif 1 not in (want.shape[i], want.shape[j]):
        yield f"transposed: axes {i} and {j}, then reshaped", swapped.reshape(want.shape)
  yield from shifted(want)
  for axis in range(want.ndim):
    order = order_along(problem, axis)
    if order is not None:
      yield f"permuted: along axis {axis}", np.take(want, order, axis)
  order = order_along(problem._replace(got=problem.got.ravel(), want=want.ravel()), 0)
  if order is not None and want.ndim > 1:
    yield "permuted: entries", want.ravel()[order].reshape(want.shape)


def shifted(tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
  """Flipped and rolled."""
  for axis in range(tensor.ndim):
    n = tensor.shape[axis]
    if n < 2:
      continue
    yield f"permuted: flipped along axis {axis}", np.flip(tensor, axis)
    for by in {1, n - 1, 2, n - 2, n // 2} - {0, n}:
      yield f"permuted: rolled by {by} along axis {axis}", np.roll(tensor, by, axis)


def order_along(problem: Problem, axis: int) -> np.ndarray | None:
  """The order of slices that may turn want into got, found by sorting a projection of them."""
  n = problem.want.shape[axis]
  if n < 2:
    return None
  g, w = (np.moveaxis(a, axis, 0).reshape(n, -1) for a in (problem.got, problem.want))
  direction = np.random.default_rng(0).normal(size=g.shape[1])
  by_got, by_want = np.argsort(g @ direction), np.argsort(w @ direction)
  order = np.empty(n, int)
  order[by_got] = by_want
  return None if (order == np.arange(n)).all() else order
