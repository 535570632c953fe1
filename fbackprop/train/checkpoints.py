"""Checkpoints: all that a run needs to go on to the same bits, kept by orbax's manager.

A checkpoint is a folder with the number of its step, and becomes visible by one rename when all of
it is written: a run that is killed leaves the ones before as they were. Inside, our own file holds
the loop and what was said of each step, with a checksum (see `weights`); orbax keeps the last ones
and the best one, and clears away what a killed run began.
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import DtypeError, ShapeError, StructureError
from fbackprop.extras import need
from fbackprop.train.history import History, read_history
from fbackprop.train.loop import Loop
from fbackprop.train.step import Info
from fbackprop.train.stop_rules import check_count
from fbackprop.train.weights import CHECKSUM, Stored, params_of, read_stored

# The item of orbax that is ours, its file, and the entry of that file's metadata.
ITEM, FILE, KEY = "run", "state.safetensors", "fbackprop.run"


@dataclass(frozen=True)
class Checkpoints:
  """Where and how often a run is saved, so that it can go on where it was.

  Attributes:
    folder: in which each checkpoint is a folder; made where missing. Two runs at once can't use it.
    every: steps from one to the next, and one at the end; None for one where the run is
      interrupted, and no other.
    keep: how many of the last ones are kept; beside them the best one is: of the highest score of
      the examples set aside, or else of the lowest mean training loss since the one before.
  """

  folder: str | os.PathLike[str]
  every: int | None = None
  keep: int = 2

  def __post_init__(self) -> None:
    if not isinstance(self.folder, str | os.PathLike):
      raise TypeError(f"checkpoints.folder must be a path, got {self.folder!r}")
    for name, value in (("every", self.every), ("keep", self.keep)):
      if value is not None or name == "keep":
        check_count(f"checkpoints.{name}", value, least=1)


class Kind(NamedTuple):
  """What a checkpoint must be of, for a run to go on from it.

  Attributes:
    identity: what the two have in common, as JSON, by the name that a user would know it by.
    loop: the structure, shapes and dtypes of the loop.
    info: likewise, of what is said of a step.
    key_impl: of the random keys.
  """

  identity: dict[str, Any]
  loop: Loop
  info: Info
  key_impl: Any


class Saved(NamedTuple):
  """A run as a checkpoint holds it."""

  loop: Loop
  history: History
  stop: dict[str, Any]


class FolderInUseError(OSError):
  """Another run writes to that folder."""


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Holds a folder for this process: however it ends, the system gives it free.

  Raises:
    FolderInUseError: another process, or another run in this one, holds it.
    OSError: the folder can't be opened.
  """
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise FolderInUseError(
        f"{folder} is in use by another run; wait for its end, or give another folder"
      ) from error
    yield
  finally:
    os.close(descriptor)


class Keeper:
  """Writes the checkpoints of one run; see `keeping`."""

  def __init__(
    self,
    rules: Checkpoints,
    identity: dict[str, Any],
    stop: dict[str, Any],
    resume: str | os.PathLike[str] | None,
  ) -> None:
    self.rules, self.identity, self.stop = rules, identity, stop
    self.folder = Path(rules.folder).absolute()
    own = () if resume is None else (Path(resume).absolute(), Path(resume).absolute().parent)
    self.goes_on = self.folder in own
    self.exits = ExitStack()
    self.is_held = False
    # Orbax takes two thirds of a second to import: not before there is something to save.
    self.manager: Any = None
    self.scores: dict[int, float] = {}

  def hold(self) -> None:
    """Makes the folder, and keeps other runs out of it.

    Raises:
      FolderInUseError: another run has it.
      FileExistsError: another run left its checkpoints there.
      OSError: it can't be made.
    """
    if not self.is_held:
      self.folder.mkdir(parents=True, exist_ok=True)
      self.exits.enter_context(locked(self.folder))
      if not self.goes_on and (numbered := numbered_folders(self.folder)):
        raise FileExistsError(
          f"{self.folder} holds checkpoints of another run, as {numbered[0].name}; resume= goes on "
          "from them, or give another folder"
        )
      self.is_held = True

  def save(self, loop: Loop, history: History, seconds: float, score: float | None) -> None:
    """Writes the checkpoint of the step at which the loop is; later ones go.

    Args:
      loop, history: the run.
      seconds: wall time of it so far.
      score: the larger, the better; None if there is none.

    Raises:
      OSError: it can't be written; those before are as they were.
    """
    self.hold()
    if self.manager is None:
      self.scores = scores_in(self.folder)
      self.manager = open_manager(self.folder, self.rules.keep, self.scores)
    step = int(loop.state.step)
    # Of a run that went back, or on from a checkpoint before a damaged one.
    for late in [s for s in self.manager.all_steps() if s >= step]:
      self.manager.delete(late)
    self.scores[step] = -math.inf if score is None else score
    content = {
      "identity": self.identity,
      "stop": self.stop,
      "score": self.scores[step],
      "history": history.to_json(seconds),
    }
    tree = {"loop": with_plain_keys(loop), "rows": history.infos()}
    orbax = need("orbax.checkpoint", extra="train")
    from fbackprop.train.checkpoint_files import FileArgs

    item = orbax.args.Composite(**{ITEM: FileArgs(tree, {KEY: json.dumps(content)})})
    self.manager.save(step, args=item, force=True)

  def close(self) -> None:
    """Nothing more is to be saved."""
    with self.exits:
      if self.manager is not None:
        self.manager.close()


@contextmanager
def keeping(
  rules: Checkpoints | None,
  identity: dict[str, Any],
  stop: dict[str, Any],
  resume: str | os.PathLike[str] | None,
) -> Iterator[Keeper | None]:
  """The keeper of a run's checkpoints, whose folder no other run can use meanwhile.

  Args:
    rules: None for no checkpoints, and no keeper.
    identity: what a run that goes on must have in common with this one, as JSON.
    stop: the stop rules, as JSON.
    resume: where the run goes on from, if it does: that folder's checkpoints are its own.

  Raises:
    FolderInUseError: another run has the folder.
    FileExistsError: another run left its checkpoints there.
    OSError: the folder can't be made.
    ModuleNotFoundError: orbax isn't there; the message names the extra.
  """
  if rules is None:
    yield None
    return
  keeper = Keeper(rules, identity, stop, resume)
  try:
    if rules.every is not None:
      need("orbax.checkpoint", extra="train")
      keeper.hold()
    yield keeper
  finally:
    keeper.close()


class BestKept(NamedTuple):
  """One of orbax's preservation policies: the checkpoint of the highest score stays.

  Its own one reads the scores from files without a checksum, and fails where one is damaged.
  """

  scores: dict[int, float]

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    """Whether each one stays, of those that there are."""
    scores = [self.scores.get(checkpoint.step, -math.inf) for checkpoint in checkpoints]
    best = scores.index(max(scores)) if scores else -1
    return [i == best for i in range(len(scores))]


def scores_in(folder: Path) -> dict[int, float]:
  """The scores of the checkpoints that are there already, by their steps."""
  scores = {}
  for path in numbered_folders(folder):
    try:
      scores[int(path.name)] = float(read_content(path)[0]["score"])
    except DamagedError:
      continue
  return scores


def open_manager(folder: Path, keep: int, scores: dict[int, float]) -> Any:
  """Orbax's manager of a folder: what a killed run began is cleared away, the rest is kept."""
  orbax = need("orbax.checkpoint", extra="train")
  policies = need("orbax.checkpoint.checkpoint_managers", extra="train")
  options = orbax.CheckpointManagerOptions(
    # The arrays are on the host already, and a save that isn't finished can't be counted on.
    enable_async_checkpointing=False,
    preservation_policy=policies.AnyPreservationPolicy(
      [policies.LatestN(n=keep), BestKept(scores)]
    ),
  )
  return orbax.CheckpointManager(folder, options=options)


def checkpoint_paths(path: str | os.PathLike[str]) -> list[Path]:
  """The checkpoints of a folder, the last one first; or the one that the path is itself.

  Raises:
    FileNotFoundError: there is none.
  """
  path = Path(path)
  if (path / ITEM / FILE).is_file():
    return [path]
  found = numbered_folders(path) if path.is_dir() else []
  if not found:
    raise FileNotFoundError(f"{path} holds no checkpoint")
  return found


def numbered_folders(folder: Path) -> list[Path]:
  """What is named by a step, the last one first."""
  found = [path for path in folder.iterdir() if path.name.isdecimal()]
  return sorted(found, key=lambda path: int(path.name), reverse=True)


def load_checkpoint(path: str | os.PathLike[str], kind: Kind, tell: Callable[[str], None]) -> Saved:
  """Reads the last checkpoint of a folder that is whole.

  Args:
    path: the folder, or a checkpoint itself.
    kind: what it must be of.
    tell: is told of each one that is damaged.

  Raises:
    FileNotFoundError: there is none.
    ValueError: there is none that is whole; or it is of another run.
  """
  paths = checkpoint_paths(path)
  for one in paths:
    try:
      return read_checkpoint(one, kind)
    except DamagedError as error:
      tell(f"{error}; the checkpoint before it is used" if one != paths[-1] else str(error))
  raise DamagedError(f"{path} holds no checkpoint that is whole, of {len(paths)}")


def read_checkpoint(path: Path, kind: Kind) -> Saved:
  """Reads one checkpoint.

  Raises:
    DamagedError: it isn't as it was written, or not there.
    ValueError: it is of another run; the message says in what.
    TypeError: likewise, of a dtype.
  """
  content, stored = read_content(path)
  for name, own in kind.identity.items():
    if content["identity"].get(name) != own:
      was = content["identity"].get(name)
      raise ValueError(
        f"{path} is a checkpoint of another run: {name} was {was}, and is {own}; "
        "a run goes on with what it began with"
      )
  steps = stored.entries["rows.loss"]["shape"][0]

  def as_stored(loop: Loop, info: Info) -> dict[str, Any]:
    rows = jax.tree.map(lambda a: jnp.zeros((steps, *a.shape), a.dtype), info)
    return {"loop": with_plain_keys(loop), "rows": rows}

  try:
    tree = params_of(stored, jax.eval_shape(as_stored, kind.loop, kind.info))
  except (StructureError, ShapeError, DtypeError) as error:
    raise type(error)(f"it is a checkpoint of another network or optimiser: {error}") from error
  loop = with_keys(tree["loop"], kind)
  return Saved(loop, read_history(content["history"], tree["rows"]), content["stop"])


class DamagedError(ValueError):
  """A checkpoint isn't as it was written."""


def read_content(path: Path) -> tuple[dict[str, Any], Stored]:
  """What a checkpoint says of its run, and its arrays.

  Raises:
    DamagedError: it isn't as it was written, or not there.
  """
  file = path / ITEM / FILE
  try:
    if file.resolve() != path.resolve() / ITEM / FILE or path.is_symlink():
      raise OSError("it is a link, and must be a file")
    stored = read_stored(file)
  except OSError as error:
    raise DamagedError(f"{file} is damaged: {error.strerror or error}") from error
  except ValueError as error:  # Which names the file.
    raise DamagedError(str(error)) from error
  if CHECKSUM not in stored.metadata or KEY not in stored.metadata:
    raise DamagedError(f"{file} is no checkpoint of a run: it says nothing of one")
  content: dict[str, Any] = json.loads(stored.metadata[KEY])
  return content, stored


def with_plain_keys(tree: Any) -> Any:
  """Random keys as their numbers, which a file can hold."""
  return jax.tree.map(lambda a: jax.random.key_data(a) if is_key(a) else a, tree)


def with_keys(plain: Loop, kind: Kind) -> Loop:
  """Numbers as random keys, where the loop has some."""

  def wrapped(numbers: Any, own: Any) -> Any:
    return jax.random.wrap_key_data(numbers, impl=kind.key_impl) if is_key(own) else numbers

  loop: Loop = jax.tree.map(wrapped, plain, kind.loop)
  return loop


def is_key(leaf: Any) -> bool:
  """Whether an array holds random keys."""
  return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
