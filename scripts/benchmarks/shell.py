"""Whole commands, from the shell to their last file, beside another checkout and other libraries.

The clock stops when every process that a command began has ended. A run of the digits has a new
seed and a new learning rate each time, so that nothing but XLA's programs can be kept between runs.
Candidates alternate, and ratios are taken within a round.

- cold: the compilation cache is empty; warm: it holds the programs of an earlier run.
- memory: the largest resident set of any process of the command, by `wait4`; "together" is the
  largest sum over the processes that live at the same time, of a run by itself, since asking for it
  takes time.
- requests: the programs that a run asks XLA or its cache for, by JAX's own monitoring events.
- epochs: the loop beside a bare scan of `jax.grad` that records nothing, and beside scikit-learn.
- tests: those that both checkouts have by name, with an empty cache of programs and with their own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scripts.benchmarks import machine
from scripts.benchmarks.rounds import quartiles

HERE = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).with_name("shell_scripts")
PEERS = ("torch", "sklearn")
# Counts the compile requests of a command, and prints them behind its output.
COUNTING = """
import atexit, sys
from jax import monitoring
names = []
monitoring.register_event_duration_secs_listener(
  lambda name, seconds, **_: names.append(name)
)
atexit.register(lambda: print(
  "requests", names.count("/jax/core/compile/backend_compile_duration")
))
from fbackprop.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Run(NamedTuple):
  """What a command took: wall and CPU seconds, MiB of its largest process, and its output."""

  seconds: float
  cpu: float
  memory: float
  output: str


class Candidate(NamedTuple):
  """A command that trains on the digits: its name, words, checkout, and Python."""

  name: str
  words: Sequence[str]
  checkout: Path | None = None
  python: str = sys.executable

  def command(self, number: int) -> list[str]:
    """Return the command of a round, with its own seed and rate."""
    own = ["--seed", str(number), "--rate", f"{0.5 + number / 1000:g}"]
    return [self.python, *self.words, *own]

  def environment(self, cache: str) -> dict[str, str]:
    """Return the environment, with a home of its own for all caches but matplotlib's fonts."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "PYTHONPATH"))}
    fonts = os.environ.get("MPLCONFIGDIR") or str(Path.home() / ".cache" / "matplotlib")
    own = {"XDG_CACHE_HOME": cache, "MPLCONFIGDIR": fonts, "JAX_PLATFORMS": "cpu"}
    path = {} if self.checkout is None else {"PYTHONPATH": str(self.checkout)}
    return {**known, **own, **path}


def timed(command: Sequence[str], environment: dict[str, str], folder: str) -> Run:
  """Run a command in a folder, and wait for every process that it began."""
  output = Path(folder, "output.txt")
  start = time.perf_counter()
  with output.open("w", encoding="utf-8") as file:
    process = subprocess.Popen(
      command, env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT,
      start_new_session=True,
    )  # fmt: skip
  _, status, spent = os.wait4(process.pid, 0)
  process.returncode = os.waitstatus_to_exitcode(status)
  while lives(process.pid):
    time.sleep(0.002)
  seconds = time.perf_counter() - start
  text = output.read_text(encoding="utf-8")
  if process.returncode:
    raise SystemExit(f"bench.py shell: {' '.join(command)} failed: {text[-1500:]}")
  # In KiB on Linux, and of the process or its largest waited-for child; at least that of this
  # process, since Linux counts the memory that a process had before its `exec`.
  return Run(seconds, spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 2**10, text)


def lives(session: int) -> bool:
  """Return whether a process of a session is still there."""
  try:
    os.killpg(session, 0)
  except ProcessLookupError:
    return False
  return True


def together(command: Sequence[str], environment: dict[str, str], folder: str) -> float:
  """Run a command; return the largest sum of its processes' memory in MiB, shared pages divided."""
  with Path(folder, "output.txt").open("w", encoding="utf-8") as file:
    process = subprocess.Popen(
      command, env=environment, cwd=folder, stdout=file, stderr=file, start_new_session=True
    )
  largest = 0.0
  while process.poll() is None:
    largest = max(largest, sum(map(proportional_set, members(process.pid))))
    time.sleep(0.02)
  return largest


def members(session: int) -> list[int]:
  """List the processes of a session."""
  found = []
  for path in Path("/proc").glob("[0-9]*/stat"):
    try:
      if int(path.read_text().rpartition(")")[2].split()[3]) == session:
        found.append(int(path.parent.name))
    except (OSError, IndexError, ValueError):
      continue
  return found


def proportional_set(process: int) -> float:
  """Return a process's memory in MiB, shared pages divided among their users."""
  try:
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
  except OSError:
    return 0.0
  return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 2**10


def candidates_of(beside: Path, python: str) -> list[Candidate]:
  """List the candidates: ours, that of the other checkout, and the peers that are installed."""
  train = ("-m", "fbackprop", "train")
  found = [Candidate("here", train, HERE), Candidate("beside", train, beside)]
  for peer, package in (("torch", "torch"), ("sklearn", "sklearn")):
    own = python if peer == "torch" else sys.executable
    asked = subprocess.run([own, "-c", f"import {package}"], capture_output=True, check=False)
    if asked.returncode == 0:
      found.append(Candidate(peer, (str(SCRIPTS / f"{peer}_digits.py"),), python=own))
    else:
      print(f"{peer}: {package} is not installed for {own}")
  return found


def run(sizes: list[str], rounds: int, beside: Path, python: str) -> list[dict[str, Any]]:
  """Print the tables; return the rows for the file."""
  every = candidates_of(beside.resolve(), python)
  rows = [row for size in sizes if size in ("cold", "warm") for row in table(size, every, rounds)]
  if "memory" in sizes:
    rows += memory_rows(every[:2])
  if "requests" in sizes:
    rows += request_rows(every[:2])
  if "tests" in sizes:
    rows += tests_rows(every[:2])
  if "epochs" in sizes:
    # A table of its own, on one core and on two.
    words = ["epoch", "--peers", "grad", "sklearn", "--rounds", str(rounds)]
    subprocess.run([sys.executable, str(HERE / "scripts" / "bench.py"), *words], check=True)
  return rows


def table(size: str, every: list[Candidate], rounds: int) -> list[dict[str, Any]]:
  """Time the candidates, with an empty cache or with one that a run before the first has filled."""
  seconds, cpu, memory = (np.zeros((rounds, len(every))) for _ in range(3))
  scores: dict[str, str] = {}
  with tempfile.TemporaryDirectory() as home:
    for number in range(0 if size == "warm" else 1, rounds + 1):
      order = range(len(every)) if number % 2 else reversed(range(len(every)))
      for i in order:
        own = every[i]
        cache = Path(home, own.name)
        if size == "cold":
          shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
          found = timed(own.command(number), own.environment(str(cache)), folder)
        scores[own.name] = score_in(found.output)
        if number:
          seconds[number - 1, i], cpu[number - 1, i], memory[number - 1, i] = found[:3]
  print(f"\n{size} cache, {rounds} rounds, {machine.shown_cores(None)}")
  print(f"{'':<10} {'seconds':>8} {'CPU':>7} {'MiB':>6}  here / it (quartiles)    accuracy")
  return [
    line_of(size, own.name, rounds, scores[own.name], seconds[:, i], seconds[:, 0], cpu[:, i],
            memory[:, i])
    for i, own in enumerate(every)
  ]  # fmt: skip


def line_of(
  size: str, name: str, rounds: int, score: str, seconds: np.ndarray, ours: np.ndarray,
  cpu: np.ndarray, memory: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
  """Print and return a candidate's row."""
  low, ratio, high = quartiles(ours / seconds)
  middle, used, size_of = (float(np.median(part)) for part in (seconds, cpu, memory))
  print(
    f"{name:<10} {middle:>7.2f}s {used:>6.2f}s {size_of:>6.0f}  {ratio:.2f} ({low:.2f}-{high:.2f})"
    f"{score:>19}",
    flush=True,
  )
  return {
    "size": size, "candidate": name, "seconds": middle, "cpu": used, "memory": size_of,
    "here_over_it": ratio, "quartiles": [low, high], "rounds": rounds, "accuracy": score,
  }  # fmt: skip


def score_in(output: str) -> str:
  """Return the test accuracy that a command printed last."""
  _, found, rest = output.rpartition("test accuracy")
  return rest.split()[0].rstrip(";") if found else "-"


def memory_rows(every: list[Candidate]) -> list[dict[str, Any]]:
  """Print the largest sums of memory of all processes of a command, with an empty cache."""
  rows: list[dict[str, Any]] = []
  print("\nmemory of all processes at once, empty cache")
  for own in every:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
      found = together(own.command(1), own.environment(cache), folder)
    print(f"{own.name:<10} {found:>6.0f} MiB", flush=True)
    rows.append({"size": "memory", "candidate": own.name, "together": found})
  print(f"here / beside: {rows[0]['together'] / rows[1]['together']:.2f}")
  return rows


def request_rows(every: list[Candidate]) -> list[dict[str, Any]]:
  """Print the compile requests of a run, with an empty cache."""
  rows = []
  print("\ncompile requests")
  for own in every:
    counting = own._replace(words=("-c", COUNTING, "train"))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
      found = timed(counting.command(1), own.environment(cache), folder)
    count = int(found.output.rpartition("requests")[2])
    print(f"{own.name:<10} {count:>6}", flush=True)
    rows.append({"size": "requests", "candidate": own.name, "requests": count})
  return rows


# A plugin of pytest that adds up the seconds of each test by its name.
DURATIONS = """
import collections, json, os
seconds = collections.Counter()
def pytest_runtest_logreport(report):
  seconds[report.nodeid.partition("[")[0].rpartition("::")[2]] += report.duration
def pytest_sessionfinish():
  with open(os.environ["DURATIONS"], "w") as file:
    json.dump(seconds, file)
"""
# Those that train: a part of the suite that both checkouts have, and that takes some minutes.
TESTED = ("tests/train", "tests/cli", "tests/test_train*.py", "tests/test_cli*.py")


def tests_rows(every: list[Candidate]) -> list[dict[str, Any]]:
  """Print the time of the tests that both checkouts have by name, with an empty cache and warm."""
  times: dict[tuple[str, str], dict[str, float]] = {}
  for own in every:
    assert own.checkout is not None
    paths = [str(p) for pattern in TESTED for p in sorted(own.checkout.glob(pattern))]
    with tempfile.TemporaryDirectory() as home:
      Path(home, "durations_of_tests.py").write_text(DURATIONS)
      environment = own.environment(home)
      environment |= {"PYTHONPATH": f"{own.checkout}:{home}", "DURATIONS": f"{home}/seconds.json"}
      words = ["-m", "pytest", "-q", "-n", "0", "-p", "durations_of_tests",
               "-o", f"cache_dir={home}/pytest"]  # fmt: skip
      for size in ("empty", "warm"):
        subprocess.run(
          [own.python, *words, *paths], cwd=own.checkout, env=environment, check=False,
          stdout=subprocess.DEVNULL,
        )  # fmt: skip
        times[own.name, size] = json.loads(Path(home, "seconds.json").read_text())
  rows = []
  print("\ntests of training and of the command line that both have, by name")
  for size in ("empty", "warm"):
    here, there = times["here", size], times["beside", size]
    shared = sorted(here.keys() & there.keys())
    ours, theirs = (sum(map(part.__getitem__, shared)) for part in (here, there))
    print(f"{size:<10} {len(shared)} names: {ours:.0f} s and {theirs:.0f} s: {ours / theirs:.2f}")
    rows.append({"size": "tests", "cache": size, "names": len(shared), "ratio": ours / theirs})
  return rows
