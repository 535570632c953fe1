"""Targets of csv files, npz files and arrays: inference of the task, missing values, labels.

Method: the table below, where the more specific row takes precedence. Whole numbers are labels if
they are few, or consecutive and frequent; other numbers are a regression.

| targets | task |
|---|---|
| several columns | regression |
| words | classification |
| words in less than half of the rows, and the numbers alone are a regression | regression, and a word is refused |
| at most `MOST_LABELS` different whole numbers, 1.0 being one | classification |
| whole numbers that are 0, 1, ..., C - 1 or 1, ..., C, each at least `LEAST_OF_EACH` times | classification |
| other numbers | regression |

A column vector `[N, 1]` is treated as a vector, and missing values are neither numbers nor words.

Doubts: any such rule can guess wrong. So the reason is returned with the task, for the user to read,
and the task can be given instead.
"""  # noqa: E501

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from fbackprop.train.data.names import MissingTargets, Task
from fbackprop.train.data.rows import EXACT_INTEGERS, note_lost_values

# At most this many distinct whole numbers are labels, whatever their values.
MOST_LABELS = 20
LEAST_OF_EACH = 5

# The missing values of pandas, and "?", which the UCI repository uses. Among words they are missing
# too; `missing_targets="class"` makes them classes.
HOLES = frozenset(
  ("", "?", "#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "-NaN",
   "-nan")
)  # fmt: skip
# Missing values in columns that are otherwise numeric, compared in lower case.
HOLES_AMONG_NUMBERS = frozenset((*map(str.lower, HOLES), "-", "--", ".", "missing", "unknown"))


def as_number(cell: str) -> float:
  """Parse a number; return NaN for other text, such as 1_000, which Python would accept."""
  try:
    return np.nan if "_" in cell else float(cell)
  except ValueError:
    return np.nan


def as_numbers(cells: np.ndarray) -> np.ndarray:
  """Parse texts `[N]` to the nearest float64; NaN for a text that isn't a number.

  A column of nothing but True and False becomes 1 and 0, and numbers are returned in float64.
  """
  if cells.dtype.kind in "iufb":
    return cells.astype(np.float64)
  try:
    if "_" not in "".join(cells):
      return cells.astype(np.float64)
  except ValueError:
    if is_truth(cells):
      return np.array([cell.strip().lower() == "true" for cell in cells], np.float64)
  return np.array(list(map(as_number, cells)), np.float64)


def as_texts(cells: np.ndarray) -> np.ndarray:
  """Write numbers `[N]` as texts, from which they are read exactly; NaN as an empty one."""
  if cells.dtype.kind == "O":
    return cells
  return np.array(["" if value != value else repr(value) for value in cells.tolist()], object)


def is_truth(cells: np.ndarray) -> bool:
  """Return whether all texts are True or False."""
  return {cell.strip().lower() for cell in cells} <= {"true", "false"}


def values_of(cells: np.ndarray) -> np.ndarray:
  """Parse texts `[N, C]` to float64 if all are finite numbers; else return them unchanged."""
  if cells.dtype.kind not in "OU":
    return cells
  values = np.stack(list(map(as_numbers, cells.T)), 1)
  if not np.isfinite(values).all() or any(map(is_truth, cells.T)):
    return cells
  if (np.abs(values) >= 2**53).any():  # Beyond 2⁵³ float64 skips integers: parse exactly.
    whole = [number for number in map(exact, cells.ravel()) if number == number.to_integral_value()]
    if len(whole) == cells.size and all(-(2**63) <= number < 2**63 for number in whole):
      return np.array(list(map(int, whole)), np.int64).reshape(cells.shape)
  return values


def find_known(
  y: np.ndarray,
  missing_targets: MissingTargets,
  where: str,
  refuse: Callable[[np.ndarray, str], None],
) -> tuple[np.ndarray, list[str]]:
  """Find the rows that have a target.

  Args:
    y: numbers or text, `[N, C]`.
    missing_targets: treatment of missing targets; see `load_dataset`.
    where: the file, for messages.
    refuse: raises for the first of some wrong targets `[N, C]`, with what was expected.

  Returns:
    Which rows have all targets, `[N]`, and a note on the others, if there are any.
  """
  is_text = y.dtype.kind in "OU"
  is_hole: Any = np.isnan(y) if y.dtype.kind == "f" else np.zeros(y.shape, bool)
  for j, column in enumerate(y.T if is_text else ()):
    is_hole[:, j] = holes_of(column.tolist(), missing_targets)
  is_known = ~is_hole.any(1)
  count = int((~is_known).sum())
  if count and missing_targets != "drop":
    advice = f"{count:,} in all; --missing-targets drop drops such rows"
    row, j = np.argwhere(is_hole)[0]
    others = y[~is_hole[:, j], j]
    if is_text and y[row, j].strip() and not np.isfinite(as_numbers(others)).all():
      advice += ", class takes the word for a class"
    refuse(is_hole, f"the target is missing ({advice})")
  if count == len(y):
    raise ValueError(f"{where}: no row has a target")
  note = f"{where}: {count:,} of {len(y):,} rows left out, as they have no target"
  return is_known, [note] if count else []


def holes_of(words: Sequence[str], missing_targets: MissingTargets) -> list[bool]:
  """Return which cells of a column are missing."""
  numbers = {word: as_number(word) for word in set(words)}
  others = {word.strip().lower() for word, number in numbers.items() if np.isnan(number)}
  known = frozenset(("",)) if missing_targets == "class" else HOLES
  holes = {word for word in numbers if word.strip() in known}
  are_numbers = others <= HOLES_AMONG_NUMBERS and not all(map(np.isnan, numbers.values()))
  if are_numbers and missing_targets != "class":
    holes = {word for word in numbers if word.strip().lower() in HOLES_AMONG_NUMBERS}
  return [word in holes for word in words]


def lost_integers(names: Sequence[str], raw: Iterable[np.ndarray], values: np.ndarray) -> list[str]:
  """Return a note for each column with distinct integers that coincide in float64.

  Args:
    names: names of the D columns.
    raw: the columns in the source's numbers or text, `[N]` each.
    values: the same numbers in float64, `[N, D]`.
  """
  notes: list[str] = []
  for name, column, own in zip(names, raw, values.T, strict=True):
    if np.abs(own).max(initial=0.0) > EXACT_INTEGERS:
      whole = list(map(exact, column)) if column.dtype.kind == "O" else column
      notes += note_lost_values(name, [whole], [own], "float64")
  return notes


def infer_task(targets: np.ndarray) -> tuple[Task, str]:
  """Infer the task by the table above.

  Args:
    targets: targets without missing values, `[N]` or `[N, C]`: numbers, booleans or words.

  Returns:
    The task, and the reason, such as "its values are words".
  """
  if targets.ndim == 2 and targets.shape[1] > 1:
    return "regression", "there are several target columns"
  targets = values_of(targets.reshape(-1, 1))[:, 0]
  if targets.dtype.kind in "OU":
    numbers = as_numbers(targets)
    numbers = numbers[np.isfinite(numbers)]
    if 2 * len(numbers) > len(targets) and infer_task(numbers)[0] == "regression":
      return "regression", "most of its values are numbers"
    return "classification", "its values are words"
  if targets.dtype.kind == "b":
    targets = targets.astype(np.int8)
  different, counts = np.unique(targets, return_counts=True)
  if targets.dtype.kind == "f" and not (different == np.rint(different)).all():
    return "regression", "its values are numbers"
  said = f"its values are {len(different)} whole numbers"
  # Sorted and distinct, so that first and last tell whether one is missing in between.
  has_no_gap = different[0] in (0, 1) and different[-1] - different[0] == len(different) - 1
  if len(different) <= MOST_LABELS or (has_no_gap and counts.min() >= LEAST_OF_EACH):
    return "classification", said
  return "regression", f"{said}, more than {MOST_LABELS} and not each of 0, 1, 2, ... often"


def class_key(name: str) -> Any:
  """Return the identity of a class: 1, 1.0 and 1e0 are the same, words differ by their letters."""
  # Exact, as float64 doesn't represent every integer. Nonfinite numbers are words.
  return exact(name) if np.isfinite(as_number(name)) else name


def exact(number: str) -> Decimal:
  """Parse a number exactly, without rounding to float64."""
  try:
    return Decimal(number.strip())
  except InvalidOperation:  # Such as an exponent of twenty digits.
    return Decimal(float(number))


def label(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
  """Number the classes; return labels `[N]` in int32 and names, in numeric or alphabetic order.

  Args:
    values: the class of each example, numbers or words `[N]`. Equal numbers are named by the
      shortest text.
  """
  different, places = np.unique(values, return_inverse=True)
  words = list(map(str, different))
  keys = {word: class_key(word) for word in words}
  names: dict[Any, str] = {}
  for word in sorted(keys, key=lambda word: (len(word), word)):
    names.setdefault(keys[word], word)
  are_numbers = all(isinstance(key, Decimal) for key in names)
  order = sorted(names) if are_numbers else sorted(names, key=lambda key: names[key])
  number = {key: i for i, key in enumerate(order)}
  labels = np.array([number[keys[word]] for word in words], np.int32)
  return labels[places], tuple(names[key] for key in order)


def relabel(
  labels: np.ndarray, names: Sequence[str], known: Sequence[str], unknown: Callable[[str], str]
) -> np.ndarray:
  """Renumber labels by known classes, matched by name, else as equal numbers.

  Args:
    labels: `[N]`, indices into `names`.
    names: the classes of the data.
    known: the classes that define the new numbers.
    unknown: returns the message for a class that isn't known.

  Raises:
    ValueError: a class isn't known.
  """
  by_name = {name: i for i, name in enumerate(known)}
  by_key = {class_key(name): i for i, name in reversed(list(enumerate(known)))}
  places = [by_name.get(name, by_key.get(class_key(name))) for name in names]
  if None in places:
    raise ValueError(unknown(names[places.index(None)]))
  return np.array(places, np.int32).take(labels)
