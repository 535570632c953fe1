"""The file formats of `--data`: the readers of each, by the prefix of a name such as csv:FILE.

To add a format, write its reader in a module beside this one, and add its row to `FORMATS`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fbackprop.errors import RangeError
from fbackprop.train.data import csv_tables, frames, idx, mat, npz
from fbackprop.train.data.names import NAMES
from fbackprop.train.data.rows import Dataset


class Format(NamedTuple):
  """A file format.

  Attributes:
    path: what the path names in messages, "FILE" or "DIR".
    read: `read(path, **source)`, with the options of `load_dataset`, reads a data set; or
      `read(path)`, if the format states its targets itself.
    read_features: `read_features(path, names)` reads a model's features, `[N, D]`; None for a
      format without options.
    options: the options that it has besides those of every table.
  """

  path: str
  read: Callable[..., Dataset]
  read_features: Callable[..., np.ndarray] | None = None
  options: tuple[str, ...] = ()


# Options of named columns, and of numbers as text; `known` and `usual` are a model's.
OF_COLUMNS = ("features", "drop", "categorical", "known")
OF_TEXT = ("separator", "decimal", "usual")
FORMATS = {
  "csv": Format("FILE", csv_tables.read_csv, csv_tables.read_features, (*OF_COLUMNS, *OF_TEXT)),
  "parquet": Format("FILE", frames.read_parquet, frames.read_parquet_features, OF_COLUMNS),
  "npz": Format("FILE", npz.read_npz, npz.read_npz_features),
  "idx": Format("DIR", idx.read_idx),
  "mat": Format("FILE", mat.read_mat),
}
# The readers of features, of the formats with options.
TABLES = {kind: f.read_features for kind, f in FORMATS.items() if f.read_features is not None}
ALL = ", ".join([*NAMES, *(f"{kind}:{known.path}" for kind, known in FORMATS.items())])


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
  if (kind in FORMATS and path) or (kind in NAMES and not colon):
    return kind, path
  raise RangeError(f"must be one of {ALL}, got {name!r}", "data")
