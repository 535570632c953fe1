"""The picture of a run: it is made for every ending, and shows the numbers that it should."""

import itertools
import struct
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import fbackprop as fb
from fbackprop.train import report
from fbackprop.train.data.datasets import Dataset, load_dataset
from fbackprop.train.metrics import Evaluation
from fbackprop.train.report import curves, figures, layers, predictions
from fbackprop.train.results import BestEpoch, Result


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes():
  dataset = load_dataset("sine", 0)
  result = result_of([0.6, 0.4], [[1.0], [2.0]], ("[0]",), (evaluation(2, 0.5, 0.7, None),))
  first, second = (
    report.draw_report("A title", result, dataset, one_layer(dataset.targets_test + rest))
    for rest in (0, 0.5)
  )
  # Neither today's date nor the software nor the picture before enters.
  assert first == report.draw_report("A title", result, dataset, one_layer(dataset.targets_test))
  assert first != second
  assert first.startswith(b"\x89PNG\r\n\x1a\n")
  assert struct.unpack(">II", first[16:24]) == (1210, 1210)  # 11 by 11 inches at 110 dots.


def one_layer(outputs):
  return {"dense": fb.Signals(outputs, outputs, outputs)}


def drawn(draw, *arguments):
  """The axes with what is drawn there."""
  panel = Figure().subplots()
  draw(panel, *arguments)
  return panel


def labelled(labels, predicted):
  """Test examples with these labels, and outputs that predict the others, ever more surely."""
  n = len(labels)
  x = np.linspace(0, 1, n * 4, dtype=np.float32).reshape(n, 4)
  targets = np.array(labels, np.int32)
  outputs = np.eye(3, dtype=np.float32)[predicted] * np.arange(1, n + 1)[:, None]
  names = ("0", "1", "2")
  dataset = Dataset(x, targets, "classification", names, tuple("abcd"), x, targets)
  return replace(dataset, image_shape=(2, 2)), outputs


def result_of(losses, grad_norms, names, evaluations, diverged_at=None):
  losses, norms = np.array(losses), np.array(grad_norms)
  return Result(
    None, "max_steps", losses, norms, names, evaluations, (), diverged_at, False, 1, 0, 1
  )


def evaluation(step, train_loss, test_loss, accuracy, score=None):
  return Evaluation(step, step / 2, train_loss, test_loss, accuracy, (), None, 1.0, score)


def lines_of(panel):
  return {line.get_label(): np.asarray(line.get_xydata()) for line in panel.get_lines()}


def test_the_confusion_matrix_counts_each_test_example_once():
  panel = drawn(predictions.draw_confusion, *labelled([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 1, 1]))
  assert panel.get_title() == "Confusion matrix: 3 of 6 right"
  counts = {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in panel.texts}
  assert counts == {(0, 0): "2", (0, 1): "1", (1, 1): "1", (2, 1): "2"}
  assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted", "label")


def test_the_confusion_matrix_of_digits_sums_to_the_test_examples():
  digits = load_dataset("digits", 0)
  panel = drawn(predictions.draw_confusion, digits, np.random.default_rng(0).normal(size=(450, 10)))
  assert sum(int(text.get_text()) for text in panel.texts) == 450


def test_mistakes_are_shown_from_the_most_confident_down():
  dataset, outputs = labelled([0, 1, 2, 0], [0, 2, 0, 1])
  panel = drawn(predictions.draw_mistakes, dataset, outputs)
  assert panel.get_title() == "Misclassified: 3"
  said = [text.get_text() for text in panel.texts]
  assert said == ["0 taken for 1", "2 taken for 0", "1 taken for 2"]
  pictures = [np.asarray(image.get_array()).ravel() for image in panel.images]
  np.testing.assert_array_equal(pictures, dataset.x_test[[3, 2, 1]])


def test_at_most_twelve_mistakes_have_a_place():
  panel = drawn(predictions.draw_mistakes, *labelled([0] * 20, [1] * 13 + [0] * 7))
  assert panel.get_title() == "Misclassified: 13, the most confident 12"
  assert len(panel.images) == 12


def test_examples_that_are_no_pictures_are_only_counted():
  dataset, outputs = labelled([0, 1], [1, 1])
  no_pictures = replace(dataset, image_shape=None)
  panel = drawn(predictions.draw_mistakes, no_pictures, outputs)
  assert (panel.get_title(), list(panel.images)) == ("Misclassified: 1", [])


def test_losses_are_those_of_the_run():
  evaluations = (evaluation(2, 0.5, 0.7, 0.25), evaluation(4, 0.3, 0.6, 0.75))
  result = result_of([0.6, 0.4, 0.0, 0.6], [[1.0]] * 4, ("[0]",), evaluations)
  panel = drawn(curves.draw_losses, result)
  lines = lines_of(panel)
  # A mean over steps 1 and 2, and one over 3 and 4, each in the middle of its steps.
  np.testing.assert_array_equal(lines["training"], [(1.5, 0.5), (3.5, 0.3)])
  np.testing.assert_array_equal(lines["test"], [(2, 0.7), (4, 0.6)])
  (steps,) = (line for label, line in lines.items() if label.startswith("_"))
  # A loss of exactly zero has no place on a logarithmic axis, and is a gap.
  np.testing.assert_array_equal(steps, [(1, 0.6), (2, 0.4), (3, np.nan), (4, 0.6)])
  (twin,) = (other for other in panel.figure.axes if other is not panel)
  np.testing.assert_array_equal(twin.get_lines()[0].get_xydata(), [(2, 0.25), (4, 0.75)])


ASIDE = [
  ((0.25, 0.75), (0.5, 0.625, 0.75), (0.5, 0.75, 0.625)),
  # Of values the score is minus a loss, and stands among the losses.
  ((None, None), (-0.9, -0.8, -0.3), (0.9, 0.3, 0.8)),
]


@pytest.mark.parametrize(("accuracies", "scores", "points"), ASIDE)
def test_the_examples_set_aside_have_a_curve_and_the_step_that_is_kept_a_ring(
  accuracies, scores, points
):
  # An epoch has two steps; the second evaluation comes one after the end of the second epoch.
  evaluations = tuple(
    evaluation(step, 0.5, 0.7, accuracy, score)
    for step, accuracy, score in zip((2, 7), accuracies, scores, strict=False)
  )
  best = BestEpoch(4, scores[2], None, 0.6, accuracies[0])
  result = replace(result_of([0.6] * 7, [[1.0]] * 7, ("[0]",), evaluations), best=best)
  panel = drawn(curves.draw_losses, result)
  assert "validation" in [text.get_text() for text in panel.get_legend().get_texts()]
  on = panel.figure.axes[-1]
  curve, mark, ring = on.get_lines()[-3:]
  np.testing.assert_array_equal(curve.get_xydata(), list(zip((2, 4, 6), points, strict=True)))
  assert list(mark.get_xdata()) == [4, 4]
  assert (ring.get_marker(), ring.get_xydata().tolist()) == ("o", [[4, abs(scores[2])]])
  assert [text.get_text() for text in on.texts] == ["kept: step 4"]
  assert "in the ring" in curves.panels_of(result)[0].caption


@pytest.mark.parametrize("last", [2, 390_000])
def test_steps_stand_at_whole_numbers_that_do_not_meet(last):
  panel = Figure(figsize=(5, 3.7), layout="constrained").subplots()
  evaluations = (evaluation(1, 0.5, 0.7, None), evaluation(last, 0.3, 0.6, None))
  curves.draw_losses(panel, result_of([0.6], [[1.0]], ("[0]",), evaluations))
  panel.figure.canvas.draw()
  boxes = [label.get_window_extent() for label in panel.get_xticklabels() if label.get_text()]
  assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
  assert all(tick == round(tick) for tick in panel.get_xticks())


def test_a_run_without_test_examples_shows_no_test_loss():
  result = result_of([0.6], [[1.0]], ("[0]",), (evaluation(1, 0.6, None, None),))
  panel = drawn(curves.draw_losses, result)
  assert "test" not in lines_of(panel)
  assert panel.figure.axes == [panel]


def test_each_layer_has_its_gradient_norm():
  norms = [[1.0, 5.0], [2.0, 0.0], [3.0, 7.0]]
  panel = drawn(curves.draw_gradients, result_of([1.0] * 3, norms, ("[0]", "[2]"), ()))
  lines = lines_of(panel)
  np.testing.assert_array_equal(lines["layer 0"], [(1, 1), (2, 2), (3, 3)])
  np.testing.assert_array_equal(lines["layer 2"], [(1, 5), (2, np.nan), (3, 7)])


def test_many_layers_have_colors_of_their_own():
  for count in (1, 4, 5, 40):
    colors = {to_hex(color) for color in figures.colors_of(count)}
    assert len(colors) == count
  names = tuple(f"[{i}]" for i in range(12))
  panel = drawn(curves.draw_gradients, result_of([1.0] * 60, np.ones((60, 12)), names, ()))
  assert len({to_hex(line.get_color()) for line in panel.get_lines()}) == 12
  shown = [text.get_text() for text in panel.get_legend().get_texts()]
  assert shown == ["layer 0", "layer 3", "layer 7", "layer 11"]


def test_a_layer_within_another_has_its_place_in_its_name():
  panel = drawn(curves.draw_gradients, result_of([1.0], [[1.0, 2.0]], ("[0]", "[4][1]"), ()))
  assert set(lines_of(panel)) == {"layer 0", "layer 4.1"}


@pytest.mark.parametrize("draw", [curves.draw_losses, curves.draw_gradients])
def test_the_step_at_which_a_run_diverged_is_marked(draw):
  where = "layer 2 (dense): value"
  result = result_of([2.0, np.inf], [[1.0], [np.nan]], ("[0]",), (), where)
  panel = drawn(draw, result)
  assert [text.get_text() for text in panel.texts] == [f"diverged at step 2:\n{where}"]
  (mark,) = (line for line in panel.get_lines() if line.get_linestyle() == ":")
  assert list(mark.get_xdata()) == [2, 2]
  # The one finite number is a dot, as a line of one point isn't seen.
  (trace,) = (line for line in panel.get_lines() if len(line.get_xdata()) == 2 and line is not mark
              and line.get_marker() == ".")  # fmt: skip
  np.testing.assert_array_equal(trace.get_xdata(), [1, 2])


def test_a_fit_that_is_not_finite_says_so():
  rest = drawn(predictions.draw_residuals, load_dataset("sine", 0), np.full((256, 1), np.nan))
  assert [text.get_text() for text in rest.texts] == ["f(x; Θ) is not finite"]


@pytest.mark.parametrize("draw", [predictions.draw_errors, predictions.draw_logits])
def test_numbers_that_span_more_than_float32_have_a_histogram(draw):
  panel = drawn(draw, load_dataset("sine", 0), np.tile(np.float32([[-3e38], [3e38]]), (128, 1)))
  assert sum(bar.get_height() for bar in panel.patches) == 256


def test_the_fit_and_what_is_left_of_it():
  sine = load_dataset("sine", 0)
  draws = predictions.draw_fit, predictions.draw_residuals
  fit, rest = (drawn(draw, sine, sine.targets_test + 0.5) for draw in draws)
  lines = lines_of(fit)
  np.testing.assert_array_equal(lines["training points"], np.hstack([sine.x, sine.targets]))
  np.testing.assert_array_equal(lines["f*(x)"][:, 1], sine.targets_test[:, 0])
  np.testing.assert_array_equal(lines["f(x; Θ)"][:, 1], sine.targets_test[:, 0] + 0.5)
  (residuals,) = (line.get_ydata() for line in rest.get_lines() if len(line.get_ydata()) == 256)
  np.testing.assert_allclose(residuals, 0.5, rtol=1e-6)  # The sum above was rounded to float32.


# --- What passes through the layers ---------------------------------------------------------------


def test_a_layer_is_drawn_by_its_quantiles_and_zeros():
  y = np.concatenate([np.zeros(50), np.linspace(0.01, 1, 50)])[:, None]
  seen = {"0.dense": fb.Signals(y, y - 1, y), "1.relu": fb.Signals(y, y, 0 * y)}
  panel = drawn(layers.draw_values, seen, "#000000")
  assert [label.get_text() for label in panel.get_yticklabels()] == list(seen)
  boxes = [(box.get_x(), box.get_x() + box.get_width()) for box in panel.patches]
  want = [np.quantile(signal.y, (0.25, 0.75)) for signal in seen.values()]
  np.testing.assert_allclose(boxes, want)
  assert [text.get_text() for text in panel.texts] == ["1% zero", "50% zero"]


def test_cotangents_that_are_zero_have_no_box_but_a_share():
  y = np.ones((4, 2))
  panel = drawn(layers.draw_cotangents, {"0.dense": fb.Signals(y, y, 0 * y)}, "#000000")
  assert not panel.patches
  assert [text.get_text() for text in panel.texts] == ["100% zero"]


def test_of_many_layers_some_are_drawn():
  one = fb.Signals(*[np.ones((2, 2))] * 3)
  panel = drawn(layers.draw_values, {f"{i}.dense": one for i in range(99)}, "#000000")
  names = [label.get_text() for label in panel.get_yticklabels()]
  assert (len(names), names[0], names[-1]) == (layers.MOST_LAYERS, "0.dense", "98.dense")
