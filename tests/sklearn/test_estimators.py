"""The estimators of scikit-learn: what ours have besides, and how they are used."""

import functools
import pickle
import subprocess
import sys
import warnings

import jax
import numpy as np
import optax
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fbackprop as fb
from fbackprop.sklearn import MLPClassifier, MLPRegressor
from fbackprop.sklearn.programs import epochs_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(61, 4))
LABELS = np.array(["a", "b", "c"])[(X[:, 0] > 0).astype(int) + (X[:, 2] > 0.5)]
SMALL = {"hidden_layer_sizes": (5,), "random_state": 3, "max_iter": 5}
pytestmark = [
  pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
  pytest.mark.usefixtures("as_a_user_has_it"),
]


def weights_of(model):
  return np.concatenate([a.ravel() for a in (*model.coefs_, *model.intercepts_)])


@pytest.mark.slow  # 250 fits of many shapes.
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_scikit_learns_checks_pass(estimator):
  warnings.simplefilter("ignore")  # Of checks that need pandas, and of few iterations.
  outcomes = check_estimator(estimator(max_iter=100), on_skip=None)
  states = {each["status"] for each in outcomes}
  assert len(outcomes) > 50
  assert states <= {"passed", "skipped"}


def test_class_weights_are_weights_of_the_rows():
  given = {"a": 3.0, "b": 0.5}
  model = MLPClassifier(**SMALL, class_weight=given).fit(X, LABELS)
  rows = np.array([given.get(label, 1.0) for label in LABELS])
  like = MLPClassifier(**SMALL).fit(X, LABELS, sample_weight=rows)
  np.testing.assert_array_equal(weights_of(model), weights_of(like))
  both = MLPClassifier(**SMALL, class_weight="balanced").fit(X, LABELS, sample_weight=rows)
  counts = dict(zip(*np.unique(LABELS, return_counts=True), strict=True))
  balanced = np.array([len(X) / (3 * counts[label]) for label in LABELS])
  like = MLPClassifier(**SMALL).fit(X, LABELS, sample_weight=rows * balanced)
  np.testing.assert_allclose(weights_of(both), weights_of(like), rtol=1e-12)
  with pytest.raises(ValueError, match="'balanced' doesn't go with partial_fit"):
    MLPClassifier(class_weight="balanced").partial_fit(X, LABELS, classes=["a", "b", "c"])
  with pytest.raises(ValueError, match="class_weight must be None, 'balanced' or a dictionary"):
    MLPClassifier(class_weight="heavy").fit(X, LABELS)


@pytest.mark.slow
def test_dropout_is_for_fitting_only_and_by_the_seed():
  model = MLPClassifier(**SMALL, dropout=0.5)
  first, second, plain = (
    MLPClassifier(**{**SMALL, **more}).fit(X, LABELS)
    for more in ({"dropout": 0.5}, {"dropout": 0.5}, {})
  )
  np.testing.assert_array_equal(weights_of(first), weights_of(second))
  assert np.abs(weights_of(first) - weights_of(plain)).max() > 1e-4
  np.testing.assert_array_equal(first.predict_proba(X), first.predict_proba(X))
  hidden = np.maximum(X @ first.coefs_[0] + first.intercepts_[0], 0)
  logits = hidden @ first.coefs_[1] + first.intercepts_[1]
  odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_allclose(first.predict_proba(X), odds, rtol=1e-12)
  with pytest.raises(ValueError, match="dropout doesn't go with solver='lbfgs'"):
    model.set_params(solver="lbfgs").fit(X, LABELS)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_examples_gradient_is_clipped(weighted):
  """61 rows are padded: the bound is of the true rows' gradients."""
  y, weights = 3 * X[:, 0], RNG.uniform(0.5, 2, 61) if weighted else np.ones(61)
  arguments = {**SMALL, "solver": "sgd", "momentum": 0.0, "max_iter": 1, "alpha": 0.0}
  rate, bound = 0.1, 0.7
  model = MLPRegressor(**arguments, learning_rate_init=rate, clip_examples=bound)
  tiny = clone(model).set_params(learning_rate_init=1e-300).fit(X, y)
  model.fit(X, y, sample_weight=weights)
  with jax.enable_x64(True):
    net, params = tiny.net_, tiny.params_

    def loss(params, x, t):
      return 0.5 * ((net.forward(params, x[None])[0][0] - t) ** 2).sum()

    each = jax.vmap(jax.grad(loss), (None, 0, 0))(params, X, y[:, None])
    shares = len(X) * weights / weights.sum()
    flat = np.concatenate([np.asarray(g).reshape(61, -1) for g in jax.tree.leaves(each)], 1)
    flat *= shares[:, None]
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    assert (norms > bound).any()
    assert (norms < bound).any()
    mean = (flat * np.minimum(1, bound / norms)).mean(0)
    moved = [np.asarray(p).ravel() for p in jax.tree.leaves(params)]
    wanted = np.concatenate(moved) - rate * mean
    got = np.concatenate([np.asarray(p).ravel() for p in jax.tree.leaves(model.params_)])
  np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


def test_any_optimizer_of_optax():
  sgd = {**SMALL, "learning_rate_init": 0.05}
  like = MLPClassifier(**sgd, solver="sgd", momentum=0.0).fit(X, LABELS)
  for solver in (optax.sgd, optax.sgd(0.05)):
    model = MLPClassifier(**sgd, solver=solver).fit(X, LABELS)
    np.testing.assert_allclose(weights_of(model), weights_of(like), rtol=1e-9, atol=1e-12)
  decayed = functools.partial(optax.adamw, weight_decay=0.1)
  model = MLPClassifier(**SMALL, solver=decayed).fit(X, LABELS)
  again = clone(model).fit(X, LABELS)
  np.testing.assert_array_equal(weights_of(model), weights_of(again))
  # The state goes on, also in another process.
  after = [
    pickle.loads(pickle.dumps(model)).partial_fit(X, LABELS)  # noqa: S301
    for model in (model, pickle.loads(pickle.dumps(again)))  # noqa: S301
  ]
  np.testing.assert_array_equal(*map(weights_of, after))
  with pytest.raises(TypeError, match="solver must be adam, sgd, lbfgs, an optimizer of optax"):
    MLPClassifier(solver=0.1).fit(X, LABELS)


@pytest.mark.slow
@pytest.mark.parametrize(
  "activation", ["gelu", fb.gates.gelu, fb.gelu], ids=["name", "gate", "layer"]
)
def test_any_activation(activation):
  model = MLPClassifier(**SMALL, activation=activation).fit(X, LABELS)
  like = MLPClassifier(**SMALL, activation="gelu").fit(X, LABELS)
  np.testing.assert_array_equal(weights_of(model), weights_of(like))
  with jax.enable_x64(True):
    logits = model.net_.forward(model.params_, X)[0]
    odds = np.asarray(jax.nn.softmax(logits))
  np.testing.assert_allclose(model.predict_proba(X), odds, rtol=1e-12)
  assert model.net_.parts[1].name == "gelu"


def test_parts_of_a_fit_are_the_whole():
  """Of the epochs of partial_fit, after a pickle, and of those of a single fit."""
  parts = MLPClassifier(**SMALL, shuffle=False)
  for _ in range(5):
    parts.partial_fit(X, LABELS, classes=["a", "b", "c"])
    parts = pickle.loads(pickle.dumps(parts))  # noqa: S301
  whole = MLPClassifier(**SMALL, shuffle=False).fit(X, LABELS)
  np.testing.assert_array_equal(weights_of(parts), weights_of(whole))
  assert parts.loss_curve_ == whole.loss_curve_
  assert parts.t_ == whole.t_ == 5 * 61
  warm = MLPClassifier(**SMALL, warm_start=True).fit(X, LABELS)
  before = weights_of(warm)
  assert np.abs(weights_of(warm.fit(X, LABELS)) - before).max() > 0
  assert len(warm.loss_curve_) == 10
  with pytest.raises(ValueError, match="fit with warm_start=False"):
    warm.set_params(hidden_layer_sizes=(6,)).fit(X, LABELS)


@pytest.mark.slow
def test_a_search_compiles_one_program():
  """The folds have 40 and 41 rows, and each candidate other numbers."""
  epochs_of.cache_clear()
  grid = {"mlpclassifier__alpha": [1e-5, 0.1], "mlpclassifier__learning_rate_init": [1e-3, 0.1]}
  pipeline = make_pipeline(StandardScaler(), MLPClassifier(**SMALL))
  search = GridSearchCV(pipeline, grid, cv=3, refit=False).fit(X, LABELS)
  assert search.best_params_["mlpclassifier__learning_rate_init"] == 0.1
  assert epochs_of.cache_info().misses == 1
  spec = MLPClassifier(**SMALL).fit(X[:40], LABELS[:40])._spec((4, 5, 3), float)
  assert epochs_of(spec._replace(batch=64))._cache_size() == 1


def test_weights_are_routed_through_a_pipeline():
  weights = RNG.uniform(0.1, 2, 61)
  model = MLPClassifier(**SMALL)
  like = clone(model).fit(StandardScaler().fit_transform(X), LABELS, sample_weight=weights)
  with sklearn.config_context(enable_metadata_routing=True):
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    asking = model.set_fit_request(sample_weight=True)
    found = make_pipeline(scaler, asking).fit(X, LABELS, sample_weight=weights)
  np.testing.assert_array_equal(weights_of(found[-1]), weights_of(like))


def test_a_fit_changes_no_configuration():
  before = dict(jax.config.values)
  MLPClassifier(**SMALL).fit(X, LABELS).predict(X)
  assert dict(jax.config.values) == before
  assert jax.numpy.asarray(np.zeros(1)).dtype == np.float32


def test_rows_without_an_end_are_refused_and_diverged_weights():
  with pytest.raises(ValueError, match="contains NaN"):
    MLPClassifier().fit(np.where(X > 2, np.nan, X), LABELS)
  wild = MLPRegressor(**SMALL, solver="sgd", learning_rate_init=1e200)
  with pytest.raises(ValueError, match="non-finite parameter weights"):
    wild.fit(X, X[:, 0])


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    ({"alpha": -1}, "MLPClassifier: alpha must be a finite number of at least 0, got -1"),
    ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes\[1\] must be at least 1, got 0"),
    ({"activation": "gelo"}, "unknown value 'gelo' for activation; did you mean 'gelu'?"),
    ({"activation": np.tanh}, "activation must be a name, a Gate"),
    ({"solver": "adamw"}, "unknown value 'adamw' for solver"),
    ({"batch_size": "all"}, "unknown value 'all' for batch_size"),
    ({"n_iter_no_change": 0}, "n_iter_no_change must be at least 1, got 0"),
    ({"early_stopping": 1}, "early_stopping must be True or False, got int 1"),
    ({"clip_examples": 0.0}, "clip_examples must be"),
    ({"dropout": 1}, "dropout must be a number of at least 0 and below 1|dropout must be"),
  ],
)
def test_arguments_are_refused_by_name(arguments, said):
  with pytest.raises((ValueError, TypeError), match=said):
    MLPClassifier(**arguments).fit(X, LABELS)


def test_a_regression_is_refused_by_its_name():
  with pytest.raises(ValueError, match="unknown value 'absolute' for loss"):
    MLPRegressor(loss="absolute").fit(X, X[:, 0])
  with pytest.raises(ValueError, match="y must be at least 0 with loss='poisson', got -"):
    MLPRegressor(loss="poisson").fit(X, X[:, 0])
  with pytest.raises(ValueError, match="y must be in the range of X's float32"):
    MLPRegressor().fit(X.astype(np.float32), 1e300 * X[:, 0])


def test_interrupts_keep_the_epochs_before(monkeypatch):
  model = MLPClassifier(**{**SMALL, "max_iter": 50}, verbose=True)
  told = []

  def report(*run):
    told.append(run)
    if len(told) == 3:
      raise KeyboardInterrupt

  monkeypatch.setattr(model, "_report", report)
  with pytest.warns(UserWarning, match="interrupted"):
    model.fit(X, LABELS)
  whole = MLPClassifier(**{**SMALL, "max_iter": 3}).fit(X, LABELS)
  assert model.n_iter_ == 3
  np.testing.assert_array_equal(weights_of(model), weights_of(whole))


def test_logarithms_are_finite_where_probabilities_underflow():
  model = MLPClassifier(**SMALL).fit(X, LABELS)
  model.intercepts_[1] = np.array([0.0, 2000.0, 0.0])
  assert (model.predict_proba(X)[:, 0] == 0).all()
  logs = model.predict_log_proba(X)
  assert np.isfinite(logs).all()
  assert (logs[:, 0] < -1000).all()


@pytest.mark.slow
def test_without_scikit_learn_the_error_says_how_to_install_it():
  code = (
    "import sys; sys.modules['sklearn'] = None; import fbackprop as fb; fb.sklearn.MLPClassifier"
  )
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert "pip install 'fbackprop[data]'" in run.stderr
  assert "sklearn is not installed" in run.stderr


@pytest.mark.slow
def test_a_run_without_an_end_warns():
  with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(5\) reached"):
    MLPClassifier(**SMALL).fit(X, LABELS)
  with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge after 5"):
    MLPClassifier(**SMALL, solver="lbfgs").fit(X, LABELS)
  with pytest.warns(UserWarning, match="batch_size=100 is larger than the 61 rows"):
    MLPClassifier(**SMALL, batch_size=100).fit(X, LABELS)
