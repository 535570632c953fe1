"""`MLPClassifier`: one class, two classes, or several labels."""

from typing import Any

import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from fbackprop.errors import RangeError, describe
from fbackprop.sklearn.base import BaseMLP

from sklearn.base import ClassifierMixin  # isort: skip
from sklearn.utils import column_or_1d, compute_sample_weight  # isort: skip
from sklearn.utils.metaestimators import available_if  # isort: skip
from sklearn.utils.multiclass import check_classification_targets  # isort: skip
from sklearn.utils.multiclass import type_of_target, unique_labels  # isort: skip
from sklearn.utils.validation import validate_data  # isort: skip


class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]
  """A feedforward classifier with scikit-learn's interface and our compiled backward pass.

  With the same arguments and `random_state` it makes the run of scikit-learn's `MLPClassifier`, up
  to rounding: the same initial weights, validation set, batches and updates.

  Args:
    hidden_layer_sizes: widths of the hidden layers.
    activation: hidden activation: "identity", "logistic", "tanh", "relu", the name of any other
      activation of fbackprop, a `Gate` of `fbackprop.gates` or your own, or a `Layer`. Weights are
      drawn as scikit-learn draws those before relu (Glorot), whatever it is; before "logistic" they
      are smaller.
    solver: "adam", "sgd" or "lbfgs"; or an optimizer of optax, or a function of the learning rate
      that makes one, such as `optax.adamw`, which can be cloned and pickled.
    alpha: strength of the L2 penalty ½ α Σ w² / Σ weights of the batch, on weight matrices.
    batch_size: rows of a step; "auto" is 200, or all rows if they are fewer.
    learning_rate: "constant", "invscaling" or "adaptive"; for sgd.
    learning_rate_init: learning rate.
    power_t: exponent of "invscaling".
    max_iter: number of epochs, or of L-BFGS's iterations.
    shuffle: whether the rows are shuffled before each epoch.
    random_state: seed, `numpy.random.RandomState`, or None.
    tol: least improvement of the loss, or of the validation score; L-BFGS's tolerance.
    verbose: whether each epoch is printed.
    warm_start: whether `fit` continues from the fitted weights.
    momentum, nesterovs_momentum: of sgd.
    early_stopping: whether the score on a validation set decides when to stop, and which weights
      are kept.
    validation_fraction: fraction of the rows in the validation set.
    beta_1, beta_2, epsilon: of adam.
    n_iter_no_change: epochs without improvement before the end.
    max_fun: L-BFGS's number of evaluations.
    class_weight: None, "balanced", or a dictionary from labels to weights, which multiply the
      sample weights, as in other classifiers of scikit-learn.
    dropout: rate of the dropout after each hidden activation, while fitting.
    clip_examples: clip each example's gradient to this norm before averaging; None for no clipping.

  Attributes:
    classes_: the labels; of several labels their numbers.
    coefs_, intercepts_: the weights `[D_in, D_out]` and biases `[D_out]` of each layer, in NumPy.
    loss_: loss of the last epoch, with the penalty.
    loss_curve_: loss of each epoch.
    best_loss_: lowest loss; None with early stopping.
    validation_scores_, best_validation_score_: accuracy of each epoch; None without early stopping.
    n_iter_, t_: epochs, and rows seen.
    n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_: of the data and the
      network.
    net_, params_: the network and its parameters, for every function of fbackprop.

  Example:
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((16,), solver="lbfgs", random_state=0).fit(x, y)
    >>> bool(model.score(x, y) > 0.95)
    True
  """

  _score_name = "accuracy"

  def __init__(
    self,
    hidden_layer_sizes: Any = (100,),
    activation: Any = "relu",
    *,
    solver: Any = "adam",
    alpha: float = 0.0001,
    batch_size: Any = "auto",
    learning_rate: str = "constant",
    learning_rate_init: float = 0.001,
    power_t: float = 0.5,
    max_iter: int = 200,
    shuffle: bool = True,
    random_state: Any = None,
    tol: float = 1e-4,
    verbose: Any = False,
    warm_start: bool = False,
    momentum: float = 0.9,
    nesterovs_momentum: bool = True,
    early_stopping: bool = False,
    validation_fraction: float = 0.1,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    n_iter_no_change: float = 10,
    max_fun: int = 15000,
    class_weight: Any = None,
    dropout: float = 0.0,
    clip_examples: float | None = None,
  ) -> None:
    self._assign(locals())

  # --- Fitting ------------------------------------------------------------------------------------

  @available_if(lambda self: self._is_stochastic())  # type: ignore[untyped-decorator]
  def partial_fit(
    self,
    X: Any,  # noqa: N803
    y: Any,
    sample_weight: Any = None,
    classes: Any = None,
  ) -> Any:
    """Take one epoch over the given rows, from the fitted weights and the solver's state.

    Args:
      X, y, sample_weight: as of `fit`.
      classes: all labels of all calls; needed by the first one.

    Returns:
      The estimator.

    Raises:
      TypeError, ValueError: as `fit`; the first call has no classes, or a later one has others.
    """
    if classes is None and not hasattr(self, "classes_"):
      raise ValueError("classes must be passed on the first call to partial_fit.")
    if classes is not None:
      known = unique_labels(classes)
      if not hasattr(self, "classes_"):
        self._learn(y if type_of_target(y).startswith("multilabel") else classes)
      elif not np.array_equal(known, self.classes_):
        said = f"`classes={classes!r}` is not the same as on last call to partial_fit"
        raise ValueError(f"{said}, was: {self.classes_!r}")
    return self._fit(X, y, sample_weight, True)

  def _more(self, incremental: bool) -> None:
    where, given = "MLPClassifier", self.class_weight
    if not (given is None or given == "balanced" or isinstance(given, dict | list)):
      problem = f"must be None, 'balanced' or a dictionary, got {describe(given)}"
      raise RangeError(problem, "class_weight", where)
    if incremental and isinstance(given, str):
      why = "as the frequencies of all rows aren't known; give a dictionary"
      raise RangeError(f"'balanced' doesn't go with partial_fit, {why}", "class_weight", where)

  def _learn(self, y: Any) -> None:
    kind = type_of_target(y, input_name="y")
    if kind == "multiclass-multioutput":
      raise ValueError("y must be labels [N], or an indicator matrix of zeros and ones [N, C]")
    self.classes_ = unique_labels(y)
    # Of two classes, or of one, there is a single output.
    self._kind = kind if kind == "multilabel-indicator" or len(self.classes_) > 2 else "binary"

  def _validated(self, X: Any, y: Any, incremental: bool, reset: bool) -> Any:  # noqa: N803
    X, y = validate_data(  # noqa: N806
      self, X, y, accept_sparse=["csr", "csc"], multi_output=True,
      dtype=(np.float64, np.float32), reset=reset,
    )  # fmt: skip
    check_classification_targets(y)
    if y.ndim == 2 and y.shape[1] == 1:
      y = column_or_1d(y, warn=True)
    if not hasattr(self, "classes_") or not (self.warm_start or incremental):
      self._learn(y)
    else:
      self._check_classes(unique_labels(y))
    if self._kind == "multilabel-indicator":
      return X, np.asarray(y, X.dtype), y
    labels = np.searchsorted(self.classes_, y)
    if self._kind == "binary":
      return X, labels.astype(X.dtype)[:, None], y
    return X, labels.astype(np.int32), y

  def _check_classes(self, classes: np.ndarray) -> None:
    if self.warm_start:
      if set(classes) != set(self.classes_):
        raise ValueError(
          "warm_start can only be used where `y` has the same classes as in the previous call to "
          f"fit. Previously got {self.classes_}, `y` has {classes}"
        )
    elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
      raise ValueError(
        f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has "
        f"{classes}."
      )

  def _outputs_of(self, targets: np.ndarray) -> tuple[int, str]:
    if targets.ndim == 1:
      return len(self.classes_), "softmax"
    return targets.shape[1], "logistic"

  def _strata(self, targets: np.ndarray) -> Any:
    return targets.astype(bool) if targets.shape[1:] == (1,) else None

  def _weights(self, where: str, y: Any, sample_weight: Any, x: Any) -> np.ndarray | None:
    weights = super()._weights(where, y, sample_weight, x)
    if self.class_weight is None:
      return weights
    own = compute_sample_weight(self.class_weight, y).astype(x.dtype)
    return own if weights is None else weights * own

  # --- Using the result ---------------------------------------------------------------------------

  def predict(self, X: Any) -> np.ndarray:  # noqa: N803
    """Predict the labels `[N]`, or several labels `[N, C]` as 0 and 1."""
    z = self._outputs(X)
    if self._kind == "multilabel-indicator":
      return (z > 0).astype(int)
    chosen = z.argmax(1) if self._kind == "multiclass" else (z[:, 0] > 0).astype(int)
    return np.asarray(self.classes_.take(chosen))

  def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
    """Predict the probabilities of the classes, or of each label by itself, `[N, C]`."""
    return self._chances(X, expit, softmax)

  def predict_log_proba(self, X: Any) -> np.ndarray:  # noqa: N803
    """Predict the logarithms of the probabilities, finite where a probability underflows."""
    return self._chances(X, log_expit, log_softmax)

  def _chances(self, X: Any, of_one: Any, of_all: Any) -> np.ndarray:  # noqa: N803
    z = self._outputs(X)
    if self.out_activation_ == "softmax":
      return np.asarray(of_all(z, axis=1))
    return np.asarray(of_one(z if self._kind == "multilabel-indicator" else np.hstack([-z, z])))

  def __sklearn_tags__(self) -> Any:
    tags = super().__sklearn_tags__()
    tags.classifier_tags.multi_label = True
    return tags
