"""`fbackprop predict RUN`: raw rows in, labels and probabilities out."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fbackprop.cli.output import check_writable, show, write
from fbackprop.cli.runs import load_run_model
from fbackprop.cli.usage import UsageError

if TYPE_CHECKING:
  import numpy as np

  from fbackprop.train.models import Model


@dataclass(frozen=True)
class PredictConfig:
  """Use a trained model on raw rows: no targets are needed, and the run's columns go by name.

  fbackprop predict runs/flowers-1 --data csv:new.csv --out answers.csv
  """

  run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
  """Folder of the run."""

  data: Annotated[str, tyro.conf.arg(metavar="FILE")]
  """csv:FILE with the run's columns, in any order, or npz:FILE with an array x."""

  out: Annotated[
    str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: the terminal)")
  ] = None
  """A csv file, a row for each row."""


def main(arguments: Sequence[str]) -> int:
  """Predicts.

  Returns:
    0.

  Raises:
    UsageError: there is no such run, the data doesn't fit it, or the file can't be written.
  """
  config = tyro.cli(PredictConfig, prog="fbackprop predict", args=list(arguments))
  if config.out is not None:
    check_writable("--out", config.out)
  model = load_run_model(config.run)
  x = read(config.data, model)
  try:
    text = as_csv(rows(model, x))
  except ValueError as error:
    raise UsageError(f"--data {config.data}: {error}") from error
  if config.out is None:
    show(text)
  else:
    write("--out", config.out, text.encode())
  return 0


def read(data: str, model: "Model") -> "np.ndarray":
  """Raw features, or a usage error."""
  from fbackprop.train.data.csv_tables import read_features
  from fbackprop.train.data.npz import read_npz_features

  kind, _, path = data.partition(":")
  if kind not in ("csv", "npz") or not path:
    raise UsageError(f"--data must be csv:FILE or npz:FILE, got {data!r}")
  features = model.description.features
  try:
    if kind == "csv":
      return read_features(path, features)
    return read_npz_features(path, len(features))
  except ModuleNotFoundError as error:
    raise UsageError(str(error)) from error
  except OSError as error:
    raise UsageError(f"--data {data} can't be read: {error.strerror}") from error
  except ValueError as error:
    raise UsageError(f"--data {error}") from error


def rows(model: "Model", x: "np.ndarray") -> Iterator[list[Any]]:
  """The heading, then a row for each example: a label and its probabilities, or the values."""
  outputs, names = model.outputs(x), model.description.outputs
  if model.description.task == "regression":
    yield list(names)
    # Those in the units of the data are float64, and have as many digits as that needs.
    is_wide = outputs.dtype == "float64"
    yield from (list(map(repr, row)) if is_wide else row for row in outputs.tolist())
    return
  probabilities = model.probabilities(outputs)
  chances = [f"p({name})" for name in names]
  if model.description.task == "multilabel":
    yield chances
    yield from (row.tolist() for row in probabilities)
    return
  yield ["label", *chances]
  for label, row in zip(outputs.argmax(1), probabilities, strict=True):
    yield [names[label], *row.tolist()]


def as_csv(table: Iterable[list[Any]]) -> str:
  """A table as text; floats have as many digits as float32 needs to be itself."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  for row in table:
    writer.writerow([f"{v:.9g}" if isinstance(v, float) else v for v in row])
  return file.getvalue()
