"""The parts of a report: findings, the checks that were made, and what wasn't checked."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["fail", "oracle fault", "no verdict", "pass"]
VERDICTS: tuple[Verdict, ...] = ("fail", "oracle fault", "no verdict", "pass")
Kind = Literal["fail", "oracle fault", "no verdict", "note"]


class Finding(NamedTuple):
  """One thing that is wrong, or that has no verdict.

  Attributes:
    kind: "fail", "oracle fault" (the rule is right and autodiff of the reference is wrong), "no
      verdict", or "note" (worth knowing, and no reason against a pass).
    check: the check that found it: "maths", "numerics", "zero cotangent", "structure", ...
    regime: the test point: "as given", "N = 1", "some entries zero", ...
    leaf: the path of the cotangent's leaf, as "params/1/w"; "" if it isn't of one leaf.
    index: the entry with the largest error over its bound; None where there is none.
    got, want, bound: of that entry, float64; None where there is none.
    wrong, size: how many entries of the leaf are beyond their bound, and of how many.
    shape: of the leaf.
    cause: what reproduces the numbers, as "constant factor: 1/N, N = 32"; the text before the
      colon is one of `KINDS`. "" if it wasn't searched for.
    message: what happened, in a sentence, where numbers don't say it.
  """

  kind: Kind
  check: str
  regime: str = "as given"
  leaf: str = ""
  index: tuple[int, ...] | None = None  # type: ignore[assignment]  # As no tuple.index is needed.
  got: float | None = None
  want: float | None = None
  bound: float | None = None
  wrong: int = 0
  size: int = 0
  shape: tuple[int, ...] = ()
  cause: str = ""
  message: str = ""


class Checked(NamedTuple):
  """A check that was made, at how many test points, and its outcome.

  Attributes:
    check: its name.
    times: how often, over test points and leaves.
    verdict: the first that applies, as a report's.
    detail: its figure, such as "largest error 0.3 of its bound".
  """

  check: str
  times: int
  verdict: Verdict
  detail: str = ""


class Outcome(NamedTuple):
  """The fields of a `Report`, which adds how they are rendered.

  Attributes:
    name: of the function.
    findings: the most important first: failures before oracle faults before the rest, and
      among the failures the first along the backward pass.
    checks: what was checked.
    not_checked: what wasn't, each with its reason.
    verified: the leaves that are right, in the order of the backward pass.
    worst_ulp: the largest error of the rule in its own dtype, in units in the last place of the
      leaf's largest entry.
    max_sigma: the same error in standard deviations of the propagated rounding error, the largest
      over all entries.
    level, seed, allowance: the options.
    seconds: how long it took.
    again: the command or the call that repeats it; "" if there is none.
    regimes: the test points at which the mathematics was checked; those where the function isn't
      finite aren't among them.
  """

  name: str
  findings: tuple[Finding, ...]
  checks: tuple[Checked, ...] = ()
  not_checked: tuple[str, ...] = ()
  verified: tuple[str, ...] = ()
  worst_ulp: float = 0.0
  max_sigma: float = 0.0
  level: str = "standard"
  seed: int = 0
  allowance: float = 1.0
  seconds: float = 0.0
  again: str = ""
  regimes: tuple[str, ...] = ()

  @property
  def verdict(self) -> Verdict:
    """The first that applies of "fail", "oracle fault", "no verdict", "pass"."""
    return first_verdict([finding.kind for finding in self.findings])

  @property
  def ok(self) -> bool:
    """True for "pass" only."""
    return self.verdict == "pass"


def first_verdict(kinds: Sequence[str]) -> Verdict:
  """Return the gravest of some kinds; notes don't count."""
  return next((verdict for verdict in VERDICTS if verdict in kinds), "pass")


class UnusableError(ValueError):
  """The function or its arguments can't be used: no float goes in, or none comes out."""


class RuleError(Exception):
  """The rule does what no rule may: it raises, or returns another tree.

  Attributes:
    check: "structure", "dtype", "no gradient" or "raises".
    leaf: the path of the leaf, or "".
  """

  def __init__(self, check: str, message: str, leaf: str = "") -> None:
    super().__init__(message)
    self.check = check
    self.leaf = leaf
