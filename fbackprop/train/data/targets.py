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

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from fbackprop.train.data.names import Task

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
HOLES_AMONG_NUMBERS = frozenset(
  (*map(str.lower, HOLES), "-", "--", ".", "none", "missing", "unknown")
)


def as_number(cell: str) -> float | None:
  """Parse a number; return None for other text, such as 1_000, which Python would accept."""
  try:
    return None if "_" in cell else float(cell)
  except ValueError:
    return None


def as_numbers(cells: np.ndarray) -> np.ndarray:
  """Parse texts `[N]` to the nearest float64; NaN for a text that isn't a number.

  A column of nothing but True and False becomes 1 and 0.
  """
  try:
    if "_" not in "".join(cells):
      return cells.astype(np.float64)
  except ValueError:
    if is_truth(cells):
      return np.array([cell.strip().lower() == "true" for cell in cells], np.float64)
  found = [as_number(cell) for cell in cells]
  return np.array([np.nan if number is None else number for number in found])


def is_truth(cells: np.ndarray) -> bool:
  """Return whether all texts are True or False."""
  return {cell.strip().lower() for cell in cells} <= {"true", "false"}


def values_of(cells: np.ndarray) -> np.ndarray:
  """Parse texts `[N, C]` to float64 if all are finite numbers; else return them unchanged."""
  columns = list(cells.T)
  values = np.stack([as_numbers(column) for column in columns], 1)
  are_numbers = np.isfinite(values).all() and not any(map(is_truth, columns))
  if not are_numbers:
    return cells
  if (np.abs(values) >= 2**53).any():  # Beyond 2⁵³ float64 skips integers: parse exactly.
    whole = [number for number in map(exact, cells.ravel()) if number == number.to_integral_value()]
    if len(whole) == cells.size and all(-(2**63) <= number < 2**63 for number in whole):
      return np.array(list(map(int, whole)), np.int64).reshape(cells.shape)
  return values


def holes_of(words: Sequence[str]) -> np.ndarray:
  """Return which targets are missing, `[N]`.

  Args:
    words: the cells of a column.
  """
  kinds = {word: as_number(word) for word in set(words)}
  others = {word for word, number in kinds.items() if number is None}
  are_numbers = any(number is not None and number == number for number in kinds.values())
  are_numbers &= all(word.strip().lower() in HOLES_AMONG_NUMBERS for word in others)
  known, change = (HOLES_AMONG_NUMBERS, str.lower) if are_numbers else (HOLES, str)
  holes = {word for word in kinds if change(word.strip()) in known}
  return np.array([word in holes for word in words], bool)


def infer_task(targets: np.ndarray) -> tuple[Task, str]:
  """Infer the task by the table above.

  Args:
    targets: targets without missing values, `[N]` or `[N, C]`: numbers, booleans or words.

  Returns:
    The task, and the reason, such as "its values are words".
  """
  if targets.ndim == 2 and targets.shape[1] > 1:
    return "regression", "there are several target columns"
  if targets.dtype.kind not in "iubf":
    numbers = as_numbers(targets.ravel())
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
  number = as_number(name)
  # Exact, as float64 doesn't represent every integer. Nonfinite numbers are words.
  return name if number is None or not abs(number) < float("inf") else exact(name)


def exact(number: str) -> Decimal:
  """Parse a number exactly, without rounding to float64."""
  try:
    return Decimal(number.strip())
  except InvalidOperation:  # Such as an exponent of twenty digits.
    return Decimal(float(number))


def label(words: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
  """Number the classes; return labels `[N]` in int32 and names, in numeric or alphabetic order.

  Args:
    words: the class of each example. Equal numbers are named by the shortest text.
  """
  names: dict[Any, str] = {}
  keys = {word: class_key(word) for word in set(words)}
  for word in sorted(keys, key=lambda word: (len(word), word)):
    names.setdefault(keys[word], word)
  are_numbers = all(isinstance(key, Decimal) for key in names)
  order = sorted(names) if are_numbers else sorted(names, key=lambda key: names[key])
  place = {key: i for i, key in enumerate(order)}
  of_word = {word: place[key] for word, key in keys.items()}
  return np.array([of_word[word] for word in words], np.int32), tuple(names[key] for key in order)


def relabel(
  labels: np.ndarray,
  names: Sequence[str],
  known: Sequence[str],
  unknown: Callable[[str], str],
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
  for name, place in zip(names, places, strict=True):
    if place is None:
      raise ValueError(unknown(name))
  renumbered: np.ndarray = np.array(places, np.int32)[labels]
  return renumbered
