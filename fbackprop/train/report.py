"""A run as one picture: what it learned, how its gradients went, and what it gets wrong."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.inspection import Signals
from fbackprop.train.datasets import Dataset
from fbackprop.train.layer_panels import draw_cotangents, draw_values
from fbackprop.train.results import Result

INK, MUTED = "#222222", "#888888"
FEW = 50  # Steps that are dots, too: of one finite number there is no line.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's.


def draw_report(
  title: str, result: Result, dataset: Dataset, signals: Mapping[str, Signals]
) -> bytes:
  """Draws a run.

  Args:
    title: stands above the picture.
    result: the run.
    dataset: what it was trained on.
    signals: what passes through each layer for the test examples, by `fbackprop.inspect`.

  Returns:
    A PNG file: the losses, the norm of each layer's gradient, what each layer hands on and what
    comes back to it, and for labels the confusion matrix and misclassified examples, for a function
    of one variable the fit.

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
    outputs = np.asarray(list(signals.values())[-1].y)
    figure = figure_module.Figure(figsize=(11, 11), dpi=110, layout="constrained")
    figure.suptitle(title, ha="left", x=0.015, fontsize="medium")
    panels = figure.subplots(3, 2, height_ratios=(3, 3.4, 2))
    draw_losses(panels[0, 0], result)
    draw_gradients(panels[0, 1], result)
    if dataset.is_classification:
      draw_confusion(panels[1, 0], dataset, outputs)
      draw_mistakes(panels[1, 1], dataset, outputs)
    else:
      draw_fit(panels[1, 0], dataset, outputs)
      draw_residuals(panels[1, 1], dataset, outputs)
    draw_values(panels[2, 0], signals, COLORS[0])
    draw_cotangents(panels[2, 1], signals, COLORS[1])
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
    few = {"marker": ".", "alpha": 0.6} if len(kept) < FEW else {"alpha": 0.2}
    axes.plot(kept + 1, losses[kept], color=COLORS[0], linewidth=0.6, **few)
  # With dots, as a single evaluation would be a line without length.
  axes.plot(middles(result), [e.train_loss for e in shown], ".-", color=COLORS[0], label="training")
  if shown and shown[-1].test_loss is not None:
    axes.plot(steps, [e.test_loss for e in shown], ".-", color=COLORS[1], label="test")
    if shown[-1].test_accuracy is not None:
      axes.plot([], [], ".--", color=COLORS[2], label="test accuracy")
      twin = axes.twinx()
      twin.plot(steps, [e.test_accuracy for e in shown], ".--", color=COLORS[2])
      twin.spines["right"].set_visible(True)
      twin.set_ylabel("test accuracy")
  mark_divergence(axes, result)
  legend_in_title_line(axes)


def middles(result: Result) -> list[float]:
  """Where a mean over the steps since the evaluation before stands: in the middle of them.

  At their end, where it is known, it would lag behind the losses that it is of.
  """
  places, before = [], 0
  for evaluation in result.evaluations:
    if evaluation.train_loss is not None:
      places.append((before + 1 + evaluation.step) / 2)
    before = evaluation.step
  return places


def mark_divergence(axes: Any, result: Result) -> None:
  """A line at the step that wasn't taken, with what was the first that wasn't finite."""
  if result.diverged_at is None:
    return
  step = len(result.losses)
  axes.axvline(step, color=COLORS[1], linestyle=":", linewidth=1.2)
  axes.set_xlim(0, 1.05 * step)  # So that there is a place for the words, left of the line.
  axes.xaxis.get_major_locator().set_params(integer=True)
  words = axes.annotate(
    f"diverged at step {step}:\n{result.diverged_at}",
    (step, 0.05), xycoords=("data", "axes fraction"), textcoords="offset points",
    xytext=(-6, 0), ha="right", fontsize=8, color=COLORS[1],
  )  # fmt: skip
  words.set_in_layout(False)


def colors_of(count: int) -> list[Any]:
  """A color for each of `count` layers; of more than there are by hand, the way from dark to light.

  The lightest tenth is left out: on white nobody would see it.
  """
  if count <= len(COLORS):
    return list(COLORS[:count])
  return list(need("matplotlib", extra="plot").colormaps["viridis"](np.linspace(0, 0.9, count)))


def draw_gradients(axes: Any, result: Result) -> None:
  """The norm of each layer's gradient at every step."""
  axes.set(title="Gradient norm", xlabel="step", yscale="log")
  kept = np.unique(np.linspace(0, max(len(result.grad_norms) - 1, 0), 400).astype(int))
  count = len(result.layer_names)
  colors = colors_of(count)
  # Of many, some are enough to read the others' colors by, and have place above the panel.
  named = range(count) if count <= len(COLORS) else np.linspace(0, count - 1, 4).astype(int)
  few = {"marker": "."} if len(kept) < FEW else {}
  for i, name in enumerate(result.layer_names):
    norms = np.where(result.grad_norms[:, i] > 0, result.grad_norms[:, i], np.nan)
    if norms.size:
      label = f"layer {name.strip('[]')}" if i in named else None
      axes.plot(kept + 1, norms[kept], color=colors[i], linewidth=0.9, label=label, **few)
  mark_divergence(axes, result)
  if result.layer_names and result.grad_norms.size:
    legend_in_title_line(axes)


def legend_in_title_line(axes: Any) -> None:
  """Puts the legend to the right of the title, where no curve can cross it."""
  narrow = {"fontsize": "small", "handlelength": 1, "handletextpad": 0.4, "columnspacing": 0.8}
  axes.legend(loc="lower right", bbox_to_anchor=(1, 0.985), ncols=4, borderaxespad=0, **narrow)


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
  if not np.isfinite(outputs).any():  # As the last good parameters of a run that diverged may give.
    axes.text(0.5, 0.6, "f(x; Θ) is not finite", transform=axes.transAxes, ha="center")
