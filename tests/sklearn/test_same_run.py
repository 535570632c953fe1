"""The estimators make scikit-learn's own runs, up to rounding."""

import warnings

import numpy as np
import pytest
from sklearn import neural_network as theirs
from sklearn.exceptions import ConvergenceWarning

from fbackprop import sklearn as ours

RNG = np.random.default_rng(0)
X = RNG.normal(size=(61, 4))
LABELS = (X[:, 0] + 0.3 * X[:, 1] ** 2 > 0).astype(int) + (X[:, 2] > 0.5)
COUNTS = RNG.poisson(np.exp(X[:, :2])).astype(float)
WEIGHTS = RNG.uniform(0.1, 2, 61)
SMALL = {"hidden_layer_sizes": (5,), "random_state": 3, "max_iter": 7}
DEEP = {**SMALL, "hidden_layer_sizes": (5, 3), "batch_size": 16}

# Name of the class, targets, sample weights, arguments.
RUNS = {
  "adam": ("MLPClassifier", LABELS, None, DEEP),
  "weights": ("MLPClassifier", LABELS > 0, WEIGHTS, {**DEEP, "activation": "logistic"}),
  "nesterov, inverse scaling": (
    "MLPClassifier", LABELS, WEIGHTS,
    {**DEEP, "solver": "sgd", "learning_rate": "invscaling", "activation": "tanh"},
  ),
  "momentum, adaptive": (
    "MLPRegressor", X[:, 0] ** 2, None,
    {**SMALL, "solver": "sgd", "learning_rate": "adaptive", "nesterovs_momentum": False,
     "tol": 0.3, "n_iter_no_change": 2, "max_iter": 40, "learning_rate_init": 0.01},
  ),
  "early stopping": (
    "MLPClassifier", LABELS > 0, WEIGHTS,
    {**DEEP, "early_stopping": True, "validation_fraction": 0.3, "max_iter": 40,
     "n_iter_no_change": 3, "learning_rate_init": 0.01},
  ),
  "early stopping of a regression": (
    "MLPRegressor", COUNTS, None,
    {**SMALL, "early_stopping": True, "shuffle": False, "max_iter": 40, "n_iter_no_change": 3},
  ),
  "counts": ("MLPRegressor", COUNTS[:, 0], WEIGHTS, {**SMALL, "loss": "poisson", "alpha": 0.1}),
  "several labels": ("MLPClassifier", (COUNTS > 1).astype(int), None, SMALL),
  "lbfgs": ("MLPClassifier", LABELS, WEIGHTS, {**SMALL, "solver": "lbfgs", "alpha": 0.01}),
  "lbfgs of one value": ("MLPRegressor", X[:, 0] ** 2, None, {**SMALL, "solver": "lbfgs"}),
}  # fmt: skip


def fitted(library, name, targets, weights, arguments, dtype=float):
  rng = np.random.RandomState(arguments["random_state"])
  model = getattr(library, name)(**{**arguments, "random_state": rng})
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    model.fit(X.astype(dtype), targets, sample_weight=weights)
  return model, rng


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_run_is_that_of_scikit_learn(run):
  (model, rng), (like, their_rng) = (fitted(library, *run) for library in (ours, theirs))
  # Both in float64; L-BFGS's steps amplify the rounding.
  near = {"rtol": 1e-6, "atol": 1e-8} if model.solver == "lbfgs" else {"rtol": 1e-9, "atol": 1e-11}
  for name in ("coefs_", "intercepts_"):
    for own, wanted in zip(getattr(model, name), getattr(like, name), strict=True):
      np.testing.assert_allclose(own, wanted, **near)
  np.testing.assert_allclose(model.loss_, like.loss_, **near)
  for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
    assert getattr(model, name) == getattr(like, name)
  for name in ("best_loss_", "best_validation_score_", "validation_scores_", "loss_curve_"):
    if hasattr(like, name):
      got, wanted = getattr(model, name), getattr(like, name)
      assert (got is None) == (wanted is None)
      if wanted is not None:
        np.testing.assert_allclose(got, wanted, **near)
  np.testing.assert_allclose(model.predict(X), like.predict(X), **near)
  if hasattr(like, "classes_"):
    np.testing.assert_array_equal(model.classes_, like.classes_)
    np.testing.assert_allclose(model.predict_proba(X), like.predict_proba(X), **near)
    np.testing.assert_allclose(model.predict_log_proba(X), like.predict_log_proba(X), **near)
  # Whoever draws from the same generator afterwards gets the same numbers.
  assert rng.uniform() == their_rng.uniform()


def test_float32_is_computed_in_float32():
  (model, _), (like, _) = (fitted(library, *RUNS["adam"], np.float32) for library in (ours, theirs))
  for own, wanted in zip(model.coefs_, like.coefs_, strict=True):
    assert own.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(own, wanted, atol=1e-5)  # 28 steps of float32.
  assert model.predict_proba(X.astype(np.float32)).dtype == np.float32
  assert model.predict_proba(X).dtype == np.float64  # As of scikit-learn.


def test_a_regression_of_several_values_by_lbfgs_ends_at_its_minimum():
  """scikit-learn's loss is the mean over the outputs, and its gradient that of their sum."""
  arguments = {**SMALL, "solver": "lbfgs", "max_iter": 2000, "alpha": 0.1, "activation": "identity"}
  model, _ = fitted(ours, "MLPRegressor", COUNTS, None, {**arguments, "tol": 1e-9})
  hidden = X @ model.coefs_[0] + model.intercepts_[0]
  error = hidden @ model.coefs_[1] + model.intercepts_[1] - COUNTS
  slope = (hidden.T @ error + 0.1 * model.coefs_[1]) / len(X)
  np.testing.assert_allclose(slope, 0, atol=1e-5)
  penalty = 0.05 * sum((w**2).sum() for w in model.coefs_) / len(X)
  np.testing.assert_allclose(model.loss_, 0.5 * (error**2).mean() + penalty, rtol=1e-9)
