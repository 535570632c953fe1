"""`report.png`: the report of a run as one picture of six panels."""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fbackprop.extras import need
from fbackprop.fonts import FontChoice, any_weight, choose_fonts, list_characters
from fbackprop.inspection import Signals
from fbackprop.train.data.rows import Dataset
from fbackprop.train.report import curves, layers, predictions
from fbackprop.train.report.figures import RULES
from fbackprop.train.results import Result

MOST_LETTERS = 130  # Per line of the title, at the picture's width.


def draw_report(
  title: str,
  result: Result,
  dataset: Dataset,
  signals: Mapping[str, Signals],
  *,
  tell: Callable[[str], None] = warnings.warn,
) -> bytes:
  """Draw the picture of a run.

  Names of classes and columns are drawn in fonts that have their letters. If none is installed they
  are romanised, such as "goyangi" for 고양이, so that the report is written in any case.

  Args:
    title: title above the picture.
    result: the result of the run.
    dataset: its data.
    signals: signals of each layer for the test set, by `fbackprop.inspect`.
    tell: called with a sentence on letters that no font has, if there are any.

  Returns:
    A PNG file: the losses, the gradient norms, the outputs and the cotangents of each layer, and
    for labels the confusion matrix and misclassified examples, for a function of one variable the
    fit.

  Raises:
    ModuleNotFoundError: matplotlib or scikit-learn isn't installed; the message names the extra.
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
    rows = figure.subplots(3, 2, height_ratios=(3, 3.4, 2))
    groups = (
      curves.panels_of(result), predictions.panels_of(dataset, outputs), layers.panels_of(signals)
    )  # fmt: skip
    for places, panels in zip(rows, groups, strict=True):
      for axes, panel in zip(places, panels[:2], strict=True):
        panel(axes)
    file = io.BytesIO()
    # Without version and date, so that the same run gives the same bytes.
    figure.savefig(file, format="png", metadata={"Software": None})
  return file.getvalue()


def romanised(dataset: Dataset, choice: FontChoice) -> Dataset:
  """Replace names by ones that can be drawn, numbered where two would coincide."""
  names = [choice.spell(name) for name in dataset.output_names]
  if len(set(names)) < len(set(dataset.output_names)):
    names = [f"{i}: {name}" for i, name in enumerate(names)]
  features = tuple(choice.spell(name) for name in dataset.features)
  return replace(dataset, output_names=tuple(names), features=features)
