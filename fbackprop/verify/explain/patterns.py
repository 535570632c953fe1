"""What the numbers of one wrong leaf look like beside the right ones: a factor, a clip, a rounding.

Each pattern is a concrete array that has to reproduce every entry of what was got.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

# Of the largest entry of a leaf, beside four times the bound that the caller gives.
LEAF_SHARE = 1e-12
# What is left unexplained, at most this share of the error that it explains.
LEFT_OVER = 1e-2
# Factors are told apart down to this.
SAME_FACTOR = 1e-9
NARROW: tuple[tuple[str, Any], ...] = (
  ("bfloat16", ml_dtypes.bfloat16),
  ("float16", np.float16),
  ("float32", np.float32),
)
ROUND_NORMS = tuple(m * 10.0**e for e in range(-3, 4) for m in (1.0, 2.0, 2.5, 5.0))


class Problem(NamedTuple):
  """The wrong leaf.

  Attributes:
    got, want: of the leaf, float64.
    tolerance: the error of an entry that still counts as reproduced.
    parameter: the leaf of the arguments itself.
    sizes: dimensions that may stand in a factor, each with its name, as ("N", 32).
    others: (name, got, want, argument) of the other leaves of this shape.
  """

  got: np.ndarray
  want: np.ndarray
  tolerance: np.ndarray
  parameter: np.ndarray
  sizes: tuple[tuple[str, int], ...] = ()
  others: tuple[tuple[str, np.ndarray, np.ndarray, np.ndarray], ...] = ()

  def is_matched_by(self, candidate: np.ndarray) -> bool:
    """Whether an array reproduces every entry, and explains the error rather than its rest."""
    with np.errstate(all="ignore"):
      left = np.abs(self.got - candidate)
      error = np.max(np.abs(self.got - self.want), initial=0.0)
      return bool((left <= self.tolerance).all() and np.max(left, initial=0.0) <= LEFT_OVER * error)

  def match(self, candidate: np.ndarray) -> str:
    """How well, relative to the largest entry."""
    scale = max(np.max(np.abs(self.got), initial=0.0), np.max(np.abs(self.want), initial=0.0))
    return f"(match {np.max(np.abs(self.got - candidate), initial=0.0) / (scale or 1.0):.0e})"


def find_pattern(problem: Problem) -> str | None:
  """The first of the plain patterns that fits, or None."""
  return first_fit(problem, plain_patterns)


def find_factor(problem: Problem) -> str | None:
  """Any constant factor: what is said when nothing more particular fits."""
  return first_fit(problem, any_factor)


def find_last(problem: Problem) -> str | None:
  """What is looked for last, since much else would look like it."""
  return first_fit(problem, last_patterns)


def last_patterns(problem: Problem) -> Iterator[tuple[str, np.ndarray]]:
  """The cotangents of the other leaves; a round factor in one entry."""
  got, want = problem.got, problem.want
  error = got - want
  for name, _, other, _ in problem.others:
    yield f"permuted: the cotangent of {name}", other
  wrong = np.argwhere(np.abs(error) > problem.tolerance)
  if len(wrong) == 1 and got.size > 1 and want[tuple(wrong[0])] != 0:
    at = tuple(int(i) for i in wrong[0])
    factor = name_round_factor(float(got[at] / want[at]))
    if factor is not None:
      yield f"constant factor: {factor} in one entry, {list(at)}", np.where(error != 0, got, want)


def first_fit(
  problem: Problem, patterns: Callable[[Problem], Iterator[tuple[str, np.ndarray]]]
) -> str | None:
  """The text of the first candidate that fits."""
  for text, candidate in patterns(problem):
    if problem.is_matched_by(candidate):
      return f"{text} {problem.match(candidate)}"
  return None


def plain_patterns(problem: Problem) -> Iterator[tuple[str, np.ndarray]]:
  """Candidates, the simplest first."""
  got, want = problem.got, problem.want
  yield "zero: every entry", np.zeros_like(want)
  factor = factor_of(problem)
  if factor is not None and (name := name_factor(factor, problem.sizes)):
    yield f"constant factor: {name}", factor * want
  error = got - want
  for what, parameter in [("the leaf itself", problem.parameter), *other_parameters(problem)]:
    for of, tensor in (("", parameter), ("the sign of ", np.sign(parameter))):
      if np.count_nonzero(tensor) >= 2:
        share = float(np.vdot(error, tensor) / np.vdot(tensor, tensor))
        yield f"proportional to a parameter: {share:.6g} times {of}{what}", want + share * tensor
  cut = int((np.abs(error) > problem.tolerance).sum())
  if 1 < cut < got.size:  # One cut entry, or all of them, would always fit.
    low = float(np.max(got, initial=-np.inf, where=error > problem.tolerance))
    high = float(np.min(got, initial=np.inf, where=error < -problem.tolerance))
    if low <= high and (low > -np.inf or high < np.inf):
      yield f"clipped: to [{low:.6g}, {high:.6g}]", np.clip(want, low, high)
  if got.size > 1:
    yield "cotangent: the absolute value", np.abs(want)
    yield "cotangent: its sign alone", np.sign(want)
  for name, their_got, their_want, _ in problem.others:
    if np.allclose(their_got, want, rtol=1e-9, atol=0):
      yield f"permuted: exchanged with the cotangent of {name}", their_want
  yield from roundings(got, want)


def other_parameters(problem: Problem) -> list[tuple[str, np.ndarray]]:
  """The arguments of the leaf's shape."""
  return [(name, argument) for name, _, _, argument in problem.others]


def roundings(got: np.ndarray, want: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
  """A result whose entries are all numbers of a narrower dtype."""
  with np.errstate(all="ignore"):
    for name, dtype in NARROW:
      eps = float(np.spacing(dtype(1)))
      is_near = (np.abs(got - want) <= eps * np.abs(want)).all()
      if is_near and np.array_equal(got, got.astype(dtype).astype(np.float64)):
        yield f"precision: the result is rounded to {name}", got


def any_factor(problem: Problem) -> Iterator[tuple[str, np.ndarray]]:
  """A factor without a name; one entry alone always has one, which says nothing."""
  factor = factor_of(problem)
  if factor is None or np.count_nonzero(problem.want) < 2:
    return
  norm = float(np.linalg.norm(problem.got))
  if 0 < factor < 1:
    for least in ROUND_NORMS:
      if abs(norm / least - 1) < SAME_FACTOR:
        yield f"clipped: to norm {least:g}", factor * problem.want
  yield f"constant factor: {factor:.10g}", factor * problem.want


def factor_of(problem: Problem) -> float | None:
  """⟨got, want⟩ / ⟨want, want⟩, the factor if there is one."""
  square = float(np.vdot(problem.want, problem.want))
  if not 0 < square < np.inf:
    return None
  return float(np.vdot(problem.got, problem.want)) / square


def name_factor(factor: float, sizes: Sequence[tuple[str, int]]) -> str | None:
  """What a factor is, or None.

  Args:
    factor: the number.
    sizes: dimensions by name, the likelier first.

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
  """A factor that is too round to be chance: in one entry there is always one."""
  for name, value in (("-1", -1.0), ("2", 2.0), ("1/2", 0.5)):
    if abs(factor - value) <= SAME_FACTOR:
      return name
  excess = abs(factor - 1)
  if not 1e-9 <= excess <= 1e-2:
    return None
  is_round = f"{excess:.4e}"[1:6] == ".0000"
  return name_factor(factor, ()) if is_round else None


def named_factors(sizes: Sequence[tuple[str, int]]) -> Iterator[tuple[str, float]]:
  """Numbers that are met as wrong factors."""
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
