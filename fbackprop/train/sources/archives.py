"""Arrays that `numpy.savez` has written."""

from collections.abc import Sequence

import numpy as np

from fbackprop.train.sources.examples import Examples, check_width, numbered
from fbackprop.train.sources.members import Archive, arrays_of
from fbackprop.train.sources.names import Task

X_NAMES, TARGET_NAMES = ("x", "X", "data"), ("y", "targets", "target", "labels")


def read_npz(
  path: str, target: Sequence[str], task: Task | None, sample_weights: str | None = None
) -> Examples:
  """Reads the arrays x `[N, ...]` and y of a file, and x_test and y_test if they are there.

  Args:
    path: of the file. x may also be called X or data, y targets, target or labels.
    target: another name of y; empty for one of those.
    task: None to tell it: integers `[N]` and words are labels, other numbers a regression.
    sample_weights: name of an array `[N]` of what the examples of x count for.

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
  x, image_shape = features_of(path, x_name, arrays[x_name])
  y = arrays[y_name]
  tests = [arrays.get(f"{name}_test") for name in (x_name, y_name)]
  if (tests[0] is None) != (tests[1] is None):
    raise ValueError(f"{path} must have both of {x_name}_test and {y_name}_test, or none")
  if y.ndim not in (1, 2) or len(x) != len(y) or (y.ndim == 2 and not y.shape[1]):
    raise ValueError(f"{path}: {y_name} must be [{len(x)}] or [{len(x)}, C], got {list(y.shape)}")
  weights = None if sample_weights is None else weights_of(archive, sample_weights, len(x))
  is_labels = y.ndim == 1 and y.dtype.kind in "iubU"
  inferred = "" if task else f"{y_name} holds {'labels' if is_labels else 'numbers'}"
  task = task or ("classification" if is_labels else "regression")
  check_targets(path, y_name, y, task)
  classes = np.unique(y) if task == "classification" else np.zeros(0)
  targets = targets_of(path, y_name, y, task, classes)
  test = None
  if tests[0] is not None and tests[1] is not None:
    x_test, _ = features_of(path, f"{x_name}_test", tests[0])
    n = len(x_test)
    if tests[1].shape != (n, *y.shape[1:]):
      want = ", ".join(map(str, (n, *y.shape[1:])))
      raise ValueError(f"{path}: {y_name}_test must be [{want}], got {list(tests[1].shape)}")
    if x_test.shape[1] != x.shape[1]:
      raise ValueError(
        f"{path}: {x_name}_test must be [{n}, {x.shape[1]}], got {list(x_test.shape)}"
      )
    check_targets(path, f"{y_name}_test", tests[1], task)
    test = x_test, targets_of(path, f"{y_name}_test", tests[1], task, classes)
  check_width(path, "outputs", len(classes) if task == "classification" else targets.shape[1])
  outputs = (
    tuple(str(c) for c in classes) if task == "classification" else numbered("y", targets.shape[1])
  )
  features = numbered("x", x.shape[1])
  return Examples(x, targets, task, outputs, features, test, image_shape, True, inferred, weights)


def read_npz_features(path: str, count: int) -> np.ndarray:
  """Reads x alone, `[N, count]`.

  Raises:
    ValueError: there is no such array, or it has another number of features.
    OSError: the file can't be read.
  """
  archive = arrays_of(path, X_NAMES)
  name = one_of(archive, X_NAMES, "the features")
  x, _ = features_of(path, name, archive.arrays[name])
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


def features_of(path: str, name: str, x: np.ndarray) -> tuple[np.ndarray, tuple[int, int] | None]:
  """Features as float32 `[N, D]`, and the shape of an example if it is a picture."""
  if x.ndim < 1 or x.dtype.kind not in "iubf" or not x.size:
    raise ValueError(f"{path}: {name} must be numbers [N, ...], got {x.dtype}{list(x.shape)}")
  image_shape = (x.shape[1], x.shape[2]) if x.ndim == 3 else None
  with np.errstate(over="ignore"):  # What is too large for float32 is infinite, and refused.
    flat = x.reshape(len(x), -1).astype(np.float32)
  check_width(path, "features", flat.shape[1])
  if not np.isfinite(flat).all():
    place = np.argwhere(~np.isfinite(flat))[0]
    raise ValueError(f"{path}: {name} must be finite, got {flat[tuple(place)]} in row {place[0]}")
  return flat, image_shape


def weights_of(archive: Archive, name: str, n: int) -> np.ndarray:
  """Weights `[n]` in float32, finite and not negative."""
  path = archive.path
  weights = archive.arrays[one_of(archive, (name,), "sample_weights")]
  if weights.shape != (n,) or weights.dtype.kind not in "iubf":
    got = f"{weights.dtype}{list(weights.shape)}"
    raise ValueError(f"{path}: {name} must be numbers [{n}] as sample_weights, got {got}")
  with np.errstate(over="ignore"):
    weights = weights.astype(np.float32)
  wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
  if wrong.size:
    raise ValueError(
      f"{path}: {name} must be finite and at least 0 as sample_weights, got {weights[wrong[0]]} in "
      f"row {wrong[0]}"
    )
  return weights


def check_targets(path: str, name: str, y: np.ndarray, task: Task) -> None:
  """Refuses what can't be the targets of a task."""
  if task == "classification" and (y.ndim != 1 or y.dtype.kind not in "iubfU"):
    got = f"{y.dtype}{list(y.shape)}"
    raise ValueError(f"{path}: {name} must be labels [N], numbers or words, got {got}")
  if task != "classification" and y.dtype.kind not in "iubf":
    raise ValueError(f"{path}: {name} must be numbers, got {y.dtype}")
  if y.dtype.kind == "U" and y.dtype.itemsize:
    letters = np.ascontiguousarray(y).view(np.dtype(np.uint32).newbyteorder(y.dtype.byteorder))
    if ((letters > 0x10FFFF) | ((letters >= 0xD800) & (letters < 0xE000))).any():
      raise ValueError(f"{path}: {name} must be words, and holds what is no letter")


def targets_of(path: str, name: str, y: np.ndarray, task: Task, classes: np.ndarray) -> np.ndarray:
  """Labels in int32, or values `[N, C]` in float32."""
  if task == "classification":
    unknown = sorted(set(np.unique(y).tolist()) - set(classes.tolist()))
    if unknown:
      raise ValueError(
        f"{path}: {name} must be one of the training labels [N], got {unknown[0]!r:.100}"
      )
    return np.searchsorted(classes, y).astype(np.int32)
  with np.errstate(over="ignore"):
    values = y.reshape(len(y), -1).astype(np.float32)
  if not np.isfinite(values).all():
    raise ValueError(f"{path}: {name} must be finite")
  if task == "multilabel" and not np.isin(values, (0.0, 1.0)).all():
    raise ValueError(f"{path}: {name} must be 0 or 1 for several labels")
  return values
