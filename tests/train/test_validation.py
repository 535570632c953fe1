"""Runs that set examples aside, or end after epochs or seconds."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import accuracy_score

import fbackprop as fb
from fbackprop.cli import main
from fbackprop.train import StopRules
from fbackprop.train.examples import set_aside, size_aside
from fbackprop.train.step import Batch
from tests.support.refusals import refusals, refused
from tests.support.runs import descend

KEY = jax.random.key(3)
X = np.asarray(jax.random.normal(jax.random.key(1), (60, 4)))
NOISE = np.asarray(jax.random.normal(jax.random.key(2), (60,)))
LABELS = (X[:, 0] + NOISE > 0).astype(np.int32) + (X[:, 1] > 0)
NET = fb.mlp([4, 6, 3], fb.tanh)


def fit(stop, net=NET, data=(X, LABELS), **options):
  """A small run that overfits its noise."""
  return descend(net, data, stop, 1.0, **{"key": KEY, "batch_size": 10, **options})


@pytest.fixture(scope="module")
def early():
  """A run that ends as scikit-learn's MLPClassifier(early_stopping=True) would."""
  return fit(StopRules(max_epochs=400, validation_fraction=0.25, patience=3), eval_every=4)


def parts():
  """What that run trained on, and what it set aside."""
  return set_aside(Batch(jnp.asarray(X), jnp.asarray(LABELS)), 0.25, KEY)


@pytest.mark.slow
def test_it_ends_where_scikit_learn_s_rule_does(early):
  """`_update_no_improvement_count` of its MLP, on the scores after each epoch."""
  scores = [e.validation_score for e in early.evaluations]  # Of each epoch, which has four steps.
  best, stale, kept = -np.inf, 0, None
  for epoch, score in enumerate(scores, start=1):
    stale = stale + 1 if score < best + 1e-4 else 0
    if score > best:
      best, kept = score, epoch
    if stale > 3:
      break
  assert (early.stop_reason, early.steps) == ("tol", 4 * epoch)
  assert (early.best.step, early.best.score) == (4 * kept, pytest.approx(best))
  assert kept < epoch


@pytest.mark.slow
def test_the_parameters_of_the_best_epoch_are_kept(early):
  """The same run on the same part, ended there, has them to the bit."""
  train, validation = parts()
  again = fit(StopRules(early.best.step), data=(train.x, train.targets))
  chex.assert_trees_all_equal(early.params, early.best.params, again.params)
  predicted = NET.forward(early.params, validation.x)[0].argmax(1)
  assert early.best.score == pytest.approx(accuracy_score(validation.targets, predicted))
  assert not np.array_equal(early.params[0].w, early.state.params[0].w)


@pytest.mark.slow
def test_the_end_does_not_depend_on_the_chunks_nor_on_who_divides(early):
  train, validation = parts()
  again = fit(
    StopRules(max_epochs=400, patience=3),
    data=train,
    validation=validation,
    chunk_steps=7,
  )
  assert (again.steps, again.best.step) == (early.steps, early.best.step)
  chex.assert_trees_all_equal(again.params, early.params)


def test_each_class_is_in_both_parts_and_no_example_is_in_two():
  train, validation = parts()
  assert (len(train.x), len(validation.x)) == (45, 15)
  rows = np.concatenate([train.x, validation.x])
  np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[:, 0]))
  share = np.bincount(validation.targets, minlength=3) / np.bincount(LABELS)
  assert (abs(share - 0.25) < 0.5 / np.bincount(LABELS).min()).all()


def test_values_are_scored_by_minus_the_loss_with_their_weights():
  weights = np.linspace(0, 1, 60, dtype=np.float32)
  y = X[:, :1] * 2 + NOISE[:, None]
  run = fit(
    StopRules(max_epochs=5, validation_fraction=0.25),
    net=fb.mlp([4, 1]),
    loss=fb.squared_error,
    data=Batch(X, y, weights),
    optimizer=fb.train.gradient_descent(0.01),
  )
  validation = set_aside(jax.tree.map(jnp.asarray, Batch(X, y, weights)), 0.25, KEY)[1]
  outputs = fb.mlp([4, 1]).forward(run.params, validation.x)[0]
  losses = fb.squared_error.forward(outputs, validation.targets)[0]
  want = -np.average(losses, weights=validation.weights)
  assert run.best.step == run.steps == 20
  assert run.best.score == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
def test_test_scores_of_the_kept_parameters_are_told(early):
  run = fit(
    StopRules(max_epochs=400, validation_fraction=0.25, patience=3), test=(X[:20], LABELS[:20])
  )
  predicted = NET.forward(early.params, X[:20])[0].argmax(1)
  assert run.best.test_accuracy == pytest.approx(accuracy_score(LABELS[:20], predicted))
  assert run.evaluations[-1].step == run.steps


@pytest.mark.slow
def test_epochs_are_passes_over_what_is_trained_on():
  run = fit(StopRules(max_epochs=3))
  assert (run.stop_reason, run.steps, run.best) == ("max_epochs", 18, None)
  assert fit(StopRules(max_epochs=3, max_steps=5)).stop_reason == "max_steps"
  assert fit(StopRules(max_epochs=0)).steps == 0


@pytest.mark.slow
def test_seconds_end_a_run_and_change_nothing_else():
  run = fit(StopRules(max_seconds=0.05))
  assert run.stop_reason == "max_seconds"
  assert run.steps > 0
  again = fit(StopRules(run.steps))
  chex.assert_trees_all_equal(run.params, again.params)
  assert fit(StopRules(max_seconds=0)).steps == 0


@pytest.mark.slow
def test_a_run_without_an_epoch_keeps_its_last_parameters():
  run = fit(StopRules(2, validation_fraction=0.25))
  assert run.best is None
  assert run.params is run.state.params


BAD_RULES = [
  ({}, "stop.max_steps, stop.max_epochs or stop.max_seconds must be given: a run needs an end"),
  ({"max_epochs": 2**31}, "stop.max_epochs must be from 0 to 2147483647, got 2147483648"),
  ({"max_seconds": -1}, "stop.max_seconds must be a finite number of at least 0, got -1"),
  ({"max_seconds": float("inf")}, "stop.max_seconds must be a finite number of at least 0"),
  ({"max_steps": 1, "validation_fraction": 1.0}, "must be above 0 and below 1, got 1.0"),
  ({"max_steps": 1, "validation_fraction": 0}, "must be above 0 and below 1, got 0"),
]


test_rules_that_cannot_be_are_refused = refusals(
  lambda arguments: StopRules(**arguments), BAD_RULES, ValueError
)


TOO_FEW = [
  (10, None, 0.99, "of 0.99 divides 10 examples into 0 and 10; each part needs one"),
  (10, [0, 1, 2] * 3 + [0], 0.2, "into 8 and 2; each part needs 3 examples"),
  (10, [0] * 9 + [1], 0.2, "into 8 and 2; each part needs 2 examples, and each class two"),
]


@pytest.mark.parametrize(("n", "labels", "fraction", "message"), TOO_FEW)
def test_too_few_examples_are_refused(n, labels, fraction, message):
  with pytest.raises(ValueError, match=message):
    size_aside(n, None if labels is None else np.array(labels), fraction)


def test_weights_of_zero_alone_are_refused():
  train, _ = set_aside(
    Batch(jnp.arange(8.0)[:, None], jnp.zeros((8, 1)), jnp.arange(8.0)), 0.25, KEY
  )
  weights = np.zeros(8, np.float32)
  weights[np.asarray(train.weights, int)] = 1
  batch = Batch(jnp.arange(8.0)[:, None], jnp.zeros((8, 1)), jnp.asarray(weights))
  with pytest.raises(ValueError, match="the weights of the validation part are all zero"):
    set_aside(batch, 0.25, KEY)


@pytest.mark.slow
def test_the_command_says_what_is_kept(tmp_path, capsys, undrawn):
  flags = ["train", "--data", "iris", "--check-every", "0", "--out", str(tmp_path), "--eval-every"]
  code = main([*flags, "15", "--stop.max-epochs", "10", "--stop.validation-fraction", "0.2"])
  out = capsys.readouterr().out
  assert code == 0
  assert out.startswith("iris: 89 training, 23 validation, 38 test examples\n")
  assert "test accuracy  validation   error of gradient" in out
  assert "; kept: step " in out
  assert "max_epochs = 10" in (tmp_path / "iris-1" / "config.toml").read_text()
  assert "max_steps" not in (tmp_path / "iris-1" / "config.toml").read_text()
  again = ["train", "--config", str(tmp_path / "iris-1" / "config.toml"), "--out", str(tmp_path)]
  assert main(again) == 0
  assert capsys.readouterr().out == out.replace("iris-1", "iris-2")


def test_a_batch_is_of_what_is_left_to_train_on(tmp_path, capsys):
  flags = ["--stop.validation-fraction", "0.9", "--batch-size", "50", "--out", str(tmp_path / "a")]
  assert "at most the 11 training" in refused(capsys, "train", "--data", "iris", *flags)
