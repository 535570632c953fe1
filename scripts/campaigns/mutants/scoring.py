"""What a report on a mutant is worth: caught or not, the right leaf first, a cause that helps.

A cause is useful if its kind is one that the operator may have, misleading if it is another kind,
and neither if it is "no known pattern" or only says what the numbers are: not finite, of another
structure, at odds with differences. `KINDS` says which kinds an operator may have. Any local edit
of a formula is the derivative of another function or at another point, or changes a path, so those
are good for all; the rest is what the edit does to a leaf as a whole. "condition" stands for
examples that are left out because a condition is ignored or inverted.
"""

from typing import NamedTuple

from fbackprop.verify.explain.causes import UNKNOWN
from fbackprop.verify.explain.one_step import ONE_EDIT
from fbackprop.verify.report import Finding, Report
from fbackprop.verify.self_test import kind_of
from scripts.campaigns.mutants.selection import Mutant

# That a rule isn't linear in the cotangent is a law that was tested, whatever the edit.
ANY = {"other function", "wrong point", "path", "cotangent"}
KINDS: dict[str, set[str]] = {
  "sign": {"constant factor", "permuted", "transposed"},
  "constant": {"constant factor", "clipped", "zero", "subset of examples"},
  "arithmetic": {"constant factor", "zero"},
  "axis": {"transposed", "permuted", "subset of examples", "constant factor"},
  "index": {"permuted", "subset of examples", "zero", "transposed", "constant factor"},
  "transposition": {"transposed", "permuted"},
  "dropped term": {"zero", "constant factor", "stop_gradient", "subset of examples"},
  "doubled term": {"constant factor", "subset of examples"},
  "neighbour": {"permuted", "transposed", "zero", "constant factor"},
  "off by one": {"subset of examples", "permuted", "constant factor", "zero"},
  "reduction": {"constant factor", "subset of examples", "transposed"},
  "missing mask": {"condition", "subset of examples", "clipped", "kink", "zero", "constant factor"},
  "add -> set": {"subset of examples", "constant factor", "permuted"},
  "comparison": {"condition", "subset of examples", "kink", "zero"},
  "other branch": {"condition", "subset of examples", "kink", "zero", "constant factor", "clipped"},
  "stale input": {
    "permuted", "zero", "constant factor", "proportional to a parameter", "subset of examples",
    "condition",
  },
}  # fmt: skip
# Kinds that state what was seen, and no cause.
FACTS = {
  "not finite", "raises", "structure", "dtype", "no gradient", "forward", "semantic", "zero", "",
  UNKNOWN,
}  # fmt: skip
# Findings about the whole rule, which name no leaf.
WITHOUT_LEAF = {"forward", "structure"}


class Score(NamedTuple):
  """The worth of a report.

  Attributes:
    verdict: the verdict; "error" if the verifier raised.
    is_leaf_right: whether it is the first wrong one along the backward pass; None where the
      finding is about the output or the structure of the result.
    cause: the kind of the first failure's cause, or the kind that its check implies; the exception
      of a verifier that raised.
    is_one_edit: whether the cause was found by editing the rule's own program, and wouldn't be
      known without; that a rule isn't linear would.
  """

  verdict: str
  is_leaf_right: bool | None = None
  cause: str = ""
  is_one_edit: bool = False


def score(one: Mutant, report: Report) -> Score:
  """Return the worth of a report on a mutant."""
  if report.verdict != "fail":
    return Score(report.verdict)
  first = report.findings[0]
  right = next((leaf for leaf in report.leaves or one.leaves if leaf in one.leaves), "")
  is_right = None if first.check in WITHOUT_LEAF else bool(right) and first.leaf == right
  own = kind(first)
  return Score(report.verdict, is_right, own, ONE_EDIT in first.cause and own != "cotangent")


def kind(finding: Finding) -> str:
  """Return the kind of a finding's cause."""
  is_condition = "the condition of" in finding.cause
  found = kind_of(finding)
  return "condition" if found == "subset of examples" and is_condition else found


def worth(one: Mutant, own: Score) -> str:
  """Return what the cause of a mutant is worth: "useful", "misleading" or "neither"."""
  if own.cause in ANY | KINDS[one.operator]:
    return "useful"
  return "neither" if own.cause in FACTS else "misleading"
