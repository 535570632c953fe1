"""Tables as text: a csv file with a header, of numbers, whose targets may be words."""

import codecs
import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from fbackprop.train.files import open_plain
from fbackprop.train.sources.examples import Examples, check_width
from fbackprop.train.sources.names import Task

# So many different whole numbers, and no more, are taken for labels.
MOST_LABELS = 20
# Of a file; MNIST has 47 million. A cell takes 8 bytes, and its text 50 if it isn't one letter.
MOST_CELLS = 2**26
LONGEST_LINE = 2**24
# How a file in UTF-16 begins.
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

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
    ValueError: the file isn't such a table, or has more than `MOST_CELLS` cells; a cell is named by
      its line and column.
    OSError: it can't be read, or is no file.
  """
  table = read_table(path)
  missing = [name for name in target if name not in table.columns]
  if missing or not target:
    named = f"has no column {missing[0]!r}" if missing else "needs the name of a target column"
    raise ValueError(f"{path} {named}; its columns are {listed(table.columns)}")
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
  there = set(table.columns)
  missing = [name for name in features if name not in there]
  if missing:
    raise ValueError(f"{path} has no column {missing[0]!r}, which the model was trained on")
  return numbers(table, features)


def read_table(path: str) -> Table:
  """The cells of a file; each row must have as many as the header.

  A row is looked at before the next one is read, so that what is refused hasn't filled the memory.
  """
  rows: list[list[str]] = []
  lines: list[int] = []
  with open_plain(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
    reader = csv.reader(bounded_lines(path, file), strict=True)
    try:
      columns = columns_of(path, next(reader, []))
      for row in reader:
        if not row:  # An empty line, as at the end of many files, is no row.
          continue
        if len(row) != len(columns):
          raise ValueError(
            f"{path}, line {reader.line_num}: {len(columns)} cells were expected, got {len(row)}"
          )
        if (len(rows) + 1) * (len(columns) + 1) > MOST_CELLS:
          raise ValueError(f"{path} has more than {MOST_CELLS:,} cells; write them by numpy.savez")
        rows.append(row)
        lines.append(reader.line_num)
    except UnicodeDecodeError as error:
      place = binary.tell() - len(error.object) + error.start
      utf_16 = "; it may be UTF-16" if place < 2 and error.object[:2] in UTF_16 else ""
      raise ValueError(
        f"{path} is no text in UTF-8: {error.reason} at byte {place}{utf_16}"
      ) from error
    except csv.Error as error:
      raise ValueError(f"{path} is no csv file: {error}, in line {reader.line_num}") from error
  if not columns or not rows:
    raise ValueError(f"{path} must have a header and at least one row")
  return Table(Path(path), columns, rows, lines)


def bounded_lines(path: str, file: TextIO) -> Iterator[str]:
  """The lines of a file; none is read further than it may be long."""
  number = 0
  while line := file.readline(LONGEST_LINE + 1):
    number += 1
    if len(line) > LONGEST_LINE:
      raise ValueError(f"{path}, line {number}: longer than {LONGEST_LINE:,} letters")
    yield line


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


def numbers(table: Table, columns: Sequence[str]) -> np.ndarray:
  """Columns as float32 `[N, len(columns)]`; what isn't a finite number is refused by its place."""
  place_of = {name: place for place, name in enumerate(table.columns)}
  places = [place_of[name] for name in columns]
  found = np.empty((len(table.rows), len(places)), np.float32)
  for i, (line, row) in enumerate(zip(table.lines, table.rows, strict=True)):
    for j, (name, place) in enumerate(zip(columns, places, strict=True)):
      number = as_number(row[place])
      if number is None or not abs(number) <= LARGEST:
        got = f"{row[place]!r:.100}" if row[place].strip() else "an empty cell"
        raise ValueError(f"{table.path}, line {line}, column {name!r}: a number was expected, got "
                         f"{got}")  # fmt: skip
      found[i, j] = number
  return found


def weights_of(table: Table, column: str, target: Sequence[str]) -> np.ndarray:
  """A column of weights, `[N]`; a cell that holds none is refused by its place."""
  if column not in table.columns:
    raise ValueError(f"{table.path} has no column {column!r} of sample_weights; its columns are "
                     f"{listed(table.columns)}")  # fmt: skip
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
