"""The orbax handler of checkpoints: it writes our own file into orbax's temporary folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as orbax

from fbackprop.train.weights import Stored, read_stored, save_params

FILE = "state.safetensors"


class FileHandler(orbax.CheckpointHandler):
  """An orbax handler that writes one safetensors file."""

  def save(self, directory: Any, args: "FileArgs") -> None:
    """Write the file into the folder of an unfinished checkpoint."""
    save_params(Path(directory) / FILE, args.tree, args.metadata)

  def restore(self, directory: Any, args: Any = None) -> Stored:
    """Read the file. (A resumed run reads it without orbax: see `checkpoints`.)"""
    return read_stored(Path(directory) / FILE)


@orbax.args.register_with_handler(FileHandler, for_save=True, for_restore=True)
@dataclass
class FileArgs(orbax.args.CheckpointArgs):
  """The content to save: a pytree of arrays, and text. Restoring takes no arguments."""

  tree: Any = None
  metadata: dict[str, str] | None = None
