"""Models that are exported: every task and option, with parameters that aren't those of `init`."""

import jax
import numpy as np

from fbackprop.train.data.rows import Standardization
from fbackprop.train.fitted import FittedModel
from fbackprop.train.models import Description

CLASSES, FEATURES = ("no", "yes", "maybe"), ("a", "b", "c", "d")
NEAR = Standardization(np.array([0.0, 1e3, -5.0, 0.5]), np.array([1.0, 1e3, 2.0, 0.25]))
# Time stamps, of which float32 holds no seconds; and numbers near the end of its range.
FAR = Standardization(np.array([0.0, 1.7e9, -5.0, 0.5]), np.array([1.0, 0.5, 2.0, 1e-39]))
# What a model can be. Two parameters of a loop are stacked, so that its arrays have more axes.
OPTIONS = {
  "plain": {},
  "linear": {"sizes": (4, 2), "standardization": None},
  "far": {"sizes": (4, 3), "standardization": FAR},
  "normalized": {"activation": "gelu", "normalization": "layer_norm", "dropout": 0.1},
  "deep": {"sizes": (4, 6, 6, 6, 3), "activation": "mish", "normalization": "rms_norm",
           "skip": True, "repeat_hidden": True},
  "regression": {"task": "regression", "sizes": (4, 6, 2), "activation": "silu"},
  "labels": {"task": "multilabel", "activation": "softplus"},
  "ensemble": {"ensemble": 3, "normalization": "layer_norm", "skip": True, "repeat_hidden": True,
               "sizes": (4, 6, 6, 6, 3)},
}  # fmt: skip


def make_model(
  sizes=(4, 6, 6, 3), activation="relu", task="classification", standardization=NEAR, **options
):
  """Build a model with parameters that are drawn anew, biases and scales too."""
  rng = np.random.default_rng(0)
  of_values = None
  if task == "regression":
    of_values = Standardization(np.full(sizes[-1], 1e4), np.full(sizes[-1], 3e3))
  names = CLASSES[: sizes[-1]] if task != "regression" else tuple("pqrs"[: sizes[-1]])
  about = Description(
    sizes, activation, task, names, FEATURES, standardization, of_values, **options
  )

  def draw(leaf):
    near = 1.0 if leaf.ndim < 2 and about.normalization != "none" else 0.0
    return np.float32(near + rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[-1]))

  return FittedModel(about, jax.tree.map(draw, about.shapes))


def rows_for(model, dtype=np.float64):
  """Draw raw rows: like the training's, and a hundred deviations away."""
  rng = np.random.default_rng(1)
  rows = np.concatenate([rng.normal(size=(30, 4)), 100 * rng.normal(size=(6, 4))])
  own = model.preprocessing
  return (rows if own is None else own.undo(rows)).astype(dtype)


def assert_near(found, wanted):
  """Compare to 1e-6 of a row's largest entry, as other programs sum in another order."""
  found, wanted = (np.asarray(value, np.float64) for value in (found, wanted))
  assert found.shape == wanted.shape
  largest = np.abs(wanted).max(-1, keepdims=True, initial=0.0)
  assert (np.abs(found - wanted) <= 1e-6 * (1 + largest)).all(), np.abs(found - wanted).max()
