"""`load_dataset`: a data set by name, read, split and standardised."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

import numpy as np

from fbackprop.errors import RangeError
from fbackprop.ranges import check_in_range
from fbackprop.train.data import built_in, encodings, fingerprints, rows, splits
from fbackprop.train.data.columns import Column
from fbackprop.train.data.encodings import Encoding
from fbackprop.train.data.formats import FORMATS, OF_COLUMNS, OF_TEXT, TABLES, kind_and_path
from fbackprop.train.data.frames import is_frame, read_frame
from fbackprop.train.data.names import BUNDLED, Decimal, MissingTargets, Separator, Task
from fbackprop.train.data.rows import Dataset, Standardizations, as_float32, check_width, listed
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
  drop: Sequence[str]
  categorical: Sequence[str]
  separator: Separator
  decimal: Decimal
  known: Sequence[Column] | None
  usual: Literal["point", "comma"] | None


def load_dataset(
  name: Any,
  seed: int,
  *,
  standardize: Literal["auto", "on", "off"] = "auto",
  test_fraction: float = 0.25,
  rounded: bool = False,
  like: Standardizations | None = None,
  encoding: Encoding | None = None,
  **source: Unpack[Source],
) -> Dataset:
  """Generate or read a data set by name, split it, encode and standardise it.

  Args:
    name: such as "digits" or "csv:table.csv"; see `fbackprop.train.data.formats`. Or a DataFrame of
      pandas or polars, with the options of a parquet file.
    seed: random seed of the split, and of synthetic data.
    standardize: "auto" standardises columns of different units. Means and deviations are those of
      the training set, for the features and for the values of a regression.
    test_fraction: fraction of the test set, where the source has none of its own; the split is
      stratified by class.
    rounded: round the source's numbers to float32 before standardisation, as runs without a
      fingerprint of their data did, so that they can be resumed bit for bit.
    like: standardisations of the features and of a regression's values, of a pretrained network;
      None for those of the training set.
    encoding: the encoding of mixed columns, of a pretrained network; None to fit one.
    **source: options of a file. `target`: the target columns or array; `task`: None to infer it
      from the values; `sample_weights`: the column of a csv file or array of an npz file with the
      weights of the training examples (ignored by split, standardisation and test scores);
      `missing_targets`: treatment of missing targets (an empty cell, NA, ?, NaN): "refuse" raises
      for the first, "drop" drops such rows, "class" takes a word such as None for a class;
      `features`, `drop`, `categorical`: the columns that are features, those that aren't, and those
      that are words; `separator`, `decimal`: how a text file is written; `known`, `usual`: the
      columns of a model, and the decimal separator of its training set.

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
  return rows.standardized(encoded(dataset, encoding), standardize, like)


def encoded(dataset: Dataset, encoding: Encoding | None = None) -> Dataset:
  """Encode a split data set that has anything but complete numbers, by its training set."""
  if encoding is None and dataset.x.dtype != object:
    return dataset
  own = encodings.fit(dataset.columns, dataset.x) if encoding is None else encoding
  notes = [*dataset.notes, *filled_notes(own, dataset.x)]
  for part, x in (("training", dataset.x), ("test", dataset.x_test)):
    if part == "test" or encoding is not None:
      notes += [f"{note} (of the {part} set)" for note in own.surprises(x)]
  check_width(str(dataset.name), "encoded features", len(own.names))
  return replace(
    dataset, x=own.encode(dataset.x), x_test=own.encode(dataset.x_test), features=own.names,
    encoding=own, notes=tuple(notes),
  )  # fmt: skip


def filled_notes(encoding: Encoding, x: np.ndarray) -> list[str]:
  """Describe the missing numbers of raw rows, and what fills them."""
  notes = []
  for state, values in zip(encoding.states, np.asarray(x, object).T, strict=True):
    if state.is_marked:
      count = int(np.isnan(values.astype(np.float64)).sum())
      filled = f"filled with the median, {state.fill:.6g}, and marked by an indicator"
      notes.append(f"{state.column.name}: {count:,} of {len(values):,} missing, {filled}")
  return notes


def load_raw(
  name: Any, seed: int, test_fraction: float = 0.25, **source: Unpack[Source]
) -> Dataset:
  """Read and split a data set in the source's numbers; see `load_dataset`."""
  check_in_range("", "test_fraction", test_fraction)
  kind = "frame" if is_frame(name) else kind_and_path(name)[0]
  is_table = kind in TABLES or kind == "frame"
  has = {"target": "its own", "task": "its own"}
  for option, value in source.items():
    if not value or value in ("refuse", "auto"):
      continue
    if not is_table:
      known = listed(list(TABLES))
      raise RangeError(f"is for files ({known}), {kind} has {has.get(option, 'none')}", option)
    if option in (*OF_COLUMNS, *OF_TEXT) and option not in options_of(kind):
      kinds = " and ".join(own for own, f in FORMATS.items() if option in f.options)
      raise RangeError(f"is for {kinds} files, {kind} has none", option)
  dataset = replace(read_source(name, seed, **source), name=kind if kind == "frame" else name)
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
    advice = "give it more, or take its rows out"
    raise ValueError(f"{name}: {alone}, and needs one in each part; {advice}")
  return splits.stratified(n, test_fraction, targets if is_labelled else None, seed)


def options_of(kind: str) -> tuple[str, ...]:
  """Return the options of named columns and of texts that a format, or a DataFrame, has."""
  return OF_COLUMNS if kind == "frame" else FORMATS[kind].options


def read_source(name: Any, seed: int, **source: Unpack[Source]) -> Dataset:
  """Read a data set in the source's numbers; options that its format hasn't are ignored."""
  kind, path = ("frame", "") if is_frame(name) else kind_and_path(name)
  if kind == "frame" or kind in TABLES:
    others = {*OF_COLUMNS, *OF_TEXT} - {*options_of(kind)}
    own: dict[str, Any] = {key: value for key, value in source.items() if key not in others}
    return read_frame(name, **own) if kind == "frame" else FORMATS[kind].read(path, **own)
  if kind in FORMATS:
    return FORMATS[kind].read(path)
  return built_in.load_bundled(kind) if kind in BUNDLED else built_in.make_synthetic(kind, seed)
