"""Arrays that `numpy.savez` has written."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fbackprop.train.data.names import MissingTargets, Task
from fbackprop.train.data.rows import (
  EXACT_INTEGERS,
  LARGEST,
  Examples,
  check_width,
  kept,
  left_out,
  numbered,
)  # fmt: skip
from fbackprop.train.data.targets import (
  as_numbers,
  holes_of,
  infer_task,
  label,
  places_of,
  values_of,
)
from fbackprop.train.data.zip_members import Archive, arrays_of

X_NAMES, TARGET_NAMES = ("x", "X", "data"), ("y", "targets", "target", "labels")


def read_npz(
  path: str,
  target: Sequence[str],
  task: Task | None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
) -> Examples:
  """Reads the arrays x `[N, ...]` and y of a file, and x_test and y_test if they are there.

  Args:
    path: of the file. x may also be called X or data, y targets, target or labels.
    target: another name of y; empty for one of those.
    task: None to tell it from the values; see `fbackprop.train.data.targets`.
    sample_weights: name of an array `[N]` of what the examples of x count for.
    missing_targets: what is done where a target is missing, as NaN; see `load_dataset`.

  Raises:
    ValueError: the file isn't such an archive; objects of Python aren't read.
    OSError: it can't be read, or is no file.
  """
  if len(target) > 1:
    raise ValueError(f"{path}: one array holds the targets, got {', '.join(target)}")
  names = (*X_NAMES, *(tuple(target) or TARGET_NAMES))
  tests_of = (f"{name}_test" for name in names)
  archive = arrays_of(path, {*names, *tests_of, *([sample_weights] if sample_weights else [])})
  arrays = archive.arrays
  x_name = one_of(archive, X_NAMES, "the features")
  y_name = one_of(archive, tuple(target) or TARGET_NAMES, "the targets")
  tests = [f"{name}_test" in arrays for name in (x_name, y_name)]
  if tests[0] != tests[1]:
    raise ValueError(f"{path} must have both of {x_name}_test and {y_name}_test, or none")
  x, image_shape, notes = features_of(path, x_name, arrays[x_name])
  y = targets_of(path, y_name, arrays[y_name], len(x))
  weights = None if sample_weights is None else weights_of(archive, sample_weights, len(x))
  is_hole = holes_in(path, y_name, y, missing_targets)
  x, y, weights = x[~is_hole], y[~is_hole], None if weights is None else weights[~is_hole]
  notes += left_out(path, is_hole)
  if not task and y.dtype.kind not in "iubfU":
    check_targets(path, y_name, y, "regression")
  task, inferred = (task, "") if task else infer_task(numbers_of(y))
  if task != "classification":
    y = numbers_of(y)
  check_targets(path, y_name, y, task)
  test = None
  if tests[0]:
    x_test, _, more = features_of(path, f"{x_name}_test", arrays[f"{x_name}_test"])
    if x_test.shape[1] != x.shape[1]:
      got, want = list(x_test.shape), f"[{len(x_test)}, {x.shape[1]}]"
      raise ValueError(f"{path}: {x_name}_test must be {want}, got {got}")
    y_test = targets_of(path, f"{y_name}_test", arrays[f"{y_name}_test"], len(x_test), y.shape[1:])
    is_hole = holes_in(path, f"{y_name}_test", y_test, missing_targets)
    x_test, y_test = x_test[~is_hole], y_test[~is_hole]
    if task != "classification":
      y_test = numbers_of(y_test)
    notes += more + left_out(f"{path}: {y_name}_test", is_hole)
    check_targets(path, f"{y_name}_test", y_test, task)
    test = x_test, y_test
  if task == "classification":
    targets, outputs = classes_of(y)
    if test is not None:
      test = test[0], labels_of(path, f"{y_name}_test", test[1], outputs)
  else:
    targets, more = columns_of(y_name, y)
    notes += more
    outputs = numbered("y", targets.shape[1])
    if test is not None:
      test = test[0], columns_of(f"{y_name}_test", test[1])[0]
  check_width(path, "outputs", len(outputs))
  return Examples(
    x, targets, task, outputs, numbered("x", x.shape[1]), test, image_shape, True, inferred,
    weights, notes, y_name,
  )  # fmt: skip


def read_npz_features(path: str, count: int) -> np.ndarray:
  """Reads x alone, `[N, count]`.

  Raises:
    ValueError: there is no such array, or it has another number of features.
    OSError: the file can't be read.
  """
  archive = arrays_of(path, X_NAMES)
  name = one_of(archive, X_NAMES, "the features")
  x = features_of(path, name, archive.arrays[name])[0]
  if x.shape[1] != count:
    raise ValueError(f"{path}: {name} must have {count} features, got {x.shape[1]}")
  return x


def one_of(archive: Archive, names: Sequence[str], what: str) -> str:
  """The first of some names that a file has."""
  for name in names:
    if name in archive.arrays:
      return name
  got = ", ".join(archive.names[:40]) + (", ..." if len(archive.names) > 40 else "")
  raise ValueError(f"{archive.path} must have {what} under {' or '.join(names)}, got {got}")


def as_floats(values: np.ndarray) -> np.ndarray:
  """Numbers in float32 where that has a place for every one of their dtype, else in float64."""
  is_narrow = np.can_cast(values.dtype, np.float32)
  with np.errstate(over="ignore"):  # As of NumPy's longdouble; what is infinite is refused.
    floats: np.ndarray = values.astype(np.float32 if is_narrow else np.float64)
  return floats


def lost_numbers(names: Sequence[str], wide: np.ndarray, own: np.ndarray) -> tuple[str, ...]:
  """The columns in whose numbers float64 leaves out a place, a sentence each."""
  notes: list[str] = []
  if wide.dtype.kind in "iu" or wide.dtype.itemsize > 8:
    for j in np.flatnonzero(np.abs(own).max(0, initial=0.0) > EXACT_INTEGERS).tolist():
      before, after = len(np.unique(wide[:, j])), len(np.unique(own[:, j]))
      notes += kept(names[j], before, after, "float64")
  return tuple(notes)


def features_of(
  path: str, name: str, x: np.ndarray
) -> tuple[np.ndarray, tuple[int, int] | None, tuple[str, ...]]:
  """Features `[N, D]`, the shape of an example if it is a picture, and notes."""
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
  return flat, image_shape, lost_numbers(numbered("x", flat.shape[1]), wide, flat)


def weights_of(archive: Archive, name: str, n: int) -> np.ndarray:
  """Weights `[n]`, finite and not negative."""
  path = archive.path
  weights = archive.arrays[one_of(archive, (name,), "sample_weights")]
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


def targets_of(
  path: str, name: str, y: np.ndarray, n: int, columns: tuple[int, ...] | None = None
) -> np.ndarray:
  """Targets as they are, `[n]` or `[n, C]`; a column of one is a vector, and bytes are words.

  Args:
    path: of the file.
    name: of the array.
    y: the array.
    n: how many examples there are.
    columns: what the shape of the training targets has beside n.
  """
  if y.ndim == 2 and y.shape[1] == 1:
    y = y[:, 0]
  wanted = f"[{n}] or [{n}, C]"
  if columns is not None:
    wanted = f"[{', '.join(map(str, (n, *columns)))}]"
  is_fit = y.ndim in (1, 2) and len(y) == n and 0 not in y.shape[1:]
  if not is_fit or columns not in (None, y.shape[1:]):
    raise ValueError(f"{path}: {name} must be {wanted}, got {list(y.shape)}")
  if y.dtype.kind == "S":
    try:
      y = np.char.decode(y, "utf-8")
    except UnicodeDecodeError as error:
      raise ValueError(f"{path}: {name} must be words in UTF-8: {error.reason}") from error
  if y.dtype.kind == "U" and y.dtype.itemsize:
    letters = np.ascontiguousarray(y).view(np.dtype(np.uint32).newbyteorder(y.dtype.byteorder))
    if ((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters < 0xE000))).any():
      raise ValueError(f"{path}: {name} must be words, and holds what is no letter")
  return y


def numbers_of(y: np.ndarray) -> np.ndarray:
  """Texts that are numbers, as numbers; all else as it is."""
  return values_of(y.reshape(len(y), -1)).reshape(y.shape) if y.dtype.kind == "U" else y


def holes_in(path: str, name: str, y: np.ndarray, missing_targets: MissingTargets) -> np.ndarray:
  """The rows without a target, `[N]`; the first of them is refused where they aren't left out."""
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
      f"--missing-targets drop leaves such rows out), got {y[row].tolist()!r:.100}"
    )
  if len(y) and is_hole.all():
    raise ValueError(f"{path}: no row of {name} has a target")
  return is_hole


def check_targets(path: str, name: str, y: np.ndarray, task: Task) -> None:
  """Refuses what can't be the targets of a task."""
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


def classes_of(y: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
  """Labels in int32, and the names of the classes."""
  different, place = np.unique(y, return_inverse=True)
  labels, outputs = label([str(value) for value in different])
  return labels[place.reshape(len(y))], outputs


def labels_of(path: str, name: str, y: np.ndarray, outputs: Sequence[str]) -> np.ndarray:
  """The labels of a test part, by the classes of the training part."""
  own, names = classes_of(y)
  places = places_of(names, outputs)
  for found, place in zip(names, places, strict=True):
    if place is None:
      raise ValueError(f"{path}: {name} must be one of the training labels [N], got {found!r:.100}")
  found_labels: np.ndarray = np.array(places, np.int32)[own]
  return found_labels


def columns_of(name: str, y: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
  """Values `[N, C]`, and notes."""
  wide = y.reshape(len(y), -1)
  own = as_floats(wide)
  names = (name,) if own.shape[1] == 1 else numbered(name, own.shape[1])
  return own, lost_numbers(names, wide, own)
