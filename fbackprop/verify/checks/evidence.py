"""`Evidence`, the result of a check, and its conversion to a report.

A check is a function of the `Problem` and of the `Baseline`, the expensive shared results, that
returns immutable evidence. Evidence is summed in the order of the checks, and the cause of the
first wrong leaf is searched for once, at the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from fbackprop.verify.explain.causes import UNKNOWN, cause_of
from fbackprop.verify.report.findings import (
  VERDICTS,
  Checked,
  Finding,
  Kind,
  RuleError,
  first_verdict,
)
from fbackprop.verify.witnesses.comparison import Difference
from fbackprop.verify.witnesses.traces import Setting

AS_GIVEN = "as given"
# The order in which failures are reported: a failure comes before those that it explains.
RANKS = (
  "raises", "structure", "no gradient", "dtype", "repeated call", "pullback after another call",
  "pullback called twice", "forward", "maths",
)  # fmt: skip
# The aspects that remain unchecked after a failure.
AFTERWARDS = ("numerics", "differences", "branches", "vmap", "scan", "second order")


class Mismatch(NamedTuple):
  """A wrong leaf of unknown cause: its setting, its index, and the differences of all leaves."""

  at: Setting
  differences: Sequence[Difference]
  leaf: int


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
    mismatch: the first wrong leaf, if its cause is unknown.
    share: the largest error over its bound, over the correct leaves.
    ulp, sigma: the largest rounding error, as in `Report`.
  """

  findings: tuple[Finding, ...] = ()
  checks: tuple[str, ...] = ()
  not_checked: tuple[str, ...] = ()
  points: tuple[str, ...] = ()
  details: tuple[tuple[str, str], ...] = ()
  order: tuple[int, ...] = ()
  mismatch: Mismatch | None = None
  share: float = 0.0
  ulp: float = 0.0
  sigma: float = 0.0

  def __add__(self, other: "Evidence") -> "Evidence":
    merged: dict[str, Any] = {}
    for field in fields(self):
      mine, theirs = getattr(self, field.name), getattr(other, field.name)
      if field.name == "mismatch":
        merged[field.name] = mine or theirs
      elif isinstance(mine, tuple):
        merged[field.name] = mine + theirs
      else:
        merged[field.name] = max(mine, theirs)
    return Evidence(**merged)

  @property
  def has_failed(self) -> bool:
    """Whether a failure is known; later checks would only repeat it."""
    return any(f.kind == "fail" for f in self.findings)


def combined(parts: Iterable[Evidence]) -> Evidence:
  """Sum evidence lazily, up to the first failure."""
  total = Evidence()
  for part in parts:
    total += part
    if total.has_failed:
      break
  return total


def finding_at(
  kind: Kind,
  check: str,
  where: str,
  leaf: str,
  index: tuple[int, ...],
  got: Any,
  want: Any,
  bound: Any,
  wrong: np.ndarray,
  cause: str = "",
  message: str = "",
) -> Finding:
  """Return the finding of one entry of a leaf; `wrong` marks the wrong entries."""
  got, want, bound = (float(np.broadcast_to(x, wrong.shape)[index]) for x in (got, want, bound))
  count = int(wrong.sum())
  return Finding(
    kind, check, where, leaf, index, got, want, bound, count, wrong.size, wrong.shape, cause,
    message,
  )  # fmt: skip


def first_index(mask: np.ndarray) -> tuple[int, ...]:
  """Return the index of the first true entry."""
  return tuple(int(i) for i in np.argwhere(mask)[0])


def failure(error: RuleError, where: str) -> Evidence:
  """Return the finding of a rule that raises, or violates its contract."""
  cause = f"{error.check}:"
  found = Finding("fail", error.check, where, error.leaf, message=str(error), cause=cause)
  return reported(found)


def reported(*findings: Finding) -> Evidence:
  """Return evidence that consists of findings."""
  return Evidence(findings)


def not_checked(reason: str) -> Evidence:
  """Return the evidence that records an omitted check."""
  return Evidence(not_checked=(reason,))


def with_cause(found: Evidence) -> Evidence:
  """Add the cause of the first wrong leaf, if it is unknown."""
  if found.mismatch is None:
    return found
  findings = list(found.findings)
  first = next(i for i, f in enumerate(findings) if (f.kind, f.check) == ("fail", "maths"))
  try:
    findings[first] = findings[first]._replace(cause=cause_of(*found.mismatch))
  except Exception as error:  # A failed search for a cause mustn't hide the failure itself.
    return found + not_checked(f"the cause: {type(error).__name__}: {error}")
  return replace(found, findings=tuple(findings))


def outcome_of(found: Evidence, names: Sequence[str], level: str) -> dict[str, Any]:
  """Return the fields of a `Report` that evidence determines.

  Args:
    found: the evidence of all checks, with the cause.
    names: the names of the float leaves.
    level: as for `vjp`.
  """
  names = [names[i] for i in found.order or range(len(names))]

  def rank(finding: Finding) -> tuple[int, int, int]:
    check = RANKS.index(finding.check) if finding.check in RANKS else len(RANKS)
    leaf = names.index(finding.leaf) if finding.leaf in names else -1
    return (*VERDICTS, "note").index(finding.kind), check, leaf

  findings = without_nonlinear_factor(sorted(first_of_each(found.findings), key=rank))
  details, reasons = dict(found.details), list(found.not_checked)
  failed = {f.leaf for f in findings if f.kind == "fail"}
  unverified = {f.leaf for f in findings if f.kind in ("fail", "no verdict")}
  if found.points and not any(f.check == "maths" and f.kind == "fail" for f in findings):
    details["maths"] = f"largest error {found.share:.2g} of its bound"
  left = [check for check in AFTERWARDS if check not in found.checks]
  if failed and left and level != "quick":
    reasons.append(f"after a failure: {', '.join(left)}")
  return {
    "findings": tuple(findings),
    "checks": tuple(
      Checked(
        check,
        found.checks.count(check),
        first_verdict([f.kind for f in findings if f.check == check]),
        details.get(check, ""),
      )
      for check in dict.fromkeys(found.checks)
    ),
    "not_checked": tuple(dict.fromkeys(reasons)),
    "verified": tuple(name for name in names if found.points and name not in unverified),
    "worst_ulp": found.ulp,
    "max_sigma": found.sigma,
    "regimes": tuple(dict.fromkeys(found.points)),
  }


def first_of_each(findings: Sequence[Finding]) -> list[Finding]:
  """Keep the first finding of each leaf, that of the earliest point."""
  seen: dict[Any, Finding] = {}
  for f in findings:
    key = (f.kind, f.leaf, f.cause, f.message) if f.check == "maths" else len(seen)
    seen.setdefault(key, f)
  return list(seen.values())


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
