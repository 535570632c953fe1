"""The verifier's self-test: planted bugs that it must catch, and right rules that it must pass."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax

from fbackprop.verify._vjp import jvp, vjp
from fbackprop.verify.bank import BUGS, RIGHT, Example
from fbackprop.verify.bank.specimen import KINDS, Specimen
from fbackprop.verify.report import Finding, Report

FORMAT = 1
"""The version of the JSON format."""
Outcome = Literal["caught", "missed", "beyond", "passed", "false alarm", "no verdict"]

# The kind of cause that a check implies, where its name isn't one of `KINDS`.
STATES = (
  "repeated call", "pullback called twice", "pullback after another call", "donated arguments",
  "arguments unchanged",
)  # fmt: skip
KIND_OF_CHECK = dict.fromkeys(STATES, "state") | {
  "zero cotangent": "cotangent", "scaled cotangent": "cotangent", "differences": "semantic",
  "numerics": "precision", "second order": "mode", "two devices": "mode",
}  # fmt: skip


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

  @property
  def code(self) -> int:
    """The exit code: 1 after any miss or false alarm, 4 after any missing verdict."""
    n = self.totals
    return 1 if n["missed"] or n["false_alarms"] else 4 if n["no_verdicts"] else 0

  @property
  def totals(self) -> dict[str, int]:
    """The counts, each with the total that it is a share of."""
    count = Counter(score.outcome for score in self.scores)
    leaves = [s.leaf_is_right for s in self.scores if s.leaf_is_right is not None]
    causes = [s.cause_is_right for s in self.scores if s.cause_is_right is not None]
    bugs = sum(score.is_bug for score in self.scores)
    return {
      "bugs": bugs, "caught": count["caught"], "missed": count["missed"],
      "beyond": count["beyond"], "right": len(self.scores) - bugs,
      "false_alarms": count["false alarm"], "no_verdicts": count["no verdict"],
      "leaves": len(leaves), "right_leaf_first": sum(leaves),
      "causes": len(causes), "right_cause_first": sum(causes),
    }  # fmt: skip

  def table(self) -> str:
    """Format the totals as lines."""
    n = self.totals
    where = "  ".join(f"{name} {value}" for name, value in self.environment.items())
    verdict = {0: "PASS", 1: "FAIL", 4: "NO VERDICT"}[self.code]
    beyond = f", {n['beyond']} beyond the level" if n["beyond"] else ""
    return "\n".join((
      f"{verdict}: self-test   {self.level}, seed {self.seed}, {self.seconds:.1f} s",
      f"planted bugs        {share(n['caught'], n['bugs'])} caught, {n['missed']} missed{beyond}",
      f"false positives     {n['false_alarms']} of {n['right']} right rules",
      f"no verdict          {n['no_verdicts']}",
      f"leaf ranked first   {share(n['right_leaf_first'], n['leaves'])}",
      f"cause ranked first  {share(n['right_cause_first'], n['causes'])}",
      where,
    ))  # fmt: skip

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
  groups = ((BUGS, True), (RIGHT, False))
  bank = [(s, is_bug) for group, is_bug in groups for s in group if not only or s.name in only]
  start = time.perf_counter()
  scores: list[Score] = []
  for specimen, is_bug in bank:
    began = time.perf_counter()
    try:
      report = verified(specimen.make(), level, seed)
    except Exception as error:  # It counts neither as a catch nor as a pass.
      message = f"{type(error).__name__}: {' '.join(str(error).split())}"
      report = Report(specimen.name, (Finding("oracle fault", "verifier", message=message),))
    scores.append(scored(specimen, is_bug, report, time.perf_counter() - began, level))
    if progress is not None:
      progress(line_of(scores[-1]), len(scores))
  device = jax.devices()[0].device_kind
  environment = {"jax": jax.__version__, "backend": jax.default_backend(), "device": device}
  return SelfTest(tuple(scores), level, seed, time.perf_counter() - start, environment)


def verified(example: Example, level: str, seed: int = 0) -> Report:
  """Verify the rule of an example, in the mode that it has."""
  f, args, f_vjp, options, f_jvp = example
  options = {"level": level, "seed": seed, **options}
  if f_jvp is not None:
    return jvp(f, *args, f_jvp=f_jvp, **options)
  return vjp(f, *args, f_vjp=f_vjp, **options)


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
  leaf_is_right = is_caught and first.leaf in specimen.leaves if specimen.leaves else None
  cause_is_right = is_caught and kind_of(first) in specimen.causes if is_bug else None
  return Score(
    specimen.name, is_bug, outcome, first.leaf, first.cause or first.check, leaf_is_right,
    cause_is_right, seconds, first.message,
  )  # fmt: skip


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
