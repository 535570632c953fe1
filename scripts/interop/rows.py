"""The rows: how far theirs, converted, is from ours and from the witness; and the control."""

from typing import Any, NamedTuple

import numpy as np

from scripts.interop.comparisons import BACKPACK, Comparison, Facts, threshold_of, times
from scripts.interop.problems import SQUARED_ERROR, Tree

PLANTS = {
  "divided": "theirs divided by N once more",
  "biased": "a variance divided by N taken for one divided by N − 1",
  "halved": "torch's squared error taken for ours, which has a ½",
}
"""Wrong conventions. The comparison must find each of them in every row that it changes."""


class Measured(NamedTuple):
  """One problem: everybody's numbers; of `theirs` the keys are (package, name)."""

  facts: Facts
  ours: dict[str, Tree]
  witness: dict[str, Tree]
  theirs: dict[tuple[str, str], Tree]


def tree_error(ours: Tree, theirs: Tree, scale: float | None = None) -> float:
  """max |ours − theirs| / max |theirs|, over all arrays at once; inf for NaN or other shapes.

  Args:
    ours: arrays.
    theirs: arrays of the same shapes.
    scale: to divide by instead of max |theirs|.
  """
  if [np.shape(a) for a in ours] != [np.shape(a) for a in theirs] or not ours:
    return float("inf")
  difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
  if scale is None:
    scale = max(float(np.abs(leaf).max()) for leaf in theirs)
  # max() may lose a NaN, so every array is asked.
  if not all(np.isfinite(leaf).all() for leaf in (*ours, *theirs)):
    return float("inf")
  if difference == 0:
    return 0.0
  return difference / scale if scale > 0 else float("inf")


def planted_factor(plant: str | None, comparison: Comparison, facts: Facts) -> float:
  """What a wrong convention multiplies theirs by; 1 where it changes nothing."""
  n = facts.problem.n
  if plant == "divided":
    return 1 / n
  if plant == "biased" and comparison.ours == "variance" and n > 1:
    return (n - 1) / n
  of_torchs_loss = comparison.package == BACKPACK and facts.problem.loss == SQUARED_ERROR
  if plant == "halved" and of_torchs_loss and not is_undefined(comparison, facts):
    return 2.0 if comparison.ours == "example_gradients" else 4.0
  return 1.0


def is_undefined(comparison: Comparison, facts: Facts) -> bool:
  """Whether ours is NaN by convention: the unbiased variance of one example."""
  return comparison.ours == "variance" and facts.problem.n == 1


def make_row(
  comparison: Comparison, measured: Measured, version: str, plant: str | None = None
) -> dict[str, Any]:
  """One line of the table.

  A variance of one example is NaN with us and with the witness, and 0 with BackPACK: then it is
  asked whether theirs is 0, beside the second moment, and ours NaN.
  """
  facts = measured.facts
  raw = measured.theirs[comparison.package, comparison.theirs]
  factor = planted_factor(plant, comparison, facts)
  theirs = times(comparison.convert(raw, facts), factor)
  errors = {}
  for side, values in (("error", measured.ours), ("witness", measured.witness)):
    own, scale = values[comparison.ours], None
    if is_undefined(comparison, facts):
      own = [np.where(np.isnan(leaf), 0, np.inf) for leaf in own]
      scale = max(float(np.abs(leaf).max()) for leaf in values["second_moment"])
    errors[side] = tree_error(own, theirs, scale)
  threshold = threshold_of(comparison, facts, theirs)
  return {
    "package": comparison.package,
    "version": version,
    "theirs": comparison.theirs,
    "ours": comparison.shown or comparison.ours,
    "conversion": comparison.conversion,
    "problem": facts.problem.name,
    **errors,
    "threshold": threshold,
    "ok": all(error <= threshold for error in errors.values()),
    "changed": factor != 1,
  }


def control(
  comparisons: list[Comparison], everything: list[Measured], versions: dict[str, str]
) -> dict[str, dict[str, Any]]:
  """Of each planted convention: how many rows it changes, and in how many it was found."""
  found = {}
  for plant, meaning in PLANTS.items():
    rows = make_rows(comparisons, everything, versions, plant)
    changed = [row for row in rows if row["changed"]]
    caught = sum(not row["ok"] for row in changed)
    found[plant] = {"meaning": meaning, "rows": len(changed), "found": caught}
  return found


def make_rows(
  comparisons: list[Comparison],
  everything: list[Measured],
  versions: dict[str, str],
  plant: str | None = None,
) -> list[dict[str, Any]]:
  """Every comparison of every problem."""
  return [
    make_row(comparison, measured, versions[comparison.package], plant)
    for comparison in comparisons
    for measured in everything
  ]
