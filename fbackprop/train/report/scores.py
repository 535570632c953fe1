"""How good a network is at each class, label or value."""

from collections.abc import Iterable

import numpy as np

from fbackprop.train.data.datasets import Dataset
from fbackprop.train.metrics import r_squared, root_mean_square
from fbackprop.train.report.cells import Number, Table, counted, measured


def scores_of(dataset: Dataset, outputs: np.ndarray) -> Table:
  """A row for each class, label or value.

  Args:
    dataset: in units of its own.
    outputs: of the network for the test examples, in these units, `[N, C]`.
  """
  names = dataset.output_names or tuple(map(str, range(dataset.outputs)))
  if dataset.task == "regression":
    pairs = zip(names, outputs.T, dataset.targets_test.T, strict=True)
    return Table(
      ("value", "R²", "RMSE", "mean |error|", "largest |error|", "true deviation"),
      [(name, *of_value(found, true)) for name, found, true in pairs],
    )
  if dataset.is_classification:
    each = np.arange(dataset.outputs)
    found, true = outputs.argmax(1)[:, None] == each, dataset.targets_test[:, None] == each
  else:
    found, true = outputs > 0, dataset.targets_test > 0.5
  heads = (
    "class" if dataset.is_classification else "label",
    "precision",
    "recall",
    "F1",
    "support",
  )
  answers = zip(names, found.T, true.T, strict=True)
  return Table(heads, [(name, *of_class(is_found, is_true)) for name, is_found, is_true in answers])


def of_class(found: np.ndarray, true: np.ndarray) -> Iterable[Number]:
  """Precision, recall, F1 and support; a share of nothing isn't known."""
  both, said, support = (int(part.sum()) for part in (found & true, found, true))
  shares = ((both, said), (both, support), (2 * both, said + support))
  return [*(measured(a / b if b else None) for a, b in shares), counted(support)]


def of_value(found: np.ndarray, true: np.ndarray) -> Iterable[Number]:
  """The figures of a regression's value, in its units."""
  error = found - true
  sizes = np.abs(error.astype(np.float64))
  rest = (root_mean_square(error), sizes.mean(), sizes.max(), true.std(dtype=np.float64))
  r2 = r_squared(found, true) if true.std() else None
  return [measured(r2), *map(measured, map(float, rest))]
