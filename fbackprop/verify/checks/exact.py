"""Checks without a tolerance: bitwise properties of the compiled rule in its own dtype.

A zero cotangent gives zero; a cotangent times a power of two gives the same bits, scaled; a
repeated call gives the same bits after another call, and while another pullback is pending; every
cotangent has the shape, dtype and weak type of its argument; arguments aren't mutated.

Python code runs while it is traced. So the calls that must not disturb each other are traced
together, and the traced program of the last one must give what the rule gives alone.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import jaxprs
from fbackprop.errors import describe
from fbackprop.verify.checks.evidence import (
  AS_GIVEN,
  STATE,
  Evidence,
  Problem,
  failure,
  ran,
  reported,
)
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report import Finding, RuleError
from fbackprop.verify.witnesses.rule import Leaves, Rule, as_rule, in_dtypes_of, with_float0
from fbackprop.verify.witnesses.verdicts import Difference, compare

REPEATS = ("repeated call", "pullback after another call", "pullback called twice")
SAME_CALL = "the same call gave other bits"
# Powers of two; a negative one detects |y_bar|, which is linear for positive factors.
FACTORS = (2.0**7, 2.0**-7, -0.5)


def check_types(problem: Problem) -> Iterator[Evidence]:
  """Call the rule at the arguments as given; check shapes, dtypes and weak types.

  Raises:
    RuleError: the rule raises, or its return value has another structure.
  """
  yield ran("structure")
  y, bars = problem.results
  yield ran("dtype")
  for i, (got, want) in enumerate(zip(y, problem.rule.outputs, strict=True)):
    if got.shape != want.shape or jnp.dtype(got.dtype) != want.dtype:
      message = f"the rule's output {i} is {describe(got)}, f's is {describe(want)}"
      cause = "forward: another output"
      yield reported(Finding("fail", "structure", message=message, cause=cause))
  signature = problem.signature
  for name, place, bar in zip(signature.float_names, signature.floats, bars, strict=True):
    leaf, message, cause = problem.own_leaves[place], "", "dtype:"
    if jnp.dtype(bar.dtype) != leaf.dtype:
      message = f"must have dtype {leaf.dtype}, got {bar.dtype}"
    elif getattr(bar, "weak_type", False) and not getattr(leaf, "weak_type", False):
      message, cause = "is weakly typed: its dtype depends on the other operand", "dtype: weak type"
    if message:
      message = f"the cotangent of {name} {message}"
      yield reported(Finding("fail", "dtype", leaf=name, message=message, cause=cause))


def check_bits(problem: Problem) -> Iterator[Evidence]:
  """Check the properties that hold without a tolerance, in the rule's own dtype."""
  for name, check in list(BITWISE.items())[: 3 if problem.level == "quick" else None]:
    if name == "scaled cotangent" and not problem.linear:
      continue
    try:
      findings = check(problem)
    except RuleError as error:
      findings = list(failure(error, name).findings)
    if findings is not None:
      yield Evidence(tuple(findings), (name,))


def check_zero(problem: Problem) -> list[Finding]:
  """Check that a zero cotangent gives exactly zero.

  Where the derivative itself overflows the dtype, 0 · ∞ is NaN without a fault of the rule. The
  entries of the result for `y_bar` aren't finite there, and other checks judge them.
  """
  zero = cotangents(problem, 0.0)
  y, bars = problem.compiled(problem.own_leaves, zero)
  if not all(np.isfinite(v).all() for v in widened([v for v in y if is_float(v.dtype)])):
    return []
  pairs = zip(widened(bars), widened(problem.results[1]), strict=True)
  got = [np.where(np.isnan(a) & ~np.isfinite(usual), 0.0, a) for a, usual in pairs]
  message = "a cotangent of zero must give exactly zero"
  want = list(map(np.zeros_like, got))
  return differing_bits(problem, "zero cotangent", got, want, "", message)


def check_scaling(problem: Problem) -> list[Finding]:
  """Check that cotangents times ±2^k give the same bits, scaled.

  A bitwise difference counts only if float64 differs too: otherwise an intermediate value left the
  normal range.
  """
  confirmed, notes = [], []
  for factor in FACTORS:
    bars = problem.compiled(problem.own_leaves, cotangents(problem, factor))[1]
    got, want = widened(bars), [b * factor for b in widened(problem.results[1])]
    for i, (a, b, bar) in enumerate(zip(got, want, bars, strict=True)):
      # An intermediate value below the normal range may differ by the flushed amount.
      smallest = float(jnp.finfo(bar.dtype).tiny) * 2.0**40
      in_range = np.isfinite(a) & np.isfinite(b) & ((np.abs(a) > smallest) | (np.abs(b) > smallest))
      got[i] = np.where(in_range, a, b)
    message = "a power of two must scale every bit alike"
    cause = "cotangent: the rule isn't linear in it"
    for finding in differing_bits(problem, "scaled cotangent", got, want, cause, message):
      finding = finding._replace(regime=f"cotangent times {factor:g}")
      moved = problem.given._replace(y_bar=[b * factor for b in problem.y_bar])
      wide, plain = problem.unrounded(moved), problem.unrounded(problem.given)
      tolerance = problem.witnesses.tolerance
      found = compare(wide, [b * factor for b in plain], problem.allowance, True, tolerance)
      if any(d.is_wrong.any() for d in found):
        confirmed.append(finding)
      else:
        message = "bits differ, float64 agrees"
        message += f" to the tolerance of a loop, {tolerance:g}" if tolerance else ""
        notes.append(finding._replace(kind="note", cause="", message=message))
  return notes + confirmed[:1]


def check_repeats(problem: Problem) -> list[Finding]:
  """Repeat a call after another one, and keep a pullback pending while another call runs."""
  leaves, y_bar = problem.test_points[0].leaves, problem.rule.draw(problem.seed, 2)
  other = problem.signature.in_own_dtypes(leaves), in_dtypes_of(problem.rule.outputs, y_bar)
  try:
    problem.compiled(*other)
  except RuleError:
    if not problem.rule.is_outside(other[0]):
      raise
    leaves, other = problem.leaves, (problem.own_leaves, other[1])  # f takes no others.
    problem.compiled(*other)
  again = problem.compiled(problem.own_leaves, problem.own_y_bar)[1]
  if found := differing_bits(problem, REPEATS[0], again, problem.results[1], STATE):
    return found
  if problem.rule.by_callback:
    calls = as_rule(interleaved, problem.rule, problem.own_leaves, problem.own_y_bar, *other)
    wants = problem.results[1]
  else:
    calls, wants = traced_calls(problem, leaves, y_bar)
  differing = (
    differing_bits(problem, name, got, wants, STATE)
    for name, got in zip(REPEATS, calls, strict=True)
  )
  return next(filter(None, differing), [])


def interleaved(
  rule: Rule, leaves: Leaves, y_bar: Leaves, other: Leaves, other_bar: Leaves
) -> tuple[Leaves, Leaves, Leaves]:
  """Return the cotangents of a repeated call, and of a pullback called twice after another call."""
  y, pull = rule.pullback(leaves)
  rule.both(other, other_bar)
  tree = jax.tree.unflatten(jax.tree.structure(y), y_bar)
  opened, twice = pull(tree), pull(tree)
  return rule.both(leaves, y_bar)[1], opened, twice


def traced_calls(problem: Problem, leaves: Leaves, y_bar: Leaves) -> tuple[list[Leaves], Leaves]:
  """Trace calls that follow each other; return the cotangents of each, and those of the rule.

  Args:
    problem: the rule and its call.
    leaves, y_bar: the other call's arguments and cotangents of the float outputs, in float64.
  """
  rule, witnesses, evaluator = problem.rule, problem.witnesses, problem.witnesses.evaluator(None)
  count, floats = len(problem.leaves), len(problem.signature.floats)
  own = problem.given.inputs

  def calls(*inputs: Any) -> Leaves:
    first, second = list(inputs[: len(own)]), list(inputs[len(own) :])
    bars, others = (with_float0(rule.outputs, x[count:]) for x in (first, second))
    results = interleaved(rule, first[:count], bars, second[:count], others)
    return list(itertools.chain(*results))

  program = as_rule(witnesses.traced, calls, 2 * witnesses.rule.in_avals)
  found = evaluator.run(program, [*own, *leaves, *y_bar])
  alone = evaluator.run(witnesses.rule, own)[len(witnesses.forward.out_avals) :]
  return [found[k : k + floats] for k in range(0, 3 * floats, floats)], alone


def check_donation(problem: Problem) -> list[Finding] | None:
  """Check that the compiled rule gives the same bits when its arguments' buffers are donated.

  Returns:
    None if all operations are XLA's own, which never write to a buffer that is read later.
  """
  if problem.rule.by_callback or not jaxprs.holds_foreign_code(problem.witnesses.rule):
    return None
  has_keys = any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in problem.own_leaves)
  donate = (1,) if has_keys else (0, 1)
  donating = problem.rule.compiled(partial(jax.jit, donate_argnums=donate))
  copies = jax.tree.map(jnp.copy, (problem.own_leaves, problem.own_y_bar))
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # JAX warns about each donated buffer that fits no output.
    given = donating(*copies)[1]
  cause = "state: it differs when its buffers are donated"
  return differing_bits(problem, "donated arguments", given, problem.results[1], cause)


def check_unchanged(problem: Problem) -> list[Finding] | None:
  """Check that a call doesn't mutate NumPy arguments, strided ones included.

  Within a trace operations of JAX are only noted, while those of NumPy are carried out.

  Returns:
    None if the rule doesn't accept them; arrays of JAX are immutable.
  """
  leaves = problem.own_leaves  # The views are every second entry of a larger array.
  views = [np.stack([x, x], -1)[..., 0] if is_float(x.dtype) and x.size else x for x in leaves]
  before = [np.array(v) if isinstance(v, np.ndarray) else v for v in views]
  run = (lambda function: function()) if problem.rule.by_callback else jax.eval_shape
  try:
    run(lambda: problem.rule.both(views, problem.own_y_bar)[1])
  except Exception:  # Any exception means that it doesn't accept them.
    return None
  for name, view, old in zip(problem.signature.names, views, before, strict=True):
    if isinstance(view, np.ndarray) and not np.array_equal(view, old, equal_nan=True):
      message = f"the call has changed its argument {name}"
      return [Finding("fail", "arguments unchanged", leaf=name, message=message, cause="state:")]
  return []


# The first three at every level.
BITWISE: dict[str, Callable[[Problem], list[Finding] | None]] = {
  "zero cotangent": check_zero,
  "scaled cotangent": check_scaling,
  "repeated call": check_repeats,
  "donated arguments": check_donation,
  "arguments unchanged": check_unchanged,
}


def cotangents(problem: Problem, factor: float) -> Leaves:
  """Return the cotangents of all outputs times a factor, floats in the outputs' own dtypes."""
  return in_dtypes_of(problem.rule.outputs, [b * factor for b in problem.y_bar])


def widened(values: Sequence[Any]) -> list[np.ndarray]:
  """Return float arrays in NumPy's float64."""
  return [np.asarray(v, np.float64) for v in values]


def differing_bits(
  problem: Problem, check: str, got: Leaves, want: Leaves, cause: str, message: str = SAME_CALL
) -> list[Finding]:
  """Return a finding for the first leaf that differs in any bit; NaN equals NaN."""
  pairs = zip(widened(got), widened(want), strict=True)
  for i, (name, (a, b)) in enumerate(zip(problem.signature.float_names, pairs, strict=True)):
    wrong = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if wrong.any():
      d = Difference(i, a, b, np.zeros_like(b), wrong)
      return [d.finding("fail", check, AS_GIVEN, name, cause=cause, message=message)]
  return []
