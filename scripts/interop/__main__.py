"""Compares fbackprop's quantities with those of other packages, on identical weights, in float64.

  bash scripts/interop.sh                     everything; half a minute
  bash scripts/interop.sh --json experiments/results/interop.json
  bash scripts/interop.sh --plant divided     plants a wrong convention, and fails
  bash scripts/interop.sh --markdown          also prints the table of docs/quantities.md

Exits with 1 if a number differs, a package isn't there, a planted convention isn't found, or the
page's example with jax-privacy doesn't print what it shows.
"""

import sys
from collections.abc import Callable, Mapping
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np

from scripts.benchmarks import machine
from scripts.campaigns import results
from scripts.interop import ours, page, witness
from scripts.interop.comparisons import BACKPACK, COMPARISONS, JAX_PRIVACY, OPACUS, Measured
from scripts.interop.peers import run_backpack, run_jax_privacy, run_opacus
from scripts.interop.problems import PROBLEMS, Data, Problem, Tree, bound_of, draw
from scripts.interop.rows import PLANTS, control, make_rows
from scripts.interop.table import control_lines, grouped, lines_of, markdown_of

Runner = Callable[[Problem, Data, float], dict[str, Tree]]
IMPORTED = {BACKPACK: "backpack", OPACUS: "opacus", JAX_PRIVACY: "jax_privacy"}
RUNNERS = {BACKPACK: run_backpack, OPACUS: run_opacus, JAX_PRIVACY: run_jax_privacy}


def main(arguments: list[str] | None = None) -> int:
  """Run the script."""
  parser = results.parser_of(__doc__, prog="interop")
  parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to a file")
  parser.add_argument("--plant", choices=PLANTS, help="a wrong convention, to see it found")
  parser.add_argument("--markdown", action="store_true", help="print the page's table too")
  options = parser.parse_args(arguments)
  if options.plant and (options.json or options.markdown):
    parser.error("--plant makes rows that are wrong, and doesn't go with --json or --markdown")

  here = machine.describe()
  runners = {package: RUNNERS[package] for package in find_installed()}
  missing = [package for package in RUNNERS if package not in runners]
  with jax.enable_x64(True):
    everything = [measure(problem, runners) for problem in PROBLEMS]
  comparisons = [c for c in COMPARISONS if c.package not in missing]
  versions = {package: metadata.version(package) for package in ("jax", *runners)}
  if BACKPACK in runners or OPACUS in runners:
    here["torch"] = metadata.version("torch")

  rows = make_rows(comparisons, everything, versions, options.plant)
  planted = {} if options.plant else control(comparisons, everything, versions)
  print("; ".join(f"{name} {value}" for name, value in here.items()), end="\n\n")
  print("\n".join([*lines_of(rows), "", *control_lines(planted)]))
  if options.markdown:
    print("\n".join(["", *map(markdown_of, grouped(rows))]))
  text = "" if JAX_PRIVACY in missing else page.PAGE.read_text(encoding="utf-8")
  ran, failed = page.run_blocks(page.BLOCK.findall(text))
  print(f"the page's example with jax-privacy: {ran - failed} of {ran} lines print what they show")
  for package in missing:
    print(f"{package}: not installed: pip install {package}; the comparison isn't whole")
  wrong = sum(not row["ok"] for row in rows)
  print(f"{len(rows) - wrong} of {len(rows)} rows agree")
  if options.json:
    results.write(options.json, {
      "date": date.today().isoformat(),
      "machine": here,
      "missing": missing,
      "control": planted,
      "example": {"lines": ran, "failed": failed},
      "rows": [{k: v for k, v in row.items() if k != "changed"} for row in rows],
    })  # fmt: skip
  unfound = any(told["found"] < told["rows"] for told in planted.values())
  return int(bool(wrong or missing or unfound or failed or not ran))


def find_installed() -> list[str]:
  """Return the installed peers."""
  return [package for package, name in IMPORTED.items() if find_spec(name)]


def measure(problem: Problem, runners: Mapping[str, Runner]) -> Measured:
  """Return all packages' numbers for one problem; x64 must be on."""
  data = draw(problem)
  gradients = witness.example_gradients(problem, data)
  bound = bound_of(witness.norms_of(gradients))
  largest = max(float(np.abs(leaf).max()) for leaf in gradients)
  defined = witness.by_definition(gradients, bound)
  theirs = {("jax", f"vmap(jax.grad), {name}"): tree for name, tree in defined.items()}
  for package, run in runners.items():
    theirs |= {(package, name): tree for name, tree in run(problem, data, bound).items()}
  found = ours.quantities(ours.factors_of(problem, data), bound)
  return Measured(problem, bound, largest, found, defined, theirs)


if __name__ == "__main__":
  sys.exit(main())
