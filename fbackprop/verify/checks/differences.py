"""The mathematics of single entries against one-sided differences of the function.

Where the reference has no autodiff, differences are the only witness: a sample of entries of each
leaf is compared, at every test point. Where a rule and autodiff agree with each other and not with
the function, the same comparison finds the leaf and the entry.
"""

from collections.abc import Iterator

import numpy as np

from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, Problem, not_checked, reported
from fbackprop.verify.explain.causes import another, redrawn_bar
from fbackprop.verify.report import Finding
from fbackprop.verify.witnesses.arrays import redrawn
from fbackprop.verify.witnesses.entries import compare_entries
from fbackprop.verify.witnesses.traces import Setting, Values, evaluate
from fbackprop.verify.witnesses.verdicts import Difference

# The number of entries of a leaf that are compared.
ENTRIES = {"quick": 12, "standard": 32, "deep": 256}


def check_entries(
  problem: Problem, at: Setting, values: Values, where: str, why: str = "autodiff is missing"
) -> Iterator[Evidence]:
  """Compare U with D at some entries of each leaf, where there is no A, or none of use."""
  differences, count = entries_of(problem, at, values), ENTRIES[problem.level]
  names = problem.signature.float_names
  yield Evidence(checks=("entries",), points=(where,))
  for d in differences:
    name = names[d.leaf]
    if d.got.size and d.is_vacuous.sum() == min(count, d.got.size):
      message = f"{why}, and differences don't converge"
      if where == AS_GIVEN:
        unknown = d._replace(is_wrong=d.is_vacuous)
        yield reported(unknown.finding("no verdict", "maths", where, name, message=message))
      else:
        yield not_checked(f"{name}, {where}: {message}")
    if where == AS_GIVEN and d.got.size > count:
      left_out = f"{d.got.size - count} of {d.got.size} entries of {name}"
      yield not_checked(f"{left_out}: {why}")
  for d in (differences[i] for i in at.witnesses.first_to_last):
    if d.is_wrong.any():
      message = "the truth is that of one-sided differences of f"
      cause = factor_of(d)
      if cause.startswith("constant factor") and cause != factor_elsewhere(problem, at, d.leaf):
        cause = "no known pattern"
      yield reported(d.finding("fail", "maths", where, names[d.leaf], cause=cause, message=message))


def entries_of(problem: Problem, at: Setting, values: Values) -> list[Difference]:
  """Compare U with D at the entries that the level allows."""
  is_exact = at.witnesses.is_wide and not values.foreign
  return compare_entries(
    at, values.bars, ENTRIES[problem.level], problem.seed, is_exact, problem.allowance,
    is_noisy=bool(values.foreign),
  )  # fmt: skip


def factor_elsewhere(problem: Problem, at: Setting, leaf: int) -> str:
  """Return a leaf's factor at other arguments and another cotangent, or at the latter alone."""
  rng = np.random.default_rng(11)
  y_bar = [redrawn_bar(rng, bar) for bar in at.y_bar]
  for leaves in ([another(rng, x, redrawn) for x in at.leaves], at.leaves):
    other = Setting(at.witnesses, leaves, y_bar)
    values = evaluate(other, problem.noise())
    if values.is_finite:
      return factor_of(entries_of(problem, other, values)[leaf])
  return ""


def factor_of(d: Difference) -> str:
  """Return the constant factor between a rule's entries and differences, as a cause."""
  known = (d.bound > 0) & ~d.is_vacuous & (np.abs(d.want) > 100 * d.bound)
  if known.sum() < 3 or not np.isfinite(d.got[known]).all():
    return "no known pattern"
  ratio = d.got[known] / d.want[known]
  if not np.any(ratio):
    return "zero"
  # The ratio of each entry is known to its own bound.
  off = np.abs(ratio - np.median(ratio)) > 2 * d.bound[known] / np.abs(d.want[known])
  factor = f"{np.median(ratio):.4g}"
  return "no known pattern" if off.any() or factor == "1" else f"constant factor: {factor}"


def disagreement(problem: Problem, own: float, slope: float) -> Finding:
  """Return the finding of a rule that isn't the function's slope along a direction.

  Its leaf and index are those of the first entry that differs from differences by itself.
  """
  cause = "semantic: not the function's slope"
  message = "the rule and autodiff agree with each other, and not with differences of f"
  if problem.values.bars_want is None:
    message = "f has no derivative in JAX, and the rule disagrees with differences of f"
  meant = "a stop_gradient or a straight-through rule? If it is meant, declare it: slope=, the "
  meant += "function whose derivative it is, or surrogate=True"
  differences = entries_of(problem, problem.given, problem.values)
  for d in (differences[i] for i in problem.witnesses.first_to_last):
    if d.is_wrong.any():
      name = problem.signature.float_names[d.leaf]
      message = f"{message}: {meant}"
      return d.finding("fail", "differences", AS_GIVEN, name, cause=cause, message=message)
  message = f"{message} along a direction of all leaves: {meant}"
  return Finding("fail", "differences", got=own, want=slope, cause=cause, message=message)
