"""What stands in the folder of a run, for the commands that use one."""

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbackprop.cli.toml import read_toml
from fbackprop.cli.usage import UsageError
from fbackprop.files import read_text

if TYPE_CHECKING:
  from fbackprop.train.models import Model

# Of a file: the summary of an ensemble of half a million networks.
MOST_OF_JSON = 2**25


def load_run_model(run: str) -> "Model":
  """The model of a run, or a usage error that says why there is none."""
  from fbackprop.train.models import load_model

  path = file_of_run(run, "model.safetensors")
  try:
    return load_model(path)
  except FileNotFoundError as error:
    raise UsageError(f"{run} holds no model.safetensors: it must be the folder of a run") from error
  except OSError as error:
    raise UsageError(f"{path} can't be read: {error.strerror}") from error
  except (ValueError, TypeError) as error:
    raise UsageError(str(error)) from error


def load_told(run: str) -> dict[str, Any]:
  """What a run was told: its config.toml."""
  path = file_of_run(run, "config.toml")
  return read_toml(path, str(path))


def load_json(run: str, name: str) -> dict[str, Any]:
  """One of a run's JSON files; empty if it isn't there, as in a run that is still going."""
  path = file_of_run(run, name)
  try:
    content = json.loads(read_text(path, MOST_OF_JSON))
    json.dumps(content, ensure_ascii=False).encode()  # Half a letter can't be printed.
  except FileNotFoundError:
    return {}
  except OSError as error:
    raise UsageError(f"{path} can't be read: {error.strerror}") from error
  except RecursionError as error:  # What Python says depends on where it ran out.
    raise UsageError(f"{path} is no JSON file: it is nested too deeply") from error
  except ValueError as error:
    raise UsageError(f"{path} is no JSON file: {error}") from error
  if not isinstance(content, dict):
    raise UsageError(f"{path} must hold an object, got {content!r:.50}")
  return content


def check_same_data(run: str, where: str, data: str, now: dict[str, Any]) -> None:
  """Refuses other examples than those of a run, or another split of them; says what has changed.

  Args:
    run: the folder of the run. Of one that has no fingerprint of its data, a note is printed.
    where: begins a usage error.
    data: its name on the command line.
    now: the fingerprint of the examples as they are.
  """
  from fbackprop.train.data.fingerprints import difference

  then = load_json(run, "env.json").get("data")
  if then is None:
    print(
      f"fbackprop: {run} has no fingerprint of its data, as older runs: whether {data} is still "
      "the same can't be told",
      file=sys.stderr,
    )
    return
  try:
    changed = difference(then, now)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    path = Path(run, "env.json")
    raise UsageError(f"{path}: data must be as fbackprop train writes it") from error
  if changed:
    raise UsageError(
      f"{where}: {data} isn't as it was when the run began: {changed}; restore it, or score all of "
      f"its rows: fbackprop eval {run} --data {data}"
    )


def file_of_run(run: str, name: str) -> Path:
  """The path of a file of a run; a link that leads out of the run's folder is refused.

  The folder itself may be a link: it is what the user named. A file may come with the folder from
  somebody else.
  """
  path = Path(run, name)
  try:
    there = path.resolve()
    if there.is_relative_to(Path(run).resolve()):
      return path
  except (OSError, RuntimeError, ValueError) as error:  # A link to itself, or no name of a file.
    raise UsageError(f"{path} can't be read: {error}") from error
  raise UsageError(f"{path} is a link out of the run's folder, to {there}")


def shown(value: Any) -> str:
  """A number as a person reads it."""
  if not isinstance(value, float):
    return str(value)
  if not math.isfinite(value):
    return str(value)
  return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"
