"""`fbackprop eval RUN`: how well a trained model does, on its test part or on other rows."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from fbackprop.cli.config import parse
from fbackprop.cli.runs import check_same_data, load_json, load_run_model, load_told, shown
from fbackprop.cli.usage import UsageError
from fbackprop.train.data.names import MissingTargets, kind_and_path

if TYPE_CHECKING:
  import numpy as np

  from fbackprop.train.models import Description


@dataclass(frozen=True)
class EvalConfig:
  """Score a trained model.

  fbackprop eval runs/digits-1                      on the test part of its own data
  fbackprop eval runs/flowers-1 --data csv:new.csv  on other rows, whose targets are known
  """

  run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
  """Folder of the run."""

  data: Annotated[
    str | None,
    tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the test part of the run's data)"),
  ] = None
  """As of train: raw rows with the run's columns; all of them, or their own test part."""

  missing_targets: Annotated[
    MissingTargets | None, tyro.conf.arg(help_behavior_hint="(default: as the run was trained)")
  ] = None
  """Rows of --data without a target: refuse them, drop them, or take a word for a class."""


def main(arguments: Sequence[str]) -> int:
  """Prints the scores.

  Returns:
    0.

  Raises:
    UsageError: there is no such run, or the data doesn't fit it.
  """
  config = tyro.cli(EvalConfig, prog="fbackprop eval", args=list(arguments))
  model = load_run_model(config.run)
  load_told(config.run)
  told = parse(["--config", f"{config.run}/config.toml"])

  if config.data is None and config.missing_targets is not None:
    raise UsageError("--missing-targets is for the rows of --data: give both")

  from fbackprop.train.data.datasets import load_raw
  from fbackprop.train.data.targets import HOLES_AMONG_NUMBERS
  from fbackprop.train.metrics import own_labels, rows_of, score

  data, about = config.data or told.data, model.description
  missing_targets = config.missing_targets or told.missing_targets
  # A model of before there was the flag may have a class of such a name.
  if missing_targets == "refuse" and HOLES_AMONG_NUMBERS & set(map(str.lower, about.outputs)):
    missing_targets = "class"
  try:
    if config.data is None:
      # The same split, with raw rows, which the model standardises itself.
      own = load_raw(
        told.data, told.seed, target=told.target, test_fraction=told.test_fraction,
        task=about.task if kind_and_path(told.data)[0] in ("csv", "npz") else None,
        sample_weights=told.sample_weights, missing_targets=missing_targets,
      )  # fmt: skip
      check_same_data(config.run, f"RUN {config.run}", told.data, own.fingerprint)
      x, targets, what = own.x_test, own.targets_test, "test examples"
      if about.task == "classification":
        targets = own_labels(data, targets, own.output_names, about)
    else:
      x, targets = rows_of(data, about, told.target, told.seed, missing_targets)
      what = "examples"
      say_what_is_shared(config.run, about, x, targets)
    scores = score(model, x, targets)
  except OSError as error:
    raise UsageError(f"--data {data}: {error.filename or ''}: {error.strerror}") from error
  except ModuleNotFoundError as error:
    raise UsageError(str(error)) from error
  except (ValueError, TypeError) as error:
    raise UsageError(f"--data {data}: {error}") from error
  print(f"{model.description.as_text()}, {len(x)} {what} of {data}")
  for name, value in scores.items():
    print(f"  {name:<10}{shown(value)}")
  return 0


def say_what_is_shared(
  run: str, about: "Description", x: "np.ndarray", targets: "np.ndarray"
) -> None:
  """Says how many rows a run has seen already: their scores are those of no test."""
  from fbackprop.train.data.fingerprints import fingerprint_of, shared_rows
  from fbackprop.train.data.rows import Dataset

  then = load_json(run, "env.json").get("data")
  now = fingerprint_of(Dataset(x, targets, about.task, about.outputs, about.features))
  try:
    shared = then and shared_rows(then, now)
  except (KeyError, TypeError, ValueError, AttributeError):
    return  # Which only `check_same_data` needs.
  if shared:
    print(
      f"fbackprop: note: {shared:,} of these {len(x):,} rows belong to the run's own data, most of "
      f"which it was trained on, so that this is no test score; fbackprop eval {run} gives that",
      file=sys.stderr,
    )
