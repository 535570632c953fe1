"""Fitted models: what a run has learnt, for predictions from raw rows."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fbackprop.errors import DtypeError, RangeError, ShapeError, check_that, describe, hint
from fbackprop.files import path_within
from fbackprop.train.data.encodings import Encoding
from fbackprop.train.data.frames import columns_of, is_frame, table_of
from fbackprop.train.data.rows import Standardization, listed
from fbackprop.train.models import Description, load_model
from fbackprop.types import Layer, Params

MODEL_FILE = "model.safetensors"


@dataclass(frozen=True, eq=False, repr=False)
class FittedModel:
  """A trained network, or an ensemble, that predicts from raw rows.

  Attributes:
    description: the network, its task, and the names of its inputs and outputs.
    params: the parameters, those of `net`; of an ensemble with an axis of members in front.
  """

  description: Description
  params: Params

  @cached_property
  def net(self) -> Layer:
    """The network; it takes standardised features, and its outputs are logits or values."""
    return self.description.net

  @property
  def task(self) -> str:
    """The task: "classification", "regression" or "multilabel"."""
    return self.description.task

  @property
  def labels(self) -> tuple[str, ...]:
    """The names of the classes, of the labels or of a regression's values, in their order."""
    return self.description.outputs

  @property
  def features(self) -> tuple[str, ...]:
    """The names of the raw input columns, in their order."""
    return self.description.features

  @property
  def preprocessing(self) -> Standardization | None:
    """The standardisation of the features, which `predict` applies; None for none."""
    return self.description.standardization

  @property
  def encoding(self) -> Encoding | None:
    """The encoding of mixed columns, which `predict` applies first; None for numbers alone.

    Its `transformer` is a fitted `ColumnTransformer` of scikit-learn, and its `names` are those of
    the network's inputs.
    """
    return self.description.encoding

  @cached_property
  def programs(self) -> tuple[Any, Any]:
    """The network, and its probabilities, compiled once for each number of rows."""
    return jax.jit(self.description.forward), jax.jit(self.description.probabilities)

  def outputs(self, x: Any) -> np.ndarray:
    """Compute logits, or a regression's values in the units of the data, `[N, C]`.

    Args:
      x: raw features `[N, D]`: an array in the order of `features`, or a table with their names
        among its columns, such as a pandas DataFrame. Of a model with an `encoding` it may hold
        words, dates, truth values, and missing ones (None, NaN or an empty text).

    Raises:
      TypeError: x doesn't hold numbers.
      ValueError: x has another shape, lacks a column, or has a number that isn't finite in float32.
    """
    own = self.encoding
    raw = rows_of(x, self.features) if own is None else mixed_rows_of(x, own)
    rows = self.description.standardized(raw)
    return self.description.in_units(np.asarray(self.programs[0](self.params, rows)))

  def predict(self, x: Any) -> np.ndarray:
    """Predict the class names `[N]`, several labels `[N, C]` as 0 and 1, or values.

    A regression of one value gives `[N]`, of several `[N, C]`, in the units of the data.

    Args, Raises: as `outputs`.
    """
    outputs = self.outputs(x)
    if self.task == "classification":
      return np.asarray(self.labels)[outputs.argmax(1)]
    if self.task == "multilabel":
      return (outputs > 0).astype(np.int32)
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs

  def predict_proba(self, x: Any) -> np.ndarray:
    """Predict the probabilities `[N, C]` of the classes, or of each label by itself.

    Args: as `outputs`.

    Raises:
      ValueError: the model is a regression; or as `outputs`.
    """
    if self.task == "regression":
      raise RangeError("a regression has no probabilities; use predict", None, "predict_proba")
    return np.asarray(self.programs[1](self.outputs(x)))

  def __repr__(self) -> str:
    """Show the network and the task, without the arrays."""
    n, c = len(self.features), len(self.labels)
    return f"FittedModel({self.description.as_text()}; {self.task}: {n} features, {c} outputs)"


def load(path: str | os.PathLike[str]) -> FittedModel:
  """Load a trained model: of the folder of a run, or of a model file.

  The file holds arrays and a description, and never code: nothing is unpickled.

  Args:
    path: the folder of a run of `fbackprop train`, or its model.safetensors.

  Returns:
    A `FittedModel` with `predict` and `predict_proba` of raw rows, `net`, `params`, `labels`,
    `features` and `preprocessing`.

  Raises:
    ValueError: the folder holds no model, or the file isn't one, or is damaged.
    TypeError: a parameter has another dtype than the network's.
    OSError: the file can't be read, or isn't regular.
  """
  is_path = isinstance(path, str | os.PathLike)
  check_that("load", "path", path, is_path, "be the folder of a run, or a model file")
  file = Path(path)
  if file.is_dir():
    file = path_within(file, MODEL_FILE)
    if not file.exists():
      raise ValueError(f"{path} holds no {MODEL_FILE}: it must be the folder of a run")
  return FittedModel(*load_model(file))


def mixed_rows_of(x: Any, encoding: Encoding) -> np.ndarray:
  """Read raw rows of mixed columns, `[N, D]` of objects; raise for a cell that can't be read."""
  names = encoding.raw_names
  if is_frame(x):
    known = columns_of(x)
    missing = [name for name in names if name not in known]
    if missing:
      said = f"must have the columns {listed(names)}; {missing[0]!r} is missing"
      raise ShapeError(f"{said}, {hint(missing[0], [*known])}", "x", "predict")
    columns = {name: known[name] for name in names}
  else:
    rows = np.asarray(x, object)
    if rows.ndim != 2 or rows.shape[1] != len(names):
      wanted = f"have shape [N, {len(names)}], the columns {listed(names, 6)}"
      raise ShapeError(f"must {wanted}, got {describe(rows)}", "x", "predict")
    columns = dict(zip(names, rows.T, strict=True))
  return table_of("x", columns).values_of(encoding.columns)


def rows_of(x: Any, features: tuple[str, ...]) -> np.ndarray:
  """Convert raw features to an array `[N, D]`; raise unless every number is finite."""
  where = "predict"
  if hasattr(x, "columns"):  # A table: columns go by name, and others are let be.
    known = list(map(str, x.columns))
    missing = [name for name in features if name not in known]
    if missing:
      said = f"must have the columns {listed(features)}; {missing[0]!r} is missing"
      raise ShapeError(f"{said}, {hint(missing[0], known)}", "x", where)
    x = x[[x.columns[known.index(name)] for name in features]].to_numpy()
  rows = np.asarray(x)
  if rows.dtype.kind not in "iubf":
    raise DtypeError(f"must be numbers, got {describe(rows)}", "x", where)
  if rows.ndim != 2 or rows.shape[1] != len(features):
    wanted = f"have shape [N, {len(features)}], the columns {listed(features, 6)}"
    raise ShapeError(f"must {wanted}, got {describe(rows)}", "x", where)
  wrong = ~np.isfinite(rows)
  if wrong.any():
    row, column = np.argwhere(wrong)[0]
    got = f"{rows[row, column]} in row {row}, column {features[column]!r}"
    raise RangeError(f"must be finite, got {got}", "x", where)
  return rows
