"""What a report on a mutant is worth: caught or not, the right leaf first, a cause that helps.

A cause is useful if its kind is one that the operator may have, misleading if it is another kind,
and neither if it is "no known pattern" or only says what the numbers are: not finite, of another
structure, at odds with differences. `KINDS` says which kinds an operator may have. Any local edit
of a formula is the derivative of another function or at another point, or changes a path, so those
are good for all; the rest is what the edit does to a leaf as a whole.
"""

from typing import NamedTuple

from fbackprop.verify.report import Finding, Report
from fbackprop.verify.self_test import kind_of
from scripts.campaigns.mutants.selection import Mutant

ANY = {"other function", "wrong point", "path"}
KINDS: dict[str, set[str]] = {
  "sign": {"constant factor"},
  "constant": {"constant factor", "clipped", "zero", "subset of examples"},
  "arithmetic": {"constant factor", "cotangent", "zero"},
  "axis": {"transposed", "permuted", "subset of examples", "constant factor"},
  "index": {"permuted", "subset of examples", "zero", "transposed", "constant factor"},
  "transposition": {"transposed", "permuted"},
  "dropped term": {"zero", "constant factor", "stop_gradient", "cotangent"},
  "doubled term": {"constant factor", "cotangent"},
  "neighbour": {"permuted", "transposed", "cotangent", "zero", "constant factor"},
  "off by one": {"subset of examples", "permuted", "constant factor", "zero"},
  "reduction": {"constant factor", "subset of examples", "cotangent", "transposed"},
  "missing mask": {"subset of examples", "clipped", "kink", "zero", "constant factor"},
  "add -> set": {"subset of examples", "constant factor", "permuted"},
  "comparison": {"subset of examples", "kink", "zero"},
  "other branch": {"subset of examples", "kink", "zero", "constant factor", "clipped"},
  "stale input": {"permuted", "cotangent", "zero", "constant factor"},
}
# Kinds that state what was seen, and no cause.
FACTS = {"not finite", "raises", "structure", "dtype", "no gradient", "forward", "semantic", ""}
FACTUAL_CHECKS = {"zero cotangent", "scaled cotangent"}


class Score(NamedTuple):
  """The worth of a report.

  Attributes:
    verdict: the verdict; "error" if the verifier raised.
    leaf: the leaf of the first failure.
    is_leaf_right: whether it is the first wrong one along the backward pass.
    cause: the kind of the first failure's cause.
    worth: "useful", "misleading" or "neither".
    seconds: the duration.
    place: the check and the test point of the first failure.
  """

  verdict: str
  leaf: str = ""
  is_leaf_right: bool = False
  cause: str = ""
  worth: str = "neither"
  seconds: float = 0.0
  place: str = ""


def score(one: Mutant, report: Report, seconds: float) -> Score:
  """Return the worth of a report on a mutant."""
  if report.verdict != "fail":
    first = report.findings[0] if report.findings else Finding("note", "")
    return Score(report.verdict, seconds=seconds, place=first.check)
  first = report.findings[0]
  right = next((leaf for leaf in report.leaves if leaf in one.leaves), "")
  kind = kind_of(first)
  return Score(
    report.verdict, first.leaf, bool(right) and first.leaf == right, first.cause[:60] or kind,
    worth_of(one.operator, kind, first.check), seconds, f"{first.check}, {first.regime}",
  )  # fmt: skip


def worth_of(operator: str, kind: str, check: str = "maths") -> str:
  """Return what a kind of cause is worth for a mutant of an operator."""
  if kind in ANY | KINDS[operator]:
    return "useful"
  is_fact = kind in FACTS or check in FACTUAL_CHECKS or kind.startswith("no known pattern")
  return "neither" if is_fact else "misleading"
