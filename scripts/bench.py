"""Measures fbackprop on this machine, each figure beside that of plain JAX.

  python scripts/bench.py step          loss and gradient, on one core and on two; some minutes
  python scripts/bench.py step --sizes tiny mnist --cores 1 --rounds 25 --json step.json
  python scripts/bench.py epoch         an epoch of ours and of other libraries, as many as are
                                        installed; FILE keeps the rows of other sizes and cores
  python scripts/bench.py loop --beside FOLDER
                                        an epoch of ours beside another checkout's, two processes
                                        in turns; some minutes
  python scripts/bench.py peak          the share of a lone product's speed that our step reaches
  python scripts/bench.py depth         compile time of 5 to 1,025 equal layers; two minutes
  python scripts/bench.py guard         what it costs to look whether a step is finite; a minute
  python scripts/bench.py rules         steps by other backward rules beside backpropagation's
  python scripts/bench.py residuals     what is kept for the backward pass; nothing is timed
  python scripts/bench.py checkers      our verifier beside other checkers, on the planted bugs;
                                        rows of other peers that FILE has already are kept
  python scripts/bench.py ensemble      XOR networks trained a second, many at once; some minutes
  python scripts/bench.py quantities    norms, clipping and more beside a plain gradient, beside
                                        vmap(jax.grad), BackPACK and Opacus; ten minutes
  python scripts/bench.py curvature     diagonals, Kronecker factors and products beside a plain
                                        gradient, memory beside jax.hessian, K-FAC's steps; and
                                        beside BackPACK and curvlinops, if they are installed
  python scripts/bench.py estimator     a fit of fbackprop.sklearn beside scikit-learn's, warm and
                                        cold, and its accuracy over five seeds; ten minutes
  python scripts/bench.py verify --beside FOLDER
                                        time of a verification beside another checkout's
  python scripts/bench.py shell --beside FOLDER
                                        whole commands, from the shell to the trained model, beside
                                        another checkout's, scikit-learn and torch; 15 minutes
  python scripts/bench.py shell --beside FOLDER --sizes tests
                                        the time of the tests that both checkouts have

Every measurement is a process of its own, and on a CPU it is pinned to its cores before jax starts.
On a GPU or a TPU nothing is pinned.
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmarks import machine
from scripts.benchmarks.peers import HEADING, PEERS
from scripts.benchmarks.subjects import CONTESTANTS, EXAMPLES, OURS, QUANTITY_SIZES, SIZES
from scripts.campaigns import results

VERIFIED = ("small", "file", "network", "self-test")
CURVATURE = ("mnist", "peers", "hessian", "kfac")
ESTIMATOR = ("digits", "table", "accuracy")
COMMANDS = ["cold", "warm", "memory", "requests", "epochs"]
MEMBERS = [1, 16, 256, 4096, 65536]
MEASUREMENTS: dict[str, tuple[str, Any, list[Any], int]] = {
  "step": ("time of loss and gradient, beside jax.value_and_grad", SIZES, [*SIZES], 15),
  "epoch": ("time of an epoch, beside other libraries", EXAMPLES, [*EXAMPLES], 15),
  "loop": ("an epoch of our loop, beside another checkout", EXAMPLES, [*EXAMPLES], 60),
  "peak": ("our step's GFLOP/s over those of a lone product", SIZES, ["mnist", "deep", "wide"], 15),
  "depth": ("compile time against the number of layers", (), [], 7),
  "guard": ("cost of looking whether a step is finite", SIZES, ["tiny", "digits", "mnist"], 15),
  "rules": ("steps by other backward rules", SIZES, ["digits", "mnist"], 15),
  "residuals": ("what is kept for the backward pass", (), [], 0),
  "checkers": ("our verifier beside other gradient checkers", (), [], 0),
  "ensemble": ("XOR networks trained a second, many at once", (), MEMBERS, 7),
  "quantities": (
    "what is told of each example, beside others", QUANTITY_SIZES, [*QUANTITY_SIZES], 15,
  ),
  "curvature": ("second order, beside a plain gradient", CURVATURE, [*CURVATURE], 15),
  "estimator": ("a fit beside scikit-learn's", ESTIMATOR, [*ESTIMATOR], 5),
  "verify": (
    "time of a verification, beside another checkout", VERIFIED, ["small", "file", "network"], 9,
  ),
  "shell": ("whole commands, beside another checkout", [*COMMANDS, "tests"], [], 9),
}  # fmt: skip
"""Each command's help, choices of sizes, default sizes (with which there are cores), rounds."""


def main(arguments: list[str] | None = None) -> int:
  """Run the script."""
  parser = results.parser_of(__doc__)
  commands = parser.add_subparsers(dest="command", required=True)
  for name, (about, choices, sizes, rounds) in MEASUREMENTS.items():
    command = commands.add_parser(name, help=about)
    command.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    if choices:
      command.add_argument("--sizes", nargs="+", choices=choices, default=sizes, metavar="SIZE")
    if rounds:
      about = f"rounds that count (default: {rounds})"
      command.add_argument("--rounds", type=int, default=rounds, help=about)
    if sizes:
      command.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="default: 1 2")
  others = [name for name in CONTESTANTS if name not in OURS]
  add = commands.choices["epoch"].add_argument
  add("--peers", nargs="*", choices=others, default=others, metavar="PEER")
  add = commands.choices["ensemble"].add_argument
  about = f"members (default: {' '.join(map(str, MEMBERS))})"
  add("--sizes", nargs="+", type=int, default=MEMBERS, metavar="K", help=about)
  add = commands.choices["checkers"].add_argument
  add("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER")
  add("--only", nargs="+", default=[], metavar="WORD", help="names of specimens")
  add("--limit", type=float, default=60.0, help="seconds for each (default: 60)")
  about = "the folder of another checkout, as git worktree makes one"
  for name in ("verify", "shell", "loop"):
    commands.choices[name].add_argument("--beside", type=Path, required=True, help=about)
  commands.choices["shell"].set_defaults(sizes=COMMANDS)
  about = "the Python of an environment with torch (default: this one)"
  commands.choices["shell"].add_argument("--python", default=sys.executable, help=about)
  options = vars(parser.parse_args(arguments))
  command, file = options.pop("command"), options.pop("json")
  cores = options.pop("cores", [None])
  if any(count is not None and not 1 <= count <= machine.core_count() for count in cores):
    parser.error(f"--cores must be from 1 to {machine.core_count()}, got {cores}")
  if options.get("rounds", 2) < 2:
    parser.error(f"--rounds must be at least 2, got {options['rounds']}")

  here = in_process(None, machine.describe)
  print("; ".join(f"{name} {value}" for name, value in here.items()))
  if here["backend"] != "cpu":
    cores = [None]
  jobs: list[tuple[int | None, dict[str, Any]]] = [(count, options) for count in cores]
  keeps = file and command in ("checkers", "curvature", "epoch", "quantities")
  kept: list[dict[str, Any]] = results.read(file, {"rows": []})["rows"] if keeps else []
  if command == "checkers":
    print(f"\n{HEADING}", flush=True)
    peers = options.pop("peers")
    jobs = [(None, {**options, "peer": peer}) for peer in peers]
    rows = [row for row in kept if row["peer"] not in peers]
  else:
    rows = [r for r in kept if r["size"] not in options["sizes"] or r["cores"] not in cores]
  if command == "quantities":
    # An environment variable of glibc, for the processes started below.
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
  for count, job in jobs:
    if command != "checkers":
      print(f"\n{command}, {machine.shown_cores(count)}", flush=True)
    found = in_process(count, partial(machine.call, f"scripts.benchmarks.{command}", job))
    rows += [{"cores": count, **row} for row in found]
    if file:
      results.write(file, {"date": date.today().isoformat(), "machine": here, "rows": rows})
  return 0


def in_process(cores: int | None, function: Any) -> Any:
  """Call a function in a new process, pinned to that many cores; None for all."""
  spawn = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(1, spawn, machine.pin, (cores,)) as pool:
    return pool.submit(function).result()


if __name__ == "__main__":
  sys.exit(main())
