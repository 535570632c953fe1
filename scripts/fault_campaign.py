"""500 kills and 1,000 damaged files: is any bit of a run lost?

  python scripts/fault_campaign.py                  goes on where it stopped; about half an hour
  python scripts/fault_campaign.py --kills 20       fewer kills
  python scripts/fault_campaign.py --damages 50     fewer damaged files

A kill is a SIGKILL while a run writes its checkpoints, at a seeded touch of a file or at a seeded
instant. The run goes on, may be killed again, and must end in the bits of the run that never was.
A damaged checkpoint, cut short or with a flipped bit, must be refused by its name, and the run go
on from the one before to the same bits; damaged final weights must be refused. What each one gave
is written to experiments/results/fault_campaign.json before the next one is taken.
"""

import itertools
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import fbackprop as fb
from scripts.campaigns import faults, results

RESULTS = results.RESULTS / "fault_campaign.json"
# A run touches a file of its checkpoints 330 times, and takes some seconds: time for several kills.
TOUCHES, SECONDS = 90, 4.0


def main(arguments: list[str] | None = None) -> int:
  """Run the missing cases, and print the totals; return 1 if a bit was lost."""
  parser = results.parser_of(__doc__)
  parser.add_argument("--kills", type=int, default=500)
  parser.add_argument("--damages", type=int, default=1000)
  parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
  options = parser.parse_args(arguments)
  found = results.read(options.json, {"runs": {}})
  runs: dict[str, Any] = found["runs"]

  def kept(name: str, run: Callable[[int], dict[str, Any]], number: int) -> None:
    if f"{name} {number}" not in runs:
      runs[f"{name} {number}"] = run(number)
      found["totals"] = totals(runs)
      results.write(options.json, found)
      print(results.line(found["totals"]), flush=True)

  with tempfile.TemporaryDirectory() as work:
    campaign = Campaign(Path(work))
    numbers = itertools.count()
    while totals(runs)["kills"] < options.kills:
      kept("kills", campaign.kill, next(numbers))
    for number in range(-(-options.damages // BATCH)):
      kept("damages", campaign.damage, number)
  sums = totals(runs)
  print(results.line(sums))
  return int(bool(sums["bits lost"] or sums["not refused"]))


BATCH = 50  # Damaged files per entry.


class Campaign:
  """Runs in processes of their own, and their expected bits."""

  def __init__(self, work: Path) -> None:
    self.work = work
    # A server process that has imported everything but initialised no device, so that forking it is
    # fast.
    self.processes = multiprocessing.get_context("forkserver")
    self.processes.set_forkserver_preload(["scripts.campaigns.faults", "orbax.checkpoint"])
    self.whole: dict[int, str] = {}  # The bits of each plan's uninterrupted run.

  def process(self, plan: int, folder: Path, kill_at: int | None, instant: float | None) -> str:
    """Run one process of a run, and return its bits; "" if it was killed."""
    out = self.work / "bits"
    out.unlink(missing_ok=True)
    args = (faults.PLANS[plan], str(folder), kill_at, str(out))
    process = self.processes.Process(target=faults.go_on, args=args)
    process.start()
    if instant is not None:
      process.join(instant)
      process.kill()
    process.join()
    if process.exitcode not in (0, -9):
      raise RuntimeError(f"a run ended with exit code {process.exitcode}, not by SIGKILL")
    return out.read_text() if process.exitcode == 0 and out.exists() else ""

  def kill(self, number: int) -> dict[str, Any]:
    """Kill a run several times, and then resume it to its end."""
    rng = random.Random(number)
    plan = number % len(faults.PLANS)
    if plan not in self.whole:
      self.whole[plan] = self.process(plan, self.work / f"whole-{plan}", None, None)
    folder = self.work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    start, kills = time.monotonic(), []
    for _ in range(rng.randint(2, 9)):
      if rng.random() < 0.6:
        how: dict[str, Any] = {"touch": rng.randint(1, TOUCHES)}
      else:
        how = {"instant": round(rng.uniform(0, SECONDS), 3)}
      if self.process(plan, folder, how.get("touch"), how.get("instant")):
        break
      kills.append(how)
    same = self.process(plan, folder, None, None) == self.whole[plan]
    seconds = round(time.monotonic() - start, 1)
    return {"plan": plan, "kills": kills, "same bits": same, "seconds": seconds}

  def damage(self, number: int) -> dict[str, Any]:
    """Damage the last checkpoint of a run, or its weights, several times."""
    rng = random.Random(10**6 + number)
    plan = number % len(faults.PLANS)
    start = time.monotonic()
    with self.processes.Pool(1) as pool:
      lost = pool.apply(damage_files, (plan, number, self.work / "damage", rng.random()))
    return {**lost, "plan": plan, "seconds": round(time.monotonic() - start, 1)}


def damage_files(plan: int, number: int, path: Path, seed: float) -> dict[str, Any]:
  """Damage files of one run repeatedly, in one process; return which damages were detected."""
  results.keep_compiled("fault-campaign")
  rng, own = random.Random(seed), faults.PLANS[plan]
  good, bad, weights = path / "good", path / "bad", path / "weights.safetensors"
  shutil.rmtree(path, ignore_errors=True)
  true = faults.bits(faults.run(own, str(good)))
  shutil.rmtree(good / str(faults.STEPS))  # So that some steps remain.
  last = max(good.iterdir(), key=lambda p: int(p.name))
  params = fb.mlp([4, 8, 3], dropout=own.dropout).init(jax.random.key(number))
  fb.train.save_params(weights, params)
  whole = weights.read_bytes()
  lost, silent = [], []
  for i in range(BATCH):
    if i % 2:
      weights.write_bytes(whole)
      how = faults.damage(weights, rng)
      try:
        fb.train.load_params(weights, params)
        silent.append(how)
      except ValueError as error:
        if weights.name not in str(error):
          silent.append(f"{how}: {error}")
      continue
    shutil.rmtree(bad, ignore_errors=True)
    shutil.copytree(good, bad)
    # Mostly the file with the numbers; orbax's other files hold none.
    files = sorted(p for p in (bad / last.name).rglob("*") if p.is_file())
    victims = [p for p in files if p.stat().st_size]
    victim = rng.choice(victims) if rng.random() < 0.2 else next(
      p for p in victims if p.name == "state.safetensors")  # fmt: skip
    how = f"{victim.name}: {faults.damage(victim, rng)}"
    events: list[str] = []
    if faults.bits(faults.run(own, str(bad), resumes=True, events=events)) != true:
      lost.append(how)
    if victim.name == "state.safetensors" and not any(str(victim) in event for event in events):
      silent.append(how)
  return {"damages": BATCH, "bits lost": lost, "not refused": silent}


def totals(runs: dict[str, Any]) -> dict[str, Any]:
  """Return the sums over the runs."""
  killed = [run for name, run in runs.items() if name.startswith("kills")]
  damaged = [run for name, run in runs.items() if name.startswith("damages")]
  kills = [kill for run in killed for kill in run["kills"]]
  bits_lost = sum(not run["same bits"] for run in killed)
  return {
    "runs": len(killed),
    "kills": len(kills),
    "at a touch of a file": sum("touch" in kill for kill in kills),
    "damages": sum(run["damages"] for run in damaged),
    "bits lost": bits_lost + sum(len(run["bits lost"]) for run in damaged),
    "not refused": sum(len(run["not refused"]) for run in damaged),
    "seconds": round(sum(run["seconds"] for run in runs.values())),
  }


if __name__ == "__main__":
  sys.exit(main())
