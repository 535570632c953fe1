"""What stands in the folder of a run, for the commands that use one."""

import json
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbackprop.cli.usage import UsageError

if TYPE_CHECKING:
  from fbackprop.train.models import Model


def load_run_model(run: str) -> "Model":
  """The model of a run, or a usage error that says why there is none."""
  from fbackprop.train.models import load_model

  path = Path(run, "model.safetensors")
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
  path = Path(run, "config.toml")
  try:
    return tomllib.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise UsageError(f"{path} can't be read: {error.strerror}") from error
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise UsageError(f"{path} is no TOML file: {error}") from error


def load_json(run: str, name: str) -> dict[str, Any]:
  """One of a run's JSON files; empty if it isn't there, as in a run that is still going."""
  path = Path(run, name)
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    return {}
  except OSError as error:
    raise UsageError(f"{path} can't be read: {error.strerror}") from error
  except (ValueError, RecursionError) as error:
    raise UsageError(f"{path} is no JSON file: {error}") from error
  if not isinstance(content, dict):
    raise UsageError(f"{path} must hold an object, got {content!r:.50}")
  return content


def shown(value: Any) -> str:
  """A number as a person reads it."""
  if not isinstance(value, float):
    return str(value)
  if not math.isfinite(value):
    return str(value)
  return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"
