"""The verdict on a rule's rounding in its own dtype.

The error against the float64 truth is measured in units in the last place, and in standard
deviations of the rounding error that stochastic arithmetic predicts for that dtype (a random
perturbation of each operation: Monte Carlo arithmetic). Worst-case bounds through a whole network
would be vacuous; correct code stays within a few standard deviations of the modelled error, which
is modelled generously.

Doubts: four to eight samples estimate a deviation only roughly, hence the wide margin of
`MOST_SIGMAS`.

References:
  Parker, "Monte Carlo arithmetic", UCLA CSD-970002 (1997).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from fbackprop.jaxprs import without_rules
from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.evidence import Evidence, Problem, not_checked, reported
from fbackprop.verify.checks.maths import CALLBACK, OWN_DTYPE, check_maths, compare_mode
from fbackprop.verify.interpret.primitives import digits, is_float
from fbackprop.verify.report import RuleError
from fbackprop.verify.witnesses import traces, verdicts
from fbackprop.verify.witnesses.rule import Function, Leaves, as_rule_error, with_float0
from fbackprop.verify.witnesses.traces import Witnesses, gather_witnesses

# Beyond this many standard deviations a rule loses digits avoidably.
MOST_SIGMAS = 16.0
# Where rounding may be as large as a leaf, an error beyond this many units in the last place of its
# largest entry is no pass.
MOST_ULP = 2.0**16
COMPILED = "compiled"


def rounding_of(
  leaf: int,
  dtype: Any,
  got: np.ndarray,
  want: np.ndarray,
  sigmas: np.ndarray,
  most: float,
  tolerance: float = 0.0,
) -> tuple[verdicts.Difference, float, float, int]:
  """Measure the rounding error of one leaf, omitting entries whose truth isn't finite.

  Args:
    leaf, dtype: the leaf's index and dtype.
    got, want: its values, and their truth.
    sigmas: the standard deviation of each entry's rounding error.
    most: the number of standard deviations from which an entry is wrong.
    tolerance: the accuracy, relative to the leaf, of loops that end by a tolerance: in a narrower
      dtype they may end by another iteration; or of a rule whose own operations aren't known.

  Returns:
    The comparison; the largest error in units in the last place of the leaf's largest entry; the
    largest error over its standard deviation, infinite where the rule isn't finite and the truth
    is; and the number of entries without a verdict: their deviation isn't finite, or exceeds the
    leaf.
  """
  limits = ml_dtypes.finfo(np.dtype(dtype))
  eps, tiny = float(limits.eps), float(limits.tiny)
  with np.errstate(all="ignore"):
    judged = np.isfinite(want) & (np.abs(want) < 0.25 * float(limits.max))
    largest = float(np.max(np.abs(want), initial=0.0, where=judged))
    last_place = max(eps * 2.0 ** np.floor(np.log2(largest or 1.0)), tiny)
    error = np.where(judged, np.abs(got - want), 0.0)
    error = np.where(np.isnan(error), np.inf, error)
    # The result is rounded once more, to its argument's dtype.
    deviation = sigmas + 0.5 * eps * np.abs(want) + 4 * tiny
    deviation += tolerance * (np.abs(want) + largest) / most
    sigma = np.where(judged & ~np.isnan(deviation), error / deviation, 0.0)
  unbounded = int((judged & ~(deviation <= max(largest, 16 * tiny))).sum())
  compared = verdicts.Difference(leaf, got, want, most * deviation, sigma > most)
  return compared, float(error.max() / last_place), float(sigma.max()), unbounded


def check_numerics(problem: Problem) -> Iterator[Evidence]:
  """Compare the rule in its own dtype, compiled, with the truth."""
  witnesses, values = problem.witnesses, problem.values
  if not values.is_finite:
    return
  is_narrow = any(d != np.float64 for d in problem.signature.float_dtypes)
  if witnesses.is_wide and is_narrow and not problem.rule.by_callback:
    # A trace in the rule's own dtype may take other branches, and draw other random numbers.
    try:
      witnesses = gather_witnesses(problem.rule, problem.own_leaves, False)
    except RuleError as error:
      yield evidence.failure(error, OWN_DTYPE)
      return
    at = problem.given._replace(witnesses=witnesses)
    values = problem.evaluated(at)
    if not values.is_finite:
      return
    found = sum(check_maths(problem, at, values, OWN_DTYPE), Evidence())
    yield found
    if found.has_failed:
      return
  sigmas = problem.deviations(problem.given._replace(witnesses=witnesses))
  # The truth is the rule's own results in float64, which passed the maths verdict.
  wants = [b[0] for b in values.bars]
  for run, call in runs_of(problem, witnesses):
    yield evidence.ran("numerics")
    try:
      bars = call(problem.own_leaves, problem.own_y_bar)[1]
    except RuleError as error:
      yield evidence.failure(error, run)
      continue
    found = sum(check_rounding(problem, run, bars, wants, sigmas), Evidence())
    if found.has_failed and run == COMPILED:
      eager = problem.rule.call(problem.own_leaves, problem.own_y_bar)[1]
      if not sum(check_rounding(problem, "eager", eager, wants, sigmas), Evidence()).has_failed:
        cause = "mode: wrong only where it is compiled"
        found = replace(found, findings=tuple(f._replace(cause=cause) for f in found.findings))
    yield found
    if found.has_failed:
      return


def runs_of(problem: Problem, witnesses: Witnesses) -> list[tuple[str, Function]]:
  """Return the ways in which the rule is run in its own dtype.

  A compiler may omit the rounding to a dtype narrower than float32, as long as its steps are fused.
  Then the rule is run with all its roundings first, as it is eagerly.
  """
  if problem.rule.by_callback:
    return [("as it is", lambda *_: problem.results)]
  runs: list[tuple[str, Function]] = [(COMPILED, lambda *_: problem.results)]
  if witnesses.holds_narrow:
    options = {"xla_allow_excess_precision": False}
    exact = problem.rule.compiled(partial(jax.jit, compiler_options=options))
    runs.insert(0, ("with all roundings", exact))
  return runs


def check_rounding(
  problem: Problem, run: str, bars: Leaves, wants: Leaves, sigmas: Leaves
) -> Iterator[Evidence]:
  """Yield the numerics verdict of one run, up to the first leaf with excessive rounding."""
  most, signature = MOST_SIGMAS * problem.allowance, problem.signature
  tolerance = problem.witnesses.tolerance
  if problem.rule.by_callback:  # What is rounded within it isn't seen, and so isn't modelled.
    tolerance = max(tolerance, CALLBACK * 2.0 ** -digits(signature.working))
  for i, (bar, want, deviation) in enumerate(zip(bars, wants, sigmas, strict=True)):
    if not want.size:
      continue
    name, dtype, got = signature.float_names[i], signature.float_dtypes[i], np.asarray(bar, float)
    found, ulp, sigma, unbounded = rounding_of(i, dtype, got, want, deviation, most, tolerance)
    if unbounded:
      yield not_checked(
        f"numerics of {unbounded} entries of {name}: rounding in {np.dtype(signature.working)} may "
        "be as large as the leaf itself"
      )
    if unbounded and sigma <= most and leaves_no_digits(problem, dtype, ulp):
      if autodiff_leaves_no_digits(problem, i, dtype, want):
        yield not_checked(f"numerics of {name}: in this dtype autodiff has no digits left either")
        continue
      # More than a narrower dtype in the function explains, but not more than the roundings do.
      message = f"an error of {ulp:.2g} ULP: in this dtype the rule's formula leaves the result no "
      message += "digits, and rounding alone may do that"
      error = np.abs(found.got - found.want)
      worst = found._replace(is_wrong=error >= error.max())
      yield reported(worst.finding("no verdict", "numerics", run, name, message=message))
      return
    is_finite = np.isfinite(got[found.worst])
    if np.isinf(sigma) and not is_finite and autodiff_overflows(problem, i):
      yield not_checked(f"numerics of {name}: in this dtype autodiff overflows here too")
      continue
    # What a rule in NumPy cancels isn't known, but that of autodiff is likely to be the same.
    if sigma > most and problem.rule.by_callback and autodiff_is_as_inaccurate(problem, i, found):
      yield not_checked(f"numerics of {name}: in this dtype autodiff is as inaccurate")
      continue
    yield Evidence(ulp=ulp, sigma=sigma)
    if sigma > most:
      cause = (
        "not finite: the truth is" if not is_finite else
        f"precision: an error of {sigma:.0f} standard deviations"
      )  # fmt: skip
      yield reported(found.finding("fail", "numerics", run, name, cause=cause))
      return


def leaves_no_digits(problem: Problem, dtype: Any, ulp: float) -> bool:
  """Return whether an error of a leaf is more than a narrower dtype in the function explains."""
  lost = ulp * float(ml_dtypes.finfo(np.dtype(dtype)).eps)
  return bool(MOST_ULP < ulp < np.inf and lost > 8 * problem.witnesses.coarsest)


def autodiff_leaves_no_digits(problem: Problem, leaf: int, dtype: Any, want: np.ndarray) -> bool:
  """Return whether the function's own roundings cost a leaf its digits: then no rule has any."""
  own = autodiff_in_own_dtype(problem, leaf)
  if own is None:
    return False
  ulp = rounding_of(leaf, dtype, own, want, np.zeros(want.shape), MOST_SIGMAS)[1]
  return leaves_no_digits(problem, dtype, ulp)


def autodiff_in_own_dtype(problem: Problem, leaf: int) -> np.ndarray | None:
  """Return a leaf's cotangent by autodiff of the function in its calling dtype, if it has one."""
  leaves, floats = problem.own_leaves, problem.signature.floats
  try:
    stripped = without_rules(problem.rule.differentiated, *leaves)
    bars = [b for b in problem.own_y_bar if is_float(b.dtype)]
    results = traces.reverse_mode(
      lambda *own: traces.float_arrays(stripped(*own)), len(leaves), floats, *leaves, *bars
    )
  except Exception:  # Without autodiff nothing excuses the rule.
    return None
  return np.asarray(results[leaf - len(floats)], np.float64)


def autodiff_overflows(problem: Problem, leaf: int) -> bool:
  """Return whether autodiff of the function, in its calling dtype, isn't finite either."""
  found = autodiff_in_own_dtype(problem, leaf)
  return found is not None and not np.isfinite(found).all()


def autodiff_is_as_inaccurate(problem: Problem, leaf: int, found: verdicts.Difference) -> bool:
  """Return whether autodiff, in the same dtype, has errors of the size of the rule's."""
  own = autodiff_in_own_dtype(problem, leaf)
  error = 0.0 if own is None else verdicts.largest_of(own - found.want)
  return verdicts.largest_of(found.error) <= MOST_SIGMAS * error


def check_eager_in_float64(problem: Problem) -> Iterator[Evidence]:
  """Run the rule eagerly in float64, to cover code for concrete values only."""
  witnesses, values = problem.witnesses, problem.values
  if not (values.is_finite and witnesses.is_wide):
    return
  yield evidence.ran("without jit")
  try:
    with jax.enable_x64(True):
      leaves = [jnp.asarray(x) for x in problem.leaves]
      pairs = zip(problem.y_bar, witnesses.forward.out_avals, strict=True)
      y_bar = with_float0(problem.rule.outputs, [jnp.asarray(b, a.dtype) for b, a in pairs])
      got = [np.asarray(b, float)[None] for b in problem.rule.both(leaves, y_bar)[1]]
  except Exception as error:
    yield evidence.failure(as_rule_error(error), "in float64, without jit")
    return
  yield compare_mode(problem, "without jit", "wrong only where it isn't compiled", got, values)
