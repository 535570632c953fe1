"""`MLPRegressor`: one value or several, by squared errors or the deviance of counts."""

from typing import Any

import numpy as np

from fbackprop.errors import RangeError, check_choice
from fbackprop.sklearn.base import BaseMLP

from sklearn.base import RegressorMixin  # isort: skip
from sklearn.utils import column_or_1d  # isort: skip
from sklearn.utils.metaestimators import available_if  # isort: skip
from sklearn.utils.validation import validate_data  # isort: skip


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
  """A feedforward regressor with scikit-learn's interface and our compiled backward pass.

  With the same arguments and `random_state` it makes the run of scikit-learn's `MLPRegressor`, up
  to rounding.

  Args:
    loss: "squared_error", ½ Σ_c (y − t)² per row, or "poisson", half the deviance, of predictions
      e^z and targets of at least 0.
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init,
      power_t, max_iter, shuffle, random_state, tol, verbose, warm_start, momentum,
      nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon,
      n_iter_no_change, max_fun, dropout, clip_examples: as of `MLPClassifier`; the validation score
      is R².

  Attributes: as of `MLPClassifier`, without `classes_`. The squared error in `loss_` is the mean
    over the outputs, as scikit-learn's.

  Example:
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(hidden_layer_sizes=(16,), activation="gelu", solver="lbfgs", alpha=0)
    >>> bool(model.set_params(random_state=0).fit(x, x[:, 0] ** 2).score(x, x[:, 0] ** 2) > 0.99)
    True
  """

  _score_name = "r2"

  def __init__(
    self,
    loss: str = "squared_error",
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
    dropout: float = 0.0,
    clip_examples: float | None = None,
  ) -> None:
    self._assign(locals())

  @available_if(lambda self: self._is_stochastic())  # type: ignore[untyped-decorator]
  def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803
    """Take one epoch over the given rows, from the fitted weights and the solver's state.

    Args, Returns, Raises: as `fit`.
    """
    return self._fit(X, y, sample_weight, True)

  def _more(self, incremental: bool) -> None:
    check_choice("MLPRegressor", "loss", self.loss, ("squared_error", "poisson"))

  def _validated(self, X: Any, y: Any, incremental: bool, reset: bool) -> Any:  # noqa: N803
    X, y = validate_data(  # noqa: N806
      self, X, y, accept_sparse=["csr", "csc"], multi_output=True, y_numeric=True,
      dtype=(np.float64, np.float32), reset=reset,
    )  # fmt: skip
    if y.ndim == 2 and y.shape[1] == 1:
      y = column_or_1d(y, warn=True)
    with np.errstate(over="ignore"):
      targets = y.astype(X.dtype)
    if not np.isfinite(targets).all():
      raise RangeError("must be in the range of X's float32, or X float64", "y", "MLPRegressor")
    if self.loss == "poisson" and (targets < 0).any():
      problem = f"must be at least 0 with loss='poisson', got {targets.min()}"
      raise RangeError(problem, "y", "MLPRegressor")
    return X, targets[:, None] if targets.ndim == 1 else targets, y

  def _outputs_of(self, targets: np.ndarray) -> tuple[int, str]:
    return targets.shape[1], "exp" if self.loss == "poisson" else "identity"

  def _strata(self, targets: np.ndarray) -> Any:
    return None

  def predict(self, X: Any) -> np.ndarray:  # noqa: N803
    """Predict the values `[N]`, or `[N, C]` of several targets."""
    z = self._outputs(X)
    values = np.exp(z) if self.out_activation_ == "exp" else z
    return values[:, 0] if values.shape[1] == 1 else values

  def __sklearn_tags__(self) -> Any:
    tags = super().__sklearn_tags__()
    tags.target_tags.multi_output = True
    return tags
