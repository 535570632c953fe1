"""What a run needs before it begins, or a usage error that names the flag or the file's key."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fbackprop.cli.config import TrainConfig, is_told, saved, told_by
from fbackprop.cli.options import emphasis_of, network_options, training_examples
from fbackprop.cli.runs import check_same_data, file_of_run, load_json
from fbackprop.cli.start import (
  Start,
  copy_start,
  params_of_start,
  read_start,
  standardization_of,
  with_network_of,
)
from fbackprop.cli.usage import UsageError
from fbackprop.extras import need
from fbackprop.train.data.names import kind_and_path

if TYPE_CHECKING:
  from fbackprop.train.data.rows import Dataset
  from fbackprop.train.models import Description
  from fbackprop.train.step import Batch


class Prepared(NamedTuple):
  """A run that could begin.

  Attributes:
    config: as it was told, but for a default batch that is larger than the data.
    dataset: the data.
    model: the network.
    examples: what it learns from.
    validation: what is set aside, or None.
    steps: the most there can be.
    start: of `--init`, or None.
    params: what the run starts from; None to draw it, or where a checkpoint holds it.
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
    """The step at which the run ends at the latest, if that is known."""
    stop = self.config.stop
    return None if stop.max_steps is None and stop.max_epochs is None else self.steps

  @property
  def is_standardized_as_before(self) -> bool:
    """Whether the standardization is that of `--init`."""
    return standardization_of(self.start, self.config) is not None

  @property
  def aside(self) -> int:
    """How many examples are set aside."""
    return 0 if self.validation is None else len(self.validation.x)

  def about(self) -> list[str]:
    """The data in some lines."""
    aside = f", {self.aside} to validate on" if self.aside else ""
    numbers = f"{len(self.examples.x)} examples to train on{aside}"
    first = f"{self.config.data}: {numbers}, {len(self.dataset.x_test)} to test on"
    lines = [first, *about(self.dataset, self.is_standardized_as_before)]
    return lines if self.start is None else [*lines, f"started from {self.config.init}"]


def prepare(config: TrainConfig, arguments: Sequence[str]) -> Prepared:
  """Loads the data, describes the network, and looks at what they don't allow.

  Raises:
    UsageError: something can't be.
  """
  from fbackprop.train.models import describe_model

  start = read_start(config, arguments)
  config = with_network_of(start, config, arguments)
  options = network_options(config, arguments)
  dataset = load(config, arguments, start)
  if config.resume is not None:
    check_same_data(config.resume, f"--resume {config.resume}", config.data, dataset.fingerprint)
  examples, validation = training_examples(config, dataset, arguments)
  n = len(examples.x)
  if config.batch_size > n:
    if is_told("batch_size", arguments):
      where = told_by("batch_size", arguments)
      raise UsageError(
        f"{where} must be at most the {n} training examples, got {config.batch_size}"
      )
    config = replace(config, batch_size=n)
  sizes = (dataset.x.shape[1], *config.hidden, dataset.outputs)
  model = describe_model(sizes, config.activation, dataset, **options)
  params = None  # Of a run that is resumed the checkpoint has them.
  if start is not None and config.resume is None:
    params = params_of_start(start, dataset, model)
  steps = config.stop.most_steps(n // config.batch_size)
  if "noise_scale" in config.watched and config.batch_size < 2:
    where = told_by("watch", arguments)
    raise UsageError(
      f"{where} noise_scale needs batches of at least 2 examples, as one has no scatter, got "
      f"{config.batch_size}"
    )
  if config.warmup > steps:
    where = told_by("warmup", arguments)
    raise UsageError(f"{where} must be at most the {steps} steps of the run, got {config.warmup}")
  prepared = Prepared(config, dataset, model, examples, validation, steps, start, params)
  if config.schedule != "constant" and prepared.last_step is None:
    where = told_by("schedule", arguments)
    raise UsageError(
      f"{where} {config.schedule} must know the steps of the run: give --stop.max-steps or "
      "--stop.max-epochs"
    )
  if config.schedule != "constant" and config.resume is not None:
    for flag in (word.partition("=")[0] for word in arguments if word.startswith("--stop.")):
      raise UsageError(
        f"{flag} can't be given to a run that goes on with the schedule {config.schedule}, which "
        "ends where the run was to end when it began"
      )
  return prepared


def begin(prepared: Prepared, arguments: Sequence[str], exits: ExitStack) -> Path:
  """Makes the folder of the run, with what it was told, where it runs, and on which examples.

  Args:
    prepared: the run.
    arguments: what it was told.
    exits: until they close, no other run can write to the folder.

  Raises:
    UsageError: it can't be made or written, or another run writes to it.
  """
  from fbackprop.train.checkpoint_writer import FolderInUseError, locked

  config = prepared.config
  if config.resume is None:
    folder = create_folder(config, arguments)
  else:
    folder = file_of_run(config.resume, "checkpoints").parent
  try:
    exits.enter_context(locked(folder))
  except FolderInUseError as error:
    raise UsageError(str(error)) from error
  except OSError as error:
    raise UsageError(f"{folder} can't be opened: {error.strerror}") from error
  describe_run(folder, prepared, arguments)
  return folder


def describe_run(folder: Path, prepared: Prepared, arguments: Sequence[str]) -> None:
  """Writes what a run was told and where it runs; of one that goes on, that is known already.

  env.json also has the fingerprint of the examples, as "data".

  Raises:
    UsageError: it can't be written.
  """
  from fbackprop.train import run_folder as runs

  config = prepared.config
  if config.resume is not None:
    then, now = read_environment(folder), runs.environment()
    changed = [f"{name} {then[name]}, now {now[name]}" for name in then if then[name] != now[name]]
    if changed:
      print(
        f"fbackprop: {folder} was begun elsewhere ({'; '.join(changed)}): the bits may differ",
        file=sys.stderr,
      )
  try:
    # Also of one that goes on, which may have been given another end.
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
    where = told_by("out", arguments)
    raise UsageError(f"{where}: {folder} can't be written: {error.strerror}") from error


def read_environment(folder: Path) -> dict[str, Any]:
  """Where a run began, as far as its numbers may depend on it; nothing if that isn't known."""
  try:
    content = load_json(str(folder), "env.json")
    return {key: content[key] for key in ("jax", "jaxlib", "machine", "cores", "devices")}
  except (UsageError, KeyError):
    return {}


def create_folder(config: TrainConfig, arguments: Sequence[str]) -> Path:
  """The run's own folder, or a usage error that names the flag, or the file's key."""
  from fbackprop.train.run_folder import create_folder as create

  out, name = (told_by(key, arguments) for key in ("out", "name"))
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


def load(config: TrainConfig, arguments: Sequence[str], start: Start | None = None) -> "Dataset":
  """The data of a run, or a usage error that says what is wrong with it."""
  from fbackprop.train.data.datasets import load_dataset

  known = standardization_of(start, config)
  try:
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
      need("sklearn", extra="data")  # Of the report: a run that can't be reported isn't begun.
    return dataset
  except ModuleNotFoundError as error:
    raise UsageError(str(error)) from error
  except OSError as error:
    where = error.filename or config.data
    raise UsageError(f"--data {config.data}: {where}: {error.strerror or error}") from error
  except ValueError as error:
    key, _, rest = str(error).partition(" ")
    is_key = key in ("target", "task", "sample_weights", "missing_targets", "init")
    where = told_by(key, arguments) + " " if is_key else f"--data {config.data}: "
    raise UsageError(where + (rest if is_key else str(error))) from error


def about(dataset: "Dataset", is_standardized_as_before: bool = False) -> list[str]:
  """What is learned from a file, and what was done to it: what a user of it would want to check."""
  lines = []
  if dataset.inferred:
    names = ", ".join(dataset.output_names[:8]) + (", ..." if len(dataset.output_names) > 8 else "")
    kind = f"{len(dataset.output_names)} classes" if dataset.is_classification else "values"
    lines.append(f"{dataset.task}, as {dataset.inferred} ({kind}: {names}); --task says otherwise")
  if dataset.standardization is not None:
    what = "features" if dataset.target_standardization is None else "features and targets"
    how = "by the training part: mean 0, deviation 1"
    if is_standardized_as_before:
      how = "as they were for the parameters of --init"
    lines.append(f"{what} standardised {how}")
  return [*lines, *dataset.notes]


def method_of(config: TrainConfig) -> str:
  """How a run learns, in a line."""
  name = "Nesterov momentum" if config.optimizer == "nesterov" else config.optimizer
  rates = config.rates or (config.rate,)
  word = "rate" if len(rates) == 1 else "rates"
  parts = [f"{name.replace('_', ' ')}, {word} {' '.join(f'{rate:g}' for rate in rates)}"]
  if config.schedule != "constant":
    parts[0] += f" {config.schedule}"
  if config.warmup:
    parts.append(f"warmup {config.warmup}")
  if config.weight_decay:
    parts.append(f"weight decay {config.weight_decay:g}")
  if config.clip_norm is not None:
    parts.append(f"gradient up to {config.clip_norm:g}")
  if config.clip_examples is not None:
    parts.append(f"examples' gradients up to {config.clip_examples:g}")
  parts += emphasis_of(config)
  return ", ".join([*parts, f"batches of {config.batch_size}"])
