"""`--init RUN|FILE`: a warm start from the parameters of a run or of a safetensors file."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fbackprop.cli.config import TrainConfig
from fbackprop.cli.console import UsageError, first_of, usage_errors, words
from fbackprop.cli.flags import Sources, file_of_run

if TYPE_CHECKING:
  from fbackprop.train.data.rows import Dataset
  from fbackprop.train.models import Description
  from fbackprop.train.weights import Stored

# Copied into the run's own folder, so that it can be resumed without the other one.
COPY = "init.safetensors"


class Start(NamedTuple):
  """The initial parameters of a run.

  Attributes:
    where: their name in an error, such as "--init runs/digits-1".
    stored: content of the file.
    description: description of their network; None for a file of another program.
  """

  where: str
  stored: "Stored"
  description: "Description | None"


def read_start(config: TrainConfig, sources: Sources) -> Start | None:
  """Read the file of `--init`; for a resumed run, its own copy.

  Raises:
    UsageError: the file can't be read, is damaged, or holds an ensemble.
  """
  from fbackprop.train.models import description_of
  from fbackprop.train.weights import read_stored

  if config.init is None:
    return None
  where = f"{sources.name('init')} {config.init}"
  path = Path(config.init)
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
    raise UsageError(
      f"{where} holds an ensemble of {description.ensemble} networks; give the run of one network"
    )
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
      raise UsageError(
        f"{sources.name(key)} {words(asked)} does not fit {start.where}, which has {words(value)}; "
        "leave it out, or train without --init"
      )
  if not sources.has("dropout"):
    theirs["dropout"] = own.dropout
  return replace(config, **theirs)


def standardization_of(start: Start | None, config: TrainConfig) -> "Description | None":
  """Return the description whose standardisation the data must share with the parameters."""
  return start.description if start is not None and config.standardize == "auto" else None


def params_of_start(start: Start, dataset: "Dataset", model: "Description") -> Any:
  """Return the parameters of `--init`, validated for a network and its data.

  Raises:
    UsageError: they are of another task, or of features or outputs with other names (1 and 1.0
      are the same), or a leaf has another shape or dtype.
  """
  import jax

  from fbackprop.train.data.fingerprints import canonical
  from fbackprop.train.weights import params_of

  if start.description is not None:
    if start.description.task != dataset.task:
      raise UsageError(
        f"{start.where} was trained on a {start.description.task}, and the data is a "
        f"{dataset.task}; give --task {start.description.task}, or train without --init"
      )
    for what, theirs, ours in (
      ("features", start.description.features, dataset.features),
      ("outputs", start.description.outputs, dataset.output_names),
    ):
      if list(map(canonical, theirs)) != list(map(canonical, ours)):
        raise UsageError(
          f"{start.where}: its {len(theirs)} {what} are {first_of(theirs)}, and those of the data "
          f"{first_of(ours)} ({len(ours)}); name the same, in the same order"
        )
  with usage_errors(start.where):
    return params_of(start.stored, jax.eval_shape(model.net.init, jax.random.key(0)))


def copy_start(start: Start, folder: Path) -> None:
  """Copy the file of `--init` into the folder of the run.

  Raises:
    OSError: the copy can't be written.
  """
  from fbackprop.files import read_plain, write_whole

  write_whole(folder / COPY, read_plain(start.stored.path))
