"""`--init RUN|FILE`: the parameters that a run starts from, and what they were trained on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fbackprop.cli.config import TrainConfig, is_told, told_by
from fbackprop.cli.runs import file_of_run
from fbackprop.cli.usage import UsageError

if TYPE_CHECKING:
  from fbackprop.train.data.rows import Dataset
  from fbackprop.train.models import Description
  from fbackprop.train.weights import Stored

# In the run's own folder, so that it can be resumed when the first one is gone.
COPY = "init.safetensors"
# What a network is, by the flag that says it.
NETWORK = ("hidden", "activation", "normalization", "skip", "repeat_hidden")


class Start(NamedTuple):
  """What a run starts from.

  Attributes:
    where: what an error calls it, as "--init runs/digits-1".
    stored: the file.
    description: what its network was; None for a file that another program wrote.
  """

  where: str
  stored: "Stored"
  description: "Description | None"


def read_start(config: TrainConfig, arguments: Sequence[str]) -> Start | None:
  """Reads the file that `--init` names; of a run that is resumed, its own copy.

  Raises:
    UsageError: it can't be read, is damaged, or holds an ensemble.
  """
  from fbackprop.train.models import description_of
  from fbackprop.train.weights import read_stored

  if config.init is None:
    return None
  where = f"{told_by('init', arguments)} {config.init}"
  path = Path(config.init)
  if config.resume is not None:
    path = file_of_run(config.resume, COPY)
  elif path.is_dir():
    path = file_of_run(config.init, "model.safetensors")
  try:
    stored = read_stored(path)
    description = description_of(stored)
  except FileNotFoundError as error:
    raise UsageError(
      f"{where}: there is no {path}; give the folder of a run that has ended, or a safetensors file"
    ) from error
  except OSError as error:
    raise UsageError(f"{where}: {path} cannot be read: {error.strerror or error}") from error
  except (ValueError, TypeError) as error:
    raise UsageError(f"{where}: {error}") from error
  if description is not None and description.ensemble is not None:
    raise UsageError(
      f"{where} holds an ensemble of {description.ensemble} networks; give the run of one network"
    )
  return Start(where, stored, description)


def with_network_of(
  start: Start | None, config: TrainConfig, arguments: Sequence[str]
) -> TrainConfig:
  """The configuration with the network of `--init` where no flag names another.

  Raises:
    UsageError: a flag does, and the parameters don't fit it.
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
  for key in NETWORK:
    if is_told(key, arguments) and getattr(config, key) != theirs[key]:
      said, has = (
        " ".join(map(str, value)) or "none" if isinstance(value, tuple) else value
        for value in (getattr(config, key), theirs[key])
      )
      raise UsageError(
        f"{told_by(key, arguments)} {said} does not fit {start.where}, which has {has}; leave it "
        "out, or train without --init"
      )
  if not is_told("dropout", arguments):
    theirs["dropout"] = own.dropout
  return replace(config, **theirs)


def standardization_of(start: Start | None, config: TrainConfig) -> "Description | None":
  """The network whose standardization the data must have: its parameters know no other."""
  return start.description if start is not None and config.standardize == "auto" else None


def params_of_start(start: Start, dataset: "Dataset", model: "Description") -> Any:
  """The parameters of `--init`, for a network and its data.

  Raises:
    UsageError: another task was learned, features or outputs have other names (1 and 1.0 are one),
      or a leaf has another shape or dtype.
  """
  import jax

  from fbackprop.train.data.fingerprints import canonical
  from fbackprop.train.weights import params_of

  if start.description is not None:
    if start.description.task != dataset.task:
      raise UsageError(
        f"{start.where} learned a {start.description.task}, and the data is taken for a "
        f"{dataset.task}; give --task {start.description.task}, or train without --init"
      )
    for what, theirs, ours in (
      ("features", start.description.features, dataset.features),
      ("outputs", start.description.outputs, dataset.output_names),
    ):
      if list(map(canonical, theirs)) != list(map(canonical, ours)):
        raise UsageError(
          f"{start.where}: its {len(theirs)} {what} are {some(theirs)}, and those of the data "
          f"{some(ours)} ({len(ours)}); name the same, in the same order"
        )
  try:
    return params_of(start.stored, jax.eval_shape(model.net.init, jax.random.key(0)))
  except (ValueError, TypeError) as error:
    raise UsageError(f"{start.where}: {error}") from error


def some(names: tuple[str, ...]) -> str:
  """Names for a message, of many the first ones."""
  return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def copy_start(start: Start, folder: Path) -> None:
  """Keeps the file of `--init` in the folder of the run.

  Raises:
    OSError: it can't be written.
  """
  from fbackprop.files import read_plain, write_whole

  write_whole(folder / COPY, read_plain(start.stored.path))
