"""`fbackprop train`: a thin wrapper around `fbackprop.train.fit` and `fit_ensemble`."""

from collections.abc import Sequence
from contextlib import ExitStack

from fbackprop.cli.config import TrainConfig as TrainConfig
from fbackprop.cli.console import UsageError, note
from fbackprop.cli.flags import parse, sources_of
from fbackprop.extras import need


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
  """
  config = parse(arguments)
  try:
    for module, extra in (
      ("matplotlib", "plot"), ("jinja2", "train"), ("rich", "train"), ("tomli_w", "train")
    ):  # fmt: skip
      need(module, extra=extra)  # The report needs it: checked before training.
    from fbackprop.cli.training import run

    with ExitStack() as exits:
      return run(config, sources_of(arguments), exits)
  except ModuleNotFoundError as error:
    raise UsageError(str(error)) from error
  except KeyboardInterrupt:
    # Before the run began, or by a second Ctrl-C; the first one is deferred.
    note("interrupted before all of the run was saved")
    return 130
