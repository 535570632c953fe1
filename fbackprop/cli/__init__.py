"""The command line: `fbackprop COMMAND`. No jax is imported until a command runs.

Exit codes of all commands: 0 success, 1 a check failed or a file couldn't be written, 2 usage
error, 3 the run diverged, 4 no verdict, 130 interrupted (Ctrl-C), 141 closed pipe (SIGPIPE), 143
terminated (SIGTERM).
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from fbackprop import __version__

# Each command's module, its function there, and its line in the help.
COMMANDS = {
  "circuit": ("circuit", "main",
              "solve an expression by backpropagation, gate by gate, and draw it"),
  "lecture": ("lecture", "main", "write the lecture as pages to play with, in English or Korean"),
  "train": ("train", "main", "train an MLP, checking its gradients against jax.grad"),
  "eval": ("model", "evaluate", "score a trained model on its test set or on other data"),
  "predict": ("model", "predict", "predict labels and probabilities of rows"),
  "info": ("model", "info", "show a run's configuration, results and files"),
  "compare": ("compare", "main", "compare the settings and results of runs"),
  "export": ("exchange", "export", "write a model for torch, ONNX, StableHLO or NumPy"),
  "import": ("exchange", "import_file", "read a network of torch or ONNX as a model"),
  "verify": ("verify", "main",
             "verify the hand-written VJP of any function, or this library's own"),
}  # fmt: skip

HELP = f"""usage: fbackprop COMMAND [flags]

Feedforward networks in JAX with a hand-written backward pass.

commands:
{chr(10).join(f"  {name:<10}{what}" for name, (_, _, what) in COMMANDS.items())}

  fbackprop COMMAND --help    the flags of a command
  fbackprop --version

--no-cache, with any command: compile all programs anew, and keep none. By default they are kept in
$XDG_CACHE_HOME/fbackprop (~/.cache/fbackprop), or in $JAX_COMPILATION_CACHE_DIR if that is set."""

NO_CACHE = "--no-cache"


def main(arguments: Sequence[str] | None = None) -> int:
  """Run a command.

  Args:
    arguments: the arguments after `fbackprop`; None for those of this process.

  Returns:
    The exit code.
  """
  words = list(sys.argv[1:] if arguments is None else arguments)
  if arguments is None:  # Of a process of our own: nobody else's is changed.
    keep_programs(words)
  words = [word for word in words if word != NO_CACHE]
  try:
    try:
      return run(words)
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # The reader, such as `head`, closed the pipe, which is no error. Python flushes stdout at exit,
    # so the rest is redirected to the null device; the exit code is a shell's for SIGPIPE.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def keep_programs(words: list[str]) -> None:
  """Switch the compilation cache on for a command, but not for its help, or off."""
  if NO_CACHE in words:
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
  elif words and words[0] in COMMANDS and "--help" not in words:
    # Imported here, so that the help is instant.
    from fbackprop import compilation_cache

    if (folder := compilation_cache.switch_on()) is not None:
      compilation_cache.mend(folder)


def run(arguments: list[str]) -> int:
  """Run a command; print a UsageError, and for an unknown command suggest the nearest one."""
  if not arguments or arguments[0] in ("--help", "-h"):
    print(HELP)
    return 0 if arguments else 2
  if arguments[0] == "--version":
    print(f"fbackprop {__version__}")
    return 0
  # Imported here, so that the help is instant.
  from fbackprop.cli.console import UsageError, note
  from fbackprop.errors import hint

  try:
    name = arguments[0]
    if name not in COMMANDS:
      raise UsageError(f"unknown command {name!r}; {hint(name, COMMANDS)}")
    module, function, _ = COMMANDS[name]
    return int(getattr(import_module(f"fbackprop.cli.{module}"), function)(arguments[1:]))
  except (UsageError, ModuleNotFoundError) as error:  # Of an extra, which it names.
    note(str(error))
    return 2
