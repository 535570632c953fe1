"""The layers of a network at the end of a run: panels of their signals, and a table.

To add a column to the table, add an entry to `columns` in `layers_of`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fbackprop.inspection import Signals
from fbackprop.train.report.figures import COLORS, Panel, panel, place_of, spread_out
from fbackprop.train.report.tables import Number, Table, barred, percent, table_of
from fbackprop.train.results import Result
from fbackprop.train.scores import root_mean_square
from fbackprop.train.step import by_layer

MOST_LAYERS = 16  # More rows would be illegible.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@panel(
  "Outputs of each layer",
  "The outputs of each layer for the test examples: half of the values are in the box, 90 % "
  "between the whiskers.",
)
def draw_values(axes: Any, signals: Mapping[str, Signals], color: str) -> None:
  """Draw the distribution of each layer's outputs."""
  axes.set(title="Outputs y of each layer", xlabel="y, test examples")
  rows = {name: np.asarray(seen.y, np.float64).ravel() for name, seen in signals.items()}
  draw_boxes(axes, rows, color)


@panel(
  "Cotangents of each layer",
  "The cotangents of each layer's outputs: the sizes of those that aren't zero.",
)
def draw_cotangents(axes: Any, signals: Mapping[str, Signals], color: str) -> None:
  """Draw the magnitudes of the nonzero cotangents, of each example's own loss."""
  axes.set(title="Cotangents ȳ of each layer", xlabel="|ȳ| of an example's own loss", xscale="log")
  draw_boxes(axes, {name: np.abs(own_cotangents(seen)) for name, seen in signals.items()}, color)


def own_cotangents(seen: Signals) -> np.ndarray:
  """Return the cotangents of each example's own loss.

  They are N times those of the mean loss, whose seed is 1/N.
  """
  return np.asarray(seen.y_bar, np.float64).ravel() * seen.y_bar.shape[-2]


def draw_boxes(axes: Any, rows: Mapping[str, np.ndarray], color: str) -> None:
  """Draw a box plot of each layer, the first on top, with its fraction of zeros beside it.

  On a logarithmic axis the boxes are of the positive values.
  """
  is_log = axes.get_xscale() == "log"
  names = [list(rows)[i] for i in spread_out(len(rows), MOST_LAYERS)]
  ends: list[float] = []
  for place, name in enumerate(names):
    row = rows[name]
    values = row[np.isfinite(row) & ((row > 0) | (not is_log))]
    if values.size:
      low, first, median, third, high = np.quantile(values, QUANTILES)
      ends += [low, high]
      axes.hlines(place, low, high, color=color, linewidth=1)
      axes.barh(place, third - first, 0.6, first, color=color, alpha=0.35)
      axes.vlines(median, place - 0.3, place + 0.3, color=color, linewidth=2)
    zero = f"{np.mean(row == 0) if row.size else 0.0:.0%} zero"
    axes.text(1.01, place, zero, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
  if is_log and ends:  # Autoscaling cuts off the whiskers.
    axes.set_xlim(min(ends) / 2, max(ends) * 2)
  axes.set_yticks(range(len(names)), names)
  axes.set_ylim(len(names) - 0.5, -0.5)


def panels_of(signals: Mapping[str, Signals]) -> list[Panel]:
  """Return the panels of the signals of the layers, forward and backward."""
  size = 5.6, max(2.0, 0.3 * min(len(signals), MOST_LAYERS) + 1.1)
  return [
    draw.of(size=size, signals=signals, color=color)
    for draw, color in ((draw_values, COLORS[0]), (draw_cotangents, COLORS[1]))
  ]


# Predicates by activation: whether an output is at a flat place. Flat means a slope of zero, or
# below a hundredth of the largest one: y (1 − y) < 0.01 / 4 of the sigmoid, 1 − y² < 0.01 of tanh.
# relu, and relu6 for small inputs, isn't counted.
SATURATED: dict[str, Callable[[np.ndarray], Any]] = {
  "sigmoid": lambda y: y * (1 - y) < 0.01 / 4,
  "tanh": lambda y: 1 - y**2 < 0.01,
  "hard_tanh": lambda y: np.abs(y) >= 1,
  "relu6": lambda y: y >= 6,
}


def layers_of(signals: Mapping[str, Signals], result: Result) -> Table:
  """Return a table with a row for each layer.

  For the test set: root mean squares of the outputs y and of the cotangents ȳ of each example's own
  loss; the fraction of dead units, whose output is constant over several examples; the fraction of
  outputs at which a bounded activation is saturated. Of the parameters: shapes, norm, and the norm
  of their gradient in the last step.
  """
  last = result.grad_norms[-1].tolist() if len(result.grad_norms) else []
  slopes = {place_of(name): norm for name, norm in zip(result.layer_names, last, strict=False)}
  params = {place_of(name): leaves for name, leaves in by_layer(result.params).items()}
  norms, shapes = {}, {}
  for place, leaves in params.items():
    shapes[place] = " + ".join("×".join(map(str, leaf.shape)) or "1" for leaf in leaves)
    squares = [(np.asarray(leaf, np.float64) ** 2).sum() for leaf in leaves]
    norms[place] = float(np.sqrt(sum(squares)))
  owners = [name.rpartition(".")[0] for name in signals]
  ys = {name: np.asarray(seen.y) for name, seen in signals.items()}
  flat = [SATURATED.get(name.rpartition(".")[2]) for name in ys]
  columns: dict[str, Sequence[str | Number]] = {
    "layer": list(signals),
    "parameters": [shapes.get(owner) or "–" for owner in owners],
    "y, rms": barred(list(map(root_mean_square, ys.values()))),
    "ȳ, rms": barred([root_mean_square(own_cotangents(seen)) for seen in signals.values()]),
    "‖Θ̄‖, last step": barred(list(map(slopes.get, owners))),
    "‖Θ‖": barred(list(map(norms.get, owners))),
    "dead": [
      percent((y == y[..., :1, :]).all(-2).mean() if y.shape[-2] > 1 else None) for y in ys.values()
    ],
    "saturated": [
      percent(None if is_flat is None else is_flat(y).mean())
      for is_flat, y in zip(flat, ys.values(), strict=True)
    ],
  }
  return table_of(list(columns.items()))
