"""The parts of a report: findings, the checks that were run, and those that weren't."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["fail", "oracle fault", "no verdict", "pass"]
VERDICTS: tuple[Verdict, ...] = ("fail", "oracle fault", "no verdict", "pass")
Kind = Literal["fail", "oracle fault", "no verdict", "note"]


class Finding(NamedTuple):
  """A fault, a missing verdict, or a note.

  Attributes:
    kind: "fail", "oracle fault" (the rule is right and autodiff of the reference is wrong), "no
      verdict", or "note" (information that doesn't prevent a pass).
    check: the check that found it: "maths", "numerics", "zero cotangent", "structure", ...
    regime: the test point: "as given", "N = 1", "some entries zero", ...
    leaf: the path of the cotangent's leaf, such as "params/1/w"; "" if it doesn't concern a single
      leaf.
    index: the entry with the largest error over its bound; None where there is none.
    got, want, bound: that entry's values and bound, float64; None where there is none.
    wrong, size: the number of entries of the leaf beyond their bound, and of all its entries.
    shape: the leaf's shape.
    cause: the fault that reproduces the numbers, such as "constant factor: 1/N, N = 32"; the text
      before the colon is one of `KINDS`. "" if it wasn't searched for.
    message: a sentence that describes the finding where numbers don't.
  """

  kind: Kind
  check: str
  regime: str = "as given"
  leaf: str = ""
  index: tuple[int, ...] | None = None  # type: ignore[assignment]  # Shadows tuple.index.
  got: float | None = None
  want: float | None = None
  bound: float | None = None
  wrong: int = 0
  size: int = 0
  shape: tuple[int, ...] = ()
  cause: str = ""
  message: str = ""


class Checked(NamedTuple):
  """A check that was run, the number of its test points, and its outcome.

  Attributes:
    check: its name.
    times: the number of runs, over test points and leaves.
    verdict: its verdict, as for a report.
    detail: its figure, such as "largest error 0.3 of its bound".
  """

  check: str
  times: int
  verdict: Verdict
  detail: str = ""


def first_verdict(kinds: Sequence[str]) -> Verdict:
  """Return the gravest of some kinds, ignoring notes."""
  return next((verdict for verdict in VERDICTS if verdict in kinds), "pass")


class UnusableError(ValueError):
  """The function or its arguments can't be used: it has no float input or no float output."""


class RuleError(Exception):
  """The rule violates its contract: it raises, or returns another tree.

  Attributes:
    check: "structure", "dtype", "no gradient" or "raises".
    leaf: the path of the leaf, or "".
  """

  def __init__(self, check: str, message: str, leaf: str = "") -> None:
    super().__init__(message)
    self.check, self.leaf = check, leaf
