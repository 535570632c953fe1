"""What a run's page says of the command line: each value, and how to run it again."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbackprop.cli.config import DEFAULTS, GENERAL, NOT_SAVED, TrainConfig

if TYPE_CHECKING:
  from fbackprop.train.report import RunInfo


def told_of(
  config: TrainConfig, arguments: Sequence[str], folder: Path, method: str, aside: int = 0
) -> "RunInfo":
  """What the page says besides the run's course.

  Args:
    config: what it was told.
    arguments: as they were given.
    folder: of the run.
    method: how it learned, in a line.
    aside: how many examples were set aside.
  """
  from fbackprop.train.report import RunInfo
  from fbackprop.train.run_folder import environment

  return RunInfo(
    folder,
    method,
    config.seed,
    settings(config),
    environment(),
    again=shlex.join(["fbackprop", "train", "--config", str(folder / "config.toml")]),
    command=shlex.join(["fbackprop", "train", *arguments]),
    n_validation=aside,
  )


def settings(config: TrainConfig) -> list[tuple[str, str, bool]]:
  """Each value of a configuration by its flag's name, and whether it isn't the data's default."""
  default = flat(DEFAULTS.get(config.data, replace(GENERAL, data=config.data)))
  return [(name, in_text(value), value != default[name]) for name, value in flat(config).items()]


def flat(config: TrainConfig) -> dict[str, Any]:
  """What is saved of it, and what is None, by the names of the flags."""
  table = {k: v for k, v in asdict(config).items() if k not in NOT_SAVED}
  rules = {
    f"{part}.{name}": value for part in ("stop", "ckpt") for name, value in table.pop(part).items()
  }
  return {name.replace("_", "-"): value for name, value in {**table, **rules}.items()}


def in_text(value: Any) -> str:
  """A value of a configuration for a person to read."""
  if isinstance(value, tuple):
    return " ".join(map(str, value)) or "none"
  return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
