"""Compares fbackprop's curvature with other packages', on identical weights, in float64.

  bash scripts/interop.sh curvature                 everything; two minutes
  bash scripts/interop.sh curvature --write         also writes the table of docs/curvature.md
  bash scripts/interop.sh curvature --plant factor  plants a wrong convention, and fails

Exits with 1 if a number differs, a package isn't there, or a planted convention isn't found in a
row that it changes. The planted ones:"""

import os
import re
import sys
import warnings
from collections.abc import Callable
from datetime import date
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scripts.benchmarks import machine
from scripts.campaigns import results
from scripts.interop.curvature_comparisons import (
  BACKPACK,
  COMPARISONS,
  CURVLINOPS,
  KFAC_JAX,
  LAPLAX,
  PACKAGES,
  PLANTS,
  Measured,
  control,
  grouped,
  make_rows,
  ours_of,
  table_of,
)  # fmt: skip
from scripts.interop.curvature_peers import (
  KFAC_JAX_PYTHON,
  Given,
  run_backpack,
  run_curvlinops,
  run_kfac_jax,
  run_laplax,
)  # fmt: skip
from scripts.interop.problems import PROBLEMS, Problem, Tree, draw
from scripts.interop.table import control_lines

PAGE = Path(__file__).parents[2] / "docs" / "curvature.md"
RESULT = results.RESULTS / "interop_curvature.json"
MARK = "<!-- interop: scripts/interop/curvature.py -->\n"
CHOSEN = tuple(PROBLEMS[i] for i in (0, 1, 4, 5))
Runner = Callable[[Given], dict[str, Tree]]
IMPORTED = {BACKPACK: "backpack", CURVLINOPS: "curvlinops", LAPLAX: "laplax"}
RUNNERS: dict[str, Runner] = {
  BACKPACK: run_backpack, CURVLINOPS: run_curvlinops, LAPLAX: run_laplax
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
  """Run the script."""
  told = (__doc__ or "") + "; ".join(f"{name}: {what}" for name, what in PLANTS.items()) + "."
  parser = results.parser_of(told, prog="interop.sh curvature")
  parser.add_argument("--write", action="store_true", help="write the page's table, and the result")
  parser.add_argument("--plant", choices=PLANTS, metavar="NAME", help="a wrong convention")
  options = parser.parse_args(arguments)
  if options.plant and options.write:
    parser.error("--plant makes rows that are wrong, and doesn't go with --write")
  warnings.simplefilter("ignore")  # Those of the peers about themselves.

  versions, everything = measure(find_installed(), os.environ.get(KFAC_JAX_PYTHON))
  missing = [package for package in PACKAGES if package not in versions]
  comparisons = [own for own in COMPARISONS if own.package not in missing]
  rows = make_rows(comparisons, everything, options.plant)
  planted = {} if options.plant else control(comparisons, everything)
  for group in grouped(rows):
    cells = "".join(f"{row['error']:>9.1e}{' ' if row['ok'] else '✗'}" for row in group)
    print(f"{group[0]['package']:<24}{group[0]['theirs']:<32}{group[0]['ours']:<34}{cells}")
  print("\n".join(control_lines(planted)))
  for package in missing:
    print(f"{package}: not installed: run this by scripts/interop.sh; the comparison isn't whole")
  wrong = sum(not row["ok"] for row in rows)
  print(f"{len(rows) - wrong} of {len(rows)} rows agree")
  unfound = any(own["found"] < own["rows"] for own in planted.values())
  failed = bool(wrong or missing or unfound)
  if options.write and not failed:
    content = {
      "date": date.today().isoformat(),
      "machine": machine.describe(),
      "versions": versions,
      "control": planted,
      "rows": [{k: v for k, v in row.items() if k != "changed"} for row in rows],
    }
    results.write(RESULT, content)
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), content), encoding="utf-8")
  return int(failed)


def find_installed() -> list[str]:
  """Return the peers that are installed beside fbackprop."""
  return [package for package, name in IMPORTED.items() if find_spec(name)]


def measure(
  installed: list[str], kfac_jax_python: str | None, problems: tuple[Problem, ...] = CHOSEN
) -> tuple[dict[str, str], list[Measured]]:
  """Return the versions of the packages, and all packages' numbers for each problem."""
  givens = [given_of(problem) for problem in problems]
  versions = {package: metadata.version(package) for package in installed}
  found = []
  with jax.enable_x64(True):
    for given in givens:
      theirs = {
        (package, name): tree
        for package in installed
        for name, tree in RUNNERS[package](given).items()
      }
      found.append(Measured(given.problem, ours_of(given), theirs))
  if kfac_jax_python:
    version, everything = run_kfac_jax(kfac_jax_python, givens)
    versions[KFAC_JAX] = version
    for measured, own in zip(found, everything, strict=True):
      measured.theirs.update({(KFAC_JAX, name): tree for name, tree in own.items()})
  return versions, found


def given_of(problem: Problem) -> Given:
  """Draw the numbers of a problem, and a vector."""
  data, rng = draw(problem), np.random.default_rng([24, PROBLEMS.index(problem)])
  v = [
    (rng.normal(size=w.shape), None if b is None else rng.normal(size=b.shape))
    for w, b in data.weights
  ]
  return Given(problem, data, v)


def with_table(text: str, content: dict[str, Any]) -> str:
  """Return the page with the table of a result."""
  before, _, after = text.partition(MARK)
  rest = re.sub(r"\A\n*(\|.*\n)*\n*", "", after)
  table = "\n".join(table_of(content["rows"], content["versions"]))
  return f"{before}{MARK}\n{table}\n\n{rest}"


if __name__ == "__main__":
  sys.exit(main())
