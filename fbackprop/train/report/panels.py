"""Which panels a run's page has: those of the picture and a few more, each with a sentence."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.inspection import Signals
from fbackprop.train.data.datasets import Dataset
from fbackprop.train.models import Model
from fbackprop.train.report.classes import (
  draw_confusion,
  draw_labels,
  draw_logits,
  draw_mistakes,
)
from fbackprop.train.report.curves import draw_gradients, draw_losses
from fbackprop.train.report.figures import SIZE, Panel, svg_of
from fbackprop.train.report.layer_panels import MOST_LAYERS, draw_cotangents, draw_values
from fbackprop.train.report.picture import panels_of
from fbackprop.train.report.regions import draw_regions, plane_of
from fbackprop.train.report.style import COLORS, RULES
from fbackprop.train.report.values import draw_errors, draw_fit, draw_predictions, draw_residuals
from fbackprop.train.report.watched import watched_of
from fbackprop.train.results import Result

POINTS = 500  # Of a curve.
# What a screen reader calls a panel, and what is to be seen there.
SAID: dict[Callable[..., None], tuple[str, str]] = {
  draw_losses: (
    "Loss over the steps",
    "Thin: the loss of each step's batch before its update. With dots: its mean since the "
    "evaluation before, and the test examples at each evaluation.",
  ),
  draw_gradients: (
    "Gradient norm of each layer over the steps",
    "The norm of each layer's gradient, weights and biases together, at every step.",
  ),
  draw_confusion: (
    "Confusion matrix",
    "How often test examples of each class, by row, were taken for which, by column.",
  ),
  draw_regions: (
    "Decision boundary",
    "The class that the network tells at each point, the surer the darker. Small: training "
    "examples; ringed: test examples; crossed: those that it gets wrong.",
  ),
  draw_labels: (
    "Share of right answers by label",
    "For each label, of how many test examples it was told rightly whether they have it.",
  ),
  draw_logits: (
    "Logits of the test examples",
    "How far apart those that have a label and those that haven't are; above 0, it is told.",
  ),
  draw_fit: (
    "The function that was learned",
    "What was learned, what was to be learned, and the training examples.",
  ),
  draw_residuals: ("What is left", "Prediction minus truth for the test examples."),
  draw_predictions: (
    "Predicted against true",
    "The test examples, in the units of the data; on the line, the prediction is right.",
  ),
  draw_errors: ("Errors", "Prediction minus truth, in the units of the data."),
  draw_values: (
    "Outputs of each layer",
    "What each layer hands on for the test examples: half of the values are in the box, 90 % "
    "between the whiskers.",
  ),
  draw_cotangents: (
    "Cotangents of each layer",
    "What comes back to each layer: the sizes of the cotangents that aren't zero.",
  ),
}

KEPT = (
  "Validation: the examples set aside, at the ends of epochs; in the ring their best score, whose "
  "parameters are kept."
)


def drawn(panels: Sequence[Panel]) -> list[tuple[Panel, Any]]:
  """Each panel with its SVG element, which the template takes as it is."""
  markup = need("markupsafe", extra="train").Markup
  with need("matplotlib.style", extra="plot").context(RULES):
    return [(panel, markup(svg_of(panel))) for panel in panels]


def curves_of(result: Result) -> list[Panel]:
  """How the run went."""
  losses, gradients = (
    Panel(*SAID[draw], partial(draw, result=result)) for draw in (draw_losses, draw_gradients)
  )
  if result.best is not None:
    losses = losses._replace(caption=f"{losses.caption} {KEPT}")
  return [losses, gradients, *watched_of(result)]


def answers_of(dataset: Dataset, model: Model, outputs: np.ndarray) -> list[Panel]:
  """What was learned.

  Args:
    dataset: in units of its own.
    model: the network.
    outputs: of the network for the test examples: logits, or values in these units.
  """
  # The page tells more of the mistakes, and elsewhere.
  draws = [draw for draw in panels_of(dataset) if draw is not draw_mistakes]
  more: dict[Callable[..., None], dict[str, Any]] = {}
  if dataset.is_classification and dataset.x.shape[1] == 2:
    draws.append(draw_regions)
    more[draw_regions] = {"plane": plane_of(dataset, model)}
  if draw_fit in draws:
    draws += [draw_predictions, draw_errors]
    more[draw_fit] = {"curve": curve_of(dataset, model)}
  square = min(9.0, max(4.4, 0.3 * dataset.outputs + 1.4))
  sizes = {
    draw_confusion: (max(5.6, square), square),
    draw_regions: (5.6, 4.4),
    draw_labels: (5.6, max(3.7, 0.22 * dataset.outputs + 1)),
  }
  return [
    Panel(
      *SAID[draw],
      partial(draw, dataset=dataset, outputs=outputs, **more.get(draw, {})),
      sizes.get(draw, SIZE),
    )
    for draw in draws
  ]


def curve_of(dataset: Dataset, model: Model) -> tuple[np.ndarray, np.ndarray]:
  """The function of one feature that was learned, from the least to the largest example."""
  every = np.concatenate([dataset.x, dataset.x_test])
  x = np.linspace(every.min(), every.max(), POINTS, dtype=np.float32)
  return x, model.outputs(x[:, None])[:, 0]


def passes_of(signals: Mapping[str, Signals]) -> list[Panel]:
  """What passes through the layers."""
  size = 5.6, max(2.0, 0.3 * min(len(signals), MOST_LAYERS) + 1.1)
  return [
    Panel(*SAID[draw], partial(draw, signals=signals, color=color), size)
    for draw, color in ((draw_values, COLORS[0]), (draw_cotangents, COLORS[1]))
  ]
