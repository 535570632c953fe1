"""The data sets that scikit-learn ships.

References:
  Digits: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits" (1998); iris: Fisher, "The
  use of multiple measurements in taxonomic problems" (1936); wine: Forina et al., "Wine" (1991);
  breast_cancer: Wolberg et al., "Breast Cancer Wisconsin (Diagnostic)" (1993), all of the UCI
  Machine Learning Repository; diabetes: Efron, Hastie, Johnstone, Tibshirani, "Least angle
  regression", Annals of Statistics 32 (2004).
"""

from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.rows import Dataset


def load_bundled(name: str) -> Dataset:
  """Load a scikit-learn data set: 1,797 digits of 8×8 pixels in [0, 1], or one of four tables.

  Raises:
    ModuleNotFoundError: scikit-learn isn't installed; the message names the extra.
  """
  loaders: Any = need("sklearn.datasets", extra="data")
  if name == "diabetes":
    found = loaders.load_diabetes(scaled=False)  # In the original units.
    values = found.target.astype(np.float64)[:, None]
    outputs = ("disease progression",)
    features = tuple(found.feature_names)
    return Dataset(found.data, values, "regression", outputs, features, has_units=True)
  found = getattr(loaders, f"load_{name}")()
  classes = tuple(str(c) for c in found.target_names)
  features = tuple(str(f) for f in found.feature_names)
  labels = found.target.astype(np.int32)
  if name == "digits":
    pixels = (found.data / 16).astype(np.float32)
    return Dataset(pixels, labels, "classification", classes, features, image_shape=(8, 8))
  return Dataset(found.data, labels, "classification", classes, features, has_units=True)
