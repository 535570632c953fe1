"""The rule at one point: as it is called, the maths verdict there, and why it is wrong."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.checks import exact
from fbackprop.verify.checks.test_points import (
  Regime,
)
from fbackprop.verify.checks.verification import Verification
from fbackprop.verify.explain.causes import find_cause
from fbackprop.verify.interpret.evaluation import MOST_TURNS
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.interpret.programs import without_rules
from fbackprop.verify.report.findings import Finding
from fbackprop.verify.witnesses.arguments import Leaves, with_float0
from fbackprop.verify.witnesses.comparison import Difference, compare
from fbackprop.verify.witnesses.traces import (
  Values,
  Witnesses,
  evaluate,
)
from fbackprop.verify.witnesses.verdicts import (
  DIFFERENCE_TOLERANCE,
  confirm,
  difference_tolerance,
  judge,
)

# The regime in which a rule is judged as it was traced, after float64 has judged it.
OWN_DTYPE = "in its own dtype"


def check_call(v: Verification) -> Leaves:
  """The rule as it is, at the arguments as they were given: structure, dtypes."""
  y_bar = exact.own_cotangents(v.outputs, v.y_bar)
  v.count("structure")
  y, bars = exact.call(v.rule, v.own_leaves, y_bar)
  for i, (got, want) in enumerate(zip(y, v.outputs, strict=True)):
    if got.shape != want.shape or jnp.dtype(got.dtype) != want.dtype:
      message = (
        f"the rule's output {i} is {got.dtype}{list(got.shape)}, f's is "
        f"{want.dtype}{list(want.shape)}"
      )
      v.add(Finding("fail", "structure", message=message, cause="forward: another output"))
  v.count("dtype")
  for finding in exact.check_types(v.rule, v.own_leaves, bars):
    v.add(finding)
  return bars


def note_limits(v: Verification, witnesses: Witnesses) -> None:
  """What the programs say that limits the verdict."""
  if not witnesses.is_wide:
    v.not_checked.append(
      "maths in float64: the rule can't be traced with float64 arguments, so its constants "
      f"count as rounded to {np.dtype(v.rule.signature.working)}"
    )
  if witnesses.truth is None:
    v.not_checked.append(witnesses.truth_missing)
  if v.rule.f_vjp is None and not witnesses.has_rule:
    v.add(
      Finding(
        "note", "rule", message="f carries no jax.custom_vjp, and no f_vjp is given: autodiff is "
        "compared with itself, and with differences",
      )
    )  # fmt: skip


def check_maths(
  v: Verification,
  witnesses: Witnesses,
  regime: Regime,
  y_bar: list[np.ndarray],
  check: str = "maths",
) -> Values | None:
  """U against A at one point; D where they differ. None where the function isn't finite."""
  bars = [b * regime.loss_scale for b in y_bar]
  values = evaluate(witnesses, regime.leaves, bars, v.noise())
  if values.is_endless or not all(np.isfinite(y[0]).all() for y in values.y_want):
    if regime.name == "as given":
      message = (
        f"a loop goes round more than {MOST_TURNS:,} times: its results aren't known"
        if values.is_endless
        else "f isn't finite at these arguments: there is no gradient to compare with"
      )
      v.add(Finding("no verdict", check, message=message))
    return None
  v.count(check)
  is_narrow = not witnesses.is_wide and regime.name != OWN_DTYPE
  may_be_vacuous = bool(values.fragile or values.foreign or is_narrow)
  if values.foreign and regime.name != OWN_DTYPE:
    v.not_checked.append(
      f"maths in float64 of {', '.join(sorted(set(values.foreign)))}: evaluated in its own dtype, "
      "so that an error below its rounding isn't seen"
    )
  if not regime.only_finite:
    compare_outputs(v, values, regime, may_be_vacuous)
  if values.bars_want is None:
    return values
  v.visited[regime.name] = None
  differences = compare(values.bars, values.bars_want, v.allowance, may_be_vacuous)
  if regime.only_finite:
    differences = [
      d._replace(is_wrong=d.is_wrong & ~np.isfinite(d.got) & np.isfinite(d.want))
      for d in differences
    ]
  v.worst_share = max([v.worst_share, *(d.share for d in differences if not d.is_wrong.any())])
  report_vacuous(v, differences, values, regime)
  args = (v.rule, witnesses, regime.leaves, bars, differences, v.seed)
  for judgement in judge(*args):
    report_difference(v, judgement, differences, witnesses, regime, bars, check)
  return values


def compare_outputs(v: Verification, values: Values, regime: Regime, may_be_vacuous: bool) -> None:
  """The rule's forward pass gives the function's value."""
  v.count("forward")
  for d in compare(values.y, values.y_want, v.allowance, may_be_vacuous):
    if d.is_vacuous.any():
      v.not_checked.append(f"some outputs, {regime.name}: their bounds are vacuous")
    if d.is_wrong.any() and "forward" not in v.failed:
      v.failed.add("forward")
      v.add(
        v.finding_of("fail", "forward", regime.name, f"output {d.leaf}", d)._replace(
          cause="forward: the rule's output isn't the function's"
        )
      )


def report_vacuous(
  v: Verification, differences: Sequence[Difference], values: Values, regime: Regime
) -> None:
  """A bound that says nothing is no verdict at the arguments that were given, else it is told."""
  if regime.name != "as given" and any(d.is_vacuous.any() for d in differences):
    v.not_checked.append(f"some entries, {regime.name}: their bounds are vacuous")
    return
  for d in differences:
    if d.is_vacuous.any():
      why = (
        f"an operation isn't evaluated in float64: {', '.join(sorted(set(values.foreign)))}"
        if values.foreign
        else "rounding decides a comparison here"
        if values.fragile
        else "the rule can't be traced in float64"
      )
      name = v.rule.signature.float_names[d.leaf]
      index = tuple(int(i) for i in np.argwhere(d.is_vacuous)[0])
      v.add(
        Finding(
          "no verdict", "maths", regime.name, name, index, float(d.got[index]),
          float(d.want[index]), float(d.bound[index]), int(d.is_vacuous.sum()), d.got.size,
          d.got.shape, "", f"the bound is vacuous: {why}",
        )
      )  # fmt: skip


def report_difference(
  v: Verification,
  judgement: Any,
  differences: Sequence[Difference],
  witnesses: Witnesses,
  regime: Regime,
  y_bar: list[np.ndarray],
  check: str,
) -> None:
  """One leaf that differs, with what it means and why."""
  d = judgement.difference
  name = v.rule.signature.float_names[d.leaf]
  kind = {"oracle fault": "oracle fault", "fail": "fail"}.get(judgement.ruling, "note")
  cause, message = "", ""
  if judgement.why:
    cause, message = "kink: not a slope between those of its sides", judgement.why
  elif judgement.ruling == "kink":
    cause = "kink: another slope than autodiff's at a tie"
    message = "the function has a kink here"
    if v.reference_at_ties:
      kind = "fail"
  elif judgement.ruling == "oracle fault":
    message = "autodiff of the reference is wrong here: the differences agree with the rule"
    if regime.name != "as given":
      kind = "note"  # Nobody called it there.
  elif judgement.ruling == "inexact":
    message = "the function is a loop that ends by a tolerance: its slope isn't known more closely"
  elif judgement.ruling == "unresolved":
    message = "the function is a loop that ends too early here: differences don't resolve its slope"
    if regime.name == "as given":
      kind = "no verdict"
  elif judgement.ruling == "undefined":
    message = "neither autodiff nor the differences are finite here"
  key = f"{kind} {name}" if kind == "fail" else f"{kind} {check} {name} {judgement.ruling}"
  if key in v.failed:
    return
  v.failed.add(key)
  if kind == "fail" and not np.isfinite(d.got[d.worst]):
    cause = "not finite: the truth is"
  elif kind == "fail" and not cause:
    cause = cause_of(v, d, differences, witnesses, regime, y_bar)
  v.add(v.finding_of(kind, check, regime.name, name, d)._replace(cause=cause, message=message))


def cause_of(
  v: Verification,
  d: Difference,
  differences: Sequence[Difference],
  witnesses: Witnesses,
  regime: Regime,
  y_bar: list[np.ndarray],
) -> str:
  """The known pattern that reproduces the rule's numbers; looked for once, for the first leaf."""
  if any(f.kind == "fail" and f.check == "maths" for f in v.findings):
    return ""
  sizes = sum(np.size(x) for x in regime.leaves)
  if sizes > 2_000_000:
    return ""
  rule, leaves = v.rule, regime.leaves
  try:
    with jax.enable_x64(True):
      own = [jnp.asarray(x) if is_float(x.dtype) else x for x in leaves]
      stripped = without_rules(rule.forward, *own)

      def reference(*args: Any) -> Any:
        return jax.tree.unflatten(rule.out_structure, stripped(*jax.tree.leaves(args)))

      tree = jax.tree.unflatten(rule.out_structure, with_float0(witnesses.outputs, y_bar))
      return find_cause(
        reference,
        rule.signature.arguments(own),
        tree,
        [x.got for x in differences],
        [x.want for x in differences],
        [x.bound for x in differences],
        d.leaf,
      )
  except Exception as error:  # The search for an explanation must not hide what it explains.
    v.not_checked.append(f"the cause: {type(error).__name__}: {error}")
    return ""


def check_slope(v: Verification, witnesses: Witnesses, values: Values) -> None:
  """D against U and A in random directions, where these agree."""
  if v.has_failed:
    return
  bars = [b[0] for b in values.bars]
  agrees, own, slope = confirm(witnesses, v.leaves, v.y_bar, bars, v.seed)
  v.count("differences")
  if (tolerance := difference_tolerance(witnesses)) > DIFFERENCE_TOLERANCE:
    v.not_checked.append(
      f"differences closer than {tolerance:.1g} of the slope: the rule can't be traced in float64"
    )
  if agrees is None:
    v.not_checked.append("differences at the arguments as given: they cross kinks there")
    if values.bars_want is None:
      v.add(Finding("no verdict", "differences", message="there is no other witness"))
  elif not agrees and not v.surrogate:
    v.add(
      Finding(
        "fail", "differences", got=own, want=slope, cause="semantic: not the function's slope",
        message="the rule and autodiff agree with each other, and not with the function: a "
        "stop_gradient or a straight-through rule? If it is meant, say surrogate=True",
      )
    )  # fmt: skip
