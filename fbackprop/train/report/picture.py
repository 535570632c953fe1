"""A run as one picture: what it learned, how its gradients went, and what it gets wrong."""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fbackprop.extras import need
from fbackprop.fonts import FontChoice, any_weight, choose_fonts, list_characters
from fbackprop.inspection import Signals
from fbackprop.train.data.datasets import Dataset
from fbackprop.train.report.classes import draw_confusion, draw_labels, draw_logits, draw_mistakes
from fbackprop.train.report.curves import draw_gradients, draw_losses
from fbackprop.train.report.layer_panels import draw_cotangents, draw_values
from fbackprop.train.report.style import COLORS, RULES
from fbackprop.train.report.values import draw_errors, draw_fit, draw_predictions, draw_residuals
from fbackprop.train.results import Result

MOST_LETTERS = 130  # Of a line of the title, as wide as the picture.


def draw_report(
  title: str,
  result: Result,
  dataset: Dataset,
  signals: Mapping[str, Signals],
  *,
  tell: Callable[[str], None] = warnings.warn,
) -> bytes:
  """Draws a run.

  Names of classes and columns are drawn in fonts that have their letters. Where none is installed
  they are romanised, as "goyangi" for 고양이: a run isn't lost for its picture.

  Args:
    title: stands above the picture.
    result: the run.
    dataset: what it was trained on.
    signals: what passes through each layer for the test examples, by `fbackprop.inspect`.
    tell: takes a sentence that says which letters no font has, if there are any.

  Returns:
    A PNG file: the losses, the norm of each layer's gradient, what each layer hands on and what
    comes back to it, and for labels the confusion matrix and misclassified examples, for a function
    of one variable the fit.

  Raises:
    ModuleNotFoundError: matplotlib isn't installed; the message names the extra.
  """
  figure_module = need("matplotlib.figure", extra="plot")
  style = need("matplotlib.style", extra="plot")
  texts = [title, *dataset.output_names, *dataset.features]
  asked = need("matplotlib", extra="plot").rcParams["font.family"]
  choice = choose_fonts(texts, asked)
  if choice.missing:
    title, dataset = choice.spell(title), romanised(dataset, choice)
    tell(
      f"report.png: no installed font has {list_characters(choice.missing)}; names with them are "
      "romanised there, and report.html has them as they are"
    )
  with style.context({**RULES, "font.family": list(choice.families)}), any_weight():
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


def romanised(dataset: Dataset, choice: FontChoice) -> Dataset:
  """The data with names that can be drawn; two that would be the same get their numbers."""
  names = [choice.spell(name) for name in dataset.output_names]
  if len(set(names)) < len(set(dataset.output_names)):
    names = [f"{i}: {name}" for i, name in enumerate(names)]
  features = tuple(choice.spell(name) for name in dataset.features)
  return replace(dataset, output_names=tuple(names), features=features)


def panels_of(dataset: Dataset) -> tuple[Callable[..., None], Callable[..., None]]:
  """The two panels for what is learned; each is called with (axes, dataset, outputs)."""
  if dataset.is_classification:
    return draw_confusion, draw_mistakes
  if dataset.task == "multilabel":
    return draw_labels, draw_logits
  if dataset.x.shape[1] == dataset.outputs == 1:
    return draw_fit, draw_residuals
  return draw_predictions, draw_errors
