"""Verifies hand-written rules of public packages: what `fb.verify` says of other people's work.

  python scripts/verify_world.py                     goes on where it stopped; an hour
  python scripts/verify_world.py --only ott,numpyro  rules whose name contains one of these
  python scripts/verify_world.py --again             anew, also those that have a row
  python scripts/verify_world.py --page              writes docs/world.md, and verifies nothing
  python scripts/verify_world.py --list              the rules, and what is known of each
  python scripts/verify_world.py --cases my.cases --python .venv/bin/python --json my.json
                                                     those of a module's own RULES

The packages, pinned, are installed once into an environment of their own (--env, some GB; it may be
deleted). Each rule is verified in a process of its own, with a time limit that the verifier knows
(--seconds) and is killed twice as long after. Its row is written to experiments/results/world.json
before the next rule begins.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import venv
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from fbackprop.files import write_whole
from scripts.campaigns import results
from scripts.campaigns.world import page
from scripts.campaigns.world.rule import Rule, rules_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = results.RESULTS / "world.json"
PAGE = ROOT / "docs" / "world.md"
PINS = ROOT / "scripts" / "campaigns" / "world" / "requirements.txt"
# A rule's process is killed after twice its time and so many seconds, for imports.
GRACE = 60.0
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fbackprop-world"


def main(arguments: list[str] | None = None) -> int:
  """Verify the rules that have no row, or write the page."""
  options = options_of(arguments)
  found = results.read(options.json, {"rules": {}})
  rules = rules_of(options.cases)
  chosen = [rule for rule in rules if any(word in rule.key for word in options.only.split(","))]
  if options.list:
    for rule in chosen:
      print(f"{found['rules'].get(rule.key, {}).get('verdict', '-'):<14}{rule.key}")
    return 0
  if options.page:
    write_whole(PAGE, page.page(found, rules).encode())
    return 0
  missing = [rule for rule in chosen if options.again or rule.key not in found["rules"]]
  python = options.python or environment(options.env)
  with ThreadPoolExecutor(options.workers) as pool:
    waiting = {pool.submit(run, rule, python, options): rule for rule in missing}
    for done in as_completed(waiting):
      rule, row = waiting[done], done.result()
      found = results.read(options.json, found)  # Another run may have written.
      found["rules"][rule.key] = row
      found["made"] = made()
      results.write(options.json, found)
      print(f"{row['verdict']:<14}{row['seconds']:6.0f} s  {rule.key}", flush=True)
  return 0


def options_of(arguments: list[str] | None) -> argparse.Namespace:
  """Return the options."""
  parser = results.parser_of(__doc__)
  parser.add_argument("--only", default="", metavar="NAME,...")
  parser.add_argument("--again", action="store_true")
  parser.add_argument("--page", action="store_true")
  parser.add_argument("--list", action="store_true")
  parser.add_argument("--level", choices=("quick", "standard", "deep"), default="quick")
  parser.add_argument("--seconds", type=float, default=120.0)
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--env", type=Path, default=CACHE, metavar="FOLDER")
  parser.add_argument("--python", type=Path, metavar="FILE", help="one that has the packages")
  parser.add_argument("--cases", default="scripts.campaigns.world.cases", metavar="MODULE")
  parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
  return parser.parse_args(arguments)


def environment(folder: Path) -> Path:
  """Return the interpreter of the environment of the packages, made and filled where it is not."""
  python, stamp = folder / "bin" / "python", folder / "requirements.txt"
  if not (stamp.exists() and stamp.read_bytes() == PINS.read_bytes()):
    print(f"installing the packages into {folder}, some minutes ...", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    # The lock is whole; some packages ask for an older JAX, and work with this one.
    pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "install", "--no-deps", "-r", PINS], check=True)
    stamp.write_bytes(PINS.read_bytes())  # Last, so that what has the stamp is whole.
  return python


def run(rule: Rule, python: Path, options: argparse.Namespace) -> dict[str, Any]:
  """Return the row of a rule, verified in a process of its own."""
  command = [python, "-m", "scripts.campaigns.world.one_rule", rule.key, options.level]
  command += [str(seconds := rule.options.get("seconds", options.seconds)), options.cases]
  variables = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  start, limit = time.monotonic(), 2 * seconds + GRACE
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, cwd=ROOT, env=variables, timeout=limit
    )
    row = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(done.stderr if row["verdict"] != "pass" else "")
  except subprocess.TimeoutExpired:
    row = {"verdict": "killed", "message": f"killed after {limit:.0f} s"}
  except (IndexError, ValueError):
    row = {"verdict": "crash", "message": f"exit code {done.returncode}: {done.stderr[-300:]}"}
  return row | {"package": rule.package, "seconds": round(time.monotonic() - start, 1)}


def made() -> dict[str, str]:
  """Return what the results were made with."""
  pins = dict(line.split("==") for line in PINS.read_text().split() if "==" in line)
  versions = {name: pins[name] for name in ("jax", "jaxlib", "numpy")}
  return {"date": time.strftime("%Y-%m-%d"), "machine": platform.machine(), **versions}


if __name__ == "__main__":
  sys.exit(main())
