"""Which panels a run's page has: those of the picture, each with a sentence, and a few more."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.inspection import Signals
from fbackprop.train.datasets import Dataset
from fbackprop.train.models import Model
from fbackprop.train.report.classes import draw_confusion, draw_labels, draw_logits
from fbackprop.train.report.curves import draw_gradients, draw_losses
from fbackprop.train.report.figures import Panel, svg_of
from fbackprop.train.report.layers import MOST_LAYERS, draw_cotangents, draw_values
from fbackprop.train.report.regions import draw_regions, plane_of
from fbackprop.train.report.style import COLORS, RULES
from fbackprop.train.report.values import draw_errors, draw_fit, draw_predictions, draw_residuals
from fbackprop.train.results import Result

POINTS = 500  # Of a curve.


def drawn(panels: Sequence[Panel]) -> list[tuple[Panel, Any]]:
  """Each panel with its SVG element, which the template takes as it is."""
  markup = need("markupsafe", extra="train").Markup
  with need("matplotlib.style", extra="plot").context(RULES):
    return [(panel, markup(svg_of(panel))) for panel in panels]


def curves_of(result: Result) -> list[Panel]:
  """How the run went."""
  return [
    Panel(
      "Loss over the steps",
      "Thin: the loss of each step's batch before its update. With dots: its mean since the "
      "evaluation before, and the test examples at each evaluation.",
      partial(draw_losses, result=result),
    ),
    Panel(
      "Gradient norm of each layer over the steps",
      "The norm of each layer's gradient, weights and biases together, at every step.",
      partial(draw_gradients, result=result),
    ),
  ]


def answers_of(dataset: Dataset, model: Model, outputs: np.ndarray) -> list[Panel]:
  """What was learned.

  Args:
    dataset: in units of its own.
    model: the network.
    outputs: of the network for the test examples: logits, or values in these units.
  """
  seen = {"dataset": dataset, "outputs": outputs}
  if dataset.is_classification:
    side = min(9.0, max(4.4, 0.3 * dataset.outputs + 1.4))
    panels = [
      Panel(
        "Confusion matrix",
        "How often test examples of each class, by row, were taken for which, by column.",
        partial(draw_confusion, **seen),
        (max(5.6, side), side),
      )
    ]
    if dataset.x.shape[1] == 2:
      plane = plane_of(dataset, model)
      panels.append(
        Panel(
          "Decision boundary",
          "The class that the network tells at each point, the surer the darker. Small: training "
          "examples; ringed: test examples; crossed: those that it gets wrong.",
          partial(draw_regions, plane=plane, **seen),
          (5.6, 4.4),
        )
      )
    return panels
  if dataset.task == "multilabel":
    height = max(3.7, 0.22 * dataset.outputs + 1)
    return [
      Panel(
        "Share of right answers by label",
        "For each label, of how many test examples it was told rightly whether they have it.",
        partial(draw_labels, **seen),
        (5.6, height),
      ),
      Panel(
        "Logits of the test examples",
        "How far apart those that have a label and those that haven't are; above 0, it is told.",
        partial(draw_logits, **seen),
      ),
    ]
  panels = []
  if dataset.x.shape[1] == dataset.outputs == 1:
    x = np.linspace(*extent_of(dataset), POINTS, dtype=np.float32)
    curve = x, model.outputs(x[:, None])[:, 0]
    panels = [
      Panel(
        "The function that was learned",
        "What was learned, what was to be learned, and the training examples.",
        partial(draw_fit, curve=curve, **seen),
      ),
      Panel(
        "What is left", "Prediction minus truth for the test examples.",
        partial(draw_residuals, **seen),
      ),
    ]  # fmt: skip
  return [
    *panels,
    Panel(
      "Predicted against true",
      "The test examples, in the units of the data; on the line, the prediction is right.",
      partial(draw_predictions, **seen),
    ),
    Panel("Errors", "Prediction minus truth, in the units of the data.",
          partial(draw_errors, **seen)),
  ]  # fmt: skip


def extent_of(dataset: Dataset) -> tuple[float, float]:
  """From where to where the one feature goes."""
  every = np.concatenate([dataset.x, dataset.x_test])
  return float(every.min()), float(every.max())


def passes_of(signals: Mapping[str, Signals]) -> list[Panel]:
  """What passes through the layers."""
  size = 5.6, max(2.0, 0.3 * min(len(signals), MOST_LAYERS) + 1.1)
  return [
    Panel(
      "Outputs of each layer",
      "What each layer hands on for the test examples: half of the values are in the box, "
      "90 % between the whiskers.",
      partial(draw_values, signals=signals, color=COLORS[0]),
      size,
    ),
    Panel(
      "Cotangents of each layer",
      "What comes back to each layer: the sizes of the cotangents that aren't zero.",
      partial(draw_cotangents, signals=signals, color=COLORS[1]),
      size,
    ),
  ]
