"""Tables as text: csv and tsv files with a header, of numbers, with numbers or words as targets.

Method: pandas splits the text into cells without inferring dtypes: each cell stays text, and NumPy
converts a number to the nearest float64. (`float_precision="round_trip"` of pandas does the same,
but is deprecated since its version 3.1.) On an error, Python's own `csv`, which is slower but
counts lines, locates the cell. Both skip lines of nothing but spaces.

The file is untrusted input: lines, cells per row, and cells are bounded (see `fbackprop.files`).

Doubts: an error is located by a second pass, so the two parsers must agree on rows; a line number
that the second pass doesn't reach is estimated from the row.
"""

import codecs
import csv
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

import numpy as np

from fbackprop.extras import need
from fbackprop.files import open_plain
from fbackprop.train.data.names import MissingTargets, Task
from fbackprop.train.data.rows import (
  EXACT_INTEGERS,
  LARGEST,
  WIDEST,
  Dataset,
  check_width,
  listed,
  note_dropped_rows,
  note_lost_values,
)
from fbackprop.train.data.targets import (
  as_numbers,
  exact,
  holes_of,
  infer_task,
  label,
  values_of,
)

# Per file; MNIST has 47 million. A cell takes 8 bytes, and its text 50 unless it is one character.
MOST_CELLS = 2**26
LONGEST_LINE = 2**24
# Byte order marks of UTF-16.
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_csv(
  path: str,
  target: Sequence[str] = (),
  task: Task | None = None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
  features: Sequence[str] | None = None,
) -> Dataset:
  """Read features and targets from a table.

  Args:
    path: the file, in UTF-8, with a header, separated by commas, or by tabs if its name ends in
      .tsv.
    target: the target column, or several.
    task: the task; None to infer it from the values, see `fbackprop.train.data.targets`.
    sample_weights: a column of sample weights, which is then no feature.
    missing_targets: treatment of missing targets, such as NA or an empty cell; see
      `load_dataset`.
    features: the feature columns, in this order; None for all others.

  Raises:
    ValueError: the file isn't such a table, or has more than `MOST_CELLS` cells; the message names
      a cell by its line and column.
    OSError: it can't be read, or isn't regular.
    ModuleNotFoundError: pandas isn't installed; the message names the extra.
  """
  frame = read_table(path)
  columns = list(frame.columns)
  missing = [name for name in target if name not in columns]
  if missing or not target:
    named = f"has no column {missing[0]!r}" if missing else "needs the name of a target column"
    raise ValueError(f"{path} {named}; its columns are {listed(columns)}")
  if sample_weights is not None and sample_weights not in columns:
    raise ValueError(
      f"{path} has no column {sample_weights!r} of sample_weights; its columns are "
      f"{listed(columns)}"
    )
  if sample_weights in target:
    raise ValueError(f"{path}: {sample_weights!r} can't be both target and sample_weights")
  if features is None:
    features = [name for name in columns if name not in (*target, sample_weights)]
  if not features:
    raise ValueError(f"{path} has no column beside the target: there is nothing to learn from")
  is_hole = find_holes(path, frame, target, missing_targets)
  if is_hole.any():
    frame = frame[~is_hole]  # The index still counts the file's rows, for error messages.
  x = numbers_of(path, frame, features)
  weights = None if sample_weights is None else weights_of(path, frame, sample_weights)
  words = np.stack([cells_of(frame, name) for name in target], 1)
  task, inferred = (task, "") if task else infer_task(values_of(words))
  notes = note_dropped_rows(path, is_hole) + note_lost_integers(frame, features, x)
  if task == "classification":
    if len(target) > 1:
      raise ValueError(f"{path}: a classification has one target column, got {', '.join(target)}")
    targets, outputs = label([word.strip() for word in words[:, 0]])
  else:
    targets, outputs = numbers_of(path, frame, target), tuple(target)
    notes += note_lost_integers(frame, target, targets)
  if task == "multilabel" and not np.isin(targets, (0.0, 1.0)).all():
    raise ValueError(f"{path}: the targets of several labels must be 0 or 1")
  return Dataset(
    x, targets, task, outputs, tuple(features), weights=weights, label=target[0], has_units=True,
    inferred=inferred, notes=tuple(notes),
  )  # fmt: skip


def read_features(path: str, features: Sequence[str]) -> np.ndarray:
  """Read a model's feature columns, `[N, D]`, in the model's order; others are ignored.

  Raises:
    ValueError: a column is missing, or a cell isn't a number.
    OSError: the file can't be read.
  """
  return numbers_of(path, read_table(path), features)


# --- Text to cells --------------------------------------------------------------------------------


class Lines:
  """A file-like object for pandas that returns one line per read.

  Overlong rows are refused here, since pandas would take some 500 bytes per cell before it does.
  """

  def __init__(self, lines: Iterator[str], separator: str) -> None:
    self.lines, self.separator = lines, separator

  def __iter__(self) -> Iterator[str]:
    return self.lines

  def read(self, size: int = -1) -> str:
    """Return the next line, regardless of `size`."""
    line = next(self.lines, "")
    if line.count(self.separator) > WIDEST:
      raise csv.Error(f"a row of more than {WIDEST:,} cells")
    return line


def bounded_lines(path: str, file: TextIO) -> Iterator[str]:
  """Yield the lines of a file; raise for one longer than `LONGEST_LINE`."""
  number = 0
  while line := file.readline(LONGEST_LINE + 1):
    number += 1
    if len(line) > LONGEST_LINE:
      raise ValueError(f"{path}, line {number}: longer than {LONGEST_LINE:,} letters")
    yield line


def separator_of(path: str) -> str:
  """Return the separator of cells."""
  return "\t" if path.lower().endswith(".tsv") else ","


def read_table(path: str) -> Any:
  """Read a file as a data frame of text, with the header's names as columns.

  Raises:
    ValueError: the file isn't a table in which every row has as many cells as the header.
  """
  pandas = need("pandas", extra="data")
  separator = separator_of(path)
  with open_plain(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
    lines = Lines(bounded_lines(path, file), separator)
    columns: list[str] = []
    try:
      header = next(csv.reader(lines, strict=True, delimiter=separator), [])
      if not header:
        raise ValueError(f"{path} must have a header and at least one row")
      columns = check_header(path, header)
      most = MOST_CELLS // (len(columns) + 1)
      with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)  # Raised for dropped cells.
        frame = pandas.read_csv(
          lines, sep=separator, header=None, names=columns, index_col=False, dtype=str,
          na_filter=False, nrows=most + 1, engine="c",
        )  # fmt: skip
    except UnicodeDecodeError as error:
      # The decoder failed within the last block read, which ends at the file's position.
      place = binary.tell() - len(error.object) + error.start
      utf_16 = "; it may be UTF-16" if place < 2 and error.object[:2] in UTF_16 else ""
      raise ValueError(
        f"{path} is not valid UTF-8: {error.reason} at byte {place}{utf_16}"
      ) from error
    except (csv.Error, pandas.errors.ParserError, pandas.errors.ParserWarning) as error:
      check_rows(path, len(columns), is_strict=True)
      raise ValueError(f"{path} is not a csv file: {error}") from error
  if len(frame) > most:
    raise ValueError(f"{path} has more than {MOST_CELLS:,} cells; write them by numpy.savez")
  if not len(frame):
    raise ValueError(f"{path} must have a header and at least one row")
  if (frame[columns[-1]] == "").any():  # pandas pads rows that are too short.
    check_rows(path, len(columns), is_strict=False)
  return frame


def check_header(path: str, header: Sequence[str]) -> list[str]:
  """Return the names of the columns; raise unless they are distinct and not empty."""
  check_width(path, "columns", len(header))
  columns = [name.strip() for name in header]
  if any("\0" in name for name in columns):
    raise ValueError(f"{path} is not valid UTF-8: it holds zero bytes, as UTF-16 does")
  if not all(columns) or len(set(columns)) < len(columns):
    raise ValueError(f"{path}: each column must have a name of its own, got {listed(columns)}")
  return columns


def rows_with_lines(path: str, *, is_strict: bool) -> Iterator[tuple[int, list[str]]]:
  """Yield the rows below the header with the numbers of their last lines, by Python's `csv`."""
  with open_plain(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
    reader = csv.reader(bounded_lines(path, file), strict=is_strict, delimiter=separator_of(path))
    try:
      next(reader)
      for row in reader:
        if len(row) > 1 or "".join(row).strip():
          yield reader.line_num, row
    except csv.Error as error:
      raise ValueError(f"{path} is not a csv file: {error}, in line {reader.line_num}") from error


def check_rows(path: str, columns: int, *, is_strict: bool) -> None:
  """Raise for the first row with another number of cells."""
  for line, row in rows_with_lines(path, is_strict=is_strict):
    if len(row) != columns:
      raise ValueError(f"{path}, line {line}: {columns} cells were expected, got {len(row)}")


# --- Cells to numbers -----------------------------------------------------------------------------


def cells_of(frame: Any, name: str) -> np.ndarray:
  """Return the cells of a column, `[N]`, as text."""
  cells: np.ndarray = frame[name].to_numpy(dtype=object)
  return cells


def refuse(path: str, frame: Any, row: int, name: str, expected: str) -> NoReturn:
  """Raise an error that names a cell by its line and column."""
  cell = cells_of(frame, name)[row]
  got = f"{cell!r:.100}" if cell.strip() else "an empty cell"
  # A second pass over the file, as pandas doesn't record line numbers. If it ends before the row,
  # the line is estimated: the header is line 1 and row 0 follows it.
  lines = rows_with_lines(path, is_strict=False)
  place = int(frame.index[row])
  line = next((line for i, (line, _) in enumerate(lines) if i == place), place + 2)
  raise ValueError(f"{path}, line {line}, column {name!r}: {expected}, got {got}")


def numbers_of(path: str, frame: Any, names: Sequence[str]) -> np.ndarray:
  """Convert columns to float64 `[N, len(names)]`; raise for a cell that isn't a finite number."""
  missing = [name for name in names if name not in frame.columns]
  if missing:
    raise ValueError(f"{path} has no column {missing[0]!r}, which the model was trained on")
  found = np.empty((len(frame), len(names)))
  for j, name in enumerate(names):
    found[:, j] = as_numbers(cells_of(frame, name))
  wrong = ~(np.abs(found) <= LARGEST)
  if wrong.any():
    row, column = np.argwhere(wrong)[0]
    refuse(path, frame, int(row), names[column], "a number was expected")
  return found


def weights_of(path: str, frame: Any, name: str) -> np.ndarray:
  """Convert a column of sample weights; raise for a negative one."""
  weights = numbers_of(path, frame, (name,))[:, 0]
  if (weights < 0).any():
    refuse(path, frame, int((weights < 0).argmax()), name, "a weight of at least 0 was expected")
  return weights


def note_lost_integers(frame: Any, names: Sequence[str], values: np.ndarray) -> list[str]:
  """Return a note for each column with distinct integers that coincide in float64."""
  notes = []
  for name, own in zip(names, values.T, strict=True):
    if np.abs(own).max(initial=0.0) > EXACT_INTEGERS:
      different = set(map(exact, cells_of(frame, name)))
      notes += note_lost_values(name, len(different), len(np.unique(own)), "float64")
  return notes


def find_holes(
  path: str, frame: Any, target: Sequence[str], missing_targets: MissingTargets
) -> np.ndarray:
  """Return which rows have no target, `[N]`; raise for the first unless they are dropped."""
  is_hole = np.zeros(len(frame), bool)
  for name in target:
    cells = cells_of(frame, name)
    own = np.array([not cell.strip() for cell in cells], bool)
    if missing_targets != "class":
      own |= holes_of(cells.tolist())
    if own.any() and missing_targets != "drop":
      advice = f"{own.sum():,} in all; --missing-targets drop drops such rows"
      if cells[own.argmax()].strip() and not np.isfinite(as_numbers(cells[~own])).all():
        advice += ", class takes the word for a class"
      refuse(path, frame, int(own.argmax()), name, f"the target is missing ({advice})")
    is_hole |= own
  if is_hole.all():
    raise ValueError(f"{path}: no row has a target")
  return is_hole
