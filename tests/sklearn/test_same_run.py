"""The estimators make scikit-learn's own runs, up to rounding."""

import warnings

import jax
import jax.flatten_util
import numpy as np
import pytest
from sklearn import neural_network as theirs
from sklearn.exceptions import ConvergenceWarning

from fbackprop import sklearn as ours
from fbackprop.sklearn.fitting import draw_params, make_data, pack
from fbackprop.sklearn.programs import Spec, objective_of

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


@pytest.mark.slow
def test_float32_is_computed_in_float32():
  (model, _), (like, _) = (fitted(library, *RUNS["adam"], np.float32) for library in (ours, theirs))
  for own, wanted in zip(model.coefs_, like.coefs_, strict=True):
    assert own.dtype == wanted.dtype == np.float32
    np.testing.assert_allclose(own, wanted, atol=1e-5)  # 28 steps of float32.
  assert model.predict_proba(X.astype(np.float32)).dtype == np.float32
  assert model.predict_proba(X).dtype == np.float64  # As of scikit-learn.


@pytest.mark.parametrize("output", ["identity", "exp"])
def test_the_objective_of_lbfgs_has_its_gradient(output):
  """scikit-learn's loss is the mean over the outputs, and its gradient that of their sum."""
  spec = Spec((4, 3, 2), "tanh", output, "float64")
  model = ours.MLPRegressor(alpha=0.3)
  model.t_ = 0
  with jax.enable_x64(True):
    numbers = model._numbers(np.float64)
    data = make_data(spec, X, COUNTS, WEIGHTS)
    params = pack(spec, *draw_params(np.random.RandomState(0), spec.sizes, 6.0, float))
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def objective(flat):
      return objective_of(spec)(unravel(flat), data, numbers)

    total, mean, grads = objective(flat)
    along = np.random.RandomState(1).normal(size=flat.shape)
    steps = [float(objective(flat + h * along)[0]) for h in (1e-5, -1e-5)]
    slope = np.dot(jax.flatten_util.ravel_pytree(grads)[0], along)
  # Differences of the second order at 1e-5: an error of 1e-10 of the third derivative.
  np.testing.assert_allclose((steps[0] - steps[1]) / 2e-5, slope, rtol=1e-7)
  penalty = 0.15 * sum((layer.w**2).sum() for layer in params if layer) / WEIGHTS.sum()
  ratio = 2 if output == "identity" else 1
  np.testing.assert_allclose(float(total) - penalty, ratio * (float(mean) - penalty), rtol=1e-12)
