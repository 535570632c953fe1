"""Runs that are killed while they write, and the files that remain."""

import itertools
import operator
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbackprop as fb
from fbackprop.train.examples import digest
from scripts.campaigns.grouping import grouped
from scripts.campaigns.results import keep_compiled

STEPS, EVERY = 60, 5
OPTIMIZERS = {
  "gradient_descent": lambda: fb.train.gradient_descent(0.1),
  "momentum": lambda: optax.sgd(0.05, momentum=0.9),
  "adam": lambda: optax.adam(0.01),
}


class Plan(NamedTuple):
  """A run of the campaign.

  Attributes:
    optimizer: one of `OPTIMIZERS`.
    dropout: the dropout rate.
    validated: whether there is a validation set, and the best parameters are kept.
    seed: the seed of the run.
  """

  optimizer: str
  dropout: float
  validated: bool
  seed: int


# 7 of 50 examples per step: most checkpoints, at each 5th step, are within an epoch.
PLANS = [
  Plan("gradient_descent", 0.0, False, 0),
  Plan("momentum", 0.2, False, 1),
  Plan("adam", 0.0, True, 2),
  Plan("adam", 0.2, False, 3),
]


def run(
  plan: Plan,
  folder: str | None,
  resumes: bool = False,
  events: list[str] | None = None,
  **changed: Any,
) -> fb.train.Result:
  """Run a plan, with its checkpoints in a folder or without any.

  Args:
    plan: the plan of the run.
    folder: the folder of the checkpoints.
    resumes: whether to resume from the folder.
    events: called with the run's events.
    **changed: options in place of the plan's; see `grouped`.
  """
  rng = np.random.default_rng(plan.seed)
  x = jnp.asarray(rng.normal(size=(50, 4)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 3, 50))
  arguments = {
    "data": (x, labels),
    "optimizer": OPTIMIZERS[plan.optimizer](),
    "stop": stop_at(plan, STEPS),
    "key": jax.random.key(plan.seed),
    "batch_size": 7,
    "test": (x[:9], labels[:9]),
    "eval_every": 4,
    "checkpoints": None if folder is None else fb.train.Checkpoints(folder, EVERY),
    "resume": folder if resumes else None,
    "on_event": print if events is None else events.append,
  }
  net = fb.mlp([4, 8, 3], dropout=plan.dropout)
  return fb.train.fit(net, fb.softmax_cross_entropy, **grouped(**{**arguments, **changed}))


def stop_at(plan: Plan, steps: int) -> fb.train.StopRules:
  """Return the plan's stop rules, with that number of steps."""
  return fb.train.StopRules(steps, validation_fraction=0.2 if plan.validated else None)


def bits(result: fb.train.Result) -> str:
  """Return the parts in which two runs must be bitwise equal: all but the times."""
  names = ("step", "train_loss", "test_loss", "test_accuracy", "grad_norms", "validation_score")
  said = [operator.attrgetter(*names)(evaluation) for evaluation in result.evaluations]
  state = result.state._replace(key=jax.random.key_data(result.state.key))
  best = None if result.best is None else result.best.params
  arrays = digest((state, result.losses, result.grad_norms, best))
  return f"{arrays} {result.stop_reason} {said} {result.checks}"


def go_on(plan: Plan, folder: str, kill_at: int | None, out: str) -> None:
  """Start or resume the run, and write its bits; the body of a process.

  Args:
    plan: the plan of the run.
    folder: the folder of its checkpoints.
    kill_at: the number of the touch of a file in the folder at which the process ends by SIGKILL;
      None for never.
    out: the file for the bits.
  """
  keep_compiled("fault-campaign")
  if kill_at is not None:
    die_at(kill_at, folder)
  # A run may be killed before its first checkpoint.
  resumes = os.path.isdir(folder) and any(name.isdecimal() for name in os.listdir(folder))
  Path(out).write_text(bits(run(plan, folder, resumes)))


def die_at(count: int, folder: str) -> None:
  """Kill this process at its n-th touch of a file in a folder, such as a rename."""
  touches = itertools.count(1)  # Its `next` is atomic: other threads touch files too.

  def touch() -> None:
    if next(touches) == count:
      os.kill(os.getpid(), signal.SIGKILL)

  def hear(event: str, args: tuple[Any, ...]) -> None:
    is_file = event == "open" or event.partition(".")[0] in ("os", "shutil")
    if is_file and any(isinstance(a, str | os.PathLike) and folder in str(a) for a in args):
      touch()

  sync = os.fsync

  def fsync(descriptor: Any) -> None:
    touch()  # The written data isn't synced yet.
    sync(descriptor)
    touch()  # It is synced, but not yet renamed.

  os.fsync = fsync  # type: ignore[assignment]  # `write_whole` calls it.
  sys.addaudithook(hear)


def damage(path: Path, rng: random.Random) -> str:
  """Truncate a file or flip one of its bits; return a description."""
  content = bytearray(path.read_bytes())
  if rng.random() < 0.5:
    size = rng.randrange(len(content))
    path.write_bytes(content[:size])
    return f"cut to {size} of {len(content)} bytes"
  place, bit = rng.randrange(len(content)), rng.randrange(8)
  content[place] ^= 1 << bit
  path.write_bytes(content)
  return f"bit {bit} of byte {place} flipped"
