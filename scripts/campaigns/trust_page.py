"""docs/trust.md, from the results of scripts/trust.py: no number in it is written by hand."""

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
  """What was verified.

  Attributes:
    made: on what: the machine, the backend, versions, the date.
    cells: by (dtype, loss, layer), as `matrix.Cell`: what `trust.plain` makes of a report.
  """

  made: dict[str, Any]
  cells: dict[Key, dict[str, Any]]


def read_results(path: Path) -> Results:
  """The results that `trust.as_json` wrote."""
  table = json.loads(path.read_text(encoding="utf-8"))
  cells = {
    tuple(key.split(" / ")): {k: table["shared"][v] if k in SHARED else v for k, v in own.items()}
    for key, own in table["cells"].items()
  }
  return Results(table["made"], cells)


def page(results: Results) -> str:
  """The whole of docs/trust.md."""
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
  """A Markdown table."""
  head = list(head)
  yield f"| {' | '.join(head)} |"
  yield f"|{'---|' * len(head)}"
  for row in rows:
    yield f"| {' | '.join(row)} |"


def mark(results: Results, loss: str, net: str) -> str:
  """One cell over the dtypes: their verdict if it is one, else each that isn't a pass."""
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
  """An empty line, and the text in lines that fit."""
  yield ""
  yield from textwrap.wrap(text, 100, break_on_hyphens=False)


def introduction(results: Results) -> Iterator[str]:
  """What this is, and how to make it again."""
  made, cells = results.made, results.cells.values()
  passes = sum(cell["verdict"] == "pass" for cell in cells)
  minutes = sum(cell["cpu_seconds"] for cell in cells) / 60
  missing = sum(1 for _ in matrix_cells()) - len(cells)
  left = f" {missing} cells are still to be verified." if missing > 0 else ""
  yield "# What has been verified"
  yield from paragraph(
    "`fb.verify` turned on the package itself: every activation × every loss, and every other "
    f"layer and composition, in {len(DTYPES)} dtypes, in each mode and each regime. **{passes} of "
    f"{len(cells)} cells pass.**{left} A script writes this page from "
    "[its results](../experiments/results/trust.json); no number here is written by hand."
  )
  yield from (
    "",
    "```sh",
    "python scripts/trust.py                        # goes on where it stopped",
    "python scripts/trust.py --only hinge --again   # some cells once more, after a change",
    "```",
  )
  yield from paragraph(
    f"Made on {made['date']}: {made['processor']}, backend {made['backend']} with "
    f"{made['devices']} devices, jax {made['jax']}, numpy {made['numpy']}, Python "
    f'{made["python"]}; level "standard", seed 0, allowance 1. It took {minutes:.0f} minutes of '
    "processor time, compilation included."
  )
  yield from paragraph(
    "A cell is *pass*, *no verdict* (a bound says nothing), *fail*, or *oracle fault* (the rule is "
    "right and autodiff of the reference is wrong); — is not applicable"
    f"{', or not verified yet' if left else ''}."
  )


def matrix_of_losses(results: Results) -> Iterator[str]:
  """Activations × losses."""
  yield "## Activations × losses"
  yield from paragraph(
    "The rule of `fb.value_and_grad` for dense, activation, dense and the loss, against the mean "
    f"written out, by the parameters and the data; N = {N}. Half of the cells have the plain mean "
    "and half a weighted one, like the squares of a chess board, with weights of zero among them: "
    "each pair has both, in two of the dtypes each. A mark stands for "
    f"{len(DTYPES)} cells: {', '.join(DTYPES)}."
  )
  yield ""
  rows = ([loss, *(mark(results, loss, net) for net in ACTIVATIONS)] for loss in LOSSES)
  yield from table(["", *ACTIVATIONS], rows)
  yield from paragraph(
    '`softmax_cross_entropy` has labels; "rows" are probabilities: soft, one-hot, and some that '
    "don't sum to one. `softmax_cross_entropy_with` has label smoothing, class weights with a zero "
    "among them, and an ignored label; `huber_with` a δ of 0.5; `combine` two losses of slices "
    "that overlap."
  )


def matrix_of_parts(results: Results) -> Iterator[str]:
  """Other layers × forms."""
  yield "## Layers and compositions"
  yield from paragraph(
    "`layer by layer` is `fb.verify.layer`: the whole, and each layer in it by itself with the "
    "cotangent that arrives there; what draws has a key. `as_custom_vjp` is the rule as `jax.grad` "
    "finds it, without a key. A mark stands for the same four dtypes."
  )
  yield ""
  rows = ([part, *(mark(results, form, part) for form in FORMS)] for part in PARTS)
  yield from table(["", *FORMS], rows)


def totals(results: Results) -> Iterator[str]:
  """How many of which verdict, and how the rules round."""
  yield "## Totals"
  yield from paragraph(
    "The largest error of a rule in its own dtype: in standard deviations of the rounding that it "
    "can't avoid, and in units in the last place of the leaf's largest entry. Beyond "
    f"{MOST_SIGMAS:g} σ it fails."
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
  """For each dtype, in how many cells something came to which verdict; — for those without it."""
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
  """Each check × dtypes."""
  yield "## Checks and modes"
  yield from paragraph(
    "In how many of the cells a check came to which verdict; — where it doesn't apply, and the "
    "last column says why."
  )
  yield ""
  made = {check for cell in results.cells.values() for check in cell["checks"]}
  rows = []
  for check in (*CHECKS, *sorted(made - {*CHECKS, COUNT})):
    columns = counted(results, "checks", check.__eq__)
    reason = reason_of(results, check) if any("—" in column for column in columns) else ""
    rows.append([check, CHECKS.get(check, ""), *columns, reason])
  yield from table(("check", "what", *DTYPES, "— because"), rows)


def reason_of(results: Results, check: str) -> str:
  """Why a check wasn't made, as the reports have it; else as it is known here."""
  told = {reason for cell in results.cells.values() if check not in cell["checks"]
          for reason in cell["not_checked"] if reason.startswith(f"{check}: ")}  # fmt: skip
  return "; ".join(sorted(r.partition(": ")[2] for r in told)) or REASONS.get(check, "")


def regimes(results: Results) -> Iterator[str]:
  """Each regime × dtypes."""
  yield "## Regimes"
  yield ""
  yield "Where the mathematics was checked, in how many of the cells."
  yield ""
  every = {regime for cell in results.cells.values() for regime in cell["regimes"]}
  sizes = sorted(filter(is_size, every), key=lambda regime: int(regime.partition("= ")[2]))
  rows = []
  for group in (*NAMED, *map(named, sizes), OTHER_SIDE):
    columns = counted(results, "regimes", group.holds)
    reason = group.reason if any("—" in column for column in columns) else ""
    if any(map(group.holds, every)):
      rows.append([group.name, *columns, reason])
  yield from table(("regime", *DTYPES, "— because"), rows)


def exceptions(results: Results) -> Iterator[str]:
  """Every finding, and what was noted."""
  yield "## What isn't a pass"
  yield ""
  wrong = {key: cell for key, cell in results.cells.items() if cell["verdict"] != "pass"}
  for key, cell in wrong.items():
    yield f"- {', '.join(key)}: {cell['verdict']}"
    for finding in cell["findings"]:
      yield f"  - {'; '.join(f'{name} {value}' for name, value in finding.items())}"
  if not wrong:
    yield "Nothing."
  notes = collections.Counter(note for cell in results.cells.values() for note in cell["notes"])
  if notes:
    yield ""
    yield "Noted, and no reason against a pass:"
    yield ""
    for note, count in sorted(notes.items()):
      yield f"- {note} ({count} cell{'s' * (count > 1)})"
