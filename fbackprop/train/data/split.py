"""The split of a data set into training and test set, by scikit-learn's `train_test_split`."""

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.rows import Dataset

# With at least this many classes, and more than half as many as examples, the labels are probably
# numbers that couldn't be parsed.
MANY = 10


def split_rows(dataset: Dataset, seed: int, test_fraction: float) -> tuple[np.ndarray, np.ndarray]:
  """Choose the rows of the training and the test set, stratified by class.

  Args:
    dataset: a data set without a test set.
    seed: random seed of the split.
    test_fraction: fraction of the test set.

  Returns:
    The training rows and the test rows.

  Raises:
    ValueError: a part would lack a class, or there is nothing to learn.
    ModuleNotFoundError: scikit-learn isn't installed; the message names the extra.
  """
  name, targets, classes, n = dataset.name, dataset.targets, dataset.output_names, len(dataset.x)
  is_labelled = dataset.is_classification
  tested = round(test_fraction * n)
  least = len(classes) if is_labelled else 1
  if is_labelled and least >= MANY and 2 * least > n:
    some = ", ".join(map(repr, classes[:3]))
    raise ValueError(
      f"{name}: {dataset.label!r} was taken for labels of {least} classes ({some}, ...), and "
      f"there are {n} examples; if they are numbers, write them without units and separators"
    )
  if min(tested, n - tested) < least:
    raise ValueError(
      f"{name} has {n} examples: with a test_fraction of {test_fraction:g} one of the parts "
      f"would have less than {least}"
    )
  if is_labelled:
    if least == 1:
      raise ValueError(f"{name}: there is nothing to learn, as each label is {classes[0]!r}")
    counts = np.bincount(targets, minlength=least)
    if counts.min() < 2:
      alone = classes[int(counts.argmin())]
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
