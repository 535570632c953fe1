"""Verifies the package itself: activations × losses × dtypes, and what the page says of it.

  python scripts/trust.py                      goes on where it stopped; half an hour on two cores
  python scripts/trust.py --only float16 relu  the cells that these words name: dtype, loss, layer
  python scripts/trust.py --only hinge --again those once more, as after a change of the rule
  python scripts/trust.py --page               writes docs/trust.md from what is there

Every cell is one `fb.verify.vjp` or `fb.verify.layer` at level "standard", in a process with two
CPU devices. The cells of one dtype and loss are a chunk, and what it gave is written to
experiments/results/trust.json before the next one is taken. Exits with 1 if a cell is no pass.
"""

import argparse
import collections
import itertools
import json
import math
import multiprocessing
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fbackprop.files import write_whole
from fbackprop.verify.report import Report
from scripts.benchmarks import machine
from scripts.campaigns.matrix import Cell, cells, verify
from scripts.campaigns.results import cache_options, parser_of
from scripts.campaigns.trust_page import Results, page, read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "trust.json"
PAGE = ROOT / "docs" / "trust.md"


def main(arguments: list[str] | None = None) -> int:
  """Run the missing cells, write the page, and print the totals."""
  parser = parser_of(__doc__)
  parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
  parser.add_argument("--again", action="store_true", help="also cells that have been verified")
  parser.add_argument("--page", action="store_true", help="verify nothing")
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
  parser.add_argument("--doc", type=Path, default=PAGE, metavar="FILE")
  options = parser.parse_args(arguments)
  results = read_results(options.json) if options.json.exists() else Results({}, {})
  if not options.page:
    results = run(results, options)
  if results.cells:
    options.doc.write_text(page(results), encoding="utf-8")
  verdicts = collections.Counter(cell["verdict"] for cell in results.cells.values())
  print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()))
  return int(any(verdict != "pass" for verdict in verdicts))


def run(results: Results, options: argparse.Namespace) -> Results:
  """Return the results, with the requested cells that were missing."""
  # For the child processes; in this one jax computes nothing.
  os.environ |= {name.upper(): str(value) for name, value in cache_options("trust").items()}
  os.environ["JAX_NUM_CPU_DEVICES"] = "2"
  # Not an executor: with `max_tasks_per_child` Python 3.11's comes to a standstill.
  with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=4) as pool:
    made = pool.apply(describe)
    if results.made and {**results.made, "date": made["date"]} != made:
      print(f"what is there was made otherwise, and is left out: {results.made}")
      results = Results({}, {})
    results = results._replace(made=made)
    chosen = [cell for cell in cells() if all(word in cell for word in options.only)]
    missing = [cell for cell in chosen if options.again or cell not in results.cells]
    chunks = [list(own) for _, own in itertools.groupby(missing, lambda cell: cell[:2])]
    start, done = time.monotonic(), 0
    for chunk, found in pool.imap_unordered(run_chunk, chunks):
      results.cells.update(zip(map(tuple, chunk), found, strict=True))
      write_whole(options.json, as_json(results).encode())
      done += len(found)
      others = [f"{cell.net}: {own['verdict']}" for cell, own in zip(chunk, found, strict=True)
                if own["verdict"] != "pass"]  # fmt: skip
      print(f"{done} of {len(missing)}, {time.monotonic() - start:.0f} s   "
            f"{chunk[0].dtype}   {chunk[0].loss}   {', '.join(others)}", flush=True)  # fmt: skip
  return results


def describe() -> dict[str, Any]:
  """Describe the machine and the versions."""
  return {
    "date": date.today().isoformat(),
    "processor": machine.processor(),
    "backend": jax.default_backend(),
    "devices": jax.device_count(),
    "jax": jax.__version__,
    "numpy": np.__version__,
    "python": platform.python_version(),
  }


def run_chunk(chunk: list[Cell]) -> tuple[list[Cell], list[dict[str, Any]]]:
  """Return the result of each cell of a chunk."""
  found = []
  for cell in chunk:
    start = time.process_time()
    found.append(plain(verify(cell)) | {"cpu_seconds": round(time.process_time() - start, 1)})
  return chunk, found


def plain(report: Report) -> dict[str, Any]:
  """Return the recorded part of a report."""
  wrong = [f for f in report.findings if f.kind != "note"]
  at_fault = {f.regime: f.kind for f in reversed(wrong)}
  return {
    "verdict": report.verdict,
    "checks": {c.check: c.verdict for c in report.checks},
    "regimes": {name: at_fault.get(name, "pass") for name in report.regimes},
    "not_checked": list(report.not_checked),
    "findings": [
      {k: v for k, v in f._asdict().items() if k in TOLD and v not in ("", None)} for f in wrong
    ],
    "notes": sorted({f"{f.check}: {f.message or f.cause}" for f in report.findings
                     if f.kind == "note"}),
    "max_sigma": rounded(report.max_sigma),
    "worst_ulp": rounded(report.worst_ulp),
  }  # fmt: skip


TOLD = ("kind", "check", "regime", "leaf", "got", "want", "bound", "cause", "message")


def rounded(value: float) -> float | None:
  """Round to three digits; None for a nonfinite number, which JSON can't represent."""
  return float(f"{value:.3g}") if math.isfinite(value) else None


# --- The file -------------------------------------------------------------------------------------


def as_json(results: Results) -> str:
  """Format one line per cell; texts that many cells share, such as names of checks, are numbered.

  `read_results` reads it.
  """
  shared: dict[str, int] = {}

  def number(value: Any) -> int:
    return shared.setdefault(json.dumps(value), len(shared))

  rows = []
  for key in filter(results.cells.__contains__, cells()):
    cell = results.cells[key]
    own = {k: number(v) if isinstance(v, dict | list) else v for k, v in cell.items()}
    rows.append(f"  {json.dumps(' / '.join(key))}: {json.dumps(own)}")
  cells_lines, shared_lines = ",\n".join(rows), ",\n".join(f"  {value}" for value in shared)
  return (
    f'{{\n "made": {json.dumps(results.made)},\n "shared": [\n{shared_lines}\n ],\n'
    f' "cells": {{\n{cells_lines}\n }}\n}}\n'
  )


if __name__ == "__main__":
  sys.exit(main())
