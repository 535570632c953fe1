"""The commands that use the model of a run: `fbackprop eval`, `predict` and `info`."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from fbackprop.cli import console
from fbackprop.cli.config import method_of, settings
from fbackprop.cli.console import UsageError, parsed, refuse, usage_errors, usually
from fbackprop.cli.run_folder import check_same_data, load_json, load_run_model
from fbackprop.cli.train import load_config
from fbackprop.train.data.names import Decimal, MissingTargets, Separator

if TYPE_CHECKING:
  import numpy as np

  from fbackprop.train.models import Description, Model

Run = Annotated[str, Positional, arg(metavar="RUN")]


# --- fbackprop eval -------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvalConfig:
  """Score a trained model.

  On the test set of its own data: fbackprop eval runs/digits-1

  On other data with known targets: fbackprop eval runs/flowers-1 --data csv:new.csv

  Attributes:
    run: Folder of the run.
    data: Data as of train: unscaled rows with the run's columns, all of them or their own test set.
    missing_targets: Missing targets in --data: refuse the file, drop the rows, or take a word for a
      class.
    separator: What separates the cells of a csv file in --data.
    decimal: Decimal separator of a csv file in --data.
  """

  run: Run
  data: Annotated[str | None, usually("the test part of the run's data", metavar="NAME")] = None
  missing_targets: Annotated[MissingTargets | None, usually("as the run was trained")] = None
  separator: Annotated[Separator | None, usually("as the run was trained")] = None
  decimal: Annotated[Decimal | None, usually("as the run was trained")] = None


def evaluate(arguments: Sequence[str]) -> int:
  """Print the scores of a model.

  Returns:
    The exit code, 0.

  Raises:
    UsageError: the run doesn't exist, or the data doesn't fit it.
  """
  config = parsed(EvalConfig, "eval", arguments)
  model, trained = load_run_model(config.run), load_config(config.run)
  is_own = config.data is None
  refuse(
    (is_own and config.missing_targets is not None, "--missing-targets needs --data"),
    (is_own and config.separator is not None, "--separator needs --data"),
    (is_own and config.decimal is not None, "--decimal needs --data"),
  )

  from fbackprop.cli.preparation import table_options
  from fbackprop.train.data.datasets import load_raw
  from fbackprop.train.data.formats import TABLES, kind_and_path
  from fbackprop.train.data.targets import HOLES_AMONG_NUMBERS
  from fbackprop.train.metrics import number
  from fbackprop.train.scores import by_target, own_labels, rows_of, score

  data, about = config.data or trained.data, model.description
  missing_targets = config.missing_targets or trained.missing_targets
  # Models older than the flag may have a class of such a name.
  if missing_targets == "refuse" and HOLES_AMONG_NUMBERS & set(map(str.lower, about.outputs)):
    missing_targets = "class"
  with usage_errors(f"--data {data}"):
    if is_own:
      # The same split, with raw rows, as the model standardises them itself.
      own = load_raw(
        trained.data, trained.seed, target=trained.target, test_fraction=trained.test_fraction,
        task=about.task if kind_and_path(trained.data)[0] in TABLES else None,
        sample_weights=trained.sample_weights, missing_targets=missing_targets,
        **table_options(trained, about),
      )  # fmt: skip
      check_same_data(config.run, f"RUN {config.run}", trained.data, own.fingerprint)
      x, targets = own.x_test, own.targets_test
      if about.task == "classification":
        targets = own_labels(data, targets, own.output_names, about)
    else:
      style = style_of(config, data)
      x, targets = rows_of(data, about, trained.target, trained.seed, missing_targets, **style)
      note_shared(config.run, about, x, targets)
    scores = score(model, x, targets)
  print(f"{about.as_text()}, {len(x)} {'test ' * is_own}examples of {data}")
  for name, value in scores.items():
    print(f"  {name:<10}{number(value)}")
  if about.task == "regression" and len(about.outputs) > 1:  # Above are the means.
    for target, row in zip(about.outputs, by_target(model.outputs(x), targets), strict=True):
      print(f"  {target}: {', '.join(f'{name} {number(value)}' for name, value in row.items())}")
  return 0


def note_shared(run: str, about: "Description", x: "np.ndarray", targets: "np.ndarray") -> None:
  """Print the number of rows shared with the run's data, whose scores are no test scores."""
  from fbackprop.train.data.fingerprints import fingerprint_of, shared_rows
  from fbackprop.train.data.rows import Dataset

  then = load_json(run, "env.json").get("data")
  now = fingerprint_of(Dataset(x, targets, about.task, about.outputs, about.features))
  try:
    shared = then and shared_rows(then, now)
  except (KeyError, TypeError, ValueError, AttributeError):
    return  # Such a fingerprint fails only in `check_same_data`.
  if shared:
    most = "most of which it was trained on, so this is not a test score"
    own = f"{shared:,} of these {len(x):,} rows belong to the run's own data, {most}"
    console.note(f"note: {own}; for that run fbackprop eval {run}")


# --- fbackprop predict ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictConfig:
  """Predict labels and probabilities, or values, from rows without targets.

  fbackprop predict runs/flowers-1 --data csv:new.csv --out answers.csv

  Attributes:
    run: Folder of the run, or a model file.
    data: csv:FILE or parquet:FILE with the run's columns, in any order, or npz:FILE with an array
      x.
    out: Output csv file, with a row for each row of the data.
    separator: What separates the cells of a csv file.
    decimal: Decimal separator of a csv file.
  """

  run: Run
  data: Annotated[str, arg(metavar="FILE")]
  out: Annotated[str | None, usually("the terminal", metavar="FILE")] = None
  separator: Annotated[Separator | None, usually("as the run was trained")] = None
  decimal: Annotated[Decimal | None, usually("as the run was trained")] = None


def predict(arguments: Sequence[str]) -> int:
  """Print or write the predictions of a model.

  Returns:
    The exit code, 0.

  Raises:
    UsageError: the run doesn't exist, the data doesn't fit it, or the file can't be written.
  """
  config = parsed(PredictConfig, "predict", arguments)
  if config.out is not None:
    console.check_writable("--out", config.out)
  model = load_run_model(config.run)
  with usage_errors(f"--data {config.data}"):
    x = read_rows(config, model)
    if model.description.encoding is not None:
      for surprise in model.description.encoding.surprises(x):
        console.note(f"note: {surprise}")
    rows = predictions(model, x)
    # Floats have the digits that identify a float32.
    cells = [[f"{v:.9g}" if isinstance(v, float) else v for v in row] for row in rows]
  file = io.StringIO()
  csv.writer(file, lineterminator="\n").writerows(cells)
  if config.out is None:
    console.show(file.getvalue())
  else:
    console.write("--out", config.out, file.getvalue().encode())
  return 0


def style_of(config: EvalConfig | PredictConfig, data: str) -> dict[str, Any]:
  """Return how a text file is written: as was said now, else to the run, if its folder is given.

  Raises:
    UsageError: it was said of data that is no text.
  """
  from fbackprop.train.data.formats import FORMATS

  kind = data.partition(":")[0]
  own: dict[str, Any] = {"separator": config.separator, "decimal": config.decimal}
  if kind not in FORMATS or "decimal" not in FORMATS[kind].options:
    for name, value in own.items():
      refuse((value is not None, f"--{name} is for csv files, {kind} has none"))
    return {}
  if Path(config.run, "config.toml").exists():
    trained = load_config(config.run)
    own = {name: value or getattr(trained, name) for name, value in own.items()}
  return {name: value for name, value in own.items() if value is not None}


def read_rows(config: PredictConfig, model: "Model") -> "np.ndarray":
  """Read the raw features."""
  from fbackprop.train.data.formats import FORMATS, TABLES

  data = config.data
  kind, _, path = data.partition(":")
  if kind not in TABLES or not path:
    known = " or ".join(f"{kind}:{FORMATS[kind].path}" for kind in TABLES)
    raise UsageError(f"--data must be {known}, got {data!r}")
  about = model.description
  own: dict[str, Any] = {"known": None if about.encoding is None else about.encoding.columns,
                         "usual": about.decimal}  # fmt: skip
  own = {name: value for name, value in own.items() if name in FORMATS[kind].options}
  if not own and about.encoding is not None:
    raise UsageError(f"--data {data}: the model takes columns of words and numbers; give a table")
  return TABLES[kind](path, about.features, **own, **style_of(config, data))


def predictions(model: "Model", x: "np.ndarray") -> Iterator[list[Any]]:
  """Yield a heading, then each example's label and probabilities, or its values."""
  outputs, names = model.outputs(x), model.description.outputs
  if model.description.task == "regression":
    yield list(names)
    # Values in the units of the data are float64, and need as many digits.
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


# --- fbackprop info -------------------------------------------------------------------------------


# The first keys of summary.json to print, in this order; the others follow.
FIRST = ("stop_reason", "steps", "test_accuracy", "test_loss", "train_loss")


@dataclass(frozen=True)
class InfoConfig:
  """Show a run: its model, configuration, results and files, and the command that repeats it.

  Attributes:
    run: Folder of the run.
  """

  run: Run


def info(arguments: Sequence[str]) -> int:
  """Print a run's configuration, results and files.

  Returns:
    The exit code, 0.

  Raises:
    UsageError: the run doesn't exist, or a file of it can't be read.
  """
  run = parsed(InfoConfig, "info", arguments).run
  model, config = load_run_model(run), load_config(run)
  summary, env = load_json(run, "summary.json"), load_json(run, "env.json")

  import jax

  from fbackprop.train.metrics import number

  own = model.description
  changed = [f"--{name} {value}" for name, value, is_own in settings(config) if is_own]
  rates = summary.pop("rates", [])  # Of an ensemble; printed as a table.
  summary.pop("test_by_target", None)  # As fbackprop eval prints it.
  times, writes = summary.pop("time", {}), "rates must be as fbackprop train writes them"
  try:
    table = console.table_of_rates(rates, "test_accuracy" in summary) if rates else []
    writes = "time must be as fbackprop train writes it"
    spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in times.items())
  except (TypeError, KeyError, ValueError, AttributeError) as error:
    path = Path(run, "summary.json")
    raise UsageError(f"{path}: {writes}") from error
  results = [name for name in FIRST if name in summary]
  results += [name for name, value in summary.items() if name not in FIRST and value is not None]
  packages = ("fbackprop", "jax", "numpy", "python")
  lines = [
    ("network", own.as_text()),
    ("parameters", f"{sum(leaf.size for leaf in jax.tree.leaves(model.params)):,}"),
    ("task", own.task),
    ("features", f"{len(own.features)}: {console.first_of(own.features)}"),
    *(
      [("encoded", f"{own.sizes[0]}: {console.first_of(own.encoding.names)}")]
      if own.encoding is not None
      else []
    ),
    ("outputs", f"{len(own.outputs)}: {console.first_of(own.outputs)}"),
    ("standardised", "yes" if own.standardization else "no"),
    ("data", config.data),
    ("method", f"{method_of(config)}, seed {config.seed}"),
    ("not the default", " ".join(changed) or "nothing"),
    *((name.replace("_", " "), number(summary[name])) for name in results),
    *([("time", spent)] if spent else []),
    ("made with", ", ".join(f"{p} {env[p]}" for p in packages if p in env)),
  ]
  if "platform" in env:
    lines.append(("on", f"{env['platform']}, {env.get('machine')}, {env.get('cores')} cores"))
  width = max(len(name) for name, _ in lines) + 2
  print("\n".join([*(f"{name:<{width}}{value}" for name, value in lines), *table]))
  for path in sorted(Path(run).iterdir()):
    console.show(f"{'':<{width}}{path.name}, {path.lstat().st_size:,} bytes\n")
  print(f"again: fbackprop train --config {Path(run, 'config.toml')}")
  return 0
