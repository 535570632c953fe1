"""The folder of a run: its configuration, environment, metrics and results."""

import errno
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from fbackprop import __version__
from fbackprop.extras import need
from fbackprop.files import read_plain, write_whole
from fbackprop.train.data.rows import Dataset
from fbackprop.train.results import Result


def create_folder(out: str, name: str | None, prefix: str) -> Path:
  """Create a new run folder.

  Args:
    out: parent folder; created if missing.
    name: name of the folder; None for `prefix` and the next free number.
    prefix: prefix of a numbered name, such as "digits".

  Returns:
    The path.

  Raises:
    FileExistsError: the folder exists already.
    OSError: it can't be created.
  """
  Path(out).mkdir(parents=True, exist_ok=True)
  number = 1
  while True:
    path = Path(out, f"{prefix}-{number}" if name is None else name)
    try:
      path.mkdir()
      return path
    except FileExistsError:
      if name is not None:
        raise
      number += 1


def write_toml(path: Path, table: dict[str, Any], comment: str) -> None:
  """Write a TOML file with a comment line on top."""
  tomli_w = need("tomli_w", extra="train")
  write_whole(path, f"# {comment}\n{tomli_w.dumps(table)}".encode())


def write_json(path: Path, content: dict[str, Any]) -> None:
  """Write a JSON file; nonfinite numbers become null, as JSON has none."""
  write_whole(path, (json.dumps(finite(content), indent=2) + "\n").encode())


def finite(content: dict[str, Any]) -> Any:
  """Convert content to JSON types, and nonfinite numbers to None."""
  return json.loads(json.dumps(content), parse_constant=lambda _: None)


def append_evaluation(path: Path, metrics: dict[str, Any]) -> None:
  """Append a line to metrics.jsonl, with the key "step".

  Existing lines of this step and of later ones are replaced, since a killed run writes them again
  when resumed. An incomplete last line is replaced too.

  Raises:
    OSError: the file can't be written, or isn't regular, such as a link that leads elsewhere.
  """
  if path.is_symlink():
    raise OSError(errno.ELOOP, "it is a link, and must be a file", str(path))
  content = read_plain(path).decode(errors="replace") if path.exists() else ""
  before = content.splitlines(keepends=True)
  kept = [line for line in before if (step := step_of(line)) is not None and step < metrics["step"]]
  line = json.dumps(finite(metrics)) + "\n"
  if len(kept) < len(before):
    write_whole(path, "".join([*kept, line]).encode())
    return
  with path.open("a", encoding="utf-8") as file:
    file.write(line)


def step_of(line: str) -> int | None:
  """Parse the step of a line of metrics.jsonl; None if the line is incomplete."""
  try:
    return int(json.loads(line)["step"]) if line.endswith("\n") else None
  except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
    return None


def environment() -> dict[str, Any]:
  """Collect the environment of a run: versions, machine, devices."""
  packages = ("jax", "jaxlib", "optax", "numpy", "safetensors", "scikit-learn")
  devices = jax.devices()
  return {
    "fbackprop": __version__,
    "python": platform.python_version(),
    **{name: version_of(name) for name in packages},
    "system": platform.system(),
    "machine": platform.machine(),
    "cores": os.cpu_count(),
    "platform": devices[0].platform,
    "devices": [device.device_kind for device in devices],
  }


def version_of(package: str) -> str | None:
  """Return the version of an installed package, or None."""
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


def summarize(result: Result, dataset: Dataset) -> dict[str, Any]:
  """Summarise a run in a few numbers, for summary.json."""
  last, best = result.evaluations[-1], result.best
  kept = last if best is None else best
  score = {"test_accuracy": kept.test_accuracy} if dataset.is_classification else {}
  validated = {} if best is None else {"kept_step": best.step, "validation_score": best.score}

  def own(*names: str) -> dict[str, Any]:
    return {name: getattr(result, name) for name in names}

  return {
    **score,
    "test_loss": kept.test_loss,
    **validated,
    "train_loss": last.train_loss,
    **own("steps", "stop_reason", "diverged_at"),
    "skipped_steps": list(result.skipped),
    **own("rollbacks", "gradient_check_max_rel_error", "gradient_rounding_max_rel_error"),
    "gradient_checks": len(result.checks),
    **own("seconds", "check_seconds", "compile_seconds"),
  }
