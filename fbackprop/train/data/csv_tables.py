"""Tables as text: csv and tsv files with a header, of numbers, with numbers or words as targets.

Method: Python's `csv` splits the text into cells and counts the lines, so that an error names its
cell; NumPy converts a cell to the nearest float64. Lines of nothing but spaces are skipped; a quote
that is never closed is an error.

The file is untrusted input: lines, cells per row, and cells are bounded (see `fbackprop.files`).
"""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

import numpy as np

from fbackprop.files import open_plain
from fbackprop.train.data import targets
from fbackprop.train.data.names import MissingTargets, Task
from fbackprop.train.data.rows import LARGEST, Dataset, check_width, listed

# Per file; MNIST has 47 million. A cell takes 8 bytes, and its text 50 unless it is one character.
MOST_CELLS = 2**26
LONGEST_LINE = 2**24
# Byte order marks of UTF-16.
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TextTable(NamedTuple):
  """The rows of a file.

  Attributes:
    path: path of the file.
    columns: the cells of each column, text `[N]`.
    lines: number of each row's last line, `[N]`.
  """

  path: str
  columns: dict[str, np.ndarray]
  lines: np.ndarray

  def numbers_of(self, names: Sequence[str]) -> np.ndarray:
    """Convert columns to float64 `[N, len(names)]`; raise for a cell that isn't a finite number."""
    if missing := [name for name in names if name not in self.columns]:
      raise ValueError(f"{self.path} has no column {missing[0]!r}, which the model was trained on")
    found = np.stack([targets.as_numbers(self.columns[name]) for name in names], 1)
    self.refuse(~(np.abs(found) <= LARGEST), names, "a number was expected")
    return found

  def refuse(self, is_wrong: np.ndarray, names: Sequence[str], expected: str) -> None:
    """Raise for the first of the wrong cells `[N, len(names)]`, by its line and column."""
    for row, column in np.argwhere(is_wrong):
      cell = self.columns[names[column]][row]
      got = f"{cell!r:.100}" if cell.strip() else "an empty cell"
      where = f"{self.path}, line {self.lines[row]}, column {names[column]!r}"
      raise ValueError(f"{where}: {expected}, got {got}")


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
  """
  table = read_table(path)
  known = f"; its columns are {listed(list(table.columns))}"
  if not target:
    raise ValueError(f"{path} needs the name of a target column{known}")
  for name, role in (*((name, "") for name in target), (sample_weights, " of sample_weights")):
    if name is not None and name not in table.columns:
      raise ValueError(f"{path} has no column {name!r}{role}{known}")
  if sample_weights in target:
    raise ValueError(f"{path}: {sample_weights!r} can't be both target and sample_weights")
  if features is None:
    features = [name for name in table.columns if name not in (*target, sample_weights)]
  if not features:
    raise ValueError(f"{path} has no column beside the target: there is nothing to learn from")
  words = np.stack([table.columns[name] for name in target], 1)

  def refuse(is_wrong: np.ndarray, expected: str) -> None:
    table.refuse(is_wrong, target, expected)

  is_known, notes = targets.find_known(words, missing_targets, path, refuse)
  words, columns = words[is_known], table.columns
  if notes:
    columns = {name: cells[is_known] for name, cells in columns.items()}
    table = TextTable(path, columns, table.lines[is_known])
  x, weights = table.numbers_of(features), None
  if sample_weights is not None:
    weights = table.numbers_of([sample_weights])
    table.refuse(weights < 0, [sample_weights], "a weight of at least 0 was expected")
    weights = weights[:, 0]
  task, inferred = (task, "") if task else targets.infer_task(words)
  notes += targets.lost_integers(features, map(columns.__getitem__, features), x)
  if task == "classification":
    if len(target) > 1:
      raise ValueError(f"{path}: a classification has one target column, got {', '.join(target)}")
    y, outputs = targets.label(np.array([word.strip() for word in words[:, 0]], object))
  else:
    y, outputs = table.numbers_of(target), tuple(target)
    notes += targets.lost_integers(target, words.T, y)
  if task == "multilabel" and not np.isin(y, (0.0, 1.0)).all():
    raise ValueError(f"{path}: the targets of several labels must be 0 or 1")
  return Dataset(
    x, y, task, outputs, tuple(features), weights=weights, label=target[0], has_units=True,
    inferred=inferred, notes=tuple(notes),
  )  # fmt: skip


def read_features(path: str, features: Sequence[str]) -> np.ndarray:
  """Read a model's feature columns, `[N, D]`, in the model's order; others are ignored.

  Raises:
    ValueError: a column is missing, or a cell isn't a number.
    OSError: the file can't be read.
  """
  return read_table(path).numbers_of(features)


def read_table(path: str) -> TextTable:
  """Read a file as text.

  Raises:
    ValueError: the file isn't a table in which every row has as many cells as the header.
  """
  rows: list[list[str]] = []
  lines: list[int] = []
  with open_plain(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
    below = rows_of(path, file)
    _, header = next(below, (1, []))
    check_width(path, "columns", len(header))
    names = [name.strip() for name in header]
    if any("\0" in name for name in names):
      raise ValueError(f"{path} is not valid UTF-8: it holds zero bytes, as UTF-16 does")
    if not all(names) or len(set(names)) < len(names):
      raise ValueError(f"{path}: each column must have a name of its own, got {listed(names)}")
    for line, row in below if names else ():
      if not row or (len(row) == 1 and row[0].isspace()):
        continue
      if len(row) != len(names):
        raise ValueError(f"{path}, line {line}: {len(names)} cells were expected, got {len(row)}")
      if len(rows) == MOST_CELLS // (len(names) + 1):
        raise ValueError(f"{path} has more than {MOST_CELLS:,} cells; write them by numpy.savez")
      rows.append(row)
      lines.append(line)
  if not rows:
    raise ValueError(f"{path} must have a header and at least one row")
  return TextTable(path, dict(zip(names, np.array(rows, object).T, strict=True)), np.array(lines))


def rows_of(path: str, file: TextIO) -> Iterator[tuple[int, list[str]]]:
  """Yield the rows, and the numbers of their last lines."""
  is_over = False

  def lines() -> Iterator[str]:
    nonlocal is_over
    while line := file.readline(LONGEST_LINE + 1):
      if len(line) > LONGEST_LINE:
        number = reader.line_num + 1
        raise ValueError(f"{path}, line {number}: longer than {LONGEST_LINE:,} letters")
      yield line
    is_over = True

  reader = csv.reader(lines(), delimiter="\t" if path.lower().endswith(".tsv") else ",")
  try:
    for row in reader:
      if is_over:  # The end came within quotes, which `csv` lets pass.
        raise csv.Error("unexpected end of data")
      yield reader.line_num, row
  except csv.Error as error:
    raise ValueError(f"{path} is not a csv file: {error}, in line {reader.line_num}") from error
  except UnicodeDecodeError as error:
    # The decoder failed within the last block read, which ends at the file's position.
    place = file.buffer.tell() - len(error.object) + error.start
    utf_16 = "; it may be UTF-16" if place < 2 and error.object[:2] in UTF_16 else ""
    reason = f"{error.reason} at byte {place}{utf_16}"
    raise ValueError(f"{path} is not valid UTF-8: {reason}") from error
