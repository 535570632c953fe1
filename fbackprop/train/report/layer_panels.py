"""What passes through a network's layers, as two panels: values forward, cotangents backward."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fbackprop.inspection import Signals

MOST_LAYERS = 16  # More rows than these can't be read.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def draw_values(axes: Any, signals: Mapping[str, Signals], color: str) -> None:
  """What each layer hands on: the middle half of its outputs as a box, 5 to 95 % as whiskers."""
  rows = {name: np.asarray(seen.y, np.float64).ravel() for name, seen in signals.items()}
  axes.set(title="Outputs y of each layer", xlabel="y, test examples")
  draw_boxes(axes, rows, rows, color)


def draw_cotangents(axes: Any, signals: Mapping[str, Signals], color: str) -> None:
  """What comes back to it: the sizes of the cotangents that aren't zero, N times the mean's."""
  rows = {
    name: np.abs(np.asarray(seen.y_bar, np.float64)).ravel() * seen.y_bar.shape[-2]
    for name, seen in signals.items()
  }
  sizes = {name: values[values > 0] for name, values in rows.items()}
  axes.set(title="Cotangents ȳ of each layer", xlabel="|ȳ| of an example's own loss", xscale="log")
  draw_boxes(axes, sizes, rows, color)


def draw_boxes(
  axes: Any, boxes: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], color: str
) -> None:
  """A box for each layer, the first one on top, and beside it how much of the row is zero."""
  names = list(rows)
  if len(names) > MOST_LAYERS:
    names = [names[i] for i in np.linspace(0, len(names) - 1, MOST_LAYERS).astype(int)]
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
  if axes.get_xscale() == "log" and ends:  # Autoscaling leaves out the far ends of the whiskers.
    axes.set_xlim(min(ends) / 2, max(ends) * 2)
  axes.set_yticks(range(len(names)), names)
  axes.set_ylim(len(names) - 0.5, -0.5)
