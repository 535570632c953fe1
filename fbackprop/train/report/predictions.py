"""Panels of the network's predictions for the test set: classes, labels, values, regions."""

from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.train.data.rows import Dataset
from fbackprop.train.models import Model
from fbackprop.train.report import figures
from fbackprop.train.report.figures import COLORS, INK, MUTED, Panel, panel, shortened
from fbackprop.train.scores import count_pairs, probabilities_of, r_squared, reliability

GRID_POINTS = 200  # Along each axis of the plane.
CURVE_POINTS = 500

# --- Classes --------------------------------------------------------------------------------------


@panel(
  "Confusion matrix",
  "How often test examples of each class, by row, were taken for which, by column.",
)
def draw_confusion(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw the confusion matrix.

  Not by scikit-learn's `ConfusionMatrixDisplay`: here zeros are blank, and shades are proportional
  to the square root, so that a few mistakes are visible beside many right predictions.
  """
  labels, classes = dataset.targets_test, range(dataset.outputs)
  counts = count_pairs(labels, outputs.argmax(1), dataset.outputs)
  right = int(np.trace(counts))
  axes.imshow(np.sqrt(counts), cmap="Blues", vmin=0, vmax=float(np.sqrt(counts.max() or 1)))
  for (row, column), count in np.ndenumerate(counts):
    if count:
      color = "white" if count > counts.max() / 3 else INK
      axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
  axes.set(
    title=f"Confusion matrix: {right} of {len(labels)} right", xlabel="predicted", ylabel="label",
    xticks=classes, yticks=classes,
  )  # fmt: skip
  names = list(map(shortened, dataset.output_names))
  is_long = max(map(len, names)) > 3
  axes.set_xticklabels(names, rotation=30 if is_long else 0, ha="right" if is_long else "center")
  axes.set_yticklabels(names)


@panel(
  "Reliability",
  "How often predictions of a given probability are right: on the line as often as they say, "
  "below it too high. The size of a point is the number of test examples.",
)
def draw_reliability(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw a reliability diagram: of the predicted class, or of several labels all of them.

  References:
    Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML (2017).
  """
  probabilities = probabilities_of(outputs, is_single=dataset.is_classification)
  if dataset.is_classification:
    given, is_true = probabilities.max(1), outputs.argmax(1) == dataset.targets_test
  else:
    given, is_true = probabilities.ravel(), dataset.targets_test.ravel() > 0.5
  known = np.isfinite(given)  # Not of a diverged run.
  means, shares, counts = reliability(given[known], is_true[known])
  axes.plot((0, 1), (0, 1), color=MUTED, linewidth=0.8)
  axes.plot(means, shares, color=COLORS[0], linewidth=0.8)
  axes.scatter(means, shares, 8 + 72 * counts / max(counts.max(initial=0), 1), color=COLORS[0])
  what = "the predicted class" if dataset.is_classification else "a label"
  axes.set(title="Reliability", xlabel=f"probability of {what}", ylabel="share that is right",
           xlim=(-0.02, 1.04), ylim=(-0.02, 1.04))  # fmt: skip


@panel("Misclassified examples", "The test examples that are misclassified with most confidence.")
def draw_mistakes(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw up to twelve misclassified examples, the most confident mistakes first."""
  predicted, labels = outputs.argmax(1), dataset.targets_test
  wrong = np.flatnonzero(predicted != labels)
  # The last parameters of a diverged run may overflow: ∞ − ∞ is NaN, and no margin.
  with np.errstate(invalid="ignore"):
    margin = outputs.max(1) - outputs[np.arange(len(labels)), labels]
  shown = wrong[np.argsort(-margin[wrong], kind="stable")][:12]
  axes.set_axis_off()
  axes.set_title(f"Misclassified: {len(wrong)}" + (", the most confident 12" * (len(wrong) > 12)))
  if dataset.image_shape is None:
    return
  # In one panel of 4 by 3 squares, as twelve panels in it take a second to draw.
  axes.set(xlim=(0, 4), ylim=(3, 0), anchor="NW")
  height, width = (0.66 * side / max(dataset.image_shape) for side in dataset.image_shape)
  frame = need("matplotlib.patches", extra="plot").Rectangle
  for place, example in enumerate(shown):
    row, column = divmod(place, 4)
    left, top = column + (1 - width) / 2, row + 0.25
    image = dataset.x_test[example].reshape(dataset.image_shape)
    axes.imshow(image, cmap="gray_r", extent=(left, left + width, top + height, top))
    axes.add_patch(frame((left, top), width, height, fill=False, edgecolor=INK, linewidth=0.8))
    taken = f"{labels[example]} taken for {predicted[example]}"
    axes.text(column + 0.5, top - 0.04, taken, ha="center", va="bottom", fontsize=8)


@panel(
  "Decision boundary",
  "The predicted class at each point, darker where it is more certain. Small: training examples; "
  "ringed: test examples; crossed: misclassified ones.",
)
def draw_regions(axes: Any, dataset: Dataset, outputs: np.ndarray, model: Model) -> None:
  """Draw the predicted class over the plane, with the training and test examples.

  Args:
    axes: the panel.
    dataset: data of two features, in its own units.
    outputs: outputs for the test set.
    model: a model that takes these units.
  """
  every = np.concatenate([dataset.x, dataset.x_test])
  low, high = every.min(0), every.max(0)
  margin = np.where(high > low, 0.06 * (high - low), 1.0)
  x, y = np.linspace(low - margin, high + margin, GRID_POINTS).T
  points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
  probabilities = model.probabilities(model.outputs(points)).reshape(GRID_POINTS, GRID_POINTS, -1)
  colors, chance = figures.colors_of(dataset.outputs), 1 / dataset.outputs
  image = need("matplotlib.colors", extra="plot").to_rgba_array(colors)[probabilities.argmax(-1)]
  sure = (probabilities.max(-1) - chance) / (1 - chance) if chance < 1 else 1.0
  # Transparent where no output is finite.
  image[..., 3] = np.where(np.isfinite(probabilities).all(-1), 0.12 + 0.43 * sure, 0.0)
  dx, dy = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
  extent = (x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy)
  axes.imshow(image, origin="lower", aspect="auto", interpolation="nearest", extent=extent)
  for label, (color, name) in enumerate(zip(colors, dataset.output_names, strict=True)):
    train = dataset.x[dataset.targets == label]
    axes.plot(train[:, 0], train[:, 1], ".", ms=3, color=color, alpha=0.6)
    test = dataset.x_test[dataset.targets_test == label].T
    axes.plot(*test, "o", ms=4, color=color, mec=INK, mew=0.5, label=shortened(name))
  missed = dataset.x_test[outputs.argmax(1) != dataset.targets_test]
  axes.plot(missed[:, 0], missed[:, 1], "x", ms=8, mew=1.4, color=INK, label="wrong")
  names = map(shortened, dataset.features)
  axes.set(title="Decision boundary", xlabel=next(names), ylabel=next(names))
  figures.legend_in_title_line(axes)


# --- Several labels at once -----------------------------------------------------------------------


@panel("Share of right answers by label", "Test accuracy of each label.")
def draw_labels(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw the accuracy of each label."""
  right = ((outputs > 0) == (dataset.targets_test > 0.5)).mean(0)
  axes.barh(range(dataset.outputs), right, color=COLORS[0])
  axes.set(title="Right, by label", xlabel="share of the test examples", xlim=(0, 1))
  axes.set_yticks(range(dataset.outputs), list(map(shortened, dataset.output_names)))
  axes.invert_yaxis()


@panel(
  "Logits of the test examples",
  "Logits of positive and negative examples; a label is predicted above 0.",
)
def draw_logits(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw histograms of the logits for positive and for negative examples."""
  # With shared bins, as heights wouldn't be comparable otherwise; in float32 their range of a
  # diverged network may overflow.
  bins = np.histogram_bin_edges(outputs[np.isfinite(outputs)].astype(np.float64), 40)
  for has, color in ((False, MUTED), (True, COLORS[1])):
    values = outputs[(dataset.targets_test > 0.5) == has]
    label = "has the label" if has else "hasn't"
    axes.hist(values[np.isfinite(values)], bins=bins, alpha=0.6, color=color, label=label)
  axes.axvline(0, color=INK, linewidth=0.8)
  axes.set(title="Logits of the test examples", xlabel="logit")
  axes.legend(fontsize="small")


# --- Values ---------------------------------------------------------------------------------------


@panel("The learned function", "The learned function, the true one, and the training examples.")
def draw_fit(axes: Any, dataset: Dataset, outputs: np.ndarray, model: Model | None = None) -> None:
  """Draw the learned function, the true one, and the training points.

  Args:
    axes: the panel.
    dataset: data of one feature and one value.
    outputs: predictions for the test set.
    model: the network, for its values between these; None to draw the predictions alone.
  """
  x, true = dataset.x_test[:, 0], dataset.targets_test[:, 0]
  axes.plot(dataset.x[:, 0], dataset.targets[:, 0], ".", color=MUTED, ms=3, label="training points")
  if is_curve(x):
    axes.plot(x, true, color=INK, linewidth=3, alpha=0.25, label="f*(x)")
  else:
    axes.plot(x, true, ".", color=COLORS[0], ms=5, label="test points")
  order = np.argsort(x, kind="stable")
  at, found = x[order], outputs[order, 0]
  if model is not None:
    every = np.concatenate([dataset.x, dataset.x_test])
    at = np.linspace(every.min(), every.max(), CURVE_POINTS, dtype=np.float32)
    found = model.outputs(at[:, None])[:, 0]
  axes.plot(at, found, color=COLORS[1], label="f(x; Θ)")
  axes.set(title="The fit", xlabel="x" if is_curve(x) else shortened(dataset.features[0]))
  axes.legend()


def is_curve(x: np.ndarray) -> bool:
  """Return whether points are sorted by x, as of a curve."""
  return bool((np.diff(x) > 0).all())


@panel("Residuals", "Prediction minus truth for the test examples.")
def draw_residuals(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw the residuals, prediction minus truth, over the feature."""
  x, left = dataset.x_test[:, 0], outputs[:, 0] - dataset.targets_test[:, 0]
  axes.axhline(0, color=MUTED, linewidth=0.8)
  axes.plot(x, left, "-" if is_curve(x) else ".", color=COLORS[1])
  name, true = ("x", "f*(x)") if is_curve(x) else (shortened(dataset.features[0]), "true")
  axes.set(title=f"f(x; Θ) − {true}", xlabel=name)
  if not np.isfinite(outputs).any():  # Possible after a divergence.
    axes.text(0.5, 0.6, "f(x; Θ) is not finite", transform=axes.transAxes, ha="center")


@panel(
  "Predicted against true",
  "The test examples, in the units of the data; on the line, the prediction is right.",
)
def draw_predictions(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw predictions over true values, with R² for each value."""
  true = dataset.targets_test
  for i, name in enumerate(map(shortened, dataset.output_names)):
    r2 = r_squared(outputs[:, i], true[:, i])
    label = f"{name}: R² {r2:.3f}" if np.isfinite(r2) else name
    axes.plot(true[:, i], outputs[:, i], ".", ms=5, alpha=0.6, color=COLORS[i % 6], label=label)
  axes.axline((float(true.mean()),) * 2, slope=1, color=MUTED, linewidth=0.8)
  axes.set(title="Predicted against true", xlabel=f"true{unit_of(dataset)}", ylabel="predicted")
  axes.legend(fontsize="small")


@panel("Errors", "Prediction minus truth, in the units of the data.")
def draw_errors(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Draw a histogram of the errors."""
  # In float64, as the range of a diverged network's errors may overflow float32.
  with np.errstate(over="ignore", invalid="ignore"):
    errors = (outputs - dataset.targets_test).astype(np.float64)
    middle = float(np.median(np.abs(errors)))
  finite = [column[np.isfinite(column)] for column in errors.T]
  axes.hist(finite, bins=30, color=[COLORS[i % 6] for i in range(dataset.outputs)])
  axes.axvline(0, color=INK, linewidth=0.8)
  title = f"Errors: median size {middle:.3g}" if np.isfinite(middle) else "Errors: not finite"
  axes.set(title=title, xlabel=f"predicted − true{unit_of(dataset)}", ylabel="examples")


def unit_of(dataset: Dataset) -> str:
  """Return the unit of values that are still standardised."""
  return "" if dataset.target_standardization is None else ", in standard deviations"


def panels_of(dataset: Dataset, outputs: np.ndarray, model: Model | None = None) -> list[Panel]:
  """Return the panels of the predictions.

  Args:
    dataset: the data.
    outputs: the network's outputs for the test set, in the dataset's units.
    model: the network, for evaluation at other points; the dataset is then in its own units.
  """
  seen: dict[str, Any] = {"dataset": dataset, "outputs": outputs}
  if dataset.is_classification:
    side = min(9.0, max(4.4, 0.3 * dataset.outputs + 1.4))
    confusion = draw_confusion.of(size=(max(5.6, side), side), **seen)
    reliable = draw_reliability.of(size=(5.6, 4.4), **seen)
    if model is None:  # The page has a section of mistakes.
      is_pictured = dataset.image_shape is not None
      return [confusion, draw_mistakes.of(**seen) if is_pictured else reliable]
    is_plane = dataset.x.shape[1] == 2
    regions = draw_regions.of(size=(5.6, 4.4), model=model, **seen)
    return [confusion, *([regions] if is_plane else []), reliable]
  if dataset.task == "multilabel":
    size = 5.6, max(3.7, 0.22 * dataset.outputs + 1)
    panels = [draw_labels.of(size=size, **seen), draw_logits.of(**seen)]
    return panels if model is None else [*panels, draw_reliability.of(**seen)]
  values = [draw_predictions.of(**seen), draw_errors.of(**seen)]
  if dataset.x.shape[1] != 1 or dataset.outputs != 1:
    return values
  return [draw_fit.of(model=model, **seen), draw_residuals.of(**seen), *values]
