"""The feature columns of a table: numbers, dates and words, and what is wrong with them.

Method: the table below, where the more specific row takes precedence; missing values count for no
kind. The kinds of a run are kept with its model, which reads other files by them.

| cells | kind |
|---|---|
| named by --categorical | words |
| at least half of them numbers, or all True and False | numbers, and other cells are refused |
| at least half of them dates in one notation | days since 1970-01-01, and other cells are refused |
| others | words, at most `MOST_WORDS` different ones |

A table of complete numbers is `[N, D]` of float64; any other one `[N, D]` of objects: floats, NaN
where one is missing, and words, "" where one is missing. See `encodings` for what becomes of them.

Doubts: a code of digits, such as a postal code, is taken for a number, unless --categorical says
otherwise.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np

from fbackprop.train.data import targets
from fbackprop.train.data.numerals import is_missing
from fbackprop.train.data.rows import LARGEST, listed

# "complete" is a number of a model that hasn't learnt to do without it.
Kind = Literal["number", "date", "word", "complete"]
MOST_WORDS = 1000  # Different ones in a column; each takes a column of the network's input.
LEAST_OF_AN_ID = 20  # Rows from which a column of values that are all different looks like an id.
MOST_REFUSED = 20  # Columns whose cells are shown in a message.
ID = re.compile(r"(.*[ _.-])?(id|ids|uuid|guid|index|idx|key|nr|no)|unnamed: \d+", re.IGNORECASE)

TIME = r"(?:[T ](\d{1,2}):(\d{2})(?::(\d{2})(\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?)?"
YEAR_FIRST = re.compile(rf"(\d{{4}})([-/.])(\d{{1,2}})\2(\d{{1,2}}){TIME}")
YEAR_LAST = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2(\d{{4}}){TIME}")
# The notations of dates, each with an example and the pattern.
FORMS = {
  "year-month-day": ("2024-12-31", YEAR_FIRST),
  "day-month-year": ("31.12.2024", YEAR_LAST),
  "month-day-year": ("12/31/2024", YEAR_LAST),
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Column(NamedTuple):
  """A column of features: its name, its kind, and the notation of its dates ("" for others)."""

  name: str
  kind: Kind
  form: str = ""


class Refusal(NamedTuple):
  """A column that can't be read: its name, the row of a cell, what was expected, and how often."""

  name: str
  row: int
  expected: str
  times: int


class Found(NamedTuple):
  """What was found in a column: how it is read, its values `[N]`, and what is wrong with it."""

  column: Column
  values: np.ndarray
  refusal: Refusal | None = None

  @property
  def is_complete(self) -> bool:
    """Whether all values are numbers."""
    return self.values.dtype != object and bool(np.isfinite(self.values).all())


def days_of(cell: str, form: str) -> float:
  """Parse a date to days since 1970-01-01, in UTC; NaN for other text.

  The day or the month may have one digit, and a time of the day may follow: 2024-1-31 06:00 is
  19753.25.
  """
  found = FORMS[form][1].fullmatch(cell.strip())
  if found is None:
    return np.nan
  a, _, b, c, hour, minute, second, fraction, zone = found.groups()
  year, month, day = {
    "year-month-day": (a, b, c), "day-month-year": (c, b, a), "month-day-year": (c, a, b),
  }[form]  # fmt: skip
  h, m, s = (int(part or 0) for part in (hour, minute, second))
  try:
    date = datetime(int(year), int(month), int(day), h, m, s, tzinfo=UTC)
  except ValueError:  # Such as a 31st of February.
    return np.nan
  days = (date - EPOCH).total_seconds() / 86400 + float(fraction or 0) / 86400
  if zone and zone != "Z":
    minutes = 60 * int(zone[1:3]) + int(zone[-2:])
    days -= (minutes if zone[0] == "+" else -minutes) / 1440
  return days


def each(cells: np.ndarray, f: Callable[[str], float]) -> np.ndarray:
  """Apply a function to each different cell, `[N]` in float64."""
  known = {cell: f(cell) for cell in set(cells.tolist())}
  return np.array([known[cell] for cell in cells.tolist()], np.float64)


def missing_of(cells: np.ndarray) -> np.ndarray:
  """Return which cells are missing, `[N]`."""
  if cells.dtype.kind != "O":
    return np.isnan(cells) if cells.dtype.kind == "f" else np.zeros(len(cells), bool)
  return each(cells, is_missing).astype(bool)


def words_of(cells: np.ndarray) -> np.ndarray:
  """Return the words of a column, `[N]` of objects, without surrounding spaces; "" where missing.

  Only the missing values of pandas, and ?, are missing among words.
  """
  if cells.dtype.kind != "O":
    cells = np.array([as_text(value) for value in cells.tolist()], object)
  known = {cell: "" if (word := cell.strip()) in targets.HOLES else word for cell in set(cells)}
  return np.array([known[cell] for cell in cells], object)


def as_text(value: float | int | bool) -> str:
  """Write a number as a word: 1.0 is 1, and NaN is missing."""
  if value != value:  # NaN.
    return ""
  return str(int(value)) if float(value).is_integer() else repr(value)


def read(cells: np.ndarray, column: Column) -> Found:
  """Read a column of a known kind."""
  name, kind, form = column
  if kind == "word":
    return Found(column, words_of(cells))
  is_typed = cells.dtype.kind != "O"  # Days, if they are dates.
  values = (
    targets.as_numbers(cells) if kind == "number" or is_typed else np.full(len(cells), np.nan)
  )
  wrong = ~(np.abs(values) <= LARGEST)
  if wrong.any():
    missing = missing_of(cells)
    own = np.full(len(cells), np.nan)
    if kind == "date" and not is_typed:
      own[~missing] = each(cells[~missing], lambda cell: days_of(cell, form))
    elif (~missing).any():
      own[~missing] = targets.as_numbers(cells[~missing])
    values, wrong = own, ~missing & ~(np.abs(own) <= LARGEST)
  if wrong.any():
    expected = "a number" if kind == "number" else f"a date like {FORMS[form][0]}"
    refusal = Refusal(name, int(wrong.argmax()), f"{expected} was expected", int(wrong.sum()))
    return Found(column, values, refusal)
  return Found(column, values)


def infer(name: str, cells: np.ndarray, *, is_categorical: bool, is_text: bool) -> Found:
  """Infer the kind of a column, and read it.

  Args:
    name: its name.
    cells: its cells, text or numbers `[N]`.
    is_categorical: whether it was said to be one of words.
    is_text: whether the file has it as text, so that it isn't one of numbers.
  """
  as_words = Column(name, "word")
  if is_categorical:
    return limited(read(cells, as_words))
  found = read(cells, Column(name, "number"))
  if cells.dtype.kind != "O" or (not is_text and found.refusal is None):
    return found
  known = len(cells) - int(missing_of(cells).sum())
  if not is_text and 2 * (known - getattr(found.refusal, "times", 0)) >= known:
    return found
  dates = [(read(cells, Column(name, "date", form)), form) for form in FORMS]
  counts = [known - (date.refusal.times if date.refusal else 0) for date, _ in dates]
  if known and 2 * max(counts) >= known:
    best = dates[int(np.argmax(counts))][0]
    # Unless a day above 12 tells them apart, 3/4/2024 has two meanings.
    if counts[1] == counts[2] == max(counts) and not np.array_equal(
      dates[1][0].values, dates[2][0].values, equal_nan=True
    ):
      row = int(np.argmax(dates[1][0].values != dates[2][0].values))
      expected = "a date in a notation that tells day from month was expected, such as 2024-12-31"
      return best._replace(refusal=Refusal(name, row, expected, known))
    return best
  return limited(read(cells, as_words))


def limited(found: Found) -> Found:
  """Refuse a column of too many different words."""
  different = len(set(found.values.tolist()))
  if different <= MOST_WORDS:
    return found
  row = int(np.argmax(found.values != found.values[0]))
  expected = f"at most {MOST_WORDS:,} different words were expected, and there are {different:,}"
  return found._replace(refusal=Refusal(found.column.name, row, expected, len(found.values)))


def together(found: Sequence[Found]) -> np.ndarray:
  """Join columns: `[N, D]` in float64 if all are complete numbers, else of objects."""
  if all(own.is_complete for own in found):
    return np.stack([own.values.astype(np.float64) for own in found], 1)
  x = np.empty((len(found[0].values), len(found)), object)
  for j, own in enumerate(found):
    x[:, j] = own.values.tolist()
  return x


def refused(
  found: Sequence[Found], place: Callable[[str, int], str], cell: Callable[[str, int], str]
) -> str:
  """Describe all columns that can't be read, in one message; "" if there are none.

  Args:
    found: the columns.
    place: the place of a cell, of its column and row.
    cell: the text of a cell in a message.
  """
  wrong = [own.refusal for own in found if own.refusal is not None]
  if not wrong:
    return ""
  parts = [f"{place(r.name, r.row)}: {r.expected}, got {cell(r.name, r.row)}" for r in wrong]
  if len(parts) == 1 and wrong[0].times == 1:
    return parts[0]
  counts = [f"{part} ({r.times:,} such cells)" for part, r in zip(parts, wrong, strict=True)]
  more = [f"{len(counts) - MOST_REFUSED} more columns"] if len(counts) > MOST_REFUSED else []
  names = " ".join(repr(r.name) if " " in r.name else r.name for r in wrong)
  advice = f"--drop {names} leaves out what can't be mended, --categorical takes words"
  return "; ".join([*counts[:MOST_REFUSED], *more, advice])


def notes_on(found: Sequence[Found]) -> list[str]:
  """Return notes on columns that look like an index or an id: of a number of rows, not of things.

  An index counts the rows from 0 or 1; an id is another one in each row, and is called so, or is of
  words.
  """
  notes = []
  for (name, kind, _), values, _ in found if len(found) > 1 else ():
    n = len(values)
    if n < LEAST_OF_AN_ID or kind == "date":
      continue
    look = ""
    is_whole = kind == "word" or bool((values == np.rint(values)).all())
    if (
      kind == "number" and values[0] in (0, 1) and np.array_equal(values, np.arange(n) + values[0])
    ):
      look = f"an index: its values are {values[0]:.0f}, {values[1]:.0f}, ..., {values[-1]:.0f}"
    elif is_whole and (kind == "word" or ID.fullmatch(name)) and len(set(values.tolist())) == n:
      look = "an id: it has another value in each row"
    if look:
      notes.append(f"column {name!r} looks like {look}; --drop leaves it out")
  return notes


def described(found: Sequence[Found]) -> list[str]:
  """Return notes on how columns are read: those of words, those of dates, and empty ones."""
  kinds = {
    "words": [own for own in found if own.column.kind == "word"],
    "dates (days since 1970-01-01)": [own for own in found if own.column.kind == "date"],
  }
  return [
    f"{what}: {listed([own.column.name for own in columns])}"
    for what, columns in kinds.items()
    if columns
  ]
