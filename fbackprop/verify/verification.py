"""A verification: the checks in the order in which failures explain others, and their report."""

import contextlib
import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.jaxprs import UnknownProgramError
from fbackprop.verify.checks import (
  evidence,
  exact,
  maths,
  rounding,
  shapes,
  structure,
  tangents,
  transformations,
)
from fbackprop.verify.checks.branch_search import check_branches
from fbackprop.verify.checks.evidence import Evidence, Problem, not_checked
from fbackprop.verify.deadline import OutOfTimeError, check_time, time_limit
from fbackprop.verify.explain.causes import UNKNOWN, cause_of
from fbackprop.verify.explain.one_step import ONE_EDIT
from fbackprop.verify.interpret.loops import counted_turns
from fbackprop.verify.report import (
  VERDICTS,
  Checked,
  Finding,
  Report,
  RuleError,
  UnusableError,
  first_verdict,
)
from fbackprop.verify.witnesses import shared_outputs
from fbackprop.verify.witnesses.rule import Function, raised, rule_of, signature_of

LEVELS = ("quick", "standard", "deep")
# From about this many numbers, libraries of linear algebra use threads.
THREADED = 5_000


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
  size = sum(np.size(x) for x in leaves)
  precision, threads = jax.default_matmul_precision("highest"), one_thread_of_blas(size)
  with time_limit(seconds), precision, threads, rare_collections(), counted_turns():
    found = with_cause(gather_evidence(problem, progress or (lambda name: None)))
  return report_of(name, problem, found)._replace(seconds=time.monotonic() - start)


def one_thread_of_blas(size: int) -> contextlib.AbstractContextManager[Any]:
  """Return the context in which NumPy multiplies matrices in one thread, for `size` arguments.

  The matrices are small, and threads that wait for a core that isn't free wait actively: beside
  another process, as under pytest-xdist, they took ten times as long.
  """
  if size < THREADED:
    return contextlib.nullcontext()
  from threadpoolctl import threadpool_limits

  limits: contextlib.AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
  return limits


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
  """Let Python look for cyclic garbage a hundredth as often.

  Traces hold many objects for a short time, and each full collection walks through the million that
  JAX's modules hold: together an eighth of a small rule's time.
  """
  own = gc.get_threshold()
  gc.set_threshold(100 * own[0], *own[1:])
  try:
    yield
  finally:
    gc.set_threshold(*own)


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
  Check(exact.check_types, after_failure=True, is_essential=True),
  Check(tangents.check_tangents, after_failure=True, is_essential=True),
  Check(maths.check_limits, after_failure=True, is_essential=True),
  Check(maths.check_as_given, after_failure=True, is_essential=True),
  Check(exact.check_bits, after_failure=True),
  Check(rounding.check_numerics),
  Check(rounding.check_eager_in_float64, ("deep",), after_failure=True),
  Check(maths.check_slope),
  Check(shapes.check_limits_of_points, after_failure=True),
  Check(structure.check_structure, ("standard", "deep"), stops=True),
  Check(shapes.check_test_points, stops=True),
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
    if error.check == "raises":
      check_usable(problem)
    error = tangents.without_transpose(problem, error)
    return found + evidence.failure(error, evidence.AS_GIVEN)
  except UnknownProgramError as error:
    return found + evidence.reported(Finding("no verdict", "program", message=str(error)))


def check_usable(problem: Problem) -> None:
  """Raise an UnusableError if f raises by itself, which tracing doesn't show of foreign code."""
  try:
    jax.block_until_ready(problem.rule.forward(*problem.own_leaves))
  except Exception as error:
    raise UnusableError(f"f(*args) raises {raised(error)}") from error


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
  """Replace the cause of a rule that isn't linear in y_bar: it has no constant factor.

  An edit that makes it right is where it isn't linear.
  """
  failed = {f.check: f for f in findings if f.kind == "fail"}
  if not findings or "scaled cotangent" not in failed or findings[0].check != "maths":
    return findings
  kind, _, said = findings[0].cause.partition(": ")
  if said.endswith(ONE_EDIT):
    return [findings[0]._replace(cause=f"cotangent: {said}"), *findings[1:]]
  is_factor = kind == "constant factor" and "zero cotangent" not in failed
  if findings[0].kind == "fail" and (kind in ("", UNKNOWN) or is_factor):
    return [findings[0]._replace(cause=failed["scaled cotangent"].cause), *findings[1:]]
  return findings
