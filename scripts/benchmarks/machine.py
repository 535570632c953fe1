"""The machine under the figures: what it is, and which of its cores a process may use.

Nothing here imports jax before it is asked to: a process is pinned first.
"""

import importlib
import os
import platform
import re
from pathlib import Path
from typing import Any

CAN_PIN = hasattr(os, "sched_setaffinity")  # Not on a Mac.


def core_count() -> int:
  """How many cores this process may use."""
  return len(os.sched_getaffinity(0)) if CAN_PIN else os.cpu_count() or 1


def processor() -> str:
  """What the processor calls itself."""
  file = Path("/proc/cpuinfo")
  name = re.search(r"^model name\s*: (.+)$", file.read_text(), re.M) if file.exists() else None
  return name[1] if name else platform.processor() or platform.machine()


def load() -> float | None:
  """The load average of the last minute: above the number of cores, seconds are too long."""
  return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def pin(cores: int | None) -> None:
  """Leaves this process the first `cores` of its cores, and XLA as many threads; None for all."""
  if cores is None:
    return
  if CAN_PIN:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  os.environ["NPROC"] = str(cores)  # The size of XLA's pool of threads.
  if cores == 1:
    alone = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {alone}".strip()


def shown_cores(cores: int | None) -> str:
  """What is said of the cores above a table."""
  if cores is None:
    return "not pinned to cores"
  name = f"{cores} core" + "s" * (cores > 1)
  return name if CAN_PIN else f"{name} (threads limited, but not pinned: this system can't)"


def describe_jax() -> dict[str, str]:
  """Versions, backend and device."""
  import jax
  from jaxlib.version import __version__ as jaxlib_version

  import fbackprop

  return {
    "fbackprop": fbackprop.__version__,
    "jax": jax.__version__,
    "jaxlib": jaxlib_version,
    "python": platform.python_version(),
    "backend": jax.default_backend(),
    "device": jax.devices()[0].device_kind,
  }


def call(module: str, options: dict[str, Any]) -> Any:
  """Runs a measurement: `run(**options)` of a module that imports jax."""
  return importlib.import_module(module).run(**options)
