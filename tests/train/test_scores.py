"""Scores are scikit-learn's, wherever it defines them."""

import json
import warnings

import jax
import numpy as np
import pytest
from sklearn import calibration, metrics

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train import scores
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.models import load_model
from fbackprop.train.report import curves, predictions
from fbackprop.train.runner import next_epoch
from fbackprop.train.stop_rules import StopRules
from tests.support.runs import descend
from tests.train.test_report import drawn

RNG = np.random.default_rng(3)
N = 60


def classified(classes, n=N):
  """Labels, of which the last class has few, and logits in steps, so that many are equal."""
  labels = RNG.choice(classes, n, p=np.arange(classes, 0, -1) / np.arange(classes + 1).sum())
  labels[:classes] = range(classes)
  return labels, np.round(RNG.normal(size=(n, classes)) + np.eye(classes)[labels], 1)


def ordered(scored):
  return [scored[name] for name in ("accuracy", "balanced", "ROC AUC", "AP", "F1", "Brier")]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_scores_of_classes_are_those_of_scikit_learn(classes):
  labels, outputs = classified(classes)
  chances = scores.probabilities_of(outputs, is_single=True)
  found = outputs.argmax(1)
  want = [
    metrics.accuracy_score(labels, found),
    metrics.balanced_accuracy_score(labels, found),
    metrics.roc_auc_score(labels, chances[:, 1] if classes == 2 else chances, multi_class="ovr"),
    metrics.average_precision_score(np.eye(classes)[labels], chances),
    metrics.f1_score(labels, found, average="macro"),
    metrics.brier_score_loss(labels, chances),
  ]
  np.testing.assert_allclose(ordered(scores.of_classes(chances, outputs, labels)), want, rtol=1e-12)


def test_scores_of_several_labels_are_the_means_of_scikit_learn():
  targets = RNG.integers(0, 2, (N, 4)).astype(np.float32)
  outputs = np.round(RNG.normal(size=(N, 4)) + targets, 1)
  chances = scores.probabilities_of(outputs, is_single=False)
  found = scores.of_labels(chances, outputs, targets)
  briers = [metrics.brier_score_loss(*pair) for pair in zip(targets.T, chances.T, strict=True)]
  want = {
    "accuracy": 1 - metrics.hamming_loss(targets, outputs > 0),
    "ROC AUC": metrics.roc_auc_score(targets, chances),
    "AP": metrics.average_precision_score(targets, chances),
    "F1": metrics.f1_score(targets, outputs > 0, average="macro"),
    "Brier": np.mean(briers),
  }
  assert found == pytest.approx(want, rel=1e-12)


def test_values_are_scored_one_by_one_and_averaged():
  """Targets of different units: a pooled R² would be that of the largest one."""
  true = RNG.normal(size=(N, 3)) * (1, 1e-3, 1e6)
  found = true + RNG.normal(size=true.shape) * (0.5, 1e-3, 1e5)
  for average in ("uniform_average", "raw_values"):
    want = [
      score(true, found, multioutput=average)
      for score in (metrics.r2_score, metrics.root_mean_squared_error, metrics.mean_absolute_error)
    ]
    if average == "uniform_average":
      assert list(scores.of_values(found, true).values()) == pytest.approx(want, rel=1e-12)
    else:
      rows = [list(row.values()) for row in scores.by_target(found, true)]
      np.testing.assert_allclose(rows, np.transpose(want), rtol=1e-12)


@pytest.mark.slow
def test_the_log_loss_is_the_mean_loss(run):
  model, x, labels = run
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # float32 rows that sum to 1 + 1e-7.
    want = metrics.log_loss(labels, model.probabilities(model.outputs(x)))
  found = scores.score(model, x, labels)["loss"]
  assert found == pytest.approx(want, rel=1e-6)


def test_a_class_that_is_missing_is_left_out():
  """As balanced accuracy leaves it out in scikit-learn; there ROC AUC raises, and AP is 0."""
  labels, outputs = classified(2)
  wide = np.column_stack([outputs, np.full(N, -9.0)])
  chances = scores.probabilities_of(wide, is_single=True)
  found = scores.of_classes(chances, wide, labels)
  binary = [metrics.roc_auc_score(labels == k, chances[:, k]) for k in (0, 1)]
  assert found["ROC AUC"] == pytest.approx(np.mean(binary), rel=1e-12)
  assert found["balanced"] == pytest.approx(
    metrics.balanced_accuracy_score(labels, outputs.argmax(1)), rel=1e-12
  )
  alone = scores.of_classes(chances, wide, np.zeros(N, int))
  assert np.isnan([alone["ROC AUC"], alone["AP"]]).all()
  assert alone["balanced"] == alone["accuracy"]


def test_an_output_that_is_not_finite_has_no_rank():
  labels, outputs = classified(2)
  outputs[3] = np.nan
  with np.errstate(invalid="ignore"):
    found = scores.of_classes(scores.probabilities_of(outputs, is_single=True), outputs, labels)
  assert np.isnan([found["ROC AUC"], found["AP"], found["Brier"]]).all()


def test_the_reliability_is_that_of_scikit_learn():
  labels, chances = RNG.integers(0, 2, N), RNG.uniform(size=N)
  chances[:3] = 0.0, 1.0, 0.3  # The edges.
  shares, means = calibration.calibration_curve(labels, chances, n_bins=10)
  found = scores.reliability(chances, labels == 1)
  np.testing.assert_allclose(found[:2], (means, shares), rtol=1e-12)
  assert found[2].sum() == N


def test_a_table_has_no_empty_panel():
  data = load_dataset("iris", 0)
  outputs = RNG.normal(size=(len(data.x_test), 3))
  names = [panel.name for panel in predictions.panels_of(data, outputs)]
  assert names == ["Confusion matrix", "Reliability"]
  panel = drawn(predictions.draw_reliability, data, outputs)
  (marks,) = panel.collections
  chances = scores.probabilities_of(outputs, is_single=True)
  is_right = outputs.argmax(1) == data.targets_test
  want = scores.reliability(chances.max(1), is_right)
  np.testing.assert_allclose(marks.get_offsets(), np.transpose(want[:2]))


@pytest.mark.slow
def test_the_curve_has_every_epoch_however_seldom_the_run_is_evaluated(tmp_path):
  """And so after a checkpoint; the same run, evaluated after each epoch, says the same scores."""
  x, y = RNG.normal(size=(40, 2)).astype(np.float32), RNG.integers(0, 2, 40)

  def fit(steps, every, **more):
    stop = StopRules(steps, validation_fraction=0.25)
    own = {"key": jax.random.key(0), "batch_size": 10, "eval_every": every, **more}
    return descend(fb.mlp([2, 2]), (x, y), stop, **own)

  often, rarely = fit(36, 3), fit(36, 36)
  want = [(e.step, e.validation_score) for e in often.evaluations]
  assert list(rarely.validation_scores) == want == list(curves.validation_of(rarely).items())
  saved = {"checkpoints": fb.train.Checkpoints(tmp_path, every=20)}
  fit(20, 50, **saved)
  again = fit(36, 50, **saved, resume=tmp_path)
  assert again.validation_scores == rarely.validation_scores


def test_a_long_run_has_enough_epochs_and_not_all():
  step, steps = 0, []
  while step < 3 * 100_000:
    step = next_epoch(step, 3)
    steps.append(step)
  assert steps[:256] == list(range(3, 771, 3))
  assert np.diff(steps[255:384]).tolist() == [6] * 128
  assert len(steps) < 1500


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where a run of classes and one of two values are trained."""
  path = tmp_path_factory.mktemp("scores")
  x = RNG.normal(size=(80, 3))
  np.savez(path / "t.npz", x=x, y=(x[:, 0] + x[:, 1] > 0) * 1, values=x[:, :2] * (1.0, 100.0))
  short = ["--hidden", "--stop.max-steps", "8", "--eval-every", "8", "--check-every", "0"]
  for target in ("y", "values"):
    flags = ["--data", f"npz:{path}/t.npz", "--target", target, "--out", str(path), *short]
    assert main(["train", *flags, "--name", target]) == 0
  return path


@pytest.fixture(scope="module")
def run(folder):
  data = load_dataset(f"npz:{folder}/t.npz", 0, target=["y"], standardize="off")
  return load_model(folder / "y" / "model.safetensors"), data.x_test, data.targets_test


@pytest.mark.slow
def test_a_run_says_all_scores_of_its_test_part(folder, run, capsys):
  model, x, labels = run
  summary = json.loads((folder / "y" / "summary.json").read_text())
  want = scores.score(model, x, labels)
  for name, value in want.items():
    # The run's own outputs are those of its compiled report: other rounding, and so other ties.
    assert summary[f"test_{scores.KEYS[name]}"] == pytest.approx(value, abs=1e-5)
  capsys.readouterr()
  assert main(["eval", str(folder / "y")]) == 0
  lines = capsys.readouterr().out.splitlines()[1:]
  assert lines == [f"  {name:<10}{value:.4f}" for name, value in want.items()]
  page = (folder / "y" / "report.html").read_text()
  assert f"{want['balanced']:.4f}" in page
  assert "Reliability" in page
  assert "Brier score" in page


def test_several_values_are_said_one_by_one(folder, capsys):
  summary = json.loads((folder / "values" / "summary.json").read_text())
  own = summary["test_by_target"]
  assert list(own) == ["y0", "y1"]
  for name in ("r2", "rmse", "mae"):
    mean = np.mean([row[name] for row in own.values()])
    assert summary[f"test_{name}"] == pytest.approx(mean, rel=1e-12)
  capsys.readouterr()
  assert main(["eval", str(folder / "values")]) == 0
  said = capsys.readouterr().out
  assert f"  r2        {summary['test_r2']:.4f}" in said
  assert f"  y1: r2 {own['y1']['r2']:.4f}, rmse {own['y1']['rmse']:.4f}" in said
  assert main(["info", str(folder / "values")]) == 0
  assert "test rmse" in capsys.readouterr().out
