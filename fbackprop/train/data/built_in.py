"""Data sets by name: those that scikit-learn ships, and synthetic ones.

The synthetic ones are points in the plane that aren't linearly separable, a sine, and MNIST-1D.

References:
  Digits: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits" (1998); iris: Fisher, "The
  use of multiple measurements in taxonomic problems" (1936); wine: Forina et al., "Wine" (1991);
  breast_cancer: Wolberg et al., "Breast Cancer Wisconsin (Diagnostic)" (1993), all of the UCI
  Machine Learning Repository; diabetes: Efron, Hastie, Johnstone, Tibshirani, "Least angle
  regression", Annals of Statistics 32 (2004).
  MNIST-1D: Greydanus, Kobak, "Scaling down deep learning with MNIST-1D", arXiv:2011.14439 (2024).
"""

import gzip
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.rows import Dataset, numbered

# Number of points of a data set in the plane.
POINTS = 1000
# Options of `make_moons`, `make_circles` and `make_blobs` of scikit-learn: moons, circles, or
# three blobs, with little overlap of the classes.
OF_SCIKIT_LEARN: dict[str, dict[str, Any]] = {
  "moons": {"noise": 0.15},
  "circles": {"noise": 0.08, "factor": 0.5},
  "blobs": {"centers": ((-1.0, -0.6), (1.0, -0.6), (0.0, 1.1)), "cluster_std": 0.35},
}


def load_bundled(name: str) -> Dataset:
  """Load a scikit-learn data set: 1,797 digits of 8×8 pixels in [0, 1], or one of four tables.

  Raises:
    ModuleNotFoundError: scikit-learn isn't installed; the message names the extra.
  """
  if name == "digits":
    return load_digits()
  loaders: Any = need("sklearn.datasets", extra="data")
  options = {"scaled": False} if name == "diabetes" else {}  # In the original units.
  found = getattr(loaders, f"load_{name}")(**options)
  features = tuple(map(str, found.feature_names))
  if name == "diabetes":
    values = found.target.astype(np.float64)[:, None]
    outputs = ("disease progression",)
    return Dataset(found.data, values, "regression", outputs, features, has_units=True)
  classes = tuple(map(str, found.target_names))
  labels = found.target.astype(np.int32)
  return Dataset(found.data, labels, "classification", classes, features, has_units=True)


def load_digits() -> Dataset:
  """Read the digits from scikit-learn's own file, without its import, which takes a second."""
  spec = find_spec("sklearn")
  home = None if spec is None or spec.origin is None else Path(spec.origin).parent
  path = None if home is None else home / "datasets" / "data" / "digits.csv.gz"
  if path is None or not path.is_file():  # Not installed, which raises, or of another version.
    found = need("sklearn.datasets", extra="data").load_digits()
    rows = np.column_stack([found.data, found.target])
  else:
    with gzip.open(path, "rt", encoding="ascii") as file:
      rows = np.fromstring(file.read().replace("\n", ","), np.float64, sep=",").reshape(-1, 65)
  features = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
  pixels, labels = (rows[:, :-1] / 16).astype(np.float32), rows[:, -1].astype(np.int32)
  classes = numbered("", 10)
  return Dataset(pixels, labels, "classification", classes, features, image_shape=(8, 8))


def make_synthetic(name: str, seed: int) -> Dataset:
  """Generate a data set by name.

  Args:
    name: "moons", "circles", "blobs", "spiral", "xor", "sine" or "mnist1d".
    seed: random seed.

  Raises:
    ModuleNotFoundError: the package that generates it isn't installed; the message names the extra.
  """
  if name in ("sine", "mnist1d"):
    return sine(seed) if name == "sine" else one_dimensional_digits(seed)
  if name in OF_SCIKIT_LEARN:
    make = getattr(need("sklearn.datasets", extra="data"), f"make_{name}")
    x, labels = make(POINTS, random_state=seed, **OF_SCIKIT_LEARN[name])
  else:
    make = spiral if name == "spiral" else exclusive_or
    x, labels = make(np.random.default_rng(seed))
  x, labels = x.astype(np.float32), labels.astype(np.int32)
  classes = tuple(str(c) for c in range(labels.max() + 1))
  return Dataset(x, labels, "classification", classes, numbered("x", 2))


def spiral(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Generate two spiral arms of one and a half turns, from the origin out to radius 1."""
  labels = np.arange(POINTS) % 2
  radius = np.sqrt(rng.uniform(0.01, 1.0, POINTS))
  angle = 3 * np.pi * radius + np.pi * labels
  x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
  return x + 0.03 * rng.normal(size=x.shape), labels


def exclusive_or(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Generate points in a square, labelled by whether their two signs differ."""
  x = rng.uniform(-1, 1, (POINTS, 2))
  return x, (x[:, 0] > 0) ^ (x[:, 1] > 0)


def sine(seed: int) -> Dataset:
  """Generate sin x on [−π, π]: 256 random points for training, 256 evenly spaced for testing."""
  x = np.random.default_rng(seed).uniform(-np.pi, np.pi, (256, 1)).astype(np.float32)
  x_test = np.linspace(-np.pi, np.pi, 256, dtype=np.float32)[:, None]
  return Dataset(x, np.sin(x), "regression", ("sin x",), ("x",), x_test, np.sin(x_test))


def one_dimensional_digits(seed: int) -> Dataset:
  """Generate MNIST-1D by its published procedure: 4,000 signals of length 40, 1,000 for testing.

  The package draws from the global generators of NumPy and Python, whose states are restored.
  """
  data: Any = need("mnist1d.data", extra="data")
  arguments = data.get_dataset_args()
  arguments.seed = seed
  states = random.getstate(), np.random.get_state()
  try:
    made = data.make_dataset(arguments)
  finally:
    random.setstate(states[0])
    np.random.set_state(states[1])
  x, x_test = (made[key].astype(np.float32) for key in ("x", "x_test"))
  labels, labels_test = (made[key].astype(np.int32) for key in ("y", "y_test"))
  classes, features = numbered("", 10), numbered("t", x.shape[1])
  return Dataset(x, labels, "classification", classes, features, x_test, labels_test)
