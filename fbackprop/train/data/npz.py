"""Features and targets in an npz file: arrays x `[N, ...]` and y, optionally x_test and y_test."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fbackprop.train.data.archives import Archive, read_arrays
from fbackprop.train.data.names import MissingTargets, Task
from fbackprop.train.data.rows import (
  EXACT_INTEGERS,
  LARGEST,
  Dataset,
  check_width,
  note_dropped_rows,
  note_lost_values,
  numbered,
)
from fbackprop.train.data.targets import (
  as_numbers,
  holes_of,
  infer_task,
  label,
  relabel,
  values_of,
)

X_NAMES, TARGET_NAMES = ("x", "X", "data"), ("y", "targets", "target", "labels")


def read_npz(
  path: str,
  target: Sequence[str] = (),
  task: Task | None = None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
) -> Dataset:
  """Read features and targets from an archive.

  Args:
    path: the file. x may also be named X or data, and y targets, target or labels.
    target: another name of y; empty for one of those.
    task: the task; None to infer it from the values, see `fbackprop.train.data.targets`.
    sample_weights: name of an array `[N]` of weights for the examples of x.
    missing_targets: treatment of missing targets, such as NaN; see `load_dataset`.

  Raises:
    ValueError: the file isn't such an archive; Python objects aren't read.
    OSError: it can't be read, or isn't regular.
  """
  if len(target) > 1:
    raise ValueError(f"{path}: one array holds the targets, got {', '.join(target)}")
  names = (*X_NAMES, *(tuple(target) or TARGET_NAMES))
  archive = read_arrays(path, {*names, *(f"{name}_test" for name in names), sample_weights})
  x_name = archive.first_of(X_NAMES, "the features")
  y_name = archive.first_of(tuple(target) or TARGET_NAMES, "the targets")
  tests = [f"{name}_test" in archive.arrays for name in (x_name, y_name)]
  if tests[0] != tests[1]:
    raise ValueError(f"{path} must have both of {x_name}_test and {y_name}_test, or none")

  x, image_shape, notes = read_x(archive, x_name)
  y = read_y(archive, y_name, len(x))
  weights = None if sample_weights is None else read_weights(archive, sample_weights, len(x))
  is_hole = find_holes(path, y_name, y, missing_targets)
  x, y, weights = x[~is_hole], y[~is_hole], None if weights is None else weights[~is_hole]
  notes += note_dropped_rows(path, is_hole)
  if not task and y.dtype.kind not in "iubfU":
    check_targets(path, y_name, y, "regression")
  task, inferred = (task, "") if task else infer_task(numbers_of(y))
  targets, outputs, more = convert_targets(path, y_name, y, task, None)
  check_width(path, "outputs", len(outputs))
  dataset = Dataset(
    x, targets, task, outputs, numbered("x", x.shape[1]), weights=weights, image_shape=image_shape,
    label=y_name, has_units=True, inferred=inferred, notes=(*notes, *more),
  )  # fmt: skip
  return with_test_part(dataset, archive, x_name, y_name, missing_targets) if tests[0] else dataset


def with_test_part(
  dataset: Dataset, archive: Archive, x_name: str, y_name: str, missing_targets: MissingTargets
) -> Dataset:
  """Add the test part of a file, with the columns and classes of the training part."""
  path, n_features = archive.path, dataset.x.shape[1]
  x, _, notes = read_x(archive, f"{x_name}_test")
  if x.shape[1] != n_features:
    raise ValueError(f"{path}: {x_name}_test must be [{len(x)}, {n_features}], got {list(x.shape)}")
  name = f"{y_name}_test"
  width = 1 if dataset.is_classification else dataset.outputs
  y = read_y(archive, name, len(x), (width,) if width > 1 else ())
  is_hole = find_holes(path, name, y, missing_targets)
  targets, _, _ = convert_targets(path, name, y[~is_hole], dataset.task, dataset.output_names)
  notes += note_dropped_rows(f"{path}: {name}", is_hole)
  return replace(dataset, x_test=x[~is_hole], targets_test=targets, notes=(*dataset.notes, *notes))


def as_floats(values: np.ndarray) -> np.ndarray:
  """Convert numbers to float32 if their dtype converts to it exactly, else to float64."""
  is_narrow = np.can_cast(values.dtype, np.float32)
  with np.errstate(over="ignore"):  # longdouble may overflow; infinities are refused later.
    floats: np.ndarray = values.astype(np.float32 if is_narrow else np.float64)
  return floats


def note_lost_numbers(names: Sequence[str], wide: np.ndarray, own: np.ndarray) -> list[str]:
  """Return a note for each column with distinct numbers that coincide in float64."""
  notes: list[str] = []
  if wide.dtype.kind in "iu" or wide.dtype.itemsize > 8:
    for j in np.flatnonzero(np.abs(own).max(0, initial=0.0) > EXACT_INTEGERS).tolist():
      before, after = len(np.unique(wide[:, j])), len(np.unique(own[:, j]))
      notes += note_lost_values(names[j], before, after, "float64")
  return notes


def read_x(archive: Archive, name: str) -> tuple[np.ndarray, tuple[int, int] | None, list[str]]:
  """Return the features `[N, D]`, the shape of an example if it is an image, and notes."""
  path, x = archive.path, archive.arrays[name]
  if x.ndim < 1 or x.dtype.kind not in "iubf" or not x.size:
    raise ValueError(f"{path}: {name} must be numbers [N, ...], got {x.dtype}{list(x.shape)}")
  image_shape = (x.shape[1], x.shape[2]) if x.ndim == 3 else None
  wide = x.reshape(len(x), -1)
  flat = as_floats(wide)
  check_width(path, "features", flat.shape[1])
  wrong = ~(np.abs(flat) <= LARGEST)
  if wrong.any():
    place = np.argwhere(wrong)[0]
    raise ValueError(
      f"{path}: {name} must be finite in float32, got {flat[tuple(place)]:g} in row {place[0]}"
    )
  return flat, image_shape, note_lost_numbers(numbered("x", flat.shape[1]), wide, flat)


def read_npz_features(path: str, count: int) -> np.ndarray:
  """Read x only, `[N, count]`.

  Raises:
    ValueError: the array is missing, or has another number of features.
    OSError: the file can't be read.
  """
  archive = read_arrays(path, X_NAMES)
  name = archive.first_of(X_NAMES, "the features")
  x = read_x(archive, name)[0]
  if x.shape[1] != count:
    raise ValueError(f"{path}: {name} must have {count} features, got {x.shape[1]}")
  return x


def read_weights(archive: Archive, name: str, n: int) -> np.ndarray:
  """Read sample weights `[n]`; raise unless they are finite and nonnegative."""
  path, weights = archive.path, archive.arrays[archive.first_of((name,), "sample_weights")]
  if weights.shape not in ((n,), (n, 1)) or weights.dtype.kind not in "iubf":
    got = f"{weights.dtype}{list(weights.shape)}"
    raise ValueError(f"{path}: {name} must be numbers [{n}] as sample_weights, got {got}")
  weights = as_floats(weights.reshape(n))
  wrong = np.flatnonzero(~((weights >= 0) & (weights <= LARGEST)))
  if wrong.size:
    raise ValueError(
      f"{path}: {name} must be finite and at least 0 as sample_weights, got {weights[wrong[0]]} in "
      f"row {wrong[0]}"
    )
  return weights


def read_y(
  archive: Archive, name: str, n: int, columns: tuple[int, ...] | None = None
) -> np.ndarray:
  """Read raw targets, `[n]` or `[n, C]`; `[n, 1]` is flattened, and bytes become text.

  Args:
    archive: the file.
    name: name of the array.
    n: number of examples.
    columns: shape of the training targets after n; None for any.
  """
  path, y = archive.path, archive.arrays[name]
  if y.ndim == 2 and y.shape[1] == 1:
    y = y[:, 0]
  wanted = f"[{n}] or [{n}, C]"
  if columns is not None:
    wanted = f"[{', '.join(map(str, (n, *columns)))}]"
  is_fit = y.ndim in (1, 2) and len(y) == n and 0 not in y.shape[1:]
  if not is_fit or columns not in (None, y.shape[1:]):
    raise ValueError(f"{path}: {name} must be {wanted}, got {list(y.shape)}")
  if y.dtype.kind in "SU":
    try:
      y = np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
      "".join(y.ravel().tolist()).encode()  # Raises for lone surrogates and invalid code points.
    except ValueError as error:
      raise ValueError(f"{path}: {name} must be text, and holds invalid Unicode") from error
  return y


def numbers_of(y: np.ndarray) -> np.ndarray:
  """Convert text to numbers if all of it is numeric; return other targets unchanged."""
  return values_of(y.reshape(len(y), -1)).reshape(y.shape) if y.dtype.kind == "U" else y


def find_holes(path: str, name: str, y: np.ndarray, missing_targets: MissingTargets) -> np.ndarray:
  """Return which rows have no target, `[N]`; raise for the first unless they are dropped."""
  own: Any = np.zeros(y.shape, bool)
  if y.dtype.kind == "f":
    own |= np.isnan(y)
  elif y.dtype.kind == "U":
    own |= np.char.strip(y) == ""
    if missing_targets != "class":
      own |= holes_of(y.ravel().tolist()).reshape(y.shape)
  is_hole: np.ndarray = own.reshape(len(y), -1).any(1)
  if is_hole.any() and missing_targets != "drop":
    row = int(is_hole.argmax())
    raise ValueError(
      f"{path}: {name}, row {row}: the target is missing ({is_hole.sum():,} in all; "
      f"--missing-targets drop drops such rows), got {y[row].tolist()!r:.100}"
    )
  if len(y) and is_hole.all():
    raise ValueError(f"{path}: no row of {name} has a target")
  return is_hole


def check_targets(path: str, name: str, y: np.ndarray, task: Task) -> None:
  """Raise unless an array can be the targets of a task."""
  if task == "classification" and (y.ndim != 1 or y.dtype.kind not in "iubfU"):
    got = f"{y.dtype}{list(y.shape)}"
    raise ValueError(f"{path}: {name} must be labels [N], numbers or words, got {got}")
  if task != "classification" and y.dtype.kind == "U":
    row = int((~np.isfinite(as_numbers(y.ravel()))).argmax()) // (y.size // len(y))
    got = f"{y[row].tolist()!r:.100} in row {row}"
    raise ValueError(f"{path}: {name} must be numbers, got {got}")
  if task != "classification" and y.dtype.kind not in "iubf":
    raise ValueError(f"{path}: {name} must be numbers, got {y.dtype}")
  if y.dtype.kind == "f" and not (np.abs(y.astype(np.float64)) <= LARGEST).all():
    raise ValueError(f"{path}: {name} must be finite")
  if task == "multilabel" and not np.isin(y, (0, 1)).all():
    raise ValueError(f"{path}: {name} must be 0 or 1 for several labels")


def convert_targets(
  path: str, name: str, y: np.ndarray, task: Task, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
  """Convert targets to labels `[N]` or values `[N, C]`; return them, their names, and notes.

  Args:
    path: path of the file.
    name: name of the array.
    y: the array, without missing values.
    task: the task.
    classes: classes of the training part, for a test part; None to number its own.
  """
  if task != "classification":
    y = numbers_of(y)
  check_targets(path, name, y, task)
  if task != "classification":
    wide = y.reshape(len(y), -1)
    values = as_floats(wide)
    width = values.shape[1]
    names = (name,) if width == 1 else numbered(name, width)
    return values, numbered("y", width), note_lost_numbers(names, wide, values)
  different, place = np.unique(y, return_inverse=True)
  labels, own = label([str(value) for value in different])
  if classes is not None:

    def unknown(found: str) -> str:
      return f"{path}: {name} must be one of the training labels [N], got {found!r:.100}"

    labels, own = relabel(labels, own, classes, unknown), classes
  return labels[place.reshape(len(y))], own, []
