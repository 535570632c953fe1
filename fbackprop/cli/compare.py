"""`fbackprop compare RUN...`: a table and a figure over several runs."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from tyro.conf import Positional, arg

from fbackprop.cli import console
from fbackprop.cli.config import settings
from fbackprop.cli.console import parsed, refuse, usage_errors, usually
from fbackprop.cli.run_folder import MOST_OF_JSON, file_of_run, load_json
from fbackprop.cli.train import load_config
from fbackprop.extras import check_installed, need
from fbackprop.files import read_text

# Of summary.json; a run has those that it knows.
RESULTS = ("steps", "stop_reason", "train_loss", "test_loss", "test_accuracy", "validation_score",
           "seconds")  # fmt: skip
# Settings that two runs nearly always differ in, and that the other columns tell.
IGNORED = ("eval-every", "check-every")


@dataclass(frozen=True)
class CompareConfig:
  """Compare runs: the settings that differ, the results, and the course of the losses.

  fbackprop compare runs/digits-1 runs/digits-2 --out compared.png

  The test set decides nothing in a run; to choose among runs by it makes its score too good.

  Attributes:
    runs: Folders of runs.
    out: Output figure, .png or .svg.
  """

  runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN")]
  out: Annotated[str | None, usually("no figure", metavar="FILE")] = None


class RunRow(NamedTuple):
  """A run.

  Attributes:
    name: its folder, as given.
    settings: the value of each setting, by its flag without the dashes.
    summary: the content of summary.json.
    evaluations: the lines of metrics.jsonl.
  """

  name: str
  settings: dict[str, str]
  summary: dict[str, Any]
  evaluations: list[dict[str, Any]]


def main(arguments: Sequence[str]) -> int:
  """Print the table, and write the figure.

  Returns:
    The exit code, 0.

  Raises:
    UsageError: a run doesn't exist, a file of it can't be read, or the figure can't be written.
  """
  config = parsed(CompareConfig, "compare", arguments)
  refuse(
    (not config.runs, "RUN: give the folders of the runs to compare"),
    (config.out and Path(config.out).suffix not in (".png", ".svg"),
     f"--out must end in .png or .svg, got {config.out!r:.100}"),
  )  # fmt: skip
  if config.out is not None:
    check_installed("matplotlib", extra="plot")
    console.check_writable("--out", config.out)
  rows = [read_run(run) for run in config.runs]
  console.show("\n".join(table_of(rows)) + "\n")
  if config.out is not None:
    console.write("--out", config.out, draw(rows, Path(config.out).suffix[1:]))
  return 0


def read_run(run: str) -> RunRow:
  """Read the files of a run."""
  values = {name: value for name, value, _ in settings(load_config(run))}
  return RunRow(run, values, load_json(run, "summary.json"), read_metrics(run))


def read_metrics(run: str) -> list[dict[str, Any]]:
  """Read metrics.jsonl; of a run in progress the last line may be incomplete."""
  path = file_of_run(run, "metrics.jsonl")
  with usage_errors(str(path)):
    text = read_text(path, MOST_OF_JSON) if path.exists() else ""
  rows = []
  for line in text.splitlines(keepends=True):
    with usage_errors(f"{path}: invalid JSON"):
      try:
        row = json.loads(line) if line.endswith("\n") else None
      except RecursionError as error:  # Python's message depends on where the stack overflowed.
        raise ValueError("it is nested too deeply") from error
      if row is not None:
        if not isinstance(row, dict) or not is_number(row.get("step")):
          raise ValueError(f"a line must be an object with a step, got {line!r:.60}")
        rows.append(row)
  return rows


def is_number(value: Any) -> bool:
  """Return whether a value of JSON is a number."""
  return isinstance(value, int | float) and not isinstance(value, bool)


# --- The table ------------------------------------------------------------------------------------


def table_of(rows: Sequence[RunRow]) -> list[str]:
  """Format the runs: a line each, with the settings that differ among them and the results."""
  from fbackprop.train.metrics import number

  names = dict.fromkeys(name for row in rows for name in row.settings if name not in IGNORED)
  differing = [name for name in names if len({row.settings.get(name) for row in rows}) > 1]
  known = [name for name in RESULTS if any(row.summary.get(name) is not None for row in rows)]
  cells = [["run", *differing, *(name.replace("_", " ") for name in known)]]
  for row in rows:
    own = [row.settings.get(name, "-") for name in differing]
    cells.append([row.name, *own, *(number(row.summary.get(name)) for name in known)])
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  lines = []
  for line in cells:
    first, *rest = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
    lines.append("  ".join([line[0].ljust(len(first)), *rest]).rstrip())
  return lines


# --- The figure -----------------------------------------------------------------------------------


def draw(rows: Sequence[RunRow], kind: str) -> bytes:
  """Draw the training loss and the test score over the steps, with a line for each run."""
  from fbackprop.train.report import figures

  figure_module = need("matplotlib.figure", extra="plot")
  with need("matplotlib.style", extra="plot").context(figures.RULES):
    figure = figure_module.Figure(figsize=(11, 4), dpi=110)
    is_labelled = any(points_of(row, "test_accuracy") for row in rows)
    score = "test_accuracy" if is_labelled else "test_loss"
    for place, (key, scale) in enumerate(
      (("train_loss", "log"), (score, "linear" if is_labelled else "log")), 1
    ):
      axes = figure.add_subplot(1, 2, place)
      axes.set(title=key.replace("_", " ").capitalize(), xlabel="step", yscale=scale)
      for i, row in enumerate(rows):
        points = points_of(row, key)
        style = {"color": figures.COLORS[i % len(figures.COLORS)],
                 "linestyle": ("-", "--", ":", "-.")[i // len(figures.COLORS) % 4]}  # fmt: skip
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker=".", **style,
                  label=row.name)  # fmt: skip
      if place == 1:
        axes.legend()
    figures.arrange(figure)
    file = io.BytesIO()
    # Without the date, so that the same runs give the same file.
    figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
  return file.getvalue()


def points_of(row: RunRow, key: str) -> list[tuple[float, float]]:
  """Return the steps and the numbers of a run; of an ensemble, its members' means at the kept rate.

  Numbers that a logarithmic axis can't show are left out.
  """
  points = []
  for own in row.evaluations:
    value: Any = own.get(key)
    if value is None and own.get("rates"):
      kept = [r for r in own["rates"] if r.get("rate") == row.summary.get("rate")] or own["rates"]
      value = (kept[0].get(key) or {}).get("mean")
    if is_number(value) and (value > 0 or key == "test_accuracy"):
      points.append((own["step"], float(value)))
  return points
