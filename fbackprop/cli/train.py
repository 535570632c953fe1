"""`fbackprop train`: its flags and its TOML file, parsed and validated."""

import reprlib
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fbackprop.cli import config as configs
from fbackprop.cli.config import KEY_OF, Sources, TrainConfig, flags_in, flat
from fbackprop.cli.console import Phases, UsageError, note, parsed, usage_errors
from fbackprop.cli.run_folder import file_of_run, read_toml
from fbackprop.errors import check_choice, hint
from fbackprop.extras import check_installed
from fbackprop.ranges import RANGES, check_range
from fbackprop.train.arguments import StopRules, WatchName, check_class_weights

# Flags that change no step of a run, and are allowed when it is resumed.
WHEN_RESUMED = (
  "--resume", "--ckpt.every", "--ckpt.keep", "--eval-every", "--check-every", "--on-nonfinite",
)  # fmt: skip
MOST_LAYERS = 2**14 - 2
# TOML types in words; it has no None.
WORDS = {
  int: "an integer",
  float: "a number",
  str: "a string",
  tuple[int, ...]: "a list of integers",
  tuple[float, ...]: "a list of numbers",
  tuple[str, ...]: "a list of strings",
  StopRules: "a table",
  configs.CkptConfig: "a table",
}


def main(arguments: Sequence[str]) -> int:
  """Train, and write the run's folder.

  Args:
    arguments: the arguments after `fbackprop train`.

  Returns:
    0; 1 if a file couldn't be written or a gradient check failed; 3 if the run, or a member of the
    kept ensemble, diverged; 130 if it was interrupted, 143 if terminated. A first interrupt waits
    until everything is saved, a second one doesn't.

  Raises:
    UsageError: the configuration is invalid.
    ModuleNotFoundError: a package that the run needs isn't installed; the message names the extra.
  """
  phases = Phases()
  config = parse(arguments)
  try:
    # The report needs them: checked before training.
    for module in ("matplotlib", "jinja2", "rich", "tomli_w"):
      check_installed(module, extra="plot" if module == "matplotlib" else "train")
    from fbackprop.cli.training import run

    phases.end("import")
    return run(config, sources_of(arguments), phases)
  except KeyboardInterrupt:
    # Before the run began, or by a second Ctrl-C; the first one is deferred.
    note("interrupted before all of the run was saved")
    return 130


def sources_of(arguments: Sequence[str]) -> Sources:
  """Read the values of the file: that of a resumed run, else that of --config."""
  run = last_value(arguments, "--resume")
  path = last_value(arguments, "--config") if run is None else str(Path(run, "config.toml"))
  if path is None:
    return Sources(arguments, None, {})
  return Sources(arguments, path, values_of(read_toml(path, f"--config {path}"), TrainConfig, path))


def last_value(arguments: Sequence[str], flag: str) -> str | None:
  """Return the last value of a flag, before parsing; None if it isn't given."""
  value = None
  for i, name in enumerate(flags_in(arguments)):
    if name == flag:
      _, equals, rest = arguments[i].partition("=")
      value = rest if equals else arguments[i + 1] if i + 1 < len(arguments) else None
  return value


def parse(arguments: Sequence[str]) -> TrainConfig:
  """Parse the flags and the file of `--config`: flags override the file, the file the defaults.

  Args:
    arguments: the arguments after `fbackprop train`.

  Returns:
    The configuration.

  Raises:
    UsageError: a value is out of range; the file can't be read; a key is unknown.
    SystemExit: raised by tyro, with code 2 for a wrong flag and 0 for `--help`.
  """
  check_resumed(arguments)
  sources = sources_of(arguments)
  data = last_value(arguments, "--data") or sources.values.get("data")
  values = flat(configs.DEFAULTS.get(data or "digits", configs.GENERAL))
  if sources.has("stop.max_epochs") or sources.has("stop.max_seconds"):
    values["stop.max_steps"] = None  # The user's end replaces the default one.
  table = configs.nested(values | sources.values)
  # tyro takes the fields from the class of the default.
  table["stop"] = configs.UncheckedStopRules(**table["stop"])
  table["ckpt"] = configs.CkptConfig(**table["ckpt"])
  configs.HELPED.set(data)
  config = parsed(TrainConfig, "train", arguments, default=TrainConfig(**table))
  with usage_errors(names=sources.names):
    check_ranges(config)
    config = replace(config, stop=StopRules(**asdict(config.stop)))
  check_together(config, sources)
  return config


def load_config(run: str) -> TrainConfig:
  """Load the configuration of a run.

  Raises:
    UsageError: the configuration is missing, or isn't one of `fbackprop train`.
  """
  if Path(run).is_file():
    raise UsageError(f"{run} is a file, which holds no configuration; give the folder of a run")
  path = file_of_run(run, "config.toml")
  read_toml(path, str(path))  # Only for its error, which names the file instead of --config.
  return parse(["--config", str(path)])


def check_ranges(config: TrainConfig) -> None:
  """Raise for values out of range, by the library's own checks, before the work begins."""
  from fbackprop.train.data.formats import kind_and_path

  values = flat(config)
  for argument, allowed in (RANGES | {"rates": RANGES["rate"]}).items():
    value = values[KEY_OF.get(argument, argument)]
    for each in value if isinstance(value, tuple) else (value,):
      if each is not None:
        check_range("", argument, each, allowed)
  kind_and_path(config.data)
  for name in config.watched:
    check_choice("", "watch", name, get_args(WatchName))
  check_class_weights(config.class_weights)


def check_together(config: TrainConfig, sources: Sources) -> None:
  """Raise for values that exclude one another, and for invalid names of folders and files."""
  name, members = config.name, 2**32 - config.seed
  for key, is_wrong, problem in (
    ("hidden", len(config.hidden) > MOST_LAYERS,
     f"must be at most {MOST_LAYERS} layers, got {len(config.hidden)}"),
    ("ensemble", config.ensemble > members,
     f"must be at most {members} for this --seed, got {config.ensemble}"),
    ("on_nonfinite", config.on_nonfinite == "rollback" and config.ckpt.every is None,
     "rollback needs checkpoints: give --ckpt.every"),
    *((key, "\0" in (getattr(config, key) or ""),
       f"must not contain a null byte, got {getattr(config, key)!r:.100}")
      for key in ("out", "name", "init")),
    ("name", name is not None and (name in ("", "..") or Path(name).name != name),
     f"must be the name of a folder, not a path, got {name!r}"),
  ):  # fmt: skip
    if is_wrong:
      sources.refuse(key, problem)
  if config.ensemble > 1 or config.rates:
    if config.resume is not None:  # Set in the file; both flags can't be given.
      run = f"--resume {config.resume} is the run of an ensemble"
      raise UsageError(f"{run}, which cannot be resumed")
    values, usual = flat(config), flat(TrainConfig())
    for key in ("ckpt.every", "on_nonfinite", "init", "clip_examples", "watch", "rule"):
      if values[key] != usual[key]:
        sources.refuse(key, "cannot be combined with --ensemble or --rates")
    if config.optimizer == "kfac":
      sources.refuse("optimizer", "kfac cannot be combined with --ensemble or --rates")
  if config.rule == "backprop":
    if "alignment" in config.watched:
      sources.refuse("watch", "alignment needs a --rule other than backprop, which is the gradient")
  else:
    if config.optimizer == "kfac":
      problem = f"kfac is of gradients, and cannot be combined with --rule {config.rule}"
      sources.refuse("optimizer", problem)
    for key in ("clip_examples", "init"):
      if getattr(config, key) is not None:
        sources.refuse(key, f"cannot be combined with --rule {config.rule}")
    if of_gradients := [name for name in config.watched if name != "alignment"]:
      problem = f"{of_gradients[0]} is of gradients, and cannot be combined with"
      sources.refuse("watch", f"{problem} --rule {config.rule}")
  # A file may have both, as a run's config.toml holds every value: only flags exclude each other.
  flags = flags_in(sources.arguments)
  if config.rates and "--rate" in flags:
    both = "--rate and --rates" if "--rates" in flags else f"{sources.name('rates')} and --rate"
    raise UsageError(f"{both} are mutually exclusive")


def check_resumed(arguments: Sequence[str]) -> None:
  """Raise for flags that would change the steps of a resumed run."""
  run = last_value(arguments, "--resume")
  if run is None:
    return
  if not file_of_run(run, "config.toml").is_file():
    raise UsageError(f"--resume {run} holds no config.toml: it must be the folder of a run")
  for flag in flags_in(arguments):
    if flag.startswith("--") and flag not in WHEN_RESUMED and not flag.startswith("--stop."):
      some = f"only --stop.*, {', '.join(WHEN_RESUMED[1:])} can"
      raise UsageError(f"{flag} cannot be changed when resuming {run}; {some}")


# --- The file -------------------------------------------------------------------------------------


def values_of(table: dict[str, Any], kind: type, path: str, prefix: str = "") -> dict[str, Any]:
  """Validate the values of a TOML table.

  Args:
    table: the table.
    kind: dataclass of the configuration.
    path: path of the file.
    prefix: the text before each key, such as "stop.".

  Returns:
    The values by key, with those of tables as "stop.max_steps".

  Raises:
    UsageError: a key is unknown; a value has the wrong type.
  """
  known = {name: own for name, own in get_type_hints(kind).items() if name != "config"}
  values: dict[str, Any] = {}
  for key, value in table.items():
    own: Any = known.get(key)
    if own is None:
      raise UsageError(f"{path}: unknown key {prefix + key!r:.100}; {hint(key, known)}")
    try:
      found = as_kind(value, own)
    except TypeError:
      problem = f"must be {in_words(own)}, got {shown(value)}"
      raise UsageError(f"{path}: {prefix + key} {problem}") from None
    if is_dataclass(own):
      values |= values_of(found, own, path, f"{prefix}{key}.")  # type: ignore[arg-type]
    else:
      values[prefix + key] = found
  return values


def shown(value: Any) -> str:
  """Format a value for an error, truncated."""
  short = reprlib.Repr()
  short.maxstring = short.maxother = short.maxlong = 100
  try:
    return short.repr(value)
  except ValueError:  # Python refuses to format an integer of thousands of digits.
    return "a number of thousands of digits"


def alternatives(kind: Any) -> list[Any]:
  """Return the types that a field may have, without None, which TOML lacks."""
  parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
  return [part for part in parts if part is not NoneType]


def in_words(kind: Any) -> str:
  """Describe the type of a field in terms of TOML."""
  parts = alternatives(kind)
  return " or ".join(WORDS.get(p) or f"one of {', '.join(get_args(p))}" for p in parts)


def as_kind(value: Any, kind: Any) -> Any:
  """Convert a TOML value to the type of a field: a list to a tuple, an integer to a float.

  Raises:
    TypeError: the value has another type.
  """
  # TOML's range: a longer integer couldn't be printed in the error.
  is_integer = type(value) is int and -(2**63) <= value < 2**63
  for part in alternatives(kind):
    if get_origin(part) is tuple and isinstance(value, list):
      return tuple(as_kind(each, get_args(part)[0]) for each in value)
    if part in (int, float) and is_integer:
      return part(value)
    is_same = type(value) is (dict if is_dataclass(part) else part) and part is not int
    if is_same or (get_origin(part) is Literal and value in get_args(part)):
      return value
  raise TypeError
