"""The arrays of an npz file, as `numpy.savez` writes it, read by `numpy.load(allow_pickle=False)`.

numpy.load trusts the sizes stated in a file. So each member's header is validated first: its size
in the zip directory, the shape of its array, and the bytes present must agree, and compressed
content may expand to at most `MOST_UNPACKED` bytes. Uncompressed content takes as much memory as
the file. See `fbackprop.files` for the policy.

References:
  The format of a member: NumPy Enhancement Proposal 1, "A simple file format for NumPy arrays"
  (2007). Decompression bombs: Fifield, "A better zip bomb", WOOT (2019).
"""

import io
import math
import zipfile
from collections.abc import Collection, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from fbackprop.files import MOST_OF_A_BYTE, MOST_UNPACKED, open_plain, size_of
from fbackprop.train.data.rows import listed

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
    for name in names:
      if name in self.arrays:
        return name
    got = listed(self.names)
    raise ValueError(f"{self.path} must have {what} under {' or '.join(names)}, got {got}")


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
    raise ValueError(
      f"{name} would be {size:,} bytes, more than the {MOST_UNPACKED:,} that are unpacked here; "
      "write it by numpy.savez, which doesn't compress, and it may be of any size"
    )
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
