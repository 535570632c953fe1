"""The folder of a run: its files are read and validated, and written."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbackprop.cli.config import TrainConfig, settings
from fbackprop.cli.console import UsageError, note, usage_errors
from fbackprop.cli.flags import file_of_run, parse, read_toml
from fbackprop.files import read_text

if TYPE_CHECKING:
  from fbackprop.train.models import Model
  from fbackprop.train.report import RunInfo

# Per file; enough for the summary of an ensemble of half a million networks.
MOST_OF_JSON = 2**25


# --- Reading --------------------------------------------------------------------------------------


def load_run_model(run: str) -> "Model":
  """Load the model of a run.

  Raises:
    UsageError: the model is missing or damaged.
  """
  from fbackprop.train.models import load_model

  path = file_of_run(run, "model.safetensors")
  with usage_errors(str(path)):
    if not path.exists():
      raise UsageError(f"{run} holds no model.safetensors: it must be the folder of a run")
    return load_model(path)


def load_config(run: str) -> TrainConfig:
  """Load the configuration of a run.

  Raises:
    UsageError: the configuration is missing, or isn't one of `fbackprop train`.
  """
  path = file_of_run(run, "config.toml")
  read_toml(path, str(path))  # Only for its error, which names the file instead of --config.
  return parse(["--config", str(path)])


def load_json(run: str, name: str) -> dict[str, Any]:
  """Load a JSON file of a run; empty if it is missing, as while a run is in progress."""
  path = file_of_run(run, name)
  with usage_errors(str(path)):
    if not path.exists():
      return {}
    text = read_text(path, MOST_OF_JSON)
  with usage_errors(f"{path}: invalid JSON"):
    try:
      content = json.loads(text)
    except RecursionError as error:  # Python's message depends on where the stack overflowed.
      raise ValueError("it is nested too deeply") from error
    json.dumps(content, ensure_ascii=False).encode()  # Raises for lone surrogates.
  if not isinstance(content, dict):
    raise UsageError(f"{path} must hold an object, got {content!r:.50}")
  return content


def check_same_data(run: str, where: str, data: str, now: dict[str, Any]) -> None:
  """Raise unless the data and its split are the run's; the message has the first difference.

  Args:
    run: folder of the run. If it has no fingerprint of its data, a note is printed.
    where: prefix of a usage error.
    data: name of the data on the command line.
    now: fingerprint of the current data.
  """
  from fbackprop.train.data.fingerprints import difference

  then = load_json(run, "env.json").get("data")
  if then is None:
    note(
      f"{run} has no fingerprint of its data, as older runs: whether {data} is still the same is "
      "unknown"
    )
    return
  try:
    changed = difference(then, now)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    path = Path(run, "env.json")
    raise UsageError(f"{path}: data must be as fbackprop train writes it") from error
  if changed:
    raise UsageError(
      f"{where}: {data} has changed since the run began: {changed}; restore it, or score all of "
      f"its rows: fbackprop eval {run} --data {data}"
    )


# --- Writing --------------------------------------------------------------------------------------


class RunFolder:
  """The writer of a run's files; a failed write doesn't prevent the others.

  Attributes:
    path: path of the folder.
    failed: the files that couldn't be written, with the reasons.
  """

  def __init__(self, path: Path) -> None:
    self.path = path
    self.failed: dict[Path, str] = {}

  def write(self, name: str, writer: Callable[..., None], *content: Any) -> None:
    """Call `writer(path, *content)`, which may raise an OSError."""
    try:
      writer(self.path / name, *content)
    except OSError as error:
      self.failed[self.path / name] = error.strerror or str(error)

  def tell_failed(self) -> bool:
    """Print on stderr which files couldn't be written; return whether there are any."""
    if self.failed:
      files = ", ".join(f"{path} ({reason})" for path, reason in self.failed.items())
      print(f"fbackprop: could not be written: {files}", file=sys.stderr)
    return bool(self.failed)


def told_of(
  config: TrainConfig, arguments: Sequence[str], folder: Path, method: str, aside: int = 0
) -> "RunInfo":
  """Collect the settings, machine and commands for a run's report.

  Args:
    config: the configuration.
    arguments: the arguments of the command line.
    folder: folder of the run.
    method: the optimizer and its options, in one line.
    aside: size of the validation set.
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
