"""Tables as text: a csv file with a header, of numbers, whose targets may be words."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fbackprop.train.sources.examples import Examples
from fbackprop.train.sources.names import Task

# So many different whole numbers, and no more, are taken for labels.
MOST_LABELS = 20


LARGEST = float(np.finfo(np.float32).max)


class Table(NamedTuple):
  """A csv file: the names of its columns, and the cells of each row as text."""

  path: Path
  columns: tuple[str, ...]
  rows: list[list[str]]
  lines: list[int]


def read_csv(
  path: str, target: Sequence[str], task: Task | None, sample_weights: str | None = None
) -> Examples:
  """Reads features and targets.

  Args:
    path: of the file, in UTF-8, separated by commas, with a header.
    target: the column that is to be learned, or several; all others are features.
    task: None to tell it from the values: words are labels, and so are at most `MOST_LABELS`
      different whole numbers; other numbers are values of a regression.
    sample_weights: a column of what the rows count for, which is no feature then.

  Raises:
    ValueError: the file isn't such a table; a cell is named by its line and column.
    OSError: it can't be read.
  """
  table = read_table(path)
  missing = [name for name in target if name not in table.columns]
  if missing or not target:
    named = f"has no column {missing[0]!r}" if missing else "needs the name of a target column"
    raise ValueError(f"{path} {named}; its columns are {', '.join(table.columns)}")
  weights = None if sample_weights is None else weights_of(table, sample_weights, target)
  features = tuple(c for c in table.columns if c not in target and c != sample_weights)
  if not features:
    raise ValueError(f"{path} has no column beside the target: there is nothing to learn from")
  x = numbers(table, features)
  task, inferred = (task, "") if task else infer_task(table, target)
  if task == "classification":
    if len(target) > 1:
      raise ValueError(f"{path}: a classification has one target column, got {', '.join(target)}")
    words = text_of(table, target[0])
    classes = sorted_classes(words)
    place = {c: i for i, c in enumerate(classes)}
    labels = np.array([place[w] for w in words], np.int32)
    return Examples(
      x, labels, task, classes, features, standardize=True, inferred=inferred, weights=weights
    )
  values = numbers(table, tuple(target))
  if task == "multilabel" and not np.isin(values, (0.0, 1.0)).all():
    raise ValueError(f"{path}: the targets of several labels must be 0 or 1")
  return Examples(
    x, values, task, tuple(target), features, standardize=True, inferred=inferred, weights=weights
  )


def read_features(path: str, features: Sequence[str]) -> np.ndarray:
  """Reads the columns that a model was trained on, `[N, D]`, in its order; others are let be.

  Raises:
    ValueError: a column is missing, or a cell is no number.
    OSError: the file can't be read.
  """
  table = read_table(path)
  missing = [name for name in features if name not in table.columns]
  if missing:
    raise ValueError(f"{path} has no column {missing[0]!r}, which the model was trained on")
  return numbers(table, features)


def read_table(path: str) -> Table:
  """The cells of a file; each row must have as many as the header."""
  rows, lines = [], []
  try:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
      reader = csv.reader(file, strict=True)
      columns = tuple(name.strip() for name in next(reader, ()))
      for row in reader:
        if row:  # An empty line, as at the end of many files, is no row.
          rows.append(row)
          lines.append(reader.line_num)
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error
  except csv.Error as error:
    raise ValueError(f"{path} is no csv file: {error}") from error
  if not columns or not rows:
    raise ValueError(f"{path} must have a header and at least one row")
  for name in columns:
    if not name or columns.count(name) > 1:
      raise ValueError(f"{path}: each column must have a name of its own, got {', '.join(columns)}")
  for line, row in zip(lines, rows, strict=True):
    if len(row) != len(columns):
      raise ValueError(f"{path}, line {line}: {len(columns)} cells were expected, got {len(row)}")
  return Table(Path(path), columns, rows, lines)


def numbers(table: Table, columns: Sequence[str]) -> np.ndarray:
  """Columns as float32 `[N, len(columns)]`; what isn't a finite number is refused by its place."""
  places = [table.columns.index(name) for name in columns]
  found = np.empty((len(table.rows), len(places)), np.float32)
  for i, (line, row) in enumerate(zip(table.lines, table.rows, strict=True)):
    for j, (name, place) in enumerate(zip(columns, places, strict=True)):
      number = as_number(row[place])
      if number is None or not abs(number) <= LARGEST:
        got = repr(row[place]) if row[place].strip() else "an empty cell"
        raise ValueError(f"{table.path}, line {line}, column {name!r}: a number was expected, got "
                         f"{got}")  # fmt: skip
      found[i, j] = number
  return found


def weights_of(table: Table, column: str, target: Sequence[str]) -> np.ndarray:
  """A column of weights, `[N]`; a cell that holds none is refused by its place."""
  if column not in table.columns:
    raise ValueError(f"{table.path} has no column {column!r} of sample_weights; its columns are "
                     f"{', '.join(table.columns)}")  # fmt: skip
  if column in target:
    raise ValueError(f"{table.path}: {column!r} can't be both target and sample_weights")
  weights = numbers(table, (column,))[:, 0]
  for line, weight in zip(table.lines, weights, strict=True):
    if weight < 0:
      raise ValueError(
        f"{table.path}, line {line}, column {column!r}: a weight of at least 0 was expected, got "
        f"{weight:g}"
      )
  return weights


def text_of(table: Table, column: str) -> list[str]:
  """A column as text; an empty cell is refused by its place."""
  place = table.columns.index(column)
  words = [row[place].strip() for row in table.rows]
  for line, word in zip(table.lines, words, strict=True):
    if not word:
      raise ValueError(f"{table.path}, line {line}, column {column!r}: the cell is empty")
  return words


def as_number(cell: str) -> float | None:
  """The number that a cell holds, or None. Python's underscores, as in 1_000, are no number's."""
  try:
    return None if "_" in cell else float(cell)
  except ValueError:
    return None


def infer_task(table: Table, target: Sequence[str]) -> tuple[Task, str]:
  """What the targets are, and why; see `read_csv`."""
  if len(target) > 1:
    return "regression", "there are several target columns"
  words = text_of(table, target[0])
  found = [as_number(word) for word in words]
  if any(number is None or not math.isfinite(number) for number in found):
    return "classification", "its values are words"
  different = {number for number in found if number is not None}
  if all(number.is_integer() for number in different) and len(different) <= MOST_LABELS:
    return "classification", f"its values are {len(different)} whole numbers"
  return "regression", "its values are numbers"


def sorted_classes(words: Sequence[str]) -> tuple[str, ...]:
  """The different labels: numbers by their size, words by their letters."""
  different = sorted(set(words))
  sizes = {word: as_number(word) for word in different}
  if all(size is not None for size in sizes.values()):
    different.sort(key=lambda word: (sizes[word], word))
  return tuple(different)
