"""`Problem`, one rule at one call, and `Baseline`, the shared results; both immutable."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fbackprop.verify.checks.evidence import finding_at
from fbackprop.verify.checks.test_points import Point, value_points
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.interpret.primitives import is_float, rounded
from fbackprop.verify.report.findings import Finding, Kind
from fbackprop.verify.witnesses.comparison import Difference
from fbackprop.verify.witnesses.rule import Leaves, Rule, cotangent_like
from fbackprop.verify.witnesses.traces import Values, Witnesses

SAMPLES = {"quick": 3, "standard": 5, "deep": 9}
# For a larger problem, "standard" keeps to its ten seconds with these test points alone.
LARGE = 200_000
ESSENTIAL = (
  "redrawn", "some entries zero", "ties", "1e4 times larger", "loss times 2^40", "other labels",
  "smallest label everywhere", "columns of scale 1e-4 to 1e4",
)  # fmt: skip


class Problem(NamedTuple):
  """One rule at one call.

  Attributes:
    name: the function's name.
    rule: the function and its rule.
    outputs: shapes and dtypes of the function's outputs.
    own_leaves: the arguments as given.
    leaves: the arguments in NumPy, floats in float64.
    y_bar: the cotangents of the float outputs, in float64.
    level, seed, allowance: as for `vjp`.
    reference_at_ties: whether only autodiff's slope is accepted at a kink.
    surrogate: whether autodiff is meant to differ from the function's slope.
  """

  name: str
  rule: Rule
  outputs: list[Any]
  own_leaves: Leaves
  leaves: Leaves
  y_bar: Leaves
  level: str
  seed: int
  allowance: float
  reference_at_ties: bool
  surrogate: bool

  @property
  def float_names(self) -> list[str]:
    """The names of the differentiated leaves."""
    return self.rule.signature.float_names

  @property
  def is_large(self) -> bool:
    """Whether evaluating a point is slow, so that "standard" visits the essential points only."""
    return self.level == "standard" and sum(np.size(x) for x in self.leaves) > LARGE

  def test_points(self) -> list[Point]:
    """Return the test points of these shapes."""
    found = value_points(self.rule.signature, self.leaves, self.level, self.seed)
    return [p for p in found if p.name in ESSENTIAL] if self.is_large else found

  def redrawn(self) -> Leaves:
    """Return other arguments of the same shapes."""
    return value_points(self.rule.signature, self.leaves, "quick", self.seed)[0].leaves

  def noise(self, stream: int = 0) -> Noise:
    """Return the perturbations that measure float64 rounding."""
    return Noise(3 if self.is_large else SAMPLES[self.level], seed=self.seed + stream)

  def draw(self, stream: int) -> list[np.ndarray]:
    """Draw cotangents of the float outputs."""
    return draw_cotangents(self.outputs, self.seed, stream)

  def finding(self, kind: Kind, check: str, where: str, name: str, d: Difference) -> Finding:
    """Return the finding of a differing leaf, at its worst entry."""
    return finding_at(kind, check, where, name, d.worst, d.got, d.want, d.bound, d.is_wrong)


def draw_cotangents(outputs: Sequence[Any], seed: int, stream: int) -> list[np.ndarray]:
  """Draw cotangents of float outputs that are representable in the outputs' own dtypes."""
  drawn = cotangent_like(np.random.default_rng([seed, 10, stream]), outputs)
  return [rounded(b, o.dtype) for b, o in zip(drawn, outputs, strict=True) if is_float(o.dtype)]


class Baseline(NamedTuple):
  """The results at the arguments as given, computed once and shared by the checks.

  Attributes:
    witnesses: the traced programs.
    bars: the rule's cotangents in its own dtype.
    values: rule and truth in float64; None where the function isn't finite.
  """

  witnesses: Witnesses
  bars: Leaves
  values: Values | None
