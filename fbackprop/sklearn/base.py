"""What both estimators share: arguments, and a fit by epochs or by L-BFGS."""

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fbackprop.errors import RangeError, ShapeError, check_choice, check_that, describe
from fbackprop.extras import need
from fbackprop.ranges import COUNT, NONNEGATIVE, POSITIVE, RANGES, SHARE, Range, check_range

need("sklearn", extra="data")

import scipy.sparse  # noqa: E402
from sklearn.base import BaseEstimator  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.utils import check_array, check_random_state  # noqa: E402
from sklearn.utils.validation import check_is_fitted, validate_data  # noqa: E402

from fbackprop.sklearn import fitting  # noqa: E402
from fbackprop.sklearn.programs import ACTIVATIONS, Data, Numbers, Run, Spec, network  # noqa: E402
from fbackprop.sklearn.solvers import Constants, solver_key, solver_of  # noqa: E402
from fbackprop.types import Gate, Layer, Params  # noqa: E402

ALLOWED = {
  "alpha": NONNEGATIVE,
  "learning_rate_init": POSITIVE,
  "power_t": NONNEGATIVE,
  "max_iter": COUNT,
  "tol": NONNEGATIVE,
  "momentum": Range(float, 0, 1),
  "validation_fraction": SHARE,
  "beta_1": SHARE,
  "beta_2": SHARE,
  "epsilon": POSITIVE,
  "max_fun": COUNT,
  "dropout": SHARE,
}
FLAGS = ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping")
NOT_FINITE = (
  "Solver produced non-finite parameter weights. The input data may contain large values and need"
  " to be preprocessed."
)


@dataclass
class SolverState:
  """The state of a solver between calls of `partial_fit`, in arrays of NumPy.

  Attributes:
    learning_rate: the current rate.
    state: the solver's own.
    steps: steps taken.
  """

  learning_rate: float
  state: Any
  steps: int


class BaseMLP(BaseEstimator):  # type: ignore[misc]
  """The arguments are those of `MLPClassifier`."""

  # --- Arguments ----------------------------------------------------------------------------------

  def _assign(self, given: dict[str, Any]) -> None:
    """Set the arguments of a constructor, its `locals()`, as attributes, unchanged."""
    for name in given.keys() - {"self", "__class__"}:
      setattr(self, name, given[name])

  def _check_arguments(self) -> None:
    where = type(self).__name__
    for name, allowed in ALLOWED.items():
      check_range(where, name, getattr(self, name), allowed)
    for name in FLAGS:
      value = getattr(self, name)
      check_that(where, name, value, isinstance(value, bool | np.bool_), "be True or False")
    if self.n_iter_no_change != math.inf:
      check_range(where, "n_iter_no_change", self.n_iter_no_change, COUNT)
    if not isinstance(self.batch_size, str):
      check_range(where, "batch_size", self.batch_size, COUNT)
    else:
      check_choice(where, "batch_size", self.batch_size, ("auto",))
    if self.clip_examples is not None:
      check_range(where, "clip_examples", self.clip_examples, RANGES["clip_examples"])
    check_choice(where, "learning_rate", self.learning_rate,
                 ("constant", "invscaling", "adaptive"))  # fmt: skip
    if isinstance(self.solver, str):
      check_choice(where, "solver", self.solver, ("adam", "sgd", "lbfgs"))
    if isinstance(self.activation, str):
      check_choice(where, "activation", self.activation, ACTIVATIONS)
    else:
      wanted = "be a name, a Gate of fbackprop.gates, or a Layer such as fbackprop.gelu"
      is_unit = isinstance(self.activation, Gate | Layer)
      check_that(where, "activation", self.activation, is_unit, wanted)
    if self.solver == "lbfgs":
      for name, off in (("dropout", 0), ("clip_examples", None)):
        if (value := getattr(self, name)) != off:
          why = "which needs the gradient of one fixed loss; use adam or sgd"
          raise RangeError(f"doesn't go with solver='lbfgs', {why}; got {value}", name, where)

  def _hidden(self) -> tuple[int, ...]:
    sizes = self.hidden_layer_sizes
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    for k, size in enumerate(sizes):
      check_range(type(self).__name__, f"hidden_layer_sizes[{k}]", size, COUNT)
    return tuple(map(int, sizes))

  def _is_stochastic(self) -> bool:
    if self.solver == "lbfgs":
      raise AttributeError("partial_fit needs a solver that goes by batches, and not lbfgs")
    return True

  def _more(self, incremental: bool) -> None:
    """Raise for what a subclass refuses."""

  # --- Fitting ------------------------------------------------------------------------------------

  def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # noqa: N803
    """Fit the model.

    Args:
      X: rows `[N, D]`: an array, a DataFrame or a sparse matrix, which is made dense. float32 is
        computed in float32, everything else in float64, as by scikit-learn.
      y: labels `[N]` or an indicator matrix `[N, C]` of a classifier, values `[N]` or `[N, C]` of a
        regressor.
      sample_weight: weights `[N]` of the rows; None for equal ones.

    Returns:
      The estimator.

    Raises:
      TypeError, ValueError: an argument or the data are invalid, or a parameter isn't finite at the
        end.
    """
    return self._fit(X, y, sample_weight, False)

  def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:  # noqa: N803
    where = type(self).__name__
    self._check_arguments()
    self._more(incremental)
    hidden = self._hidden()
    fresh = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
    X, targets, raw = self._validated(X, y, incremental, fresh)  # noqa: N806
    weights = self._weights(where, raw, sample_weight, X)
    if incremental and self.early_stopping:
      raise ValueError("partial_fit does not support early_stopping=True")
    self.n_outputs_, self.out_activation_ = self._outputs_of(targets)
    sizes = (X.shape[1], *hidden, self.n_outputs_)
    rng = check_random_state(self.random_state)
    if fresh:
      self._begin(rng, sizes, X.dtype)
    shapes = [np.shape(w) for w in self.coefs_]
    if shapes != list(itertools.pairwise(sizes)):
      got = f"the fitted weights are {shapes}"
      raise ShapeError(
        f"{where}: the network is {list(sizes)}, and {got}; fit with warm_start=False"
      )
    dense = X.toarray() if scipy.sparse.issparse(X) else X
    with fitting.precision(dense.dtype):
      if self.solver == "lbfgs":
        self._fit_lbfgs(dense, targets, weights, sizes)
      else:
        self._fit_epochs(dense, targets, weights, sizes, rng, incremental)
    if not fitting.is_finite((self.coefs_, self.intercepts_)):
      raise ValueError(NOT_FINITE)
    return self

  def _begin(self, rng: np.random.RandomState, sizes: tuple[int, ...], dtype: Any) -> None:
    self.n_iter_ = self.t_ = 0
    self.n_layers_ = len(sizes)
    gain = 2.0 if self.activation in ("logistic", "sigmoid") else 6.0
    self.coefs_, self.intercepts_ = fitting.draw_params(rng, sizes, gain, dtype)
    for name in ("_optimizer", "_best"):
      if hasattr(self, name):
        delattr(self, name)
    if self.solver != "lbfgs":
      self.loss_curve_: list[float] = []
      self._no_improvement_count = 0
      stops = self.early_stopping
      self.validation_scores_: Any = [] if stops else None
      self.best_validation_score_: Any = -math.inf if stops else None
      self.best_loss_: Any = None if stops else math.inf

  def _weights(self, where: str, y: Any, sample_weight: Any, x: Any) -> np.ndarray | None:
    if sample_weight is None:
      return None
    weights = check_array(
      np.full(x.shape[0], sample_weight) if np.isscalar(sample_weight) else sample_weight,
      ensure_2d=False, dtype=x.dtype, input_name="sample_weight",
    )  # fmt: skip
    if weights.shape != (x.shape[0],):
      raise ShapeError(f"must be [{x.shape[0]}], got {describe(weights)}", "sample_weight", where)
    if not weights.any():
      raise RangeError("must contain at least one non-zero number", "sample_weight", where)
    return np.asarray(weights)

  def _spec(self, sizes: tuple[int, ...], dtype: Any, **more: Any) -> Spec:
    key = solver_key(type(self).__name__, self.solver, self.nesterovs_momentum)
    width = fitting.padded_width(sizes[0], isinstance(key, str))
    name = np.dtype(dtype).name
    return Spec((width, *sizes[1:]), self.activation, self.out_activation_, name, **more)

  def _numbers(self, dtype: Any) -> Numbers:
    of = np.dtype(dtype).type
    constants = Constants(*map(of, (self.beta_1, self.beta_2, self.epsilon, self.momentum)))
    clip = 0.0 if self.clip_examples is None else self.clip_examples
    return Numbers(
      of(self.alpha), of(self.learning_rate_init), of(self.power_t), of(self.tol),
      of(self.n_iter_no_change), of(clip), of(self.t_), constants,
    )  # fmt: skip

  def _fit_epochs(
    self, x: np.ndarray, targets: np.ndarray, weights: Any, sizes: tuple[int, ...],
    rng: np.random.RandomState, incremental: bool,
  ) -> None:  # fmt: skip
    dtype, held = x.dtype, None
    if self.early_stopping:
      (x, targets, weights), held = self._split(x, targets, weights, rng)
    n = len(x)
    batch = min(200, n) if self.batch_size == "auto" else self.batch_size
    if batch > n:
      warnings.warn(f"batch_size={batch} is larger than the {n} rows: it is {n}", stacklevel=4)
    spec = self._spec(
      sizes, dtype, dropout=float(self.dropout),
      solver=solver_key("", self.solver, self.nesterovs_momentum),
      schedule=self.learning_rate if self.solver == "sgd" else "constant",
      # A batch of all rows is padded as they are.
      batch=int(batch) if batch < n else fitting.padded_count(n),
      clips=self.clip_examples is not None,
      validation=self._score_name if self.early_stopping else "",
    )  # fmt: skip
    numbers, of = self._numbers(dtype), np.dtype(dtype).type
    params = fitting.pack(spec, self.coefs_, self.intercepts_)
    if incremental and hasattr(self, "_optimizer"):
      own = self._optimizer
      state = jax.tree.map(lambda a: a.astype(dtype) if a.dtype.kind == "f" else a, own.state)
    else:
      own = SolverState(float(self.learning_rate_init), None, 0)
      state = solver_of(spec.solver).init(params, of(self.learning_rate_init))
    best = None
    if held is not None:
      kept = fitting.pack(spec, *getattr(self, "_best", (self.coefs_, self.intercepts_)))
      best = (kept, of(self.best_validation_score_))
    run = Run(
      params, state, np.int32(own.steps), np.int32(0), of(own.learning_rate),
      np.int32(self._no_improvement_count),
      of(math.inf if self.best_loss_ is None else self.best_loss_), np.bool_(False), best,
    )  # fmt: skip
    draws = network(spec).draws  # Otherwise nothing is drawn, as by scikit-learn.
    key = jax.random.key(rng.randint(np.iinfo(np.int32).max)) if draws else None
    course = fitting.run_epochs(
      spec, run, fitting.make_data(spec, x, targets, weights),
      None if held is None else fitting.make_data(spec, *held), numbers, key, rng,
      most=1 if incremental else self.max_iter, shuffles=self.shuffle,
      report=self._report if self.verbose else None,
    )  # fmt: skip
    self._take(course, n, sizes[0])
    if course.is_interrupted:
      warnings.warn("Training interrupted by user.", stacklevel=4)
    elif not (incremental or course.run.stopped):
      said = f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't converged"
      warnings.warn(f"{said} yet: raise max_iter", ConvergenceWarning, stacklevel=4)

  def _take(self, course: fitting.Course, n: int, d: int) -> None:
    """Set the attributes that scikit-learn's estimator has after its epochs."""
    run = course.run
    self.n_iter_ = len(course.losses)
    self.t_ += n * self.n_iter_
    self.loss_curve_ += course.losses
    if course.losses:
      self.loss_ = course.losses[-1]
    self._no_improvement_count = int(run.idle)
    state = jax.tree.map(np.asarray, run.solver)
    self._optimizer = SolverState(float(run.rate), state, int(run.steps))
    self.coefs_, self.intercepts_ = fitting.unpack(run.params, d)
    if self.early_stopping and run.best is not None:
      self.validation_scores_ += course.scores
      self.best_validation_score_ = float(run.best[1])
      self._best = fitting.unpack(run.best[0], d)
      self.coefs_, self.intercepts_ = ([a.copy() for a in part] for part in self._best)
    else:
      self.best_loss_ = float(run.least)

  def _report(self, run: Run, losses: list[float], scores: list[float]) -> None:
    print(f"Iteration {len(losses)}, loss = {losses[-1]:.8f}")
    if run.best is not None:
      print(f"Validation score: {scores[-1]:f}")
    what = "Training loss" if run.best is None else "Validation score"
    if run.stopped:
      said = f"did not improve more than tol={self.tol:f} for {self.n_iter_no_change} epochs"
      print(f"{what} {said}. Stopping.")

  def _split(
    self, x: np.ndarray, targets: np.ndarray, weights: Any, rng: np.random.RandomState
  ) -> Any:
    """Split off the rows that scikit-learn would; return (x, targets, weights) of both parts."""
    parts = train_test_split(
      np.arange(len(x)), random_state=rng, test_size=self.validation_fraction,
      stratify=self._strata(targets),
    )  # fmt: skip
    if len(parts[1]) < 2:
      raise ValueError(
        "The validation set is too small. Increase 'validation_fraction' or the size of your "
        "dataset."
      )
    return [[None if a is None else a[rows] for a in (x, targets, weights)] for rows in parts]

  def _fit_lbfgs(
    self, x: np.ndarray, targets: np.ndarray, weights: Any, sizes: tuple[int, ...]
  ) -> None:
    spec = self._spec(sizes, x.dtype)
    data: Data = fitting.make_data(spec, x, targets, weights)
    params, self.loss_, result = fitting.minimize(
      spec, fitting.pack(spec, self.coefs_, self.intercepts_), data, self._numbers(x.dtype),
      verbose=bool(self.verbose), maxfun=self.max_fun, maxiter=self.max_iter, gtol=self.tol,
    )  # fmt: skip
    self.n_iter_ = min(int(result.nit), self.max_iter)
    self.coefs_, self.intercepts_ = fitting.unpack(params, sizes[0])
    if result.status:
      said = f"lbfgs failed to converge after {self.n_iter_} iterations: {result.message}"
      more = "raise max_iter or max_fun, or scale the data"
      warnings.warn(f"{said}; {more}", ConvergenceWarning, stacklevel=4)

  # --- Using the result ---------------------------------------------------------------------------

  def _outputs(self, X: Any) -> np.ndarray:  # noqa: N803
    """Compute logits, values, or logarithms of rates, `[N, C]`."""
    check_is_fitted(self)
    X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)  # noqa: N806
    dtype = np.result_type(X.dtype, self.coefs_[0].dtype)
    X = X.tocsr() if scipy.sparse.issparse(X) else X  # noqa: N806
    with fitting.precision(dtype):
      spec = self._spec((X.shape[1], *(len(b) for b in self.intercepts_)), dtype)
      return fitting.outputs(spec, fitting.pack(spec, self.coefs_, self.intercepts_), X)

  @property
  def net_(self) -> Layer:
    """The fitted network, for every function of fbackprop; its outputs are logits or values."""
    return network(self._exact())

  @property
  def params_(self) -> Params:
    """The parameters of `net_`; float64 ones need x64."""
    params = fitting.pack(self._exact(), self.coefs_, self.intercepts_)
    return jax.tree.map(jax.numpy.asarray, params)

  def _exact(self) -> Spec:
    check_is_fitted(self)
    sizes = (self.n_features_in_, *(len(b) for b in self.intercepts_))
    spec = self._spec(sizes, self.coefs_[0].dtype, dropout=float(self.dropout))
    return spec._replace(sizes=sizes)

  def __sklearn_tags__(self) -> Any:
    tags = super().__sklearn_tags__()
    tags.input_tags.sparse = True
    return tags
