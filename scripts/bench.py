"""Measures fbackprop on this machine, each figure beside that of plain JAX.

  python scripts/bench.py step          loss and gradient, on one core and on two; some minutes
  python scripts/bench.py step --sizes tiny mnist --cores 1 --rounds 25 --json step.json
  python scripts/bench.py epoch         an epoch of ours and of other libraries, as many as are
                                        installed; FILE keeps the rows of other sizes and cores
  python scripts/bench.py peak          the share of a lone product's speed that our step reaches
  python scripts/bench.py depth         compile time of 5 to 1,025 equal layers; two minutes
  python scripts/bench.py guard         what it costs to look whether a step is finite; a minute
  python scripts/bench.py residuals     what is kept for the backward pass; nothing is timed
  python scripts/bench.py checkers      our verifier beside other checkers, on the planted bugs;
                                        rows of other peers that FILE has already are kept
  python scripts/bench.py ensemble      XOR networks trained a second, many at once; some minutes
  python scripts/bench.py quantities    norms, clipping and more beside a plain gradient, beside
                                        vmap(jax.grad), BackPACK and Opacus; ten minutes

Every measurement is a process of its own, and on a CPU it is pinned to its cores before jax starts.
On a GPU or a TPU nothing is pinned.
"""

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmarks import machine
from scripts.benchmarks.contestants import CONTESTANTS, EXAMPLES, OURS
from scripts.benchmarks.peers import HEADING, PEERS
from scripts.benchmarks.sizes import QUANTITY_SIZES, SIZES


def main(arguments: list[str] | None = None) -> int:
  """Run the script."""
  about, _, usage = (__doc__ or "").partition("\n")
  parser = argparse.ArgumentParser(
    description=about, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  commands = parser.add_subparsers(dest="command", required=True)
  step = commands.add_parser("step", help="time of loss and gradient, beside jax.value_and_grad")
  step.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), metavar="SIZE")
  step.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="default: 1 2")
  step.add_argument("--rounds", type=int, default=15, help="rounds that count (default: 15)")
  epoch = commands.add_parser("epoch", help="time of an epoch, beside other libraries")
  others = [name for name in CONTESTANTS if name not in OURS]
  epoch.add_argument("--sizes", nargs="+", choices=EXAMPLES, default=list(EXAMPLES), metavar="SIZE")
  epoch.add_argument("--peers", nargs="*", choices=others, default=others, metavar="PEER")
  peak = commands.add_parser("peak", help="our step's GFLOP/s over those of a lone product")
  peak.add_argument("--sizes", nargs="+", choices=SIZES, default=["mnist", "deep", "wide"],
                    metavar="SIZE")  # fmt: skip
  for command in (epoch, peak):
    command.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="default: 1 2")
    command.add_argument("--rounds", type=int, default=15, help="rounds that count (default: 15)")
  depth = commands.add_parser("depth", help="compile time against the number of layers")
  depth.add_argument("--rounds", type=int, default=7, help="default: 7")
  guard = commands.add_parser("guard", help="cost of looking whether a step is finite")
  guard.add_argument("--sizes", nargs="+", choices=SIZES, default=["tiny", "digits", "mnist"],
                     metavar="SIZE")  # fmt: skip
  guard.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="default: 1 2")
  guard.add_argument("--rounds", type=int, default=15, help="default: 15")
  residuals = commands.add_parser("residuals", help="what is kept for the backward pass")
  checkers = commands.add_parser("checkers", help="our verifier beside other gradient checkers")
  checkers.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
  checkers.add_argument("--only", nargs="+", default=[], metavar="WORD", help="names of specimens")
  checkers.add_argument("--limit", type=float, default=60.0, help="seconds for each (default: 60)")
  ensemble = commands.add_parser("ensemble", help="XOR networks trained a second, many at once")
  ensemble.add_argument("--sizes", nargs="+", type=int, default=[1, 16, 256, 4096, 65536],
                        metavar="K", help="members (default: 1 16 256 4096 65536)")  # fmt: skip
  ensemble.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="default: 1 2")
  ensemble.add_argument("--rounds", type=int, default=7, help="default: 7")
  quantities = commands.add_parser("quantities", help="what is told of each example, beside others")
  quantities.add_argument("--sizes", nargs="+", choices=QUANTITY_SIZES,
                          default=list(QUANTITY_SIZES), metavar="SIZE")  # fmt: skip
  quantities.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="default: 1 2")
  quantities.add_argument("--rounds", type=int, default=15, help="default: 15")
  for command in (step, epoch, peak, depth, guard, residuals, checkers, ensemble, quantities):
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
  options = vars(parser.parse_args(arguments))
  command, file = options.pop("command"), options.pop("json")
  cores = options.pop("cores", [None])
  if any(count is not None and not 1 <= count <= machine.core_count() for count in cores):
    parser.error(f"--cores must be from 1 to {machine.core_count()}, got {cores}")
  if options.get("rounds", 2) < 2:
    parser.error(f"--rounds must be at least 2, got {options['rounds']}")

  about_jax = in_process(None, machine.describe_jax)
  here = {"cpu": machine.processor(), "cores_here": machine.core_count(), **about_jax}
  print("; ".join(f"{name} {value}" for name, value in here.items()))
  if here["backend"] != "cpu":
    cores = [None]
  rows: list[dict[str, Any]] = []
  jobs: list[tuple[int | None, dict[str, Any]]] = [(count, options) for count in cores]
  if command == "checkers":
    print(f"\n{HEADING}", flush=True)
    peers = options.pop("peers")
    jobs = [(None, {**options, "peer": peer}) for peer in peers]
    if file and file.exists():
      rows = [row for row in json.loads(file.read_text())["rows"] if row["peer"] not in peers]
  if command == "quantities":
    # An environment variable of glibc, for the processes started below.
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
  if command in ("epoch", "quantities") and file and file.exists():
    rows = [row for row in json.loads(file.read_text())["rows"]
            if row["size"] not in options["sizes"] or row["cores"] not in cores]  # fmt: skip
  for count, job in jobs:
    if command != "checkers":
      print(f"\n{command}, {machine.shown_cores(count)}", flush=True)
    found = in_process(count, partial(machine.call, f"scripts.benchmarks.{command}", job))
    rows += [{"cores": count, **row} for row in found]
    if file:
      made = {"date": date.today().isoformat(), "machine": here, "rows": rows}
      file.write_text(json.dumps(made, indent=1) + "\n")
  return 0


def in_process(cores: int | None, function: Any) -> Any:
  """Call a function in a new process, pinned to that many cores; None for all."""
  spawn = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(1, spawn, machine.pin, (cores,)) as pool:
    return pool.submit(function).result()


if __name__ == "__main__":
  sys.exit(main())
