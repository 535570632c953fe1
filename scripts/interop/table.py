"""The rows as a table: a line for each comparison, a column for each problem."""

from itertools import groupby
from operator import itemgetter
from typing import Any

HEADING = f"{'package':<27}{'theirs':<34}{'ours':<32}{'conversion':<32}"
Row = dict[str, Any]


def grouped(rows: list[Row]) -> list[list[Row]]:
  """Group the rows by comparison, preserving their order."""
  return [list(own) for _, own in groupby(rows, itemgetter("package", "theirs", "ours"))]


def worst(row: Row) -> float:
  """Return the larger of the distances from ours and from the witness."""
  return float(max(row["error"], row["witness"]))


def lines_of(rows: list[Row]) -> list[str]:
  """Format the table: the larger error of each problem, with ✗ unless it is below the threshold."""
  problems = list(dict.fromkeys(row["problem"] for row in rows))
  lines = [f"{i}: {problem}" for i, problem in enumerate(problems, 1)]
  lines += ["", HEADING + "".join(f"{i:>9}" for i in range(1, len(problems) + 1))]
  for group in grouped(rows):
    cells = "".join(f"{worst(row):>8.1e}{' ' if row['ok'] else '✗'}" for row in group)
    names = "{:<27}{theirs:<34}{ours:<32}{conversion:<33}"
    name = f"{group[0]['package']} {group[0]['version']}"
    lines.append((names.format(name, **group[0]) + cells).rstrip())
  return lines


def markdown_of(group: list[Row]) -> str:
  """Format a comparison's row of docs/quantities.md: its largest error over the problems."""
  first, largest = group[0], max(group, key=lambda row: float(row["error"]))
  error = f"{largest['error']:.0e}" if largest["error"] else "0"
  cells = (first["package"], f"`{first['theirs']}`", shown(first["ours"]), first["conversion"])
  return f"| {' | '.join(cells)} | {error} |"


def shown(ours: str) -> str:
  """Format the names of functions in a text as code."""
  known = ("example_gradients", "example_sqnorms", "second_moment", "variance", "clipped_gradient")
  return " ".join(f"`{word}`" if word.lstrip("√") in known else word for word in ours.split(" "))


def control_lines(control: dict[str, dict[str, Any]]) -> list[str]:
  """Format what was planted, and in how many rows it was detected."""
  return [f"planted: {told['meaning']}: found in {told['found']} of {told['rows']} rows"
          for told in control.values()]  # fmt: skip
