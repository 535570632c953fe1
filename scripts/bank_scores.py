"""What the verifier says of each specimen of its bank: verdict, leaves and causes, kept as JSON.

  python scripts/bank_scores.py                     verifies what has no score yet; 3 minutes
  python scripts/bank_scores.py --check             verifies all, prints what differs from the file
  python scripts/bank_scores.py --check norm tanh   those whose name holds one of the words
  python scripts/bank_scores.py --again tanh        verifies them, and replaces their scores

The scores stand in experiments/results/bank_scores.json, and each is written before the next is
made. They are of one version of Python and of JAX, which the file names: a score may differ under
another one where the compiler rounds otherwise.
"""

import multiprocessing
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from fbackprop.verify.bank import BUGS, RIGHT
from fbackprop.verify.self_test import verified
from scripts.campaigns import results

RESULTS = results.RESULTS / "bank_scores.json"
LEVELS = ("quick", "standard")


def main(arguments: list[str] | None = None) -> int:
  """Score the bank or compare it with its scores; return 1 if there is a difference."""
  parser = results.parser_of(__doc__)
  parser.add_argument("words", nargs="*", help="parts of specimens' names; by default all")
  parser.add_argument("--check", action="store_true", help="compare with the file, and leave it")
  parser.add_argument("--again", action="store_true", help="replace scores that the file has")
  parser.add_argument("--level", choices=LEVELS, help="this level only")
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
  options = parser.parse_args(arguments)
  scores = results.read(options.json, {}).get("scores", {})
  tasks = [
    (name, level)
    for name in names()
    if not options.words or any(word in name for word in options.words)
    for level in ([options.level] if options.level else LEVELS)
    if options.check or options.again or level not in scores.get(name, {})
  ]
  different = 0
  # JAX keeps its compiled programs in memory, so a process ends after some specimens.
  with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=20) as pool:
    for name, level, score in pool.imap_unordered(scored, tasks):
      if options.check:
        kept_score = scores.get(name, {}).get(level)
        if differences(kept_score, score):  # The search for a cause has a time limit: once more.
          score = pool.apply(scored, [(name, level)])[2]
        lines = differences(kept_score, score)
        different += bool(lines)
        for line in lines:
          print(f"{name}, {level}: {line}", flush=True)
      else:
        scores.setdefault(name, {})[level] = score
        ordered = {name: scores[name] for name in names() if name in scores}
        results.write(options.json, {"environment": environment(), "scores": ordered})
  print(f"{len(tasks)} scores, {different} different" if options.check else f"{len(tasks)} scores")
  return int(different > 0)


def names() -> list[str]:
  """Return the names of all specimens, in the order of the bank."""
  return [specimen.name for specimen in (*BUGS, *RIGHT)]


def scored(task: tuple[str, str]) -> tuple[str, str, dict[str, Any]]:
  """Verify one specimen at one level."""
  results.keep_compiled("bank-scores")
  name, level = task
  (example,) = (specimen.make() for specimen in (*BUGS, *RIGHT) if specimen.name == name)
  report = verified(example, level)
  judged = [finding for finding in report.findings if finding.kind != "note"]
  return name, level, {
    "verdict": report.verdict,
    "leaves": [finding.leaf for finding in judged],
    "causes": [finding.cause or finding.check for finding in judged],
  }  # fmt: skip


def differences(kept: dict[str, Any] | None, score: dict[str, Any]) -> list[str]:
  """Return the differences, a line for each field; causes are compared by kind alone."""
  if kept is None:
    return ["no score in the file"]
  return [
    f"{field} {kept[field]} in the file, {score[field]} now"
    for field in kept
    if compared(kept[field]) != compared(score[field])
  ]


def compared(value: Any) -> Any:
  """Return a field without the figures of its causes."""
  return [text.partition(":")[0] for text in value] if isinstance(value, list) else value


def environment() -> dict[str, str]:
  """Return the properties of the environment that a score may depend on."""
  return {"python": platform.python_version(), "jax": jax.__version__,
          "backend": jax.default_backend(), "machine": platform.machine()}  # fmt: skip


if __name__ == "__main__":
  sys.exit(main())
