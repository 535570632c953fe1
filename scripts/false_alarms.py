"""10,000 right rules, drawn by hypothesis, through `fb.verify.vjp`: how many false alarms?

  python scripts/false_alarms.py                    goes on where it stopped; some hours
  python scripts/false_alarms.py --family rules     rules as other people write them; see campaigns
  python scripts/false_alarms.py --cases 200        the first 200
  python scripts/false_alarms.py --workers 2        processes beside each other (default: 2)

Cases come in chunks of 50, each drawn from its own seed; the last of each is verified at
level "standard", the others at "quick". What a chunk gave is written to
experiments/results/false_alarms.json, or false_alarms_rules.json, before the next one is taken.
"""

import collections
import json
import math
import multiprocessing
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from scripts.campaigns import results

# The files of results, by the module of `scripts.campaigns` that draws the cases.
RESULTS = {
  "cases": results.RESULTS / "false_alarms.json",
  "rules": results.RESULTS / "false_alarms_rules.json",
}
CHUNK = 50


def main(arguments: list[str] | None = None) -> int:
  """Run the missing cases, and print the totals; return 1 after a false alarm."""
  parser = results.parser_of(__doc__)
  parser.add_argument("--cases", type=int, default=10_000)
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--family", choices=tuple(RESULTS), default="cases")
  parser.add_argument("--json", type=Path, metavar="FILE")
  options = parser.parse_args(arguments)
  options.json = options.json or RESULTS[options.family]
  if options.cases < CHUNK or options.cases % CHUNK:
    parser.error(f"--cases must be a multiple of {CHUNK}, got {options.cases}")
  found = results.read(options.json, {"chunks": {}})
  missing = [
    (options.family, i) for i in range(options.cases // CHUNK) if str(i) not in found["chunks"]
  ]
  spawn = multiprocessing.get_context("spawn")
  # JAX keeps its compiled programs in memory, so a process ends after some chunks.
  with spawn.Pool(options.workers, maxtasksperchild=8) as pool:
    for i, chunk in pool.imap_unordered(run_chunk, missing):
      found["chunks"][str(i)] = chunk
      found["totals"] = totals(found["chunks"])
      results.write(options.json, found)
      print(line(found["totals"]), flush=True)
  found["totals"] = totals(found["chunks"])
  print(line(found["totals"]))
  for chunk in found["chunks"].values():
    for alarm in chunk["alarms"]:
      print(json.dumps(alarm))
  return int(found["totals"]["false alarms"] > 0)


def run_chunk(task: tuple[str, int]) -> tuple[int, dict[str, Any]]:
  """Return a chunk's number, its cases' verdicts, and every finding other than a pass."""
  import hypothesis
  import jax

  results.keep_compiled("false-alarms")
  name, chunk = task
  family = import_module(f"scripts.campaigns.{name}")
  drawn: list[Any] = []

  @hypothesis.seed(chunk)
  @hypothesis.settings(
    max_examples=CHUNK,
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  @hypothesis.given(family.cases)
  def draw(case: Any) -> None:
    # Examples that hypothesis draws again have other numbers.
    drawn.append(case._replace(seed=chunk * CHUNK + len(drawn)))

  draw()
  start = time.monotonic()
  counts: collections.Counter[str] = collections.Counter()
  alarms: list[dict[str, Any]] = []
  largest = 0.0
  for i, case in enumerate(drawn[:CHUNK]):
    level = "standard" if i == CHUNK - 1 else "quick"
    report = family.verify(case, level)
    counts[f"{level}: {report.verdict}"] += 1
    largest = max(largest, report.max_sigma)
    if not report.ok:
      first = report.findings[0]._asdict()
      alarms.append({"case": case._asdict(), "level": level, "verdict": report.verdict,
                     "finding": {k: str(v) for k, v in first.items()}})  # fmt: skip
  return chunk, {
    "cases": len(drawn[:CHUNK]),
    "counts": dict(counts),
    "max_sigma": largest,
    "alarms": alarms,
    "seconds": time.monotonic() - start,
    "jax": jax.__version__,
  }


def totals(chunks: dict[str, Any]) -> dict[str, Any]:
  """Return the sums over chunks."""
  counts: collections.Counter[str] = collections.Counter()
  for chunk in chunks.values():
    counts.update(chunk["counts"])
  standard = sum(v for k, v in counts.items() if k.startswith("standard"))
  return {
    "cases": sum(c["cases"] for c in chunks.values()),
    "false alarms": sum(v for k, v in counts.items() if k.endswith(("fail", "oracle fault"))),
    "no verdict": sum(v for k, v in counts.items() if k.endswith("no verdict")),
    "standard cases": standard,
    "no verdict of standard cases": counts["standard: no verdict"],
    "max sigma": max((c["max_sigma"] for c in chunks.values()), default=0.0),
    # Python 3.12's `sum` compensates; this is the same number everywhere.
    "seconds": math.fsum(c["seconds"] for c in chunks.values()),
  }


def line(sums: dict[str, Any]) -> str:
  """Format the totals as a line."""
  return "   ".join(
    f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
    for name, value in sums.items()
  )


if __name__ == "__main__":
  sys.exit(main())
