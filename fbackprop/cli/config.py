"""The configuration of a training run: its settings, their defaults, and how they are written."""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NoReturn, cast

import tyro

from fbackprop.cli.console import UsageError, words
from fbackprop.train import arguments
from fbackprop.train.arguments import StopRules
from fbackprop.train.data.names import Decimal, MissingTargets, Separator

if TYPE_CHECKING:
  ActivationName = str
else:
  # The activation layers that the package exports, read without importing jax; softmax is excluded,
  # as the losses take logits.
  STUB = (Path(__file__).parents[1] / "__init__.pyi").read_text(encoding="utf-8")
  EXPORTED = re.findall(r"^from \.layers\.activations import (\w+)", STUB, re.MULTILINE)
  ActivationName = Literal[*(name for name in EXPORTED if name not in ("activation", "softmax"))]


# The data set whose defaults the help shows, if one is given.
HELPED: ContextVar[str | None] = ContextVar("HELPED", default=None)


def default_by_data(shown: str) -> str:
  """Return the help's text for a default that depends on the data."""
  data = HELPED.get()
  return "(default: by the data)" if data is None else f"(default for {data}: {shown})"


# Short, as tyro gives up its column of flags where most are wide.
Columns = Annotated[tuple[str, ...], tyro.conf.arg(metavar="STR ...")]
by_data = tyro.conf.arg(help_behavior_hint=default_by_data)


@dataclass(frozen=True)
class CkptConfig:
  """Checkpoints, in the folder `checkpoints` of the run, from which --resume continues.

  Attributes:
    every: Steps between checkpoints; by default only one, when the run is interrupted.
    keep: Number of most recent checkpoints to keep, besides the best one.
  """

  every: int | None = None
  keep: int = 2


@dataclass(frozen=True)
class TrainConfig:
  """Train a multilayer perceptron by gradient descent with a hand-written backward pass, and check
  its gradients against jax.grad during training.

  Defaults "by the data" depend on --data: `fbackprop train --data NAME --help` shows those of NAME,
  and the config.toml of a run holds every value that it had.

  Attributes:
    data: Data set: digits, iris, wine, breast_cancer, diabetes, moons, circles, blobs, spiral, xor,
      sine, mnist1d, csv:FILE, parquet:FILE, npz:FILE, idx:DIR (the MNIST files) or
      mat:FILE (EMNIST's for MATLAB).
    target: Target columns of a csv or parquet file, or target array of an npz file.
    features: Feature columns of a csv or parquet file; by default all but the target.
    drop: Columns of a csv or parquet file that are no features, such as an index or an id.
    categorical: Feature columns of a csv or parquet file that are words, one-hot encoded, whatever
      they look like, such as postal codes.
    separator: What separates the cells of a csv file; auto finds it in the first lines.
    decimal: Decimal separator of a csv file, whose thousands the other one may separate; auto finds
      it in the numbers.
    task: Task of a file; auto infers it from the targets and prints it.
    standardize: Standardization of the features to mean 0 and deviation 1 in the training set;
      auto: of tables, not of images.
    test_fraction: Fraction of the examples in the test set, for data without a test set of its own.
    hidden: Widths of the hidden layers; none for a linear model.
    activation: Activation function of the hidden layers.
    rule: Backward rule: backprop (the exact gradient), or a biologically motivated one:
      feedback_alignment, direct_feedback_alignment, sign_symmetry, kolen_pollack, drtp,
      difference_target_propagation (noise 0.1), predictive_coding (20 steps of inference).
    optimizer: Optimizer; momentum and nesterov with momentum 0.9, kfac with damping 0.01, the
      others with optax's defaults.
    rate: Learning rate; the peak one of a schedule.
    schedule: Learning-rate schedule until --stop.max-steps: cosine or linear decay to 0, or
      exponential decay to a 1,000th.
    warmup: Steps of linear learning-rate warmup.
    weight_decay: Decoupled weight decay (weight matrices only).
    clip_norm: Clip the gradient to this global norm.
    clip_examples: Clip each example's gradient to this norm before they are averaged.
    normalization: Normalization of each example's features after each hidden dense layer.
    dropout: Dropout rate of the hidden activations.
    skip: Skip connections, x + block(x), between hidden layers of equal width.
    repeat_hidden: Hidden layers of equal width as one compiled loop; compile time is independent of
      depth.
    label_smoothing: Label smoothing: the fraction of each label that is spread over all classes in
      training.
    class_weights: Class weights of the training loss: a number for each class, or balanced, which
      is inversely proportional to the class frequencies.
    sample_weights: Column of a csv file, or array of an npz file, with sample weights of the
      training loss.
    missing_targets: Missing targets of a csv or npz file (an empty cell, NA, ?, NaN): refuse the
      file, drop the rows, or take a word such as None for a class.
    batch_size: Minibatch size; by default no more than there are training examples.
    shuffle: Shuffling: exact (uniform) or fast (keyed pseudorandom permutation, cheaper).
    seed: Random seed of the split, the initialization and the shuffling.
    ensemble: Train this many networks from consecutive seeds and average their predictions.
    rates: Learning rates to compare, with an ensemble for each; the best one is kept.
    eval_every: Steps between evaluations, each of which prints a line.
    check_every: Steps between comparisons of our gradient with jax.grad; 0 for none.
    watch: Extra diagnostics to record: health (of each layer: norms, dead units, overflow),
      noise_scale (the gradient noise scale, in examples; much larger batches gain little),
      alignment (of a --rule: angle and norm ratio of each layer's update to its gradient).
    stop: Stopping criteria.
    ckpt: Checkpointing; a resumed run is bit for bit the uninterrupted one.
    on_nonfinite: Response to a step that is not finite: end the run (raise), skip the step (skip),
      or restore the last checkpoint and halve the learning rate (rollback).
    init: Initial parameters: those of a run, with its network and standardization, or those of a
      safetensors file.
    resume: Resume this run from its last checkpoint.
    out: Parent folder of the run's own folder.
    name: Name of the run's folder; by default the data's name and the next free number.
    config: TOML file with any of these settings, such as the config.toml of a run; flags override
      it.
  """

  data: Annotated[str, tyro.conf.arg(metavar="NAME")] = "digits"
  target: Columns = ()
  features: Columns = ()
  drop: Columns = ()
  categorical: Columns = ()
  separator: Separator = "auto"
  decimal: Decimal = "auto"
  task: Literal["auto", "classification", "regression", "multilabel"] = "auto"
  standardize: Literal["auto", "on", "off"] = "auto"
  test_fraction: float = 0.25
  hidden: Annotated[tuple[int, ...], by_data] = (512,)
  activation: Annotated[ActivationName, by_data] = "relu"
  rule: Annotated[arguments.RuleName, tyro.conf.arg(metavar="RULE")] = "backprop"
  optimizer: arguments.OptimizerName = "gradient_descent"
  rate: Annotated[float, by_data] = 0.5
  schedule: arguments.ScheduleName = "constant"
  warmup: int = 0
  weight_decay: Annotated[float, by_data] = 0.0
  clip_norm: float | None = None
  clip_examples: float | None = None
  normalization: Literal["none", "layer_norm", "rms_norm"] = "none"
  dropout: float = 0.0
  skip: Literal["off", "on"] = "off"
  repeat_hidden: Literal["off", "on"] = "off"
  label_smoothing: float = 0.0
  class_weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
  sample_weights: str | None = None
  missing_targets: MissingTargets = "refuse"
  batch_size: int = 32
  shuffle: arguments.ShuffleName = "exact"
  seed: int = 0
  ensemble: int = 1
  rates: tuple[float, ...] = ()
  eval_every: Annotated[int, by_data] = 200
  check_every: Annotated[int, by_data] = 1000
  watch: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME,...")] = ()
  stop: StopRules = field(default_factory=lambda: StopRules(max_steps=2000))
  ckpt: CkptConfig = field(default_factory=CkptConfig)
  on_nonfinite: arguments.NonfiniteName = "raise"
  init: Annotated[str | None, tyro.conf.arg(metavar="RUN|FILE")] = None
  resume: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
  out: str = "runs"
  name: str | None = None
  config: str | None = None

  @property
  def watched(self) -> tuple[arguments.WatchName, ...]:
    """The names of `watch`, each once; they may be separated by commas too."""
    names = (name.strip() for word in self.watch for name in word.split(","))
    return tuple(dict.fromkeys(cast(arguments.WatchName, name) for name in names if name))


@dataclass(frozen=True)
class UncheckedStopRules(StopRules):
  """The stop rules as the help shows them; they are checked when all flags are known.

  Attributes:
    max_steps: Stop after this many steps.
  """

  max_steps: Annotated[int | None, by_data] = None

  def __post_init__(self) -> None:
    pass


# Chosen on validation data, by experiments/digits_defaults.py for digits and, except for sine, by
# experiments/data_defaults.py for the others. Small, noisy data sets have fewer steps and more
# decay.
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
# The defaults of all other data, bundled or not.
GENERAL = TrainConfig(
  hidden=(64, 64), rate=0.1, weight_decay=1e-3, stop=StopRules(max_steps=2000), eval_every=500,
  check_every=1000,
)  # fmt: skip

# Not saved, so that a run's config.toml can be run again unchanged in another folder.
NOT_SAVED = ("out", "name", "config", "resume")


def flat(config: TrainConfig) -> dict[str, Any]:
  """Return the values of a configuration by key, such as "stop.max_steps"."""
  table = asdict(config)
  parts = {f"{part}.{k}": v for part in ("stop", "ckpt") for k, v in table.pop(part).items()}
  return {**table, **parts}


def nested(values: dict[str, Any]) -> dict[str, Any]:
  """Convert values by key to a nested table, with the tables "stop" and "ckpt"."""
  table: dict[str, Any] = {"stop": {}, "ckpt": {}}
  for key, value in values.items():
    part, _, name = key.rpartition(".")
    (table[part] if part else table)[name] = value
  return table


KEYS = tuple(flat(TrainConfig()))
# Keys whose library arguments have another name.
KEY_OF = {"checkpoints.every": "ckpt.every", "checkpoints.keep": "ckpt.keep"}


def flag_of(key: str) -> str:
  """Return the flag of a key, such as "--stop.max-steps"."""
  return f"--{key}".replace("_", "-")


def flags_in(arguments: Sequence[str]) -> list[str]:
  """Return each word as a flag without its value; tyro accepts underscores in flags too."""
  return [word.partition("=")[0].replace("_", "-") for word in arguments]


class Sources(NamedTuple):
  """The sources of a configuration's values: the command line and a file.

  Attributes:
    arguments: the arguments of the command line.
    path: path of the file; None without one.
    values: values in the file, by key.
  """

  arguments: Sequence[str]
  path: str | None
  values: dict[str, Any]

  def has(self, key: str) -> bool:
    """Return whether a key is set by a flag or in the file, and not by default."""
    return key in self.values or flag_of(key) in flags_in(self.arguments)

  def name(self, key: str) -> str:
    """Return a key's name for an error: its flag, or the key itself if the file sets it."""
    is_of_file = key in self.values and flag_of(key) not in flags_in(self.arguments)
    return f"{self.path}: {key}" if is_of_file else flag_of(key)

  @property
  def names(self) -> dict[str, str]:
    """The names of the library's arguments on the command line."""
    arguments = (*KEYS, *KEY_OF)
    return {argument: self.name(KEY_OF.get(argument, argument)) for argument in arguments}

  def refuse(self, key: str, problem: str) -> NoReturn:
    """Raise a UsageError that names a key."""
    raise UsageError(f"{self.name(key)} {problem}")


def saved(config: TrainConfig) -> dict[str, Any]:
  """Return the configuration as a TOML table, without None and without the keys of the folder."""
  values = flat(config) | {"watch": list(config.watched)}
  return nested({k: v for k, v in values.items() if v is not None and k not in NOT_SAVED})


def settings(config: TrainConfig) -> list[tuple[str, str, bool]]:
  """Return each setting's name, value, and whether it differs from the default of the data."""
  default = flat(DEFAULTS.get(config.data, replace(GENERAL, data=config.data)))
  return [
    (flag_of(key)[2:], words(value), value != default[key])
    for key, value in flat(config).items()
    if key not in NOT_SAVED
  ]


def method_of(config: TrainConfig) -> str:
  """Describe the optimizer and its options, and the emphasis of examples, in one line."""
  name = "Nesterov momentum" if config.optimizer == "nesterov" else config.optimizer
  rates, weights = config.rates or (config.rate,), config.class_weights
  rate = f"rate{'s' * (len(rates) > 1)} {' '.join(map(words, rates))}"
  schedule = "" if config.schedule == "constant" else f" {config.schedule}"
  classes = "balanced" if isinstance(weights, str) else f"weighted {' '.join(map(words, weights))}"
  parts = (
    (config.rule != "backprop", config.rule.replace("_", " ")),
    (True, f"{name.replace('_', ' ')}, {rate}{schedule}"),
    (config.warmup, f"warmup {config.warmup}"),
    (config.weight_decay, f"weight decay {config.weight_decay:g}"),
    (config.clip_norm is not None, f"gradient up to {words(config.clip_norm)}"),
    (config.clip_examples is not None,
     f"examples' gradients up to {words(config.clip_examples)}"),
    (config.label_smoothing, f"labels smoothed by {config.label_smoothing:g}"),
    (weights != "none", f"classes {classes}"),
    (config.sample_weights, f"examples weighted by {config.sample_weights}"),
    (True, f"batches of {config.batch_size}"),
  )  # fmt: skip
  return ", ".join(text for is_told, text in parts if is_told)
