"""The preparation of a run: its data, network, initial parameters and folder."""

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fbackprop.cli.config import TrainConfig, saved
from fbackprop.cli.console import UsageError, first_of, note, usage_errors, words
from fbackprop.cli.flags import Sources, file_of_run, sources_of
from fbackprop.cli.run_folder import check_same_data, load_json
from fbackprop.cli.warm_start import (
  Start,
  copy_start,
  params_of_start,
  read_start,
  standardization_of,
  with_network_of,
)
from fbackprop.extras import need
from fbackprop.train.arguments import check_batch_size, check_warmup
from fbackprop.train.data.names import kind_and_path

if TYPE_CHECKING:
  from fbackprop.train.data.rows import Dataset
  from fbackprop.train.models import Description
  from fbackprop.train.step import Batch


class Prepared(NamedTuple):
  """A validated run before it begins.

  Attributes:
    config: the configuration; a default batch size is at most the number of examples.
    dataset: the data.
    model: the network.
    examples: the training set.
    validation: the validation set, or None.
    steps: largest number of steps.
    start: the parameters of `--init`, or None.
    params: initial parameters; None to draw them, or if a checkpoint holds them.
  """

  config: TrainConfig
  dataset: "Dataset"
  model: "Description"
  examples: "Batch"
  validation: "Batch | None"
  steps: int
  start: Start | None = None
  params: Any = None

  @property
  def last_step(self) -> int | None:
    """Largest step at which the run ends; None if unknown."""
    stop = self.config.stop
    return None if stop.max_steps is None and stop.max_epochs is None else self.steps

  @property
  def aside(self) -> int:
    """Size of the validation set."""
    return 0 if self.validation is None else len(self.validation.x)

  def about(self) -> list[str]:
    """Describe the data in a few lines, for the user to check."""
    data, start = self.dataset, self.start
    aside = f", {self.aside} validation" if self.aside else ""
    numbers = f"{len(self.examples.x)} training{aside}, {len(data.x_test)} test examples"
    lines = [f"{self.config.data}: {numbers}"]
    if data.inferred:
      kind = f"{len(data.output_names)} classes" if data.is_classification else "values"
      of_task = f"{data.task}, as {data.inferred} ({kind}: {first_of(data.output_names, 8)})"
      lines.append(f"{of_task}; --task overrides it")
    if data.standardization is not None:
      what = "features" if data.target_standardization is None else "features and targets"
      how = "on the training set: mean 0, deviation 1"
      if standardization_of(start, self.config) is not None:
        how = "as for the parameters of --init"
      lines.append(f"{what} standardised {how}")
    lines += data.notes
    return lines if start is None else [*lines, f"started from {self.config.init}"]


def prepare(config: TrainConfig, arguments: Sequence[str]) -> Prepared:
  """Load the data, describe the network, and validate the options that depend on them.

  Raises:
    UsageError: an option doesn't fit the data or the network.
  """
  from fbackprop.train.models import describe_model

  sources = sources_of(arguments)
  start = read_start(config, sources)
  config = with_network_of(start, config, sources)
  options = network_options(config, sources)
  dataset = load(config, sources, start)
  if config.resume is not None:
    check_same_data(config.resume, f"--resume {config.resume}", config.data, dataset.fingerprint)
  with usage_errors(names=sources.names):
    examples, validation = divide(config, dataset)
    n = len(examples.x)
    if not sources.has("batch_size"):
      config = replace(config, batch_size=min(config.batch_size, n))
    check_batch_size(config.batch_size, n, config.watched)
    steps = config.stop.most_steps(n // config.batch_size)
    check_warmup(config.warmup, steps)
  sizes = (dataset.x.shape[1], *config.hidden, dataset.outputs)
  model = describe_model(sizes, config.activation, dataset, **options)
  params = None  # A resumed run has them in its checkpoint.
  if start is not None and config.resume is None:
    params = params_of_start(start, dataset, model)
  prepared = Prepared(config, dataset, model, examples, validation, steps, start, params)
  if config.schedule != "constant":
    check_schedule(prepared, sources)
  return prepared


def check_schedule(prepared: Prepared, sources: Sources) -> None:
  """Raise for a schedule whose length is unknown, or has changed since the run began."""
  config = prepared.config
  if prepared.last_step is None:
    raise UsageError(
      f"{sources.name('schedule')} {config.schedule} requires a known number of steps: give "
      "--stop.max-steps or --stop.max-epochs"
    )
  for word in sources.arguments if config.resume is not None else ():
    if word.startswith("--stop."):
      raise UsageError(
        f"{word.partition('=')[0]} cannot be changed when resuming a run with the schedule "
        f"{config.schedule}, which ends at the step that the run was begun with"
      )


def network_options(config: TrainConfig, sources: Sources) -> dict[str, Any]:
  """Return the options of the network, for `fbackprop.train.models.Description`.

  Raises:
    UsageError: an option would have no effect with these hidden layers.
  """
  is_equal = any(a == b for a, b in itertools.pairwise(config.hidden))
  options: dict[str, Any] = {
    "normalization": config.normalization,
    "dropout": config.dropout,
    "skip": config.skip == "on",
    "repeat_hidden": config.repeat_hidden == "on",
  }
  for key, value in options.items():
    is_of_pairs = key in ("skip", "repeat_hidden")
    if value in (0, "none") or (is_equal if is_of_pairs else config.hidden):
      continue
    needs = "two hidden layers of equal width in a row" if is_of_pairs else "a hidden layer"
    raise UsageError(f"{sources.name(key)} needs {needs}, got {words(config.hidden)}")
  return options


def divide(config: TrainConfig, dataset: "Dataset") -> "tuple[Batch, Batch | None]":
  """Return the training set and the validation set.

  Label smoothing and class weights modify the targets of the training set only.

  Raises:
    ValueError: the task doesn't support an option, or there are too few examples.
  """
  import jax

  from fbackprop.train.examples import rows_aside, training_batch
  from fbackprop.train.step import Batch

  fraction = config.stop.validation_fraction
  train = training_batch(
    dataset, label_smoothing=config.label_smoothing, class_weights=config.class_weights
  )
  if fraction is None:
    return train, None
  plain: Any = (dataset.x, dataset.targets, dataset.weights)
  labels = dataset.targets if dataset.is_classification else None
  rows, aside = rows_aside(len(dataset.x), labels, fraction, jax.random.key(config.seed))
  return jax.tree.map(lambda x: x[rows], train), Batch(*jax.tree.map(lambda x: x[aside], plain))


def load(config: TrainConfig, sources: Sources, start: Start | None = None) -> "Dataset":
  """Load the data of a run.

  Raises:
    UsageError: the data can't be read, or is invalid.
  """
  from fbackprop.train.data.datasets import load_dataset

  known = standardization_of(start, config)
  with usage_errors(f"--data {config.data}", sources.names):
    dataset = load_dataset(
      config.data,
      config.seed,
      target=config.target,
      task=None if config.task == "auto" else config.task,
      standardize=config.standardize,
      test_fraction=config.test_fraction,
      sample_weights=config.sample_weights,
      missing_targets=config.missing_targets,
      rounded=config.resume is not None and "data" not in load_json(config.resume, "env.json"),
      like=None if known is None else (known.standardization, known.target_standardization),
    )
    if dataset.task != "regression":
      need("sklearn", extra="data")  # The report needs it: checked before training.
    return dataset


def begin(prepared: Prepared, arguments: Sequence[str], exits: ExitStack) -> Path:
  """Create the folder of the run, or open that of a resumed run, and write its description.

  Args:
    prepared: the run.
    arguments: the arguments of the command line.
    exits: stack whose closing releases the folder to other runs.

  Raises:
    UsageError: the folder can't be created or written, or is in use by another run.
  """
  from fbackprop.train.checkpoints import FolderInUseError, locked

  config, sources = prepared.config, sources_of(arguments)
  if config.resume is None:
    folder = create_folder(config, sources)
  else:
    folder = file_of_run(config.resume, "checkpoints").parent
  try:
    exits.enter_context(locked(folder))
  except FolderInUseError as error:
    raise UsageError(str(error)) from error
  except OSError as error:
    raise UsageError(f"{folder} can't be opened: {error.strerror}") from error
  describe_run(folder, prepared, sources)
  return folder


def create_folder(config: TrainConfig, sources: Sources) -> Path:
  """Create the run's own folder."""
  from fbackprop.train.run_folder import create_folder as create

  out, name = sources.name("out"), sources.name("name")
  try:
    kind, source = kind_and_path(config.data)
    return create(config.out, config.name, Path(source).stem or kind)
  except FileExistsError as error:
    if config.name is None or not Path(config.out).is_dir():
      raise UsageError(f"{out} {config.out} is not a folder") from error
    path = Path(config.out, config.name)
    raise UsageError(f"{name}: {path} exists already; give another --name") from error
  except OSError as error:
    raise UsageError(f"{out} {config.out}: no folder can be made: {error.strerror}") from error


def describe_run(folder: Path, prepared: Prepared, sources: Sources) -> None:
  """Write config.toml, and for a new run env.json with the fingerprint of the data."""
  from fbackprop.train import run_folder as runs

  config = prepared.config
  if config.resume is not None:
    then, now = read_environment(folder), runs.environment()
    changed = [f"{name} {then[name]}, now {now[name]}" for name in then if then[name] != now[name]]
    if changed:
      note(
        f"{folder} was started in another environment ({'; '.join(changed)}): results may differ "
        "in the last bits"
      )
  try:
    # For a resumed run too, as its stop rules may have changed.
    runs.write_toml(
      folder / "config.toml", saved(config), "Runs again: fbackprop train --config THIS_FILE"
    )
    if config.resume is None:
      runs.write_json(
        folder / "env.json", {**runs.environment(), "data": prepared.dataset.fingerprint}
      )
      if prepared.start is not None:
        copy_start(prepared.start, folder)
  except OSError as error:
    where = f"{sources.name('out')}: {folder}"
    raise UsageError(f"{where} can't be written: {error.strerror}") from error


def read_environment(folder: Path) -> dict[str, Any]:
  """Return the parts of a run's environment that may affect its numbers; empty if unknown."""
  try:
    content = load_json(str(folder), "env.json")
    return {key: content[key] for key in ("jax", "jaxlib", "machine", "cores", "devices")}
  except (UsageError, KeyError):
    return {}
