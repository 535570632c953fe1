"""The names of `--data`. No jax is imported here, so that the command line starts fast."""

from typing import Literal, get_args

from fbackprop.errors import RangeError

Task = Literal["classification", "regression", "multilabel"]
TASKS = get_args(Task)
# Treatments of missing targets; see `load_dataset`.
MissingTargets = Literal["refuse", "drop", "class"]

BUNDLED = ("digits", "iris", "wine", "breast_cancer", "diabetes")
SYNTHETIC = ("moons", "circles", "blobs", "spiral", "xor", "sine", "mnist1d")
NAMES = BUNDLED + SYNTHETIC
FILES = {"csv": "FILE", "npz": "FILE", "idx": "DIR"}
ALL = ", ".join([*NAMES, *(f"{kind}:{path}" for kind, path in FILES.items())])


def kind_and_path(name: str) -> tuple[str, str]:
  """Split the name of a data set into its kind and, for files, the path.

  Args:
    name: such as "digits" or "csv:table.csv".

  Returns:
    ("digits", "") or ("csv", "table.csv").

  Raises:
    ValueError: the name is unknown.
  """
  kind, colon, path = name.partition(":")
  if (kind in FILES and path) or (kind in NAMES and not colon):
    return kind, path
  raise RangeError(f"must be one of {ALL}, got {name!r}", "data")
