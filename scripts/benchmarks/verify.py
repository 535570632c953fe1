"""Time of a verification at "standard", beside that of another checkout of this repository.

Each run is a process that has imported jax, but neither fbackprop nor what that imports. The two
checkouts alternate. First with an empty cache of compiled programs, then with the one that the
first run has filled.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarks import verify_subjects
from scripts.benchmarks.rounds import quartiles

HERE = Path(__file__).resolve().parents[2]


def seconds_of(subject: str, checkout: Path, cache: str) -> list[float]:
  """Verify a subject in a process of its own; return its seconds and its CPU seconds."""
  environment = os.environ | {
    "PYTHONPATH": str(checkout),
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  command = [sys.executable, str(Path(verify_subjects.__file__)), subject]
  done = subprocess.run(
    command, env=environment, cwd=checkout, capture_output=True, text=True, check=False
  )
  if done.returncode:
    raise SystemExit(f"bench.py verify: {subject} of {checkout} failed: {done.stderr[-800:]}")
  return [float(word) for word in done.stdout.split()[-2:]]


def run(sizes: list[str], rounds: int, beside: Path) -> list[dict[str, Any]]:
  """Print the table; return its rows for the file."""
  print(f"{'subject':<10} {'cache':<6} {'here':>8} {'beside':>8}  ratio (quartiles)   CPU ratio")
  return [row for size in sizes for row in rows_of(size, rounds, beside.resolve())]


def rows_of(subject: str, rounds: int, beside: Path) -> list[dict[str, Any]]:
  """Return the times with an empty and with a filled cache, relative to the other checkout's."""
  seconds: dict[str, list[list[list[float]]]] = {"empty": [], "filled": []}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as cache:
      for times in seconds.values():
        pairs = ((HERE, f"{cache}/here"), (beside, f"{cache}/beside"))
        times.append([seconds_of(subject, checkout, own) for checkout, own in pairs])
  rows = []
  for cache, measured in seconds.items():
    own, other = np.moveaxis(np.array(measured), 1, 0)
    low, ratio, high = quartiles(own[:, 0] / other[:, 0])
    cpu = float(np.median(own[:, 1] / other[:, 1]))
    here, there = (float(np.median(x[:, 0])) for x in (own, other))
    print(
      f"{subject:<10} {cache:<6} {here:>7.2f}s {there:>7.2f}s  {ratio:.2f} ({low:.2f}-{high:.2f})"
      f"{cpu:>16.2f}",
      flush=True,
    )
    rows.append({
      "size": subject, "cache": cache, "seconds": here, "beside": there, "ratio": ratio,
      "quartiles": [low, high], "cpu_ratio": cpu, "rounds": rounds,
    })  # fmt: skip
  return rows
