"""The first verdict: the mathematics of the rule.

At each test point the rule U and autodiff A are evaluated in float64 and compared entry by entry,
within the rounding error of both (`witnesses.comparison`); where they differ, one-sided differences
D decide (`witnesses.verdicts`). Where U and A agree, D confirms both along random directions.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.checks import exact
from fbackprop.verify.checks.evidence import (
  AS_GIVEN,
  Evidence,
  Mismatch,
  combined,
  failure,
  finding_at,
  first_index,
  not_checked,
  reported,
)
from fbackprop.verify.checks.problem import Baseline, Problem, draw_cotangents
from fbackprop.verify.checks.test_points import Point, batch_points, constraints, find_batch
from fbackprop.verify.interpret.evaluation import MOST_TURNS
from fbackprop.verify.report.findings import Finding, Kind, RuleError
from fbackprop.verify.witnesses.comparison import Difference, compare
from fbackprop.verify.witnesses.rule import Leaves, in_dtypes_of
from fbackprop.verify.witnesses.traces import Setting, Values, Witnesses, evaluate, gather_witnesses
from fbackprop.verify.witnesses.verdicts import (
  DIFFERENCE_TOLERANCE,
  Judgement,
  confirm,
  difference_tolerance,
  judge,
)

# The name of the point at which the rule's own trace is judged, after float64.
OWN_DTYPE = "in its own dtype"
# The (cause, message) of each ruling other than a plain failure.
RULINGS = {
  "fail": ("", ""),
  "kink": ("kink: another slope than autodiff's at a tie", "the function has a kink here"),
  "oracle fault": (
    "", "autodiff of the reference is wrong here: the differences agree with the rule",
  ),
  "inexact": (
    "", "the function is a loop that ends by a tolerance: its derivative is known to that only",
  ),
  "unresolved": (
    "", "the function is a loop that ends too early here: differences can't resolve its slope",
  ),
  "undefined": ("", "neither autodiff nor the differences are finite here"),
}  # fmt: skip


def call_as_given(problem: Problem) -> tuple[Leaves, Evidence]:
  """Call the rule eagerly at the arguments as given, and check structure and dtypes.

  Returns:
    (cotangents, evidence).

  Raises:
    RuleError: the rule raises, or its return value has another structure.
  """
  rule, leaves = problem.rule, problem.own_leaves
  y, bars = exact.call(rule, leaves, in_dtypes_of(problem.outputs, problem.y_bar))
  findings = []
  for i, (got, want) in enumerate(zip(y, problem.outputs, strict=True)):
    if got.shape != want.shape or jnp.dtype(got.dtype) != want.dtype:
      message = (
        f"the rule's output {i} is {got.dtype}{list(got.shape)}, f's is "
        f"{want.dtype}{list(want.shape)}"
      )
      findings.append(
        Finding("fail", "structure", message=message, cause="forward: another output")
      )
  findings += exact.check_types(rule, leaves, bars)
  return bars, Evidence(tuple(findings), ("dtype",))


def limits_of(problem: Problem, witnesses: Witnesses) -> Evidence:
  """Report the limits that the traced programs themselves set to the verdict."""
  found = Evidence(order=tuple(witnesses.first_to_last))
  if not witnesses.is_wide:
    found += not_checked(
      "maths in float64: the rule can't be traced with float64 arguments, so its constants "
      f"count as rounded to {np.dtype(witnesses.signature.working)}"
    )
  if witnesses.truth is None:
    found += not_checked(witnesses.truth_missing)
  if problem.rule.f_vjp is None and not witnesses.has_rule:
    message = (
      "f carries no jax.custom_vjp, and no f_vjp is given: autodiff is compared with itself, and "
      "with differences"
    )
    found += reported(Finding("note", "rule", message=message))
  return found


def check_maths(
  problem: Problem, witnesses: Witnesses, point: Point
) -> tuple[Values | None, Evidence]:
  """Compare U with A at one point, and with D where they differ.

  Returns:
    (values, evidence); values are None where the function isn't finite.
  """
  y_bar = problem.y_bar if point.y_bar is None else point.y_bar
  bars = [b * point.loss_scale for b in y_bar]
  at = Setting(witnesses, point.leaves, bars)
  values = evaluate(at, problem.noise())
  if not values.is_finite:
    if point.name != AS_GIVEN:
      return None, Evidence()
    message = (
      f"a loop goes round more than {MOST_TURNS:,} times: its results aren't known"
      if values.is_endless
      else "f isn't finite at these arguments: there is no gradient to compare with"
    )
    return None, reported(Finding("no verdict", "maths", message=message))
  is_narrow = not witnesses.is_wide and point.name != OWN_DTYPE
  may_be_vacuous = bool(values.fragile or values.foreign or is_narrow)
  found = Evidence(checks=("maths",))
  if values.foreign and point.name != OWN_DTYPE:
    found += not_checked(
      f"maths in float64 of {named(values.foreign)}: evaluated in its own dtype, so that an error "
      "below its rounding isn't seen"
    )
  if not point.only_finite:
    found += compare_outputs(problem, values, point, may_be_vacuous)
  if values.bars_want is None:
    return values, found
  differences = compare(values.bars, values.bars_want, problem.allowance, may_be_vacuous)
  if point.only_finite:
    differences = [
      d._replace(is_wrong=d.is_wrong & ~np.isfinite(d.got) & np.isfinite(d.want))
      for d in differences
    ]
  shares = [d.share for d in differences if not d.is_wrong.any()]
  found += Evidence(points=(point.name,), share=max(shares, default=0.0))
  found += vacuous_bounds(problem, differences, values, point)
  judgements = judge(at, differences, problem.seed)
  findings = tuple(finding_of(problem, judgement, point) for judgement in judgements)
  found += Evidence(findings)
  first = next((i for i, f in enumerate(findings) if f.kind == "fail"), None)
  if first is not None and not findings[first].cause:
    leaf = judgements[first].difference.leaf
    found += Evidence(mismatch=Mismatch(at, differences, leaf))
  return values, found


def named(operations: Sequence[str]) -> str:
  """Return the distinct names of operations, as text."""
  return ", ".join(sorted(set(operations)))


def compare_outputs(
  problem: Problem, values: Values, point: Point, may_be_vacuous: bool
) -> Evidence:
  """Compare the rule's forward pass with the function's value."""
  found = Evidence(checks=("forward",))
  for d in compare(values.y, values.y_want, problem.allowance, may_be_vacuous):
    if d.is_vacuous.any():
      found += not_checked(f"some outputs, {point.name}: their bounds are vacuous")
    if d.is_wrong.any() and not found.has_failed:
      finding = problem.finding("fail", "forward", point.name, f"output {d.leaf}", d)
      cause = "forward: the rule's output isn't the function's"
      found += reported(finding._replace(cause=cause))
  return found


def vacuous_bounds(
  problem: Problem, differences: Sequence[Difference], values: Values, point: Point
) -> Evidence:
  """Report vacuous bounds: no verdict at the arguments as given, a note elsewhere."""
  vacuous = [d for d in differences if d.is_vacuous.any()]
  if vacuous and point.name != AS_GIVEN:
    return not_checked(f"some entries, {point.name}: their bounds are vacuous")
  why = (
    f"an operation isn't evaluated in float64: {named(values.foreign)}"
    if values.foreign
    else "rounding decides a comparison here"
    if values.fragile
    else "the rule can't be traced in float64"
  )
  return Evidence(
    tuple(
      finding_at(
        "no verdict", "maths", point.name, problem.float_names[d.leaf], first_index(d.is_vacuous),
        d.got, d.want, d.bound, d.is_vacuous, message=f"the bound is vacuous: {why}",
      )
      for d in vacuous
    )
  )  # fmt: skip


def finding_of(problem: Problem, judgement: Judgement, point: Point) -> Finding:
  """Return the finding of one leaf that differs; its cause may remain to be searched for."""
  d, ruling = judgement.difference, judgement.ruling
  cause, message = RULINGS[ruling]
  kind: Kind = "note"
  if ruling == "fail" or (ruling == "kink" and problem.reference_at_ties):
    kind = "fail"
  elif ruling == "oracle fault" and point.name == AS_GIVEN:  # Else a note.
    kind = "oracle fault"
  elif ruling == "unresolved" and point.name == AS_GIVEN:
    kind = "no verdict"
  if judgement.why:
    cause, message = "kink: not a slope between those of its sides", judgement.why
  if kind == "fail" and not np.isfinite(d.got[d.worst]):
    cause = "not finite: the truth is"
  finding = problem.finding(kind, "maths", point.name, problem.float_names[d.leaf], d)
  return finding._replace(cause=cause, message=message)


def check_slope(problem: Problem, baseline: Baseline) -> Evidence:
  """Confirm that D agrees with U and A, which agree, in random directions."""
  witnesses, values = baseline.witnesses, baseline.values
  if values is None:
    return Evidence()
  bars = [b[0] for b in values.bars]
  at = Setting(witnesses, problem.leaves, problem.y_bar)
  agrees, own, slope = confirm(at, bars, problem.seed)
  found = Evidence(checks=("differences",))
  if (tolerance := difference_tolerance(witnesses)) > DIFFERENCE_TOLERANCE:
    found += not_checked(
      f"differences closer than {tolerance:.1g} of the slope: the rule can't be traced in float64"
    )
  if agrees is None:
    found += not_checked("differences at the arguments as given: they cross kinks there")
    if values.bars_want is None:
      message = "there is no other witness"
      found += reported(Finding("no verdict", "differences", message=message))
  elif not agrees and not problem.surrogate:
    cause = "semantic: not the function's slope"
    message = (
      "the rule and autodiff agree with each other, and not with the function: a stop_gradient or "
      "a straight-through rule? If it is meant, say surrogate=True"
    )
    found += reported(
      Finding("fail", "differences", got=own, want=slope, cause=cause, message=message)
    )
  return found


def limits_of_points(problem: Problem, _: Baseline) -> Evidence:
  """Report the properties that no test point varies, so that the rule isn't tested without them."""
  found = Evidence()
  if problem.level != "quick":
    found += Evidence(not_checked=tuple(constraints(problem.rule.signature, problem.leaves)))
  if problem.is_large:
    found += not_checked('test points left out as the arguments are large: see level="deep"')
  return found


def check_test_points(problem: Problem, baseline: Baseline) -> Evidence:
  """Check the mathematics at the other test points, of these shapes and of other batch sizes."""
  return combined(at_test_points(problem, baseline.witnesses))


def at_test_points(problem: Problem, witnesses: Witnesses) -> Iterator[Evidence]:
  """Yield the evidence of each test point."""
  for point in problem.test_points():
    yield check_point(problem, witnesses, point)
  batch = find_batch(problem.rule, problem.leaves, problem.outputs)
  if batch is None:
    yield not_checked("other sizes of a batch: no axis of examples was found")
    return
  level = "large" if problem.is_large else problem.level
  for point in batch_points(problem.rule, problem.leaves, batch, level, problem.seed):
    yield check_batch(problem, point)


def check_point(problem: Problem, witnesses: Witnesses, point: Point) -> Evidence:
  """Check the mathematics at a point; count a point where the function isn't finite separately."""
  values, found = check_maths(problem, witnesses, point)
  return found + Evidence(checks=("outside the domain",)) if values is None else found


def check_batch(problem: Problem, point: Point) -> Evidence:
  """Check the mathematics for a batch of another size, traced anew."""
  rule, own = problem.rule, problem.rule.signature.in_own_dtypes(point.leaves)
  try:
    outputs = jax.tree.leaves(jax.eval_shape(rule.forward, *own))
  except Exception as error:
    return not_checked(f"{point.name}: f raises {type(error).__name__}")
  y_bar = draw_cotangents(outputs, problem.seed, 1)
  try:
    out = jax.eval_shape(lambda *leaves: rule.f(*rule.signature.arguments(leaves)), *own)
    rule = rule._replace(out_structure=jax.tree.structure(out))
    exact.check_shapes(rule, own, in_dtypes_of(outputs, y_bar))
    witnesses = gather_witnesses(rule, own, outputs)
  except RuleError as error:
    found = failure(error, point.name)
    if point.name == "N = 0" and error.check == "raises":  # Few rules support an empty batch.
      return Evidence(tuple(f._replace(kind="note", cause="") for f in found.findings))
    return found
  return check_maths(problem, witnesses, point._replace(y_bar=y_bar))[1]
