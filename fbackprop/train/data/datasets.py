"""The data of the command line: read, split into what is learned from and what is tested on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.bundled import load_bundled
from fbackprop.train.data.csv_tables import listed, read_csv
from fbackprop.train.data.fingerprints import fingerprint_of
from fbackprop.train.data.idx import read_idx
from fbackprop.train.data.names import BUNDLED, MissingTargets, Task, kind_and_path
from fbackprop.train.data.npz import read_npz
from fbackprop.train.data.rows import Examples
from fbackprop.train.data.standardization import (
  Standardization,
  as_float32,
  fit_standardization,
  is_constant,
  lost_values,
)  # fmt: skip
from fbackprop.train.data.synthetic import make_synthetic

# Deviations from the mean that a network was trained with, beyond which its numbers mean little.
FAR = 10.0
# Classes of half of the examples, and at least so many, are rather numbers that were not read.
MANY = 10


@dataclass(frozen=True)
class Dataset:
  """Examples that are split, as NumPy arrays in float32, labels in int32.

  Attributes:
    name: as on the command line.
    x: features of the training examples, `[N, D_in]`, standardised if they are to be.
    targets: labels `[N]`, or values `[N, C]`.
    x_test: likewise for the test examples.
    targets_test: likewise.
    outputs: how many outputs C a network needs.
    image_shape: rows and columns of an example, if it is a picture.
    task: what is learned.
    output_names: of the classes by their labels, or of the values.
    features: names of the columns of x.
    standardization: what was done to the raw features; None if nothing was.
    target_standardization: likewise to the values of a regression.
    inferred: how the task was told from the values; "" where nothing had to be.
    weights: what each training example counts for, `[N]`; None for all alike.
    raw_targets_test: values of a regression as the source has them, `[N, C]`, by which the outputs
      are scored; None where they are `targets_test` themselves.
    notes: sentences about what a user of the data would want to know, such as a constant column.
    fingerprint: which examples these are, and how they were split; see `fingerprints`.
  """

  name: str
  x: np.ndarray
  targets: np.ndarray
  x_test: np.ndarray
  targets_test: np.ndarray
  outputs: int
  image_shape: tuple[int, int] | None = None
  task: Task = "classification"
  output_names: tuple[str, ...] = ()
  features: tuple[str, ...] = ()
  standardization: Standardization | None = None
  target_standardization: Standardization | None = None
  inferred: str = ""
  weights: np.ndarray | None = None
  raw_targets_test: np.ndarray | None = None
  notes: tuple[str, ...] = ()
  fingerprint: dict[str, Any] = field(default_factory=dict)

  @property
  def is_classification(self) -> bool:
    """Whether the targets are labels."""
    return self.targets.ndim == 1


class Parts(NamedTuple):
  """Examples that are split, as the source has them.

  Attributes:
    x, targets, weights: of the training examples, `[N, D]`, labels `[N]` or values `[N, C]`, and
      `[N]` or None.
    x_test, targets_test: of the test examples.
    source: what is known of them, without them.
    fingerprint: see `fingerprints`.
  """

  x: np.ndarray
  targets: np.ndarray
  x_test: np.ndarray
  targets_test: np.ndarray
  weights: np.ndarray | None
  source: Examples
  fingerprint: dict[str, Any]


def load_dataset(
  name: str,
  seed: int,
  *,
  target: Sequence[str] = (),
  task: Task | None = None,
  standardize: Literal["auto", "on", "off"] = "auto",
  test_fraction: float = 0.25,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
  rounded: bool = False,
  like: tuple[Standardization | None, Standardization | None] | None = None,
) -> Dataset:
  """Makes or reads a data set by its name, and splits it.

  Numbers stay in float64 until they are standardised, whatever their offset, and become float32
  then.

  Args:
    name: such as "digits" or "csv:table.csv"; see `fbackprop.train.data.names`.
    seed: of the split, and of points that are made.
    target: of a file, the column or array that is learned.
    task: of a file, what its targets are; None to tell it from the values.
    standardize: "auto" for what has columns of different units. It is fitted on the training part,
      to the features and to the values of a regression.
    test_fraction: of the examples, where the source has no test part of its own; each class is in
      both parts in the same share.
    sample_weights: of a csv file the column, of an npz file the array of what the examples count
      for. They go with the training examples; the split, the standardisation and the scores of the
      test part don't know them.
    missing_targets: of a file, what is done where a target is missing (an empty cell, NA, ?, NaN):
      "refuse" names the first, "drop" leaves such rows out, and "class" takes a word, such as None,
      for the name of a class.
    rounded: whether the source's numbers are rounded to float32 first, as in runs that have no
      fingerprint, which go on to the same bits so.
    like: standardizations of the features and of a regression's values, in the place of those of
      the training part: of a network that is trained further. None for the training part's own.

  Returns:
    The `Dataset`.

  Raises:
    ValueError: there is no such data, a file isn't what it must be, or it is too small to split.
    OSError: a file can't be read.
    ModuleNotFoundError: a package isn't there; the message names the extra.
  """
  parts = load_parts(
    name, seed, target=target, task=task, test_fraction=test_fraction,
    sample_weights=sample_weights, missing_targets=missing_targets,
  )  # fmt: skip
  source = parts.source
  is_regression, is_labelled = source.task == "regression", source.task == "classification"
  if rounded:
    parts = parts._replace(
      x=as_float32(parts.x, source.features), x_test=as_float32(parts.x_test, source.features)
    )
    if not is_labelled:
      parts = parts._replace(
        targets=as_float32(parts.targets, source.outputs),
        targets_test=as_float32(parts.targets_test, source.outputs),
      )
  is_standardized = source.standardize if standardize == "auto" else standardize == "on"
  notes = list(source.notes)

  def narrowed(
    names: Sequence[str],
    train: np.ndarray,
    test: np.ndarray,
    is_standardized: bool,
    known: Standardization | None,
  ) -> tuple[np.ndarray, np.ndarray, Standardization | None]:
    own, raw = None, (train, test)
    if is_standardized:
      if known is not None and len(known.mean) != len(names):
        raise ValueError(
          f"init was trained on {len(known.mean)} columns, and {name} has {len(names)}: "
          f"{listed(names)}"
        )
      own = fit_standardization(train) if known is None else known
      constant = [names[j] for j in np.flatnonzero(is_constant(train)).tolist()]
      if constant and source.image_shape is None:  # Most pictures have a margin.
        notes.append(f"constant in the training part: {listed(constant)}")
      train, test = own.wide(train), own.wide(test)
      off = float(np.abs(train.mean(0)).max(initial=0.0))
      if known is not None and off > FAR:
        notes.append(
          f"a mean lies {off:.3g} deviations from that of --init; --standardize on measures anew"
        )
    train, test = as_float32(train, names), as_float32(test, names)
    notes.extend(lost_values(names, raw, (train, test)))
    return train, test, own

  of_x, of_targets = (None, None) if like is None else like
  x, x_test, standardization = narrowed(
    source.features,
    parts.x,
    parts.x_test,
    is_standardized if like is None else of_x is not None,
    of_x,
  )
  targets, targets_test, target_standardization = parts.targets, parts.targets_test, None
  if not is_labelled:
    targets, targets_test, target_standardization = narrowed(
      source.outputs,
      targets,
      targets_test,
      is_regression and (is_standardized if like is None else of_targets is not None),
      of_targets,
    )
  weights = parts.weights
  return Dataset(
    name,
    x,
    targets,
    x_test,
    targets_test,
    len(source.outputs),
    source.image_shape,
    source.task,
    source.outputs,
    source.features,
    standardization,
    target_standardization,
    source.inferred,
    None if weights is None else as_float32(weights[:, None], ("sample_weights",))[:, 0],
    parts.targets_test if target_standardization is not None else None,
    tuple(notes),
    parts.fingerprint,
  )


def load_parts(
  name: str,
  seed: int,
  *,
  target: Sequence[str] = (),
  task: Task | None = None,
  test_fraction: float = 0.25,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
) -> Parts:
  """The same examples as the source has them, before they are standardised.

  Arguments and errors are those of `load_dataset`.
  """
  kind, path = kind_and_path(name)
  if not path and (target or task):
    what = "target" if target else "task"
    raise ValueError(f"{what} is for csv and npz files, {name} has its own")
  if kind not in ("csv", "npz"):
    for what, is_given in (
      ("sample_weights", sample_weights is not None),
      ("missing_targets", missing_targets != "refuse"),
    ):
      if is_given:
        raise ValueError(f"{what} is for csv and npz files, {kind} has none")
  examples = examples_of(kind, path, seed, target, task, sample_weights, missing_targets)
  rows = None
  if examples.test is None:
    rows = rows_of_parts(name, examples, seed, test_fraction)
    train, test = rows
    weights = None if examples.weights is None else examples.weights[train]
    parts = (examples.x[train], examples.targets[train], examples.x[test], examples.targets[test])
  else:
    parts, weights = (examples.x, examples.targets, *examples.test), examples.weights
  if weights is not None and not weights.any():
    raise ValueError(f"{name}: the sample_weights of the training examples are all 0")
  fingerprint = fingerprint_of(examples, rows)
  source = examples._replace(x=examples.x[:0], targets=examples.targets[:0], test=None)
  return Parts(*parts, weights, source, fingerprint)


def examples_of(
  kind: str,
  path: str,
  seed: int,
  target: Sequence[str],
  task: Task | None,
  sample_weights: str | None = None,
  missing_targets: MissingTargets = "refuse",
  features: Sequence[str] | None = None,
) -> Examples:
  """What the source has; `features` are those of a csv file that are read, None for all."""
  if kind == "csv":
    return read_csv(path, target, task, sample_weights, missing_targets, features)
  if kind == "npz":
    return read_npz(path, target, task, sample_weights, missing_targets)
  if kind == "idx":
    if target or task:
      raise ValueError("target and task are for csv and npz files, idx has labels")
    return read_idx(path)
  return load_bundled(kind) if kind in BUNDLED else make_synthetic(kind, seed)


def rows_of_parts(
  name: str, examples: Examples, seed: int, test_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
  """The rows to train on, and those to test on: a seeded split, each class in the same share."""
  targets, n = examples.targets, len(examples.x)
  is_labelled = targets.ndim == 1
  tested = round(test_fraction * n)
  least = len(examples.outputs) if is_labelled else 1
  if is_labelled and least >= MANY and 2 * least > n:
    some = ", ".join(map(repr, examples.outputs[:3]))
    raise ValueError(
      f"{name}: {examples.label!r} was taken for labels of {least} classes ({some}, ...), and "
      f"there are {n} examples; if they are numbers, write them without units and separators"
    )
  if min(tested, n - tested) < least:
    raise ValueError(
      f"{name} has {n} examples: with a test_fraction of {test_fraction:g} one of the parts "
      f"would have less than {least}"
    )
  if is_labelled and least == 1:
    raise ValueError(f"{name}: there is nothing to learn, as each label is {examples.outputs[0]!r}")
  if is_labelled:
    counts = np.bincount(targets, minlength=len(examples.outputs))
    if counts.min() < 2:
      alone = examples.outputs[int(counts.argmin())]
      raise ValueError(
        f"{name}: class {alone!r} has {counts.min()} example, and needs one in each part"
      )
  model_selection = need("sklearn.model_selection", extra="data")
  train, test = model_selection.train_test_split(
    np.arange(n),
    test_size=test_fraction,
    stratify=targets if is_labelled else None,
    random_state=seed,
  )
  return train, test
