"""Checkpoints: the complete state of a run, restored bit for bit.

Method: a checkpoint is a folder named by its step. It is written under a temporary name and renamed
once complete, so that a killed run leaves the earlier ones intact. Inside, our own safetensors file
holds the loop and the history of the run, with a checksum (see `weights`); orbax rotates the
folders, keeping the last ones and the best one, and removes unfinished ones. A resumed run reads
the file without orbax, and falls back to the previous checkpoint if the last one is damaged. Random
keys are stored as their data, and NamedTuples by the names of their fields.

`CheckpointWriter.save` writes and `read_checkpoint` reads what `as_stored` and `history_as_json`
make of a run; `orbax_handler` only puts the file into the folder that orbax is about to rename.

Doubts: a checkpoint holds whole arrays of one process; sharded or multi-host runs would need
orbax's own format.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout

from fbackprop.checks import DtypeError, ShapeError, StructureError
from fbackprop.extras import need
from fbackprop.live_check import LiveCheck
from fbackprop.train.arguments import Checkpoints, StopRules
from fbackprop.train.history import History
from fbackprop.train.loop import Loop
from fbackprop.train.metrics import Evaluation
from fbackprop.train.step import Info
from fbackprop.train.stop_rules import Best
from fbackprop.train.weights import CHECKSUM, Stored, params_of, read_stored

# Our item in an orbax checkpoint, its file, and the key of our entry in that file's metadata.
ITEM, FILE, KEY = "run", "state.safetensors", "fbackprop.run"
# The names of the fields of a `Best` in that file, where `validation_loss` keeps its former one.
BEST = ("badness", "step", "params", "latest")


class DamagedError(ValueError):
  """A checkpoint is damaged: its content differs from what was written."""


class FolderInUseError(OSError):
  """The folder is in use by another run."""


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


Checkpoint = tuple[Loop, History, dict[str, Any]]
"""A restored run: its loop, its history, and its stop rules as JSON."""


def checkpoint_paths(path: str | os.PathLike[str]) -> list[Path]:
  """List the checkpoints in a folder, the latest first; or the path itself if it is a checkpoint.

  Raises:
    FileNotFoundError: there is no checkpoint.
  """
  path = Path(path)
  if (path / ITEM / FILE).is_file():
    return [path]
  if path.is_dir() and (found := numbered_folders(path)):
    return found
  raise FileNotFoundError(f"{path} holds no checkpoint")


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
    if (was := content["identity"].get(name)) != own:
      change = f"{name} was {was}, got {own}; a resumed run must keep its arguments"
      raise ValueError(f"{path} is a checkpoint of another run: {change}")
  steps = stored.entries["rows.loss"]["shape"][0]
  rows = jax.tree.map(lambda a: a.update(shape=(steps, *a.shape)), spec.info)
  try:
    tree = params_of(stored, {"loop": jax.eval_shape(as_stored, spec.loop), "rows": rows})
  except (StructureError, ShapeError, DtypeError) as error:
    raise type(error)(f"it is a checkpoint of another network or optimiser: {error}") from error
  # The inverse of `as_stored`.
  found = tree["loop"]
  best = None if found.best is None else Best(*map(found.best.get, BEST))
  loop = jax.tree.map(
    lambda a, own: jax.random.wrap_key_data(a, impl=spec.key_impl) if is_key(own) else a,
    found._replace(best=best), spec.loop,
  )  # fmt: skip
  return loop, read_history(content["history"], tree["rows"]), content["stop"]


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
  best: Any = None if loop.best is None else dict(zip(BEST, loop.best, strict=True))
  own = loop._replace(best=best)
  return jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, own)


def history_as_json(history: History, seconds: float) -> dict[str, Any]:
  """Convert a history without its rows to JSON, bit for bit; `seconds` is the whole run's time."""
  evaluations = [asdict(evaluation) for evaluation in history.evaluations]
  checks = [[step, *check] for step, check in history.checks]
  own = {**vars(history), "evaluations": evaluations, "checks": checks, "seconds": seconds}
  return {name: value for name, value in own.items() if name != "rows"}


def read_history(content: dict[str, Any], rows: Info) -> History:
  """Convert the output of `history_as_json` back to a `History` with the given rows."""
  evaluations = [
    Evaluation(**{**own, "grad_norms": tuple(own["grad_norms"])}) for own in content["evaluations"]
  ]
  checks = [(step, LiveCheck(*check)) for step, *check in content["checks"]]
  rows = jax.tree.map(np.asarray, rows)
  scores = [(step, score) for step, score in content.get("validation", ())]
  own = {"evaluations": evaluations, "checks": checks, "validation": scores}
  return History([rows], **{**content, **own})


def is_key(leaf: Any) -> bool:
  """Return whether an array holds random keys."""
  return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Lock a folder for this process; the operating system releases the lock however it ends.

  The lock is on a file within the folder, which exists while the lock is held. A crashed run leaves
  the file behind, but not the lock.

  Raises:
    FolderInUseError: another process, or another run in this one, holds the lock.
    OSError: the folder isn't writable.
  """
  path = Path(folder) / ".lock"
  lock = FileLock(path)
  while not lock.is_locked:
    try:
      lock.acquire(blocking=False)
    except Timeout as error:
      problem = "is in use by another run; wait for its end, or give another folder"
      raise FolderInUseError(f"{folder} {problem}") from error
    if not path.exists():  # The previous holder removed the file after it was opened here.
      lock.release()
  try:
    yield
  finally:
    with suppress(OSError):  # Windows can't remove an open file; there filelock removes it.
      path.unlink()
    lock.release()


class CheckpointWriter:
  """The writer of one run's checkpoints, with exclusive access to their folder.

  Args:
    rules: where and how often to save. Without `every` the folder is opened by the first save.
    spec: the run to which the checkpoints belong.
    stop: the stop rules.
    exits: stack whose closing releases the folder.

  Raises:
    OSError, ModuleNotFoundError: see `open`.
  """

  def __init__(
    self, rules: Checkpoints, spec: CheckpointSpec, stop: StopRules, exits: ExitStack
  ) -> None:
    assert rules.folder is not None
    self.rules, self.spec, self.stop, self.exits = rules, spec, stop, exits
    self.folder = Path(rules.folder).absolute()
    self.manager: Any = None
    self.scores: dict[int, float] = {}  # Of the checkpoints in the folder, by step.
    if rules.every is not None:
      self.open()

  def open(self) -> None:
    """Create the folder, lock it, and open orbax's manager, which removes unfinished checkpoints.

    Raises:
      FolderInUseError: another run uses it.
      FileExistsError: it holds the checkpoints of another run.
      OSError: it can't be created.
      ModuleNotFoundError: orbax isn't installed; the message names the extra.
    """
    orbax = need("orbax.checkpoint", extra="train")
    self.folder.mkdir(parents=True, exist_ok=True)
    self.exits.enter_context(locked(self.folder))
    resume = None if self.rules.resume is None else Path(self.rules.resume).absolute()
    for path in numbered_folders(self.folder):
      if resume is None or self.folder not in (resume, resume.parent):
        content = f"{self.folder} contains checkpoints of another run, such as {path.name}"
        raise FileExistsError(f"{content}; continue it with resume=, or choose another folder")
      with suppress(DamagedError):
        self.scores[int(path.name)] = float(read_content(path)[0]["score"])
    # The arrays are on the host already, and only a finished save can be relied on.
    options = orbax.CheckpointManagerOptions(enable_async_checkpointing=False)
    self.manager = orbax.CheckpointManager(self.folder, options=options)
    self.exits.callback(self.manager.close)

  def save(self, loop: Loop, history: History, seconds: float, score: float | None) -> None:
    """Write the checkpoint of the loop's current step; delete later ones, and superseded ones.

    Args:
      loop, history: the state of the run.
      seconds: wall time so far.
      score: score of the checkpoint, the larger the better; None if there is none.

    Raises:
      OSError: the checkpoint can't be written; earlier ones are unaffected.
    """
    if self.manager is None:
      self.open()
    step = int(loop.state.step)
    # Later steps exist after a rollback, or a restart from a checkpoint before a damaged one.
    for late in [s for s in self.manager.all_steps() if s >= step]:
      self.manager.delete(late)
    self.scores[step] = -math.inf if score is None else score
    content = {
      "identity": self.spec.identity,
      "stop": asdict(self.stop),
      "score": self.scores[step],
      "history": history_as_json(history, seconds),
    }
    tree = {"loop": as_stored(loop), "rows": history.infos()}
    orbax = need("orbax.checkpoint", extra="train")
    from fbackprop.train.orbax_handler import FileArgs

    item = FileArgs(tree, {KEY: json.dumps(content)})
    self.manager.save(step, args=orbax.args.Composite(**{ITEM: item}), force=True)
    # Not by a policy of orbax, which reads the scores from files without a checksum.
    steps = sorted(self.manager.all_steps())
    best = max(steps, key=lambda step: self.scores.get(step, -math.inf))
    for old in {*steps[: -self.rules.keep]} - {best}:
      self.manager.delete(old)
