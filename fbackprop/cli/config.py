"""What a training run is told: frozen dataclasses, a TOML file, flags; a later one wins."""

import math
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import tyro

from fbackprop.cli.runs import file_of_run
from fbackprop.cli.toml import flags_of_file
from fbackprop.cli.usage import UsageError, hint
from fbackprop.train.data.names import MissingTargets, kind_and_path
from fbackprop.train.method_names import (
  NonfiniteName,
  OptimizerName,
  ScheduleName,
  ShuffleName,
  WatchName,
)
from fbackprop.train.stop_rules import StopRules

if TYPE_CHECKING:
  ActivationName = str
else:
  # The activation layers that the package exports, without importing jax; softmax is no choice, as
  # the losses take logits.
  STUB = (Path(__file__).parents[1] / "__init__.pyi").read_text(encoding="utf-8")
  EXPORTED = re.findall(r"^from \.layers\.activations import (\w+)", STUB, re.MULTILINE)
  ActivationName = Literal[*(name for name in EXPORTED if name not in ("activation", "softmax"))]


# The data for which the help shows defaults, if it is said.
HELPED: ContextVar[str | None] = ContextVar("HELPED", default=None)


def default_by_data(shown: str) -> str:
  """What the help says of a default that isn't everybody's."""
  data = HELPED.get()
  return "(default: by the data)" if data is None else f"(default for {data}: {shown})"


by_data = tyro.conf.arg(help_behavior_hint=default_by_data)


@dataclass(frozen=True)
class CkptConfig:
  """Checkpoints, in the folder `checkpoints` of the run; of them a run goes on with --resume."""

  every: int | None = None
  """Steps from one checkpoint to the next; by default one where the run is interrupted."""

  keep: int = 2
  """How many of the last ones are kept, beside the best."""


LEAST, LARGEST = 1e-37, 3e38  # About the ends of float32's range.


@dataclass(frozen=True)
class TrainConfig:
  """Train an MLP by gradient descent, with our own backward pass, and check it while it learns.

  Defaults "by the data" were chosen for each kind of it: `fbackprop train --data NAME --help` shows
  those of NAME, and the config.toml of a run holds every value that it had.
  """

  data: Annotated[str, tyro.conf.arg(metavar="NAME")] = "digits"
  """digits, iris, wine, breast_cancer, diabetes, moons, circles, blobs, spiral, xor, sine, mnist1d,
  csv:FILE, npz:FILE or idx:DIR (the files of MNIST)."""

  target: tuple[str, ...] = ()
  """Of a csv file, the column that is learned, or several; of an npz file, the array."""

  task: Literal["auto", "classification", "regression", "multilabel"] = "auto"
  """What the targets of a csv or npz file are; auto tells it from the values, and says so."""

  standardize: Literal["auto", "on", "off"] = "auto"
  """Features of mean 0 and deviation 1 in the training part; auto: of tables, not of pixels."""

  test_fraction: float = 0.25
  """Of the examples, what is tested on, where the data has no test part of its own."""

  hidden: Annotated[tuple[int, ...], by_data] = (512,)
  """Widths of the hidden layers; none for a linear model."""

  activation: Annotated[ActivationName, by_data] = "relu"
  """Follows each hidden layer."""

  optimizer: OptimizerName = "gradient_descent"
  """What makes a step of a gradient; momentum and nesterov with 0.9, others as optax has them."""

  rate: Annotated[float, by_data] = 0.5
  """Step size, of a schedule the largest one."""

  schedule: ScheduleName = "constant"
  """How the rate changes until --stop.max-steps: along a cosine or a line to 0, or to a 1,000th."""

  warmup: int = 0
  """In so many first steps the rate rises from 0."""

  weight_decay: Annotated[float, by_data] = 0.0
  """This share of each weight matrix, times the rate, is taken off in a step; biases are spared."""

  clip_norm: float | None = None
  """The largest norm of the whole gradient; a longer one is shortened to it."""

  clip_examples: float | None = None
  """The largest norm of an example's gradient; a longer one is shortened to it before the mean is
  taken."""

  normalization: Literal["none", "layer_norm", "rms_norm"] = "none"
  """Of each example's features, after each hidden dense layer."""

  dropout: float = 0.0
  """This share of the hidden activations, drawn anew in each step, is set to 0 while training."""

  skip: Literal["off", "on"] = "off"
  """Between hidden layers of equal width, x + block(x) in the place of block(x)."""

  repeat_hidden: Literal["off", "on"] = "off"
  """Hidden layers of equal width as one compiled loop: a deep network compiles as fast as another.
  """

  label_smoothing: float = 0.0
  """This share of each label is spread over all classes, while training."""

  class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
  """By which the loss of an example is multiplied while training: a number for each class, or
  balanced: examples / (classes · those of its class)."""

  sample_weights: str | None = None
  """Of a csv file the column, of an npz file the array of what examples count for in training."""

  missing_targets: MissingTargets = "refuse"
  """Rows of a csv or npz file without a target (an empty cell, NA, ?, NaN): refuse them, drop them,
  or take a word such as None for the name of a class."""

  batch_size: int = 32
  """Examples of a step; all of them, where there are fewer and nothing is said."""

  shuffle: ShuffleName = "exact"
  """Order of the examples in an epoch: exact, or fast, which is sooner told and less random."""

  seed: int = 0
  """Of the split, the parameters and the order of the examples."""

  ensemble: int = 1
  """So many networks at once, of the seeds from --seed on; they answer as one, by their mean."""

  rates: tuple[float, ...] = ()
  """An ensemble for each of these rates; the one that learns best is kept."""

  eval_every: Annotated[int, by_data] = 200
  """Steps from one evaluation, and line, to the next."""

  check_every: Annotated[int, by_data] = 1000
  """Steps from one comparison of our gradient with jax.grad to the next; 0 for none."""

  watch: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME,...")] = ()
  """What is told besides, in metrics.jsonl and the report: health (of each layer: sizes, dead
  units, overflow), noise_scale (in examples; much larger batches gain little)."""

  stop: StopRules = field(default_factory=lambda: StopRules(max_steps=2000))
  """When to stop."""

  ckpt: CkptConfig = field(default_factory=CkptConfig)
  """When to save what a run needs to go on to the same bits."""

  on_nonfinite: NonfiniteName = "raise"
  """What a step that isn't finite does: ends the run (raise), is left out (skip), or sends the run
  back to the last checkpoint, and on with half the rate (rollback)."""

  init: Annotated[str | None, tyro.conf.arg(metavar="RUN|FILE")] = None
  """Start from the parameters of a run, with its network and standardization, or from those of a
  safetensors file."""

  resume: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
  """Folder of a run that goes on where its last checkpoint stands, as it was told when it began."""

  out: str = "runs"
  """Folder in which the run's own folder is made."""

  name: str | None = None
  """Name of the run's folder; by default the data's name and the next free number."""

  config: str | None = None
  """A TOML file with any of these, such as the config.toml of a run; flags win over it."""

  def __post_init__(self) -> None:
    for flag, value, least in (
      ("batch-size", self.batch_size, 1),
      ("seed", self.seed, 0),
      ("ensemble", self.ensemble, 1),
      ("eval-every", self.eval_every, 1),
      ("check-every", self.check_every, 0),
      ("warmup", self.warmup, 0),
      ("ckpt.every", 1 if self.ckpt.every is None else self.ckpt.every, 1),
      ("ckpt.keep", self.ckpt.keep, 1),
      *(("hidden", width, 1) for width in self.hidden),
    ):
      if value < least:
        raise UsageError(f"--{flag} must be at least {least}, got {value}")
    for flag, value, most in (
      ("seed", self.seed, 2**32 - 1),
      ("ensemble", self.ensemble, min(2**20, 2**32 - self.seed)),
      *(("hidden", width, 2**16) for width in self.hidden),
    ):
      if value > most:
        raise UsageError(f"--{flag} must be at most {most}, got {value}")
    try:
      kind_and_path(self.data)
    except ValueError as error:
      raise UsageError(f"--{error}") from error
    if not 0 < self.test_fraction < 1:
      raise UsageError(f"--test-fraction must be above 0 and below 1, got {self.test_fraction:g}")
    if not (math.isfinite(self.rate) and self.rate > 0):
      raise UsageError(f"--rate must be finite and above 0, got {self.rate}")
    for rate in self.rates:
      if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"--rates must be finite and above 0, got {rate}")
    if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
      raise UsageError(f"--weight-decay must be finite and at least 0, got {self.weight_decay}")
    if self.clip_norm is not None and not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
      raise UsageError(f"--clip-norm must be finite and above 0, got {self.clip_norm}")
    # Of float32, in which the norms are.
    if self.clip_examples is not None and not LEAST <= self.clip_examples <= LARGEST:
      raise UsageError(
        f"--clip-examples must be from {LEAST:g} to {LARGEST:g}, got {self.clip_examples}"
      )
    watchable = get_args(WatchName)
    for name in self.watched:
      if name not in watchable:
        raise UsageError(f"--watch {name!r:.100} is nothing that is known; {hint(name, watchable)}")
    for flag, share in (("dropout", self.dropout), ("label-smoothing", self.label_smoothing)):
      if not 0 <= share < 1:
        raise UsageError(f"--{flag} must be at least 0 and below 1, got {share}")
    if not isinstance(self.class_weights, str):
      is_usable = all(0 <= weight <= LARGEST for weight in self.class_weights)
      if not is_usable or not any(self.class_weights):
        got = " ".join(f"{weight:g}" for weight in self.class_weights) or "nothing"
        raise UsageError(
          "--class-weights must be balanced, none, or a number for each class, finite, at least 0 "
          f"and not all 0, got {got}"
        )
    if self.on_nonfinite == "rollback" and self.ckpt.every is None:
      raise UsageError("--on-nonfinite rollback needs checkpoints to go back to: give --ckpt.every")
    if self.ensemble > 1 or self.rates:
      for flag, is_given in (
        ("ckpt.every", self.ckpt.every is not None),
        ("on-nonfinite", self.on_nonfinite != "raise"),
        ("init", self.init is not None),
        ("resume", self.resume is not None),
        ("clip-examples", self.clip_examples is not None),
        ("watch", bool(self.watch)),
      ):
        if is_given:
          raise UsageError(f"--{flag} is for one network, not for --ensemble or --rates")
    for flag, text in (("out", self.out), ("name", self.name), ("init", self.init)):
      if text is not None and "\0" in text:
        raise UsageError(f"--{flag} can't hold a zero byte, got {text!r:.100}")
    if len(self.hidden) > 2**14 - 2:
      raise UsageError(f"--hidden must be at most {2**14 - 2} layers, got {len(self.hidden)}")
    if self.name in ("", "..") or (self.name is not None and Path(self.name).name != self.name):
      raise UsageError(f"--name must be the name of a folder, not a path, got {self.name!r}")

  @property
  def watched(self) -> tuple[WatchName, ...]:
    """The names of `watch`, each once; words may hold several, between commas."""
    names = (name.strip() for word in self.watch for name in word.split(","))
    return tuple(dict.fromkeys(cast(WatchName, name) for name in names if name))


@dataclass(frozen=True)
class ShownStopRules(StopRules):
  """The stop rules as the help shows them."""

  max_steps: Annotated[int | None, by_data] = None
  """Stop after this many steps."""


# Chosen on validation data: those of digits in experiments/digits_defaults.py, the others, but for
# sine's, in experiments/data_defaults.py. What is small and noisy has fewer steps and more decay.
SMALL = TrainConfig(
  hidden=(64,), rate=0.05, weight_decay=0.01, stop=StopRules(max_steps=500), eval_every=100,
  check_every=250,
)  # fmt: skip
DEFAULTS = {
  "digits": TrainConfig(),
  **{name: replace(SMALL, data=name) for name in ("iris", "diabetes")},
  "sine": TrainConfig(
    data="sine", hidden=(64,), activation="tanh", rate=0.05, stop=StopRules(max_steps=20_000),
    eval_every=1000, check_every=10_000,
  ),
}  # fmt: skip
# Of all other data, bundled or not.
GENERAL = TrainConfig(
  hidden=(64, 64), rate=0.1, weight_decay=1e-3, stop=StopRules(max_steps=2000), eval_every=500,
  check_every=1000,
)  # fmt: skip

# Where a run is written is no part of what it is told to do: its config.toml runs again as it is.
NOT_SAVED = ("out", "name", "config", "resume")


# What may be said anew of a run that goes on: nothing of it changes a step.
WHEN_RESUMED = (
  "--resume", "--ckpt.every", "--ckpt.keep", "--eval-every", "--check-every", "--on-nonfinite",
)  # fmt: skip


def parse(arguments: Sequence[str]) -> TrainConfig:
  """Reads flags, and the file that `--config` names: default < file < flag.

  Args:
    arguments: what stands behind `fbackprop train`.

  Returns:
    The configuration.

  Raises:
    UsageError: a value that can't be; a file that can't be read; an unknown key, with the nearest
      good one.
    SystemExit: of tyro, with code 2 for a wrong flag and 0 for `--help`.
  """
  check_resumed(arguments)
  everything = [*flags_in_file(arguments), *arguments]
  data = last_value(everything, "--data")
  default = DEFAULTS.get(data or "digits", GENERAL)
  told = {
    unit: last_value(everything, f"--stop.max-{unit}") is not None
    for unit in ("steps", "epochs", "seconds")
  }
  if not told["steps"] and any(told.values()):
    # Who says when a run ends doesn't mean another end, of which nothing was said.
    own: dict[str, Any] = {"max_epochs": 1} if told["epochs"] else {"max_seconds": 1.0}
    default = replace(default, stop=replace(default.stop, max_steps=None, **own))
  HELPED.set(data)
  # tyro reads the fields of the class that a default is of.
  default = replace(default, stop=ShownStopRules(**asdict(default.stop)))
  config: TrainConfig = tyro.cli(
    TrainConfig, prog="fbackprop train", default=default, args=everything
  )
  config = replace(config, stop=StopRules(**asdict(config.stop)))
  if config.rates and last_value(arguments, "--rate") is not None:
    # A file has both: a run's config.toml holds every value.
    rates = " ".join(f"{rate:g}" for rate in config.rates)
    where = told_by("rates", arguments)
    raise UsageError(f"--rate says nothing where there are {where} {rates}: give one of the two")
  return config


def last_value(arguments: Sequence[str], flag: str) -> str | None:
  """The value that a flag has at last, before anything is parsed; None if it isn't there."""
  value = None
  for i, word in enumerate(arguments):
    name, equals, rest = word.partition("=")
    if name.replace("_", "-") == flag:  # tyro takes either.
      value = rest if equals else arguments[i + 1] if i + 1 < len(arguments) else None
  return value


def config_file(arguments: Sequence[str]) -> str | None:
  """The TOML file that is read: that of --config, or of the run that goes on."""
  run = last_value(arguments, "--resume")
  return last_value(arguments, "--config") if run is None else str(Path(run, "config.toml"))


def flags_in_file(arguments: Sequence[str]) -> list[str]:
  """That file as flags."""
  path = config_file(arguments)
  return [] if path is None else flags_of_file(path, TrainConfig())


def check_resumed(arguments: Sequence[str]) -> None:
  """Refuses flags that would change the steps of a run that goes on."""
  run = last_value(arguments, "--resume")
  if run is None:
    return
  if not file_of_run(run, "config.toml").is_file():
    raise UsageError(f"--resume {run} holds no config.toml: it must be the folder of a run")
  for word in arguments:
    flag = word.partition("=")[0].replace("_", "-")
    if flag.startswith("--") and flag not in WHEN_RESUMED and not flag.startswith("--stop."):
      raise UsageError(
        f"{flag} can't be given to a run that goes on: it does as it was told in {run}; only "
        f"--stop.*, {', '.join(WHEN_RESUMED[1:])} can"
      )


def told_by(key: str, arguments: Sequence[str]) -> str:
  """What gave a key its value, as an error should call it: the flag, else the file's key."""
  flag = f"--{key}".replace("_", "-")
  is_in_file = is_told(key, arguments) and last_value(arguments, flag) is None
  return f"{config_file(arguments)}: {key}" if is_in_file else flag


def is_told(key: str, arguments: Sequence[str]) -> bool:
  """Whether a key has its value from a flag or from the file, and not by default."""
  everything = [*flags_in_file(arguments), *arguments]
  return last_value(everything, f"--{key}".replace("_", "-")) is not None


def saved(config: TrainConfig) -> dict[str, Any]:
  """The configuration as a TOML table: without what is None, and without where the run is."""
  table = {k: v for k, v in asdict(config).items() if k not in NOT_SAVED and v is not None}
  table["watch"] = list(config.watched)
  for part in ("stop", "ckpt"):
    table[part] = {k: v for k, v in table[part].items() if v is not None}
  return table
