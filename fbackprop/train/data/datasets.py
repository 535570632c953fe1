"""`load_dataset`: a data set by name, read, split and standardised."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

import numpy as np

from fbackprop.errors import RangeError
from fbackprop.ranges import check_in_range
from fbackprop.train.data import built_in, fingerprints, rows, splits
from fbackprop.train.data.formats import FORMATS, TABLES, kind_and_path
from fbackprop.train.data.names import BUNDLED, MissingTargets, Task
from fbackprop.train.data.rows import Dataset, Standardizations, as_float32
from fbackprop.train.data.splits import Split

__all__ = ["Dataset", "load_dataset", "load_raw", "read_source"]

# With at least this many classes, and more than half as many as examples, the labels are probably
# numbers that couldn't be parsed.
MANY = 10


class Source(TypedDict, total=False):
  """The options of a file: the keywords of `load_dataset` for the formats in `TABLES`."""

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
    name: such as "digits" or "csv:table.csv"; see `fbackprop.train.data.formats`.
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
  return rows.standardized(dataset, standardize, like)


def load_raw(
  name: str, seed: int, test_fraction: float = 0.25, **source: Unpack[Source]
) -> Dataset:
  """Read and split a data set in the source's numbers; see `load_dataset`."""
  check_in_range("", "test_fraction", test_fraction)
  kind, _ = kind_and_path(name)
  if kind not in TABLES:
    has = {"target": "its own", "task": "its own"}
    for option, value in source.items():
      if value and value != "refuse":
        raise RangeError(
          f"is for {' and '.join(TABLES)} files, {kind} has {has.get(option, 'none')}", option
        )
  dataset = replace(read_source(name, seed, **source), name=name)
  split = None if len(dataset.x_test) else split_rows(dataset, seed, test_fraction)
  fingerprint = fingerprints.fingerprint_of(dataset, split)
  if split is not None:
    train, test = split
    x, targets, weights = dataset.x, dataset.targets, dataset.weights
    dataset = replace(
      dataset, x=x[train], targets=targets[train], x_test=x[test], targets_test=targets[test],
      weights=None if weights is None else weights[train],
    )  # fmt: skip
  if dataset.weights is not None and not dataset.weights.any():
    raise ValueError(f"{name}: the sample_weights of the training examples are all 0")
  return replace(dataset, fingerprint=fingerprint)


def split_rows(dataset: Dataset, seed: int, test_fraction: float) -> Split:
  """Choose the rows of the training and the test set, stratified by class.

  Args:
    dataset: a data set without a test set.
    seed: random seed of the split.
    test_fraction: fraction of the test set.

  Returns:
    The training rows and the test rows.

  Raises:
    ValueError: a part would lack a class, or there is nothing to learn.
  """
  name, targets, classes, n = dataset.name, dataset.targets, dataset.output_names, len(dataset.x)
  is_labelled = dataset.is_classification
  tested = round(test_fraction * n)
  least = len(classes) if is_labelled else 1
  if is_labelled and least >= MANY and 2 * least > n:
    some = ", ".join(map(repr, classes[:3]))
    taken = f"{dataset.label!r} was taken for labels of {least} classes ({some}, ...)"
    advice = "if they are numbers, write them without units and separators"
    raise ValueError(f"{name}: {taken}, and there are {n} examples; {advice}")
  if min(tested, n - tested) < least:
    one = f"with a test_fraction of {test_fraction:g} one of the parts"
    raise ValueError(f"{name} has {n} examples: {one} would have less than {least}")
  if is_labelled and least == 1:
    raise ValueError(f"{name}: there is nothing to learn, as each label is {classes[0]!r}")
  counts = np.bincount(targets, minlength=least) if is_labelled else np.array([n])
  if counts.min() < 2:
    alone = f"class {classes[int(counts.argmin())]!r} has {counts.min()} example"
    raise ValueError(f"{name}: {alone}, and needs one in each part")
  return splits.stratified(n, test_fraction, targets if is_labelled else None, seed)


def read_source(name: str, seed: int, **source: Unpack[Source]) -> Dataset:
  """Read a data set in the source's numbers; `features` are the columns of a csv file to read."""
  kind, path = kind_and_path(name)
  if kind in FORMATS:
    return FORMATS[kind].read(path, **(source if kind in TABLES else {}))
  return built_in.load_bundled(kind) if kind in BUNDLED else built_in.make_synthetic(kind, seed)
