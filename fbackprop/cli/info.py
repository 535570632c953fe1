"""`fbackprop info RUN`: what a run was told, how it ended, and what stands in its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fbackprop.cli.config import parse
from fbackprop.cli.ensemble import table_of
from fbackprop.cli.output import show
from fbackprop.cli.runs import load_json, load_run_model, load_told, shown
from fbackprop.cli.told import settings
from fbackprop.cli.usage import UsageError

# Of summary.json, in this order; others follow.
FIRST = ("stop_reason", "steps", "test_accuracy", "test_loss", "train_loss")


@dataclass(frozen=True)
class InfoConfig:
  """Show a run: its model, how it ended, where it ran, and the command that repeats it."""

  run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
  """Folder of the run."""


def main(arguments: Sequence[str]) -> int:
  """Prints what is known of a run.

  Returns:
    0.

  Raises:
    UsageError: there is no such run, or a file of it isn't what it must be.
  """
  config = tyro.cli(InfoConfig, prog="fbackprop info", args=list(arguments))
  model = load_run_model(config.run)
  load_told(config.run)  # Whose error says that there is no such file.
  summary, env = load_json(config.run, "summary.json"), load_json(config.run, "env.json")

  import jax

  own = model.description
  count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
  lines = [
    ("network", own.as_text()),
    ("parameters", f"{count:,}"),
    ("task", own.task),
    ("features", listed(own.features)),
    ("outputs", listed(own.outputs)),
    ("standardised", "yes" if own.standardization else "no"),
    *told_lines(config.run),
    *((name.replace("_", " "), shown(summary[name])) for name in FIRST if name in summary),
  ]
  rates = summary.pop("rates", [])  # Of an ensemble: a table of its own.
  try:
    table = table_of(rates, "test_accuracy" in summary) if rates else []
  except (TypeError, KeyError, ValueError) as error:
    path = Path(config.run, "summary.json")
    raise UsageError(f"{path}: rates must be as fbackprop train writes them") from error
  rest = [name for name in summary if name not in FIRST and summary[name] is not None]
  lines += [(name.replace("_", " "), shown(summary[name])) for name in rest]
  packages = ("fbackprop", "jax", "numpy", "python")
  lines.append(("made with", ", ".join(f"{p} {env[p]}" for p in packages if p in env)))
  if "platform" in env:
    lines.append(("on", f"{env['platform']}, {env.get('machine')}, {env.get('cores')} cores"))
  width = max(len(name) for name, _ in lines) + 2
  for name, value in lines:
    print(f"{name:<{width}}{value}")
  for line in table:
    print(line)
  for path in sorted(Path(config.run).iterdir()):
    show(f"{'':<{width}}{path.name}, {path.lstat().st_size:,} bytes\n")
  print(f"again: fbackprop train --config {Path(config.run, 'config.toml')}")
  return 0


def told_lines(run: str) -> list[tuple[str, str]]:
  """The data, how it learned, and each other value that isn't the data's default.

  Raises:
    UsageError: the run's config.toml isn't what `fbackprop train` takes.
  """
  from fbackprop.cli.preparation import method_of

  config = parse(["--config", str(Path(run, "config.toml"))])
  lines = [("data", config.data), ("method", f"{method_of(config)}, seed {config.seed}")]
  own = [f"--{name} {value}" for name, value, is_own in settings(config) if is_own]
  return [*lines, ("not the default", " ".join(own) or "nothing")]


def listed(names: Sequence[str]) -> str:
  """How many names, and the first of them."""
  return f"{len(names)}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
