"""Which backward rule learns how deep a network? All rules on MNIST-1D and digits, by depth.

One hidden layer separates nothing: so networks of 2, 4 and 8 hidden layers of 64 tanh units learn
MNIST-1D, its shuffled form, and digits, under every rule of `fbackprop.rules`, and the angle of the
updates of the first and of the middle layer to the gradient is measured at the end.

  python experiments/rules_by_depth.py           hours on one core; goes on where it stopped
  python experiments/rules_by_depth.py --quick --results FILE --figure FILE

Settings: momentum 0.9, batches of 50, 3,000 steps, softmax cross-entropy, Glorot's initialisation;
six rates, of which each rule, data set and depth has its own, chosen on validation data by the mean
of two of the seeds; the test accuracies are of five seeds. Predictive coding's precision is 0.1,
and its inference 8 steps for each hidden layer, with momentum, after which the update of the first
layer, which the error reaches last, is within a tenth of that at equilibrium. Results are in
results/rules_by_depth.json, with all seeds, and the table and docs/rules_by_depth.png from it.
"""

import itertools
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import fbackprop as fb
from experiments import rule_training as common

FULL: dict[str, Any] = {
  "depths": [2, 4, 8], "width": 64, "rates": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0], "seeds": 5,
  "tuned_by": 2, "steps": 3000, "batch": 50, "rules": list(common.RULES), "data": list(common.DATA),
}  # fmt: skip
QUICK: dict[str, Any] = {
  "depths": [2], "width": 8, "rates": [0.03, 0.1], "seeds": 2, "tuned_by": 1,
  "steps": 20, "batch": 10,
  "rules": ["backprop", "feedback_alignment"], "data": ["digits"],
}  # fmt: skip


def measure(cell: str, settings: dict[str, Any]) -> dict[str, Any]:
  """One data set, depth and rule, at its best rate."""
  data, depth, name = cell.split("/")
  split = common.load(data)
  rule, compared = candidate(name, split.train[0].shape[1], settings["width"], int(depth))
  return common.train_at_best_rate(rule, split, settings, compared)


@cache
def candidate(name: str, inputs: int, width: int, depth: int) -> tuple[fb.Layer, Any]:
  """A network under a rule, and the measure of its angles; one for all data of a width."""
  rule = common.RULES[name](fb.mlp([inputs, *[width] * depth, 10], fb.tanh))
  return rule, None if name == "backprop" else angles(rule, depth)


def angles(rule: fb.Layer, depth: int) -> Any:
  """A function that gives the angles of the first and of the middle layer to the gradient."""
  compared = fb.rules.alignment(rule, common.LOSS)

  def measured(*args: Any, **options: Any) -> Any:
    layers = list(compared(*args, **options).values())
    return {"first": layers[0].angle, "middle": layers[depth // 2].angle}

  return measured


def table(results: dict[str, Any]) -> str:
  """A table for each data set: accuracy, error over backprop's, angle of the first layer."""
  settings, cells = results["settings"], results["seeds"]
  depths = settings["depths"]
  lines = []
  for data in settings["data"]:
    heads = [f"{what}{d}" for what in ("accuracy, ", "error, ", "angle, ") for d in depths]
    lines += ["", f"| {data} | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for rule in settings["rules"]:
      own = [cells.get(f"{data}/{depth}/{rule}") for depth in depths]
      exact = [cells.get(f"{data}/{depth}/backprop") for depth in depths]
      row = ["" if cell is None else common.spread(cell["test"]) for cell in own]
      row += map(error_of, own, exact)
      lines.append(f"| {rule} | " + " | ".join([*row, *map(angle_of, own)]) + " |")
  return "\n".join(lines[1:])


def error_of(cell: dict[str, Any] | None, exact: dict[str, Any] | None) -> str:
  """The share of wrong labels over backpropagation's, as "1.31×"."""
  if cell is None or exact is None:
    return ""
  return f"{(1 - np.mean(cell['test'])) / (1 - np.mean(exact['test'])):.2f}×"


def angle_of(cell: dict[str, Any] | None) -> str:
  """The mean angle of the first layer; a seed whose update is 0 has none."""
  found = cell["measured"]["first"] if cell and cell["measured"] else []
  known = [angle for angle in found if angle is not None]
  return f"{np.mean(known):.0f}°" if known else ""


def draw(results: dict[str, Any], file: Path) -> None:
  """Test accuracy by depth, a line for each rule, a panel for each data set."""
  import matplotlib as mpl

  mpl.use("agg")
  from matplotlib import pyplot as plt

  settings, cells = results["settings"], results["seeds"]
  figure, axes = plt.subplots(
    1, len(settings["data"]), figsize=(4.2 * len(settings["data"]), 3.8), squeeze=False,
    layout="constrained",
  )  # fmt: skip
  for data, ax in zip(settings["data"], axes[0], strict=True):
    for i, rule in enumerate(settings["rules"]):
      known = [(d, cells[f"{data}/{d}/{rule}"]["test"]) for d in settings["depths"]
               if f"{data}/{d}/{rule}" in cells]  # fmt: skip
      if known:
        depths, scores = [d for d, _ in known], [own for _, own in known]
        means, spreads = np.mean(scores, 1), list(map(common.deviation, scores))
        line = {"label": rule, "color": f"C{i}", "marker": "o", "ms": 3, "capsize": 2}
        ax.errorbar(depths, means, spreads, **line)
    ax.set(title=data, xlabel="hidden layers", ylabel="test accuracy", xscale="log")
    ax.set_xticks(settings["depths"], settings["depths"])
    ax.minorticks_off()
  axes[0, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
  figure.savefig(file, dpi=110)


def main(arguments: list[str] | None = None) -> None:
  """Measures what is missing, prints the table, and draws."""
  file, figure, is_quick = common.parse("rules_by_depth", __doc__, arguments)
  settings = QUICK if is_quick else FULL
  # Cheap ones first, so that a run that is stopped has whole columns.
  cells = [
    f"{data}/{depth}/{rule}"
    for depth, data, rule in itertools.product(
      settings["depths"], settings["data"], settings["rules"]
    )
  ]
  results = common.resume(file, settings, cells, lambda cell: measure(cell, settings))
  print(table(results))
  draw(results, figure)


if __name__ == "__main__":
  main(sys.argv[1:])
