"""Tables as text: a csv or tsv file with a header, of numbers, whose targets may be words.

pandas divides the text into cells and guesses nothing: each stays text, and a number is the float64
that is nearest to it, by Python's `float`. (pandas' `float_precision="round_trip"` does the same,
and is deprecated by its version 3.1.) Where something is wrong, Python's own `csv` finds the line.
"""

import codecs
import csv
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fbackprop.extras import need
from fbackprop.files import open_plain
from fbackprop.train.data.csv_lines import Lines, bounded_lines, check_rows, rows_of, tab_or_comma
from fbackprop.train.data.names import MissingTargets, Task
from fbackprop.train.data.rows import (
  EXACT_INTEGERS,
  LARGEST,
  Examples,
  check_width,
  kept,
  left_out,
)  # fmt: skip
from fbackprop.train.data.targets import (
  as_numbers,
  exact,
  holes_of,
  infer_task,
  label,
  values_of,
)

# Of a file; MNIST has 47 million. A cell takes 8 bytes, and its text 50 if it isn't one letter.
MOST_CELLS = 2**26
# How a file in UTF-16 begins.
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Table(NamedTuple):
  """A file: the places of its columns by their names, and a frame of its cells as text."""

  path: Path
  places: dict[str, int]
  frame: Any

  def column(self, name: str) -> np.ndarray:
    """The cells of a column, `[N]`, as text."""
    cells: np.ndarray = self.frame[self.places[name]].to_numpy(dtype=object)
    return cells


def read_csv(
  path: str,
  target: Sequence[str],
  task: Task | None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
  features: Sequence[str] | None = None,
) -> Examples:
  """Reads features and targets.

  Args:
    path: of the file, in UTF-8, with a header, separated by commas, or by tabs if its name ends in
      .tsv.
    target: the column that is to be learned, or several.
    task: None to tell it from the values; see `fbackprop.train.data.targets`.
    sample_weights: a column of what the rows count for, which is no feature then.
    missing_targets: what is done where a target is missing, as NA or an empty cell; see
      `load_dataset`.
    features: the columns to learn from, in this order; None for all others.

  Raises:
    ValueError: the file isn't such a table, or has more than `MOST_CELLS` cells; a cell is named by
      its line and column.
    OSError: it can't be read, or is no file.
    ModuleNotFoundError: pandas isn't installed; the message names the extra.
  """
  table = read_table(path)
  missing = [name for name in target if name not in table.places]
  if missing or not target:
    named = f"has no column {missing[0]!r}" if missing else "needs the name of a target column"
    raise ValueError(f"{path} {named}; its columns are {listed([*table.places])}")
  if sample_weights is not None:
    check_weights_column(table, sample_weights, target)
  if features is None:
    features = tuple(c for c in table.places if c not in target and c != sample_weights)
  if not features:
    raise ValueError(f"{path} has no column beside the target: there is nothing to learn from")
  is_hole = holes_in(table, target, missing_targets)
  there = ~is_hole
  x = numbers(table, features, there)
  weights = None if sample_weights is None else weights_of(table, sample_weights, there)
  words = [table.column(name)[there] for name in target]
  task, inferred = (task, "") if task else infer_task(values_of(np.stack(words, 1)))
  notes = left_out(path, is_hole) + lost_integers(table, features, x, there)
  if task == "classification":
    if len(target) > 1:
      raise ValueError(f"{path}: a classification has one target column, got {', '.join(target)}")
    targets, outputs = label([word.strip() for word in words[0]])
  else:
    targets, outputs = numbers(table, target, there), tuple(target)
    notes += lost_integers(table, target, targets, there)
  if task == "multilabel" and not np.isin(targets, (0.0, 1.0)).all():
    raise ValueError(f"{path}: the targets of several labels must be 0 or 1")
  return Examples(
    x, targets, task, outputs, tuple(features), standardize=True, inferred=inferred,
    weights=weights, notes=notes, label=target[0],
  )  # fmt: skip


def read_features(path: str, features: Sequence[str]) -> np.ndarray:
  """Reads the columns that a model was trained on, `[N, D]`, in its order; others are let be.

  Raises:
    ValueError: a column is missing, or a cell is no number.
    OSError: the file can't be read.
  """
  return numbers(read_table(path), features)


def read_table(path: str) -> Table:
  """The cells of a file; each row must have as many as the header."""
  pandas = need("pandas", extra="data")
  with open_plain(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
    lines = Lines(bounded_lines(path, file))
    try:
      columns = columns_of(
        path, next(csv.reader(lines, strict=True, delimiter=tab_or_comma(path)), [])
      )
      if not columns:
        raise ValueError(f"{path} must have a header and at least one row")
      most = MOST_CELLS // (len(columns) + 1)
      with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # Of cells that it leaves out.
        frame = pandas.read_csv(
          lines, sep=tab_or_comma(path), header=None, names=range(len(columns)), index_col=False,
          dtype=str, na_filter=False, nrows=most + 1, engine="c",
        )  # fmt: skip
    except UnicodeDecodeError as error:
      place = binary.tell() - len(error.object) + error.start
      utf_16 = "; it may be UTF-16" if place < 2 and error.object[:2] in UTF_16 else ""
      raise ValueError(
        f"{path} is no text in UTF-8: {error.reason} at byte {place}{utf_16}"
      ) from error
    except csv.Error as error:
      raise ValueError(f"{path} is no csv file: {error}, in line 1") from error
    except (pandas.errors.ParserError, pandas.errors.ParserWarning) as error:
      check_rows(path, len(columns), is_strict=True)
      raise ValueError(f"{path} is no csv file: {error}") from error
  if len(frame) > most:
    raise ValueError(f"{path} has more than {MOST_CELLS:,} cells; write them by numpy.savez")
  if not len(frame):
    raise ValueError(f"{path} must have a header and at least one row")
  if (frame[len(columns) - 1] == "").any():  # pandas fills up a row that is too short.
    check_rows(path, len(columns), is_strict=False)
  return Table(Path(path), {name: place for place, name in enumerate(columns)}, frame)


def columns_of(path: str, header: Sequence[str]) -> tuple[str, ...]:
  """The names of the columns, each its own."""
  check_width(path, "columns", len(header))
  columns = tuple(name.strip() for name in header)
  if any("\0" in name for name in columns):
    raise ValueError(f"{path} is no text in UTF-8: it holds zero bytes, as UTF-16 does")
  if not all(columns) or len(set(columns)) < len(columns):
    raise ValueError(f"{path}: each column must have a name of its own, got {listed(columns)}")
  return columns


def listed(names: Sequence[str]) -> str:
  """Names, not too many of them."""
  return ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")


def refuse(table: Table, row: int, column: str, expected: str) -> NoReturn:
  """Says what a cell holds in the place of what was expected."""
  cell = table.column(column)[row]
  got = f"{cell!r:.100}" if cell.strip() else "an empty cell"
  lines = rows_of(table.path, is_strict=False)
  line = next((line for i, (line, _) in enumerate(lines) if i == row), row + 2)
  raise ValueError(f"{table.path}, line {line}, column {column!r}: {expected}, got {got}")


def numbers(table: Table, columns: Sequence[str], there: np.ndarray | None = None) -> np.ndarray:
  """Columns as float64 `[N, len(columns)]`; what isn't a finite number is refused by its place.

  Args:
    table: the table.
    columns: their names.
    there: the rows that are read, `[N]`; None for all.
  """
  missing = [name for name in columns if name not in table.places]
  if missing:
    raise ValueError(f"{table.path} has no column {missing[0]!r}, which the model was trained on")
  rows = np.arange(len(table.frame)) if there is None else np.flatnonzero(there)
  found = np.empty((len(rows), len(columns)))
  for j, name in enumerate(columns):
    found[:, j] = as_numbers(table.column(name)[rows])
  wrong = ~(np.abs(found) <= LARGEST)
  if wrong.any():
    row, column = np.argwhere(wrong)[0]
    refuse(table, int(rows[row]), columns[column], "a number was expected")
  return found


def lost_integers(
  table: Table, columns: Sequence[str], values: np.ndarray, there: np.ndarray
) -> tuple[str, ...]:
  """The columns whose integers are too large for float64 to tell apart, a sentence each."""
  notes = []
  for name, own in zip(columns, values.T, strict=True):
    if np.abs(own).max(initial=0.0) > EXACT_INTEGERS:
      different = {exact(cell) for cell in table.column(name)[there]}
      notes += kept(name, len(different), len(np.unique(own)), "float64")
  return tuple(notes)


def holes_in(table: Table, target: Sequence[str], missing_targets: MissingTargets) -> np.ndarray:
  """The rows without a target, `[N]`; the first of them is refused where they aren't left out."""
  is_hole = np.zeros(len(table.frame), bool)
  for name in target:
    cells = table.column(name)
    own = np.array([not cell.strip() for cell in cells], bool)
    if missing_targets != "class":
      own |= holes_of(cells.tolist())
    if own.any() and missing_targets != "drop":
      advice = f"{own.sum():,} in all; --missing-targets drop leaves such rows out"
      if cells[own.argmax()].strip() and not np.isfinite(as_numbers(cells[~own])).all():
        advice += ", class takes the word for a class"
      refuse(table, int(own.argmax()), name, f"the target is missing ({advice})")
    is_hole |= own
  if is_hole.all():
    raise ValueError(f"{table.path}: no row has a target")
  return is_hole


def check_weights_column(table: Table, column: str, target: Sequence[str]) -> None:
  """Refuses a column of weights that isn't there, or is learned."""
  if column not in table.places:
    raise ValueError(f"{table.path} has no column {column!r} of sample_weights; its columns are "
                     f"{listed([*table.places])}")  # fmt: skip
  if column in target:
    raise ValueError(f"{table.path}: {column!r} can't be both target and sample_weights")


def weights_of(table: Table, column: str, there: np.ndarray) -> np.ndarray:
  """A column of weights in the rows that are there; a negative one is refused by its place."""
  weights = numbers(table, (column,), there)[:, 0]
  if (weights < 0).any():
    row = int(np.flatnonzero(there)[(weights < 0).argmax()])
    refuse(table, row, column, "a weight of at least 0 was expected")
  return weights
