"""What orbax calls to write a checkpoint: our own file, in a folder that it then makes visible."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orbax.checkpoint as orbax

from fbackprop.train.weights import Stored, read_stored, save_params

FILE = "state.safetensors"


class FileHandler(orbax.CheckpointHandler):
  """Writes one safetensors file."""

  def save(self, directory: Any, args: "FileArgs") -> None:
    """Writes it into the folder of an unfinished checkpoint."""
    save_params(Path(directory) / FILE, args.tree, args.metadata)

  def restore(self, directory: Any, args: Any = None) -> Stored:
    """What was written. (A run that goes on reads it without orbax: see `checkpoints`.)"""
    return read_stored(Path(directory) / FILE)


@orbax.args.register_with_handler(FileHandler, for_save=True, for_restore=True)
@dataclass
class FileArgs(orbax.args.CheckpointArgs):
  """What is written: a tree of arrays, and text. To restore takes none."""

  tree: Any = None
  metadata: dict[str, str] | None = None
