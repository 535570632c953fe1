"""EMNIST as its authors publish it for MATLAB: a file of version 5, such as emnist-letters.mat.

The struct `dataset` has the fields `train` and `test`, each with `images` `[N, D]` of bytes,
`labels` `[N, 1]` and `writers`, and `mapping` `[C, 2 or 3]`: a label, and the codes of its
character, of both cases where a class has both. MATLAB stores arrays column by column, and so was
each image when it became a row of `images`: the pixel in row r and column c of a square of side S
is number S c + r.

Method: a struct is a list of elements, each with its type and length, and only those named above
are read, so that what is in the file can't nest deeper than they do. SciPy's `loadmat`, which the
tests compare, descends into whatever there is. A compressed variable states its length first, which
is compared with `MOST_UNPACKED` (see `fbackprop.files`). No other part of a file is interpreted.

References:
  The MathWorks, "MAT-File Format", version 5. Cohen, Afshar, Tapson, van Schaik, "EMNIST",
  arXiv:1702.05373 (2017).
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from fbackprop.files import MOST_OF_A_BYTE, MOST_UNPACKED, open_plain
from fbackprop.train.data.rows import EXACT_INTEGERS, Dataset, check_width, listed, numbered

# Types of elements, as dtypes and as others; the class of a matrix that is a struct.
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8",
           12: "i8", 13: "u8"}  # fmt: skip
MATRIX, COMPRESSED, STRUCT = 14, 15, 2
Order = Literal["<", ">"]
# Enough of a compressed variable for its name, of at most 63 letters.
START = 256
NOT_READ = {
  b"\x89HDF": "it is an HDF5 file",
  b"MATLAB 7.3": "it is an HDF5 file, as MATLAB 7.3 writes",
}


class Element(NamedTuple):
  """A part of a file: its type, and its bytes."""

  type: int
  data: memoryview


class Matrix(NamedTuple):
  """A matrix: its class, its shape, its name, the parts of its content, and their byte order."""

  type: int
  shape: tuple[int, ...]
  name: str
  parts: Iterator[Element]
  order: Order


def read_mat(path: str) -> Dataset:
  """Read a file in EMNIST's layout; pixels are scaled to [0, 1], and images turned upright.

  The classes are named by their characters, such as "7", or "A/a" where a class has both cases.

  Raises:
    ValueError: the file isn't one of MATLAB 5, is damaged, or has another layout.
    OSError: it can't be read, or isn't regular.
  """
  with open_plain(path) as file:
    content = memoryview(file.read())
  try:
    dataset = fields_of(find_variable(content, "dataset"), "dataset")
    names = names_of(numbers_in(dataset, "mapping", "dataset"))
    parts = {
      name: examples_of(fields_of(matrix_in(dataset, name, "dataset"), name), name, names)
      for name in ("train", "test")
    }
  except (ValueError, struct.error, zlib.error) as error:
    raise ValueError(f"{path} is no EMNIST file of MATLAB 5 that can be read: {error}") from error
  (x, labels), (x_test, labels_test) = parts.values()
  if x.shape[1] != x_test.shape[1]:
    raise ValueError(f"{path}: images of {x.shape[1]} pixels, and to test on {x_test.shape[1]}")
  check_width(path, "features", x.shape[1])
  side = math.isqrt(x.shape[1])
  return Dataset(
    x, labels, "classification", tuple(names.values()), numbered("pixel", x.shape[1]), x_test,
    labels_test, image_shape=(side, side),
  )  # fmt: skip


def names_of(mapping: np.ndarray) -> dict[int, str]:
  """Return the names of the classes by their labels, from rows of a label and character codes."""
  if mapping.ndim != 2 or not mapping.size or mapping.shape[1] < 2:
    raise ValueError(f"dataset.mapping must be [C, 2 or more], got {list(mapping.shape)}")
  if not ((mapping == np.rint(mapping)) & (np.abs(mapping.astype(float)) < EXACT_INTEGERS)).all():
    raise ValueError("dataset.mapping must be integers")
  names: dict[int, str] = {}
  for label, *codes in mapping.astype(np.int64).tolist():
    if not all(0 < code <= 0x10FFFF and chr(code).isprintable() for code in codes):
      raise ValueError(f"dataset.mapping must have codes of characters, got {codes}")
    name = "/".join(dict.fromkeys(map(chr, codes)))
    if label in names or name in names.values():
      raise ValueError(f"dataset.mapping has two rows of {label}, {name}")
    names[label] = name
  return names


def examples_of(
  fields: dict[str, Matrix], part: str, names: dict[int, str]
) -> tuple[np.ndarray, np.ndarray]:
  """Return the pixels `[N, D]` of a part, in [0, 1], and its labels `[N]`, from 0."""
  images, labels = (numbers_in(fields, name, part) for name in ("images", "labels"))
  side = math.isqrt(images.shape[1]) if images.ndim == 2 else 0
  if images.dtype != np.uint8 or not images.size or side**2 != images.shape[1]:
    got = f"{images.dtype}{list(images.shape)}"
    raise ValueError(f"{part}.images must be bytes [N, S·S], of square images, got {got}")
  n = len(images)
  if labels.shape not in ((n, 1), (1, n)):
    raise ValueError(f"{part}.labels must be [{n}, 1], got {list(labels.shape)}")
  known, labels = np.array(sorted(names)), labels.reshape(n)
  places = np.searchsorted(known, labels).clip(max=len(known) - 1)
  if (unknown := known[places] != labels).any():
    got = f"{labels[unknown][0]:g} in row {int(unknown.argmax())}"
    raise ValueError(f"{part}.labels must be among those of dataset.mapping, got {got}")
  order = np.array([list(names).index(label) for label in known.tolist()], np.int32)
  upright = images.reshape(n, side, side).transpose(0, 2, 1).reshape(n, -1)
  return upright / np.float32(255), order[places]  # uint8 / float32 is float32.


# --- The file -------------------------------------------------------------------------------------


def find_variable(content: memoryview, name: str) -> Matrix:
  """Find a variable by its name; others aren't unpacked.

  Raises:
    ValueError: there is none, or the file is no MATLAB file of version 5.
  """
  for start, what in NOT_READ.items():
    if bytes(content[: len(start)]) == start:
      raise ValueError(f"{what}; in MATLAB save('FILE', 'dataset', '-v7') writes version 5")
  orders: dict[bytes, Order] = {b"IM": "<", b"MI": ">"}
  order = orders.get(bytes(content[126:128]))
  if order is None or struct.unpack(f"{order}H", content[124:126])[0] != 0x100:
    raise ValueError("its first 128 bytes don't say so")
  found = []
  for element in elements(content[128:], order):
    head = element
    if element.type == COMPRESSED:
      begin = zlib.decompressobj().decompress(element.data, START)
      head = Element(struct.unpack_from(f"{order}I", begin)[0], memoryview(begin)[8:])
    if head.type != MATRIX:
      raise ValueError(f"a variable of type {head.type}, where a matrix was expected")
    found.append(matrix_of(head.data, order).name)
    if found[-1] == name:
      is_packed = element.type == COMPRESSED
      return matrix_of(unpacked(element.data, order) if is_packed else element.data, order)
  raise ValueError(f"it must have a variable {name!r}, got {listed([*map(repr, found)]) or 'none'}")


def unpacked(packed: memoryview, order: Order) -> memoryview:
  """Decompress a variable whose stated length is within bounds; return its content."""
  unpack = zlib.decompressobj()
  begin = unpack.decompress(packed, 8)
  size = struct.unpack(f"{order}II", begin)[1]
  if size > min(MOST_UNPACKED, MOST_OF_A_BYTE * len(packed)):
    most = f"more than the {MOST_UNPACKED:,} that are unpacked here"
    if size <= MOST_UNPACKED:
      most = f"more than {len(packed):,} can hold"
    raise ValueError(f"a variable would be {size:,} bytes, {most}")
  content = unpack.decompress(unpack.unconsumed_tail, size + 1)
  if len(content) != size or not unpack.eof:  # At its end zlib verifies the checksum.
    raise ValueError(f"a variable says that it is {size:,} bytes, and holds {len(content):,}")
  return memoryview(content)


def elements(content: memoryview, order: Order) -> Iterator[Element]:
  """Iterate over elements, each padded to 8 bytes; those of at most 4 are packed with their tag."""
  at = 0
  while at < len(content):
    if len(content) - at < 8:
      raise ValueError(f"it is cut off: {len(content) - at} bytes where an element begins")
    kind, size = struct.unpack_from(f"{order}II", content, at)
    is_small = kind >> 16
    start, step = at + 8, size if kind == COMPRESSED else -(-size // 8) * 8
    if is_small:
      kind, size, start, step = kind & 0xFFFF, kind >> 16, at + 4, 0
    if size > (4 if is_small else len(content) - start):
      raise ValueError(f"an element of {size:,} bytes, of which {len(content) - start:,} are there")
    yield Element(kind, content[start : start + size])
    at = (at if is_small else start) + (8 if is_small else step)


def matrix_of(content: memoryview, order: Order) -> Matrix:
  """Read the head of a matrix: its class, shape and name."""
  parts = elements(content, order)
  try:
    flags, shape, name = (next(parts).data for _ in range(3))
  except StopIteration:
    raise ValueError("a matrix without class, shape and name") from None
  if len(flags) != 8 or not len(shape) or len(shape) % 4:
    raise ValueError("a matrix without class, shape and name")
  kind = struct.unpack_from(f"{order}I", flags)[0]
  dims = tuple(np.frombuffer(shape, f"{order}i4").tolist())
  if kind & 0x800:
    raise ValueError("complex numbers")
  return Matrix(kind & 0xFF, dims, bytes(name).partition(b"\0")[0].decode("latin-1"), parts, order)


def fields_of(matrix: Matrix, what: str) -> dict[str, Matrix]:
  """Return the fields of a struct of one element, by their names."""
  if matrix.type != STRUCT or math.prod(matrix.shape) != 1:
    raise ValueError(f"{what} must be one struct, got class {matrix.type}{list(matrix.shape)}")
  width, text, *fields = matrix.parts
  size = struct.unpack(f"{matrix.order}i", width.data)[0]
  if not 0 < size <= 64 or len(text.data) != size * len(fields):
    raise ValueError(f"{what} has {len(fields)} fields, and other names")
  names = [bytes(text.data[i : i + size]) for i in range(0, len(text.data), size)]
  own = [name.partition(b"\0")[0].decode("latin-1") for name in names]
  if len(set(own)) < len(own) or any(field.type != MATRIX for field in fields):
    raise ValueError(
      f"{what} must have fields of names of their own, got {listed([*map(repr, own)])}"
    )
  found = zip(own, fields, strict=True)
  return {name: matrix_of(field.data, matrix.order) for name, field in found if field.data}


def matrix_in(fields: dict[str, Matrix], name: str, what: str) -> Matrix:
  """Return a field of a struct; raise if there is none."""
  if name not in fields:
    raise ValueError(
      f"{what} must have a field {name!r}, got {listed([*map(repr, fields)]) or 'none'}"
    )
  return fields[name]


def numbers_in(fields: dict[str, Matrix], name: str, what: str) -> np.ndarray:
  """Return the numbers of a field of a struct, in the type in which they are stored."""
  matrix = matrix_in(fields, name, what)
  part = next(matrix.parts, None)
  if part is None or part.type not in NUMBERS:
    raise ValueError(f"{what}.{name} must be numbers, got class {matrix.type}")
  dtype = np.dtype(NUMBERS[part.type]).newbyteorder(matrix.order)
  if math.prod(matrix.shape) * dtype.itemsize != len(part.data) or min(matrix.shape) < 0:
    said = f"{what}.{name} says that it is {dtype.name}{list(matrix.shape)}"
    raise ValueError(f"{said}, and holds {len(part.data):,} bytes")
  return np.frombuffer(part.data, dtype).reshape(matrix.shape, order="F")
