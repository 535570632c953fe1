"""docs/trust.md, generated from the results of scripts/trust.py."""

import collections
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fbackprop.verify.checks.rounding import MOST_SIGMAS
from scripts.campaigns import matrix
from scripts.campaigns.matrix import ACTIVATIONS, DTYPES, FORMS, LOSSES, PARTS, N
from scripts.campaigns.trust_rows import CHECKS, COUNT, NOT_FINITE, REASONS, TEST_POINTS, row_of

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
    introduction, matrix_of_losses, matrix_of_parts, totals, modes, regimes, exceptions,
  )  # fmt: skip
  return "\n\n".join(wrapped(b) for section in sections for b in section(results)) + "\n"


def wrapped(block: str) -> str:
  """Wrap a paragraph, which is one line; tables, code and lists remain."""
  is_paragraph = "\n" not in block and not block.startswith("- ")
  return textwrap.fill(block, 100, break_on_hyphens=False) if is_paragraph else block


# --- Blocks, with an empty line between each two --------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
  """Format a Markdown table."""
  lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
  return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def mark(results: Results, loss: str, net: str) -> str:
  """Return the verdict that all dtypes share, or else each verdict other than a pass."""
  verdicts = {d: results.cells.get((d, loss, net), {"verdict": "—"})["verdict"] for d in DTYPES}
  if len(set(verdicts.values())) == 1:
    return str(verdicts[DTYPES[0]])
  return "pass; " + ", ".join(f"{d} {verdict}" for d, verdict in verdicts.items()
                              if verdict != "pass")  # fmt: skip


def introduction(results: Results) -> list[str]:
  """Return the page's subject, and the commands that reproduce it."""
  made, cells = results.made, results.cells.values()
  passes = sum(cell["verdict"] == "pass" for cell in cells)
  minutes = sum(cell["cpu_seconds"] for cell in cells) / 60
  missing = sum(1 for _ in matrix.cells()) - len(cells)
  left = f" {missing} cells are not verified yet." if missing > 0 else ""
  return [
    "# Verification of this library",
    "`fb.verify` applied to the package itself: every activation × every loss, and every other "
    f"layer and combinator, in {len(DTYPES)} dtypes, in each mode and at each kind of test point. "
    f"**{passes} of {len(cells)} cells pass.**{left} A script generates this page from "
    "[its results](../experiments/results/trust.json).",
    """```sh
python scripts/trust.py                        # resumes where it stopped
python scripts/trust.py --only hinge --again   # verifies some cells again after a change
```""",
    f"Made on {made['date']}: {made['processor']}, backend {made['backend']} with "
    f"{made['devices']} devices, jax {made['jax']}, numpy {made['numpy']}, Python "
    f'{made["python"]}; level "standard", seed 0, allowance 1. It took {minutes:.0f} minutes of '
    "processor time, compilation included.",
    "A cell is *pass*, *no verdict* (an inconclusive bound), *fail*, or *oracle fault* (the rule "
    "is right and autodiff of the reference is wrong); — means not applicable"
    f"{', or not verified yet' if left else ''}.",
  ]


def matrix_of_losses(results: Results) -> list[str]:
  """Return the table of activations × losses."""
  rows = ([loss, *(mark(results, loss, net) for net in ACTIVATIONS)] for loss in LOSSES)
  return [
    "## Activations × losses",
    "The rule of `fb.value_and_grad` for dense, activation, dense and the loss, against autodiff "
    f"of the explicit mean, with respect to the parameters and the data; N = {N}. Half of the "
    "cells use the plain mean and half a weighted mean with some zero weights, in a chessboard "
    "pattern: each pair has both, in two of the dtypes each. An entry summarises "
    f"{len(DTYPES)} cells: {', '.join(DTYPES)}.",
    table(["", *ACTIVATIONS], rows),
    '`softmax_cross_entropy` takes labels; "rows" are probabilities: soft, one-hot, and some '
    "that don't sum to one. `softmax_cross_entropy_with` has label smoothing, class weights "
    "including zero, and an ignored label; `huber_with` has δ = 0.5; `combine` has two losses on "
    "overlapping slices.",
  ]


def matrix_of_parts(results: Results) -> list[str]:
  """Return the table of other layers × forms."""
  return [
    "## Layers and combinators",
    "`layer by layer` is `fb.verify.layer`: the network, and each layer by itself with the "
    "cotangent that it receives; random layers get a key. `as_custom_vjp` is the rule as seen by "
    "`jax.grad`, without a key. An entry summarises the same four dtypes.",
    table(["", *FORMS], ([part, *(mark(results, form, part) for form in FORMS)] for part in PARTS)),
  ]


def totals(results: Results) -> list[str]:
  """Return the counts of the verdicts, and the rounding errors of the rules."""
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
  return [
    "## Totals",
    "The largest error of a rule in its own dtype: in standard deviations of the unavoidable "
    "rounding error, and in units in the last place (ULP) of the leaf's largest entry. More than "
    f"{MOST_SIGMAS:g} σ is a fail.",
    table(["dtype", "cells", *verdicts, "largest σ", "largest ULP"], rows),
  ]


def counted(results: Results, field: str, row: str, reason: str, row_of: Any = str) -> list[str]:
  """Count for each dtype the cells with each verdict; — counts cells without one, for a reason."""
  gravest, columns = ("fail", "oracle fault", "no verdict", "pass"), []
  for dtype in DTYPES:
    found = (
      {verdict for name, verdict in cell[field].items() if row_of(name) == row}
      for key, cell in results.cells.items() if key[0] == dtype
    )  # fmt: skip
    verdicts = collections.Counter(next((v for v in gravest if v in own), "—") for own in found)
    order = ("pass", "no verdict", "oracle fault", "fail", "—")
    columns.append(", ".join(f"{verdicts[v]} {v}" for v in order if verdicts[v]))
  return [*columns, reason if any("—" in column for column in columns) else ""]


def modes(results: Results) -> list[str]:
  """Return the table of checks × dtypes."""
  made = {check for cell in results.cells.values() for check in cell["checks"]}
  rows = (
    [check, told, *counted(results, "checks", check, reason_of(results, check))]
    for check, told in {**CHECKS, **dict.fromkeys(sorted(made - {*CHECKS, COUNT}), "")}.items()
  )
  return [
    "## Checks and modes",
    "The number of cells with each verdict of a check; — counts those where it doesn't apply, "
    "for the reason in the last column.",
    table(("check", "tests", *DTYPES, "reason for —"), rows),
  ]


def reason_of(results: Results, check: str) -> str:
  """Return the reports' reason for omitting a check, or else the reason in `REASONS`."""
  told = {reason for cell in results.cells.values() if check not in cell["checks"]
          for reason in cell["not_checked"] if reason.startswith(f"{check}: ")}  # fmt: skip
  return "; ".join(sorted(r.partition(": ")[2] for r in told)) or REASONS.get(check, "")


def regimes(results: Results) -> list[str]:
  """Return the table of test points × dtypes."""
  every = {row_of(regime) for cell in results.cells.values() for regime in cell["regimes"]}
  *names, last = TEST_POINTS
  sizes = sorted(every.difference(TEST_POINTS), key=lambda row: int(row.removeprefix("N = ")))
  rows = (
    [row, *counted(results, "regimes", row, REASONS.get(row, NOT_FINITE), row_of)]
    for row in (*names, *sizes, last)
    if row in every
  )
  return [
    "## Test points",
    "The number of cells in which the mathematics was checked at each kind of test point.",
    table(("test point", *DTYPES, "reason for —"), rows),
  ]


def exceptions(results: Results) -> list[str]:
  """Return every finding and every note."""
  lines = []
  for key, cell in results.cells.items():
    if cell["verdict"] != "pass":
      lines.append(f"- {', '.join(key)}: {cell['verdict']}")
      for finding in cell["findings"]:
        lines.append(f"  - {'; '.join(f'{name} {value}' for name, value in finding.items())}")
  counts = collections.Counter(note for cell in results.cells.values() for note in cell["notes"])
  notes = [f"- {note} ({n} cell{'s' * (n > 1)})" for note, n in sorted(counts.items())]
  told = ["Notes, which don't prevent a pass:", "\n".join(notes)] if notes else []
  return ["## Exceptions", "\n".join(lines) or "None.", *told]
