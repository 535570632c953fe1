"""The second verdict: the rounding of the rule in its own dtype.

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
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, Problem
from fbackprop.verify.checks.maths import OWN_DTYPE, check_maths
from fbackprop.verify.interpret import evaluation, primitives, programs
from fbackprop.verify.report.findings import RuleError
from fbackprop.verify.witnesses import traces
from fbackprop.verify.witnesses.comparison import Difference, compare, spread
from fbackprop.verify.witnesses.rule import Leaves, as_rule_error, with_float0
from fbackprop.verify.witnesses.traces import Values, Witnesses, evaluate

# Beyond this many standard deviations a rule loses digits avoidably.
MOST_SIGMAS = 16.0
# Where rounding may be as large as a leaf, an error beyond this many units in the last place of its
# largest entry is no pass.
MOST_ULP = 2.0**16


def deviations(witnesses: Witnesses, problem: Problem) -> list[np.ndarray]:
  """Return the standard deviation of every cotangent's rounding error in the rule's own dtype."""
  samples = 3 if problem.is_large else max(5, evidence.SAMPLES[problem.level])
  limits = ml_dtypes.finfo(np.dtype(witnesses.signature.working))
  # At most one unit in the last place, and underflow.
  noise = evaluation.Noise(
    samples, float(limits.eps), float(limits.tiny), 0.0, problem.seed, by_dtype=True
  )
  results = witnesses.evaluator(noise).run(witnesses.rule, problem.given.inputs)
  return [spread(s) for s in results[len(witnesses.forward.out_avals) :]]


def rounding_of(
  leaf: int, dtype: Any, got: np.ndarray, want: np.ndarray, sigmas: np.ndarray, most: float
) -> tuple[Difference, float, float, int]:
  """Measure the rounding error of one leaf, omitting entries whose truth isn't finite.

  Args:
    leaf, dtype: the leaf's index and dtype.
    got, want: its values, and their truth.
    sigmas: the standard deviation of each entry's rounding error.
    most: the number of standard deviations from which an entry is wrong.

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
    sigma = np.where(judged & ~np.isnan(deviation), error / deviation, 0.0)
  unbounded = int((judged & ~(deviation <= max(largest, 16 * tiny))).sum())
  compared = Difference(leaf, got, want, most * deviation, sigma > most)
  return compared, float(error.max() / last_place), float(sigma.max()), unbounded


def check_numerics(problem: Problem) -> Iterator[Evidence]:
  """Compare the rule in its own dtype, eager and compiled, with the truth."""
  witnesses, values = problem.witnesses, problem.values
  if not values.is_finite:
    return
  if witnesses.is_wide and any(d != np.float64 for d in problem.signature.float_dtypes):
    # A trace in the rule's own dtype may take other branches, and draw other random numbers.
    try:
      witnesses = traces.gather_witnesses(problem.rule, problem.own_leaves, problem.outputs, False)
    except RuleError as error:
      yield evidence.failure(error, OWN_DTYPE)
      return
    at = problem.given._replace(witnesses=witnesses)
    values = evaluate(at, problem.noise())
    if not values.is_finite:
      return
    found = sum(check_maths(problem, at, values, OWN_DTYPE), Evidence())
    yield found
    if found.has_failed:
      return
  sigmas, has_failed = deviations(witnesses, problem), False
  for run in ("as it is", "compiled")[: 1 if problem.level == "quick" else 2]:
    yield evidence.ran("numerics")
    try:
      bars = problem.results[1]
      if run == "compiled":
        bars = problem.rule.compiled(problem.own_leaves, problem.own_y_bar)
    except RuleError as error:
      yield evidence.failure(error, run)
      continue
    # The truth is the rule's own results in float64, which passed the maths verdict.
    wants = [b[0] for b in values.bars]
    is_mode = run == "compiled" and not has_failed
    found = sum(check_rounding(problem, run, is_mode, bars, wants, sigmas), Evidence())
    has_failed |= found.has_failed
    yield found


def check_rounding(
  problem: Problem, run: str, is_mode: bool, bars: Leaves, wants: Leaves, sigmas: Leaves
) -> Iterator[Evidence]:
  """Yield the numerics verdict of one run, up to the first leaf with excessive rounding."""
  most, signature = MOST_SIGMAS * problem.allowance, problem.signature
  for i, (bar, want, deviation) in enumerate(zip(bars, wants, sigmas, strict=True)):
    if not want.size:
      continue
    name, dtype, got = signature.float_names[i], signature.float_dtypes[i], np.asarray(bar, float)
    found, ulp, sigma, unbounded = rounding_of(i, dtype, got, want, deviation, most)
    if unbounded:
      yield evidence.not_checked(
        f"numerics of {unbounded} entries of {name}: rounding in {np.dtype(signature.working)} may "
        "be as large as the leaf itself"
      )
    if unbounded and MOST_ULP < ulp < np.inf and sigma <= most:
      # The sum of its roundings explains the error, which leaves no digit of the result.
      message = f"an error of {ulp:.2g} ULP: in this dtype the rule's formula leaves the result no "
      message += "digits, and rounding alone may do that"
      error = np.abs(found.got - found.want)
      worst = found._replace(is_wrong=error >= error.max())
      yield evidence.reported(worst.finding("no verdict", "numerics", run, name, message=message))
      return
    is_finite = np.isfinite(got[found.worst])
    if np.isinf(sigma) and not is_finite and autodiff_overflows(problem, i):
      yield evidence.not_checked(f"numerics of {name}: in this dtype autodiff overflows here too")
      continue
    yield Evidence(ulp=ulp, sigma=sigma)
    if sigma > most:
      cause = (
        "not finite: the truth is" if not is_finite else
        "mode: wrong only where it is compiled" if is_mode else
        f"precision: an error of {sigma:.0f} standard deviations"
      )  # fmt: skip
      yield evidence.reported(found.finding("fail", "numerics", run, name, cause=cause))
      return


def autodiff_overflows(problem: Problem, leaf: int) -> bool:
  """Return whether autodiff of the function, in its calling dtype, isn't finite either."""
  leaves, floats = problem.own_leaves, problem.signature.floats
  try:
    stripped = programs.without_rules(problem.rule.differentiated, *leaves)
    bars = [b for b in problem.own_y_bar if primitives.is_float(b.dtype)]
    results = traces.reverse_mode(
      lambda *own: traces.float_arrays(stripped(*own)), len(leaves), floats, *leaves, *bars
    )
  except Exception:  # Without autodiff nothing excuses the rule.
    return False
  return not np.isfinite(np.asarray(results[leaf - len(floats)], np.float64)).all()


def check_eager_in_float64(problem: Problem) -> Iterator[Evidence]:
  """Run the rule eagerly in float64, to cover code for concrete values only."""
  witnesses, values = problem.witnesses, problem.values
  if not (values.is_finite and witnesses.is_wide):
    return
  yield evidence.ran("without jit")
  try:
    with jax.enable_x64(True):
      leaves = [jnp.asarray(x) if primitives.is_float(x.dtype) else x for x in problem.leaves]
      pairs = zip(problem.y_bar, witnesses.forward.out_avals, strict=True)
      y_bar = with_float0(problem.outputs, [jnp.asarray(b, a.dtype) for b, a in pairs])
      got = [np.asarray(b, float)[None] for b in problem.rule.backward(leaves, y_bar)]
  except Exception as error:
    yield evidence.failure(as_rule_error(error), "in float64, without jit")
    return
  yield compare_mode(problem, "without jit", "wrong only where it isn't compiled", got, values)


def compare_mode(
  problem: Problem, check: str, what: str, got: Leaves, values: Values, where: str = AS_GIVEN
) -> Evidence:
  """Compare the rule in another mode with its own verified results, up to the first wrong leaf."""
  found = compare(got, values.bars, 2 * problem.allowance, bool(values.fragile))
  note = f"some entries, {check}: their bounds are vacuous"
  names = problem.signature.float_names
  return evidence.compared(check, where, names, found, f"mode: {what}", note)
