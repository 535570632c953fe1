"""A run as a page to read in a browser: one file, without a script, that asks nobody for anything.

What comes from data and from the command line is text to the page: the template escapes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.extras import need
from fbackprop.inspection import Signals
from fbackprop.train.data.datasets import Dataset
from fbackprop.train.models import Model
from fbackprop.train.report.headline import about, ending_of, tiles_of
from fbackprop.train.report.layer_table import layers_of
from fbackprop.train.report.panels import answers_of, curves_of, drawn, passes_of
from fbackprop.train.report.scores import scores_of
from fbackprop.train.report.worst import MOST_FEATURES, losses_of, pictures_of, rows_of
from fbackprop.train.results import Result

HERE = Path(__file__).parent
FILES = {
  "config.toml": "what the run was told",
  "env.json": "versions, machine, and the fingerprint of the data",
  "metrics.jsonl": "a line for each evaluation",
  "model.safetensors": "the network, for fbackprop predict and eval",
  "report.png": "the run as a picture",
  "summary.json": "the numbers of the end",
}


class Told(NamedTuple):
  """What the page says of a run besides its course.

  Attributes:
    folder: of the run; its files are listed.
    method: how it learned, in a line.
    seed: of all that was drawn.
    settings: all that it was told, and whether each isn't the default.
    environment: where it ran.
    again: the command that repeats it from its folder.
    command: as it was given.
    aside: how many of the training examples were set aside to validate on.
  """

  folder: Path
  method: str
  seed: int
  settings: Sequence[tuple[str, str, bool]]
  environment: Mapping[str, Any]
  again: str
  command: str
  aside: int = 0


def draw_page(
  told: Told, result: Result, dataset: Dataset, signals: Mapping[str, Signals], model: Model
) -> bytes:
  """Writes the page.

  Args:
    told: what the run was told.
    result: the run.
    dataset: what it was trained on.
    signals: what passes through each layer for the test examples, by `fbackprop.inspect`.
    model: the network with the parameters that it ended with.

  Returns:
    An HTML file in UTF-8.

  Raises:
    ModuleNotFoundError: jinja2 or matplotlib isn't installed; the message names the extra.
  """
  outputs = np.asarray(list(signals.values())[-1].y)
  # A run that diverged may have any numbers; the page says which aren't finite.
  with np.errstate(all="ignore"):
    return render(
      told, dataset, model, outputs,
      tiles=tiles_of(result, *in_own_units(dataset, outputs)),
      ending=ending_of(result),
      is_well=result.checks_ok and result.stop_reason != "diverged",
      curves=drawn(curves_of(result)),
      passes=drawn(passes_of(signals)),
      layers=layers_of(signals, result),
    )  # fmt: skip


def render(told: Told, dataset: Dataset, model: Model, outputs: np.ndarray, **course: Any) -> bytes:
  """Fills the page in.

  Args:
    told: as of `draw_page`.
    dataset: likewise.
    model: likewise.
    outputs: for the test examples, in the network's units.
    **course: the names in page.html that say how the run went.
  """
  jinja2 = need("jinja2", extra="train")
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
  )  # fmt: skip
  losses = losses_of(dataset, model, outputs)
  own, own_outputs = in_own_units(dataset, outputs)
  has_pictures = dataset.is_classification and dataset.image_shape is not None
  worst = (own, model, losses, own_outputs)
  page: str = environment.get_template("page.html").render(
    told=told,
    files=files_of(told.folder),
    network=model.description.as_text(),
    parameters=f"{sum(leaf.size for leaf in jax.tree.leaves(model.params)):,}",
    about=about(dataset, told.aside),
    answers=drawn(answers_of(own, model, own_outputs)),
    scores=scores_of(own, own_outputs),
    pictures=pictures_of(*worst) if has_pictures else [],
    worst=None if has_pictures else rows_of(*worst),
    more_features=0 if has_pictures else max(0, len(own.features) - MOST_FEATURES),
    **course,
  )
  return page.encode()


def in_own_units(dataset: Dataset, outputs: np.ndarray) -> tuple[Dataset, np.ndarray]:
  """The data as it was before it was standardised, and outputs of the network likewise."""
  of_x, of_targets = dataset.standardization, dataset.target_standardization
  if of_x is not None:
    x, x_test = of_x.undo(dataset.x), of_x.undo(dataset.x_test)
    dataset = replace(dataset, x=x, x_test=x_test, standardization=None)
  if of_targets is not None:
    outputs = of_targets.undo(outputs)
    targets, tested = of_targets.undo(dataset.targets), dataset.raw_targets_test
    if tested is None:
      tested = of_targets.undo(dataset.targets_test)
    dataset = replace(dataset, targets=targets, targets_test=tested, target_standardization=None)
  return dataset, outputs


def files_of(folder: Path) -> list[tuple[str, int, str]]:
  """What the page stands beside: name, bytes, purpose; nothing in a folder that is gone."""
  paths = sorted(path for path in folder.glob("*") if path.is_file())
  return [(path.name, path.stat().st_size, FILES.get(path.name, "")) for path in paths]
