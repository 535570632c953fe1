"""The arrays in a zip file, as `numpy.savez` writes them: each is looked at before it is unpacked.

References:
  The format of a member: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays"
  (2007). What a small zip file can become: Fifield, "A better zip bomb", WOOT (2019).
"""

import io
import math
import warnings
import zipfile
from collections.abc import Collection
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from fbackprop.files import MOST_OF_A_BYTE, MOST_UNPACKED, open_plain, size_of

# Of an archive. zipfile reads the list of the members whole, so its length is looked at too.
MOST_MEMBERS = 1000
MOST_OF_LIST = 2**18
# NumPy refuses a header of an array that is longer than 10,000 bytes.
MOST_OF_HEADER = 2**14
END, END_OF_LARGE = b"PK\x05\x06", b"PK\x06\x07"
NUMPY = b"\x93NUMPY"


class Archive(NamedTuple):
  """A file of arrays: its path, the names of all, and those that were wanted and are there."""

  path: str
  names: tuple[str, ...]
  arrays: dict[str, np.ndarray]


def arrays_of(path: str, wanted: Collection[str]) -> Archive:
  """Reads some arrays of a file; others aren't unpacked.

  What isn't compressed takes as much memory as the file; an array that is compressed may become
  `MOST_UNPACKED` bytes.

  Raises:
    ValueError: it is no such file; it holds objects of Python's, members of equal names or with a
      path for a name, one that is encrypted or compressed in another way than by deflate, or sizes
      that can't be.
    OSError: it can't be read, or is no file.
  """
  with open_plain(path) as file:
    try:
      check_list(file)
      with zipfile.ZipFile(file) as archive:
        members = members_of(archive)
        arrays = {name: read(archive, members[name], size_of(file)) for name in members
                  if name in wanted}  # fmt: skip
    # A file that lies makes zipfile, zlib and NumPy fail in more ways than they list.
    except Exception as error:
      raise ValueError(f"{path} is no npz file that can be read: {error}") from error
  return Archive(path, tuple(members), arrays)


def check_list(file: BinaryIO) -> None:
  """Refuses an archive whose list of members is long; what is no archive is left to zipfile."""
  if file.read(len(NUMPY)) == NUMPY:
    raise ValueError("one array alone; numpy.savez writes several")
  size = size_of(file)
  file.seek(max(0, size - 2**16 - 42))
  tail = file.read()
  # zipfile takes the very end for the end of the list, if it looks like one.
  end = len(tail) - 22 if tail[-22:].startswith(END) else tail.rfind(END)
  if end >= 0:
    # Only an archive of more than 4 GiB needs a larger form of the list.
    is_large = tail[max(0, end - 20) : end].startswith(END_OF_LARGE) and size < 2**32
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    if is_large or MOST_OF_LIST < length < 2**32 - 1:
      raise ValueError(f"its list of members is longer than {MOST_OF_LIST:,} bytes")


def members_of(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
  """The arrays by their names."""
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


def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file_size: int) -> np.ndarray:
  """Unpacks an array, if what is said of its size fits together."""
  name, size, packed = info.filename, info.file_size, info.compress_size
  if info.flag_bits & 1:
    raise ValueError(f"{name} is encrypted")
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError(f"{name} is compressed in another way than by deflate")
  is_stored = info.compress_type == zipfile.ZIP_STORED
  if packed > file_size or size > packed * (1 if is_stored else MOST_OF_A_BYTE):
    raise ValueError(f"{name} is said to be {size:,} bytes, packed in {packed:,} of {file_size:,}")
  if not is_stored and size > MOST_UNPACKED:
    raise ValueError(
      f"{name} would be {size:,} bytes, more than the {MOST_UNPACKED:,} that are unpacked here; "
      "write it by numpy.savez, which doesn't compress, and it may be of any size"
    )
  with archive.open(info) as member:
    shape, dtype, start = header_of(member.read(MOST_OF_HEADER))
  if dtype.hasobject:
    raise ValueError(f"{name} holds objects of Python's, which would be unpickled (allow_pickle)")
  if math.prod(shape) * dtype.itemsize != size - start:
    raise ValueError(
      f"{name} says that it is {dtype}{list(shape)}, and holds {size - start:,} bytes"
    )
  with archive.open(info) as member:
    array: np.ndarray = np.load(member, allow_pickle=False)
    member.read(1)  # The end, at which zipfile compares the member's checksum.
  return array


def header_of(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
  """Shape and dtype of an array, and where its numbers begin."""
  file = io.BytesIO(content)
  version = np.lib.format.read_magic(file)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise ValueError(f"an array in version {version} of the format")
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # As for what only Python 2 could have written.
    shape, _, dtype = readers[version](file)
  if any(n < 0 for n in shape):
    raise ValueError(f"an array of the shape {shape}")
  return shape, dtype, file.tell()
