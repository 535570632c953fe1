"""Numbers as people write them: decimal commas, and separators of thousands.

Method: a column is one of numbers if at least half of its cells are, however they are written. The
style is one of the file, not of a column, and is known by the cells that can be read in one way
only: 1,5 and 1.234,5 have a decimal comma, 1.5 and 1,234.5 a decimal point. 1.234 and 1,234 could
be either, and follow the others. Cells are rewritten as Python reads them; a table whose numbers
Python reads already isn't touched.

Doubts: a file may use both styles, which is refused, as is a 1,234 that nothing decides.
"""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from fbackprop.train.data.names import Decimal
from fbackprop.train.data.targets import HOLES_AMONG_NUMBERS, as_number

# Thousands are separated by commas or points, or by an apostrophe or a space of some kind.
GROUPS = "['’ \u00a0\u2009\u202f]"
EXPONENT = r"(?:[eE][+-]?\d+)?"
STYLES = {
  "point": re.compile(
    rf"[+-]?[1-9]\d{{0,2}}(?:(,|{GROUPS})\d{{3}})(?:\1\d{{3}})*(?:\.\d*)?{EXPONENT}"
  ),
  "comma": re.compile(
    rf"[+-]?(?:\d+|[1-9]\d{{0,2}}(?:(\.|{GROUPS})\d{{3}})(?:\1\d{{3}})*)?(?:(?<=\d),\d*|,\d+)?{EXPONENT}"
  ),
}  # fmt: skip


class OtherStyleError(ValueError):
  """A column has a number of the other style."""


class Example(NamedTuple):
  """A cell that shows how numbers are written: its text, its column, and its row."""

  cell: str
  column: str
  row: int


def is_missing(cell: str) -> bool:
  """Return whether a cell is a missing value of a column of numbers."""
  return cell.strip().lower() in HOLES_AMONG_NUMBERS


def readings_of(cell: str) -> tuple[bool, bool, bool]:
  """Return whether a cell is a number to Python, with decimal points, and with decimal commas."""
  cell = cell.strip()
  is_plain = bool(np.isfinite(as_number(cell)))
  is_point, is_comma = (bool(STYLES[style].fullmatch(cell)) and any(map(str.isdigit, cell))
                        for style in ("point", "comma"))  # fmt: skip
  return is_plain, is_plain or is_point, is_comma


def restyled(
  columns: dict[str, np.ndarray],
  decimal: Decimal,
  usual: Literal["point", "comma"] | None,
  place: Callable[[str, int], str],
) -> tuple[dict[str, np.ndarray], str, dict[str, str]]:
  """Rewrite the numbers of a table as Python reads them.

  Args:
    columns: the cells of each column, text `[N]`.
    decimal: the style; "auto" to find it.
    usual: the style where no cell decides; None to refuse it.
    place: the place of a cell in a message, of its column and row.

  Returns:
    The columns, the style, and for columns with numbers of the other style what is wrong: to be
    raised if they are used.

  Raises:
    ValueError: the style isn't clear; the message names cells.
  """
  odd = {name: cells for name, cells in columns.items() if not are_plain(cells)}
  numeric: dict[str, dict[str, tuple[bool, bool, bool]]] = {}
  for name, cells in odd.items():
    known = {
      cell: readings_of(cell) for cell in dict.fromkeys(cells.tolist()) if not is_missing(cell)
    }
    if known and 2 * sum(any(reading) for reading in known.values()) >= len(known):
      numeric[name] = known
  shown: dict[str, Example | None] = {"point": None, "comma": None, "unclear": None}
  for name, known in numeric.items():
    for cell, reading in known.items():
      kind = kind_of(cell, reading)
      if kind in shown and shown[kind] is None:
        shown[kind] = first(columns, name, cell)
  if decimal == "auto" and shown["comma"] and shown["point"] is None:
    # Only then columns that Python reads matter: 2.5 is a decimal point, 1.234 may be a thousand.
    plain = [(name, column.tolist()) for name, column in columns.items() if name not in odd]
    texts = ((name, cell) for name, column in plain for cell in dict.fromkeys(column))
    points = (own for own in texts if kind_of(own[1], readings_of(own[1])) == "point")
    shown["point"] = next((first(columns, *own) for own in points), None)
  style = decided(decimal, usual, shown, place)
  # Only with decimal commas do columns that Python reads matter: 1.234 is a thousand then.
  names = [name for name in columns if name in numeric or (style == "comma" and name not in odd)]
  found, problems = dict(columns), {}
  for name in names:
    try:
      found[name] = rewritten(name, columns[name], style, numeric.get(name), place)
    except OtherStyleError as error:
      problems[name] = str(error)
  return found, style, problems


def are_plain(cells: np.ndarray) -> bool:
  """Return whether Python reads all cells as numbers."""
  if cells.dtype.kind != "O":
    return True
  try:
    return "_" not in "".join(cells) and cells.astype(np.float64) is not None
  except ValueError:
    return False


def kind_of(cell: str, reading: tuple[bool, bool, bool]) -> str:
  """Return what a number says of the style: "point", "comma", "unclear", or "" for nothing."""
  _, is_point, is_comma = reading
  if is_point and is_comma:
    return "unclear" if "," in cell else ""
  if "." not in cell and "," not in cell:
    return ""
  return "point" if is_point else "comma" if is_comma else ""


def first(columns: dict[str, np.ndarray], name: str, cell: str) -> Example:
  """Return the first place of a cell in its column."""
  return Example(cell, name, int(np.argmax(columns[name] == cell)))


def decided(
  decimal: Decimal,
  usual: Literal["point", "comma"] | None,
  shown: dict[str, Example | None],
  place: Callable[[str, int], str],
) -> Literal["point", "comma"]:
  """Return the style that the cells show."""
  point, comma, unclear = (shown[kind] for kind in ("point", "comma", "unclear"))
  if decimal != "auto":
    return decimal
  if point and comma:
    both = f"{place(point.column, point.row)}: {point.cell!r:.40} has a decimal point, and "
    both += f"{comma.cell!r:.40} in {place(comma.column, comma.row)} a decimal comma"
    raise ValueError(f"{both}; give --decimal point or --decimal comma, and the other is refused")
  if comma:
    return "comma"
  if point or not unclear:
    return "point" if point or usual is None else usual
  if usual is None:
    where = place(unclear.column, unclear.row)
    advice = "give --decimal comma if the comma is the decimal one, --decimal point if it isn't"
    raise ValueError(f"{where}: {unclear.cell!r:.40} may be a fraction or a thousand; {advice}")
  return usual


def rewritten(
  name: str,
  cells: np.ndarray,
  style: str,
  known: dict[str, tuple[bool, bool, bool]] | None,
  place: Callable[[str, int], str],
) -> np.ndarray:
  """Rewrite the numbers of a column; raise for one of the other style."""
  words = {}
  if cells.dtype.kind != "O":
    return cells
  for cell in dict.fromkeys(cells.tolist()):
    is_plain, is_point, is_comma = known.get(cell, (False,) * 3) if known else readings_of(cell)
    if style == "comma" and is_comma:
      words[cell] = re.sub(rf"\.|{GROUPS}", "", cell.strip()).replace(",", ".")
    elif style == "point" and is_point:
      words[cell] = cell if is_plain else re.sub(rf",|{GROUPS}", "", cell.strip())
    elif is_plain or is_comma:  # A number of the other style.
      where, wanted = place(name, first({name: cells}, name, cell).row), "a number with a decimal"
      raise OtherStyleError(
        f"{where}: {wanted} {style} was expected, got {cell!r:.100}; see --decimal"
      )
  return np.array([words.get(cell, cell) for cell in cells.tolist()], object)
