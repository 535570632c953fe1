"""The two verdicts on a rule's numbers: its mathematics, and the rounding in its own dtype.

*Mathematics.* At each test point the rule U and autodiff A are evaluated in float64 and compared
entry by entry, within the rounding error of both; where they differ, one-sided differences D decide
(`witnesses.verdicts`). Where U and A agree, D confirms both along random directions.

*Rounding.* The error against the float64 truth is measured in units in the last place, and in
standard deviations of the rounding error that stochastic arithmetic predicts for that dtype (a
random perturbation of each operation: Monte Carlo arithmetic). Worst-case bounds through a whole
network would be vacuous; correct code stays within a few standard deviations of the modelled error,
which is modelled generously.

Doubts: four to eight samples estimate a deviation only roughly, hence the wide margin of
`MOST_SIGMAS`.

References:
  Parker, "Monte Carlo arithmetic", UCLA CSD-970002 (1997).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from fbackprop.jaxprs import without_rules
from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.axes import (
  Axes,
  accepts_lengths,
  changed_lengths,
  find_axes,
  name_of,
  resized,
)
from fbackprop.verify.checks.differences import check_entries, disagreement
from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, Problem, not_checked, reported
from fbackprop.verify.checks.indices import permutations, within
from fbackprop.verify.checks.test_points import Point, batch_points, find_batch
from fbackprop.verify.explain.causes import UNKNOWN
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.interpret.loops import MOST_TURNS
from fbackprop.verify.interpret.primitives import digits, is_float
from fbackprop.verify.report import Finding, Kind, RuleError, UnusableError
from fbackprop.verify.witnesses import kinks, traces, verdicts
from fbackprop.verify.witnesses.arrays import is_symmetric
from fbackprop.verify.witnesses.rule import (
  Function,
  Leaves,
  as_rule_error,
  with_float0,
)
from fbackprop.verify.witnesses.traces import Setting, Values, Witnesses, gather_witnesses

# Beyond this many standard deviations a rule loses digits avoidably.
MOST_SIGMAS = 16.0
# Where rounding may be as large as a leaf, an error beyond this many units in the last place of its
# largest entry is no pass.
MOST_ULP = 2.0**16
# The name of the point at which the rule's own trace is judged, after float64.
OWN_DTYPE = "in its own dtype"
COMPILED = "compiled"
# The rounding of constants that a function computes while it is traced: in units of its dtype,
# relative to the largest entry of a leaf.
MOST_OF_CONSTANTS = 2.0**8
# The rounding within a rule in NumPy, whose operations can't be perturbed one by one: in units of
# the dtype in which it is called, relative to the largest entry of a leaf.
CALLBACK = 2.0**10
# The kinds of rulings at the arguments as given; all that aren't failures are notes elsewhere.
KINDS: dict[str, Kind] = {"oracle fault": "oracle fault", "unresolved": "no verdict"}
# The placeholder is what holds a loop.
MESSAGES = {
  "fail": "",
  "kink": "the function has a kink here",
  "oracle fault": "autodiff of the reference is wrong here: the differences agree with the rule",
  "inexact": "a loop in {} ends by a tolerance: the derivative is known to that only",
  "unresolved": "a loop in {} ends too early here: the slope of its limit isn't known",
  "undefined": "neither autodiff nor the differences are finite here",
}


# --- The mathematics ------------------------------------------------------------------------------


def check_limits(problem: Problem) -> Iterator[Evidence]:
  """Report the limits that the traced programs themselves set to the verdict."""
  witnesses = problem.witnesses
  yield Evidence(order=tuple(witnesses.first_to_last))
  if not witnesses.is_wide:
    yield not_checked(
      "maths in float64: the rule can't be traced with float64 arguments, so its constants "
      f"count as rounded to {np.dtype(problem.signature.working)}"
    )
  if witnesses.truth is None:
    yield not_checked(witnesses.truth_missing)
  if witnesses.tolerance:
    yield not_checked(
      f"errors below {witnesses.tolerance:g} of a leaf that further iterations may explain: a loop "
      f"in {witnesses.loop_in} ends by a tolerance"
    )
  if problem.rule.f_vjp is None and not witnesses.has_rule:
    message = "f carries no jax.custom_vjp, and no f_vjp is given: autodiff is compared with "
    yield reported(Finding("note", "rule", message=message + "itself, and with differences"))


def check_as_given(problem: Problem) -> Iterator[Evidence]:
  """Check the mathematics at the arguments as given."""
  values = problem.values
  if values.is_finite:
    yield from check_maths(problem, problem.given, values, AS_GIVEN)
    return
  message = "f isn't finite at these arguments: there is no gradient to compare with"
  if values.is_endless:
    message = f"a loop goes round more than {MOST_TURNS:,} times: its results aren't known"
  yield reported(Finding("no verdict", "maths", message=message))


def check_maths(
  problem: Problem, at: Setting, values: Values, where: str, only_finite: bool = False
) -> Iterator[Evidence]:
  """Compare U with A at one point, and with D where they differ.

  Args:
    problem: the rule and the options.
    at: the programs at the point.
    values: their values, which are finite.
    where: the point's name.
    only_finite: as for a `Point`.
  """
  is_narrow = not at.witnesses.is_wide and where != OWN_DTYPE
  may_be_vacuous = bool(values.fragile or values.foreign or is_narrow)
  foreign = ", ".join(sorted(set(values.foreign)))
  yield evidence.ran("maths")
  if foreign and where != OWN_DTYPE:
    yield not_checked(
      f"maths in float64 of {foreign}: evaluated in its own dtype, so that an error below its "
      "rounding isn't seen"
    )
  if not only_finite:
    found = verdicts.compare(
      values.y, values.y_want, problem.allowance, may_be_vacuous, at.witnesses.tolerance
    )
    names = [f"output {i}" for i in range(len(found))]
    note = f"some outputs, {where}: their bounds are vacuous"
    cause = "forward: the rule's output isn't the function's"
    yield evidence.ran("forward") + evidence.compared("forward", where, names, found, cause, note)
  truth = at.witnesses.truth
  if truth is None or values.bars_want is None:
    if not only_finite:
      yield from check_entries(problem, at, values, where)
    return
  differences = verdicts.compare(values.bars, values.bars_want, problem.allowance, may_be_vacuous)
  if not is_narrow:
    differences = list(map(verdicts.where_apart, differences))
  if problem.rule.by_callback:
    unit = 2.0 ** -digits(np.float64 if at.witnesses.is_wide else problem.signature.working)
    differences = [up_to(d, CALLBACK * unit * verdicts.largest_of(d.want)) for d in differences]
  if where == OWN_DTYPE:
    differences = [up_to(d, of_constants(problem, values, d.leaf)) for d in differences]
  lost = [below_rounding(problem, at, d) for d in differences]
  for d, limit in zip(differences, lost, strict=True):
    if limit is not None:
      said = f"errors up to {verdicts.largest_of(np.abs(d.got - d.want)):.1g}"
      said += ", which float32 rounds away: f approximates, or an epsilon is left out"
      yield not_checked(f"{problem.signature.float_names[d.leaf]}, {where}: {said}")
  limited = zip(differences, lost, strict=True)
  differences = [d if limit is None else up_to(d, limit) for d, limit in limited]
  if at.witnesses.is_coarse and any(d.is_wrong.any() for d in differences):
    # Autodiff transposes a cast to a narrower dtype to another such cast; a rule needn't.
    smooth = at.witnesses.unrounded(problem.noise()).run(truth, at.inputs)[len(values.y) :]
    others = verdicts.compare(values.bars, smooth, problem.allowance, may_be_vacuous)
    both = zip(differences, others, strict=True)
    differences = [d._replace(is_wrong=d.is_wrong & o.is_wrong) for d, o in both]
  if only_finite:
    differences = [
      d._replace(is_wrong=d.is_wrong & ~np.isfinite(d.got) & np.isfinite(d.want))
      for d in differences
    ]
  judged = (d for d in differences if not d.is_wrong.any())
  shares = [verdicts.largest_of(np.where(d.is_vacuous, 0.0, d.excess)) for d in judged]
  yield Evidence(points=(where,), share=max(shares, default=0.0))
  why = (
    f"an operation isn't evaluated in float64: {foreign}" if foreign else
    "rounding decides a comparison here" if values.fragile else
    "the rule can't be traced in float64"
  )  # fmt: skip
  names = problem.signature.float_names
  # Where rounding decides a comparison, as in a loop that halves an interval, differences don't.
  by_differences = where == AS_GIVEN and not is_narrow and not foreign
  for d in (d for d in differences if d.is_vacuous.any() and not by_differences):
    if where != AS_GIVEN:  # A note elsewhere.
      yield not_checked(f"some entries, {where}: their bounds are vacuous")
      break
    message, d = f"the bound is vacuous: {why}", d._replace(is_wrong=d.is_vacuous)
    yield reported(d.finding("no verdict", "maths", where, names[d.leaf], message=message))
  judgements = verdicts.judge(at, differences, problem.seed)
  if not only_finite:
    rest = [verdicts.without_number(d) for d in differences if not d.is_wrong.any()]
    if at.witnesses.is_coarse and any(d.is_wrong.any() for d in rest):
      # An overflow of a narrower dtype in which the function computes isn't the rule's.
      wide = problem.unrounded(at)
      rest = [d._replace(is_wrong=d.is_wrong & ~np.isfinite(wide[d.leaf][0])) for d in rest]
    at_loss = [verdicts.ruling_of(at, d) for d in rest if d.is_wrong.any()]
    judgements += [j for j in at_loss if j.ruling == "fail"]
  findings = [finding_of(problem, judgement, where) for judgement in judgements]
  is_faulty = at.witnesses.is_iterative and any(j.ruling == "oracle fault" for j in judgements)
  if by_differences and (is_faulty or any(d.is_vacuous.any() for d in differences)):
    yield from check_entries(problem, at, values, where, f"autodiff is of no use, as {why}")
  pairs = zip(judgements, findings, strict=True)
  failed = [(j.difference.leaf, f.cause) for j, f in pairs if f.kind == "fail"]
  # The first failure's cause is searched for, if its numbers don't state it.
  widened = [to_tolerance(d, at.witnesses.tolerance) for d in differences]
  mismatches = tuple((at, widened, leaf) for leaf, cause in failed[:1] if not cause)
  yield Evidence(tuple(findings), mismatches=mismatches)


def of_constants(problem: Problem, values: Values, leaf: int) -> float:
  """Return the errors of a leaf in a narrow trace that the function's own constants explain.

  A function may approximate another by a polynomial for each dtype, to the rounding of which its
  rule is exact; or compute a table while it is traced, with an error of many units, of which
  autodiff reads other entries than the rule. As other random numbers do more than that,
  `MOST_OF_CONSTANTS` bounds it.
  """
  wants = problem.values.bars_want, values.bars_want
  wide, narrow = (np.zeros(()) if w is None else w[leaf][0] for w in wants)
  with np.errstate(all="ignore"):
    moved = float(np.max(np.abs(narrow - wide), initial=0.0))
  unit = 2 * problem.half_unit * verdicts.largest_of(wide)
  return max(2 * unit, 4 * moved if moved <= MOST_OF_CONSTANTS * unit else 0.0)


def below_rounding(problem: Problem, at: Setting, d: verdicts.Difference) -> np.ndarray | None:
  """Return the errors of a leaf that its narrow dtype rounds away, if they are all over it.

  The rule of an approximation is that of the function which it approximates, to the rounding of the
  dtype; or it leaves out an epsilon that guards a quotient. Then most entries differ, each by less
  than its rounding: that of the terms where these cancel, up to that of the largest entry. A few
  entries that differ are no approximation, however little they do.
  """
  error, half = np.abs(d.got - d.want), problem.half_unit
  limit = half * verdicts.largest_of(d.want)
  if not d.is_wrong.any() or 2 * d.is_wrong.sum() < d.is_wrong.size:
    return None
  if not (error <= limit)[d.is_wrong].all():
    return None
  entries = half * np.abs(d.want)
  if not (error <= entries)[d.is_wrong].all():
    rounding = deviations(at.witnesses, problem, at.inputs)[d.leaf]
    entries = np.maximum(entries, np.minimum(np.nan_to_num(rounding), limit))
  return entries if (error <= entries)[d.is_wrong].all() else None


def up_to(d: verdicts.Difference, limit: float | np.ndarray) -> verdicts.Difference:
  """Return a difference in which no error up to a limit is wrong."""
  excused = d.is_wrong & (np.abs(d.got - d.want) <= limit)
  bound = np.where(excused, np.maximum(d.bound, limit), d.bound)
  return d._replace(bound=bound, is_wrong=d.is_wrong & ~excused)


def to_tolerance(d: verdicts.Difference, tolerance: float) -> verdicts.Difference:
  """Return a difference whose bound includes a loop's tolerance, to which a cause need fit only."""
  return d._replace(bound=d.bound + tolerance * verdicts.largest_of(d.want))


def finding_of(problem: Problem, judgement: verdicts.Judgement, where: str) -> Finding:
  """Return the finding of one leaf that differs; its cause may remain to be searched for."""
  d, ruling, why = judgement.difference, judgement.ruling, judgement.why
  kind = KINDS.get(ruling, "note") if where == AS_GIVEN else "note"
  if ruling == "oracle fault" and problem.witnesses.is_iterative:
    kind = "note"  # Autodiff of a search has no slope, and differences judge the entries.
  if ruling == "fail" or (ruling == "kink" and problem.ties == "reference"):
    kind = "fail"
  cause = "kink: another slope than autodiff's at a tie" if ruling == "kink" else ""
  message = MESSAGES[ruling].format(problem.witnesses.loop_in)
  if why:
    cause, message = "kink: not a slope between those of its sides", why
  if kind == "fail" and not np.isfinite(d.got[d.worst]):
    cause = "not finite: the truth is"
    if not np.isfinite(d.want[d.worst]):
      message = "the function is finite here and has differences; autodiff isn't finite either"
  name = problem.signature.float_names[d.leaf]
  found = d.finding(kind, "maths", where, name, cause=cause, message=message)
  if kind == "fail" and np.isfinite(judgement.truth):
    message = f"differences of f agree with neither the rule nor autodiff, {found.want:.4e}"
    return found._replace(want=judgement.truth, cause=cause or UNKNOWN, message=why or message)
  return found


def check_slope(problem: Problem) -> Iterator[Evidence]:
  """Confirm that D agrees with U and A, which agree, in random directions."""
  values, tolerance = problem.values, verdicts.difference_tolerance(problem.witnesses)
  if not values.is_finite or are_apart(problem):
    return
  # Differences are those of the function without its rounding.
  bars = problem.unrounded(problem.given) if problem.witnesses.is_coarse else values.bars
  agrees, own, slope = verdicts.confirm(problem.given, [b[0] for b in bars], problem.seed)
  yield evidence.ran("differences")
  if tolerance > verdicts.DIFFERENCE_TOLERANCE and not problem.witnesses.tolerance:
    yield not_checked(
      f"differences closer than {tolerance:.1g} of the slope: the rule can't be traced in float64"
    )
  is_apart = agrees is not None and not agrees and not problem.surrogate
  if is_apart and kinks.find_ties(problem.given):
    # Of several tied entries, some lie above the tie ahead, and others behind.
    agrees = None
  if agrees is None:
    # Where there is no other witness, each leaf's entries have been compared by themselves.
    why = (
      "a loop in the function ends by a tolerance, and they can't resolve the slope"
      if problem.witnesses.is_iterative else
      f"{', '.join(sorted(set(values.foreign)))} isn't evaluated in float64, and they can't "
      "resolve the slope" if values.foreign else
      "they cross kinks there"
    )  # fmt: skip
    yield not_checked(f"differences along a direction, at the arguments as given: {why}")
  elif not agrees and not problem.surrogate:
    yield reported(disagreement(problem, own, slope))


def are_apart(problem: Problem) -> bool:
  """Return whether U and A differ by more than a loop's tolerance, which `check_maths` judges."""
  values, tolerance = problem.values, problem.witnesses.tolerance
  if values.bars_want is None or not problem.witnesses.is_iterative:
    return False
  found = verdicts.compare(values.bars, values.bars_want, problem.allowance, False, tolerance)
  return any(d.is_wrong.any() for d in found)


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
  if problem.level != "quick" and not problem.is_large:
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
    if not accepts_lengths(problem.rule, leaves, axes, n):
      return None
    leaves = resized(leaves, axes, n)
  return sum(check_batch(problem, Point(name_of_lengths(problem, changes), leaves)), Evidence())


def check_point(problem: Problem, witnesses: Witnesses, point: Point) -> Iterator[Evidence]:
  """Check the mathematics at a point."""
  at = Setting(witnesses, point.leaves, problem.y_bar if point.y_bar is None else point.y_bar)
  try:
    values = problem.evaluated(at)
  except jax.errors.JaxRuntimeError as error:  # A callback raises: that of f, or of the rule alone.
    yield raised_at(at, point.name, error)
    return
  if values.is_finite:
    yield sum(check_maths(problem, at, values, point.name, point.only_finite), Evidence())
  elif witnesses is problem.witnesses:
    yield evidence.ran("outside the domain")


def raised_at(at: Setting, where: str, error: Exception) -> Evidence:
  """Return the failure of a rule that raises at a point; where f does, it's outside its domain.

  A solver may raise for samples of other roundings alone, where it doesn't converge.
  """
  evaluator = at.witnesses.evaluator(None)
  try:
    evaluator.run(at.witnesses.forward, at.leaves)
  except jax.errors.JaxRuntimeError:
    return evidence.ran("outside the domain")
  try:
    evaluator.run(at.witnesses.rule, at.inputs)
  except jax.errors.JaxRuntimeError:
    return evidence.failure(as_rule_error(error), where)
  return not_checked(f"{where}: f or the rule raises where rounding is another")


def check_batch(problem: Problem, point: Point) -> Iterator[Evidence]:
  """Check the mathematics for a batch of another size, traced anew."""
  rule, own = problem.rule, problem.signature.in_own_dtypes(point.leaves)
  try:
    witnesses = gather_witnesses(rule, own)
  except UnusableError as error:
    yield not_checked(f"{point.name}: f raises {type(error.__cause__).__name__}")
  except RuleError as error:
    forward = jax.make_jaxpr(rule.forward)(*own)
    if permutations(problem.witnesses.forward, problem.leaves) - permutations(forward, own):
      yield not_checked(f"{point.name}: a permutation of an axis would be none")
      return
    if rule.is_outside(own):  # Foreign code tells only when it runs.
      yield evidence.ran("outside the domain")
      return
    found = evidence.failure(error, point.name)
    # Few rules support an empty batch, or another length of every axis.
    is_batch = point.name.startswith("N = ") and point.name != "N = 0"
    if error.check == "raises" and not is_batch:
      found = reported(*(f._replace(kind="note", cause="") for f in found.findings))
    yield found
  else:
    leaves = within(witnesses.forward, point.leaves)
    if leaves is None:
      yield not_checked(f"{point.name}: the integers that point into it don't fit")
    else:
      y_bar = witnesses.source.draw(problem.seed, 1, problem.linear)
      yield from check_point(problem, witnesses, point._replace(leaves=leaves, y_bar=y_bar))


# --- Rounding -------------------------------------------------------------------------------------


def deviations(witnesses: Witnesses, problem: Problem, inputs: Leaves) -> list[np.ndarray]:
  """Return the standard deviation of every cotangent's rounding error in the rule's own dtype."""
  samples = 3 if problem.is_large else max(5, evidence.SAMPLES[problem.level])
  limits = ml_dtypes.finfo(np.dtype(witnesses.signature.working))
  # At most one unit in the last place, and underflow. A narrower dtype is no excuse for the rule,
  # unless the function computes in one.
  noise = Noise(samples, float(limits.eps), float(limits.tiny), seed=problem.seed)
  noise = noise._replace(by_dtype=witnesses.is_coarse)
  results = witnesses.evaluator(noise).run(witnesses.rule, inputs)
  return [verdicts.spread(s) for s in results[len(witnesses.forward.out_avals) :]]


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
      dtype they may end by another iteration.

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
  sigmas = deviations(witnesses, problem, problem.given.inputs)
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
  for i, (bar, want, deviation) in enumerate(zip(bars, wants, sigmas, strict=True)):
    if not want.size:
      continue
    name, dtype, got = signature.float_names[i], signature.float_dtypes[i], np.asarray(bar, float)
    found, ulp, sigma, unbounded = rounding_of(
      i, dtype, got, want, deviation, most, problem.witnesses.tolerance
    )
    if unbounded:
      yield not_checked(
        f"numerics of {unbounded} entries of {name}: rounding in {np.dtype(signature.working)} may "
        "be as large as the leaf itself"
      )
    is_short = MOST_ULP < ulp < np.inf and not problem.witnesses.is_coarse
    if unbounded and is_short and sigma <= most:
      # The function itself has the digits. The sum of the roundings explains the error, which
      # leaves no digit of the result.
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
    yield Evidence(ulp=ulp, sigma=sigma)
    if sigma > most:
      cause = (
        "not finite: the truth is" if not is_finite else
        f"precision: an error of {sigma:.0f} standard deviations"
      )  # fmt: skip
      yield reported(found.finding("fail", "numerics", run, name, cause=cause))
      return


def autodiff_overflows(problem: Problem, leaf: int) -> bool:
  """Return whether autodiff of the function, in its calling dtype, isn't finite either."""
  leaves, floats = problem.own_leaves, problem.signature.floats
  try:
    stripped = without_rules(problem.rule.differentiated, *leaves)
    bars = [b for b in problem.own_y_bar if is_float(b.dtype)]
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
      leaves = [jnp.asarray(x) if is_float(x.dtype) else x for x in problem.leaves]
      pairs = zip(problem.y_bar, witnesses.forward.out_avals, strict=True)
      y_bar = with_float0(problem.rule.outputs, [jnp.asarray(b, a.dtype) for b, a in pairs])
      got = [np.asarray(b, float)[None] for b in problem.rule.both(leaves, y_bar)[1]]
  except Exception as error:
    yield evidence.failure(as_rule_error(error), "in float64, without jit")
    return
  yield compare_mode(problem, "without jit", "wrong only where it isn't compiled", got, values)


def compare_mode(
  problem: Problem, check: str, what: str, got: Leaves, values: Values, where: str = AS_GIVEN
) -> Evidence:
  """Compare the rule in another mode with its own verified results, up to the first wrong leaf."""
  tolerance = problem.witnesses.tolerance
  found = verdicts.compare(got, values.bars, 2 * problem.allowance, bool(values.fragile), tolerance)
  note = f"some entries, {check}: their bounds are vacuous"
  names = problem.signature.float_names
  return evidence.compared(check, where, names, found, f"mode: {what}", note)
