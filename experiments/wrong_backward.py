"""What does a wrong backward pass cost? Noisy, quantised, sparse and clipped cotangents.

A network of four hidden layers of 64 tanh units learns digits and MNIST-1D while the cotangent that
enters each layer is changed by a rule of `fbackprop.rules`: how much of the backward pass can be
wrong before anything is lost?

  python experiments/wrong_backward.py           an hour on one core; goes on where it stopped
  python experiments/wrong_backward.py --quick --results FILE --figure FILE

Settings are those of rules_by_depth.py, with three seeds and three rates. Results are in
results/wrong_backward.json; the table and docs/wrong_backward.png are drawn from it.
"""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fbackprop as fb
from experiments import rule_training as common
from experiments.rules_by_depth import angles

FULL: dict[str, Any] = {
  "depth": 4, "width": 64, "rates": [0.01, 0.03, 0.1], "seeds": 5, "tuned_by": 2,
  "steps": 3000, "batch": 50,
  "data": ["digits", "mnist1d"],
  "changes": {
    "noisy": [0.1, 0.3, 1.0, 3.0, 10.0], "quantized": [2, 3, 4, 8], "top_k": [1, 2, 4, 8, 16, 32],
    "clipped": [0.01, 0.03, 0.1, 0.3],
  },
}  # fmt: skip
QUICK: dict[str, Any] = {
  **FULL, "depth": 2, "width": 8, "rates": [0.1], "seeds": 2, "tuned_by": 1,
  "steps": 20, "batch": 10,
  "data": ["digits"], "changes": {"noisy": [1.0], "top_k": [2]},
}  # fmt: skip


def rule_of(change: str, amount: float) -> Callable[[fb.Layer], fb.Layer]:
  """The rule of a change; "none" is backpropagation."""
  if change == "none":
    return common.RULES["backprop"]
  names = {"noisy": "scale", "quantized": "bits", "top_k": "k", "clipped": "bound"}
  return partial(getattr(fb.rules, change), **{names[change]: amount})


def measure(cell: str, settings: dict[str, Any]) -> dict[str, Any]:
  """One data set and change, at its best rate."""
  data, change, amount = cell.split("/")
  split, hidden = common.load(data), [settings["width"]] * settings["depth"]
  value = int(amount) if change in ("quantized", "top_k") else float(amount)
  rule = rule_of(change, value)(fb.mlp([split.train[0].shape[1], *hidden, 10], fb.tanh))
  compared = None if change == "none" else angles(rule, settings["depth"])
  return common.train_at_best_rate(rule, split, settings, compared)


def cells_of(settings: dict[str, Any]) -> list[str]:
  """Every data set with every change."""
  changes = [f"{name}/{amount}" for name, own in settings["changes"].items() for amount in own]
  return [f"{data}/{c}" for data, c in itertools.product(settings["data"], ["none/0", *changes])]


def angles_of(cell: dict[str, Any]) -> list[float]:
  """The first layer's angle of each seed that has one; backpropagation's is 0."""
  return [v for v in (cell["measured"] or {"first": [0.0]})["first"] if v is not None]


def table(results: dict[str, Any]) -> str:
  """A row for each change."""
  lines = ["| data | change | rate | test accuracy | angle, first layer |", "|---|---|---|---|---|"]
  for name, cell in results["seeds"].items():
    data, change, amount = name.split("/")
    known = angles_of(cell)
    angle = f"{np.mean(known):.0f}°" if known else "–"
    what = "none" if change == "none" else f"{change} {amount}"
    accuracy = common.spread(cell["test"])
    lines.append(f"| {data} | {what} | {cell['rate']} | {accuracy} | {angle} |")
  return "\n".join(lines)


def draw(results: dict[str, Any], file: Path) -> None:
  """Test accuracy, and the angle of the first layer's update, by the amount of each change."""
  import matplotlib as mpl

  mpl.use("agg")
  from matplotlib import pyplot as plt

  settings, cells = results["settings"], results["seeds"]
  changes = settings["changes"]
  figure, axes = plt.subplots(
    2, len(changes), figsize=(3 * len(changes), 5), sharey="row", squeeze=False,
    layout="constrained",
  )  # fmt: skip
  for (top, bottom), (change, amounts) in zip(axes.T, changes.items(), strict=True):
    for i, data in enumerate(settings["data"]):
      own = [cells[f"{data}/{change}/{amount}"] for amount in amounts]
      means = [np.mean(cell["test"]) for cell in own]
      spreads = [common.deviation(cell["test"]) for cell in own]
      line: Any = {"color": f"C{i}", "marker": "o", "ms": 3}
      top.errorbar(amounts, means, spreads, capsize=2, label=data, **line)
      top.axhline(np.mean(cells[f"{data}/none/0"]["test"]), color=f"C{i}", lw=0.8, ls="--")
      known = [(a, np.mean(found)) for a, c in zip(amounts, own, strict=True)
               if (found := angles_of(c))]  # fmt: skip
      bottom.plot([a for a, _ in known], [angle for _, angle in known], **line)
    for ax in (top, bottom):
      ax.set(xscale="log")
      ax.set_xticks(amounts, amounts)
      ax.minorticks_off()
    bottom.set(xlabel={"noisy": "scale of the noise", "quantized": "bits", "top_k": "k of 64",
                       "clipped": "bound of the length"}.get(change, change))  # fmt: skip
    top.set(title=change)
  axes[0, 0].set(ylabel="test accuracy; dashed: backprop")
  axes[1, 0].set(ylabel="angle of the first layer, degrees")
  axes[0, 0].legend(fontsize=7)
  figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> None:
  """Measures what is missing, prints the table, and draws."""
  file, figure, is_quick = common.parse("wrong_backward", __doc__, arguments)
  settings = QUICK if is_quick else FULL
  results = common.resume(file, settings, cells_of(settings), lambda c: measure(c, settings))
  print(table(results))
  draw(results, figure)


if __name__ == "__main__":
  main(sys.argv[1:])
