"""`vjp`, all checks of one rule in the order in which failures explain others; `assert_vjp`."""

import functools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import check_callable, check_flag, check_number, is_integer
from fbackprop.jaxprs import UnknownProgramError
from fbackprop.verify.arguments import hold_static, is_number
from fbackprop.verify.checks import (
  evidence,
  exact,
  numerics,
  structure,
  tangents,
  transformations,
)
from fbackprop.verify.checks.branch_search import check_branches
from fbackprop.verify.checks.evidence import Evidence, Problem, not_checked
from fbackprop.verify.deadline import OutOfTimeError, check_time, time_limit
from fbackprop.verify.explain.causes import UNKNOWN, cause_of
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report import VERDICTS, Checked, Finding, Report, RuleError, first_verdict
from fbackprop.verify.witnesses import shared_outputs
from fbackprop.verify.witnesses.rule import Function, raised, replaced, rule_of, signature_of

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
  slope: Function | None = None,
  linear: bool = True,
  static: Sequence[int | str] = (),
  kwargs: Mapping[str, Any] | None = None,
  seconds: float | None = None,
  progress: Callable[[str], object] | None = None,
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
    f: a function with custom rules at any depth (`jax.custom_vjp`, `custom_jvp`,
      `custom_gradient`, ...); the same function without them is the reference. Or the reference of
      `f_vjp`.
    *args: the arguments of `f`: pytrees. Float arrays are differentiated; leaves that are neither
      arrays nor numbers, and the arguments in `nondiff_argnums`, are held.
    f_vjp: the rule, `f_vjp(*args) -> (y, pullback)`, `pullback(y_bar) -> (arg_bar, ...)`, as
      `jax.vjp(f, *args)` is; None if f carries it.
    level: "quick" (a second), "standard" (ten seconds), "deep" (minutes).
    seed: the seed of all random draws.
    allowance: a factor of every bound.
    ties: "any" accepts every slope between the left and the right derivative at a kink; "reference"
      accepts only that of autodiff of f, as `jax.nn.relu` declares 0 at 0.
    surrogate: whether f's autodiff is meant to differ from its slope: a `stop_gradient` that
      changes values.
    slope: the function, of the same arguments, whose derivative the rule is meant to be: the
      identity for a straight-through rule.
    linear: whether the rule is meant to be linear in the cotangent. If not, as where it clips the
      cotangent, it is compared at cotangents of about 1e-6, where it should be.
    static: positions or names of more arguments to hold.
    kwargs: arguments by keyword; their float arrays are differentiated too.
    seconds: a time limit. The report then holds what is known by then, and lists the checks that
      weren't finished; it is no pass unless those at the arguments as given were. What JAX compiles
      and the rule itself are waited for.
    progress: called with the name of each check that begins, and of each test point that is done.

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
  return verify_options(
    "vjp", f, args, f_vjp, None, level=level, seed=seed, allowance=allowance, ties=ties,
    surrogate=surrogate, slope=slope, linear=linear, static=static, kwargs=kwargs, seconds=seconds,
    progress=progress,
  )  # fmt: skip


def jvp(
  f: Function,
  *args: Any,
  f_jvp: Function | None = None,
  **options: Any,
) -> Report:
  """Verify the mathematics and the rounding of a hand-written JVP.

  The tangents of each argument are compared with those of the function without its rules, and must
  be linear; then the transposed rule is verified as by `vjp`, with all its checks.

  Args:
    f: a function with custom rules at any depth, or the reference of `f_jvp`.
    *args: the arguments of `f`, as for `vjp`.
    f_jvp: the rule, `f_jvp(primals, tangents) -> (y, y_dot)` with tuples of arguments, as
      `jax.jvp(f, primals, tangents)` is; the tangents of integers are float0. None if f carries it.
    **options: those of `vjp`, but `f_vjp`.

  Returns:
    The `Report`; `report.ok` is true for a pass only.

  Raises:
    UnusableError: f can't be called with `args`, or no floats go in or come out.
    TypeError, ValueError: another argument is invalid.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_jvp
    ... def square(x):
    ...   return x**2
    >>> @square.defjvp
    ... def square_jvp(primals, tangents):
    ...   return square(*primals), primals[0] * tangents[0]
    >>> report = jvp(square, jnp.arange(3.0), level="quick")
    >>> report.verdict, report.findings[0].leaf
    ('fail', 'x')
  """
  if "f_vjp" in options:
    raise TypeError("jvp: f_vjp is an option of vjp; give the rule as f_jvp")
  f_vjp = None
  if f_jvp is not None:
    check_callable("jvp", "f_jvp", f_jvp)
    f_vjp = functools.partial(transposed, f_jvp)
  return verify_options("jvp", f, args, f_vjp, f_jvp or functools.partial(jax.jvp, f), **options)


def assert_jvp(f: Function, *args: Any, **options: Any) -> Report:
  """Raise AssertionError unless a function's hand-written JVP passes `jvp`.

  Args:
    f: a function that contains a `jax.custom_jvp`, or the reference of the rule `f_jvp=...`.
    *args: the arguments of `f`.
    **options: those of `jvp`.

  Returns:
    The passing report.

  Raises:
    AssertionError: the verdict isn't "pass"; no verdict is no pass. The message is the report.
    UnusableError: the function or its arguments can't be used.
  """
  __tracebackhide__ = True
  return asserted(jvp(f, *args, **options))


def transposed(f_jvp: Function, *primals: Any) -> Any:
  """Return `(y, pullback)`, the pullback being the transpose of a JVP rule's tangents."""
  structure: Any
  leaves, structure = jax.tree.flatten(primals)
  numbers = [is_number(x) for x in leaves]
  floats = [i for i, x in enumerate(leaves) if numbers[i] and is_float(jnp.result_type(x))]
  zeros: list[Any] = [
    jnp.zeros_like(x) if i in floats
    else np.zeros(np.shape(x), jax.dtypes.float0) if numbers[i]
    else None
    for i, x in enumerate(leaves)
  ]  # fmt: skip

  def push(*tangents: Any) -> Any:
    return f_jvp(primals, structure.unflatten(replaced(zeros, floats, tangents)))[1]

  y, _ = f_jvp(primals, structure.unflatten(zeros))
  transpose = jax.linear_transpose(push, *(zeros[i] for i in floats))

  def pullback(y_bar: Any) -> Any:
    bars = replaced([None] * len(leaves), floats, transpose(y_bar))
    return structure.unflatten(bars)

  return y, pullback


def verify_options(
  function: str,
  f: Function,
  args: tuple[Any, ...],
  f_vjp: Function | None,
  f_jvp: Function | None,
  *,
  level: str = "standard",
  seed: int = 0,
  allowance: float = 1.0,
  ties: str = "any",
  surrogate: bool = False,
  slope: Function | None = None,
  linear: bool = True,
  static: Sequence[int | str] = (),
  kwargs: Mapping[str, Any] | None = None,
  seconds: float | None = None,
  progress: Callable[[str], object] | None = None,
) -> Report:
  """Validate the options of `vjp` or `jvp`, and verify."""
  check_callable(function, "f", f)
  if f_vjp is not None:
    check_callable(function, "f_vjp", f_vjp)
  for name, value, choices in (("level", level, LEVELS), ("ties", ties, ("any", "reference"))):
    if value not in choices:
      raise ValueError(f"{function}: {name} must be one of {', '.join(choices)}, got {value!r}")
  if not is_integer(seed) or seed < 0:
    raise ValueError(f"{function}: seed must be an integer of at least 0, got {seed!r}")
  check_number(function, "allowance", allowance, 0.0)
  check_flag(function, "surrogate", surrogate)
  check_flag(function, "linear", linear)
  for option, given in (("slope", slope), ("progress", progress)):
    if given is not None:
      check_callable(function, option, given)
  if seconds is not None:
    check_number(function, "seconds", seconds, 0.0)
  call = hold_static(f, f_vjp, args, kwargs or {}, static)
  name = getattr(f, "__name__", type(f).__name__)
  return verify_call(
    name, call.f, call.args, call.f_vjp, slope=slope and call.wrap(slope), level=level, seed=seed,
    allowance=allowance, ties=ties, surrogate=surrogate, linear=linear,
    f_jvp=f_jvp and call.push(f_jvp), held=call.held, seconds=seconds, progress=progress,
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
  return asserted(vjp(f, *args, **options))


def asserted(report: Report) -> Report:
  """Raise AssertionError with the report's table unless it passes."""
  __tracebackhide__ = True
  if not report.ok:
    raise AssertionError(report.table())
  return report


def verify_call(
  name: str,
  f: Function,
  args: Any,
  f_vjp: Function | None,
  y_bar: Any = None,
  slope: Function | None = None,
  seconds: float | None = None,
  progress: Callable[[str], object] | None = None,
  **options: Any,
) -> Report:
  """Verify a rule under a name, at the cotangent `y_bar` or, by default, at a drawn one."""
  start = time.monotonic()
  signature, leaves = signature_of(f, args)
  rule = rule_of(f, f_vjp, signature, leaves, slope)
  if y_bar is None:
    y_bar = rule.draw(options["seed"], 0, options.get("linear", True))
  problem = Problem(rule, leaves, y_bar, **options)
  with time_limit(seconds), jax.default_matmul_precision("highest"):
    found = with_cause(gather_evidence(problem, progress or (lambda name: None)))
  return report_of(name, problem, found)._replace(seconds=time.monotonic() - start)


def check_waived(problem: Problem) -> Iterator[Evidence]:
  """List what the caller's declarations leave unchecked."""
  for name in problem.held:
    yield evidence.not_checked(f"the derivative by {name}: f takes no traced value there")
  if problem.rule.slope is not None:
    yield evidence.not_checked("the slope of f itself: that of another function is declared")
  if not problem.linear:
    what = "cotangents of ordinary size: the rule isn't linear in them, as declared"
    yield evidence.not_checked(what)


class Check(NamedTuple):
  """A check of a rule.

  Attributes:
    run: the check.
    levels: the levels that include it.
    after_failure: whether it adds information about a rule that is known to be wrong.
    stops: whether its first failure ends it.
    is_essential: whether there is no verdict without it.
  """

  run: Callable[[Problem], Iterator[Evidence]]
  levels: tuple[str, ...] = LEVELS
  after_failure: bool = False
  stops: bool = False
  is_essential: bool = False

  @property
  def name(self) -> str:
    """The name, in words."""
    return getattr(self.run, "__name__", "check").removeprefix("check_").replace("_", " ")


# Ordered so that a check follows those whose failure explains its own. A RuleError ends them all.
CHECKS = (
  Check(check_waived, after_failure=True),
  Check(tangents.check_tangents, after_failure=True, is_essential=True),
  Check(exact.check_types, after_failure=True, is_essential=True),
  Check(numerics.check_limits, after_failure=True, is_essential=True),
  Check(numerics.check_as_given, after_failure=True, is_essential=True),
  Check(exact.check_bits, after_failure=True),
  Check(numerics.check_numerics),
  Check(numerics.check_eager_in_float64, ("deep",), after_failure=True),
  Check(numerics.check_slope),
  Check(numerics.check_limits_of_points, after_failure=True),
  Check(structure.check_structure, ("standard", "deep"), stops=True),
  Check(numerics.check_test_points, stops=True),
  Check(check_branches, ("standard", "deep"), stops=True),
  Check(transformations.check_transformations, ("standard", "deep")),
  Check(transformations.check_second_order, ("standard", "deep")),
)


def gather_evidence(problem: Problem, progress: Callable[[str], object]) -> Evidence:
  """Run the checks, omitting those that need a working rule where it doesn't work."""
  found, rule = Evidence(), problem.rule
  waiting = deque(check for check in CHECKS if problem.level in check.levels)
  try:
    if rule.f_vjp is None and shared_outputs.has_shared_output(rule, problem.own_leaves):
      found += evidence.reported(Finding("note", "vmap", message=shared_outputs.NOTE))
      rule = rule._replace(f=shared_outputs.counting_once(rule.f))
      problem = replace(problem, rule=rule)
    while waiting:
      check = waiting[0]
      if check.after_failure or not found.has_failed:
        progress(check.name)
        for part in guarded(check, problem):
          found += part
          for point in part.points:
            progress(f"{check.name}: {point}")
          if check.stops and part.has_failed:
            break
          check_time()
      waiting.popleft()
    return found
  except OutOfTimeError:
    left = not_checked(f"out of time: the rest of {', '.join(check.name for check in waiting)}")
    if not any(check.is_essential for check in waiting):
      return found + left
    message = "the time limit was reached before the rule was compared with its truth"
    return found + left + evidence.reported(Finding("no verdict", "maths", message=message))
  except RuleError as error:
    return found + evidence.failure(tangents.without_transpose(problem, error), evidence.AS_GIVEN)
  except UnknownProgramError as error:
    return found + evidence.reported(Finding("no verdict", "program", message=str(error)))


def guarded(check: Check, problem: Problem) -> Iterator[Evidence]:
  """Yield the evidence of a check; an internal error leaves out the rest of it, by its name."""
  try:
    yield from check.run(problem)
  except (RuleError, UnknownProgramError, OutOfTimeError):
    raise
  except Exception as error:
    message = f"the verifier broke: {raised(error)}"
    if check.is_essential:
      yield evidence.reported(Finding("no verdict", check.name, message=message))
    else:
      yield not_checked(f"the rest of {check.name}: {message}")


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
    leaves=tuple(names) if found.order else (),
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
