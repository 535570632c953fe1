"""Tables that have types: parquet files by pyarrow, and DataFrames of pandas or polars.

Their columns become those of a text file: numbers stay numbers, dates become days since 1970-01-01,
durations days, and text and categories stay text, whatever digits are in it.

The file is untrusted input: its rows, columns and unpacked size are those of its own list, which is
bounded (see `fbackprop.files`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.files import MOST_UNPACKED, open_plain
from fbackprop.train.data.columns import EPOCH, Column, as_text
from fbackprop.train.data.csv_tables import MOST_CELLS, TextTable, dataset_of
from fbackprop.train.data.rows import Dataset, check_width, listed

# Columns of an unnamed index of pandas, also where its notes are lost, as in a copy by another
# program.
INDEX = re.compile(r"__index_level_\d+__")


def is_frame(value: Any) -> bool:
  """Return whether a value is a DataFrame: a table of named columns."""
  return hasattr(value, "columns") and hasattr(value, "__getitem__")


def read_frame(frame: Any, target: Sequence[str] = (), *args: Any, **options: Any) -> Dataset:
  """Find features and targets in a DataFrame; the options are those of `dataset_of`."""
  return dataset_of(table_of("frame", columns_of(frame)), target, *args, **options)


def columns_of(frame: Any) -> dict[str, Any]:
  """Return the columns of a DataFrame or of a dict, by their names."""
  if isinstance(frame, Mapping):
    return {str(name): values for name, values in frame.items()}
  return {str(name): frame[name] for name in frame.columns}


def table_of(path: str, columns: Mapping[str, Any]) -> TextTable:
  """Convert named columns to a table; `path` names it in messages."""
  if len(set(columns)) < len(columns) or not all(name.strip() for name in columns):
    raise ValueError(f"{path}: each column must have a name of its own, got {listed([*columns])}")
  cells, dates = {}, set()
  for name, values in columns.items():
    cells[name], is_date = cells_of(path, name, values)
    dates |= {name} if is_date else set()
  counts = {len(own) for own in cells.values()} or {0}
  if len(counts) > 1:
    raise ValueError(f"{path}: its columns must have equally many rows, got {sorted(counts)}")
  texts = frozenset(name for name, own in cells.items() if own.dtype == object)
  places = np.arange(counts.pop())
  return TextTable(path, cells, places, texts=texts, dates=frozenset(dates), line="row")


def cells_of(path: str, name: str, values: Any) -> tuple[np.ndarray, bool]:
  """Convert a column to numbers `[N]`, NaN where one is missing, or to text, "" where missing.

  Returns:
    The cells, and whether they are dates, as days since 1970-01-01.
  """
  is_of_categories = "categor" in str(getattr(values, "dtype", "")).lower()
  found = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
  if found.ndim != 1:
    raise ValueError(f"{path}: column {name!r} must be of single values, got {list(found.shape)}")
  if found.dtype.kind in "iuf" and not is_of_categories:
    return found if found.dtype.itemsize <= 8 else found.astype(np.float64), False
  if found.dtype.kind == "b" and not is_of_categories:
    return found.astype(np.float64), False
  if found.dtype.kind == "M":
    days = found.astype("datetime64[us]").astype(np.int64) / (86400 * 10**6)
    return np.where(np.isnat(found), np.nan, days), True
  if found.dtype.kind == "m":
    days = found.astype("timedelta64[us]").astype(np.int64) / (86400 * 10**6)
    return np.where(np.isnat(found), np.nan, days), False
  cells = found.astype(object)
  if nested := [value for value in cells.tolist() if isinstance(value, list | dict | np.ndarray)]:
    said = f"{path}: column {name!r} must be of single values"
    raise ValueError(f"{said}, got {nested[0]!r:.100}; drop it, or give its parts as columns")
  known = [value for value in cells.tolist() if not is_missing(value)]
  kinds: tuple[tuple[Callable[[Any], bool], Callable[[Any], float]], ...] = (
    (is_number, float), (is_date, days_of_date), (is_duration, days_of_duration),
  )  # fmt: skip
  for is_kind, convert in kinds:
    if not is_of_categories and known and all(map(is_kind, known)):
      numbers = [np.nan if is_missing(value) else convert(value) for value in cells.tolist()]
      return np.array(numbers, np.float64), is_kind is is_date
  return np.array([text_of(value) for value in cells.tolist()], object), False


def is_missing(value: Any) -> bool:
  """Return whether a value is missing: None, NaN, pandas' NA or NaT."""
  return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def is_number(value: Any) -> bool:
  """Return whether a value is a number or a truth value, of Python or NumPy."""
  return isinstance(value, int | float | np.number | np.bool_) or type(value).__name__ == "Decimal"


def is_date(value: Any) -> bool:
  """Return whether a value is a date, with or without a time of the day."""
  return isinstance(value, date)


def is_duration(value: Any) -> bool:
  """Return whether a value is a duration."""
  return isinstance(value, timedelta)


def days_of_duration(value: timedelta) -> float:
  """Convert a duration to days."""
  return value.total_seconds() / 86400


def days_of_date(value: date) -> float:
  """Convert a date to days since 1970-01-01, in UTC if it has a time zone."""
  if not isinstance(value, datetime):
    return float(value.toordinal() - EPOCH.toordinal())
  own = value.replace(tzinfo=UTC) if value.tzinfo is None else value
  return (own - EPOCH).total_seconds() / 86400


def text_of(value: Any) -> str:
  """Write a value as text: dates as 2024-12-31, and a missing one as ""."""
  if is_missing(value):
    return ""
  if isinstance(value, bytes):
    return value.decode("utf-8", "replace")
  if is_number(value) and not isinstance(value, bool | np.bool_):
    return as_text(float(value)) if not isinstance(value, int) else str(value)
  return str(value.isoformat() if hasattr(value, "isoformat") else value)


# --- Parquet --------------------------------------------------------------------------------------


def read_parquet(path: str, target: Sequence[str] = (), *args: Any, **options: Any) -> Dataset:
  """Read features and targets from a parquet file; the options are those of `dataset_of`.

  Raises:
    ValueError: the file isn't one, is damaged or too large, or a column can't be read.
    OSError: it can't be read, or isn't regular.
    ModuleNotFoundError: pyarrow isn't installed; the message names the extra.
  """
  return dataset_of(read_parquet_table(path), target, *args, **options)


def read_parquet_features(
  path: str, features: Sequence[str], known: Sequence[Column] | None = None, **style: Any
) -> np.ndarray:
  """Read a model's feature columns, `[N, D]`; see `csv_tables.read_features`."""
  table = read_parquet_table(path)
  return table.numbers_of(features) if known is None else table.values_of(known)


def read_parquet_table(path: str) -> TextTable:
  """Read a parquet file as a table."""
  parquet = need("pyarrow.parquet", extra="parquet")
  with open_plain(path) as file:
    try:
      # pyarrow's own exceptions are ValueErrors and OSErrors, of a C++ library.
      own = parquet.ParquetFile(file)
      about = own.metadata
      names, cells = own.schema_arrow.names, about.num_rows * max(1, about.num_columns)
      # Arrow restores no categories of numbers; pandas reads them as such by what it has noted.
      noted = own.schema_arrow.pandas_metadata or {}
      of_columns = noted.get("columns", ())
      categories = {each["name"] for each in of_columns if each["pandas_type"] == "categorical"}
      # A plain count is noted as a dict, other indices by the names of their columns.
      index = {name for name in noted.get("index_columns", ()) if isinstance(name, str)}
      size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    except Exception as error:
      raise ValueError(f"{path} is no parquet file that can be read: {error}") from error
    check_width(path, "columns", len(names))
    if cells > MOST_CELLS or size > MOST_UNPACKED:
      raise ValueError(f"{path} has {cells:,} cells in {size:,} bytes, more than are read")
    if not about.num_rows or not names:
      raise ValueError(f"{path} must have at least one row and a column")
    try:
      arrow = own.read()
    except Exception as error:
      raise ValueError(f"{path} is damaged: {error}") from error
  columns = {name: arrow.column(i) for i, name in enumerate(names)}
  values = {
    name: of_arrow(own, is_of_categories=name in categories)
    for name, own in columns.items()
    if name not in index and not INDEX.fullmatch(name)
  }
  if len(columns) < len(names):
    raise ValueError(f"{path}: each column must have a name of its own, got {listed(names)}")
  return table_of(path, values)


def of_arrow(column: Any, *, is_of_categories: bool = False) -> np.ndarray:
  """Convert a column of pyarrow to an array: of numbers if it has no others, else of objects."""
  kind = "dictionary" if is_of_categories else str(column.type)
  if kind.startswith(("int", "uint", "float", "double")) and not column.null_count:
    return np.asarray(column.to_numpy())
  values = column.to_pylist()
  if kind.startswith(("int", "uint", "float", "double", "bool", "half")):
    return np.array([np.nan if value is None else float(value) for value in values])
  if kind.startswith("dictionary"):  # Categories, of which numbers are words too.
    values = list(map(text_of, values))
  array = np.empty(len(values), object)
  array[:] = values
  return array
