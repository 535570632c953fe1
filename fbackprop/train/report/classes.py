"""What was learned of labels: how often it is right, and where it is wrong."""

from typing import Any

import numpy as np

from fbackprop.train.data.datasets import Dataset
from fbackprop.train.report.style import COLORS, INK, MUTED, shortened


def draw_confusion(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """How often each label got each prediction."""
  predicted, labels = outputs.argmax(1), dataset.targets_test
  counts = np.zeros((dataset.outputs, dataset.outputs), int)
  np.add.at(counts, (labels, predicted), 1)
  right = int(np.trace(counts))
  axes.imshow(np.sqrt(counts), cmap="Blues", vmin=0, vmax=float(np.sqrt(counts.max() or 1)))
  for (row, column), count in np.ndenumerate(counts):
    if count:
      color = "white" if count > counts.max() / 3 else INK
      axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
  axes.set(
    title=f"Confusion matrix: {right} of {len(labels)} right",
    xlabel="predicted",
    ylabel="label",
    xticks=range(dataset.outputs),
    yticks=range(dataset.outputs),
  )
  if dataset.output_names:
    names = [shortened(name) for name in dataset.output_names]
    is_long = max(map(len, names)) > 3
    axes.set_xticklabels(names, rotation=30 if is_long else 0, ha="right" if is_long else "center")
    axes.set_yticklabels(names)


def draw_mistakes(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """Up to twelve misclassified examples, the most confident mistakes first."""
  predicted, labels = outputs.argmax(1), dataset.targets_test
  wrong = np.flatnonzero(predicted != labels)
  # The last good parameters of a run that diverged may give infinities: ∞ − ∞ is no margin at all.
  with np.errstate(invalid="ignore"):
    margin = outputs.max(1) - outputs[np.arange(len(labels)), labels]
  shown = wrong[np.argsort(-margin[wrong], kind="stable")][:12]
  axes.set_axis_off()
  axes.set_title(f"Misclassified: {len(wrong)}" + (", the most confident 12" * (len(wrong) > 12)))
  if dataset.image_shape is None:
    return
  for place, example in enumerate(shown):
    row, column = divmod(place, 4)
    inset = axes.inset_axes((0.02 + column * 0.25, 0.68 - row * 0.33, 0.21, 0.21))
    inset.imshow(dataset.x_test[example].reshape(dataset.image_shape), cmap="gray_r")
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set_visible(True)  # A whole frame, as a picture has.
    inset.set_title(
      f"{labels[example]} taken for {predicted[example]}", fontsize=8, fontweight="normal"
    )


def draw_labels(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """For each label, of how many test examples it was told rightly whether they have it."""
  right = ((outputs > 0) == (dataset.targets_test > 0.5)).mean(0)
  names = [shortened(name) for name in dataset.output_names or map(str, range(dataset.outputs))]
  axes.barh(range(dataset.outputs), right, color=COLORS[0])
  axes.set(title="Right, by label", xlabel="share of the test examples", xlim=(0, 1))
  axes.set_yticks(range(dataset.outputs), names)
  axes.invert_yaxis()


def draw_logits(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """How far apart those that have a label and those that don't are."""
  # Of the same bins, as heights couldn't be compared else.
  bins = np.histogram_bin_edges(outputs[np.isfinite(outputs)], 40)
  for has, color in ((False, MUTED), (True, COLORS[1])):
    values = outputs[(dataset.targets_test > 0.5) == has]
    axes.hist(values[np.isfinite(values)], bins=bins, alpha=0.6, color=color,
              label="has the label" if has else "hasn't")  # fmt: skip
  axes.axvline(0, color=INK, linewidth=0.8)
  axes.set(title="Logits of the test examples", xlabel="logit")
  axes.legend(fontsize="small")
