"""The rows: the distance of their converted numbers from ours and the witness; and the control."""

from typing import Any

import numpy as np

from scripts.interop.comparisons import BACKPACK, Comparison, Measured, threshold_of, times
from scripts.interop.problems import SQUARED_ERROR, Tree

PLANTS = {
  "divided": "theirs divided by N once more",
  "biased": "a variance divided by N taken for one divided by N − 1",
  "halved": "torch's squared error taken for ours, which has a ½",
}
"""Wrong conventions. The comparison must detect each of them in every row that it affects."""


def tree_error(ours: Tree, theirs: Tree, scale: float | None = None) -> float:
  """Compute max |ours − theirs| / max |theirs| over all arrays; inf for NaN or other shapes.

  Args:
    ours: arrays.
    theirs: arrays of the same shapes.
    scale: the divisor in place of max |theirs|.
  """
  if [np.shape(a) for a in ours] != [np.shape(a) for a in theirs] or not ours:
    return float("inf")
  difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
  if scale is None:
    scale = max(float(np.abs(leaf).max()) for leaf in theirs)
  # max() may lose a NaN, so every array is checked.
  if not all(np.isfinite(leaf).all() for leaf in (*ours, *theirs)):
    return float("inf")
  return difference / scale if scale > 0 else float("inf") if difference else 0.0


def planted_factor(plant: str | None, comparison: Comparison, measured: Measured) -> float:
  """Return the factor by which a wrong convention multiplies theirs; 1 where it has no effect."""
  n = measured.problem.n
  if plant == "divided":
    return 1 / n
  if plant == "biased" and comparison.ours == "variance" and n > 1:
    return (n - 1) / n
  of_torchs_loss = comparison.package == BACKPACK and measured.problem.loss == SQUARED_ERROR
  if plant == "halved" and of_torchs_loss and not comparison.is_undefined(measured):
    return 2.0 if comparison.ours == "example_gradients" else 4.0
  return 1.0


def make_row(
  comparison: Comparison, measured: Measured, version: str, plant: str | None = None
) -> dict[str, Any]:
  """Return one row of the table.

  The variance of one example is NaN in ours and in the witness, and 0 in BackPACK: the row then
  checks that theirs is 0, relative to the second moment, and ours NaN.
  """
  raw = measured.theirs[comparison.package, comparison.theirs]
  factor = planted_factor(plant, comparison, measured)
  theirs = times(comparison.convert(raw, measured), factor)
  errors = {}
  for side, values in (("error", measured.ours), ("witness", measured.witness)):
    own, scale = values[comparison.ours], None
    if comparison.is_undefined(measured):
      own = [np.where(np.isnan(leaf), 0, np.inf) for leaf in own]
      scale = max(float(np.abs(leaf).max()) for leaf in values["second_moment"])
    errors[side] = tree_error(own, theirs, scale)
  threshold = threshold_of(comparison, measured, theirs)
  return {
    "package": comparison.package,
    "version": version,
    "theirs": comparison.theirs,
    "ours": comparison.shown or comparison.ours,
    "conversion": comparison.conversion,
    "problem": measured.problem.name,
    **errors,
    "threshold": threshold,
    "ok": all(error <= threshold for error in errors.values()),
    "changed": factor != 1,
  }


def control(
  comparisons: list[Comparison], everything: list[Measured], versions: dict[str, str]
) -> dict[str, dict[str, Any]]:
  """Count the rows that each planted convention affects, and those in which it was detected."""
  found = {}
  for plant, meaning in PLANTS.items():
    rows = make_rows(comparisons, everything, versions, plant)
    oks = [row["ok"] for row in rows if row["changed"]]
    found[plant] = {"meaning": meaning, "rows": len(oks), "found": oks.count(False)}
  return found


def make_rows(
  comparisons: list[Comparison],
  everything: list[Measured],
  versions: dict[str, str],
  plant: str | None = None,
) -> list[dict[str, Any]]:
  """Return the rows of every comparison of every problem."""
  return [make_row(comparison, measured, versions[comparison.package], plant)
          for comparison in comparisons for measured in everything]  # fmt: skip
