"""The rule as it runs, in its own dtype: to the last bit, and the numerics verdict."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.checks import exact, numerics
from fbackprop.verify.checks.one_point import OWN_DTYPE, check_maths
from fbackprop.verify.checks.test_points import (
  Regime,
  value_regimes,
)
from fbackprop.verify.checks.verification import SAMPLES, Verification
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report.findings import Finding, RuleError
from fbackprop.verify.witnesses.arguments import Leaves, with_float0
from fbackprop.verify.witnesses.comparison import compare
from fbackprop.verify.witnesses.traces import (
  Values,
  Witnesses,
  evaluate,
  gather_witnesses,
  reference_of,
)


def check_exact(v: Verification, witnesses: Witnesses, bars: Leaves) -> None:
  """What holds without a tolerance, in the rule's own dtype."""
  rule, leaves = v.rule, v.own_leaves
  y_bar = exact.own_cotangents(v.outputs, v.y_bar)
  other_bar = exact.own_cotangents(v.outputs, v.draw(v.outputs, 2))
  other = value_regimes(rule.signature, v.leaves, "quick", v.seed)[0].leaves
  own_other = rule.signature.in_own_dtypes(other)
  checks: list[tuple[str, Callable[[], list[Finding] | None]]] = [
    ("zero cotangent", lambda: exact.check_zero(rule, leaves, y_bar, bars, "as given")),
    ("scaled cotangent", lambda: check_scaling(v, witnesses, y_bar, bars)),
    (
      "repeated call",
      lambda: exact.check_repeats(rule, (leaves, y_bar), (own_other, other_bar), bars),
    ),
  ]
  if v.level != "quick":
    checks += [
      ("donated arguments", lambda: exact.check_donation(rule, leaves, y_bar)),
      ("arguments unchanged", lambda: exact.check_unchanged(rule, leaves, y_bar)),
    ]
  for name, check in checks:
    try:
      found = check()
    except RuleError as error:
      found = [exact.of_error(error, name)]
    if found is not None:
      v.count(name)
    for finding in found or ():
      v.add(finding)


def check_scaling(
  v: Verification, witnesses: Witnesses, y_bar: Leaves, bars: Leaves
) -> list[Finding]:
  """Bits that differ count if float64 differs too: else something left the normal range."""
  confirmed = []
  for finding, factor in exact.check_scaling(v.rule, v.own_leaves, y_bar, bars):
    scaled = [b * factor for b in v.y_bar]
    plain = evaluate(witnesses, v.leaves, v.y_bar, v.noise())
    moved = evaluate(witnesses, v.leaves, scaled, v.noise())
    found = compare(moved.bars, [b * factor for b in plain.bars], v.allowance, True)
    if any(d.is_wrong.any() for d in found):
      confirmed.append(finding)
    else:
      v.add(finding._replace(kind="note", cause="", message="bits differ, float64 agrees"))
  return confirmed[:1]


def check_numerics(v: Verification, witnesses: Witnesses, values: Values, bars: Leaves) -> None:
  """The rule as it is, and compiled, in its own dtype against the truth."""
  if v.has_failed:
    return
  if witnesses.is_wide and any(d != np.float64 for d in v.own_float_dtypes):
    # Traced in its own dtype a rule may take other ways, and draws other random numbers.
    try:
      witnesses = gather_witnesses(v.rule, v.own_leaves, v.outputs, widen=False)
    except RuleError as error:
      v.add(exact.of_error(error, OWN_DTYPE))
      return
    regime = Regime(OWN_DTYPE, v.leaves)
    own = check_maths(v, witnesses, regime, v.y_bar)
    if own is None or v.has_failed:
      return
    values = own
  # Its own numbers in float64, which the maths verdict has found to be right.
  want = [b[0] for b in values.bars]
  samples = 3 if v.is_large else max(5, SAMPLES[v.level])
  sigmas = numerics.deviations(witnesses, v.leaves, v.y_bar, samples, v.seed)
  y_bar = exact.own_cotangents(v.outputs, v.y_bar)
  runs: list[tuple[str, Callable[[], Leaves]]] = [("as it is", lambda: bars)]
  if v.level != "quick":
    runs.append(("compiled", lambda: compiled(v, v.own_leaves, y_bar)))
  for name, call in runs:
    v.count("numerics")
    try:
      got = [np.asarray(b, np.float64) for b in call()]
    except RuleError as error:
      v.add(exact.of_error(error, name))
      continue
    judge_rounding(v, witnesses, got, want, sigmas, name)


def judge_rounding(
  v: Verification,
  witnesses: Witnesses,
  got: list[np.ndarray],
  want: list[np.ndarray],
  sigmas: list[np.ndarray],
  regime: str,
) -> None:
  """The numerics verdict of one run."""
  for found in numerics.measure(witnesses, got, want, sigmas, v.allowance):
    name = v.rule.signature.float_names[found.leaf]
    if found.unbounded:
      v.not_checked.append(
        f"numerics of {found.unbounded} entries of {name}: rounding in "
        f"{np.dtype(v.rule.signature.working)} may be as large as the leaf itself"
      )
    if not math.isfinite(found.got) and math.isinf(found.sigma) and autodiff_overflows(v, found):
      v.not_checked.append(f"numerics of {name}: in this dtype autodiff overflows here too")
      continue
    v.worst_ulp = max(v.worst_ulp, found.ulp)
    v.max_sigma = max(v.max_sigma, found.sigma)
    if found.sigma > numerics.MOST_SIGMAS * v.allowance:
      bound = numerics.MOST_SIGMAS * v.allowance * found.deviation
      is_mode = regime == "compiled" and not any(f.check == "numerics" for f in v.findings)
      finite = math.isfinite(found.got)
      cause = (
        "not finite: the truth is" if not finite else
        "mode: wrong only where it is compiled" if is_mode else
        f"precision: an error of {found.sigma:.0f} standard deviations"
      )  # fmt: skip
      v.add(
        Finding(
          "fail", "numerics", regime, name, found.index, found.got, found.want, bound,
          found.wrong, found.size, want[found.leaf].shape, cause,
        )
      )  # fmt: skip
      return


def autodiff_overflows(v: Verification, found: numerics.Rounding) -> bool:
  """Whether autodiff of the function, in the dtype that it is called in, isn't finite there."""
  floats = [v.own_leaves[i] for i in v.rule.signature.floats]
  y_bar = [
    jnp.asarray(b, o.dtype)
    for b, o in zip(v.y_bar, (o for o in v.outputs if is_float(o.dtype)), strict=True)
  ]
  try:
    bars = jax.vjp(reference_of(v.rule, v.own_leaves), *floats)[1](y_bar)
  except Exception:  # It can't be had: then nothing excuses the rule.
    return False
  return not np.isfinite(np.asarray(bars[found.leaf], np.float64)).all()


def compiled(v: Verification, leaves: Leaves, y_bar: Leaves) -> Leaves:
  """The rule under jit, in its own dtype."""
  backward, moving = v.rule.of_floats(y_bar)
  try:
    return jax.jit(backward)(leaves, moving)
  except Exception as error:
    raise exact.as_rule_error(error) from error


def check_eager_in_float64(v: Verification, witnesses: Witnesses, values: Values) -> None:
  """The rule in float64 without being traced: what it does for concrete values only."""
  if not witnesses.is_wide:
    return
  v.count("without jit")
  try:
    with jax.enable_x64(True):
      leaves = [jnp.asarray(x) if is_float(x.dtype) else x for x in v.leaves]
      bars_in = [
        jnp.asarray(b, a.dtype) for b, a in zip(v.y_bar, witnesses.forward.out_avals, strict=True)
      ]
      got = v.rule.backward(leaves, with_float0(v.outputs, bars_in))
      numbers = [np.asarray(b, np.float64)[None] for b in got]
  except Exception as error:
    v.add(exact.of_error(exact.as_rule_error(error), "in float64, without jit"))
    return
  compare_mode(v, "without jit", "wrong only where it isn't compiled", numbers, values.bars, values)


def compare_mode(
  v: Verification,
  check: str,
  what: str,
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  values: Values,
  regime: str = "as given",
) -> None:
  """The rule in another mode against its own numbers, which are verified."""
  for d in compare(got, want, 2 * v.allowance, bool(values.fragile)):
    if d.is_vacuous.any():
      v.not_checked.append(f"some entries, {check}: their bounds are vacuous")
    if d.is_wrong.any():
      name = v.rule.signature.float_names[d.leaf]
      v.add(v.finding_of("fail", check, regime, name, d)._replace(cause=f"mode: {what}"))
      return
