"""The plane of two features, and which class the network sees where."""

from typing import Any, NamedTuple

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.datasets import Dataset
from fbackprop.train.models import Model
from fbackprop.train.report.style import INK, colors_of, legend_in_title_line, shortened

POINTS = 200  # Along each axis.


class Plane(NamedTuple):
  """Points x `[P]` by y `[P]`, and what a network says of them, `[P, P, C]`, rows by y."""

  x: np.ndarray
  y: np.ndarray
  probabilities: np.ndarray


def plane_of(dataset: Dataset, model: Model) -> Plane:
  """Asks the network all over the plane in which the examples lie.

  Args:
    dataset: of two features, in units of its own.
    model: which takes them as they are.
  """
  every = np.concatenate([dataset.x, dataset.x_test])
  low, high = every.min(0), every.max(0)
  margin = np.where(high > low, 0.06 * (high - low), 1.0)
  x, y = np.linspace(low - margin, high + margin, POINTS).T
  points = np.stack(np.meshgrid(x, y), -1)
  probabilities = model.probabilities(model.outputs(points.reshape(-1, 2)))
  return Plane(x, y, probabilities.reshape(POINTS, POINTS, -1))


def draw_regions(axes: Any, dataset: Dataset, plane: Plane, outputs: np.ndarray) -> None:
  """Where the network sees which class, the surer the darker, with the examples of both parts."""
  colors = colors_of(dataset.outputs)
  x, y = plane.x, plane.y
  dx, dy = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
  axes.imshow(
    shade(plane.probabilities, colors), origin="lower", aspect="auto", interpolation="nearest",
    extent=(x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy),
  )  # fmt: skip
  for label, color in enumerate(colors):
    train = dataset.x[dataset.targets == label]
    test = dataset.x_test[dataset.targets_test == label]
    name = shortened(dataset.output_names[label]) if dataset.output_names else str(label)
    axes.plot(train[:, 0], train[:, 1], ".", ms=3, color=color, alpha=0.6)
    axes.plot(test[:, 0], test[:, 1], "o", ms=4, color=color, mec=INK, mew=0.5, label=name)
  missed = dataset.x_test[outputs.argmax(1) != dataset.targets_test]
  axes.plot(missed[:, 0], missed[:, 1], "x", ms=8, mew=1.4, color=INK, label="wrong")
  names = dataset.features or ("x0", "x1")
  axes.set(title="Decision boundary", xlabel=shortened(names[0]), ylabel=shortened(names[1]))
  legend_in_title_line(axes)


def shade(probabilities: np.ndarray, colors: list[Any]) -> np.ndarray:
  """The color of the class that `predict` tells, `[..., 4]`; none where nothing finite is said."""
  to_rgba = need("matplotlib.colors", extra="plot").to_rgba_array
  image: np.ndarray = to_rgba(colors)[probabilities.argmax(-1)]
  chance = 1 / len(colors)
  sure = (probabilities.max(-1) - chance) / (1 - chance) if len(colors) > 1 else 1.0
  image[..., 3] = np.where(np.isfinite(probabilities).all(-1), 0.12 + 0.43 * sure, 0.0)
  return image
