"""A run as one picture: what it learned, how its gradients went, and what it gets wrong."""

import io
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from fbackprop.extras import need
from fbackprop.inspection import Signals
from fbackprop.train.datasets import Dataset
from fbackprop.train.layer_panels import draw_cotangents, draw_values
from fbackprop.train.results import Result

INK, MUTED = "#222222", "#888888"
MOST_LETTERS = 130  # Of a line of the title, as wide as the picture.
MOST_NAMES = 4  # Of layers, for which there is place in the line of a panel's title.
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
    lines = [textwrap.fill(line, MOST_LETTERS) for line in title.splitlines()]
    figure.suptitle("\n".join(lines), ha="left", x=0.015, fontsize="medium")
    panels = figure.subplots(3, 2, height_ratios=(3, 3.4, 2))
    draw_losses(panels[0, 0], result)
    draw_gradients(panels[0, 1], result)
    if dataset.is_classification:
      draw_confusion(panels[1, 0], dataset, outputs)
      draw_mistakes(panels[1, 1], dataset, outputs)
    elif dataset.task == "multilabel":
      draw_labels(panels[1, 0], dataset, outputs)
      draw_logits(panels[1, 1], dataset, outputs)
    elif dataset.x.shape[1] == dataset.outputs == 1:
      draw_fit(panels[1, 0], dataset, outputs)
      draw_residuals(panels[1, 1], dataset, outputs)
    else:
      draw_predictions(panels[1, 0], dataset, outputs)
      draw_errors(panels[1, 1], dataset, outputs)
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
  """A color for each of `count` layers; of more than can be named, the way from dark to light.

  The lightest tenth is left out: on white nobody would see it.
  """
  if count <= MOST_NAMES:
    return list(COLORS[:count])
  return list(need("matplotlib", extra="plot").colormaps["viridis"](np.linspace(0, 0.9, count)))


def draw_gradients(axes: Any, result: Result) -> None:
  """The norm of each layer's gradient at every step."""
  axes.set(title="Gradient norm", xlabel="step", yscale="log")
  kept = np.unique(np.linspace(0, max(len(result.grad_norms) - 1, 0), 400).astype(int))
  count = len(result.layer_names)
  colors = colors_of(count)
  # Of many, some are enough to read the others' colors by, and have place above the panel.
  named = np.linspace(0, count - 1, min(count, MOST_NAMES)).astype(int)
  few = {"marker": "."} if len(kept) < FEW else {}
  for i, name in enumerate(result.layer_names):
    norms = np.where(result.grad_norms[:, i] > 0, result.grad_norms[:, i], np.nan)
    if norms.size:
      place = name.strip("[]").replace("][", ".")
      label = f"layer {place}" if i in named else None
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
  if dataset.output_names:
    names = [shortened(name) for name in dataset.output_names]
    is_long = max(map(len, names)) > 3
    axes.set_xticklabels(names, rotation=30 if is_long else 0, ha="right" if is_long else "center")
    axes.set_yticklabels(names)


def shortened(name: str) -> str:
  """The name of a class or a value, as long as there is place for beside a panel."""
  return name if len(name) <= 14 else f"{name[:13]}…"


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


def draw_predictions(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """What was predicted against what is true, and how much of its variance that explains."""
  true = dataset.targets_test
  for i, name in enumerate(dataset.output_names or map(str, range(dataset.outputs))):
    error = ((outputs[:, i] - true[:, i]).astype(np.float64) ** 2).sum()
    variance = ((true[:, i] - true[:, i].mean(dtype=np.float64)) ** 2).sum()
    label = f"{shortened(name)}: R² {1 - error / variance:.3f}" if variance else shortened(name)
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
  title, xlabel = f"Errors: median size {middle:.3g}", f"predicted − true{unit}"
  axes.set(title=title, xlabel=xlabel, ylabel="examples")


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
  for has, color in ((False, MUTED), (True, COLORS[1])):
    values = outputs[(dataset.targets_test > 0.5) == has]
    axes.hist(values[np.isfinite(values)], bins=30, alpha=0.6, color=color,
              label="has the label" if has else "hasn't")  # fmt: skip
  axes.axvline(0, color=INK, linewidth=0.8)
  axes.set(title="Logits of the test examples", xlabel="logit")
  axes.legend(fontsize="small")


def draw_residuals(axes: Any, dataset: Dataset, outputs: np.ndarray) -> None:
  """What is left between the two."""
  axes.axhline(0, color=MUTED, linewidth=0.8)
  axes.plot(dataset.x_test[:, 0], outputs[:, 0] - dataset.targets_test[:, 0], color=COLORS[1])
  axes.set(title="f(x; Θ) − f*(x)", xlabel="x")
  if not np.isfinite(outputs).any():  # As the last good parameters of a run that diverged may give.
    axes.text(0.5, 0.6, "f(x; Θ) is not finite", transform=axes.transAxes, ha="center")
