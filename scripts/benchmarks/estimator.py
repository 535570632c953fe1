"""A fit of `fbackprop.sklearn` beside scikit-learn's: time, and accuracy over five seeds."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from fbackprop.sklearn import MLPClassifier, programs
from scripts.benchmarks.rounds import in_turns, quartiles, shown

EXPLANATION = """\
theirs: a fit of scikit-learn's MLPClassifier with its defaults, in float64; warm: ours over theirs,
when a fit of this shape came before in the process; cold: the same with all compilation. Medians of
the rounds, in turns, and quartiles; both make the same epochs.
"""
# Rows, features and classes of the table, and its most epochs; the digits have the default 200.
TABLE, EPOCHS = (50_000, 100, 5), 50
SEEDS = range(5)


def run(sizes: list[str], rounds: int) -> list[dict[str, Any]]:
  """Print the tables; return their rows for the file."""
  warnings.simplefilter("ignore", ConvergenceWarning)
  print(EXPLANATION)
  print(f"{'size':<14} {'theirs':>8} {'epochs':>7}  warm (quartiles)       cold (quartiles)")
  return [
    row for size in sizes for row in (accuracies() if size == "accuracy" else times(size, rounds))
  ]


def draw(size: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
  """Return rows, labels, and the arguments of both estimators."""
  if size == "digits":
    x, y = datasets.load_digits(return_X_y=True)
    return x / 16, y, {"random_state": 0}
  n, d, classes = TABLE
  x, y = datasets.make_classification(n, d, n_informative=d // 3, n_classes=classes, random_state=0)
  return x, y, {"random_state": 0, "max_iter": EPOCHS}


def times(size: str, rounds: int) -> list[dict[str, Any]]:
  """Time fits in turns."""
  x, y, arguments = draw(size)
  epochs: list[int] = []

  def call(make: Any, is_cold: bool) -> Callable[[int], float]:
    def fit(_: int) -> float:
      if is_cold:
        jax.clear_caches()
        for program in (programs.epochs_of, programs.network, programs.structure_of):
          program.cache_clear()
      start = time.perf_counter()
      epochs.append(make(**arguments).fit(x, y).n_iter_)
      return time.perf_counter() - start

    return fit

  # Ours is warm after a cold one, in either direction of the turns.
  calls = [
    call(neural_network.MLPClassifier, False), call(MLPClassifier, True), call(MLPClassifier, False)
  ]  # fmt: skip
  calls[2](0)
  theirs, cold, warm = in_turns(calls, rounds).T
  if len(set(epochs)) != 1:
    raise RuntimeError(f"the fits have different numbers of epochs: {sorted(set(epochs))}")
  row: dict[str, Any] = {"size": size, "seconds": float(np.median(theirs)), "epochs": epochs[0]}
  for name, seconds in (("warm", warm), ("cold", cold)):
    low, ratio, high = quartiles(seconds / theirs)
    row |= {name: ratio, f"{name}_quartiles": (low, high)}
  cells = [f"{row[n]:.3f} ({row[f'{n}_quartiles'][0]:.3f}-{row[f'{n}_quartiles'][1]:.3f})"
           for n in ("warm", "cold")]  # fmt: skip
  line = f"{size:<14} {shown(row['seconds']):>8} {row['epochs']:>7}  {cells[0]:<22} {cells[1]}"
  print(line, flush=True)
  return [{**row, "rounds": rounds}]


def accuracies() -> list[dict[str, Any]]:
  """Compare the accuracies on a quarter of the rows over the seeds."""
  rows = []
  print(f"\n{'data':<14} {'ours':>7} {'theirs':>7}  largest difference of a seed")
  for name in ("digits", "wine", "breast_cancer"):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    found = np.zeros((len(SEEDS), 2))
    for seed in SEEDS:
      x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=seed, stratify=y)
      scaler = StandardScaler().fit(x_train)
      for k, make in enumerate((MLPClassifier, neural_network.MLPClassifier)):
        model = make(random_state=seed).fit(scaler.transform(x_train), y_train)
        found[seed, k] = model.score(scaler.transform(x_test), y_test)
    ours, theirs = found.mean(0)
    largest = float(np.abs(found[:, 0] - found[:, 1]).max())
    print(f"{name:<14} {ours:>7.4f} {theirs:>7.4f}  {largest:.4f}", flush=True)
    rows.append(
      {"size": "accuracy", "data": name, "ours": ours, "theirs": theirs, "largest": largest}
    )
  return rows
