"""The mathematics at other arguments, at batches of other sizes, and at axes of other lengths.

The points of the arguments' own shapes share the programs that are traced once. Each other shape is
traced anew, which costs more than its values for a small rule; so a batch of another size and axes
of other lengths are checked at once, and by themselves only where anything is amiss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import numpy as np

from fbackprop.jaxprs import Program
from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.axes import (
  Axes,
  changed_lengths,
  find_axes,
  name_of,
  resized,
)
from fbackprop.verify.checks.evidence import Evidence, Problem, not_checked, reported
from fbackprop.verify.checks.indices import permutations, within
from fbackprop.verify.checks.maths import check_point
from fbackprop.verify.checks.test_points import Point, batch_points, find_batch
from fbackprop.verify.report import RuleError, UnusableError
from fbackprop.verify.witnesses.arrays import is_symmetric
from fbackprop.verify.witnesses.rule import Leaves
from fbackprop.verify.witnesses.traces import gather_witnesses


def check_limits_of_points(problem: Problem) -> Iterator[Evidence]:
  """Report the test points that are left out."""
  if problem.is_large:
    yield not_checked('test points left out as the arguments are large: see level="deep"')


def check_test_points(problem: Problem) -> Iterator[Evidence]:
  """Check the mathematics at the other test points, of these shapes and of other batch sizes."""
  for point in problem.test_points:
    yield from check_point(problem, problem.witnesses, point)
  batch, points = find_batch(problem.rule, problem.leaves), []
  if batch is None:
    yield not_checked("other sizes of a batch: no axis of examples was found")
  else:
    level = "large" if problem.is_large else problem.level
    points = batch_points(problem.rule, problem.leaves, batch, level, problem.seed)
  lengths = []
  # "quick" visits one other shape, whose trace takes as long as all else of a small rule.
  if (problem.level != "quick" or not points) and not problem.is_large:
    groups = []
    for axes in find_axes(problem.rule, problem.leaves, frozenset((i, 0) for i in batch or ())):
      if any(is_symmetric(np.asarray(problem.leaves[i])) for i, _ in axes):
        # Repeated rows would make it singular.
        name = problem.signature.names[min(axes)[0]]
        yield not_checked(f"other sizes of the symmetric matrix {name}")
      else:
        groups.append(axes)
    lengths = changed_lengths(problem.level, problem.leaves, groups)
  for point in points:
    # A batch of no or of one example hides errors along other axes; an axis of length 1, others.
    together = next((c for c in lengths if all(n > 1 for _, n in c)), [])
    if together and point.name not in ("N = 0", "N = 1"):
      lengths.remove(together)
    else:
      together = []
    yield from check_shapes(problem, point, together)
  for changes in lengths:
    yield check_lengths(problem, changes)


def check_shapes(
  problem: Problem, point: Point, changes: Sequence[tuple[Axes, int]]
) -> Iterator[Evidence]:
  """Check a batch of another size, and axes of other lengths, at once.

  A trace costs more than the values of a small rule. Where anything is amiss, each is checked by
  itself.
  """
  if changes:
    leaves = point.leaves
    for axes, n in changes:
      leaves = resized(leaves, axes, n)
    together = sum(check_batch(problem, point._replace(leaves=leaves)), Evidence())
    if together.points and not together.findings and not together.not_checked:
      yield replace(together, points=(point.name, name_of_lengths(problem, changes)))
      return
  yield from check_batch(problem, point)
  if changes:
    yield check_lengths(problem, changes)


def name_of_lengths(problem: Problem, changes: Sequence[tuple[Axes, int]]) -> str:
  """Return the printed name of a point at which axes have other lengths."""
  return "; ".join(name_of(problem.rule, axes, n) for axes, n in changes)


def check_lengths(problem: Problem, changes: Sequence[tuple[Axes, int]]) -> Evidence:
  """Check axes of other lengths all at once; one by one where f or the rule doesn't take that."""
  together = checked_lengths(problem, changes)
  if together is not None and not together.has_failed:
    return together
  found = [checked_lengths(problem, [change]) or Evidence() for change in changes]
  failed = [part for part in found if part.has_failed]
  return failed[0] if failed else together or sum(found, Evidence())


def checked_lengths(problem: Problem, changes: Sequence[tuple[Axes, int]]) -> Evidence | None:
  """Check the mathematics at axes of other lengths; None if f doesn't take them."""
  leaves = problem.leaves
  for axes, n in changes:
    leaves = resized(leaves, axes, n)
  try:
    return sum(check_traced(problem, Point(name_of_lengths(problem, changes), leaves)), Evidence())
  except UnusableError:
    return None


def check_batch(problem: Problem, point: Point) -> Iterator[Evidence]:
  """Check the mathematics for a batch of another size."""
  try:
    yield from check_traced(problem, point)
  except UnusableError as error:
    yield not_checked(f"{point.name}: f raises {type(error.__cause__).__name__}")


def check_traced(problem: Problem, point: Point) -> Iterator[Evidence]:
  """Check the mathematics at arguments of other shapes, traced anew.

  Raises:
    UnusableError: f doesn't take them.
  """
  rule, own = problem.rule, problem.signature.in_own_dtypes(point.leaves)
  try:
    witnesses = gather_witnesses(rule, own)
  except RuleError as error:
    forward = jax.make_jaxpr(rule.forward)(*own)
    yield refused(problem, point, forward, own, evidence.failure(error, point.name))
  else:
    leaves = within(witnesses.forward, point.leaves)
    if leaves is None:
      yield not_checked(f"{point.name}: the integers that point into it don't fit")
      return
    y_bar = witnesses.source.draw(problem.seed, 1, problem.linear)
    at = point._replace(leaves=leaves, y_bar=y_bar)
    found = sum(check_point(problem, witnesses, at), Evidence())
    # A rule in NumPy raises when it is called, not when it is traced.
    is_refused = any((f.kind, f.check) == ("fail", "raises") for f in found.findings)
    yield refused(problem, point, witnesses.forward, own, found) if is_refused else found


def refused(
  problem: Problem, point: Point, forward: Program, own: Leaves, found: Evidence
) -> Evidence:
  """Return what follows from the failure of a rule that doesn't take arguments of another size."""
  if permutations(problem.witnesses.forward, problem.leaves) - permutations(forward, own):
    return not_checked(f"{point.name}: a permutation of an axis would be none")
  if problem.rule.is_outside(own):  # Foreign code tells only when it runs.
    return evidence.ran("outside the domain")
  # Few rules support an empty batch, or another length of every axis.
  is_batch = point.name.startswith("N = ") and point.name != "N = 0"
  if is_batch or any(f.check != "raises" for f in found.findings):
    return found
  return reported(*(f._replace(kind="note", cause="") for f in found.findings))
