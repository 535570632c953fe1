"""The command line: `fbackprop COMMAND`. No jax is imported until a command runs.

Exit codes, everywhere: 0 good, 1 a check failed or a file couldn't be written, 2 usage, 3 the run
diverged, 4 no verdict, 130 interrupted (Ctrl-C), 141 nobody reads what is printed (SIGPIPE), 143
terminated (SIGTERM).
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from fbackprop import __version__
from fbackprop.cli.usage import UsageError, hint

COMMANDS = {
  "circuit": "solve an expression by backpropagation, gate by gate, and draw it",
  "train": "train an MLP, and check its gradients against jax.grad while it learns",
  "eval": "score a trained model on its test part, or on other rows",
  "predict": "raw rows in, labels and probabilities out",
  "info": "what a run was told, how it ended, and what stands in its folder",
  "verify": "verify the hand-written VJP of any function, or this library's own",
}

HELP = f"""usage: fbackprop COMMAND [flags]

Feedforward networks in JAX with a hand-written backward pass.

commands:
{chr(10).join(f"  {name:<10}{what}" for name, what in COMMANDS.items())}

  fbackprop COMMAND --help    the flags of a command
  fbackprop --version"""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    arguments: what stands behind `fbackprop`; None for those of this process.

  Returns:
    The exit code.
  """
  try:
    try:
      return run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # A reader such as `head` has enough, which is no error. Python flushes once more when it ends,
    # so what is left must go where it can be written; the code is a shell's for SIGPIPE.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def run(arguments: list[str]) -> int:
  """Runs a command; refuses one that there isn't, and says what a command refuses."""
  if not arguments or arguments[0] in ("--help", "-h"):
    print(HELP)
    return 0 if arguments else 2
  if arguments[0] == "--version":
    print(f"fbackprop {__version__}")
    return 0
  try:
    command = arguments[0]
    if command not in COMMANDS:
      raise UsageError(f"there is no command {command!r}; {hint(command, COMMANDS)}")
    return int(import_module(f"fbackprop.cli.{command}").main(arguments[1:]))
  except UsageError as error:
    print(f"fbackprop: {error}", file=sys.stderr)
    return 2
