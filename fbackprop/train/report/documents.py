"""The report of a run: `report.html`, one self-contained file, and `report.png`, six panels.

The page has no scripts and loads nothing. The template escapes all text, since names come from data
and from the command line.
"""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.extras import need
from fbackprop.fonts import FontChoice, any_weight, choose_fonts, list_characters
from fbackprop.inspection import Signals, inspect
from fbackprop.markup import STYLE
from fbackprop.train.data.rows import Dataset
from fbackprop.train.ensembles import EnsembleResult
from fbackprop.train.models import Description, Model
from fbackprop.train.report import curves, figures, headline, layers, predictions, tables
from fbackprop.train.results import Result
from fbackprop.train.scores import KEYS, by_target

HERE = Path(__file__).parent
MOST_LETTERS = 130  # Per line of the picture's title.
SIDE, LINE = 11.0, 0.17  # The picture's side, and the height of a line of its title, in inches.
FILES = {
  "config.toml": "the configuration",
  "env.json": "versions, machine, and the fingerprint of the data",
  "metrics.jsonl": "a line for each evaluation",
  "model.safetensors": "the network, for fbackprop predict and eval",
  "report.png": "the run as a picture",
  "summary.json": "the final numbers",
}


class RunInfo(NamedTuple):
  """The settings and circumstances of a run, for its page.

  Attributes:
    folder: the run's folder, whose files are listed.
    method: the optimizer and its options, in a line.
    seed: random seed; member k of an ensemble has `seed` + k.
    settings: name and value of each option, and whether it differs from the default.
    environment: versions and machine.
    again: the command that repeats the run from its folder.
    command: the original command.
    n_validation: size of the validation set.
  """

  folder: Path
  method: str
  seed: int
  settings: Sequence[tuple[str, str, bool]]
  environment: Mapping[str, Any]
  again: str
  command: str
  n_validation: int = 0


def draw_page(
  info: RunInfo,
  result: Result,
  dataset: Dataset,
  signals: Mapping[str, Signals],
  model: Model,
  answers: tables.Answers | None = None,
  *,
  when_drawn: Callable[[], None] | None = None,
) -> bytes:
  """Render the page of a run.

  Args:
    info: the settings of the run.
    result: its result.
    dataset: its data.
    signals: signals of each layer for the test set, by `fbackprop.inspect`.
    model: the network with the parameters that are kept.
    answers: losses and probabilities of the test set, if they are known, as by `make_look`.
    when_drawn: called when all panels are drawn, before the files of the folder are listed.

  Returns:
    An HTML file in UTF-8.

  Raises:
    ModuleNotFoundError: jinja2 or matplotlib isn't installed; the message names the extra.
  """
  outputs = np.asarray(list(signals.values())[-1].y)
  answers = answers or answers_of(model, outputs, dataset.targets_test)
  # A diverged run may have any numbers; the page says which aren't finite.
  with np.errstate(all="ignore"):
    return render(
      info, dataset, model, outputs, answers, when_drawn,
      tiles=headline.tiles_of(result, *in_own_units(dataset, outputs)),
      ending=headline.ending_of(result),
      is_well=result.checks_ok and result.stop_reason != "diverged",
      curves=figures.drawn(curves.panels_of(result)),
      passes=figures.drawn(layers.panels_of(signals)),
      layers=layers.layers_of(signals, result),
    )  # fmt: skip


def draw_ensemble_page(
  info: RunInfo,
  result: EnsembleResult,
  rates: Sequence[tables.RateScores],
  kept: int,
  dataset: Dataset,
  model: Model,
  *,
  when_drawn: Callable[[], None] | None = None,
) -> bytes:
  """Render the page of an ensemble: that of a run, with members in place of layers.

  Args:
    info: the settings of the run.
    result: the result of the members that are kept.
    rates: the scores of each learning rate.
    kept: index of the rate that is kept.
    dataset: the data.
    model: the ensemble.
    when_drawn: as of `draw_page`.

  Returns and raises as `draw_page`.
  """
  own, name, is_good = rates[kept], headline.score_name(dataset), dataset.is_classification
  with np.errstate(all="ignore"):
    outputs, answers = look_at(model, dataset)
    loss = float(answers.losses.mean())
    return render(
      info, dataset, model, outputs, answers, when_drawn,
      tiles=headline.ensemble_tiles_of(result, *in_own_units(dataset, outputs), own, loss),
      ending=headline.ensemble_ending_of(result, rates, kept),
      is_well=result.checks_ok and "diverged" not in result.stop_reasons,
      curves=figures.drawn(curves.member_panels(result, own, name, is_good)),
      members=tables.members_of(result, own, info.seed, name),
      more_members=max(0, result.size - tables.MOST_MEMBERS),
      rates=tables.rates_of(rates, name, is_good) if len(rates) > 1 else None,
    )  # fmt: skip


def render(
  info: RunInfo,
  dataset: Dataset,
  model: Model,
  outputs: np.ndarray,
  answers: tables.Answers,
  when_drawn: Callable[[], None] | None,
  **course: Any,
) -> bytes:
  """Render the template.

  Args:
    info: as of `draw_page`.
    dataset: as of `draw_page`.
    model: as of `draw_page`.
    outputs: outputs for the test set, in the network's units.
    answers: their losses and probabilities.
    when_drawn: as of `draw_page`.
    **course: the variables of page.html that differ between a run and an ensemble.
  """
  jinja2 = need("jinja2", extra="train")
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader([HERE, STYLE.parent]), autoescape=True,
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
  )  # fmt: skip
  own, own_outputs = in_own_units(dataset, outputs)
  of_rows = model._replace(description=model.description.encoded)
  panels = figures.drawn(predictions.panels_of(own, own_outputs, of_rows))
  if when_drawn is not None:
    when_drawn()
  is_pictured = dataset.is_classification and dataset.image_shape is not None
  page: str = environment.get_template("page.html").render(
    info=info,
    files=files_of(info.folder),
    network=model.description.as_text(),
    parameters=f"{sum(leaf.size for leaf in jax.tree.leaves(model.params)):,}",
    about=headline.about(dataset, info.n_validation),
    predictions=panels,
    scores=tables.scores_of(own, own_outputs),
    totals=tables.totals_of(own, answers, own_outputs),
    pictures=tables.pictures_of(own, answers.losses) if is_pictured else [],
    worst=tables.worst_rows_of(own, answers, own_outputs),
    more_features=0 if is_pictured else max(0, len(own.features) - tables.MOST_FEATURES),
    **course,
  )
  return page.encode()


def load_packages() -> None:
  """Import what the report needs, and let matplotlib load its fonts: it draws a small figure."""
  need("jinja2", extra="train")
  with need("matplotlib.style", extra="plot").context(figures.RULES):
    figure = need("matplotlib.figure", extra="plot").Figure()
    figure.subplots().set(title="Bold", xlabel="0123456789", yscale="log")
    figures.arrange(figure)
    agg, svg = (
      need(f"matplotlib.backends.backend_{kind}", extra="plot") for kind in ("agg", "svg")
    )
    agg.FigureCanvasAgg(figure).print_png(io.BytesIO())
    svg.FigureCanvasSVG(figure).print_svg(io.StringIO())


def make_look(description: Description) -> Callable[..., tuple[Mapping[str, Signals], Any]]:
  """Build `look(params, x, targets)`: signals and `Answers` for the test set, by one program."""
  inspected = inspect(description.net, description.loss)

  @jax.jit
  def look(params: Any, x: Any, targets: Any) -> Any:
    signals = inspected(params, x, targets)
    outputs = list(signals.values())[-1].y
    return signals, tables.answers_to(description, outputs, targets)

  return lambda *args: jax.device_get(look(*args))


def look_at(model: Model, dataset: Dataset) -> tuple[np.ndarray, tables.Answers]:
  """Compute the outputs of a model for the test set, in the network's units, and the `Answers`."""
  # Without standardisation, since the test set is standardised already and the outputs stay so.
  about = model.description.encoded
  bare = about._replace(standardization=None, target_standardization=None)
  outputs = Model(bare, model.params).outputs(dataset.x_test)
  return outputs, answers_of(model, outputs, dataset.targets_test)


def answers_of(model: Model, outputs: np.ndarray, targets: np.ndarray) -> tables.Answers:
  """Compute the `Answers` of the outputs of a model; targets are in the network's units."""
  answer = jax.jit(partial(tables.answers_to, model.description))
  return jax.device_get(answer(outputs, targets))


def summary_of_test(
  dataset: Dataset, outputs: np.ndarray, answers: tables.Answers
) -> dict[str, Any]:
  """Return the scores of the test set for summary.json, all but its loss and its accuracy.

  They are called "test_f1" and so on, see `fbackprop.train.scores.KEYS`. Those of a regression are
  in the units of the data, and of several values "test_by_target" has each one's.

  Args:
    dataset: the data.
    outputs: the network's outputs for the test set, in its own units.
    answers: losses and probabilities of the test set.
  """
  with np.errstate(all="ignore"):  # A diverged run may have any numbers.
    own, own_outputs = in_own_units(dataset, outputs)
    scores = tables.scores_of_test(own, answers, own_outputs)
    if dataset.is_classification:  # As of the last evaluation.
      del scores["accuracy"]
    summary: dict[str, Any] = {f"test_{KEYS[name]}": value for name, value in scores.items()}
    if dataset.task == "regression" and dataset.outputs > 1:
      rows = by_target(own_outputs, own.targets_test)
      summary["test_by_target"] = dict(zip(dataset.output_names, rows, strict=True))
  return summary


def in_own_units(dataset: Dataset, outputs: np.ndarray) -> tuple[Dataset, np.ndarray]:
  """Undo the standardisation of a data set, and of the network's outputs for it."""
  if (of_x := dataset.standardization) is not None:
    x, x_test = map(of_x.undo, (dataset.x, dataset.x_test))
    dataset = replace(dataset, x=x, x_test=x_test, standardization=None)
  if (of_targets := dataset.target_standardization) is not None:
    targets, outputs = map(of_targets.undo, (dataset.targets, outputs))
    known = dataset.raw_targets_test
    tested = of_targets.undo(dataset.targets_test) if known is None else known
    dataset = replace(dataset, targets=targets, targets_test=tested, target_standardization=None)
  return dataset, outputs


def files_of(folder: Path) -> list[tuple[str, int, str]]:
  """List the files beside the page with name, size and purpose; empty for a missing folder."""
  paths = sorted(path for path in folder.glob("[!.]*") if path.is_file())
  return [(path.name, path.stat().st_size, FILES.get(path.name, "")) for path in paths]


# --- The picture ----------------------------------------------------------------------------------


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
    ModuleNotFoundError: matplotlib isn't installed; the message names the extra.
  """
  figure_module = need("matplotlib.figure", extra="plot")
  style = need("matplotlib.style", extra="plot")
  texts = [title, *dataset.output_names, *dataset.features]
  choice = choose_fonts(texts, need("matplotlib", extra="plot").rcParams["font.family"])
  if choice.missing:
    title, dataset = choice.spell(title), romanised(dataset, choice)
    names = "names with them are romanised there, and report.html has them as they are"
    tell(f"report.png: no installed font has {list_characters(choice.missing)}; {names}")
  with style.context({**figures.RULES, "font.family": list(choice.families)}), any_weight():
    outputs = np.asarray(list(signals.values())[-1].y)
    figure = figure_module.Figure(figsize=(SIDE, SIDE), dpi=110)
    lines = [row for line in title.splitlines() for row in textwrap.wrap(line, MOST_LETTERS)]
    figure.suptitle("\n".join(lines), ha="left", va="top", x=0.015, y=0.99, fontsize="medium")
    rows = figure.subplots(3, 2, height_ratios=(3, 3.4, 2))
    groups = (
      curves.panels_of(result), predictions.panels_of(dataset, outputs), layers.panels_of(signals)
    )  # fmt: skip
    for places, panels in zip(rows, groups, strict=True):
      for axes, panel in zip(places, panels[:2], strict=True):
        panel(axes)
    figures.arrange(figure, top=1 - (0.02 * SIDE + LINE * len(lines)) / SIDE)
    file = io.BytesIO()
    # Not by `savefig`, which draws everything twice. Without version and date, so that the same run
    # gives the same bytes.
    canvas = need("matplotlib.backends.backend_agg", extra="plot").FigureCanvasAgg(figure)
    canvas.print_png(file, metadata={"Software": None})
  return file.getvalue()


def romanised(dataset: Dataset, choice: FontChoice) -> Dataset:
  """Replace names by ones that can be drawn, numbered where two would coincide."""
  names = [choice.spell(name) for name in dataset.output_names]
  if len(set(names)) < len(set(dataset.output_names)):
    names = [f"{i}: {name}" for i, name in enumerate(names)]
  features = tuple(choice.spell(name) for name in dataset.features)
  return replace(dataset, output_names=tuple(names), features=features)
