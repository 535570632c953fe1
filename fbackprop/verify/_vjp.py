"""`vjp`, all checks of one rule in the order in which failures explain others; `assert_vjp`."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from fbackprop.checks import check_callable, check_flag, check_number, is_integer
from fbackprop.jaxprs import UnknownProgramError
from fbackprop.verify.checks import evidence, exact, numerics, transformations
from fbackprop.verify.checks.branch_search import check_branches
from fbackprop.verify.checks.evidence import Evidence, Problem
from fbackprop.verify.explain.causes import UNKNOWN, cause_of
from fbackprop.verify.report import VERDICTS, Checked, Finding, Report, RuleError, first_verdict
from fbackprop.verify.witnesses import shared_outputs
from fbackprop.verify.witnesses.rule import Function, raised, rule_of, signature_of

LEVELS = ("quick", "standard", "deep")


def vjp(
  f: Function,
  *args: Any,
  f_vjp: Function | None = None,
  level: str = "standard",
  seed: int = 0,
  allowance: float = 1.0,
  ties: str = "any",
  surrogate: bool = False,
) -> Report:
  """Verify the mathematics and the rounding of a hand-written VJP.

  Two verdicts. *Maths*: the rule is traced in float64 and compared, entry by entry, with autodiff
  of the function without its rule, within the rounding error of both, estimated by Monte Carlo
  arithmetic; where they differ, one-sided differences of the function decide. *Numerics*: the rule
  in its own dtype against that truth, in units in the last place and in standard deviations of the
  propagated rounding error. The mathematics is checked at many test points, on both sides of every
  comparison in the program, under jit, vmap, scan and remat, and in second order; properties that
  hold exactly are checked bitwise.

  Args:
    f: a function that contains a `jax.custom_vjp`, whose primal is the reference; or the reference
      of `f_vjp`.
    *args: the arguments of `f`: pytrees of arrays. The float leaves are differentiated.
    f_vjp: the rule, `f_vjp(*args) -> (y, pullback)`, `pullback(y_bar) -> (arg_bar, ...)`, as
      `jax.vjp(f, *args)` is; None if f carries it.
    level: "quick" (a second), "standard" (ten seconds), "deep" (minutes).
    seed: the seed of all random draws.
    allowance: a factor of every bound.
    ties: "any" accepts every slope between the left and the right derivative at a kink; "reference"
      accepts only that of autodiff of f, as `jax.nn.relu` declares 0 at 0.
    surrogate: whether f's autodiff is meant to differ from its slope: a straight-through rule, a
      `stop_gradient` that changes values.

  Returns:
    The `Report`; `report.ok` is true for a pass only.

  Raises:
    UnusableError: f can't be called with `args`, or no floats go in or come out.
    TypeError, ValueError: another argument is invalid.

  Example:
    >>> @jax.custom_vjp
    ... def square(x):
    ...   return x**2
    >>> square.defvjp(lambda x: (x**2, x), lambda x, y_bar: (x * y_bar,))
    >>> report = vjp(square, jax.numpy.arange(3.0), level="quick")
    >>> report.verdict, report.findings[0].leaf, report.findings[0].cause
    ('fail', 'x', 'constant factor: 1/2 (match 0e+00)')

  References:
    Higham, "Accuracy and Stability of Numerical Algorithms", SIAM, 2002, chapter 3; Parker, "Monte
    Carlo arithmetic", UCLA CSD-970002 (1997).
  """
  check_callable("vjp", "f", f)
  if f_vjp is not None:
    check_callable("vjp", "f_vjp", f_vjp)
  for name, value, choices in (("level", level, LEVELS), ("ties", ties, ("any", "reference"))):
    if value not in choices:
      raise ValueError(f"vjp: {name} must be one of {', '.join(choices)}, got {value!r}")
  if not is_integer(seed) or seed < 0:
    raise ValueError(f"vjp: seed must be an integer of at least 0, got {seed!r}")
  check_number("vjp", "allowance", allowance, 0.0)
  check_flag("vjp", "surrogate", surrogate)
  name = getattr(f, "__name__", type(f).__name__)
  return verify_call(
    name, f, args, f_vjp, level=level, seed=seed, allowance=allowance, ties=ties,
    surrogate=surrogate,
  )  # fmt: skip


def assert_vjp(f: Function, *args: Any, **options: Any) -> Report:
  """Raise AssertionError unless a function's hand-written VJP passes `vjp`.

  Args:
    f: a function that contains a `jax.custom_vjp`, or the reference of the rule `f_vjp=...`.
    *args: the arguments of `f`.
    **options: those of `vjp`: `f_vjp`, `level`, `seed`, `allowance`, `ties`, ...

  Returns:
    The passing report.

  Raises:
    AssertionError: the verdict isn't "pass"; no verdict is no pass. The message is the report.
    UnusableError: the function or its arguments can't be used.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def cube(x):
    ...   return x**3
    >>> def cube_forward(x):
    ...   return cube(x), x
    >>> def cube_backward(x, y_bar):
    ...   return (3 * x**2 * y_bar,)
    >>> cube.defvjp(cube_forward, cube_backward)
    >>> assert_vjp(cube, jnp.array([-1.5, 0.5, 2.0]), level="quick").ok
    True
  """
  __tracebackhide__ = True  # pytest then shows the report at the test's line.
  report = vjp(f, *args, **options)
  if not report.ok:
    raise AssertionError(report.table())
  return report


def verify_call(
  name: str, f: Function, args: Any, f_vjp: Function | None, y_bar: Any = None, **options: Any
) -> Report:
  """Verify a rule under a name, at the cotangent `y_bar` or, by default, at a drawn one."""
  start = time.monotonic()
  signature, leaves = signature_of(f, args)
  rule = rule_of(f, f_vjp, signature, leaves)
  y_bar = rule.draw(options["seed"], 0) if y_bar is None else y_bar
  problem = Problem(rule, leaves, y_bar, **options)
  with jax.default_matmul_precision("highest"):
    found = with_cause(gather_evidence(problem))
  return report_of(name, problem, found)._replace(seconds=time.monotonic() - start)


class Check(NamedTuple):
  """A check of a rule.

  Attributes:
    run: the check.
    levels: the levels that include it.
    after_failure: whether it adds information about a rule that is known to be wrong.
    stops: whether its first failure ends it.
  """

  run: Callable[[Problem], Iterator[Evidence]]
  levels: tuple[str, ...] = LEVELS
  after_failure: bool = False
  stops: bool = False


# Ordered so that a check follows those whose failure explains its own. A RuleError ends them all.
CHECKS = (
  Check(exact.check_types, after_failure=True),
  Check(numerics.check_limits, after_failure=True),
  Check(numerics.check_as_given, after_failure=True),
  Check(exact.check_bits, after_failure=True),
  Check(numerics.check_numerics),
  Check(numerics.check_eager_in_float64, ("deep",), after_failure=True),
  Check(numerics.check_slope),
  Check(numerics.check_limits_of_points, after_failure=True),
  Check(numerics.check_test_points, stops=True),
  Check(check_branches, ("standard", "deep"), stops=True),
  Check(transformations.check_transformations, ("standard", "deep")),
  Check(transformations.check_second_order, ("standard", "deep")),
)


def gather_evidence(problem: Problem) -> Evidence:
  """Run the checks, omitting those that need a working rule where it doesn't work."""
  found, rule = Evidence(), problem.rule
  try:
    if rule.f_vjp is None and shared_outputs.has_shared_output(rule, problem.own_leaves):
      found += evidence.reported(Finding("note", "vmap", message=shared_outputs.NOTE))
      rule = rule._replace(f=shared_outputs.counting_once(rule.f))
      problem = replace(problem, rule=rule)
    for check in CHECKS:
      if problem.level in check.levels and (check.after_failure or not found.has_failed):
        for part in check.run(problem):
          found += part
          if check.stops and part.has_failed:
            break
    return found
  except RuleError as error:
    return found + evidence.failure(error, evidence.AS_GIVEN)
  except UnknownProgramError as error:
    broken = Finding("no verdict", "program", message=str(error))
  except Exception as error:  # An internal error: the check has no verdict.
    message = f"the verifier broke: {raised(error)}"
    broken = Finding("no verdict", "verification", message=message)
  return found + evidence.reported(broken)


# --- From evidence to a report --------------------------------------------------------------------

# The order in which failures are reported: a failure comes before those that it explains.
RANKS = (
  "raises", "structure", "no gradient", "dtype", "repeated call", "pullback after another call",
  "pullback called twice", "forward", "maths",
)  # fmt: skip
# The aspects that remain unchecked after a failure.
AFTERWARDS = ("numerics", "differences", "branches", "vmap", "scan", "second order")


def with_cause(found: Evidence) -> Evidence:
  """Add the cause of the first wrong leaf, if it is unknown."""
  if not found.mismatches:
    return found
  findings = list(found.findings)
  first = next(i for i, f in enumerate(findings) if (f.kind, f.check) == ("fail", "maths"))
  try:
    findings[first] = findings[first]._replace(cause=cause_of(*found.mismatches[0]))
  except Exception as error:  # A failed search for a cause mustn't hide the failure itself.
    return found + evidence.not_checked(f"the cause: {type(error).__name__}: {error}")
  return replace(found, findings=tuple(findings))


def report_of(name: str, problem: Problem, found: Evidence) -> Report:
  """Return the report of the evidence of all checks."""
  names = problem.signature.float_names
  names = [names[i] for i in found.order or range(len(names))]

  def rank(finding: Finding) -> tuple[int, int, int]:
    check = RANKS.index(finding.check) if finding.check in RANKS else len(RANKS)
    leaf = names.index(finding.leaf) if finding.leaf in names else -1
    return (*VERDICTS, "note").index(finding.kind), check, leaf

  # Of each leaf the first finding is kept, that of the earliest point.
  firsts: dict[Any, Finding] = {}
  for f in found.findings:
    key = (f.kind, f.leaf, f.cause, f.message) if f.check == "maths" else len(firsts)
    firsts.setdefault(key, f)
  findings = without_nonlinear_factor(sorted(firsts.values(), key=rank))
  details, reasons = dict(found.details), list(found.not_checked)
  unverified = {f.leaf for f in findings if f.kind in ("fail", "no verdict")}
  if found.points and not any(f.check == "maths" and f.kind == "fail" for f in findings):
    details["maths"] = f"largest error {found.share:.2g} of its bound"
  left = [check for check in AFTERWARDS if check not in found.checks]
  if found.has_failed and left and problem.level != "quick":
    reasons.append(f"after a failure: {', '.join(left)}")
  checks = checks_of(Counter(found.checks), findings, details)
  verified = tuple(name for name in names if found.points and name not in unverified)
  return Report(
    name, tuple(findings), checks, tuple(dict.fromkeys(reasons)), verified, found.ulp, found.sigma,
    problem.level, problem.seed, problem.allowance, regimes=tuple(dict.fromkeys(found.points)),
  )  # fmt: skip


def checks_of(
  times: Mapping[str, int], findings: Sequence[Finding], details: Mapping[str, str]
) -> tuple[Checked, ...]:
  """Return the checks of a report, by the number of times that each was run."""
  kinds = {check: [f.kind for f in findings if f.check == check] for check in times}
  return tuple(
    Checked(check, n, first_verdict(kinds[check]), details.get(check, ""))
    for check, n in times.items()
  )


def without_nonlinear_factor(findings: list[Finding]) -> list[Finding]:
  """Replace the cause of a rule that isn't linear in y_bar: it has no constant factor."""
  failed = {f.check: f for f in findings if f.kind == "fail"}
  if not findings or "scaled cotangent" not in failed or findings[0].check != "maths":
    return findings
  kind = findings[0].cause.partition(":")[0]
  is_factor = kind == "constant factor" and "zero cotangent" not in failed
  if findings[0].kind == "fail" and (kind in ("", UNKNOWN) or is_factor):
    return [findings[0]._replace(cause=failed["scaled cotangent"].cause), *findings[1:]]
  return findings
