"""What was learned of values: how near the predictions come."""

from typing import Any

import numpy as np

from fbackprop.train.data.datasets import Dataset
from fbackprop.train.metrics import r_squared
from fbackprop.train.report.style import COLORS, INK, MUTED, shortened


def draw_fit(
  axes: Any,
  dataset: Dataset,
  outputs: np.ndarray,
  curve: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
  """The function that was learned, what was to be learned, and the training points.

  Args:
    axes: the panel.
    dataset: of one feature and one value.
    outputs: of the network for the test examples.
    curve: x and f(x; Θ), where they are known at more points than those.
  """
  x, true = dataset.x_test[:, 0], dataset.targets_test[:, 0]
  axes.plot(dataset.x[:, 0], dataset.targets[:, 0], ".", color=MUTED, ms=3, label="training points")
  if is_curve(x):
    axes.plot(x, true, color=INK, linewidth=3, alpha=0.25, label="f*(x)")
  else:
    axes.plot(x, true, ".", color=COLORS[0], ms=5, label="test points")
  order = np.argsort(x, kind="stable")
  axes.plot(*(curve or (x[order], outputs[order, 0])), color=COLORS[1], label="f(x; Θ)")
  name = "x" if is_curve(x) else shortened(dataset.features[0])
  axes.set(title="The fit", xlabel=name)
  axes.legend()


def is_curve(x: np.ndarray) -> bool:
  """Whether points are those of a curve, from left to right, and no examples in any order."""
  return bool((np.diff(x) > 0).all())


def draw_residuals(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """What is left between the two."""
  x, left = dataset.x_test[:, 0], outputs[:, 0] - dataset.targets_test[:, 0]
  axes.axhline(0, color=MUTED, linewidth=0.8)
  axes.plot(x, left, "-" if is_curve(x) else ".", color=COLORS[1])
  name, true = ("x", "f*(x)") if is_curve(x) else (shortened(dataset.features[0]), "true")
  axes.set(title=f"f(x; Θ) − {true}", xlabel=name)
  if not np.isfinite(outputs).any():  # As the last good parameters of a run that diverged may give.
    axes.text(0.5, 0.6, "f(x; Θ) is not finite", transform=axes.transAxes, ha="center")


def draw_predictions(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """What was predicted against what is true, and how much of its variance that explains."""
  true = dataset.targets_test
  for i, name in enumerate(dataset.output_names or map(str, range(dataset.outputs))):
    r2 = r_squared(outputs[:, i], true[:, i])
    label = f"{shortened(name)}: R² {r2:.3f}" if np.isfinite(r2) else shortened(name)
    axes.plot(true[:, i], outputs[:, i], ".", ms=5, alpha=0.6, color=COLORS[i % 6], label=label)
  axes.axline((float(true.mean()),) * 2, slope=1, color=MUTED, linewidth=0.8)
  unit = "" if dataset.target_standardization is None else ", in standard deviations"
  axes.set(title="Predicted against true", xlabel=f"true{unit}", ylabel="predicted")
  axes.legend(fontsize="small")


def draw_errors(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """How large the errors are."""
  errors = outputs - dataset.targets_test
  finite = [column[np.isfinite(column)] for column in errors.T]
  axes.hist(finite, bins=30, color=[COLORS[i % 6] for i in range(dataset.outputs)])
  axes.axvline(0, color=INK, linewidth=0.8)
  with np.errstate(invalid="ignore"):
    middle = float(np.median(np.abs(errors)))
  unit = "" if dataset.target_standardization is None else ", in standard deviations"
  title = f"median size {middle:.3g}" if np.isfinite(middle) else "not finite"
  axes.set(title=f"Errors: {title}", xlabel=f"predicted − true{unit}", ylabel="examples")
