"""What a command prints, and the files that it writes because a flag named them."""

import os
import sys
import tempfile
from pathlib import Path

from fbackprop.cli.usage import UsageError
from fbackprop.files import write_whole


def show(text: str, missing: str = "replace", *, to_stderr: bool = False) -> None:
  """Prints lines; what stands for a letter that the terminal lacks is said by `missing`."""
  stream = sys.stderr if to_stderr else sys.stdout
  encoding = stream.encoding or "utf-8"
  print(text.encode(encoding, missing).decode(encoding), end="", file=stream, flush=True)


def write(flag: str, path: str, content: bytes) -> None:
  """Writes the file whole, behind a link too, and says so."""
  try:
    if is_special(path):  # No file may take its place.
      Path(path).write_bytes(content)
      return
    write_whole(Path(path).resolve(), content)
  except OSError as error:
    raise UsageError(f"{flag} {path} can't be written: {error.strerror}") from error
  print(f"written: {path}")


def check_writable(flag: str, path: str) -> None:
  """Refuses a file that `write` couldn't write, before the work is done; leaves nothing behind."""
  try:
    if is_special(path):
      # To open a pipe and close it again would end it for its reader.
      if not os.access(path, os.W_OK):
        raise PermissionError(0, "Permission denied")
      return
    resolved = Path(path).resolve()
    if resolved.is_dir():
      raise IsADirectoryError(0, "Is a directory")
    with tempfile.TemporaryFile(dir=resolved.parent):
      return
  except OSError as error:
    raise UsageError(f"{flag} {path} can't be written: {error.strerror}") from error


def is_special(path: str) -> bool:
  """Whether a device, a pipe or a socket stands there, or what a shell makes of /dev/stdout."""
  is_device = Path(path).absolute().is_relative_to("/dev")
  return (
    os.path.exists(path) and not os.path.isdir(path) and (is_device or not os.path.isfile(path))
  )


def number(value: float | None) -> str:
  """A loss or an accuracy as text."""
  if value is None:
    return "-"
  return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"
