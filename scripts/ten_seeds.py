"""The test accuracy of `fbackprop train` at its defaults, for seeds 0 to 9, and their minimum.

  python scripts/ten_seeds.py     about a minute on two cores

Each seed has its own split, parameters and order of the examples. Exits with 1 if the mean is
below 0.975.
"""

import json
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from fbackprop.cli import main as fbackprop

SEEDS = range(10)
LEAST_MEAN = 0.975


def main() -> int:
  """Train ten times; print a line for each run and one for all."""
  accuracies = []
  with tempfile.TemporaryDirectory() as out:
    for seed in SEEDS:
      with redirect_stdout(StringIO()):
        code = fbackprop(["train", "--out", out, "--name", str(seed), "--seed", str(seed)])
      if code:
        return code
      summary = json.loads(Path(out, str(seed), "summary.json").read_text())
      accuracies.append(summary["test_accuracy"])
      error = summary["gradient_check_max_rel_error"]
      print(f"seed {seed}   test accuracy {accuracies[-1]:.4f}   gradient error {error:.1e}")
  mean, least = np.mean(accuracies), np.min(accuracies)
  print(f"mean {mean:.4f}   minimum {least:.4f}   (the mean must be at least {LEAST_MEAN})")
  return int(mean < LEAST_MEAN)


if __name__ == "__main__":
  sys.exit(main())
