"""Does our training reach the published accuracies on MNIST-1D? Logistic regression and an MLP.

The authors' README has 32 % for logistic regression and 68 % for an MLP with two hidden layers of
100 (Greydanus, Kobak, arXiv:2011.14439). Here the same two, and a network of three convolutions
(`fb.layers.conv1d`; theirs has 94 %), are trained as rules_by_depth.py trains.

  python experiments/published_mnist1d.py    some minutes on one core, resumable
  python experiments/published_mnist1d.py --quick --results FILE --figure FILE

Results are in results/published_mnist1d.json, with all seeds.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

import fbackprop as fb
from experiments import rule_training as common

PUBLISHED = {"logistic": 0.32, "mlp": 0.68, "convolutions": 0.94}
FULL: dict[str, Any] = {
  "rates": [0.003, 0.01, 0.03, 0.1], "seeds": 5, "tuned_by": 2, "steps": 6000, "batch": 100,
}  # fmt: skip
QUICK: dict[str, Any] = {"rates": [0.03], "seeds": 2, "tuned_by": 1, "steps": 10, "batch": 10}


def net_of(name: str) -> fb.Layer:
  """The network of a row."""
  if name == "logistic":
    return fb.mlp([40, 10])
  if name == "mlp":
    return fb.mlp([40, 100, 100, 10])
  conv = fb.layers.conv1d
  return fb.serial(
    conv(40, 1, 25, taps=5, stride=2, padding=1), fb.relu,
    conv(19, 25, 25, taps=3, stride=2, padding=1), fb.relu,
    conv(10, 25, 25, taps=3, stride=2, padding=1), fb.relu, fb.dense(5 * 25, 10),
  )  # fmt: skip


def measure(name: str, settings: dict[str, Any]) -> dict[str, Any]:
  """A network at its best rate."""
  return common.train_at_best_rate(net_of(name), common.load("mnist1d"), settings)


def draw(results: dict[str, Any], file: Path) -> None:
  """Ours beside the published ones."""
  import matplotlib as mpl

  mpl.use("agg")
  from matplotlib import pyplot as plt

  figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
  for i, (name, cell) in enumerate(results["seeds"].items()):
    ax.errorbar(i, np.mean(cell["test"]), common.deviation(cell["test"]), fmt="o", color="C0")
    ax.plot(i, PUBLISHED[name], "_", color="C1", ms=24)
  ax.set_xticks(range(len(results["seeds"])), list(results["seeds"]))
  ax.set(ylabel="test accuracy", title="MNIST-1D: ours (dots), published (bars)")
  figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> None:
  """Measures what is missing, prints the rows, and draws."""
  file, figure, is_quick = common.parse("published_mnist1d", __doc__, arguments)
  settings = QUICK if is_quick else FULL
  results = common.resume(file, settings, list(PUBLISHED), lambda name: measure(name, settings))
  for name, cell in results["seeds"].items():
    scores = common.spread(cell["test"])
    print(f"{name}: test accuracy {scores} at rate {cell['rate']}; published {PUBLISHED[name]}")
  draw(results, figure)


if __name__ == "__main__":
  main(sys.argv[1:])
