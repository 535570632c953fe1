"""Structure that the arguments happen to have: a symmetric matrix, one-hot rows, positive numbers.

The other test points keep it, since a function may need it. But most functions don't, and a rule
that is right for symmetric matrices alone is then wrong. So each structure is broken by a small
change of one argument. Where the function is finite there, and depends on the change, the rule has
to be right there too; only a failure that differences confirm counts. Elsewhere the structure is
listed as not checked: outside of the domain, or where the function ignores what breaks it, as a
factorisation that reads one triangle or symmetrizes its operand. To add a structure, add a line to
`STRUCTURES`; what every redrawn argument breaks anyway (triangular, orthogonal, sorted, constant
arrays, equal rows) needs none.

Doubts: a function may be defined off its domain by accident, as a formula for positive numbers that
is finite below zero; its rule then has to be right there too.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fbackprop.verify.checks.evidence import Evidence, Problem, not_checked, reported
from fbackprop.verify.checks.maths import finding_of
from fbackprop.verify.witnesses import verdicts
from fbackprop.verify.witnesses.arrays import (
  are_probabilities,
  is_mask,
  is_permutation,
  is_positive,
  is_sorted,
  is_symmetric,
)
from fbackprop.verify.witnesses.rule import Leaves, replaced
from fbackprop.verify.witnesses.traces import Setting, slopes
from fbackprop.verify.witnesses.verdicts import Difference

# The relative size of a change, and below which the function doesn't depend on it.
CHANGE, UNCHANGED = 2.0**-4, 1e-12
# Differences confirm the truth to this share of the rule's error.
CONFIRMED = 0.1
Random = np.random.Generator
Change = Callable[[Random, np.ndarray], np.ndarray]


class Structure(NamedTuple):
  """A structure that the test points keep.

  Attributes:
    name: what is not checked where it can't be broken, after the argument's name.
    point: the name of the point where it is broken.
    holds: whether an argument has it.
    change: breaks it.
    parts: the function must depend on each of these changes, or else it ignores what breaks it.
  """

  name: str
  point: str
  holds: Callable[[np.ndarray], bool]
  change: Change
  parts: tuple[Change, ...] = ()


def upper_changed(rng: Random, x: np.ndarray) -> np.ndarray:
  """Change the upper triangle of a matrix alone."""
  return x + np.triu(noise(rng, x), 1)


def lower_changed(rng: Random, x: np.ndarray) -> np.ndarray:
  """Change the lower triangle of a matrix alone."""
  return x + np.tril(noise(rng, x), -1)


def skewed(rng: Random, x: np.ndarray) -> np.ndarray:
  """Add an antisymmetric matrix, which a function that symmetrizes ignores."""
  change = noise(rng, x)
  return x + change - np.swapaxes(change, -1, -2)


def noise(rng: Random, x: np.ndarray) -> np.ndarray:
  """Draw a small change of all entries."""
  return CHANGE * float(np.sqrt(np.mean(x**2))) * rng.normal(size=x.shape)


def softened(rng: Random, x: np.ndarray) -> np.ndarray:
  """Draw numbers between zero and one."""
  return rng.uniform(0.1, 0.9, size=x.shape)


def unnormalized(rng: Random, x: np.ndarray) -> np.ndarray:
  """Scale the rows, so that their sums are other numbers than one."""
  return x * rng.uniform(0.5, 3.0, size=(*x.shape[:-1], 1))


def signs_changed(rng: Random, x: np.ndarray) -> np.ndarray:
  """Negate every other entry, in a random order."""
  return x * np.where(rng.permutation(x.size) % 2, 1.0, -1.0).reshape(x.shape)


def are_distributions(x: np.ndarray) -> bool:
  """Return whether rows of several entries sum to one."""
  return are_probabilities(x) and x.shape[-1] > 1


def is_negative(x: np.ndarray) -> bool:
  """Return whether the entries are presumably never above zero."""
  return is_positive(-x)


# The first that holds is broken.
STRUCTURES = (
  Structure(
    "but for symmetric matrices", "not symmetric", is_symmetric, skewed,
    (upper_changed, lower_changed, skewed),
  ),
  Structure("but for zeros and ones", "other than zeros and ones", is_mask, softened),
  Structure("but for numbers from 0 to 1", "not normalized", are_distributions, unnormalized),
  Structure("below zero, but for being finite there", "with other signs", is_positive,
            signs_changed),
  Structure("above zero", "with other signs", is_negative, signs_changed),
)  # fmt: skip


def check_structure(problem: Problem) -> Iterator[Evidence]:
  """Check the mathematics where a structure of the arguments is broken; list what can't be."""
  if problem.level == "quick":
    return
  signature = problem.signature
  for i, x in enumerate(problem.leaves):
    if (what := kept_integers(x)) and not signature.is_float[i]:
      yield not_checked(f"{signature.names[i]} {what}")
  for i in signature.floats:
    x = np.asarray(problem.leaves[i])
    if not np.isfinite(x).all():
      yield not_checked(
        f"{signature.names[i]} but for its own numbers, some of which aren't finite"
      )
      continue
    for structure in (s for s in STRUCTURES if s.holds(x)):
      point = broken(problem, i, structure) if not problem.is_large else None
      if point is None:
        yield not_checked(f"{signature.names[i]} {structure.name}")
      else:
        where = f"{signature.names[i]} {structure.point}"
        yield from check_broken(problem, point, where, f"{signature.names[i]} {structure.name}")
      break


def kept_integers(x: Any) -> str:
  """Return which structure of integers no test point breaks; "" for none."""
  if is_permutation(x) and np.size(x) > 1:
    return "but for permutations: its integers never repeat"
  return "but for sorted integers" if is_sorted(x) and np.size(x) > 1 else ""


def broken(problem: Problem, i: int, structure: Structure) -> Setting | None:
  """Return the point where one argument lacks a structure; None if f doesn't allow it."""
  rng = np.random.default_rng([problem.seed, 12, i])
  x = np.asarray(problem.leaves[i])
  given = outputs(problem, problem.leaves) if structure.parts else []
  for change in structure.parts:
    y = outputs(problem, replaced(problem.leaves, [i], [change(rng, x)]))
    if all(is_same(own, old) for own, old in zip(y, given, strict=True)):
      return None
  found = replaced(problem.leaves, [i], [structure.change(rng, x)])
  return Setting(problem.witnesses, found, problem.y_bar)


def outputs(problem: Problem, leaves: Leaves) -> list[np.ndarray]:
  """Evaluate the function in float64, without noise."""
  witnesses = problem.witnesses
  return [y[0] for y in witnesses.evaluator(None).run(witnesses.forward, leaves)]


def is_same(y: np.ndarray, given: np.ndarray) -> bool:
  """Return whether an output is unchanged but for rounding."""
  return bool(np.max(np.abs(y - given), initial=0.0) <= UNCHANGED * verdicts.largest_of(given))


def check_broken(problem: Problem, at: Setting, where: str, name: str) -> Iterator[Evidence]:
  """Compare the rule with autodiff at one point; differences must confirm a failure."""
  values = problem.evaluated(at)
  if not values.is_finite or values.bars_want is None:
    yield not_checked(name)
    return
  is_narrow = bool(values.fragile or values.foreign or not at.witnesses.is_wide)
  differences = verdicts.compare(values.bars, values.bars_want, problem.allowance, is_narrow)
  judgements = verdicts.judge(at, differences, problem.seed)
  failures = [j for j in judgements if j.ruling == "fail" and is_confirmed(at, j.difference)]
  if len(failures) < len(judgements):
    yield not_checked(name)
  yield Evidence(checks=("maths",), points=(where,))
  for judgement in failures:
    finding = finding_of(problem, judgement, where)
    is_unknown = not finding.cause
    mismatches = ((at, differences, judgement.difference.leaf),) if is_unknown else ()
    yield replace(reported(finding), mismatches=mismatches)


def is_confirmed(at: Setting, d: Difference) -> bool:
  """Return whether differences at the worst entry agree with the truth, and not with the rule."""
  direction = [np.zeros_like(leaf) for leaf in at.float_leaves]
  direction[d.leaf][d.worst] = 1.0
  found = slopes(at, direction)
  got, want = float(d.got[d.worst]), float(d.want[d.worst])
  gap = abs(got - want) if np.isfinite(got) else max(abs(want), 1e-12)
  return found.is_known and max(abs(found.left - want), abs(found.right - want)) <= CONFIRMED * gap
