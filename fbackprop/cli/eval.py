"""`fbackprop eval RUN`: how well a trained model does, on its test part or on other rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from fbackprop.cli.config import parse
from fbackprop.cli.runs import load_run_model, load_told, shown
from fbackprop.cli.usage import UsageError


@dataclass(frozen=True)
class EvalConfig:
  """Score a trained model.

  fbackprop eval runs/digits-1                      on the test part of its own data
  fbackprop eval runs/flowers-1 --data csv:new.csv  on other rows, whose targets are known
  """

  run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
  """Folder of the run."""

  data: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
  """As of train: raw rows with the run's columns; all of them, or their own test part."""


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

  from fbackprop.train.datasets import load_dataset
  from fbackprop.train.scoring import rows_of, score

  data = config.data or told.data
  try:
    if config.data is None:
      # The same split, with raw rows, which the model standardises itself.
      own = load_dataset(
        told.data, told.seed, target=told.target, standardize="off",
        task=None if told.task == "auto" else told.task, test_fraction=told.test_fraction,
        sample_weights=told.sample_weights,
      )  # fmt: skip
      x, targets, what = own.x_test, own.targets_test, "test examples"
    else:
      x, targets = rows_of(config.data, model.description, told.target, told.seed)
      what = "examples"
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
