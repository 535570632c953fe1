"""The writer of a run's checkpoints: a lock on their folder, and orbax's manager.

Orbax rotates the checkpoints, keeping the last ones and the best one, and removes the unfinished
ones of killed runs.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from fbackprop.extras import need
from fbackprop.train.checkpoints import (
  ITEM,
  KEY,
  Checkpoints,
  DamagedError,
  as_stored,
  numbered_folders,
  read_content,
)
from fbackprop.train.history import History
from fbackprop.train.loop import Loop

LOCK = ".lock"


class FolderInUseError(OSError):
  """The folder is in use by another run."""


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Lock a folder for this process; the operating system releases the lock however it ends.

  The lock is on a file within the folder, which exists while the lock is held. A crashed run leaves
  the file behind, but not the lock.

  Raises:
    FolderInUseError: another process, or another run in this one, holds the lock.
    OSError: the folder isn't writable.
  """
  path = Path(folder) / LOCK
  lock = FileLock(path)
  while not lock.is_locked:
    try:
      lock.acquire(blocking=False)
    except Timeout as error:
      raise FolderInUseError(
        f"{folder} is in use by another run; wait for its end, or give another folder"
      ) from error
    if not path.exists():  # The previous holder removed the file after it was opened here.
      lock.release()
  try:
    yield
  finally:
    with suppress(OSError):  # Windows can't remove an open file; there filelock removes it.
      path.unlink()
    lock.release()


class CheckpointWriter:
  """The writer of one run's checkpoints; see `writing`."""

  def __init__(
    self,
    rules: Checkpoints,
    identity: dict[str, Any],
    stop: dict[str, Any],
  ) -> None:
    assert rules.folder is not None
    self.rules, self.identity, self.stop = rules, identity, stop
    self.folder = Path(rules.folder).absolute()
    own = () if rules.resume is None else (resume := Path(rules.resume).absolute(), resume.parent)
    self.goes_on = self.folder in own
    self.exits = ExitStack()
    self.is_held = False
    # Created at the first save, as the import of orbax takes two thirds of a second.
    self.manager: Any = None
    self.scores: dict[int, float] = {}

  def hold(self) -> None:
    """Create the folder, and lock it.

    Raises:
      FolderInUseError: another run uses it.
      FileExistsError: it holds the checkpoints of another run.
      OSError: it can't be created.
    """
    if not self.is_held:
      self.folder.mkdir(parents=True, exist_ok=True)
      self.exits.enter_context(locked(self.folder))
      if not self.goes_on and (numbered := numbered_folders(self.folder)):
        raise FileExistsError(
          f"{self.folder} contains checkpoints of another run, such as {numbered[0].name}; "
          "continue it with resume=, or choose another folder"
        )
      self.is_held = True

  def save(self, loop: Loop, history: History, seconds: float, score: float | None) -> None:
    """Write the checkpoint of the loop's current step; delete later ones.

    Args:
      loop, history: the state of the run.
      seconds: wall time so far.
      score: score of the checkpoint, the larger the better; None if there is none.

    Raises:
      OSError: the checkpoint can't be written; earlier ones are unaffected.
    """
    self.hold()
    if self.manager is None:
      self.scores = scores_in(self.folder)
      self.manager = open_manager(self.folder, self.rules.keep, self.scores)
    step = int(loop.state.step)
    # Later steps exist after a rollback, or a restart from a checkpoint before a damaged one.
    for late in [s for s in self.manager.all_steps() if s >= step]:
      self.manager.delete(late)
    self.scores[step] = -math.inf if score is None else score
    content = {
      "identity": self.identity,
      "stop": self.stop,
      "score": self.scores[step],
      "history": history.to_json(seconds),
    }
    tree = {"loop": as_stored(loop), "rows": history.infos()}
    orbax = need("orbax.checkpoint", extra="train")
    from fbackprop.train.checkpoint_files import FileArgs

    item = orbax.args.Composite(**{ITEM: FileArgs(tree, {KEY: json.dumps(content)})})
    self.manager.save(step, args=item, force=True)

  def close(self) -> None:
    """Close orbax's manager, and release the lock of the folder."""
    with self.exits:
      if self.manager is not None:
        self.manager.close()


@contextmanager
def writing(
  rules: Checkpoints | None, identity: dict[str, Any], stop: dict[str, Any]
) -> Iterator[CheckpointWriter | None]:
  """Open the writer of a run's checkpoints, with exclusive access to their folder.

  Args:
    rules: where and how often to save; None, or without a folder, for no checkpoints and no writer.
    identity: the properties that a resumed run must share with this one, as JSON.
    stop: the stop rules, as JSON.

  Raises:
    FolderInUseError: another run uses the folder.
    FileExistsError: the folder holds the checkpoints of another run.
    OSError: the folder can't be created.
    ModuleNotFoundError: orbax isn't installed; the message names the extra.
  """
  if rules is None or rules.folder is None:
    yield None
    return
  writer = CheckpointWriter(rules, identity, stop)
  try:
    if rules.every is not None:
      need("orbax.checkpoint", extra="train")
      writer.hold()
    yield writer
  finally:
    writer.close()


class BestKept(NamedTuple):
  """A preservation policy for orbax: keep the checkpoint of the highest score.

  Orbax's own policy reads the scores from files without a checksum, and fails if one is damaged.
  """

  scores: dict[int, float]

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    """Return, for each checkpoint, whether it is kept."""
    scores = [self.scores.get(checkpoint.step, -math.inf) for checkpoint in checkpoints]
    best = scores.index(max(scores)) if scores else -1
    return [i == best for i in range(len(scores))]


def scores_in(folder: Path) -> dict[int, float]:
  """Read the scores of the existing checkpoints, by step."""
  scores = {}
  for path in numbered_folders(folder):
    try:
      scores[int(path.name)] = float(read_content(path)[0]["score"])
    except DamagedError:
      continue
  return scores


def open_manager(folder: Path, keep: int, scores: dict[int, float]) -> Any:
  """Open orbax's manager of a folder, which removes unfinished checkpoints of killed runs."""
  orbax = need("orbax.checkpoint", extra="train")
  policies = need("orbax.checkpoint.checkpoint_managers", extra="train")
  options = orbax.CheckpointManagerOptions(
    # The arrays are on the host already, and only a finished save can be relied on.
    enable_async_checkpointing=False,
    preservation_policy=policies.AnyPreservationPolicy(
      [policies.LatestN(n=keep), BestKept(scores)]
    ),
  )
  return orbax.CheckpointManager(folder, options=options)
