"""What a training run is told: frozen dataclasses, a TOML file, flags; a later one wins."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from fbackprop.cli.usage import UsageError, hint
from fbackprop.train.method_names import OptimizerName, ScheduleName
from fbackprop.train.sources.names import kind_and_path
from fbackprop.train.stopping import StopRules

ActivationName = Literal[
  "relu", "leaky_relu", "relu6", "hard_tanh", "sigmoid", "tanh", "softplus", "elu", "selu", "gelu",
  "gelu_tanh", "silu", "mish", "identity",
]  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
  """Train an MLP by gradient descent, with our own backward pass, and check it while it learns."""

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

  hidden: tuple[int, ...] = (512,)
  """Widths of the hidden layers; none for a linear model."""

  activation: ActivationName = "relu"
  """Follows each hidden layer."""

  optimizer: OptimizerName = "gradient_descent"
  """What makes a step of a gradient; momentum and nesterov with 0.9, others as optax has them."""

  rate: float = 0.5
  """Step size, of a schedule the largest one."""

  schedule: ScheduleName = "constant"
  """How the rate changes until --stop.max-steps: along a cosine or a line to 0, or to a 1,000th."""

  warmup: int = 0
  """In so many first steps the rate rises from 0."""

  weight_decay: float = 0.0
  """This share of each weight matrix, times the rate, is taken off in a step; biases are spared."""

  clip_norm: float | None = None
  """The largest norm of the whole gradient; a longer one is shortened to it."""

  batch_size: int = 32
  """Examples of a step."""

  seed: int = 0
  """Of the split, the parameters and the order of the examples."""

  eval_every: int = 200
  """Steps from one evaluation, and line, to the next."""

  check_every: int = 1000
  """Steps from one comparison of our gradient with jax.grad to the next; 0 for none."""

  stop: StopRules = field(default_factory=lambda: StopRules(max_steps=2000))
  """When to stop."""

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
      ("eval-every", self.eval_every, 1),
      ("check-every", self.check_every, 0),
      ("warmup", self.warmup, 0),
      *(("hidden", width, 1) for width in self.hidden),
    ):
      if value < least:
        raise UsageError(f"--{flag} must be at least {least}, got {value}")
    for flag, value, most in (
      ("seed", self.seed, 2**32 - 1),
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
    if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
      raise UsageError(f"--weight-decay must be finite and at least 0, got {self.weight_decay}")
    if self.clip_norm is not None and not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
      raise UsageError(f"--clip-norm must be finite and above 0, got {self.clip_norm}")
    if self.name in ("", "..") or (self.name is not None and Path(self.name).name != self.name):
      raise UsageError(f"--name must be the name of a folder, not a path, got {self.name!r}")


# Those of digits are chosen on validation data: experiments/digits_defaults.py.
DEFAULTS = {
  "digits": TrainConfig(),
  "sine": TrainConfig(
    data="sine", hidden=(64,), activation="tanh", rate=0.05, stop=StopRules(max_steps=20_000),
    eval_every=1000, check_every=10_000,
  ),
}  # fmt: skip
# Of data that nobody has searched defaults for: small enough for hundreds of examples.
GENERAL = TrainConfig(
  hidden=(64, 64), rate=0.1, stop=StopRules(max_steps=3000), eval_every=500, check_every=1500
)

# Where a run is written is no part of what it is told to do: its config.toml runs again as it is.
NOT_SAVED = ("out", "name", "config")


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
  path = last_value(arguments, "--config")
  in_file = flags_of_file(path) if path is not None else []
  everything = [*in_file, *arguments]
  data = last_value(everything, "--data")
  default = DEFAULTS.get(data or "digits", GENERAL)
  return tyro.cli(TrainConfig, prog="fbackprop train", default=default, args=everything)


def last_value(arguments: Sequence[str], flag: str) -> str | None:
  """The value that a flag has at last, before anything is parsed; None if it isn't there."""
  value = None
  for i, word in enumerate(arguments):
    name, equals, rest = word.partition("=")
    if name.replace("_", "-") == flag:  # tyro takes either.
      value = rest if equals else arguments[i + 1] if i + 1 < len(arguments) else None
  return value


def told_by(key: str, arguments: Sequence[str]) -> str:
  """What gave a key its value, as an error should call it: the flag, else the file's key."""
  flag, path = f"--{key}".replace("_", "-"), last_value(arguments, "--config")
  is_in_file = is_told(key, arguments) and last_value(arguments, flag) is None
  return f"{path}: {key}" if is_in_file else flag


def is_told(key: str, arguments: Sequence[str]) -> bool:
  """Whether a key has its value from a flag or from the file, and not by default."""
  flag, path = f"--{key}".replace("_", "-"), last_value(arguments, "--config")
  in_file = flags_of_file(path) if path is not None else []
  return last_value([*in_file, *arguments], flag) is not None


def flags_of_file(path: str) -> list[str]:
  """A TOML file as the flags that say the same."""
  try:
    content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
  except OSError as error:
    raise UsageError(f"--config {path} can't be read: {error.strerror}") from error
  except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
    raise UsageError(f"--config {path} is no TOML file: {error}") from error
  return flags_of_table(content, TrainConfig(), path, "")


def flags_of_table(table: dict[str, Any], default: Any, path: str, prefix: str) -> list[str]:
  """The entries of a table as flags; what can't be there is refused by its key.

  Args:
    table: of the file.
    default: a configuration, in which a value is tried.
    path: of the file.
    prefix: of its keys, such as "stop.".
  """
  known = {f.name: f.type for f in fields(default) if f.name != "config"}
  flags: list[str] = []
  for key, value in table.items():
    if key not in known:
      raise UsageError(f"{path}: there is no key {prefix + key!r}; {hint(key, known)}")
    flag = f"--{prefix}{key}".replace("_", "-")
    if is_dataclass(known[key]):
      if not isinstance(value, dict):
        raise UsageError(f"{path}: {prefix + key} must be a table, got {value!r}")
      flags += flags_of_table(value, getattr(default, key), path, f"{prefix}{key}.")
      continue
    if not of_type(value, known[key]):
      raise UsageError(f"{path}: {prefix + key} must be {in_words(known[key])}, got {value!r}")
    try:
      replace(default, **{key: tuple(value) if isinstance(value, list) else value})
    except (UsageError, ValueError) as error:
      # Its first word is the flag, which nobody gave.
      raise UsageError(f"{path}: {prefix + key} {str(error).partition(' ')[2]}") from error
    # With "=", a text that begins with a dash isn't taken for a flag.
    flags += [flag, *map(str, value)] if isinstance(value, list) else [f"{flag}={value}"]
  return flags


def in_words(kind: Any) -> str:
  """The type of a field as a user of TOML would say it."""
  if get_origin(kind) is Annotated:
    return in_words(get_args(kind)[0])
  if get_origin(kind) is Literal:
    return f"one of {', '.join(get_args(kind))}"
  words = {
    int: "an integer",
    float: "a number",
    str: "a text",
    tuple[int, ...]: "a list of integers",
    tuple[str, ...]: "a list of texts",
  }
  return words.get(kind) or in_words(get_args(kind)[0])  # TOML has no word for None.


def of_type(value: Any, kind: Any) -> bool:
  """Whether a TOML value can stand where a field of a configuration has a type."""
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if kind is str:
    return isinstance(value, str)
  if get_origin(kind) is Annotated:
    return of_type(value, get_args(kind)[0])
  if get_origin(kind) is tuple:
    return isinstance(value, list) and all(of_type(v, get_args(kind)[0]) for v in value)
  # A choice of words, or "something or None": a word, or what one of the alternatives takes.
  return any(value == part or of_type(value, part) for part in get_args(kind))


def saved(config: TrainConfig) -> dict[str, Any]:
  """The configuration as a TOML table: without what is None, and without where the run is."""
  table = {k: v for k, v in asdict(config).items() if k not in NOT_SAVED and v is not None}
  table["stop"] = {k: v for k, v in table["stop"].items() if v is not None}
  return table
