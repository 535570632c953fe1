"""The compilation cache: XLA's programs of earlier processes, by JAX's own persistent cache.

It is switched on by the command line, for its own process, and by the pytest plugin if asked; never
by importing the package or by calling it, as a library must not write into its user's home. Its
folder is `$XDG_CACHE_HOME/fbackprop`, by default `~/.cache/fbackprop`, and JAX deletes the programs
that were used longest ago beyond `LARGEST`. The cache holds nothing but programs: a run computes
the same numbers with it and without.

Doubts: JAX trusts the content of its cache, and so the folder is the user's alone. It doesn't
document whether the processor is a part of a program's key, and a home may be shared by machines:
each processor has a folder of its own.
"""

import hashlib
import os
import platform
import re
import sys
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

# In bytes, of all programs on disk; a run of the digits has 0.1 MB, a verification up to 3 MB.
LARGEST = 2**28
VARIABLE = "JAX_COMPILATION_CACHE_DIR"
# What JAX warns of, with the name of a program. A program that it can't read it compiles anew, but
# doesn't replace; and one file without its time of use prevents all further writing.
PROBLEM = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([^']+)'")


def folder() -> Path:
  """Return the folder of this user's programs for this processor."""
  own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  return Path(own) / "fbackprop" / f"programs-{processor()}"


def processor() -> str:
  """Return a short name of this processor's instruction set."""
  with suppress(OSError):
    # Of Linux: "flags" on x86, "Features" on ARM.
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    if found := re.search(r"^(?:flags|Features)\s*:.*$", text, re.MULTILINE):
      return hashlib.sha256(found[0].encode()).hexdigest()[:12]
  return hashlib.sha256(f"{platform.machine()} {platform.processor()}".encode()).hexdigest()[:12]


def switch_on() -> Path | None:
  """Let JAX keep the programs of this process, before its first compilation.

  Returns:
    The folder; None if nothing was changed, because the user has set a folder for JAX or switched
    its cache off, or the folder can't be written.
  """
  jax = sys.modules.get("jax")  # Not imported: JAX reads the environment when it is.
  if os.environ.get(VARIABLE) is not None or (jax and jax.config.jax_compilation_cache_dir):
    return None
  path = folder()
  try:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    tidy(path)
  except (OSError, RuntimeError):  # Such as a read-only home, or none.
    return None
  if not os.access(path, os.W_OK):
    return None
  for name, value in (
    ("jax_compilation_cache_dir", str(path)),
    ("jax_compilation_cache_max_size", LARGEST),
    ("jax_persistent_cache_min_compile_time_secs", 0.0),  # A hundred small ones take a second too.
  ):
    if jax is not None:
      jax.config.update(name, value)
    else:
      os.environ.setdefault(name.upper(), str(value))
  return path


def tidy(path: Path) -> None:
  """Delete the programs without a time of use, left behind by a process that was killed."""
  for program in path.glob("*-cache"):
    if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
      program.unlink(missing_ok=True)


def mend(path: Path) -> None:
  """Delete programs that JAX warns of instead of printing its warning: they are compiled anew."""
  warnings.showwarning = partial(delete_damaged, path, warnings.showwarning)


def delete_damaged(path: Path, show: Any, message: Any, *rest: Any, **more: Any) -> None:
  """Delete the program that a warning names; show any other warning as before."""
  found = PROBLEM.match(str(message))
  if found is None:
    show(message, *rest, **more)
    return
  with suppress(OSError):
    tidy(path)
    for file in path.glob(f"{found[2]}-*"):
      file.unlink(missing_ok=True)
