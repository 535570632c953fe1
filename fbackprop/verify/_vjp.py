"""`vjp`, all checks of one rule in the order in which failures explain others; `assert_vjp`."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.checks import check_callable, check_flag, check_number, is_integer
from fbackprop.jaxprs import UnknownProgramError
from fbackprop.verify.checks.branch_search import check_branches
from fbackprop.verify.checks.evidence import (
  AS_GIVEN,
  Evidence,
  failure,
  outcome_of,
  reported,
  with_cause,
)
from fbackprop.verify.checks.exact import check_bits
from fbackprop.verify.checks.maths import (
  call_as_given,
  check_maths,
  check_slope,
  check_test_points,
  limits_of,
  limits_of_points,
)
from fbackprop.verify.checks.own_dtype import check_eager_in_float64, check_numerics
from fbackprop.verify.checks.problem import Baseline, Problem, draw_cotangents
from fbackprop.verify.checks.test_points import Point
from fbackprop.verify.checks.transformations import check_second_order, check_transformations
from fbackprop.verify.report.findings import Finding, RuleError
from fbackprop.verify.report.report import Report
from fbackprop.verify.witnesses.rule import as_numpy, raised, rule_of, signature_of
from fbackprop.verify.witnesses.shared_outputs import NOTE, counting_once, has_shared_output
from fbackprop.verify.witnesses.traces import gather_witnesses

LEVELS = ("quick", "standard", "deep")


def vjp(
  f: Callable[..., Any],
  *args: Any,
  f_vjp: Callable[..., Any] | None = None,
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
  check_choice("level", level, LEVELS)
  check_choice("ties", ties, ("any", "reference"))
  if not is_integer(seed) or seed < 0:
    raise ValueError(f"vjp: seed must be an integer of at least 0, got {seed!r}")
  check_number("vjp", "allowance", allowance, least=0.0)
  check_flag("vjp", "surrogate", surrogate)
  name = getattr(f, "__name__", type(f).__name__)
  return verify_call(name, f, args, f_vjp, level, seed, allowance, ties, surrogate)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
  """Raise ValueError unless `value` is one of `choices`."""
  if value not in choices:
    raise ValueError(f"vjp: {name} must be one of {', '.join(choices)}, got {value!r}")


def assert_vjp(f: Callable[..., Any], *args: Any, **options: Any) -> Report:
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
  name: str,
  f: Callable[..., Any],
  args: tuple[Any, ...],
  f_vjp: Callable[..., Any] | None,
  level: str,
  seed: int,
  allowance: float,
  ties: str,
  surrogate: bool = False,
  y_bar: list[np.ndarray] | None = None,
) -> Report:
  """Verify a rule under a name, at the cotangent `y_bar` or, by default, at a drawn one."""
  start = time.monotonic()
  signature, leaves = signature_of(f, args)
  rule, outputs = rule_of(f, f_vjp, signature, leaves)
  y_bar = draw_cotangents(outputs, seed, 0) if y_bar is None else y_bar
  problem = Problem(
    name, rule, outputs, leaves, as_numpy(leaves), y_bar, level, seed, allowance,
    ties == "reference", surrogate,
  )  # fmt: skip
  with jax.default_matmul_precision("highest"):
    found = with_cause(gather_evidence(problem))
  fields = outcome_of(found, signature.float_names, level)
  seconds = time.monotonic() - start
  return Report(name, level=level, seed=seed, allowance=allowance, seconds=seconds, **fields)


class Check(NamedTuple):
  """A check of a rule that can be called and traced.

  Attributes:
    run: the check.
    levels: the levels that include it.
    after_failure: whether it adds information about a rule that is known to be wrong.
  """

  run: Callable[[Problem, Baseline], Evidence]
  levels: tuple[str, ...] = LEVELS
  after_failure: bool = False


# Ordered so that a check follows those whose failure explains its own.
CHECKS = (
  Check(check_bits, after_failure=True),
  Check(check_numerics),
  Check(check_eager_in_float64, ("deep",), after_failure=True),
  Check(check_slope),
  Check(limits_of_points, after_failure=True),
  Check(check_test_points),
  Check(check_branches, ("standard", "deep")),
  Check(check_transformations, ("standard", "deep")),
  Check(check_second_order, ("standard", "deep")),
)


def gather_evidence(problem: Problem) -> Evidence:
  """Run the checks, omitting those that need a working rule where it doesn't work."""
  found = Evidence()
  try:
    if problem.rule.f_vjp is None and has_shared_output(problem.rule, problem.own_leaves):
      found += reported(Finding("note", "vmap", message=NOTE))
      rule = problem.rule._replace(f=counting_once(problem.rule.f))
      problem = problem._replace(rule=rule)
    found += Evidence(checks=("structure",))
    try:
      bars, called = call_as_given(problem)
      found += called
      witnesses = gather_witnesses(problem.rule, problem.own_leaves, problem.outputs)
    except RuleError as error:
      return found + failure(error, AS_GIVEN)
    found += limits_of(problem, witnesses)
    values, as_given = check_maths(problem, witnesses, Point(AS_GIVEN, problem.leaves))
    found += as_given
    baseline = Baseline(witnesses, bars, values)
    for check in CHECKS:
      if problem.level in check.levels and (check.after_failure or not found.has_failed):
        found += check.run(problem, baseline)
    return found
  except UnknownProgramError as error:
    return found + reported(Finding("no verdict", "program", message=str(error)))
  except Exception as error:  # An internal error: the check has no verdict.
    message = f"the verifier broke: {raised(error)}"
    return found + reported(Finding("no verdict", "verification", message=message))
