"""Checkpoints: the complete state of a run, restored bit for bit.

Method: a checkpoint is a folder named by its step. It is written under a temporary name and renamed
once complete, so that a killed run leaves the earlier ones intact. Inside, our own safetensors file
holds the loop and the history of the run, with a checksum (see `weights`); orbax rotates the
folders, keeping the last ones and the best one, and removes unfinished ones. A resumed run reads
the file without orbax, and falls back to the previous checkpoint if the last one is damaged. Random
keys are stored as their data, and NamedTuples by the names of their fields.

Doubts: a checkpoint holds whole arrays of one process; sharded or multi-host runs would need
orbax's own format.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import DtypeError, ShapeError, StructureError
from fbackprop.train.history import History, read_history
from fbackprop.train.loop import Loop
from fbackprop.train.step import Info
from fbackprop.train.stop_rules import check_count
from fbackprop.train.validation import Best
from fbackprop.train.weights import CHECKSUM, Stored, params_of, read_stored

# Our item in an orbax checkpoint, its file, and the key of our entry in that file's metadata.
ITEM, FILE, KEY = "run", "state.safetensors", "fbackprop.run"


@dataclass(frozen=True)
class Checkpoints:
  """Where and how often a run is saved, and from where it is resumed.

  Attributes:
    folder: the folder of the checkpoints, each of which is a subfolder; created if missing. It
      can't be shared by two runs at once. None to save nothing, if `resume` is given.
    every: steps between checkpoints, with a last one at the end; None to save only when the run is
      interrupted.
    keep: number of most recent checkpoints to keep, besides the best one: that of the highest
      validation score, or else of the lowest mean training loss since the previous checkpoint.
    resume: a folder of checkpoints, or one of them, from which the run continues, bit for bit as if
      uninterrupted. All arguments of `fit` must equal those of the original run, except those that
      change no step: `stop`, which may extend the run, `monitor`, and `folder`, which may be the
      same. A damaged checkpoint is skipped in favour of the previous one. Not together with
      `params`, which the checkpoint contains.
  """

  folder: str | os.PathLike[str] | None = None
  every: int | None = None
  keep: int = 2
  resume: str | os.PathLike[str] | None = None

  def __post_init__(self) -> None:
    for name, value in (("folder", self.folder), ("resume", self.resume)):
      is_missing = value is None and (name == "resume" or self.resume is not None)
      if not is_missing and not isinstance(value, str | os.PathLike):
        raise TypeError(f"checkpoints.{name} must be a path, got {value!r}")
    for name, count in (("every", self.every), ("keep", self.keep)):
      if count is not None or name == "keep":
        check_count(f"checkpoints.{name}", count, least=1)


class CheckpointSpec(NamedTuple):
  """The properties by which a checkpoint is matched to a run.

  Attributes:
    identity: values that both must share, as JSON, by the names of the arguments.
    loop: structure, shapes and dtypes of the loop.
    info: structure, shapes and dtypes of a step's `Info`.
    key_impl: implementation of the random keys.
  """

  identity: dict[str, Any]
  loop: Loop
  info: Info
  key_impl: Any


class Checkpoint(NamedTuple):
  """A restored run: its loop, its history, and its stop rules as JSON."""

  loop: Loop
  history: History
  stop: dict[str, Any]


class StoredBest(NamedTuple):
  """A `Best` as in the files, where `validation_loss` keeps its former name."""

  badness: Any
  step: Any
  params: Any
  latest: Any


def checkpoint_paths(path: str | os.PathLike[str]) -> list[Path]:
  """List the checkpoints in a folder, the latest first; or the path itself if it is a checkpoint.

  Raises:
    FileNotFoundError: there is no checkpoint.
  """
  path = Path(path)
  if (path / ITEM / FILE).is_file():
    return [path]
  found = numbered_folders(path) if path.is_dir() else []
  if not found:
    raise FileNotFoundError(f"{path} holds no checkpoint")
  return found


def numbered_folders(folder: Path) -> list[Path]:
  """List the subfolders that are named by a step, the latest first."""
  found = [path for path in folder.iterdir() if path.name.isdecimal()]
  return sorted(found, key=lambda path: int(path.name), reverse=True)


def load_checkpoint(
  path: str | os.PathLike[str], spec: CheckpointSpec, on_event: Callable[[str], None]
) -> Checkpoint:
  """Read the latest intact checkpoint of a folder.

  Args:
    path: the folder, or a checkpoint itself.
    spec: the run to which the checkpoint must belong.
    on_event: called with a message about each damaged checkpoint.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: none is intact; or it is of another run.
  """
  paths = checkpoint_paths(path)
  for one in paths:
    try:
      return read_checkpoint(one, spec)
    except DamagedError as error:
      on_event(f"{error}; the checkpoint before it is used" if one != paths[-1] else str(error))
  raise DamagedError(f"{path} holds no checkpoint that is whole, of {len(paths)}")


def read_checkpoint(path: Path, spec: CheckpointSpec) -> Checkpoint:
  """Read one checkpoint.

  Raises:
    DamagedError: the checkpoint is damaged or missing.
    ValueError: it is of another run; the message names the difference.
    TypeError: it is of another run, with another dtype.
  """
  content, stored = read_content(path)
  for name, own in spec.identity.items():
    if content["identity"].get(name) != own:
      was = content["identity"].get(name)
      raise ValueError(
        f"{path} is a checkpoint of another run: {name} was {was}, got {own}; "
        "a resumed run must keep its arguments"
      )
  steps = stored.entries["rows.loss"]["shape"][0]

  def like(loop: Loop, info: Info) -> dict[str, Any]:
    rows = jax.tree.map(lambda a: jnp.zeros((steps, *a.shape), a.dtype), info)
    return {"loop": as_stored(loop), "rows": rows}

  try:
    tree = params_of(stored, jax.eval_shape(like, spec.loop, spec.info))
  except (StructureError, ShapeError, DtypeError) as error:
    raise type(error)(f"it is a checkpoint of another network or optimiser: {error}") from error
  loop = from_stored(tree["loop"], spec)
  return Checkpoint(loop, read_history(content["history"], tree["rows"]), content["stop"])


class DamagedError(ValueError):
  """A checkpoint is damaged: its content differs from what was written."""


def read_content(path: Path) -> tuple[dict[str, Any], Stored]:
  """Read the metadata and the arrays of a checkpoint.

  Raises:
    DamagedError: the checkpoint is damaged or missing.
  """
  file = path / ITEM / FILE
  try:
    if file.resolve() != path.resolve() / ITEM / FILE or path.is_symlink():
      raise OSError("it is a link, and must be a file")
    stored = read_stored(file)
  except OSError as error:
    raise DamagedError(f"{file} is damaged: {error.strerror or error}") from error
  except ValueError as error:  # Its message names the file.
    raise DamagedError(str(error)) from error
  if CHECKSUM not in stored.metadata or KEY not in stored.metadata:
    raise DamagedError(f"{file} is not a checkpoint: its metadata are missing")
  content: dict[str, Any] = json.loads(stored.metadata[KEY])
  return content, stored


def as_stored(loop: Loop) -> Any:
  """Convert a loop to arrays that a file can hold: keys as data, fields by their stored names."""
  best: Any = None if loop.best is None else StoredBest(*loop.best)
  return jax.tree.map(
    lambda a: jax.random.key_data(a) if is_key(a) else a, loop._replace(best=best)
  )


def from_stored(stored: Any, spec: CheckpointSpec) -> Loop:
  """Convert stored arrays back to a loop; the inverse of `as_stored`."""

  def wrapped(numbers: Any, own: Any) -> Any:
    return jax.random.wrap_key_data(numbers, impl=spec.key_impl) if is_key(own) else numbers

  best = None if stored.best is None else Best(*stored.best)
  loop: Loop = jax.tree.map(wrapped, stored._replace(best=best), spec.loop)
  return loop


def is_key(leaf: Any) -> bool:
  """Return whether an array holds random keys."""
  return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
