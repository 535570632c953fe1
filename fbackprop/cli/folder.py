"""The folder of a run: one file that can't be written doesn't keep the others from it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class RunFolder:
  """Writes the files of a run, and remembers which it couldn't.

  Attributes:
    path: of the folder.
    failed: what couldn't be written, and why.
  """

  def __init__(self, path: Path) -> None:
    self.path = path
    self.failed: dict[Path, str] = {}

  def write(self, name: str, writer: Callable[..., None], *content: Any) -> None:
    """Calls `writer(path, *content)`, which may raise an OSError."""
    try:
      writer(self.path / name, *content)
    except OSError as error:
      self.failed[self.path / name] = error.strerror or str(error)

  def tell_failed(self) -> bool:
    """Says on stderr what couldn't be written; returns whether there is anything."""
    if self.failed:
      files = ", ".join(f"{path} ({reason})" for path, reason in self.failed.items())
      print(f"fbackprop: could not be written: {files}", file=sys.stderr)
    return bool(self.failed)
