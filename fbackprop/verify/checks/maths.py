"""The verdict on a rule's mathematics, at one point.

At each test point the rule U and autodiff A are evaluated in float64 and compared entry by entry,
within the rounding error of both; where they differ, one-sided differences D decide
(`witnesses.verdicts`). Where U and A agree, D confirms both along random directions.

A rule for a narrow dtype may differ from the truth by what that dtype rounds away: `excused` lists
for what reasons, and each of them is said in the report.
"""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.differences import check_entries, disagreement
from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, Problem, not_checked, reported
from fbackprop.verify.checks.test_points import Point
from fbackprop.verify.explain.causes import UNKNOWN
from fbackprop.verify.interpret.loops import MOST_AS_GIVEN, MOST_TURNS
from fbackprop.verify.interpret.primitives import digits
from fbackprop.verify.report import Finding, Kind
from fbackprop.verify.witnesses import kinks, verdicts
from fbackprop.verify.witnesses.rule import Leaves, as_rule_error
from fbackprop.verify.witnesses.traces import Setting, Values, Witnesses
from fbackprop.verify.witnesses.verdicts import Difference

# The name of the point at which the rule's own trace is judged, after float64.
OWN_DTYPE = "in its own dtype"
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
    message = f"a loop goes round more than {MOST_AS_GIVEN:,} times, or {MOST_TURNS:,} times where "
    message += "it holds what isn't compiled, as a callback: its results aren't known"
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
  foreign = ", ".join(sorted(set(values.foreign)))
  yield evidence.ran("maths")
  if foreign and where != OWN_DTYPE:
    yield not_checked(
      f"maths in float64 of {foreign}: evaluated in its own dtype, so that an error below its "
      "rounding isn't seen"
    )
  if not only_finite:
    yield evidence.ran("forward") + compare_outputs(problem, at, values, where)
  if at.witnesses.truth is None or values.bars_want is None:
    if not only_finite:
      yield from check_entries(problem, at, values, where)
    return
  differences, reasons = excused(problem, at, values, where)
  yield from map(not_checked, reasons)
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
  # Where rounding decides a comparison, as in a loop that halves an interval, differences don't.
  by_differences = where == AS_GIVEN and not is_narrow(at, where) and not foreign
  if not by_differences:
    yield from report_vacuous(problem, differences, where, why)
  judgements = judgements_of(problem, at, differences, only_finite)
  is_faulty = at.witnesses.is_iterative and any(j.ruling == "oracle fault" for j in judgements)
  if by_differences and (is_faulty or any(d.is_vacuous.any() for d in differences)):
    yield from check_entries(problem, at, values, where, f"autodiff is of no use, as {why}")
  findings = [finding_of(problem, judgement, where) for judgement in judgements]
  pairs = zip(judgements, findings, strict=True)
  failed = [(j.difference.leaf, f.cause) for j, f in pairs if f.kind == "fail"]
  # The first failure's cause is searched for, if its numbers don't state it.
  widened = [to_tolerance(d, at.witnesses.tolerance) for d in differences]
  mismatches = tuple((at, widened, leaf) for leaf, cause in failed[:1] if not cause)
  yield Evidence(tuple(findings), mismatches=mismatches)


def is_narrow(at: Setting, where: str) -> bool:
  """Return whether float64 is missing where it is meant to be the truth."""
  return not at.witnesses.is_wide and where != OWN_DTYPE


def may_be_vacuous(at: Setting, values: Values, where: str) -> bool:
  """Return whether a bound may be too wide for another reason than cancellation."""
  return bool(values.fragile or values.foreign or is_narrow(at, where))


def compare_outputs(problem: Problem, at: Setting, values: Values, where: str) -> Evidence:
  """Compare the rule's outputs with the function's."""
  is_open, tolerance = may_be_vacuous(at, values, where), at.witnesses.tolerance
  found = verdicts.compare(values.y, values.y_want, problem.allowance, is_open, tolerance)
  names = [f"output {i}" for i in range(len(found))]
  note = f"some outputs, {where}: their bounds are vacuous"
  cause = "forward: the rule's output isn't the function's"
  return evidence.compared("forward", where, names, found, cause, note)


def report_vacuous(
  problem: Problem, differences: Sequence[Difference], where: str, why: str
) -> Iterator[Evidence]:
  """Report the leaves whose bounds are vacuous: no verdict as given, a note elsewhere."""
  for d in (d for d in differences if d.is_vacuous.any()):
    if where != AS_GIVEN:
      yield not_checked(f"some entries, {where}: their bounds are vacuous")
      return
    name, unknown = problem.signature.float_names[d.leaf], d._replace(is_wrong=d.is_vacuous)
    message = f"the bound is vacuous: {why}"
    yield reported(unknown.finding("no verdict", "maths", where, name, message=message))


def judgements_of(
  problem: Problem, at: Setting, differences: Sequence[Difference], only_finite: bool
) -> list[verdicts.Judgement]:
  """Judge the wrong leaves, and those for which neither U nor A has a number, as D may have."""
  judgements = verdicts.judge(at, differences, problem.seed)
  if only_finite:
    return judgements
  rest = [verdicts.without_number(d) for d in differences if not d.is_wrong.any()]
  if at.witnesses.is_coarse and any(d.is_wrong.any() for d in rest):
    # An overflow of a narrower dtype in which the function computes isn't the rule's.
    wide = problem.unrounded(at)
    rest = [d._replace(is_wrong=d.is_wrong & ~np.isfinite(wide[d.leaf][0])) for d in rest]
  at_loss = [verdicts.ruling_of(at, d) for d in rest if d.is_wrong.any()]
  return judgements + [j for j in at_loss if j.ruling == "fail"]


# --- What isn't the rule's fault ------------------------------------------------------------------


def excused(
  problem: Problem, at: Setting, values: Values, where: str
) -> tuple[list[Difference], list[str]]:
  """Compare U with A; return the differences without the excused ones, and what is to be said."""
  assert values.bars_want is not None
  is_open = may_be_vacuous(at, values, where)
  differences = verdicts.compare(values.bars, values.bars_want, problem.allowance, is_open)
  if not is_narrow(at, where):
    differences = list(map(verdicts.where_apart, differences))
  if problem.rule.by_callback:
    unit = 2.0 ** -digits(np.float64 if at.witnesses.is_wide else problem.signature.working)
    differences = [up_to(d, CALLBACK * unit * verdicts.largest_of(d.want)) for d in differences]
  if where == OWN_DTYPE:
    differences = [up_to(d, of_constants(problem, values, d.leaf)) for d in differences]
  found, reasons = [], []
  for d in differences:
    limit = below_rounding(problem, at, d)
    if limit is not None:
      error, name = (
        verdicts.largest_of(d.error),
        problem.signature.float_names[d.leaf],
      )
      reasons.append(
        f"{name}, {where}: errors up to {error:.1g}, which float32 rounds away: f approximates, or "
        "an epsilon is left out"
      )
    found.append(d if limit is None else up_to(d, limit))
  if at.witnesses.is_coarse and any(d.is_wrong.any() for d in found):
    found = wrong_unrounded(problem, at, values, found, is_open)
  return found, reasons


def wrong_unrounded(
  problem: Problem, at: Setting, values: Values, found: Sequence[Difference], is_open: bool
) -> list[Difference]:
  """Keep the errors that remain where no cast rounds, neither autodiff's nor the rule's.

  Autodiff transposes a cast to a narrower dtype to another such cast; a rule may round elsewhere,
  but not to a narrower dtype than the function's.
  """
  assert at.witnesses.truth is not None
  evaluator = at.witnesses.unrounded(problem.noise())
  smooth = evaluator.run(at.witnesses.truth, at.inputs)[len(values.y) :]
  bars = values.bars if at.witnesses.is_rule_coarser else problem.unrounded(at)
  others = verdicts.compare(bars, smooth, problem.allowance, is_open)
  both = zip(found, others, strict=True)
  return [d._replace(is_wrong=d.is_wrong & o.is_wrong) for d, o in both]


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


def below_rounding(problem: Problem, at: Setting, d: Difference) -> np.ndarray | None:
  """Return the errors of a leaf that its narrow dtype rounds away, if they are all over it.

  The rule of an approximation is that of the function which it approximates, to the rounding of the
  dtype; or it leaves out an epsilon that guards a quotient. Then f has such constants, and most
  entries differ, each by less than its rounding: that of the terms where these cancel, up to that
  of the largest entry. A few entries that differ are no approximation, however little they do.
  """
  error, half = d.error, problem.half_unit
  limit = half * verdicts.largest_of(d.want)
  if not d.is_wrong.any() or 2 * d.is_wrong.sum() < d.is_wrong.size:
    return None
  if not problem.may_approximate:
    return None
  if not (error <= limit)[d.is_wrong].all():
    return None
  entries = half * np.abs(d.want)
  if not (error <= entries)[d.is_wrong].all():
    rounding = problem.deviations(at)[d.leaf]
    entries = np.maximum(entries, np.minimum(np.nan_to_num(rounding), limit))
  return entries if (error <= entries)[d.is_wrong].all() else None


def up_to(d: Difference, limit: float | np.ndarray) -> Difference:
  """Return a difference in which no error up to a limit is wrong."""
  excused = d.is_wrong & (d.error <= limit)
  bound = np.where(excused, np.maximum(d.bound, limit), d.bound)
  return d._replace(bound=bound, is_wrong=d.is_wrong & ~excused)


def to_tolerance(d: Difference, tolerance: float) -> Difference:
  """Return a difference whose bound includes a loop's tolerance, to which a cause need fit only."""
  return d._replace(bound=d.bound + tolerance * verdicts.largest_of(d.want))


# --- Findings -------------------------------------------------------------------------------------


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
  if is_apart and not problem.witnesses.is_iterative and kinks.find_ties(problem.given):
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


def compare_mode(
  problem: Problem, check: str, what: str, got: Leaves, values: Values, where: str = AS_GIVEN
) -> Evidence:
  """Compare the rule in another mode with its own verified results, up to the first wrong leaf."""
  tolerance = problem.witnesses.tolerance
  found = verdicts.compare(got, values.bars, 2 * problem.allowance, bool(values.fragile), tolerance)
  note = f"some entries, {check}: their bounds are vacuous"
  names = problem.signature.float_names
  return evidence.compared(check, where, names, found, f"mode: {what}", note)
