"""Tables as text: csv and tsv files with a header, of numbers, dates and words.

Method: Python's `csv` splits the text into cells and counts the lines, so that an error names its
cell; NumPy converts a cell to the nearest float64. Lines of nothing but spaces are skipped; a quote
that is never closed is an error.

The file is untrusted input: lines, cells per row, and cells are bounded (see `fbackprop.files`).
"""

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np

from fbackprop.files import open_plain
from fbackprop.train.data import columns, numerals, targets
from fbackprop.train.data.columns import Column, Found
from fbackprop.train.data.names import Decimal, MissingTargets, Separator, Task
from fbackprop.train.data.rows import LARGEST, Dataset, check_width, listed

# Per file; MNIST has 47 million. A cell takes 8 bytes, and its text 50 unless it is one character.
MOST_CELLS = 2**26
LONGEST_LINE = 2**24
# The separators by their names, in the order in which they are tried, on so many letters and rows.
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
HEAD, FIRST = 2**16, 50
# Byte order marks of UTF-16.
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TextTable(NamedTuple):
  """The rows of a file.

  Attributes:
    path: path of the file.
    columns: the cells of each column `[N]`: text, or the numbers of a file that has types.
    lines: number of each row's last line, `[N]`; of a file without lines that of the row.
    decimal: the decimal separator of its numbers, "point" or "comma"; the cells have points.
    texts: the columns that the file itself has as text.
    dates: those that it has as dates; the cells are days since 1970-01-01.
    line: what `lines` counts: "line", or "row".
    problems: for columns that can't be read what is wrong with them.
  """

  path: str
  columns: dict[str, np.ndarray]
  lines: np.ndarray
  decimal: str = "point"
  texts: frozenset[str] = frozenset()
  dates: frozenset[str] = frozenset()
  line: str = "line"
  problems: Mapping[str, str] = MappingProxyType({})

  def numbers_of(self, names: Sequence[str]) -> np.ndarray:
    """Convert columns to float64 `[N, len(names)]`; raise for a cell that isn't a finite number."""
    self.check_known(names)
    found = np.stack([targets.as_numbers(self.columns[name]) for name in names], 1)
    self.refuse(~(np.abs(found) <= LARGEST), names, "a number was expected")
    return found

  def values_of(self, known: Sequence[Column]) -> np.ndarray:
    """Read columns of known kinds, `[N, D]`; see `fbackprop.train.data.columns`."""
    self.check_known([column.name for column in known])
    return self.together([columns.read(self.columns[column.name], column) for column in known])

  def together(self, found: Sequence[Found]) -> np.ndarray:
    """Join columns that have been read; raise for all that can't be, at once."""
    if problem := columns.refused(found, self.place, self.shown):
      raise ValueError(problem)
    return columns.together(found)

  def check_known(self, names: Sequence[str]) -> None:
    """Raise for the columns that aren't there, or can't be read."""
    if wrong := [self.problems[name] for name in names if name in self.problems]:
      raise ValueError("; ".join(wrong))
    if missing := [name for name in names if name not in self.columns]:
      others = f", nor {listed(list(map(repr, missing[1:])))}" if missing[1:] else ""
      which = f"{missing[0]!r}{others}, which the model was trained on"
      raise ValueError(f"{self.path} has no column {which}")

  def place(self, name: str, row: int) -> str:
    """Return the place of a cell in a message."""
    return f"{self.path}, {self.line} {self.lines[row]}, column {name!r}"

  def shown(self, name: str, row: int) -> str:
    """Return a cell in a message."""
    cell = str(self.columns[name][row])
    return f"{cell!r:.100}" if cell.strip() else "an empty cell"

  def refuse(self, is_wrong: np.ndarray, names: Sequence[str], expected: str) -> None:
    """Raise for the first of the wrong cells `[N, len(names)]`, by its line and column."""
    for row, column in np.argwhere(is_wrong):
      name = names[column]
      raise ValueError(f"{self.place(name, row)}: {expected}, got {self.shown(name, row)}")


def read_csv(
  path: str,
  target: Sequence[str] = (),
  task: Task | None = None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
  features: Sequence[str] | None = None,
  **table: Any,
) -> Dataset:
  """Read features and targets from a table.

  Args:
    path: the file, in UTF-8, with a header.
    target, task, sample_weights, missing_targets, features: as of `dataset_of`.
    **table: `separator` and `decimal`, as of `read_table`; the others as of `dataset_of`.

  Raises:
    ValueError: the file isn't such a table, or has more than `MOST_CELLS` cells; the message names
      a cell by its line and column.
    OSError: it can't be read, or isn't regular.
  """
  style = {name: table.pop(name) for name in ("separator", "decimal", "usual") if name in table}
  return dataset_of(
    read_table(path, **style), target, task, sample_weights, missing_targets, features, **table
  )


def dataset_of(
  table: TextTable,
  target: Sequence[str] = (),
  task: Task | None = None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
  features: Sequence[str] | None = None,
  drop: Sequence[str] = (),
  categorical: Sequence[str] = (),
  known: Sequence[Column] | None = None,
) -> Dataset:
  """Find features and targets in a table.

  Args:
    table: the table.
    target: the target column, or several.
    task: the task; None to infer it from the values, see `fbackprop.train.data.targets`.
    sample_weights: a column of sample weights, which is then no feature.
    missing_targets: treatment of missing targets, such as NA or an empty cell; see
      `load_dataset`.
    features: the feature columns, in this order; None for all others.
    drop: columns that are no features.
    categorical: columns that are words, whatever they look like.
    known: the kinds of the features of a model, in place of `features`; None to infer them.

  Raises:
    ValueError: a column is missing, or can't be read.
  """
  path, titles = table.path, f"; its columns are {listed(list(table.columns))}"
  if not target:
    raise ValueError(f"{path} needs the name of a target column{titles}")
  roles: dict[str, Sequence[str | None]] = {
    "": target, " of sample_weights": [sample_weights], " of features": features or (),
    " of drop": drop, " of categorical": categorical,
  }  # fmt: skip
  for role, asked in roles.items():
    for name in asked:
      if name is not None and name not in table.columns:
        raise ValueError(f"{path} has no column {name!r}{role}{titles}")
  if sample_weights in target:
    raise ValueError(f"{path}: {sample_weights!r} can't be both target and sample_weights")
  aside = (*target, sample_weights, *drop)
  if known is not None:
    features = [column.name for column in known]
    table.check_known(features)
  elif features is None:
    features = [name for name in table.columns if name not in aside]
  elif both := [name for name in features if name in aside]:
    raise ValueError(f"{path}: {both[0]!r} can't be a feature and be left out, or be the target")
  if other := [name for name in categorical if name not in features]:
    raise ValueError(f"{path}: {other[0]!r} is no feature, and can't be categorical")
  if not features:
    raise ValueError(f"{path} has no column beside the target: there is nothing to learn from")
  table.check_known([*features, *target, *([] if sample_weights is None else [sample_weights])])
  words = np.stack([targets.as_texts(table.columns[name]) for name in target], 1)

  def refuse(is_wrong: np.ndarray, expected: str) -> None:
    table.refuse(is_wrong, target, expected)

  is_known, notes = targets.find_known(words, missing_targets, path, refuse)
  words = words[is_known]
  if notes:
    cells = {name: own[is_known] for name, own in table.columns.items()}
    table = table._replace(columns=cells, lines=table.lines[is_known])
  weights = None
  if known is None:
    found, more = find_features(table, features, categorical)
    x, notes = table.together(found), [*notes, *more]
    known = [own.column for own in found]
  else:
    is_plain = all(column.kind == "complete" for column in known)
    x = table.numbers_of(features) if is_plain else table.values_of(known)
  names: list[str] = [column.name for column in known]
  if sample_weights is not None:
    weights = table.numbers_of([sample_weights])
    table.refuse(weights < 0, [sample_weights], "a weight of at least 0 was expected")
    weights = weights[:, 0]
  task, inferred = (task, "") if task else targets.infer_task(words)
  if x.dtype == np.float64:
    notes += targets.lost_integers(names, map(table.columns.__getitem__, names), x)
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
    x, y, task, outputs, tuple(names), weights=weights, label=target[0], has_units=True,
    inferred=inferred, notes=tuple(notes), columns=tuple(known), decimal=table.decimal,
  )  # fmt: skip


def find_features(
  table: TextTable, features: Sequence[str], categorical: Sequence[str]
) -> tuple[list[Found], list[str]]:
  """Infer the kinds of feature columns, and read them; return them, and notes.

  A column without any value is left out.
  """
  check_width(table.path, "features", len(features))
  cells = {name: table.columns[name] for name in features}
  empty = [name for name, own in cells.items() if columns.missing_of(own).all()]
  found = [
    columns.read(own, columns.Column(name, "date", "year-month-day"))
    if name in table.dates
    else columns.infer(name, own, is_categorical=name in categorical, is_text=name in table.texts)
    for name, own in cells.items()
    if name not in empty
  ]
  if not found:
    raise ValueError(f"{table.path}: no feature has a value in any row")
  notes = [f"left out, as without a value in any row: {listed(empty)}"] if empty else []
  return found, [*notes, *columns.described(found), *columns.notes_on(found)]


def read_features(
  path: str, features: Sequence[str], known: Sequence[Column] | None = None, **style: Any
) -> np.ndarray:
  """Read a model's feature columns, `[N, D]`, in the model's order; others are ignored.

  Args:
    path: the file.
    features: their names, if they are numbers.
    known: their kinds, if there are others among them.
    **style: as of `read_table`.

  Raises:
    ValueError: a column is missing, or a cell isn't a number.
    OSError: the file can't be read.
  """
  table = read_table(path, **style)
  return table.numbers_of(features) if known is None else table.values_of(known)


def read_table(
  path: str,
  separator: Separator = "auto",
  decimal: Decimal = "auto",
  usual: Literal["point", "comma"] | None = None,
) -> TextTable:
  """Read a file as text.

  Args:
    path: the file.
    separator: what separates its cells; "auto" for tabs if its name ends in .tsv, else for what
      separates the first lines into equally many cells, a comma first.
    decimal: how its numbers are written, see `fbackprop.train.data.numerals`.
    usual: how, where no cell decides; by default a decimal point in a file separated by commas, and
      in others only if nothing contradicts it.

  Raises:
    ValueError: the file isn't a table in which every row has as many cells as the header.
  """
  rows: list[list[str]] = []
  lines: list[int] = []
  with open_plain(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
    mark = SEPARATORS[separator] if separator != "auto" else find_separator(path, file)
    below = rows_of(path, file, mark)
    _, header = next(below, (1, []))
    check_width(path, "columns", len(header))
    names = [name.strip() for name in header]
    if len(names) > 1 and not names[0]:
      names[0] = "Unnamed: 0"  # As pandas calls the index that it writes.
    if any("\0" in name for name in names):
      raise ValueError(f"{path} is not valid UTF-8: it holds zero bytes, as UTF-16 does")
    if twice := [name for name in names if name and names.count(name) > 1]:
      which = f"{twice[0]!r} {names.count(twice[0])} times"
      raise ValueError(f"{path}: each column must have a name of its own, got {which}")
    if not all(names):
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
  cells, numbers = dict(zip(names, np.array(rows, object).T, strict=True)), np.array(lines)
  if usual is None and mark == ",":
    usual = "point"
  place = TextTable(path, cells, numbers).place
  cells, style, problems = numerals.restyled(cells, decimal, usual, place)
  return TextTable(path, cells, numbers, style, problems=problems)


def find_separator(path: str, file: TextIO) -> str:
  """Find what separates the cells: the first mark that gives the first lines equally many cells."""
  if path.lower().endswith(".tsv"):
    return "\t"
  try:
    head = file.read(HEAD)
  except UnicodeDecodeError:  # Named by its byte when the lines are read.
    head = ""
  file.seek(0)
  whole = head.splitlines(keepends=True)[: None if len(head) < HEAD else -1]
  for mark in SEPARATORS.values():
    with suppress(csv.Error):
      rows = [row for row in csv.reader(whole, delimiter=mark) if row and row != [""]][:FIRST]
      if rows and len(rows[0]) > 1 and len(set(map(len, rows))) == 1:
        return mark
  # No mark does it: that of the header, for an error that counts its cells.
  return max(SEPARATORS.values(), key=lambda mark: (whole or [""])[0].count(mark))


def rows_of(path: str, file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
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

  reader = csv.reader(lines(), delimiter=separator)
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
