"""The compilation cache: XLA's programs of earlier processes, by JAX's own persistent cache.

It is switched on by the command line, for its own process, and by the pytest plugin if asked; never
by importing the package or by calling it, as a library must not write into its user's home. Its
folder is in `$XDG_CACHE_HOME/fbackprop`, by default `~/.cache/fbackprop`. It holds nothing but
programs: a run computes the same numbers with it and without.

Method: JAX reads and writes the programs. Here the folder is chosen, and when a command starts the
programs that were used longest ago are deleted beyond `LARGEST`. JAX can do this too, at each
program that it writes, but then it reads the time of each file in the folder again, and stops
writing altogether if a process that was killed has left one without its time.

Doubts: the time of use is the file system's, which many keep to a day only. JAX trusts the content
of its cache, and so the folder is the user's alone. It doesn't document whether the processor is a
part of a program's key, and a home may be shared by machines: each processor has its own folder.
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
# JAX's warning of a program that it can't read: it compiles it anew, but keeps the damaged file.
DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")


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
    prune(path)
  except (OSError, RuntimeError):  # Such as a read-only home, or none.
    return None
  if not os.access(path, os.W_OK):
    return None
  for name, value in (
    ("jax_compilation_cache_dir", str(path)),
    ("jax_persistent_cache_min_compile_time_secs", 0.0),  # A hundred small ones take a second too.
  ):
    if jax is not None:
      jax.config.update(name, value)
    else:
      os.environ.setdefault(name.upper(), str(value))
  return path


def prune(path: Path, largest: int = LARGEST) -> None:
  """Delete the programs that were used longest ago until the rest has `largest` bytes at most."""
  used = []
  for program in path.glob("*-cache"):
    with suppress(FileNotFoundError):  # Another process prunes too.
      found = program.stat()
      used.append((max(found.st_atime, found.st_mtime), found.st_size, program))
  total = sum(size for _, size, _ in used)
  for _, size, program in sorted(used):
    if total <= largest:
      break
    program.unlink(missing_ok=True)
    total -= size


def mend(path: Path) -> None:
  """From now on delete a program that JAX can't read, in place of its warning."""
  warnings.showwarning = partial(delete_damaged, path, warnings.showwarning)


def delete_damaged(path: Path, show: Any, message: Any, *rest: Any, **more: Any) -> None:
  """Delete the program that a warning names; show any other warning as before."""
  if (found := DAMAGED.match(str(message))) is None:
    show(message, *rest, **more)
    return
  for program in path.glob(f"{found[1]}-*"):
    with suppress(OSError):
      program.unlink(missing_ok=True)
