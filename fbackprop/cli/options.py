"""Options that make sense only with others or with some data; else their flag or key is named."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fbackprop.cli.config import TrainConfig, told_by
from fbackprop.cli.usage import UsageError

if TYPE_CHECKING:
  from fbackprop.train.data.rows import Dataset
  from fbackprop.train.step import Batch


def network_options(config: TrainConfig, arguments: Sequence[str]) -> dict[str, Any]:
  """What stands between the dense layers, as `fbackprop.train.models.Description` has it.

  Raises:
    UsageError: an option would do nothing, as the hidden layers are.
  """
  hidden = config.hidden
  is_equal = any(a == b for a, b in itertools.pairwise(hidden))
  widths = " ".join(map(str, hidden)) or "none"
  for key, is_on, has_place, needs in (
    ("normalization", config.normalization != "none", hidden, "a hidden layer"),
    ("dropout", config.dropout > 0, hidden, "a hidden layer"),
    ("skip", config.skip == "on", is_equal, "two hidden layers of equal width in a row"),
    ("repeat_hidden", config.repeat_hidden == "on", is_equal,
     "two hidden layers of equal width in a row"),
  ):  # fmt: skip
    if is_on and not has_place:
      raise UsageError(f"{told_by(key, arguments)} needs {needs}, got {widths}")
  return {
    "normalization": config.normalization,
    "dropout": config.dropout,
    "skip": config.skip == "on",
    "repeat_hidden": config.repeat_hidden == "on",
  }


def training_examples(
  config: TrainConfig, dataset: "Dataset", arguments: Sequence[str]
) -> "tuple[Batch, Batch | None]":
  """What the run learns from, and what it sets aside to validate on.

  The options of labels and classes are in the targets of the first alone.

  Raises:
    UsageError: the task has no such option, the data another number of classes, or too few
      examples.
  """
  import jax

  from fbackprop.train.step import Batch
  from fbackprop.train.validation import rows_aside
  from fbackprop.train.weighting import training_batch

  plain: Any = (dataset.x, dataset.targets, dataset.weights)
  fraction = config.stop.validation_fraction
  try:
    learned = training_batch(
      dataset, label_smoothing=config.label_smoothing, class_weights=config.class_weights
    )
    if fraction is None:
      return learned, None
    labels = dataset.targets if dataset.is_classification else None
    rows, aside = rows_aside(len(dataset.x), labels, fraction, jax.random.key(config.seed))
  except ValueError as error:
    key, _, rest = str(error).partition(" ")
    raise UsageError(f"{told_by(key, arguments)} {rest}") from error
  return jax.tree.map(lambda x: x[rows], learned), Batch(*jax.tree.map(lambda x: x[aside], plain))


def emphasis_of(config: TrainConfig) -> list[str]:
  """The options of labels, classes and examples that are on, in words."""
  parts = []
  if config.label_smoothing:
    parts.append(f"labels smoothed by {config.label_smoothing:g}")
  if config.class_weights == "balanced":
    parts.append("classes balanced")
  elif not isinstance(config.class_weights, str):
    parts.append(f"classes weighted {' '.join(f'{w:g}' for w in config.class_weights)}")
  if config.sample_weights is not None:
    parts.append(f"examples weighted by {config.sample_weights}")
  return parts
