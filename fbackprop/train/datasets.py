"""The data of the command line: read, split into what is learned from and what is tested on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fbackprop.extras import need
from fbackprop.train.sources.archives import read_npz
from fbackprop.train.sources.bundled import load_bundled
from fbackprop.train.sources.examples import Examples
from fbackprop.train.sources.idx import read_idx
from fbackprop.train.sources.names import BUNDLED, Task, kind_and_path
from fbackprop.train.sources.synthetic import make_synthetic
from fbackprop.train.sources.tables import read_csv
from fbackprop.train.standardization import Standardization, fit_standardization


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

  @property
  def is_classification(self) -> bool:
    """Whether the targets are labels."""
    return self.targets.ndim == 1


def load_dataset(
  name: str,
  seed: int,
  *,
  target: Sequence[str] = (),
  task: Task | None = None,
  standardize: Literal["auto", "on", "off"] = "auto",
  test_fraction: float = 0.25,
  sample_weights: str | None = None,
) -> Dataset:
  """Makes or reads a data set by its name, and splits it.

  Args:
    name: such as "digits" or "csv:table.csv"; see `fbackprop.train.sources.names`.
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

  Returns:
    The `Dataset`.

  Raises:
    ValueError: there is no such data, a file isn't what it must be, or it is too small to split.
    OSError: a file can't be read.
    ModuleNotFoundError: a package isn't there; the message names the extra.
  """
  kind, path = kind_and_path(name)
  if not path and (target or task):
    what = "target" if target else "task"
    raise ValueError(f"{what} is for csv and npz files, {name} has its own")
  if sample_weights is not None and kind not in ("csv", "npz"):
    raise ValueError(f"sample_weights is for csv and npz files, {kind} has none")
  examples = examples_of(kind, path, seed, target, task, sample_weights)
  x, targets, x_test, targets_test, weights = split(name, examples, seed, test_fraction)
  if weights is not None and not weights.any():
    raise ValueError(f"{name}: the sample_weights of the training examples are all 0")
  is_standardized = examples.standardize if standardize == "auto" else standardize == "on"
  standardization = target_standardization = None
  if is_standardized:
    standardization = fit_standardization(x)
    x, x_test = standardization.apply(x), standardization.apply(x_test)
    if examples.task == "regression":
      own = target_standardization = fit_standardization(targets)
      targets, targets_test = own.apply(targets), own.apply(targets_test)
  return Dataset(
    name,
    x,
    targets,
    x_test,
    targets_test,
    len(examples.outputs),
    examples.image_shape,
    examples.task,
    examples.outputs,
    examples.features,
    standardization,
    target_standardization,
    examples.inferred,
    weights,
  )


def examples_of(
  kind: str,
  path: str,
  seed: int,
  target: Sequence[str],
  task: Task | None,
  sample_weights: str | None = None,
) -> Examples:
  """What the source has."""
  if kind == "csv":
    return read_csv(path, target, task, sample_weights)
  if kind == "npz":
    return read_npz(path, target, task, sample_weights)
  if kind == "idx":
    if target or task:
      raise ValueError("target and task are for csv and npz files, idx has labels")
    return read_idx(path)
  return load_bundled(kind) if kind in BUNDLED else make_synthetic(kind, seed)


def split(
  name: str, examples: Examples, seed: int, test_fraction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
  """x, targets, x_test, targets_test, weights: the source's own parts, or a seeded split."""
  x, targets, weights = examples.x, examples.targets, examples.weights
  if examples.test is not None:
    return x, targets, *examples.test, weights
  is_labelled = targets.ndim == 1
  tested = round(test_fraction * len(x))
  least = len(examples.outputs) if is_labelled else 1
  if min(tested, len(x) - tested) < least:
    raise ValueError(
      f"{name} has {len(x)} examples: with a test_fraction of {test_fraction:g} one of the parts "
      f"would have less than {least}"
    )
  if is_labelled:
    counts = np.bincount(targets, minlength=len(examples.outputs))
    if counts.min() < 2:
      alone = examples.outputs[int(counts.argmin())]
      raise ValueError(
        f"{name}: class {alone!r} has {counts.min()} example, and needs one in each part"
      )
  model_selection = need("sklearn.model_selection", extra="data")
  parts = model_selection.train_test_split(
    x,
    targets,
    *([] if weights is None else [weights]),
    test_size=test_fraction,
    stratify=targets if is_labelled else None,
    random_state=seed,
  )
  return parts[0], parts[2], parts[1], parts[3], None if weights is None else parts[4]
