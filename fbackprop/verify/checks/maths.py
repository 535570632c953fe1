"""The first verdict: the mathematics of the rule.

At each test point the rule U and autodiff A are evaluated in float64 and compared entry by entry,
within the rounding error of both (`witnesses.comparison`); where they differ, one-sided differences
D decide (`witnesses.verdicts`). Where U and A agree, D confirms both along random directions.
"""

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.axes import find_axes, lengths, name_of, resized
from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, Problem, not_checked, reported
from fbackprop.verify.checks.indices import within
from fbackprop.verify.checks.test_points import Point, batch_points, constraints, find_batch
from fbackprop.verify.interpret.evaluation import MOST_TURNS
from fbackprop.verify.report.findings import Finding, Kind, RuleError, UnusableError
from fbackprop.verify.witnesses import verdicts
from fbackprop.verify.witnesses.comparison import Difference, compare
from fbackprop.verify.witnesses.entries import compare_entries
from fbackprop.verify.witnesses.rule import in_dtypes_of, rule_of
from fbackprop.verify.witnesses.traces import Setting, Values, Witnesses, evaluate, gather_witnesses

# The number of entries of a leaf that are compared with differences where autodiff is missing.
ENTRIES = {"quick": 12, "standard": 32, "deep": 256}
# The name of the point at which the rule's own trace is judged, after float64.
OWN_DTYPE = "in its own dtype"
# The kinds of rulings at the arguments as given; all that aren't failures are notes elsewhere.
KINDS: dict[str, Kind] = {"oracle fault": "oracle fault", "unresolved": "no verdict"}
LOOP = "the function is a loop that ends"
MESSAGES = {
  "fail": "",
  "kink": "the function has a kink here",
  "oracle fault": "autodiff of the reference is wrong here: the differences agree with the rule",
  "inexact": f"{LOOP} by a tolerance: its derivative is known to that only",
  "unresolved": f"{LOOP} too early here: differences can't resolve its slope",
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
    found = compare(values.y, values.y_want, problem.allowance, may_be_vacuous)
    names = [f"output {i}" for i in range(len(found))]
    note = f"some outputs, {where}: their bounds are vacuous"
    cause = "forward: the rule's output isn't the function's"
    yield evidence.ran("forward") + evidence.compared("forward", where, names, found, cause, note)
  if values.bars_want is None:
    if not only_finite:
      yield from check_entries(problem, at, values, where)
    return
  differences = compare(values.bars, values.bars_want, problem.allowance, may_be_vacuous)
  if at.witnesses.is_coarse and any(d.is_wrong.any() for d in differences):
    # Autodiff transposes a cast to a narrower dtype to another such cast; a rule needn't.
    smooth = at.witnesses.unrounded(problem.noise()).run(at.witnesses.truth, at.inputs)
    smooth = smooth[len(values.y) :]
    others = compare(values.bars, smooth, problem.allowance, may_be_vacuous)
    pairs = zip(differences, others, strict=True)
    differences = [d._replace(is_wrong=d.is_wrong & o.is_wrong) for d, o in pairs]
  if only_finite:
    differences = [
      d._replace(is_wrong=d.is_wrong & ~np.isfinite(d.got) & np.isfinite(d.want))
      for d in differences
    ]
  shares = [d.share for d in differences if not d.is_wrong.any()]
  yield Evidence(points=(where,), share=max(shares, default=0.0))
  why = (
    f"an operation isn't evaluated in float64: {foreign}" if foreign else
    "rounding decides a comparison here" if values.fragile else
    "the rule can't be traced in float64"
  )  # fmt: skip
  names = problem.signature.float_names
  for d in (d for d in differences if d.is_vacuous.any()):
    if where != AS_GIVEN:  # A note elsewhere.
      yield not_checked(f"some entries, {where}: their bounds are vacuous")
      break
    message, d = f"the bound is vacuous: {why}", d._replace(is_wrong=d.is_vacuous)
    yield reported(d.finding("no verdict", "maths", where, names[d.leaf], message=message))
  judgements = verdicts.judge(at, differences, problem.seed)
  findings = [finding_of(problem, judgement, where) for judgement in judgements]
  pairs = zip(judgements, findings, strict=True)
  failed = [(j.difference.leaf, f.cause) for j, f in pairs if f.kind == "fail"]
  # The first failure's cause is searched for, if its numbers don't state it.
  mismatches = tuple((at, differences, leaf) for leaf, cause in failed[:1] if not cause)
  yield Evidence(tuple(findings), mismatches=mismatches)


def check_entries(problem: Problem, at: Setting, values: Values, where: str) -> Iterator[Evidence]:
  """Compare U with D at some entries of each leaf, where there is no A."""
  differences, count = entries_of(problem, at, values), ENTRIES[problem.level]
  names = problem.signature.float_names
  yield Evidence(checks=("entries",), points=(where,))
  for d in differences:
    name = names[d.leaf]
    if d.got.size and d.is_vacuous.sum() == min(count, d.got.size):
      message = "autodiff is missing, and differences don't converge"
      if where == AS_GIVEN:
        unknown = d._replace(is_wrong=d.is_vacuous)
        yield reported(unknown.finding("no verdict", "maths", where, name, message=message))
      else:
        yield not_checked(f"{name}, {where}: {message}")
    if where == AS_GIVEN and d.got.size > count:
      left_out = f"{d.got.size - count} of {d.got.size} entries of {name}"
      yield not_checked(f"{left_out}, as autodiff is missing")
  for d in (differences[i] for i in at.witnesses.first_to_last):
    if d.is_wrong.any():
      message = "the truth is that of one-sided differences of f"
      cause = factor_of(d)
      yield reported(d.finding("fail", "maths", where, names[d.leaf], cause=cause, message=message))


def entries_of(problem: Problem, at: Setting, values: Values) -> list[Difference]:
  """Compare U with D at the entries that the level allows."""
  is_exact = at.witnesses.is_wide and not values.foreign
  bars = [b[0] for b in values.bars]
  return compare_entries(
    at, bars, ENTRIES[problem.level], problem.seed, is_exact, problem.allowance
  )


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
  return "no known pattern" if off.any() else f"constant factor: {np.median(ratio):.4g}"


def finding_of(problem: Problem, judgement: verdicts.Judgement, where: str) -> Finding:
  """Return the finding of one leaf that differs; its cause may remain to be searched for."""
  d, ruling, why = judgement
  kind = KINDS.get(ruling, "note") if where == AS_GIVEN else "note"
  if ruling == "fail" or (ruling == "kink" and problem.ties == "reference"):
    kind = "fail"
  cause = "kink: another slope than autodiff's at a tie" if ruling == "kink" else ""
  message = MESSAGES[ruling]
  if why:
    cause, message = "kink: not a slope between those of its sides", why
  if kind == "fail" and not np.isfinite(d.got[d.worst]):
    cause = "not finite: the truth is"
  name = problem.signature.float_names[d.leaf]
  return d.finding(kind, "maths", where, name, cause=cause, message=message)


def check_slope(problem: Problem) -> Iterator[Evidence]:
  """Confirm that D agrees with U and A, which agree, in random directions."""
  values, tolerance = problem.values, verdicts.difference_tolerance(problem.witnesses)
  if not values.is_finite:
    return
  agrees, own, slope = verdicts.confirm(problem.given, [b[0] for b in values.bars], problem.seed)
  yield evidence.ran("differences")
  if tolerance > verdicts.DIFFERENCE_TOLERANCE:
    yield not_checked(
      f"differences closer than {tolerance:.1g} of the slope: the rule can't be traced in float64"
    )
  if agrees is None:
    yield not_checked("differences at the arguments as given: they cross kinks there")
    if values.bars_want is None:
      message = "there is no other witness"
      yield reported(Finding("no verdict", "differences", message=message))
  elif not agrees and not problem.surrogate:
    yield reported(disagreement(problem, own, slope))


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


def check_limits_of_points(problem: Problem) -> Iterator[Evidence]:
  """Report the properties that no test point varies, so that the rule isn't tested without them."""
  if problem.level != "quick":
    yield Evidence(not_checked=tuple(constraints(problem.signature, problem.leaves)))
  if problem.is_large:
    yield not_checked('test points left out as the arguments are large: see level="deep"')


def check_test_points(problem: Problem) -> Iterator[Evidence]:
  """Check the mathematics at the other test points, of these shapes and of other batch sizes."""
  for point in problem.test_points:
    yield from check_point(problem, problem.witnesses, point)
  batch = find_batch(problem.rule, problem.leaves, problem.outputs)
  if batch is None:
    yield not_checked("other sizes of a batch: no axis of examples was found")
  else:
    level = "large" if problem.is_large else problem.level
    for point in batch_points(problem.rule, problem.leaves, batch, level, problem.seed):
      yield from check_batch(problem, point)
  if problem.level == "quick" or problem.is_large:
    return
  for axes in find_axes(problem.rule, problem.leaves, frozenset((i, 0) for i in batch or ())):
    leaf, axis = min(axes)
    for n in lengths(problem.level, np.shape(problem.leaves[leaf])[axis]):
      name = name_of(problem.rule, axes, n)
      yield from check_batch(problem, Point(name, resized(problem.leaves, axes, n)))


def check_point(problem: Problem, witnesses: Witnesses, point: Point) -> Iterator[Evidence]:
  """Check the mathematics at a point."""
  at = Setting(witnesses, point.leaves, problem.y_bar if point.y_bar is None else point.y_bar)
  values = evaluate(at, problem.noise())
  if values.is_finite:
    yield sum(check_maths(problem, at, values, point.name, point.only_finite), Evidence())
  elif witnesses is problem.witnesses:
    yield evidence.ran("outside the domain")


def check_batch(problem: Problem, point: Point) -> Iterator[Evidence]:
  """Check the mathematics for a batch of another size, traced anew."""
  rule, own = problem.rule, problem.signature.in_own_dtypes(point.leaves)
  try:
    rule, outputs = rule_of(rule.f, rule.f_vjp, rule.signature, own, rule.slope)
  except UnusableError as error:
    yield not_checked(f"{point.name}: f raises {type(error.__cause__).__name__}")
    return
  y_bar = evidence.draw_cotangents(outputs, problem.seed, 1, problem.linear)
  try:
    rule.compiled(own, in_dtypes_of(outputs, y_bar), lambda f: partial(jax.eval_shape, f))
    witnesses = gather_witnesses(rule, own, outputs)
  except RuleError as error:
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
      yield from check_point(problem, witnesses, point._replace(leaves=leaves, y_bar=y_bar))
