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

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from fbackprop.verify.checks import exact
from fbackprop.verify.checks.evidence import (
  AS_GIVEN,
  Evidence,
  failure,
  finding_at,
  not_checked,
  reported,
)
from fbackprop.verify.checks.maths import OWN_DTYPE, check_maths
from fbackprop.verify.checks.problem import SAMPLES, Baseline, Problem
from fbackprop.verify.checks.test_points import Point
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report.findings import RuleError
from fbackprop.verify.witnesses.comparison import compare, spread
from fbackprop.verify.witnesses.rule import Leaves, in_dtypes_of, with_float0
from fbackprop.verify.witnesses.traces import Values, Witnesses, gather_witnesses, reference_of

# Beyond this many standard deviations a rule loses digits avoidably.
MOST_SIGMAS = 16.0


class Rounding(NamedTuple):
  """The rounding error of a leaf.

  Attributes:
    ulp: the largest error in units in the last place of the leaf's largest entry.
    sigma: the largest error over its standard deviation; infinite where the rule isn't finite and
      the truth is.
    leaf, index: the position of that largest sigma.
    got, want, deviation: the leaf's values, their truth, and one standard deviation of each entry.
    wrong: the entries beyond `MOST_SIGMAS`.
    unbounded: the number of entries without a verdict: their deviation isn't finite, or exceeds the
      leaf.
  """

  ulp: float
  sigma: float
  leaf: int
  index: tuple[int, ...]  # type: ignore[assignment]  # A field shadows tuple.index.
  got: np.ndarray
  want: np.ndarray
  deviation: np.ndarray
  wrong: np.ndarray
  unbounded: int


def deviations(
  witnesses: Witnesses, leaves: Sequence[Any], y_bar: Sequence[Any], samples: int, seed: int
) -> list[np.ndarray]:
  """Return the standard deviation of every cotangent's rounding error in the rule's own dtype."""
  limits = ml_dtypes.finfo(np.dtype(witnesses.signature.working))
  # At most one unit in the last place, and underflow.
  noise = Noise(samples, float(limits.eps), float(limits.tiny), 0.0, seed)
  evaluator = witnesses.evaluator(noise)
  count = len(witnesses.forward.out_avals)
  return [spread(s) for s in evaluator.run(witnesses.rule, [*leaves, *y_bar])[count:]]


def measure(
  witnesses: Witnesses,
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  sigmas: Sequence[np.ndarray],
  allowance: float,
) -> list[Rounding]:
  """Measure the rounding error of each leaf, omitting entries whose truth isn't finite."""
  found = []
  for leaf, (g, w, s) in enumerate(zip(got, want, sigmas, strict=True)):
    if not w.size:
      continue
    limits = ml_dtypes.finfo(np.dtype(witnesses.signature.float_dtypes[leaf]))
    eps, tiny = float(limits.eps), float(limits.tiny)
    with np.errstate(all="ignore"):
      judged = np.isfinite(w) & (np.abs(w) < 0.25 * float(limits.max))
      largest = float(np.max(np.abs(w), initial=0.0, where=judged))
      last_place = max(eps * 2.0 ** np.floor(np.log2(largest or 1.0)), tiny)
      error = np.where(judged, np.abs(g - w), 0.0)
      error = np.where(np.isnan(error), np.inf, error)
      # The result is rounded once more, to its argument's dtype.
      deviation = s + 0.5 * eps * np.abs(w) + 4 * tiny
      sigma = np.where(judged & ~np.isnan(deviation), error / deviation, 0.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(sigma)), sigma.shape))
    ulp = float(np.max(error, initial=0.0) / last_place) if np.isfinite(error).all() else np.inf
    unbounded = int((judged & ~(deviation <= max(largest, 16 * tiny))).sum())
    wrong = sigma > MOST_SIGMAS * allowance
    found.append(Rounding(ulp, float(sigma[index]), leaf, index, g, w, deviation, wrong, unbounded))
  return found


def check_numerics(problem: Problem, baseline: Baseline) -> Evidence:
  """Compare the rule in its own dtype, eager and compiled, with the truth."""
  witnesses, values = baseline.witnesses, baseline.values
  if values is None:
    return Evidence()
  found = Evidence()
  if witnesses.is_wide and any(d != np.float64 for d in problem.rule.signature.float_dtypes):
    # A trace in the rule's own dtype may take other branches, and draw other random numbers.
    try:
      witnesses = gather_witnesses(problem.rule, problem.own_leaves, problem.outputs, widen=False)
    except RuleError as error:
      return failure(error, OWN_DTYPE)
    values, found = check_maths(problem, witnesses, Point(OWN_DTYPE, problem.leaves))
    if values is None or found.has_failed:
      return found
  # The rule's own results in float64, which passed the maths verdict.
  want = [b[0] for b in values.bars]
  samples = 3 if problem.is_large else max(5, SAMPLES[problem.level])
  sigmas = deviations(witnesses, problem.leaves, problem.y_bar, samples, problem.seed)
  y_bar = in_dtypes_of(problem.outputs, problem.y_bar)
  runs: list[tuple[str, Callable[[], Leaves]]] = [("as it is", lambda: baseline.bars)]
  if problem.level != "quick":
    runs.append(("compiled", lambda: exact.compiled(problem.rule, problem.own_leaves, y_bar)))
  for name, run in runs:
    found += Evidence(checks=("numerics",))
    try:
      got = [np.asarray(b, np.float64) for b in run()]
    except RuleError as error:
      found += failure(error, name)
      continue
    is_mode = name == "compiled" and not any(f.check == "numerics" for f in found.findings)
    roundings = measure(witnesses, got, want, sigmas, problem.allowance)
    found += judge_rounding(problem, roundings, name, is_mode)
  return found


def judge_rounding(
  problem: Problem, roundings: Sequence[Rounding], run: str, is_mode: bool
) -> Evidence:
  """Return the numerics verdict of one run, up to the first leaf with excessive rounding."""
  found = Evidence()
  for r in roundings:
    name, got = problem.float_names[r.leaf], float(r.got[r.index])
    if r.unbounded:
      found += not_checked(
        f"numerics of {r.unbounded} entries of {name}: rounding in "
        f"{np.dtype(problem.rule.signature.working)} may be as large as the leaf itself"
      )
    if not math.isfinite(got) and math.isinf(r.sigma) and autodiff_overflows(problem, r.leaf):
      found += not_checked(f"numerics of {name}: in this dtype autodiff overflows here too")
      continue
    found += Evidence(ulp=r.ulp, sigma=r.sigma)
    most = MOST_SIGMAS * problem.allowance
    if r.sigma > most:
      cause = (
        "not finite: the truth is" if not math.isfinite(got) else
        "mode: wrong only where it is compiled" if is_mode else
        f"precision: an error of {r.sigma:.0f} standard deviations"
      )  # fmt: skip
      finding = finding_at(
        "fail", "numerics", run, name, r.index, r.got, r.want, most * r.deviation, r.wrong, cause
      )
      return found + reported(finding)
  return found


def autodiff_overflows(problem: Problem, leaf: int) -> bool:
  """Return whether autodiff of the function, in its calling dtype, isn't finite either."""
  rule, leaves = problem.rule, problem.own_leaves
  floats = [leaves[i] for i in rule.signature.floats]
  y_bar = [b for b in in_dtypes_of(problem.outputs, problem.y_bar) if is_float(b.dtype)]
  try:
    bars = jax.vjp(reference_of(rule, leaves), *floats)[1](y_bar)
  except Exception:  # Without autodiff nothing excuses the rule.
    return False
  return not np.isfinite(np.asarray(bars[leaf], np.float64)).all()


def check_eager_in_float64(problem: Problem, baseline: Baseline) -> Evidence:
  """Run the rule eagerly in float64, to cover code for concrete values only."""
  witnesses, values = baseline.witnesses, baseline.values
  if values is None or not witnesses.is_wide:
    return Evidence()
  found = Evidence(checks=("without jit",))
  try:
    with jax.enable_x64(True):
      leaves = [jnp.asarray(x) if is_float(x.dtype) else x for x in problem.leaves]
      pairs = zip(problem.y_bar, witnesses.forward.out_avals, strict=True)
      y_bar = with_float0(problem.outputs, [jnp.asarray(b, a.dtype) for b, a in pairs])
      got = problem.rule.backward(leaves, y_bar)
      numbers = [np.asarray(b, np.float64)[None] for b in got]
  except Exception as error:
    return found + failure(exact.as_rule_error(error), "in float64, without jit")
  what = "wrong only where it isn't compiled"
  return found + compare_mode(problem, "without jit", what, numbers, values)


def compare_mode(
  problem: Problem,
  check: str,
  what: str,
  got: Sequence[np.ndarray],
  values: Values,
  where: str = AS_GIVEN,
) -> Evidence:
  """Compare the rule in another mode with its own verified results."""
  found = Evidence()
  for d in compare(got, values.bars, 2 * problem.allowance, bool(values.fragile)):
    if d.is_vacuous.any():
      found += not_checked(f"some entries, {check}: their bounds are vacuous")
    if d.is_wrong.any():
      finding = problem.finding("fail", check, where, problem.float_names[d.leaf], d)
      return found + reported(finding._replace(cause=f"mode: {what}"))
  return found
