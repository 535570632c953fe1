"""Checks without a tolerance: bitwise properties of the untraced rule in its own dtype.

A zero cotangent gives zero; a cotangent times a power of two gives the same bits, scaled; a
repeated call gives the same bits after another call, and while another pullback is pending; every
cotangent has the shape, dtype and weak type of its argument; arguments aren't mutated.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, failure, finding_at, first_index
from fbackprop.verify.checks.problem import Baseline, Problem
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report.findings import Finding, RuleError
from fbackprop.verify.witnesses.comparison import compare
from fbackprop.verify.witnesses.rule import Leaves, Rule, in_dtypes_of, raised
from fbackprop.verify.witnesses.traces import Setting, Witnesses, evaluate

# Powers of two; a negative one detects |y_bar|, which is linear for positive factors.
FACTORS = (2.0**7, 2.0**-7, -0.5)


def call(rule: Rule, leaves: Sequence[Any], y_bar: Sequence[Any]) -> tuple[Leaves, Leaves]:
  """Call the rule untraced.

  Raises:
    RuleError: for any exception of the rule; also where JAX rejects its return value.
  """
  return as_rule(rule.both, leaves, y_bar)


def check_shapes(rule: Rule, leaves: Sequence[Any], y_bar: Sequence[Any]) -> None:
  """Check shapes and structure by abstract evaluation, without computing.

  Raises:
    RuleError: as `call`.
  """
  backward, bars = rule.of_floats(y_bar)
  as_rule(jax.eval_shape, backward, list(leaves), bars)


def compiled(rule: Rule, leaves: Leaves, y_bar: Leaves) -> Leaves:
  """Run the rule under jit, in its own dtype.

  Raises:
    RuleError: as `call`.
  """
  backward, floats = rule.of_floats(y_bar)
  return as_rule(jax.jit(backward), leaves, floats)


def as_rule(function: Callable[..., Any], *arguments: Any) -> Any:
  """Call a function, converting any exception to a RuleError."""
  try:
    return function(*arguments)
  except Exception as error:
    raise as_rule_error(error) from error


def as_rule_error(error: Exception) -> RuleError:
  """Convert an exception to a RuleError, of structure where JAX rejects the return value."""
  if isinstance(error, RuleError):
    return error
  lowered = str(error).lower()
  is_structure = any(word in lowered for word in ("custom vjp", "custom_vjp", "bwd")) and any(
    word in lowered for word in ("structure", "shape", "dtype", "tuple", "cotangent", "produce")
  )
  return RuleError("structure" if is_structure else "raises", raised(error))


def check_types(rule: Rule, leaves: Leaves, bars: Leaves) -> list[Finding]:
  """Check the dtype and weak type of every cotangent."""
  found = []
  for name, place, bar in zip(rule.signature.float_names, rule.signature.floats, bars, strict=True):
    leaf = leaves[place]
    if jnp.dtype(bar.dtype) != leaf.dtype:
      message = f"the cotangent of {name} must have dtype {leaf.dtype}, got {bar.dtype}"
      found.append(Finding("fail", "dtype", leaf=name, message=message, cause="dtype:"))
    elif getattr(bar, "weak_type", False) and not getattr(leaf, "weak_type", False):
      message = f"the cotangent of {name} is weakly typed: its dtype depends on the other operand"
      found.append(Finding("fail", "dtype", leaf=name, message=message, cause="dtype: weak type"))
  return found


def check_bits(problem: Problem, baseline: Baseline) -> Evidence:
  """Check the properties that hold without a tolerance, in the rule's own dtype."""
  rule, leaves, bars = problem.rule, problem.own_leaves, baseline.bars
  y_bar = in_dtypes_of(problem.outputs, problem.y_bar)
  other_bar = in_dtypes_of(problem.outputs, problem.draw(2))
  other = rule.signature.in_own_dtypes(problem.redrawn())
  checks: list[tuple[str, Callable[[], Sequence[Finding] | None]]] = [
    ("zero cotangent", lambda: check_zero(rule, leaves, y_bar, bars)),
    ("scaled cotangent", lambda: check_scaling(problem, baseline, y_bar)),
    ("repeated call", lambda: check_repeats(rule, (leaves, y_bar), (other, other_bar), bars)),
  ]
  if problem.level != "quick":
    checks += [
      ("donated arguments", lambda: check_donation(rule, leaves, y_bar)),
      ("arguments unchanged", lambda: check_unchanged(rule, leaves, y_bar)),
    ]
  found = Evidence()
  for name, check in checks:
    try:
      findings = check()
    except RuleError as error:
      findings = failure(error, name).findings
    if findings is not None:
      found += Evidence(tuple(findings), (name,))
  return found


def check_zero(rule: Rule, leaves: Leaves, y_bar: Leaves, bars: Leaves) -> list[Finding]:
  """Check that a zero cotangent gives exactly zero.

  Where the derivative itself overflows the dtype, 0 · ∞ is NaN without a fault of the rule. The
  entries of `bars`, the result for `y_bar`, aren't finite there, and other checks judge them.
  """
  zero = [b if b.dtype == jax.dtypes.float0 else jnp.zeros_like(b) for b in y_bar]
  y, got = call(rule, leaves, zero)
  if not all(np.isfinite(np.asarray(v, np.float64)).all() for v in y if is_float(v.dtype)):
    return []
  for name, bar, usual in zip(rule.signature.float_names, got, bars, strict=True):
    numbers = np.asarray(bar, np.float64)
    wrong = (numbers != 0) & ~(np.isnan(numbers) & ~np.isfinite(np.asarray(usual, np.float64)))
    if wrong.any():
      message = "a cotangent of zero must give exactly zero"
      return [exact_finding("zero cotangent", name, numbers, 0.0, wrong, "", message)]
  return []


def check_scaling(problem: Problem, baseline: Baseline, y_bar: Leaves) -> list[Finding]:
  """Check that cotangents times ±2^k give the same bits, scaled.

  A bitwise difference counts only if float64 differs too: otherwise an intermediate value left the
  normal range.
  """
  confirmed, notes = [], []
  for factor in FACTORS:
    finding = scaled_bits(problem.rule, problem.own_leaves, y_bar, baseline.bars, factor)
    if finding is None:
      continue
    if is_nonlinear(problem, baseline.witnesses, factor):
      confirmed.append(finding)
    else:
      message = "bits differ, float64 agrees"
      notes.append(finding._replace(kind="note", cause="", message=message))
  return notes + confirmed[:1]


def scaled_bits(
  rule: Rule, leaves: Leaves, y_bar: Leaves, bars: Leaves, factor: float
) -> Finding | None:
  """Return the first leaf whose bits don't scale with the cotangent, or None."""
  scaled = [b if b.dtype == jax.dtypes.float0 else b * jnp.asarray(factor, b.dtype) for b in y_bar]
  got = call(rule, leaves, scaled)[1]
  for name, g, w in zip(rule.signature.float_names, got, bars, strict=True):
    a, b = np.asarray(g, np.float64), np.asarray(w, np.float64) * factor
    # An intermediate value below the normal range may differ by the flushed amount.
    smallest = float(jnp.finfo(g.dtype).tiny) * 2.0**40
    in_range = np.isfinite(a) & np.isfinite(b) & ((np.abs(a) > smallest) | (np.abs(b) > smallest))
    wrong = (a != b) & in_range
    if wrong.any():
      finding = exact_finding(
        "scaled cotangent", name, a, b, wrong,
        "cotangent: the rule isn't linear in it", "a power of two must scale every bit alike",
      )  # fmt: skip
      return finding._replace(regime=f"cotangent times {factor:g}")
  return None


def is_nonlinear(problem: Problem, witnesses: Witnesses, factor: float) -> bool:
  """Return whether the rule isn't linear in the cotangent in float64 either."""
  plain, moved = (
    evaluate(
      Setting(witnesses, problem.leaves, [b * k for b in problem.y_bar]), problem.noise()
    ).bars
    for k in (1.0, factor)
  )
  found = compare(moved, [b * factor for b in plain], problem.allowance, True)
  return any(d.is_wrong.any() for d in found)


def check_repeats(
  rule: Rule, first: tuple[Leaves, Leaves], other: tuple[Leaves, Leaves], bars: Leaves
) -> list[Finding]:
  """Repeat a call after another one, and keep a pullback pending while another call runs."""
  call(rule, *other)
  found = differing_bits(rule, "repeated call", call(rule, *first)[1], bars)
  if found:
    return found
  leaves, y_bar = first

  def call_twice() -> tuple[Leaves, Leaves]:
    y, pull = rule.pullback(leaves)
    call(rule, *other)
    tree = jax.tree.unflatten(jax.tree.structure(y), list(y_bar))
    return pull(tree), pull(tree)

  opened, twice = as_rule(call_twice)
  found = differing_bits(rule, "pullback after another call", opened, bars)
  return found or differing_bits(rule, "pullback called twice", twice, bars)


def check_donation(rule: Rule, leaves: Leaves, y_bar: Leaves) -> list[Finding]:
  """Check that the compiled rule gives the same bits when its arguments' buffers are donated."""
  keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
  backward, bars = rule.of_floats(y_bar)

  def run(**options: Any) -> Leaves:
    own = [x if is_key else jnp.array(x, copy=True) for x, is_key in zip(leaves, keys, strict=True)]
    return as_rule(jax.jit(backward, **options), own, [jnp.array(b, copy=True) for b in bars])

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # JAX warns about each donated buffer that fits no output.
    kept, given = run(), run(donate_argnums=(1,) if any(keys) else (0, 1))
  cause = "state: it differs when its buffers are donated"
  return [f._replace(cause=cause) for f in differing_bits(rule, "donated arguments", given, kept)]


def check_unchanged(rule: Rule, leaves: Leaves, y_bar: Leaves) -> list[Finding] | None:
  """Check that a call doesn't mutate NumPy arguments, strided ones included.

  Returns:
    None if the rule doesn't accept them; arrays of JAX are immutable.
  """
  views = [strided(x) if is_float(x.dtype) and x.size else x for x in leaves]
  before = [np.array(v) if isinstance(v, np.ndarray) else v for v in views]
  try:
    rule.both(views, y_bar)
  except Exception:  # Any exception means that it doesn't accept them.
    return None
  for name, view, old in zip(rule.signature.names, views, before, strict=True):
    if isinstance(view, np.ndarray) and not np.array_equal(view, old, equal_nan=True):
      message = f"the call has changed its argument {name}"
      return [Finding("fail", "arguments unchanged", leaf=name, message=message, cause="state:")]
  return []


def strided(x: Any) -> np.ndarray:
  """Return the array as every second entry of a larger one."""
  array = np.asarray(x)
  wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]) if array.ndim else (2,), array.dtype)
  view = wide[..., ::2] if array.ndim else wide[:1].reshape(())
  view[...] = array
  return view


def differing_bits(rule: Rule, check: str, got: Leaves, want: Leaves) -> list[Finding]:
  """Return a finding for the first leaf that differs in any bit; NaN equals NaN."""
  for name, g, w in zip(rule.signature.float_names, got, want, strict=True):
    a, b = np.asarray(g, np.float64), np.asarray(w, np.float64)
    wrong = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if wrong.any():
      cause = "state: the result depends on other calls"
      return [exact_finding(check, name, a, b, wrong, cause, "the same call gave other bits")]
  return []


def exact_finding(
  check: str, name: str, got: Any, want: Any, wrong: np.ndarray, cause: str, message: str
) -> Finding:
  """Return the finding of the first wrong entry, without a tolerance."""
  index = first_index(wrong)
  return finding_at("fail", check, AS_GIVEN, name, index, got, want, 0.0, wrong, cause, message)
