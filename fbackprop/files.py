"""Files: written whole or not at all, read only if they are plain and of a bounded size.

A file may come from anybody. The policy, for all readers of the package:

- Nothing is unpickled or evaluated.
- Only a regular file is opened: a pipe might never end, and a device may do anything.
- Memory is bounded before anything is read: by the file's own size, or, for compressed content, by
  `MOST_UNPACKED`. A size that a header states is compared with the bytes that are there.
- What is refused is named: the file, and in it the array, or the line and the column.

`open_plain` and the bounds are here; `train.data.csv_tables`, `train.data.archives` (npz) and
`train.data.idx` apply them to tables, `train.weights` to parameters, `cli.toml` and `cli.runs` to
configurations. safetensors checks its own headers.
"""

import errno
import io
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

# The most that a gzip file or a member of a zip file may become: twenty times MNIST. A file of 1 MB
# can become a gigabyte; who means that unpacks it, and then its own size is the bound.
MOST_UNPACKED = 2**30
# deflate makes at most 258 bytes of two bits.
MOST_OF_A_BYTE = 1032


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
  """Write a file atomically: at every instant it holds the old content or the new one.

  Args:
    path: the file; its folder exists.
    content: the new content.

  Raises:
    OSError: it can't be written; nothing is left behind.
  """
  path = Path(path)
  descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(descriptor, "wb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
  """Open a regular file to read.

  Raises:
    OSError: it can't be read; it is a folder, a pipe, a socket or a device.
  """
  name = os.fspath(path)
  if "\0" in name:
    raise OSError(errno.EINVAL, "no file has a zero byte in its name", name)
  # Checked before it is opened, as opening a device may do something already.
  refuse_what_is_not_plain(os.stat(name).st_mode, name)
  # Not to wait, should a pipe have taken its place since.
  descriptor = os.open(
    name, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
  )
  try:
    refuse_what_is_not_plain(os.fstat(descriptor).st_mode, name)
    return os.fdopen(descriptor, "rb")
  except BaseException:
    os.close(descriptor)
    raise


def refuse_what_is_not_plain(mode: int, name: str) -> None:
  """Raise an OSError unless a mode is that of a regular file."""
  if stat.S_ISDIR(mode):
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
  if not stat.S_ISREG(mode):
    is_what = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
    raise OSError(errno.EINVAL, f"it is a {is_what}, and must be a file", name)


def size_of(file: BinaryIO) -> int:
  """Return the number of bytes in an open file."""
  return os.fstat(file.fileno()).st_size


def read_plain(path: str | os.PathLike[str], most: int | None = None) -> bytes:
  """Read a file.

  Args:
    path: the file.
    most: the most bytes that it may hold; None for any number.

  Raises:
    OSError: it can't be read, is no file, or holds more.
  """
  with open_plain(path) as file:
    size = size_of(file)
    if most is not None and size > most:
      said = f"it holds {size:,} bytes, more than {most:,}"
      raise OSError(errno.EFBIG, said, os.fspath(path))
    return file.read(size)


def read_text(path: str | os.PathLike[str], most: int) -> str:
  """Read a file in UTF-8 of at most `most` bytes; its lines may end in any way.

  Raises:
    UnicodeDecodeError: it is no text in UTF-8.
    OSError: it can't be read, is no file, or holds more.
  """
  return io.TextIOWrapper(io.BytesIO(read_plain(path, most)), encoding="utf-8").read()
