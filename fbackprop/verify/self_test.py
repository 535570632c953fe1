"""The verifier's self-test: planted bugs that it must catch, and right rules that it must pass."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax

from fbackprop.verify._vjp import vjp
from fbackprop.verify.bank import BUGS, RIGHT
from fbackprop.verify.bank.specimen import KINDS, Specimen
from fbackprop.verify.report.findings import Finding
from fbackprop.verify.report.report import Report

FORMAT = 1
"""The version of the JSON format."""
Outcome = Literal["caught", "missed", "beyond", "passed", "false alarm", "no verdict"]

# The kind of cause that a check implies, where its name isn't one of `KINDS`.
KIND_OF_CHECK = {
  "zero cotangent": "cotangent",
  "scaled cotangent": "cotangent",
  "repeated call": "state",
  "pullback called twice": "state",
  "pullback after another call": "state",
  "donated arguments": "state",
  "arguments unchanged": "state",
  "differences": "semantic",
  "numerics": "precision",
  "second order": "mode",
  "two devices": "mode",
}


class Score(NamedTuple):
  """The outcome of one specimen.

  Attributes:
    name: the specimen's name.
    is_bug: whether it has a planted bug.
    outcome: "caught" is a bug with the verdict "fail"; "beyond" a bug that isn't caught at a level
      below its own; "missed" any other bug but one with "no verdict"; "false alarm" a right rule
      with "fail" or "oracle fault".
    leaf, cause: those of the first finding; "" for none.
    leaf_is_right: whether the leaf is correct; None where no leaf is expected.
    cause_is_right: whether the cause is correct; None for a right rule.
    seconds: the duration.
    message: the message of the first finding, or the exception of a verifier that failed.
  """

  name: str
  is_bug: bool
  outcome: Outcome
  leaf: str = ""
  cause: str = ""
  leaf_is_right: bool | None = None
  cause_is_right: bool | None = None
  seconds: float = 0.0
  message: str = ""


class SelfTest(NamedTuple):
  """The scores of some specimens, and their environment.

  Attributes:
    scores: one for each specimen.
    level, seed: the arguments of the self-test.
    seconds: the total duration.
    environment: the version of jax, the backend and the device.
  """

  scores: tuple[Score, ...]
  level: str
  seed: int
  seconds: float
  environment: dict[str, str]

  def how_many(self, outcome: Outcome) -> int:
    """Count the specimens with an outcome."""
    return sum(score.outcome == outcome for score in self.scores)

  @property
  def code(self) -> int:
    """The exit code: 1 after any miss or false alarm, 4 after any missing verdict."""
    if self.how_many("missed") or self.how_many("false alarm"):
      return 1
    return 4 if self.how_many("no verdict") else 0

  @property
  def totals(self) -> dict[str, int]:
    """The counts, each with the total that it is a share of."""
    leaves = [s.leaf_is_right for s in self.scores if s.leaf_is_right is not None]
    causes = [s.cause_is_right for s in self.scores if s.cause_is_right is not None]
    return {
      "bugs": sum(score.is_bug for score in self.scores),
      "caught": self.how_many("caught"),
      "missed": self.how_many("missed"),
      "beyond": self.how_many("beyond"),
      "right": sum(not score.is_bug for score in self.scores),
      "false_alarms": self.how_many("false alarm"),
      "no_verdicts": self.how_many("no verdict"),
      "leaves": len(leaves),
      "right_leaf_first": sum(leaves),
      "causes": len(causes),
      "right_cause_first": sum(causes),
    }

  def table(self) -> str:
    """Format the totals as lines."""
    n = self.totals
    where = "  ".join(f"{name} {value}" for name, value in self.environment.items())
    return "\n".join(
      (
        f"{'PASS' if self.code == 0 else 'NO VERDICT' if self.code == 4 else 'FAIL'}: self-test   "
        f"{self.level}, seed {self.seed}, {self.seconds:.1f} s",
        f"planted bugs        {share(n['caught'], n['bugs'])} caught, {n['missed']} missed"
        + (f", {n['beyond']} beyond the level" if n["beyond"] else ""),
        f"false positives     {n['false_alarms']} of {n['right']} right rules",
        f"no verdict          {n['no_verdicts']}",
        f"leaf ranked first   {share(n['right_leaf_first'], n['leaves'])}",
        f"cause ranked first  {share(n['right_cause_first'], n['causes'])}",
        where,
      )
    )

  def to_json(self) -> str:
    """Convert all results to JSON."""
    table: dict[str, Any] = {"format": FORMAT, "code": self.code, **self._asdict()}
    table |= {"totals": self.totals, "scores": [score._asdict() for score in self.scores]}
    return json.dumps(table, indent=1, allow_nan=False, ensure_ascii=False)


def run_self_test(
  level: str = "standard",
  seed: int = 0,
  progress: Callable[[str, int], None] | None = None,
  *,
  only: Sequence[str] = (),
) -> SelfTest:
  """Verify each specimen of the bank on the present backend.

  Args:
    level: as for `vjp`.
    seed: as for `vjp`.
    progress: called with a line and the number of finished specimens.
    only: the names of the specimens; all by default.

  Returns:
    The `SelfTest`.
  """
  bank = [(s, is_bug) for group, is_bug in ((BUGS, True), (RIGHT, False)) for s in group]
  chosen = [(s, is_bug) for s, is_bug in bank if not only or s.name in only]
  start = time.perf_counter()
  scores = []
  for i, (specimen, is_bug) in enumerate(chosen):
    score = score_of(specimen, is_bug, level, seed)
    scores.append(score)
    if progress is not None:
      progress(line_of(score), i + 1)
  return SelfTest(tuple(scores), level, seed, time.perf_counter() - start, environment())


def score_of(specimen: Specimen, is_bug: bool, level: str, seed: int) -> Score:
  """Verify one specimen; an exception of the verifier counts neither as a catch nor as a pass."""
  start = time.perf_counter()
  try:
    example = specimen.make()
    options = {"level": level, "seed": seed, **example.options}
    report = vjp(example.f, *example.args, f_vjp=example.f_vjp, **options)
  except Exception as error:
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    report = Report(specimen.name, (Finding("oracle fault", "verifier", message=message),))
  return scored(specimen, is_bug, report, time.perf_counter() - start, level)


def scored(
  specimen: Specimen, is_bug: bool, report: Report, seconds: float, level: str = "standard"
) -> Score:
  """Score a report against the known facts of its specimen."""
  outcome: Outcome
  if report.verdict == "no verdict":
    outcome = "no verdict"
  elif is_bug:
    is_beyond = level == "quick" and specimen.level != "quick"
    outcome = "caught" if report.verdict == "fail" else ("beyond" if is_beyond else "missed")
  else:
    outcome = "passed" if report.verdict == "pass" else "false alarm"
  first = report.findings[0] if report.findings else Finding("note", "")
  is_caught = outcome == "caught"
  return Score(
    specimen.name,
    is_bug,
    outcome,
    first.leaf,
    first.cause or first.check,
    is_caught and first.leaf in specimen.leaves if specimen.leaves else None,
    is_caught and kind_of(first) in specimen.causes if is_bug else None,
    seconds,
    first.message,
  )


def kind_of(finding: Finding) -> str:
  """Return the one of `KINDS` that a finding names by its cause or else its check; "" for none."""
  if finding.cause:
    return finding.cause.partition(":")[0].strip()
  return finding.check if finding.check in KINDS else KIND_OF_CHECK.get(finding.check, "")


def line_of(score: Score) -> str:
  """Describe a score in a line: its outcome, and the first finding's name where that is wrong."""
  line = f"{score.outcome:<12}{score.name:<44}{score.seconds:6.1f} s"
  if score.outcome in ("missed", "false alarm", "no verdict"):
    line += f"   {score.leaf} {score.cause}: {score.message}".rstrip(": ")
  elif score.outcome != "beyond" and False in (score.leaf_is_right, score.cause_is_right):
    line += f"   named first: {score.leaf} {score.cause}"
  return line


def share(part: int, whole: int) -> str:
  """Format a share as "60 of 64 (93.8 %)"."""
  return f"{part} of {whole}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def environment() -> dict[str, str]:
  """Return the properties of the environment that the outcome may depend on."""
  device = jax.devices()[0]
  return {
    "jax": jax.__version__,
    "backend": jax.default_backend(),
    "device": device.device_kind,
  }
