"""The folder of a run: its files are read and validated."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbackprop.cli.console import UsageError, note, usage_errors
from fbackprop.files import path_within, read_text

if TYPE_CHECKING:
  from fbackprop.train.models import Model

# Per file; enough for the summary of an ensemble of half a million networks.
MOST_OF_JSON = 2**25
MOST_OF_TOML = 2**18
# tomllib takes n² steps for a dotted key of n parts; ours have two.
MOST_PARTS = 50


def file_of_run(run: str, name: str) -> Path:
  """Return the path of a file of a run; raise for a link that leads out of the run's folder."""
  with usage_errors(str(Path(run, name))):
    return path_within(run, name)


def read_toml(path: str | os.PathLike[str], where: str) -> dict[str, Any]:
  """Read a TOML file; `where` names it in a UsageError."""
  with usage_errors(where):
    text = read_text(path, MOST_OF_TOML)
  with usage_errors(f"{where}: invalid TOML"):
    for piece in re.split(r"[=,\n\[\]{}]", text):
      if len(re.findall(r"\.[ \t]*[^\s.]", piece)) >= MOST_PARTS:
        raise ValueError(f"a key has more than {MOST_PARTS} parts: {piece.strip()!r:.50}")
    try:
      return tomllib.loads(text)
    # tomllib recurses into nested lists; Python's message depends on where the stack overflowed.
    except RecursionError as error:
      raise ValueError("its lists are nested too deeply") from error


def load_run_model(run: str) -> "Model":
  """Load the model of a run, or a model file.

  Raises:
    UsageError: the model is missing or damaged.
  """
  from fbackprop.train.models import load_model

  path = Path(run) if Path(run).is_file() else file_of_run(run, "model.safetensors")
  with usage_errors(str(path)):
    if not path.exists():
      raise UsageError(f"{run} holds no model.safetensors: it must be the folder of a run")
    return load_model(path)


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
    unknown = f"whether {data} is still the same is unknown"
    note(f"{run} has no fingerprint of its data, as older runs: {unknown}")
    return
  try:
    changed = difference(then, now)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    path = Path(run, "env.json")
    raise UsageError(f"{path}: data must be as fbackprop train writes it") from error
  if changed:
    advice = f"restore it, or score all of its rows: fbackprop eval {run} --data {data}"
    raise UsageError(f"{where}: {data} has changed since the run began: {changed}; {advice}")
