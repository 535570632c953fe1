"""The preparation of a run: its data, network, initial parameters and folder. It imports jax."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fbackprop.cli.config import Sources, TrainConfig, saved
from fbackprop.cli.console import UsageError, failing, first_of, note, usage_errors, words
from fbackprop.cli.run_folder import check_same_data, file_of_run, load_json
from fbackprop.files import read_plain, write_whole
from fbackprop.train import run_folder as runs
from fbackprop.train.arguments import check_batch_size, check_warmup
from fbackprop.train.checkpoints import FolderInUseError, locked
from fbackprop.train.data import datasets
from fbackprop.train.data.fingerprints import canonical
from fbackprop.train.data.formats import kind_and_path
from fbackprop.train.data.rows import Dataset
from fbackprop.train.examples import rows_aside, training_batch
from fbackprop.train.models import Description, describe_model, description_of
from fbackprop.train.step import Batch
from fbackprop.train.weights import Stored, params_of, read_stored

# Copied into the run's own folder, so that it can be resumed without the other one.
COPY = "init.safetensors"


class Start(NamedTuple):
  """The initial parameters of a run, of another run or of a safetensors file: `--init`.

  Attributes:
    where: their name in an error, such as "--init runs/digits-1".
    stored: content of the file.
    description: description of their network; None for a file of another program.
  """

  where: str
  stored: Stored
  description: Description | None


class Prepared(NamedTuple):
  """A validated run before it begins.

  Attributes:
    config: the configuration; a default batch size is at most the number of examples.
    sources: the sources of its values.
    dataset: the data.
    model: the network.
    examples: the training set.
    validation: the validation set, or None.
    steps: largest number of steps.
    start: the parameters of `--init`, or None.
    params: initial parameters; None to draw them, or if a checkpoint holds them.
  """

  config: TrainConfig
  sources: Sources
  dataset: Dataset
  model: Description
  examples: Batch
  validation: Batch | None
  steps: int
  start: Start | None
  params: Any

  @property
  def last_step(self) -> int | None:
    """Largest step at which the run ends; None if unknown."""
    stop = self.config.stop
    return None if stop.max_steps is None and stop.max_epochs is None else self.steps

  @property
  def aside(self) -> int:
    """Size of the validation set."""
    return 0 if self.validation is None else len(self.validation.x)

  def about(self) -> str:
    """Describe the data in a few lines, for the user to check."""
    data, aside = self.dataset, f", {self.aside} validation" if self.aside else ""
    numbers = f"{len(self.examples.x)} training{aside}, {len(data.x_test)} test examples"
    lines = [f"{self.config.data}: {numbers}"]
    if data.inferred:
      kind = f"{len(data.output_names)} classes" if data.is_classification else "values"
      of_task = f"{data.task}, as {data.inferred} ({kind}: {first_of(data.output_names, 8)})"
      lines.append(f"{of_task}; --task overrides it")
    if data.standardization is not None:
      what = "features" if data.target_standardization is None else "features and targets"
      how = "on the training set: mean 0, deviation 1"
      if standardization_of(self.start, self.config) is not None:
        how = "as for the parameters of --init"
      lines.append(f"{what} standardised {how}")
    started = [] if self.start is None else [f"started from {self.config.init}"]
    return "\n".join([*lines, *data.notes, *started])


def prepare(config: TrainConfig, sources: Sources) -> Prepared:
  """Load the data, describe the network, and validate the options that depend on them.

  Raises:
    UsageError: an option doesn't fit the data or the network.
  """
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
  prepared = Prepared(config, sources, dataset, model, examples, validation, steps, start, params)
  if config.schedule != "constant":
    check_schedule(prepared)
  return prepared


def check_schedule(prepared: Prepared) -> None:
  """Raise for a schedule whose length is unknown, or has changed since the run began."""
  config, sources = prepared.config, prepared.sources
  if prepared.last_step is None:
    advice = "give --stop.max-steps or --stop.max-epochs"
    sources.refuse("schedule", f"{config.schedule} requires a known number of steps: {advice}")
  for word in sources.arguments if config.resume is not None else ():
    if word.startswith("--stop."):
      flag, end = word.partition("=")[0], "which ends at the step that the run was begun with"
      resumed = f"when resuming a run with the schedule {config.schedule}, {end}"
      raise UsageError(f"{flag} cannot be changed {resumed}")


# --- The network and the data ---------------------------------------------------------------------


def network_options(config: TrainConfig, sources: Sources) -> dict[str, Any]:
  """Return the options of the network, for `fbackprop.train.models.Description`.

  Raises:
    UsageError: an option would have no effect with these hidden layers.
  """
  pairs = any(a == b for a, b in itertools.pairwise(config.hidden))
  options: dict[str, Any] = {}
  for key, needed, needs in (
    ("normalization", config.hidden, "a hidden layer"),
    ("dropout", config.hidden, "a hidden layer"),
    ("skip", pairs, "two hidden layers of equal width in a row"),
    ("repeat_hidden", pairs, "two hidden layers of equal width in a row"),
  ):
    value = getattr(config, key)
    options[key] = {"on": True, "off": False}.get(value, value)
    if options[key] not in (0, "none") and not needed:
      sources.refuse(key, f"needs {needs}, got {words(config.hidden)}")
  return options


def load(config: TrainConfig, sources: Sources, start: Start | None) -> Dataset:
  """Load the data of a run.

  Raises:
    UsageError: the data can't be read, or is invalid.
  """
  known = standardization_of(start, config)
  with usage_errors(f"--data {config.data}", sources.names):
    return datasets.load_dataset(
      config.data, config.seed, target=config.target,
      task=None if config.task == "auto" else config.task,
      standardize=config.standardize, test_fraction=config.test_fraction,
      sample_weights=config.sample_weights, missing_targets=config.missing_targets,
      **table_options(config, known), encoding=None if known is None else known.encoding,
      rounded=config.resume is not None and "data" not in load_json(config.resume, "env.json"),
      like=None if known is None else (known.standardization, known.target_standardization),
    )  # fmt: skip


def table_options(config: TrainConfig, start: Description | None = None) -> dict[str, Any]:
  """Return the options of tables, for `load_dataset`; with the columns of a pretrained network."""
  own: dict[str, Any] = {
    "drop": config.drop, "categorical": config.categorical, "separator": config.separator,
    "decimal": config.decimal, "features": config.features or None,
  }  # fmt: skip
  if start is not None and start.encoding is not None:
    own |= {"known": start.encoding.columns, "features": None, "categorical": ()}
  return own


def divide(config: TrainConfig, dataset: Dataset) -> tuple[Batch, Batch | None]:
  """Return the training set and the validation set.

  Label smoothing and class weights modify the targets of the training set only.

  Raises:
    ValueError: the task doesn't support an option, or there are too few examples.
  """
  fraction, smoothing = config.stop.validation_fraction, config.label_smoothing
  train = training_batch(dataset, label_smoothing=smoothing, class_weights=config.class_weights)
  if fraction is None:
    return train, None
  plain: Any = (dataset.x, dataset.targets, dataset.weights)
  labels = dataset.targets if dataset.is_classification else None
  rows, aside = rows_aside(len(dataset.x), labels, fraction, jax.random.key(config.seed))
  return jax.tree.map(lambda x: x[rows], train), Batch(*jax.tree.map(lambda x: x[aside], plain))


# --- The initial parameters -----------------------------------------------------------------------


def read_start(config: TrainConfig, sources: Sources) -> Start | None:
  """Read the file of `--init`; for a resumed run, its own copy.

  Raises:
    UsageError: the file can't be read, is damaged, or holds an ensemble.
  """
  if config.init is None:
    return None
  where, path = f"{sources.name('init')} {config.init}", Path(config.init)
  if config.resume is not None:
    path = file_of_run(config.resume, COPY)
  elif path.is_dir():
    path = file_of_run(config.init, "model.safetensors")
  with usage_errors(where):
    if not path.exists():
      files = "the folder of a run that has ended, or a safetensors file"
      raise UsageError(f"{where}: there is no {path}; give {files}")
    stored = read_stored(path)
    description = description_of(stored)
  if description is not None and description.ensemble is not None:
    networks = f"an ensemble of {description.ensemble} networks"
    raise UsageError(f"{where} holds {networks}; give the run of one network")
  return Start(where, stored, description)


def with_network_of(start: Start | None, config: TrainConfig, sources: Sources) -> TrainConfig:
  """Return the configuration with the network of `--init`.

  Raises:
    UsageError: another network is requested.
  """
  if start is None or start.description is None:
    return config
  own = start.description
  theirs: dict[str, Any] = {
    "hidden": own.sizes[1:-1],
    "activation": own.activation,
    "normalization": own.normalization,
    "skip": "on" if own.skip else "off",
    "repeat_hidden": "on" if own.repeat_hidden else "off",
  }
  for key, value in theirs.items():
    asked = getattr(config, key)
    if sources.has(key) and asked != value:
      problem = f"{words(asked)} does not fit {start.where}, which has {words(value)}"
      sources.refuse(key, f"{problem}; leave it out, or train without --init")
  if not sources.has("dropout"):
    theirs["dropout"] = own.dropout
  return replace(config, **theirs)


def standardization_of(start: Start | None, config: TrainConfig) -> Description | None:
  """Return the description whose standardisation the data must share with the parameters."""
  return start.description if start is not None and config.standardize == "auto" else None


def params_of_start(start: Start, dataset: Dataset, model: Description) -> Any:
  """Return the parameters of `--init`, validated for a network and its data.

  Raises:
    UsageError: they are of another task, or of features or outputs with other names (1 and 1.0
      are the same), or a leaf has another shape or dtype.
  """
  own, encoding = start.description, dataset.encoding
  if own is not None:
    raw_names = dataset.features if encoding is None else encoding.raw_names
    if own.task != dataset.task:
      tasks = f"was trained on a {own.task}, and the data is a {dataset.task}"
      raise UsageError(f"{start.where} {tasks}; give --task {own.task}, or train without --init")
    for what, theirs, ours in (
      ("features", own.features, raw_names),
      ("outputs", own.outputs, dataset.output_names),
    ):
      if list(map(canonical, theirs)) != list(map(canonical, ours)):
        known = f"its {len(theirs)} {what} are {first_of(theirs)}"
        given = f"those of the data {first_of(ours)} ({len(ours)})"
        raise UsageError(f"{start.where}: {known}, and {given}; name the same, in the same order")
  with usage_errors(start.where):
    return params_of(start.stored, jax.eval_shape(lambda: model.net.init(jax.random.key(0))))


# --- The folder -----------------------------------------------------------------------------------


@contextmanager
def begin(prepared: Prepared) -> Iterator[Path]:
  """Create the folder of the run, or open that of a resumed run, and write its description.

  It is config.toml, and for a new run env.json with the fingerprint of the data.

  Yields:
    The path of the folder, which no other run can use within the block.

  Raises:
    UsageError: the folder can't be created or written, or is in use by another run.
  """
  config, sources = prepared.config, prepared.sources
  if config.resume is None:
    folder = create_folder(config, sources)
  else:
    folder = file_of_run(config.resume, "checkpoints").parent
  with ExitStack() as exits:
    try:
      exits.enter_context(locked(folder))
    except OSError as error:
      is_in_use = isinstance(error, FolderInUseError)
      problem = str(error) if is_in_use else f"{folder} can't be opened: {error.strerror}"
      raise UsageError(problem) from error
    if config.resume is not None:
      note_changes(folder)
    with failing(f"{sources.name('out')}: {folder} can't be written"):
      # For a resumed run too, as its stop rules may have changed.
      again = "Runs again: fbackprop train --config THIS_FILE"
      runs.write_toml(folder / "config.toml", saved(config), again)
      if config.resume is None:
        environment = {**runs.environment(), "data": prepared.dataset.fingerprint}
        runs.write_json(folder / "env.json", environment)
        if prepared.start is not None:
          write_whole(folder / COPY, read_plain(prepared.start.stored.path))
    yield folder


def create_folder(config: TrainConfig, sources: Sources) -> Path:
  """Create the run's own folder."""
  out = f"{sources.name('out')} {config.out}"
  kind, source = kind_and_path(config.data)
  with failing(f"{out}: no folder can be made"):
    try:
      return runs.create_folder(config.out, config.name, Path(source).stem or kind)
    except FileExistsError as error:
      is_taken = config.name is not None and Path(config.out).is_dir()
      name = f"{sources.name('name')}: {Path(config.out, str(config.name))}"
      taken = f"{name} exists already; give another --name"
      raise UsageError(taken if is_taken else f"{out} is not a folder") from error


def note_changes(folder: Path) -> None:
  """Print what differs from the environment in which a run was started, if that is known."""
  now = runs.environment()
  with suppress(UsageError, KeyError):
    env = load_json(str(folder), "env.json")
    then = {key: env[key] for key in ("jax", "jaxlib", "machine", "cores", "devices")}
    changed = [f"{name} {then[name]}, now {now[name]}" for name in then if then[name] != now[name]]
    if changed:
      started = f"{folder} was started in another environment ({'; '.join(changed)})"
      note(f"{started}: results may differ in the last bits")
