"""The measured machine: its description, and the cores of a process.

jax is imported only inside functions, since a process must be pinned first.
"""

import importlib
import os
import platform
import re
from pathlib import Path
from typing import Any

CAN_PIN = hasattr(os, "sched_setaffinity")  # Not on macOS.


def core_count() -> int:
  """Return the number of cores available to this process."""
  return len(os.sched_getaffinity(0)) if CAN_PIN else os.cpu_count() or 1


def processor() -> str:
  """Return the processor's model name."""
  file = Path("/proc/cpuinfo")
  name = re.search(r"^model name\s*: (.+)$", file.read_text(), re.M) if file.exists() else None
  return name[1] if name else platform.processor() or platform.machine()


def pin(cores: int | None) -> None:
  """Pin this process to its first `cores` cores, and XLA to as many threads; None for all."""
  if cores is None:
    return
  if CAN_PIN:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  os.environ["NPROC"] = str(cores)  # The size of XLA's thread pool.
  if cores == 1:
    alone = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {alone}".strip()


def shown_cores(cores: int | None) -> str:
  """Describe the cores in a table's heading."""
  if cores is None:
    return "not pinned to cores"
  name = f"{cores} core" + "s" * (cores > 1)
  return name if CAN_PIN else f"{name} (threads limited, but not pinned: this system can't)"


def describe() -> dict[str, Any]:
  """Describe the processor, versions, backend and device."""
  import jax
  from jaxlib.version import __version__ as jaxlib_version

  import fbackprop

  return {
    "cpu": processor(),
    "cores_here": core_count(),
    "fbackprop": fbackprop.__version__,
    "jax": jax.__version__,
    "jaxlib": jaxlib_version,
    "python": platform.python_version(),
    "backend": jax.default_backend(),
    "device": jax.devices()[0].device_kind,
  }


def call(module: str, options: dict[str, Any]) -> Any:
  """Run a measurement: `run(**options)` of a module that imports jax."""
  return importlib.import_module(module).run(**options)
