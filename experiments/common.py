"""What noise_scale.py and outliers.py share: the digits, and results that are resumed."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets

ROOT = Path(__file__).parents[1]


def load_digits() -> tuple[np.ndarray, np.ndarray]:
  """x `[1797, 64]` between 0 and 1, and labels `[1797]`."""
  x, labels = datasets.load_digits(return_X_y=True)
  return (x / 16).astype(np.float32), labels.astype(np.int32)


def parse_files(name: str, doc: str | None, arguments: list[str] | None) -> tuple[Path, Path]:
  """Where results and figure go: results/NAME.json and docs/NAME.png, unless options say else."""
  parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
  parser.add_argument("--results", type=Path, default=ROOT / f"experiments/results/{name}.json")
  parser.add_argument("--figure", type=Path, default=ROOT / f"docs/{name}.png")
  options = parser.parse_args(arguments)
  return options.results, options.figure


def read_results(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
  """What is there already; with other settings it can't be gone on with."""
  if not file.exists():
    return {"settings": settings, "seeds": {}}
  results: dict[str, Any] = json.loads(file.read_text())
  if results["settings"] != settings:
    raise SystemExit(f"{file} was made with other settings: move it away")
  return results


def write_results(results: dict[str, Any], file: Path) -> None:
  """Written whole, or not at all: a run may be stopped at any time."""
  part = file.with_suffix(".part")
  part.write_text(json.dumps(results, allow_nan=False) + "\n")
  part.replace(file)
