"""What a verification knows while it runs: where the rule is called, what was found so far."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fbackprop.verify.checks.test_points import (
  Regime,
  as_numpy,
  value_regimes,
)
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.interpret.primitives import is_float, rounded
from fbackprop.verify.report.findings import Checked, Finding, first_verdict
from fbackprop.verify.report.report import Report
from fbackprop.verify.witnesses.arguments import Leaves, cotangent_like
from fbackprop.verify.witnesses.comparison import Difference
from fbackprop.verify.witnesses.rules import Rule

SAMPLES = {"quick": 3, "standard": 5, "deep": 9}
# From so many numbers on, "standard" keeps to its ten seconds with these regimes.
LARGE = 200_000
ESSENTIAL = (
  "redrawn", "some entries zero", "ties", "1e4 times larger", "loss times 2^40", "other labels",
  "smallest label everywhere", "columns of scale 1e-4 to 1e4",
)  # fmt: skip
# What isn't looked at any more once something is wrong.
AFTERWARDS = ("numerics", "differences", "branches", "vmap", "scan", "second order")
# The order in which failures are told: what explains the others comes first.
RANKS = (
  "raises", "structure", "no gradient", "dtype", "repeated call", "pullback after another call",
  "pullback called twice", "forward", "maths",
)  # fmt: skip


class Verification:
  """One verification while it runs: the rule, where it is called, what was found so far."""

  def __init__(
    self,
    name: str,
    rule: Rule,
    leaves: Leaves,
    outputs: list[Any],
    level: str,
    seed: int,
    allowance: float,
    reference_at_ties: bool,
    surrogate: bool,
  ) -> None:
    self.name = name
    self.rule = rule
    self.outputs = outputs
    self.level, self.seed, self.allowance = level, seed, allowance
    self.reference_at_ties, self.surrogate = reference_at_ties, surrogate
    self.own_leaves = leaves
    self.leaves = as_numpy(leaves)
    self.y_bar = self.draw(outputs, 0)
    self.findings: list[Finding] = []
    self.counts: dict[str, int] = {}
    self.details: dict[str, str] = {}
    self.not_checked: list[str] = []
    self.visited: dict[str, None] = {}
    self.worst_share = 0.0
    self.worst_ulp = 0.0
    self.max_sigma = 0.0
    self.order: list[int] = list(range(len(rule.signature.floats)))
    self.failed: set[str] = set()

  def draw(self, outputs: Sequence[Any], stream: int) -> list[np.ndarray]:
    """Cotangents of the float outputs, which their own dtypes can hold."""
    rng = np.random.default_rng([self.seed, 10, stream])
    drawn = cotangent_like(rng, outputs)
    return [rounded(b, o.dtype) for b, o in zip(drawn, outputs, strict=True) if is_float(o.dtype)]

  @property
  def is_large(self) -> bool:
    """Whether each point takes a while: then the standard battery is a part of itself."""
    return self.level == "standard" and sum(np.size(x) for x in self.leaves) > LARGE

  def regimes(self) -> list[Regime]:
    """The battery at these shapes."""
    found = value_regimes(self.rule.signature, self.leaves, self.level, self.seed)
    if self.is_large:
      found = [r for r in found if r.name in ESSENTIAL]
    return found

  @property
  def own_float_dtypes(self) -> list[Any]:
    """The dtypes of the leaves that have a cotangent."""
    return [self.rule.signature.dtypes[i] for i in self.rule.signature.floats]

  def noise(self, stream: int = 0) -> Noise:
    """The noise of the maths verdict."""
    return Noise(3 if self.is_large else SAMPLES[self.level], seed=self.seed + stream)

  @property
  def has_failed(self) -> bool:
    """Whether anything is known to be wrong: what comes after would only repeat it."""
    return any(f.kind == "fail" for f in self.findings)

  def add(self, finding: Finding) -> None:
    """Notes a finding."""
    self.findings.append(finding)

  def count(self, check: str) -> None:
    """Notes that a check was made."""
    self.counts[check] = self.counts.get(check, 0) + 1

  def finding_of(self, kind: Any, check: str, regime: str, name: str, d: Difference) -> Finding:
    """The finding of a leaf that differs."""
    index = d.worst
    return Finding(
      kind, check, regime, name, index, float(d.got[index]), float(d.want[index]),
      float(d.bound[index]), int(d.is_wrong.sum()), d.got.size, d.got.shape,
    )  # fmt: skip

  def report(self, seconds: float) -> Report:
    """All of it, in order."""
    names = [self.rule.signature.float_names[i] for i in self.order]

    def rank(finding: Finding) -> tuple[int, int, int]:
      kinds = ("fail", "oracle fault", "no verdict", "note")
      check = RANKS.index(finding.check) if finding.check in RANKS else len(RANKS)
      leaf = names.index(finding.leaf) if finding.leaf in names else -1
      return kinds.index(finding.kind), check, leaf

    findings = sorted(self.findings, key=rank)
    findings = explained(findings)
    wrong = {f.leaf for f in findings if f.kind == "fail"}
    unverified = {f.leaf for f in findings if f.kind in ("fail", "no verdict")}
    if self.visited and not any(f.check == "maths" and f.kind == "fail" for f in findings):
      self.details["maths"] = f"largest error {self.worst_share:.2g} of its bound"
    if wrong and self.level != "quick":
      left = [check for check in AFTERWARDS if check not in self.counts]
      if left:
        self.not_checked.append(f"after a failure: {', '.join(left)}")
    checks = []
    for check, times in self.counts.items():
      kinds = [f.kind for f in findings if f.check == check]
      checks.append(Checked(check, times, first_verdict(kinds), self.details.get(check, "")))
    return Report(
      self.name,
      tuple(findings),
      tuple(checks),
      tuple(dict.fromkeys(self.not_checked)),
      tuple(name for name in names if self.visited and name not in unverified),
      self.worst_ulp,
      self.max_sigma,
      self.level,
      self.seed,
      self.allowance,
      seconds,
      regimes=tuple(self.visited),
    )


def explained(findings: list[Finding]) -> list[Finding]:
  """What the checks say together: a rule that isn't linear in y_bar has no constant factor."""
  failed = {f.check: f for f in findings if f.kind == "fail"}
  if not findings or findings[0].check != "maths" or findings[0].kind != "fail":
    return findings
  kind = findings[0].cause.partition(":")[0]
  is_unknown = kind in ("", "no known pattern")
  is_nonlinear = "scaled cotangent" in failed and "zero cotangent" not in failed
  if "scaled cotangent" in failed and (is_unknown or (is_nonlinear and kind == "constant factor")):
    cause = failed["scaled cotangent"].cause
    return [findings[0]._replace(cause=cause), *findings[1:]]
  return findings
