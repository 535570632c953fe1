"""The data sets of the command line, made or found without a network."""

from dataclasses import dataclass

import numpy as np

from fbackprop.extras import need


@dataclass(frozen=True)
class Dataset:
  """Examples that are split, as NumPy arrays in float32, labels in int32.

  Attributes:
    name: as on the command line.
    x: features of the training examples, `[N, D_in]`.
    targets: labels `[N]`, or a regression's values `[N, C]`.
    x_test: likewise for the test examples.
    targets_test: likewise.
    outputs: how many outputs C a network needs.
    image_shape: rows and columns of an example, if it is a picture.
  """

  name: str
  x: np.ndarray
  targets: np.ndarray
  x_test: np.ndarray
  targets_test: np.ndarray
  outputs: int
  image_shape: tuple[int, int] | None = None

  @property
  def is_classification(self) -> bool:
    """Whether the targets are labels."""
    return self.targets.ndim == 1


def load_dataset(name: str, seed: int) -> Dataset:
  """Makes a data set by its name.

  Args:
    name: "digits" or "sine".
    seed: of the split, and of the points.

  Returns:
    The `Dataset`.

  Raises:
    ValueError: there is no such data set.
    ModuleNotFoundError: digits need scikit-learn; the message names the extra.
  """
  makers = {"digits": digits, "sine": sine}
  if name not in makers:
    raise ValueError(f"data must be one of {', '.join(makers)}, got {name!r}")
  return makers[name](seed)


def digits(seed: int) -> Dataset:
  """1,797 handwritten digits, 8×8 pixels from 0 to 1, split 75/25 with each class in both parts.

  References:
    Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository
    (1998); the copy that scikit-learn ships.
  """
  datasets = need("sklearn.datasets", extra="data")
  model_selection = need("sklearn.model_selection", extra="data")
  x, labels = datasets.load_digits(return_X_y=True)
  x, labels = (x / 16).astype(np.float32), labels.astype(np.int32)
  x, x_test, labels, labels_test = model_selection.train_test_split(
    x, labels, test_size=0.25, stratify=labels, random_state=seed
  )
  return Dataset("digits", x, labels, x_test, labels_test, outputs=10, image_shape=(8, 8))


def sine(seed: int) -> Dataset:
  """sin x on [−π, π]: 256 points drawn at random to learn from, 256 evenly spaced ones to test."""
  x = np.random.default_rng(seed).uniform(-np.pi, np.pi, (256, 1)).astype(np.float32)
  x_test = np.linspace(-np.pi, np.pi, 256, dtype=np.float32)[:, None]
  return Dataset("sine", x, np.sin(x), x_test, np.sin(x_test), outputs=1)
