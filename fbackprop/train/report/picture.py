"""A run as one picture: what it learned, how its gradients went, and what it gets wrong."""

import io
import textwrap
from collections.abc import Callable, Mapping

import numpy as np

from fbackprop.extras import need
from fbackprop.inspection import Signals
from fbackprop.train.datasets import Dataset
from fbackprop.train.report.classes import draw_confusion, draw_labels, draw_logits, draw_mistakes
from fbackprop.train.report.curves import draw_gradients, draw_losses
from fbackprop.train.report.layers import draw_cotangents, draw_values
from fbackprop.train.report.style import COLORS, RULES
from fbackprop.train.report.values import draw_errors, draw_fit, draw_predictions, draw_residuals
from fbackprop.train.results import Result

MOST_LETTERS = 130  # Of a line of the title, as wide as the picture.


def draw_report(
  title: str, result: Result, dataset: Dataset, signals: Mapping[str, Signals]
) -> bytes:
  """Draws a run.

  Args:
    title: stands above the picture.
    result: the run.
    dataset: what it was trained on.
    signals: what passes through each layer for the test examples, by `fbackprop.inspect`.

  Returns:
    A PNG file: the losses, the norm of each layer's gradient, what each layer hands on and what
    comes back to it, and for labels the confusion matrix and misclassified examples, for a function
    of one variable the fit.

  Raises:
    ModuleNotFoundError: matplotlib isn't installed; the message names the extra.
  """
  figure_module = need("matplotlib.figure", extra="plot")
  style = need("matplotlib.style", extra="plot")
  with style.context(RULES):
    outputs = np.asarray(list(signals.values())[-1].y)
    figure = figure_module.Figure(figsize=(11, 11), dpi=110, layout="constrained")
    lines = [textwrap.fill(line, MOST_LETTERS) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), ha="left", x=0.015, fontsize="medium")
    panels = figure.subplots(3, 2, height_ratios=(3, 3.4, 2))
    draw_losses(panels[0, 0], result)
    draw_gradients(panels[0, 1], result)
    for axes, draw in zip(panels[1], panels_of(dataset), strict=True):
      draw(axes, dataset, outputs)
    draw_values(panels[2, 0], signals, COLORS[0])
    draw_cotangents(panels[2, 1], signals, COLORS[1])
    file = io.BytesIO()
    # Without the software's version and date the same run gives the same bytes.
    figure.savefig(file, format="png", metadata={"Software": None})
  return file.getvalue()


def panels_of(dataset: Dataset) -> tuple[Callable[..., None], Callable[..., None]]:
  """The two panels for what is learned; each is called with (axes, dataset, outputs)."""
  if dataset.is_classification:
    return draw_confusion, draw_mistakes
  if dataset.task == "multilabel":
    return draw_labels, draw_logits
  if dataset.x.shape[1] == dataset.outputs == 1:
    return draw_fit, draw_residuals
  return draw_predictions, draw_errors
