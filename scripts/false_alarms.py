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

import hypothesis
import jax

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
  numbers = [i for i in range(options.cases // CHUNK) if str(i) not in found["chunks"]]
  missing = [(options.family, i) for i in numbers]
  # JAX keeps its compiled programs in memory, so a process ends after some chunks.
  with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=8) as pool:
    for i, chunk in pool.imap_unordered(run_chunk, missing):
      found["chunks"][str(i)] = chunk
      found["totals"] = totals(found["chunks"])
      results.write(options.json, found)
      print(results.line(found["totals"]), flush=True)
  found["totals"] = totals(found["chunks"])
  print(results.line(found["totals"]))
  for chunk in found["chunks"].values():
    for alarm in chunk["alarms"]:
      print(json.dumps(alarm))
  return int(found["totals"]["false alarms"] > 0)


def run_chunk(task: tuple[str, int]) -> tuple[int, dict[str, Any]]:
  """Return a chunk's number, its cases' verdicts, and every finding other than a pass."""
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
  pairs = zip(drawn, ["quick"] * (CHUNK - 1) + ["standard"], strict=False)
  done = [(case, level, family.verify(case, level)) for case, level in pairs]
  return chunk, {
    "cases": len(done),
    "counts": dict(collections.Counter(f"{level}: {own.verdict}" for _, level, own in done)),
    "max_sigma": max(0.0, *(own.max_sigma for *_, own in done)),
    "alarms": [
      {"case": case._asdict(), "level": level, "verdict": own.verdict,
       "finding": {k: str(v) for k, v in own.findings[0]._asdict().items()}}
      for case, level, own in done if not own.ok
    ],
    "seconds": time.monotonic() - start,
    "jax": jax.__version__,
  }  # fmt: skip


def totals(chunks: dict[str, Any]) -> dict[str, Any]:
  """Return the sums over chunks."""
  counts = sum((collections.Counter(c["counts"]) for c in chunks.values()), collections.Counter())
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


if __name__ == "__main__":
  sys.exit(main())
