"""An epoch of `fit`'s compiled loop, beside that of another checkout of this repository.

Two processes stay alive, one for each checkout, on the same cores, and run their epochs in turns,
so that a drift of the clock rate affects both equally: runs of whole measurements in turns differ
by up to half on a shared machine, where these ratios lie within some percent.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks.rounds import in_turns, quartiles, shown
from scripts.benchmarks.subjects import OURS

HERE = Path(__file__).resolve().parents[2]
# `scripts.benchmarks.epoch.prepare` is the same in all checkouts. JAX may print lines of its own.
WORKER = """
import sys, time
from scripts.benchmarks.epoch import prepare
epochs, first = prepare(*sys.argv[1:])
print("seconds", first, flush=True)
for i, _ in enumerate(sys.stdin):
  start = time.perf_counter()
  epochs.run(i)
  print("seconds", (time.perf_counter() - start) / epochs.epochs, flush=True)
"""


def run(sizes: list[str], rounds: int, beside: Path) -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  print(f"{'size':<8} {'shuffle':<8} {'here':>9} {'beside':>9}  ratio (quartiles)")
  names = [name for name in OURS if name in ("exact", "fast")]
  return [row_of(size, name, rounds, beside.resolve()) for size in sizes for name in names]


def row_of(size: str, name: str, rounds: int, beside: Path) -> dict[str, Any]:
  """Return the time of an epoch with one shuffle, relative to the other checkout's."""
  with ExitStack() as started:
    calls = [started.enter_context(worker(checkout, name, size)) for checkout in (HERE, beside)]
    seconds = in_turns([seconds_of(process) for process in calls], rounds)
  low, ratio, high = quartiles(seconds[:, 0] / seconds[:, 1])
  here, there = (float(np.median(own)) for own in seconds.T)
  print(
    f"{size:<8} {name:<8} {shown(here):>9} {shown(there):>9}  {ratio:.3f} ({low:.3f}-{high:.3f})",
    flush=True,
  )
  return {
    "size": size, "shuffle": name, "seconds": here, "beside": there, "ratio": ratio,
    "quartiles": [low, high], "rounds": rounds,
  }  # fmt: skip


@contextmanager
def worker(checkout: Path, name: str, size: str) -> Iterator[Any]:
  """Start the process of a checkout, which inherits this one's cores; wait until it is ready."""
  with subprocess.Popen(
    [sys.executable, "-c", WORKER, name, size], cwd=checkout, text=True,
    env=os.environ | {"PYTHONPATH": str(checkout)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
  ) as process:  # fmt: skip
    read_seconds(process)
    yield process


def seconds_of(process: Any) -> Callable[[int], float]:
  """Build a call that runs the process's epochs and returns the seconds of one."""

  def run_once(_: int) -> float:
    print(flush=True, file=process.stdin)
    return read_seconds(process)

  return run_once


def read_seconds(process: Any) -> float:
  """Read the next "seconds ..." of a process."""
  for line in process.stdout:
    if line.startswith("seconds "):
      return float(line.split()[1])
  raise SystemExit(f"bench.py loop: the process of {process.args[-2:]} ended: see above")
