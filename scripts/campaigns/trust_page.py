"""docs/trust.md, generated from the results of scripts/trust.py."""

import collections
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fbackprop.verify.checks.numerics import MOST_SIGMAS
from scripts.campaigns.matrix import ACTIVATIONS, DTYPES, FORMS, LOSSES, PARTS, N
from scripts.campaigns.matrix import cells as matrix_cells
from scripts.campaigns.trust_rows import CHECKS, COUNT, NAMED, OTHER_SIDE, REASONS, is_size, named

Key = tuple[str, ...]
SHARED = ("checks", "regimes", "not_checked", "findings", "notes")


class Results(NamedTuple):
  """The results of the cells, and their provenance.

  Attributes:
    made: the machine, the backend, versions, the date.
    cells: the report of each cell, by `trust.plain`, keyed by (dtype, loss, layer) as in
      `matrix.Cell`.
  """

  made: dict[str, Any]
  cells: dict[Key, dict[str, Any]]


def read_results(path: Path) -> Results:
  """Read the results that `trust.as_json` wrote."""
  table = json.loads(path.read_text(encoding="utf-8"))
  cells = {
    tuple(key.split(" / ")): {k: table["shared"][v] if k in SHARED else v for k, v in own.items()}
    for key, own in table["cells"].items()
  }
  return Results(table["made"], cells)


def page(results: Results) -> str:
  """Return the text of docs/trust.md."""
  sections = (
    introduction(results),
    matrix_of_losses(results),
    matrix_of_parts(results),
    totals(results),
    modes(results),
    regimes(results),
    exceptions(results),
  )
  return "\n".join(line for section in sections for line in [*section, ""]).rstrip() + "\n"


# --- Tables ---------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
  """Yield the lines of a Markdown table."""
  head = list(head)
  yield f"| {' | '.join(head)} |"
  yield f"|{'---|' * len(head)}"
  for row in rows:
    yield f"| {' | '.join(row)} |"


def mark(results: Results, loss: str, net: str) -> str:
  """Return the verdict that all dtypes share, or else each verdict other than a pass."""
  found = {d: results.cells[d, loss, net]["verdict"] for d in DTYPES
           if (d, loss, net) in results.cells}  # fmt: skip
  if not found:
    return "—"
  if len(found) == len(DTYPES) and len(set(found.values())) == 1:
    return str(found[DTYPES[0]])
  missing = {dtype: "—" for dtype in DTYPES if dtype not in found}
  told = {d: v for d, v in {**found, **missing}.items() if v != "pass"}
  return "pass; " + ", ".join(f"{dtype} {verdict}" for dtype, verdict in told.items())


def paragraph(text: str) -> Iterator[str]:
  """Yield an empty line and the wrapped text."""
  yield ""
  yield from textwrap.wrap(text, 100, break_on_hyphens=False)


def introduction(results: Results) -> Iterator[str]:
  """Yield the page's subject, and the commands that reproduce it."""
  made, cells = results.made, results.cells.values()
  passes = sum(cell["verdict"] == "pass" for cell in cells)
  minutes = sum(cell["cpu_seconds"] for cell in cells) / 60
  missing = sum(1 for _ in matrix_cells()) - len(cells)
  left = f" {missing} cells are not verified yet." if missing > 0 else ""
  yield "# Verification of this library"
  yield from paragraph(
    "`fb.verify` applied to the package itself: every activation × every loss, and every other "
    f"layer and combinator, in {len(DTYPES)} dtypes, in each mode and at each kind of test point. "
    f"**{passes} of {len(cells)} cells pass.**{left} A script generates this page from "
    "[its results](../experiments/results/trust.json)."
  )
  yield from (
    "",
    "```sh",
    "python scripts/trust.py                        # resumes where it stopped",
    "python scripts/trust.py --only hinge --again   # verifies some cells again after a change",
    "```",
  )
  yield from paragraph(
    f"Made on {made['date']}: {made['processor']}, backend {made['backend']} with "
    f"{made['devices']} devices, jax {made['jax']}, numpy {made['numpy']}, Python "
    f'{made["python"]}; level "standard", seed 0, allowance 1. It took {minutes:.0f} minutes of '
    "processor time, compilation included."
  )
  yield from paragraph(
    "A cell is *pass*, *no verdict* (an inconclusive bound), *fail*, or *oracle fault* (the rule "
    "is right and autodiff of the reference is wrong); — means not applicable"
    f"{', or not verified yet' if left else ''}."
  )


def matrix_of_losses(results: Results) -> Iterator[str]:
  """Yield the table of activations × losses."""
  yield "## Activations × losses"
  yield from paragraph(
    "The rule of `fb.value_and_grad` for dense, activation, dense and the loss, against autodiff "
    f"of the explicit mean, with respect to the parameters and the data; N = {N}. Half of the "
    "cells use the plain mean and half a weighted mean with some zero weights, in a chessboard "
    "pattern: each pair has both, in two of the dtypes each. An entry summarises "
    f"{len(DTYPES)} cells: {', '.join(DTYPES)}."
  )
  yield ""
  rows = ([loss, *(mark(results, loss, net) for net in ACTIVATIONS)] for loss in LOSSES)
  yield from table(["", *ACTIVATIONS], rows)
  yield from paragraph(
    '`softmax_cross_entropy` takes labels; "rows" are probabilities: soft, one-hot, and some that '
    "don't sum to one. `softmax_cross_entropy_with` has label smoothing, class weights including "
    "zero, and an ignored label; `huber_with` has δ = 0.5; `combine` has two losses on overlapping "
    "slices."
  )


def matrix_of_parts(results: Results) -> Iterator[str]:
  """Yield the table of other layers × forms."""
  yield "## Layers and combinators"
  yield from paragraph(
    "`layer by layer` is `fb.verify.layer`: the network, and each layer by itself with the "
    "cotangent that it receives; random layers get a key. `as_custom_vjp` is the rule as seen by "
    "`jax.grad`, without a key. An entry summarises the same four dtypes."
  )
  yield ""
  rows = ([part, *(mark(results, form, part) for form in FORMS)] for part in PARTS)
  yield from table(["", *FORMS], rows)


def totals(results: Results) -> Iterator[str]:
  """Yield the counts of the verdicts, and the rounding errors of the rules."""
  yield "## Totals"
  yield from paragraph(
    "The largest error of a rule in its own dtype: in standard deviations of the unavoidable "
    "rounding error, and in units in the last place (ULP) of the leaf's largest entry. More than "
    f"{MOST_SIGMAS:g} σ is a fail."
  )
  yield ""
  verdicts = ("pass", "no verdict", "fail", "oracle fault")
  rows = []
  for dtype in DTYPES:
    cells = [cell for key, cell in results.cells.items() if key[0] == dtype]
    counts = collections.Counter(cell["verdict"] for cell in cells)
    figures = [[c[k] for c in cells if c[k] is not None] for k in ("max_sigma", "worst_ulp")]
    rows.append([
      dtype, str(len(cells)), *(str(counts[verdict]) for verdict in verdicts),
      *(f"{max(found, default=0):.2g}" for found in figures),
    ])  # fmt: skip
  yield from table(["dtype", "cells", *verdicts, "largest σ", "largest ULP"], rows)


def counted(results: Results, field: str, is_it: Callable[[str], bool]) -> list[str]:
  """Return for each dtype the number of cells with each verdict; — counts cells without one."""
  columns = []
  for dtype in DTYPES:
    verdicts: collections.Counter[str] = collections.Counter()
    for key, cell in results.cells.items():
      if key[0] == dtype:
        own = {verdict for name, verdict in cell[field].items() if is_it(name)}
        gravest = ("fail", "oracle fault", "no verdict", "pass")
        verdicts[next((v for v in gravest if v in own), "—")] += 1
    order = ("pass", "no verdict", "oracle fault", "fail", "—")
    columns.append(", ".join(f"{verdicts[v]} {v}" for v in order if verdicts[v]))
  return columns


def modes(results: Results) -> Iterator[str]:
  """Yield the table of checks × dtypes."""
  yield "## Checks and modes"
  yield from paragraph(
    "The number of cells with each verdict of a check; — counts those where it doesn't apply, for "
    "the reason in the last column."
  )
  yield ""
  made = {check for cell in results.cells.values() for check in cell["checks"]}
  rows = []
  for check in (*CHECKS, *sorted(made - {*CHECKS, COUNT})):
    columns = counted(results, "checks", check.__eq__)
    reason = reason_of(results, check) if any("—" in column for column in columns) else ""
    rows.append([check, CHECKS.get(check, ""), *columns, reason])
  yield from table(("check", "tests", *DTYPES, "reason for —"), rows)


def reason_of(results: Results, check: str) -> str:
  """Return the reports' reason for omitting a check, or else the reason in `REASONS`."""
  told = {reason for cell in results.cells.values() if check not in cell["checks"]
          for reason in cell["not_checked"] if reason.startswith(f"{check}: ")}  # fmt: skip
  return "; ".join(sorted(r.partition(": ")[2] for r in told)) or REASONS.get(check, "")


def regimes(results: Results) -> Iterator[str]:
  """Yield the table of test points × dtypes."""
  yield "## Test points"
  yield ""
  yield "The number of cells in which the mathematics was checked at each kind of test point."
  yield ""
  every = {regime for cell in results.cells.values() for regime in cell["regimes"]}
  sizes = sorted(filter(is_size, every), key=lambda regime: int(regime.partition("= ")[2]))
  rows = []
  for group in (*NAMED, *map(named, sizes), OTHER_SIDE):
    columns = counted(results, "regimes", group.holds)
    reason = group.reason if any("—" in column for column in columns) else ""
    if any(map(group.holds, every)):
      rows.append([group.name, *columns, reason])
  yield from table(("test point", *DTYPES, "reason for —"), rows)


def exceptions(results: Results) -> Iterator[str]:
  """Yield every finding and every note."""
  yield "## Exceptions"
  yield ""
  wrong = {key: cell for key, cell in results.cells.items() if cell["verdict"] != "pass"}
  for key, cell in wrong.items():
    yield f"- {', '.join(key)}: {cell['verdict']}"
    for finding in cell["findings"]:
      yield f"  - {'; '.join(f'{name} {value}' for name, value in finding.items())}"
  if not wrong:
    yield "None."
  notes = collections.Counter(note for cell in results.cells.values() for note in cell["notes"])
  if notes:
    yield ""
    yield "Notes, which don't prevent a pass:"
    yield ""
    for note, count in sorted(notes.items()):
      yield f"- {note} ({count} cell{'s' * (count > 1)})"
