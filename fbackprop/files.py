"""Files: atomic writes, and reads of regular files of bounded size only.

Files are untrusted input. The policy of every reader of the package:

- Nothing is unpickled or evaluated.
- Only regular files are opened: a pipe may never end, and opening a device may have side effects.
- Memory is bounded before anything is read: by the file's own size, or, for compressed content, by
  `MOST_UNPACKED`. A size stated in a header is compared with the bytes that are present.
- An error names the file, and within it the array, or the line and the column.

`open_plain` and the bounds are here; `train.data.csv_tables`, `train.data.npz`,
`train.data.idx` and `train.data.mat` apply them to tables, `train.weights` to parameters,
`cli.run_folder` to configurations. safetensors checks its own headers.
"""

import errno
import io
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

# Largest decompressed size of a gzip file or of a member of a zip file: twenty times MNIST. A
# decompression bomb turns 1 MB into a gigabyte. Whoever needs more unpacks the file first; its own
# size is then the bound.
MOST_UNPACKED = 2**30
# Largest expansion factor of deflate: it codes at most 258 bytes in two bits.
MOST_OF_A_BYTE = 1032


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
  """Write a file atomically: at any instant it holds either the old content or the new one.

  Args:
    path: the file; its folder must exist.
    content: the new content.

  Raises:
    OSError: the file can't be written; no temporary file is left behind.
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


def path_within(folder: str | os.PathLike[str], name: str) -> Path:
  """Return the path of a file in a folder.

  The folder itself may be a link, as the user named it. A file in it may come from somebody else,
  along with the folder.

  Raises:
    ValueError: the file is a link that leads out of the folder.
    OSError: its path can't be resolved.
  """
  path = Path(folder, name)
  try:
    there = path.resolve()
    is_within = there.is_relative_to(Path(folder).resolve())
  except (RuntimeError, ValueError) as error:  # A link to itself, or an invalid file name.
    raise OSError(errno.EINVAL, str(error), str(path)) from error
  if not is_within:
    raise ValueError(f"{path} is a link out of the run's folder, to {there}")
  return path


def open_plain(path: str | os.PathLike[str]) -> BinaryIO:
  """Open a regular file for reading.

  Raises:
    OSError: the file can't be read, or it is a folder, a pipe, a socket or a device.
  """
  name = os.fspath(path)
  if "\0" in name:
    raise OSError(errno.EINVAL, "no file has a zero byte in its name", name)
  # Checked before opening, since opening a device can already have side effects.
  refuse_what_is_not_plain(os.stat(name).st_mode, name)
  # Checked again after opening, since a pipe may have replaced the file in between; O_NONBLOCK, as
  # opening a pipe would otherwise block until somebody writes to it.
  flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
  descriptor = os.open(name, flags)
  try:
    refuse_what_is_not_plain(os.fstat(descriptor).st_mode, name)
    return os.fdopen(descriptor, "rb")
  except BaseException:
    os.close(descriptor)
    raise


def refuse_what_is_not_plain(mode: int, name: str) -> None:
  """Raise an OSError unless a file mode is that of a regular file."""
  if stat.S_ISDIR(mode):
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
  if not stat.S_ISREG(mode):
    is_what = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
    raise OSError(errno.EINVAL, f"it is a {is_what}, and must be a file", name)


def size_of(file: BinaryIO) -> int:
  """Return the size of an open file in bytes."""
  return os.fstat(file.fileno()).st_size


def read_plain(path: str | os.PathLike[str], most: int | None = None) -> bytes:
  """Read a regular file as bytes.

  Args:
    path: the file.
    most: the largest size allowed, in bytes; None for no limit.

  Raises:
    OSError: the file can't be read, isn't regular, or is larger than `most`.
  """
  with open_plain(path) as file:
    size = size_of(file)
    if most is not None and size > most:
      raise OSError(errno.EFBIG, f"it holds {size:,} bytes, more than {most:,}", os.fspath(path))
    return file.read(size)


def read_text(path: str | os.PathLike[str], most: int) -> str:
  """Read a UTF-8 file of at most `most` bytes, with any line endings.

  Raises:
    UnicodeDecodeError: the file isn't valid UTF-8.
    OSError: it can't be read, isn't regular, or is larger.
  """
  return io.TextIOWrapper(io.BytesIO(read_plain(path, most)), encoding="utf-8").read()
