"""`vjp`: all checks of one rule, in the order in which they rule each other out."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fbackprop.checks import check_callable, check_flag, check_number, is_integer
from fbackprop.jaxprs import UnknownProgramError
from fbackprop.verify.checks import exact
from fbackprop.verify.checks.one_point import check_call, check_maths, check_slope, note_limits
from fbackprop.verify.checks.other_points import check_branches, check_regimes
from fbackprop.verify.checks.own_dtype import check_eager_in_float64, check_exact, check_numerics
from fbackprop.verify.checks.test_points import (
  Regime,
)
from fbackprop.verify.checks.transforms import check_modes, check_second_order
from fbackprop.verify.checks.verification import Verification
from fbackprop.verify.report.findings import Finding, RuleError
from fbackprop.verify.report.report import Report
from fbackprop.verify.witnesses.arguments import signature_of
from fbackprop.verify.witnesses.rules import first_line, rule_of
from fbackprop.verify.witnesses.shared_outputs import NOTE, counting_once, has_shared_output
from fbackprop.verify.witnesses.traces import (
  gather_witnesses,
)

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
  """Verifies a hand-written VJP: is the mathematics right, and does it round as it must?

  Two verdicts. *Maths*: the rule is traced again in float64 and compared, entry by entry, with
  autodiff of the function without its rule, within the rounding error of both, measured by
  stochastic arithmetic. *Numerics*: the rule in its own dtype against that truth, in units in the
  last place and in standard deviations of the propagated rounding error. Where the two differ,
  one-sided differences of the function decide who is right. This is done in a battery of regimes,
  on both sides of every comparison in the program, under jit, vmap, scan and remat, in second
  order; and what must hold to the last bit is checked so.

  Args:
    f: the function. It carries a `jax.custom_vjp` somewhere, whose primal is the reference; or it
      is the reference of `f_vjp`.
    *args: where it is called: pytrees of arrays. Floats are differentiated by.
    f_vjp: the rule, `f_vjp(*args) -> (y, pullback)`, `pullback(y_bar) -> (arg_bar, ...)`, as
      `jax.vjp(f, *args)` is; None if f carries it.
    level: "quick" (a second), "standard" (ten seconds), "deep" (minutes).
    seed: of all that is drawn.
    allowance: multiplies every bound.
    ties: "any": at a kink each slope between the left and the right one is right; "reference": it
      must be the one that autodiff of f takes, as `jax.nn.relu` declares 0 at 0.
    surrogate: whether f's autodiff is meant to differ from its slope: a straight-through rule, a
      `stop_gradient` that changes values.

  Returns:
    The `Report`; `report.ok` is true for a pass only.

  Raises:
    UnusableError: f can't be called with `args`, or no floats go in or come out.
    TypeError, ValueError: another argument is wrong.

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
  return verify_call(
    getattr(f, "__name__", type(f).__name__),
    f,
    args,
    f_vjp,
    level,
    seed,
    allowance,
    ties,
    surrogate,
  )


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
  """The same with a name, and at a cotangent that isn't drawn but given."""
  start = time.monotonic()
  signature, leaves = signature_of(f, args)
  rule, outputs = rule_of(f, f_vjp, signature, leaves)
  verification = Verification(
    name, rule, leaves, outputs, level, seed, allowance, ties == "reference", surrogate
  )
  if y_bar is not None:
    verification.y_bar = y_bar
  try:
    with jax.default_matmul_precision("highest"):
      run(verification)
  except UnknownProgramError as error:
    verification.add(Finding("no verdict", "program", message=str(error)))
  except Exception as error:  # Of ours: what couldn't be looked at is no pass, and no traceback.
    message = f"the verifier broke: {type(error).__name__}: {first_line(error)}"
    verification.add(Finding("no verdict", "verification", message=message))
  return verification.report(time.monotonic() - start)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
  """Refuses what isn't one of some words."""
  if value not in choices:
    raise ValueError(f"vjp: {name} must be one of {', '.join(choices)}, got {value!r}")


def run(v: Verification) -> None:
  """All checks; those that need a working rule are left out where it doesn't work."""
  if v.rule.f_vjp is None and has_shared_output(v.rule, v.own_leaves):
    v.add(Finding("note", "vmap", message=NOTE))
    v.rule = v.rule._replace(f=counting_once(v.rule.f))
  try:
    bars = check_call(v)
    witnesses = gather_witnesses(v.rule, v.own_leaves, v.outputs)
  except RuleError as error:
    v.add(exact.of_error(error, "as given"))
    return
  v.order = witnesses.first_to_last
  note_limits(v, witnesses)
  values = check_maths(v, witnesses, Regime("as given", v.leaves), v.y_bar)
  check_exact(v, witnesses, bars)
  if values is not None:
    check_numerics(v, witnesses, values, bars)
    if v.level == "deep":
      check_eager_in_float64(v, witnesses, values)
    check_slope(v, witnesses, values)
  check_regimes(v, witnesses)
  if v.level != "quick":
    check_branches(v, witnesses)
    check_modes(v, witnesses)
    check_second_order(v, witnesses)
