"""`Problem`, one rule at one call, and `Evidence`, the results of its checks.

A check is a function of the `Problem` that yields immutable evidence. Evidence is summed in the
order of the checks, and the cause of the first wrong leaf is searched for once, at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np

from fbackprop.jaxprs import floats_in
from fbackprop.verify.checks.indices import pointers_of
from fbackprop.verify.checks.test_points import Point, value_points
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.interpret.loops import TURNS
from fbackprop.verify.report import Finding, RuleError
from fbackprop.verify.witnesses.rule import (
  Function,
  Leaves,
  Rule,
  Signature,
  as_numpy,
  in_dtypes_of,
)
from fbackprop.verify.witnesses.traces import Setting, Values, Witnesses, evaluate, gather_witnesses
from fbackprop.verify.witnesses.verdicts import Difference, spread

AS_GIVEN = "as given"
STATE = "state: the result depends on other calls"
SAMPLES = {"quick": 3, "standard": 5, "deep": 9}
# For a larger problem, "standard" keeps to its ten seconds with these test points alone.
LARGE = 200_000
ESSENTIAL = (
  "redrawn", "some entries zero", "ties", "1e4 times larger", "loss times 2^40", "other labels",
  "smallest label everywhere", "columns of scale 1e-4 to 1e4",
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
  """One rule at one call; what is expensive is computed at its first use, and shared.

  Attributes:
    rule: the function and its rule.
    own_leaves: the arguments as given.
    y_bar: the cotangents of the float outputs, in float64.
    level, seed, allowance, ties, surrogate, linear: as for `vjp`.
    f_jvp: the rule in forward mode, as `jax.jvp` of the function is; None if it isn't checked.
    held: the names of the floats that are held, since f takes no traced value there.
  """

  rule: Rule
  own_leaves: Leaves
  y_bar: Leaves
  level: str
  seed: int
  allowance: float
  ties: str
  surrogate: bool = False
  linear: bool = True
  f_jvp: Function | None = None
  held: tuple[str, ...] = ()

  @property
  def signature(self) -> Signature:
    """The signature of the arguments."""
    return self.rule.signature

  @cached_property
  def leaves(self) -> Leaves:
    """The arguments in NumPy, floats in float64."""
    return as_numpy(self.own_leaves)

  @cached_property
  def own_y_bar(self) -> Leaves:
    """The cotangents of all outputs, floats in the outputs' own dtypes."""
    return in_dtypes_of(self.rule.outputs, self.y_bar)

  @cached_property
  def compiled(self) -> Function:
    """The rule in its own dtype as one compiled program: of leaves and cotangents, as `Rule.call`.

    Eager, each of its operations would be compiled by itself, which takes longer than all checks
    of a small rule.
    """
    return self.rule.compiled()

  @cached_property
  def results(self) -> tuple[Leaves, Leaves]:
    """The rule's outputs and its cotangents in its own dtype; a RuleError if it raises."""
    return self.compiled(self.own_leaves, self.own_y_bar)

  @cached_property
  def witnesses(self) -> Witnesses:
    """The traced programs; a RuleError if the rule can't be traced."""
    return gather_witnesses(self.rule, self.own_leaves)

  @property
  def half_unit(self) -> float:
    """The relative error that float32 rounds away; 0 for a function of float64."""
    return 0.0 if self.signature.working == np.float64 else 2.0**-24

  @cached_property
  def may_approximate(self) -> bool:
    """Whether f or its rule may stand for another function, to the rounding of its dtype.

    Then f has constants: the coefficients of a polynomial, or an epsilon that guards a quotient.
    Where all are ratios of small integers, it stands for itself. Of a rule in NumPy, the dtypes in
    which it computes aren't known.
    """
    is_exact = all(map(are_simple, floats_in(self.witnesses.forward)))
    return self.half_unit > 0 and (self.rule.by_callback or not is_exact)

  @property
  def given(self) -> Setting:
    """The programs at the arguments as given."""
    return Setting(self.witnesses, self.leaves, self.y_bar)

  @cached_property
  def values(self) -> Values:
    """Rule and truth in float64 at the arguments as given."""
    found = evaluate(self.given, self.noise())
    TURNS.get().settle()
    return found

  def evaluated(self, at: Setting) -> Values:
    """Evaluate rule and truth in float64 at a point, perturbed only if they differ.

    Where they agree to the last places of every entry, no estimate of their rounding would tell
    them apart, and one sample costs a fifth of five.
    """
    values = evaluate(at, None)
    if not values.is_finite or values.agree(self.allowance):
      return values
    return evaluate(at, self.noise())

  @property
  def is_large(self) -> bool:
    """Whether evaluating a point is slow, so that "standard" visits the essential points only."""
    return self.level == "standard" and sum(np.size(x) for x in self.leaves) > LARGE

  @cached_property
  def test_points(self) -> list[Point]:
    """The test points of these shapes; the first has other arguments, and no special ones."""
    pointers = pointers_of(self.witnesses.forward)
    found = value_points(self.signature, self.leaves, self.y_bar, self.level, self.seed, pointers)
    if not self.linear:
      found = [p for p in found if p.y_bar is None]
    return [p for p in found if p.name in ESSENTIAL] if self.is_large else found

  def unrounded(self, at: Setting) -> list[np.ndarray]:
    """Return the rule's cotangents in float64 at one point, without its casts' own rounding.

    A rule that computes in a narrower dtype is linear, and has the function's slope, up to that.
    """
    results = at.witnesses.unrounded(self.noise()).run(at.witnesses.rule, at.inputs)
    return results[len(at.witnesses.forward.out_avals) :]

  def deviations(self, at: Setting) -> list[np.ndarray]:
    """Return the standard deviation of every cotangent's rounding error in the rule's own dtype."""
    witnesses = at.witnesses
    samples = 3 if self.is_large else max(5, SAMPLES[self.level])
    limits = ml_dtypes.finfo(np.dtype(witnesses.signature.working))
    # At most one unit in the last place, and underflow. A narrower dtype is no excuse for the rule,
    # unless the function computes in one.
    noise = Noise(samples, float(limits.eps), float(limits.tiny), seed=self.seed)
    noise = noise._replace(by_dtype=witnesses.is_coarse)
    results = witnesses.evaluator(noise).run(witnesses.rule, at.inputs)
    return [spread(s) for s in results[len(witnesses.forward.out_avals) :]]

  def noise(self, stream: int = 0) -> Noise:
    """Return the perturbations that measure float64 rounding."""
    return Noise(3 if self.is_large else SAMPLES[self.level], seed=self.seed + stream)


@dataclass(frozen=True)
class Evidence:
  """The findings of checks; `a + b` combines two checks in sequence.

  Attributes:
    findings: the failures, and the comparisons without a verdict.
    checks: the name of each check, once for each time it was run.
    not_checked: the omitted checks, each with its reason.
    points: the names of the test points of the mathematics.
    details: (check, text) pairs of the checks' figures.
    order: the float leaves in the order of the backward pass.
    mismatches: the wrong leaves of unknown cause, each as the arguments of `causes.cause_of`: its
      setting, the differences of all leaves, and its index.
    share: the largest error over its bound, over the correct leaves.
    ulp, sigma: the largest rounding error, as in `Report`.
  """

  findings: tuple[Finding, ...] = ()
  checks: tuple[str, ...] = ()
  not_checked: tuple[str, ...] = ()
  points: tuple[str, ...] = ()
  details: tuple[tuple[str, str], ...] = ()
  order: tuple[int, ...] = ()
  mismatches: tuple[tuple[Any, ...], ...] = ()
  share: float = 0.0
  ulp: float = 0.0
  sigma: float = 0.0

  def __add__(self, other: "Evidence") -> "Evidence":
    pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
    return Evidence(**{n: a + b if isinstance(a, tuple) else max(a, b) for n, a, b in pairs})

  @property
  def has_failed(self) -> bool:
    """Whether a failure is known; later checks would only repeat it."""
    return any(f.kind == "fail" for f in self.findings)


def are_simple(values: np.ndarray) -> bool:
  """Return whether numbers are ratios of integers, the lower at most 100, to float32's rounding."""
  found = [Fraction(x) for x in np.unique(values[np.isfinite(values)]).tolist()]
  return all(abs(x.limit_denominator(100) - x) <= abs(x) / 2**23 for x in found)


def compared(
  check: str, where: str, names: Sequence[str], found: Sequence[Difference], cause: str, note: str
) -> Evidence:
  """Return the first wrong leaf of a comparison, and a note if a bound before it is vacuous."""
  total = Evidence()
  for d in found:
    if d.is_vacuous.any():
      total += not_checked(note)
    if d.is_wrong.any():
      return total + reported(d.finding("fail", check, where, names[d.leaf], cause=cause))
  return total


def ran(check: str) -> Evidence:
  """Return the evidence that records a run of a check."""
  return Evidence(checks=(check,))


def not_checked(reason: str) -> Evidence:
  """Return the evidence that records an omitted check."""
  return Evidence(not_checked=(reason,))


def reported(*findings: Finding) -> Evidence:
  """Return evidence that consists of findings."""
  return Evidence(findings)


def failure(error: RuleError, where: str) -> Evidence:
  """Return the finding of a rule that raises, or violates its contract."""
  cause = STATE if error.check == "repeated call" else f"{error.check}:"
  return reported(Finding("fail", error.check, where, error.leaf, message=str(error), cause=cause))
