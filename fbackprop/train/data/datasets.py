"""`load_dataset`: a data set by name, read, split and standardised."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

from fbackprop.errors import RangeError
from fbackprop.ranges import check_in_range
from fbackprop.train.data.bundled import load_bundled
from fbackprop.train.data.csv_tables import read_csv
from fbackprop.train.data.fingerprints import fingerprint_of
from fbackprop.train.data.idx import read_idx
from fbackprop.train.data.names import BUNDLED, MissingTargets, Task, kind_and_path
from fbackprop.train.data.npz import read_npz
from fbackprop.train.data.rows import Dataset
from fbackprop.train.data.split import split_rows
from fbackprop.train.data.standardization import Standardizations, as_float32, standardized
from fbackprop.train.data.synthetic import make_synthetic

__all__ = ["Dataset", "load_dataset", "load_raw", "read_source"]


class Source(TypedDict, total=False):
  """The options of a file: the keywords of `load_dataset` for `csv:` and `npz:`."""

  target: Sequence[str]
  task: Task | None
  sample_weights: str | None
  missing_targets: MissingTargets
  features: Sequence[str] | None


def load_dataset(
  name: str,
  seed: int,
  *,
  standardize: Literal["auto", "on", "off"] = "auto",
  test_fraction: float = 0.25,
  rounded: bool = False,
  like: Standardizations | None = None,
  **source: Unpack[Source],
) -> Dataset:
  """Generate or read a data set by name, split it, and standardise it.

  Args:
    name: such as "digits" or "csv:table.csv"; see `fbackprop.train.data.names`.
    seed: random seed of the split, and of synthetic data.
    standardize: "auto" standardises columns of different units. Means and deviations are those of
      the training set, for the features and for the values of a regression.
    test_fraction: fraction of the test set, where the source has none of its own; the split is
      stratified by class.
    rounded: round the source's numbers to float32 before standardisation, as runs without a
      fingerprint of their data did, so that they can be resumed bit for bit.
    like: standardisations of the features and of a regression's values, of a pretrained network;
      None for those of the training set.
    **source: options of a file. `target`: the target columns or array; `task`: None to infer it
      from the values; `sample_weights`: the column of a csv file or array of an npz file with the
      weights of the training examples (ignored by split, standardisation and test scores);
      `missing_targets`: treatment of missing targets (an empty cell, NA, ?, NaN): "refuse" raises
      for the first, "drop" drops such rows, "class" takes a word such as None for a class.

  Raises:
    ValueError: the name is unknown, a file is invalid, or it has too few rows to split.
    OSError: a file can't be read.
  """
  dataset = load_raw(name, seed, test_fraction, **source)
  if rounded:
    names = {"x": dataset.features, "x_test": dataset.features}
    if not dataset.is_classification:
      names |= {"targets": dataset.output_names, "targets_test": dataset.output_names}
    arrays: Any = {part: as_float32(getattr(dataset, part), own) for part, own in names.items()}
    dataset = replace(dataset, **arrays)
  return standardized(dataset, standardize, like)


def load_raw(
  name: str, seed: int, test_fraction: float = 0.25, **source: Unpack[Source]
) -> Dataset:
  """Read and split a data set in the source's numbers; see `load_dataset`."""
  check_in_range("", "test_fraction", test_fraction)
  kind, path = kind_and_path(name)
  for option in ("target", "task") if not path else ():
    if source.get(option):
      raise RangeError(f"is for csv and npz files, {name} has its own", option)
  if kind not in ("csv", "npz"):
    for option, default in (("sample_weights", None), ("missing_targets", "refuse")):
      if source.get(option, default) != default:
        raise RangeError(f"is for csv and npz files, {kind} has none", option)
  dataset = replace(read_source(name, seed, **source), name=name)
  rows = None
  if not len(dataset.x_test):
    rows = split_rows(dataset, seed, test_fraction)
  fingerprint = fingerprint_of(dataset, rows)
  if rows is not None:
    train, test = rows
    x, targets, weights = dataset.x, dataset.targets, dataset.weights
    dataset = replace(
      dataset, x=x[train], targets=targets[train], x_test=x[test], targets_test=targets[test],
      weights=None if weights is None else weights[train],
    )  # fmt: skip
  if dataset.weights is not None and not dataset.weights.any():
    raise ValueError(f"{name}: the sample_weights of the training examples are all 0")
  return replace(dataset, fingerprint=fingerprint)


def read_source(name: str, seed: int, **source: Unpack[Source]) -> Dataset:
  """Read a data set in the source's numbers; `features` are the columns of a csv file to read."""
  kind, path = kind_and_path(name)
  if kind == "csv":
    return read_csv(path, **source)
  if kind == "npz":
    return read_npz(
      path, source.get("target", ()), source.get("task"), source.get("sample_weights"),
      source.get("missing_targets", "refuse"),
    )  # fmt: skip
  if kind == "idx":
    if source.get("target") or source.get("task"):
      raise ValueError("target and task are for csv and npz files, idx has labels")
    return read_idx(path)
  return load_bundled(kind) if kind in BUNDLED else make_synthetic(kind, seed)
