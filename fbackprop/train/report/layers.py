"""The layers of a network at the end of a run: panels of their signals, and a table.

To add a column to the table, add an entry to `columns` in `layers_of`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fbackprop.inspection import Signals
from fbackprop.train.metrics import root_mean_square
from fbackprop.train.report.figures import COLORS, Panel, panel, spread_out
from fbackprop.train.report.tables import Number, Table, barred, percent
from fbackprop.train.results import Result
from fbackprop.train.step import by_layer
from fbackprop.types import Array

MOST_LAYERS = 16  # More rows would be illegible.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@panel(
  "Outputs of each layer",
  "The outputs of each layer for the test examples: half of the values are in the box, 90 % "
  "between the whiskers.",
)
def draw_values(axes: Any, signals: Mapping[str, Signals], color: str) -> None:
  """Draw the distribution of each layer's outputs."""
  rows = {name: np.asarray(seen.y, np.float64).ravel() for name, seen in signals.items()}
  axes.set(title="Outputs y of each layer", xlabel="y, test examples")
  draw_boxes(axes, rows, rows, color)


@panel(
  "Cotangents of each layer",
  "The cotangents of each layer's outputs: the sizes of those that aren't zero.",
)
def draw_cotangents(axes: Any, signals: Mapping[str, Signals], color: str) -> None:
  """Draw the magnitudes of the nonzero cotangents, of each example's own loss."""
  rows = {
    # N times those of the mean loss, whose seed is 1/N.
    name: np.abs(np.asarray(seen.y_bar, np.float64)).ravel() * seen.y_bar.shape[-2]
    for name, seen in signals.items()
  }
  sizes = {name: values[values > 0] for name, values in rows.items()}
  axes.set(title="Cotangents ȳ of each layer", xlabel="|ȳ| of an example's own loss", xscale="log")
  draw_boxes(axes, sizes, rows, color)


def draw_boxes(
  axes: Any, boxes: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], color: str
) -> None:
  """Draw a box plot of each layer, the first on top, with its fraction of zeros beside it."""
  every = list(rows)
  names = [every[i] for i in spread_out(len(every), MOST_LAYERS)]
  ends: list[float] = []
  for place, name in enumerate(names):
    values = boxes[name][np.isfinite(boxes[name])]
    if values.size:
      low, first, median, third, high = np.quantile(values, QUANTILES)
      ends += [low, high]
      axes.hlines(place, low, high, color=color, linewidth=1)
      axes.barh(place, third - first, 0.6, first, color=color, alpha=0.35)
      axes.vlines(median, place - 0.3, place + 0.3, color=color, linewidth=2)
    zero = np.mean(rows[name] == 0) if rows[name].size else 0.0
    axes.annotate(
      f"{zero:.0%} zero", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8
    )
  if axes.get_xscale() == "log" and ends:  # Autoscaling cuts off the whiskers.
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
  loss; the fraction of dead units, whose output is constant over the examples; the fraction of
  outputs at which a bounded activation is saturated. Of the parameters: shapes, norm, and the norm
  of their gradient in the last step.
  """
  params = {place(name): leaves for name, leaves in by_layer(result.params).items()}
  last = result.grad_norms[-1] if len(result.grad_norms) else [None] * len(result.layer_names)
  norms = {place(name): norm for name, norm in zip(result.layer_names, last, strict=True)}
  owners = [name.rpartition(".")[0] for name in signals]
  shapes = [" + ".join(times(leaf.shape) for leaf in params.get(owner, ())) for owner in owners]
  ys = {name: np.asarray(seen.y) for name, seen in signals.items()}
  columns: dict[str, Sequence[str | Number]] = {
    "layer": list(signals),
    "parameters": [shape or "–" for shape in shapes],
    "y, rms": barred([root_mean_square(y) for y in ys.values()]),
    "ȳ, rms": barred([
      root_mean_square(np.asarray(seen.y_bar)) * seen.y_bar.shape[-2] for seen in signals.values()
    ]),
    "‖Θ̄‖, last step": barred([
      None if norms.get(owner) is None else float(norms[owner]) for owner in owners
    ]),
    "‖Θ‖": barred([norm_of(params[owner]) if owner in params else None for owner in owners]),
    "dead": [percent(dead(y)) for y in ys.values()],
    "saturated": [percent(saturated(name, y)) for name, y in ys.items()],
  }  # fmt: skip
  return Table(list(columns), list(zip(*columns.values(), strict=True)))


def place(path: str) -> str:
  """Return a layer's place in the notation of `fbackprop.inspect`: "4.0" for "[4][0]"."""
  return path.strip("[]").replace("][", ".")


def times(shape: tuple[int, ...]) -> str:
  """Format a shape as 3×4."""
  return "×".join(map(str, shape)) or "1"


def norm_of(leaves: list[Array]) -> float:
  """Compute the Euclidean norm of a layer's parameters."""
  return float(np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in leaves)))


def dead(y: np.ndarray) -> float | None:
  """Compute the fraction of units whose output is constant over several examples, else None."""
  return float((y == y[..., :1, :]).all(-2).mean()) if y.shape[-2] > 1 else None


def saturated(name: str, y: np.ndarray) -> float | None:
  """Compute the fraction of outputs at which an activation is flat; None if it never is."""
  is_flat = SATURATED.get(name.rpartition(".")[2])
  return None if is_flat is None else float(is_flat(y).mean())
