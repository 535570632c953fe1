"""What the measuring scripts share: options, results that are kept, compiled programs on disk."""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from fbackprop.files import write_whole

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def parser_of(doc: str | None, **options: Any) -> argparse.ArgumentParser:
  """Build a parser whose help is a module's docstring, with its usage as it is written there."""
  about, _, usage = (doc or "").partition("\n")
  raw = argparse.RawDescriptionHelpFormatter
  return argparse.ArgumentParser(description=about, epilog=usage, formatter_class=raw, **options)


def read(file: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
  """Read the results of an earlier run, if there are any."""
  return json.loads(file.read_text()) if file.exists() else otherwise


def write(file: Path, results: dict[str, Any]) -> None:
  """Write the results, wholly or not at all: a run may be stopped at any time."""
  write_whole(file, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())


def line(sums: dict[str, Any]) -> str:
  """Format totals as a line."""
  shown = (f"{value:.1f}" if isinstance(value, float) else value for value in sums.values())
  return "   ".join(f"{name} {value}" for name, value in zip(sums, shown, strict=True))


def cache_options(name: str) -> dict[str, Any]:
  """Return the options of JAX that keep all compiled programs in a temporary folder."""
  return {
    "jax_compilation_cache_dir": os.path.join(tempfile.gettempdir(), f"fbackprop-{name}"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }


def keep_compiled(name: str) -> None:
  """Keep the programs that this process compiles, for those that come later."""
  import jax

  for option, value in cache_options(name).items():
    jax.config.update(option, value)
