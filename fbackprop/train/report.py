"""A run as one picture: what it learned, how its gradients went, and what it gets wrong."""

import io
from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.train.datasets import Dataset
from fbackprop.train.results import Result

INK, MUTED = "#222222", "#888888"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's.


def draw_report(title: str, result: Result, dataset: Dataset, outputs: np.ndarray) -> bytes:
  """Draws a run.

  Args:
    title: stands above the picture.
    result: the run.
    dataset: what it was trained on.
    outputs: the network's outputs on `dataset.x_test`, `[N, C]`.

  Returns:
    A PNG file: the losses, the norm of each layer's gradient, and for labels the confusion matrix
    and misclassified examples, for a function of one variable the fit.

  Raises:
    ModuleNotFoundError: matplotlib isn't installed; the message names the extra.
  """
  figure_module = need("matplotlib.figure", extra="plot")
  style = need("matplotlib.style", extra="plot")
  rules = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "text.color": INK,
  }
  with style.context(rules):
    figure = figure_module.Figure(figsize=(11, 8.5), dpi=110, layout="constrained")
    figure.suptitle(title, ha="left", x=0.015, fontsize="medium")
    panels = figure.subplots(2, 2)
    draw_losses(panels[0, 0], result)
    draw_gradients(panels[0, 1], result)
    if dataset.is_classification:
      draw_confusion(panels[1, 0], dataset, outputs)
      draw_mistakes(panels[1, 1], dataset, outputs)
    else:
      draw_fit(panels[1, 0], dataset, outputs)
      draw_residuals(panels[1, 1], dataset, outputs)
    file = io.BytesIO()
    # Without the software's version and date the same run gives the same bytes.
    figure.savefig(file, format="png", metadata={"Software": None})
  return file.getvalue()


def draw_losses(axes: Any, result: Result) -> None:
  """Training loss of every step, thinly, its mean between evaluations, and the test loss."""
  shown = [e for e in result.evaluations if e.train_loss is not None]
  steps = [e.step for e in shown]
  axes.set(title="Loss", xlabel="step", yscale="log")
  if result.losses.size:
    kept = np.unique(np.linspace(0, len(result.losses) - 1, 2000).astype(int))
    losses = np.where(result.losses > 0, result.losses, np.nan)
    axes.plot(kept + 1, losses[kept], color=COLORS[0], alpha=0.2, linewidth=0.6)
  # With dots, as a single evaluation would be a line without length.
  axes.plot(steps, [e.train_loss for e in shown], ".-", color=COLORS[0], label="training")
  if shown and shown[-1].test_loss is not None:
    axes.plot(steps, [e.test_loss for e in shown], ".-", color=COLORS[1], label="test")
    if shown[-1].test_accuracy is not None:
      axes.plot([], [], ".--", color=COLORS[2], label="test accuracy")
      twin = axes.twinx()
      twin.plot(steps, [e.test_accuracy for e in shown], ".--", color=COLORS[2])
      twin.spines["right"].set_visible(True)
      twin.set_ylabel("test accuracy")
  legend_in_title_line(axes)


def draw_gradients(axes: Any, result: Result) -> None:
  """The norm of each layer's gradient at every step."""
  axes.set(title="Gradient norm", xlabel="step", yscale="log")
  kept = np.unique(np.linspace(0, max(len(result.grad_norms) - 1, 0), 400).astype(int))
  for i, name in enumerate(result.layer_names):
    norms = np.where(result.grad_norms[:, i] > 0, result.grad_norms[:, i], np.nan)
    if norms.size:
      color = COLORS[i % len(COLORS)]
      label = f"layer {name.strip('[]')}"
      axes.plot(kept + 1, norms[kept], color=color, linewidth=0.9, label=label)
  if result.layer_names and result.grad_norms.size:
    legend_in_title_line(axes)


def legend_in_title_line(axes: Any) -> None:
  """Puts the legend to the right of the title, where no curve can cross it."""
  axes.legend(loc="lower right", bbox_to_anchor=(1, 0.985), ncols=6, borderaxespad=0)


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


def draw_fit(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """The function that was learned, the one that was to be learned, and the training points."""
  x = dataset.x_test[:, 0]
  axes.plot(dataset.x[:, 0], dataset.targets[:, 0], ".", color=MUTED, ms=3, label="training points")
  axes.plot(x, dataset.targets_test[:, 0], color=INK, linewidth=3, alpha=0.25, label="f*(x)")
  axes.plot(x, outputs[:, 0], color=COLORS[1], label="f(x; Θ)")
  axes.set(title="The fit", xlabel="x")
  axes.legend()


def draw_residuals(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """What is left between the two."""
  axes.axhline(0, color=MUTED, linewidth=0.8)
  axes.plot(dataset.x_test[:, 0], outputs[:, 0] - dataset.targets_test[:, 0], color=COLORS[1])
  axes.set(title="f(x; Θ) − f*(x)", xlabel="x")
