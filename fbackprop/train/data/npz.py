"""Features and targets in an npz file: arrays x `[N, ...]` and y, optionally x_test and y_test.

Method: `numpy.load(allow_pickle=False)` trusts the sizes stated in a file. So each member's header
is validated first: its size in the zip directory, the shape of its array, and the bytes present
must agree, and compressed content may expand to at most `MOST_UNPACKED` bytes. Uncompressed content
takes as much memory as the file. See `fbackprop.files` for the policy.

References:
  The format of a member: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays"
  (2007). Decompression bombs: Fifield, "A better zip bomb", WOOT (2019).
"""

import io
import math
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import BinaryIO, NamedTuple

import numpy as np

from fbackprop.files import MOST_OF_A_BYTE, MOST_UNPACKED, open_plain, size_of
from fbackprop.train.data import targets
from fbackprop.train.data.names import MissingTargets, Task
from fbackprop.train.data.rows import LARGEST, Dataset, check_width, listed, numbered

X_NAMES = ("x", "X", "data", "x_train", "X_train", "train_images", "arr_0")
TARGET_NAMES = ("y", "targets", "target", "labels", "y_train", "train_labels", "arr_1")
# The names of the test set, where they aren't those of the training set with _test behind: those of
# keras' mnist.npz, of MedMNIST, and of the positional arrays of `numpy.savez`.
TEST_NAMES = {
  "x_train": "x_test", "X_train": "X_test", "train_images": "test_images", "arr_0": "arr_2",
  "y_train": "y_test", "train_labels": "test_labels", "arr_1": "arr_3",
}  # fmt: skip
# Per archive. zipfile reads the whole directory at once, so that its length must be bounded too.
MOST_MEMBERS = 1000
MOST_OF_LIST = 2**18
# NumPy refuses array headers longer than 10,000 bytes.
MOST_OF_HEADER = 2**14
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Archive(NamedTuple):
  """The arrays of a file: its path, the names of all, and those requested and present."""

  path: str
  names: list[str]
  arrays: dict[str, np.ndarray]

  def first_of(self, names: Sequence[str], what: str) -> str:
    """Return the first of several names that the file has; raise if it has none."""
    if found := [name for name in names if name in self.arrays]:
      return found[0]
    got = listed(self.names)
    raise ValueError(f"{self.path} must have {what} under {' or '.join(names)}, got {got}")


def read_npz(
  path: str,
  target: Sequence[str] = (),
  task: Task | None = None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
  features: Sequence[str] | None = None,
) -> Dataset:
  """Read features and targets from an archive.

  Args:
    path: the file. x may also be named X or data, and y targets, target or labels; or as in the
      files of keras (x_train, y_train, x_test, y_test), of MedMNIST (train_images, train_labels,
      test_images, test_labels) and of `numpy.savez(file, x, y)` (arr_0, arr_1).
    target: another name of y; empty for one of those.
    task: the task; None to infer it from the values, see `fbackprop.train.data.targets`.
    sample_weights: name of an array `[N]` of weights for the examples of x.
    missing_targets: treatment of missing targets, such as NaN; see `load_dataset`.
    features: ignored, as the columns of an array have no names.

  Raises:
    ValueError: the file isn't such an archive; Python objects aren't read.
    OSError: it can't be read, or isn't regular.
  """
  if len(target) > 1:
    raise ValueError(f"{path}: one array holds the targets, got {', '.join(target)}")
  names = (*X_NAMES, *(tuple(target) or TARGET_NAMES))
  archive = read_arrays(path, {*names, *map(name_of_test, names), sample_weights})
  x_name = archive.first_of(X_NAMES, "the features")
  y_name = archive.first_of(tuple(target) or TARGET_NAMES, "the targets")
  tests = name_of_test(x_name), name_of_test(y_name)
  has_test = [name in archive.arrays for name in tests]
  if has_test[0] != has_test[1]:
    raise ValueError(f"{path} must have both of {tests[0]} and {tests[1]}, or none")

  x, image_shape, notes = read_x(archive, x_name)
  y, is_known, dropped = read_y(archive, y_name, len(x), missing_targets)
  weights = None
  if sample_weights is not None:
    weights = read_weights(archive, sample_weights, len(x))[is_known]
  if task is None and y.dtype.kind not in "iubfU":
    task = "regression"  # Which has numbers only, and is refused.
  task, inferred = (task, "") if task else targets.infer_task(y)
  values, outputs, more = convert_targets(path, y_name, y, task)
  check_width(path, "outputs", len(outputs))
  dataset = Dataset(
    x[is_known], values, task, outputs, numbered("x", x.shape[1]), weights=weights,
    image_shape=image_shape, label=y_name, has_units=True, inferred=inferred,
    notes=(*notes, *dropped, *more),
  )  # fmt: skip
  if not has_test[0]:
    return dataset

  wanted = x.shape[1]
  x, _, notes = read_x(archive, tests[0])
  if x.shape[1] != wanted:
    raise ValueError(f"{path}: {tests[0]} must be [{len(x)}, {wanted}], got {list(x.shape)}")
  y, is_known, dropped = read_y(archive, tests[1], len(x), missing_targets, y.shape[1])
  values, own, _ = convert_targets(path, tests[1], y, task)
  if dataset.is_classification:
    said = f"{path}: {tests[1]} must be one of the training labels [N], got"
    values = targets.relabel(values, own, outputs, lambda found: f"{said} {found!r:.100}")
  notes = [*dataset.notes, *notes, *dropped]
  return replace(dataset, x_test=x[is_known], targets_test=values, notes=tuple(notes))


def name_of_test(name: str) -> str:
  """Return the name of an array's test part."""
  return TEST_NAMES.get(name, f"{name}_test")


def as_floats(values: np.ndarray) -> np.ndarray:
  """Convert numbers to float32 if their dtype converts to it exactly, else to float64."""
  with np.errstate(over="ignore"):  # longdouble may overflow; infinities are refused later.
    return values.astype(np.float32 if np.can_cast(values.dtype, np.float32) else np.float64)


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
    row, column = np.argwhere(wrong)[0]
    got = f"{flat[row, column]:g} in row {row}"
    raise ValueError(f"{path}: {name} must be finite in float32, got {got}")
  return flat, image_shape, targets.lost_integers(numbered("x", flat.shape[1]), wide.T, flat)


def read_npz_features(path: str, features: Sequence[str]) -> np.ndarray:
  """Read x only, `[N, D]`, where a model has D features.

  Raises:
    ValueError: the array is missing, or has another number of features.
    OSError: the file can't be read.
  """
  archive = read_arrays(path, X_NAMES)
  name = archive.first_of(X_NAMES, "the features")
  x = read_x(archive, name)[0]
  if x.shape[1] != len(features):
    raise ValueError(f"{path}: {name} must have {len(features)} features, got {x.shape[1]}")
  return x


def read_weights(archive: Archive, name: str, n: int) -> np.ndarray:
  """Read sample weights `[n]`; raise unless they are finite and nonnegative."""
  weights = archive.arrays[archive.first_of((name,), "sample_weights")]
  wanted, got = f"numbers [{n}]", f"{weights.dtype}{list(weights.shape)}"
  if weights.shape in ((n,), (n, 1)) and weights.dtype.kind in "iubf":
    weights = as_floats(weights.reshape(n))
    wrong = np.flatnonzero(~((weights >= 0) & (weights <= LARGEST)))
    if not wrong.size:
      return weights
    wanted, got = "finite and at least 0", f"{weights[wrong[0]]} in row {wrong[0]}"
  raise ValueError(f"{archive.path}: {name} must be {wanted} as sample_weights, got {got}")


def read_y(
  archive: Archive, name: str, n: int, missing_targets: MissingTargets, columns: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Read raw targets; bytes become text.

  Args:
    archive: the file.
    name: name of the array.
    n: number of examples.
    missing_targets: treatment of missing targets.
    columns: for a test part, the number of columns of the training targets.

  Returns:
    Numbers or text `[M, C]`, without rows that have no target; which of the n rows have one, `[n]`;
    a note on the others.
  """
  path, y = archive.path, archive.arrays[name]
  wanted = {None: f"[{n}] or [{n}, C]", 1: f"[{n}]"}.get(columns, f"[{n}, {columns}]")
  is_fit = y.ndim in (1, 2) and len(y) == n and y.size > 0
  if not is_fit or columns not in (None, y.size // n):
    got = list(y[:, 0].shape if y.ndim == 2 and y.shape[1] == 1 else y.shape)
    raise ValueError(f"{path}: {name} must be {wanted}, got {got}")
  y = y.reshape(n, -1)
  if y.dtype.kind in "SU":
    try:
      y = np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
      "".join(y.ravel().tolist()).encode()  # Raises for lone surrogates and invalid code points.
    except ValueError as error:
      raise ValueError(f"{path}: {name} must be text, and holds invalid Unicode") from error

  def refuse(is_wrong: np.ndarray, expected: str) -> None:
    row, column = np.argwhere(is_wrong)[0]
    raise ValueError(f"{path}: {name}, row {row}: {expected}, got {y[row, column].item()!r:.100}")

  where = path if columns is None else f"{path}: {name}"
  is_known, notes = targets.find_known(y, missing_targets, where, refuse)
  return y[is_known], is_known, notes


def convert_targets(
  path: str, name: str, y: np.ndarray, task: Task
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
  """Convert targets `[N, C]` to labels `[N]` or values; return them, their names, and notes."""
  where = f"{path}: {name} must be"
  is_labelled = task == "classification"
  y = y if is_labelled else targets.values_of(y)
  if is_labelled and (y.shape[1] > 1 or y.dtype.kind not in "iubfU"):
    shape = [len(y)] if y.shape[1] == 1 else list(y.shape)
    raise ValueError(f"{where} labels [N], numbers or words, got {y.dtype}{shape}")
  if y.dtype.kind not in "iubfU":
    raise ValueError(f"{where} numbers, got {y.dtype}")
  if not is_labelled and y.dtype.kind == "U":
    row = int((~np.isfinite(targets.as_numbers(y.ravel()))).argmax()) // y.shape[1]
    raise ValueError(f"{where} numbers, got {np.squeeze(y[row]).tolist()!r:.100} in row {row}")
  if y.dtype.kind == "f" and not (np.abs(y.astype(np.float64)) <= LARGEST).all():
    raise ValueError(f"{where} finite")
  if task == "multilabel" and not np.isin(y, (0, 1)).all():
    raise ValueError(f"{where} 0 or 1 for several labels")
  if is_labelled:
    return (*targets.label(y[:, 0]), [])
  values, width = as_floats(y), y.shape[1]
  names = (name,) if width == 1 else numbered(name, width)
  return values, numbered("y", width), targets.lost_integers(names, y.T, values)


# --- The file -------------------------------------------------------------------------------------


def read_arrays(path: str, wanted: Collection[str | None]) -> Archive:
  """Read some arrays of a file; others aren't decompressed.

  Raises:
    ValueError: the file isn't such an archive; it has Python objects, members with duplicate names
      or with a path in the name, an encrypted member, a compression other than deflate, or
      inconsistent sizes.
    OSError: it can't be read, or isn't regular.
  """
  with open_plain(path) as file:
    try:
      check_list(file)
      with zipfile.ZipFile(file) as archive:
        members = members_of(archive)
        arrays = {
          name: read_member(archive, info, size_of(file))
          for name, info in members.items()
          if name in wanted
        }
    # On malformed files zipfile, zlib and NumPy raise more exceptions than they document.
    except Exception as error:
      raise ValueError(f"{path} is no npz file that can be read: {error}") from error
  return Archive(path, list(members), arrays)


def check_list(file: BinaryIO) -> None:
  """Raise if the directory of members is too long; leave other malformed files to zipfile."""
  if file.read(6) == b"\x93NUMPY":
    raise ValueError("one array alone; numpy.savez writes several")
  file.seek(max(0, size_of(file) - 2**16 - 22))
  end = file.read().rpartition(b"PK\x05\x06")[2]
  if MOST_OF_LIST < int.from_bytes(end[8:12], "little") < 2**32 - 1:
    raise ValueError(f"its list of members is longer than {MOST_OF_LIST:,} bytes")


def members_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
  """Return the members by array name."""
  members: dict[str, zipfile.ZipInfo] = {}
  for info in archive.infolist():
    if any(letter in info.filename for letter in "/\\:"):
      raise ValueError(f"the name of a member is a path: {info.filename!r:.100}")
    name = info.filename.removesuffix(".npy")
    if name in members:
      raise ValueError(f"two members are called {name!r:.100}")
    members[name] = info
    if len(members) > MOST_MEMBERS:
      raise ValueError(f"it has more than {MOST_MEMBERS:,} members")
  return members


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file_size: int) -> np.ndarray:
  """Read an array whose stated sizes are consistent."""
  name, size, packed = info.filename, info.file_size, info.compress_size
  if info.flag_bits & 1:
    raise ValueError(f"{name} is encrypted")
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"{name} is compressed in another way than by deflate")
  is_stored = info.compress_type == zipfile.ZIP_STORED
  if packed > file_size or size > packed * (1 if is_stored else MOST_OF_A_BYTE):
    raise ValueError(f"{name} is said to be {size:,} bytes, packed in {packed:,} of {file_size:,}")
  if not is_stored and size > MOST_UNPACKED:
    most = f"more than the {MOST_UNPACKED:,} that are unpacked here"
    advice = "write it by numpy.savez, which doesn't compress, and it may be of any size"
    raise ValueError(f"{name} would be {size:,} bytes, {most}; {advice}")
  with archive.open(info) as member:
    header = io.BytesIO(member.read(MOST_OF_HEADER))
  version = np.lib.format.read_magic(header)
  if version not in HEADERS:
    raise ValueError(f"an array in version {version} of the format")
  shape, _, dtype = HEADERS[version](header)
  if dtype.hasobject:
    raise ValueError(f"{name} holds objects of Python's, which would be unpickled (allow_pickle)")
  held = size - header.tell()
  if math.prod(shape) * dtype.itemsize != held:
    raise ValueError(f"{name} says that it is {dtype}{list(shape)}, and holds {held:,} bytes")
  with archive.open(info) as member:
    array: np.ndarray = np.load(member, allow_pickle=False)
    member.read(1)  # At the end of the member zipfile verifies the checksum.
  return array
