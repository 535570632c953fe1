"""The lines of a csv or tsv file: for pandas, which is fast, and for `csv`, which knows places."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from fbackprop.files import open_plain

LONGEST_LINE = 2**24


class Lines:
  """Lines as a file for pandas, which takes one each time that it reads."""

  def __init__(self, lines: Iterator[str]) -> None:
    self.lines = lines

  def __iter__(self) -> Iterator[str]:
    return self.lines

  def read(self, size: int = -1) -> str:
    """The next line, however long."""
    return next(self.lines, "")


def tab_or_comma(path: str) -> str:
  """What stands between two cells."""
  return "\t" if path.lower().endswith(".tsv") else ","


def rows_of(path: str | Path, *, is_strict: bool) -> Iterator[tuple[int, list[str]]]:
  """The rows below the header and the lines in which they end, by Python's `csv`.

  It is slower than pandas, and knows lines. A line of nothing but spaces is no row to either.
  """
  with open_plain(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as file:
    lines = bounded_lines(str(path), file)
    reader = csv.reader(lines, strict=is_strict, delimiter=tab_or_comma(str(path)))
    try:
      next(reader)
      for row in reader:
        if len(row) > 1 or "".join(row).strip():
          yield reader.line_num, row
    except csv.Error as error:
      raise ValueError(f"{path} is no csv file: {error}, in line {reader.line_num}") from error


def check_rows(path: str, columns: int, *, is_strict: bool) -> None:
  """Refuses the first row that has another number of cells."""
  for line, row in rows_of(path, is_strict=is_strict):
    if len(row) != columns:
      raise ValueError(f"{path}, line {line}: {columns} cells were expected, got {len(row)}")


def bounded_lines(path: str, file: TextIO) -> Iterator[str]:
  """The lines of a file; none is read further than it may be long."""
  number = 0
  while line := file.readline(LONGEST_LINE + 1):
    number += 1
    if len(line) > LONGEST_LINE:
      raise ValueError(f"{path}, line {number}: longer than {LONGEST_LINE:,} letters")
    yield line
