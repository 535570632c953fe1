"""The compiled programs of the estimators: epochs, the objective of L-BFGS, and predictions.

A program belongs to a `Spec`, and is compiled once for each shape. All numbers of scikit-learn's
arguments are traced, and the rows are padded to few sizes, so that folds and grids of a search
share it.

Method: as scikit-learn, an epoch takes batches of rows in a shuffled order, the last batch being
what remains; its order is drawn on the host, by NumPy's generator, as scikit-learn draws it. A row
of padding has the weight 0. The epochs and the steps of an epoch are two nested loops; at the end
of an epoch the loss, or the score on the validation set, decides whether the run stops.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from fbackprop import losses
from fbackprop.layers import activations
from fbackprop.layers.dense import DenseParams
from fbackprop.networks import mlp
from fbackprop.quantities import captured
from fbackprop.quantities._compute import captured_pass
from fbackprop.quantities.clipping import clipping_factors, weighted_gradient
from fbackprop.sklearn.solvers import Constants, solver_of
from fbackprop.train.step import after_backward
from fbackprop.transforms import nonzero, value_and_grad
from fbackprop.types import Array, Gate, Layer, Loss, Params, Residuals

# By scikit-learn's name of the output activation, which the loss contains.
OUTPUTS = ("softmax", "logistic", "identity", "exp")
# The smallest rate that scikit-learn's schedule "adaptive" divides.
LEAST_RATE = 1e-6


class Spec(NamedTuple):
  """What a program is compiled for, besides the shapes.

  Attributes:
    sizes: widths of the network.
    activation: name, `Gate` or `Layer`.
    output: scikit-learn's name of the output activation.
    dtype: "float32" or "float64".
    dropout: rate after each hidden activation.
    solver: key of the solver.
    schedule: "constant", "invscaling" or "adaptive".
    batch: rows of a step.
    clips: whether each example's gradient is clipped.
    validation: "accuracy" or "r2" for early stopping by it; "" for none.
  """

  sizes: tuple[int, ...]
  activation: Any
  output: str
  dtype: str
  dropout: float = 0.0
  solver: Any = "adam"
  schedule: str = "constant"
  batch: int = 1
  clips: bool = False
  validation: str = ""


class Data(NamedTuple):
  """Padded rows: x `[N', D]`, targets `[N', ...]`, weights `[N']`; the number n of true ones."""

  x: Any
  targets: Any
  weights: Any
  n: Any


class Numbers(NamedTuple):
  """The numbers of a fit, traced, `[]` each: scikit-learn's arguments, and t_ before the first
  epoch."""

  alpha: Any
  rate: Any
  power_t: Any
  tol: Any
  patience: Any
  clip_examples: Any
  seen: Any
  constants: Constants


class Run(NamedTuple):
  """The state of a fit.

  Attributes:
    params: the parameters.
    solver: state of the solver.
    steps: steps taken, also by earlier fits of `partial_fit`.
    epochs: epochs taken.
    rate: learning rate.
    idle: consecutive epochs without improvement.
    least: lowest loss of an epoch.
    stopped: whether a stop rule fired.
    best: the parameters and the score of the best epoch on the validation set, or None.
  """

  params: Params
  solver: Any
  steps: Any
  epochs: Any
  rate: Any
  idle: Any
  least: Any
  stopped: Any
  best: Any = None


# --- The network ----------------------------------------------------------------------------------


def layer_of(activation: Any) -> Layer:
  """Return the layer of an activation, which is a name, a gate or a layer."""
  if isinstance(activation, str):
    return ACTIVATIONS[activation]
  return activations.activation(activation) if isinstance(activation, Gate) else activation


ACTIVATIONS = {
  name: layer
  for name, layer in vars(activations).items()
  if isinstance(layer, Layer) and "gate" in dict(layer.options)
} | {"logistic": activations.sigmoid}


@lru_cache(maxsize=256)
def network(spec: Spec) -> Layer:
  """Build the network; its outputs are logits, values, or logarithms of rates."""
  return mlp(
    spec.sizes, layer_of(spec.activation), dropout=spec.dropout, dtype=jnp.dtype(spec.dtype)
  )


@lru_cache(maxsize=256)
def structure_of(spec: Spec) -> Any:
  """Return the tree structure of the network's parameters, whose leaves are w, b, w, b, ..."""
  return jax.tree.structure(jax.eval_shape(network(spec).init, jax.random.key(0)))


def poisson_deviance_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = Σ_c t log(t / e^z) − t + e^z, scikit-learn's half deviance."""
  value, rows = losses.poisson_nll.forward(outputs, targets)
  return value + (xlogy(targets, targets) - targets).sum(1), rows


poisson_deviance = Loss("poisson_deviance", poisson_deviance_forward, losses.poisson_nll.backward)

LOSSES = {
  "softmax": losses.softmax_cross_entropy,
  "logistic": losses.sigmoid_cross_entropy,
  "identity": losses.squared_error,
  "exp": poisson_deviance,
}


def scale_of_loss(spec: Spec) -> float:
  """Return the factor of the loss that scikit-learn reports: of squared errors it is the mean."""
  return 1 / spec.sizes[-1] if spec.output == "identity" else 1.0


def make_gradient(spec: Spec) -> Callable[..., tuple[Array, Params]]:
  """Build the gradient of the mean loss of a batch.

  Returns:
    `f(params, x, targets, key, weights, count, max_norm) -> (loss, grads)`; of the rows `count` are
    true ones, whose gradients are clipped to `max_norm` if the spec says so.
  """
  net, loss = network(spec), LOSSES[spec.output]
  plain_pass = value_and_grad(net, loss)

  def gradient(
    params: Params, x: Array, targets: Array, key: Any, weights: Array, count: Array, max_norm: Any
  ) -> tuple[Array, Params]:
    if not spec.clips:
      value, grads = plain_pass(params, x, targets, key=key, weights=weights)
      return value, grads
    args = (params, x, targets, key, weights)
    value, factors = captured_pass("fit", captured(net), loss, *args)
    # The factors are those of N' w_i / Σ w, and an example's gradient is of n w_i / Σ w.
    bound = max_norm * (x.shape[0] / count)
    shares = clipping_factors(factors, bound) / x.shape[0]
    return value, weighted_gradient(factors, shares)

  return gradient


def add_penalty(params: Params, grads: Params, factor: Array) -> tuple[Array, Params]:
  """Return ½ `factor` Σ w² over the weight matrices, and the gradient with its own, `factor` w."""

  def is_dense(node: Any) -> bool:
    return isinstance(node, DenseParams)

  squares = [
    jnp.vdot(node.w, node.w) for node in jax.tree.leaves(params, is_leaf=is_dense) if is_dense(node)
  ]
  added = jax.tree.map(
    lambda g, p: DenseParams(g.w + factor * p.w, g.b), grads, params, is_leaf=is_dense
  )
  return 0.5 * factor * sum(squares), added


# --- Epochs ---------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def epochs_of(spec: Spec) -> Any:
  """Compile epochs of a fit.

  Returns:
    `run(run, data, validation, orders, limit, numbers, key) -> (run, losses, scores)`: at most
    `limit` epochs, in the orders `[E, N'']` of the rows; `losses` and `scores` are `[E]`, undefined
    for epochs that weren't taken.
  """
  gradient, solver, batch = make_gradient(spec), solver_of(spec.solver), spec.batch
  draws, score = network(spec).draws, make_score(spec)

  def take_epoch(
    run: Run, data: Data, order: Array, numbers: Numbers, key: Any
  ) -> tuple[Params, Any, Array, Array]:
    def take_step(place: Array, carry: Any) -> Any:
      params, state, taken, total = carry
      start = place * batch
      rows = jax.lax.dynamic_slice_in_dim(order, start, batch)
      x, targets, weights = (a.at[rows].get(mode="promise_in_bounds") for a in data[:3])
      inside = start + jnp.arange(batch, dtype=jnp.int32) < data.n
      weights = jnp.where(inside, weights, jnp.zeros_like(weights))
      count = jnp.minimum(data.n - start, batch).astype(weights.dtype)
      own = jax.random.fold_in(key, taken) if draws else None
      value, grads = gradient(params, x, targets, own, weights, count, numbers.clip_examples)
      grads = after_backward(grads, value)
      penalty, grads = add_penalty(params, grads, numbers.alpha / nonzero(weights.sum()))
      loss = value * scale_of_loss(spec) + penalty
      params, state = solver.update(grads, state, params, run.rate, numbers.constants, loss)
      return params, state, taken + 1, total + loss * count

    steps = (data.n + batch - 1) // batch
    zero = jnp.zeros((), spec.dtype)
    return jax.lax.fori_loop(0, steps, take_step, (run.params, run.solver, run.steps, zero))

  def account(run: Run, loss: Array, value: Array, n: Array, numbers: Numbers) -> Run:
    """Count idle epochs, set the rate, and decide whether to stop; NaN counts as improvement."""
    if spec.validation:
      best_params, best = run.best
      is_idle = value < best + numbers.tol
      is_best = value > best
      kept = jax.tree.map(
        lambda new, old: jnp.where(is_best, new, old), (run.params, value), (best_params, best)
      )
      run = run._replace(best=kept)
    else:
      is_idle = loss > run.least - numbers.tol
      run = run._replace(least=jnp.where(loss < run.least, loss, run.least))
    idle = jnp.where(is_idle, run.idle + 1, 0)
    rate, is_over = run.rate, idle.astype(numbers.patience.dtype) > numbers.patience
    stopped = is_over
    if spec.schedule == "invscaling":
      seen = numbers.seen + (n * (run.epochs + 1)).astype(rate.dtype)
      rate = numbers.rate / (seen + 1) ** numbers.power_t
    if spec.schedule == "adaptive":
      stopped = is_over & (rate <= LEAST_RATE)
      lowers = is_over & ~stopped
      rate, idle = jnp.where(lowers, rate / 5, rate), jnp.where(lowers, 0, idle)
    return run._replace(epochs=run.epochs + 1, rate=rate, idle=idle, stopped=stopped)

  @jax.jit
  def epochs(
    run: Run, data: Data, validation: Any, orders: Array, limit: Array, numbers: Numbers, key: Any
  ) -> tuple[Run, Array, Array]:
    first = run.epochs

    def goes_on(carry: Any) -> Array:
      run = carry[0]
      return ~run.stopped & (run.epochs - first < limit)

    def one(carry: Any) -> Any:
      run, losses, scores = carry
      at = run.epochs - first
      order = jax.lax.dynamic_index_in_dim(orders, at, keepdims=False)
      params, state, taken, total = take_epoch(run, data, order, numbers, key)
      loss = total / data.n.astype(total.dtype)
      run = run._replace(params=params, solver=state, steps=taken)
      value = score(params, validation) if spec.validation else loss
      run = account(run, loss, value, data.n, numbers)
      put = jax.lax.dynamic_update_index_in_dim
      return run, put(losses, loss, at, 0), put(scores, value, at, 0)

    empty = jnp.zeros(orders.shape[0], spec.dtype)
    return jax.lax.while_loop(goes_on, one, (run, empty, empty))

  return epochs


def make_score(spec: Spec) -> Callable[[Params, Data], Array]:
  """Build the score on the validation set, as scikit-learn's accuracy or R², `[]`."""
  net = network(spec)

  def accuracy(params: Params, data: Data) -> Array:
    outputs = net.forward(params, data.x)[0]
    if spec.output == "softmax":
      right = outputs.argmax(1).astype(data.targets.dtype) == data.targets
    else:
      right = ((outputs > 0) == (data.targets > 0)).all(1)
    return jnp.where(right, data.weights, 0).sum() / data.weights.sum()

  def r2(params: Params, data: Data) -> Array:
    outputs = net.forward(params, data.x)[0]
    outputs = jnp.exp(outputs) if spec.output == "exp" else outputs
    weights, t = data.weights[:, None], data.targets
    mean = (weights * t).sum(0, keepdims=True) / weights.sum()
    error, spread = ((weights * (t - other) ** 2).sum(0) for other in (outputs, mean))
    # scikit-learn's: a constant column has 1 if it is met exactly, and else 0.
    constant = jnp.where(error == 0, jnp.ones_like(error), jnp.zeros_like(error))
    each = jnp.where(spread == 0, constant, 1 - error / nonzero(spread))
    return jnp.where(jnp.isfinite(outputs).all(), each.mean(), jnp.nan)

  return accuracy if spec.validation == "accuracy" else r2


# --- The objective and predictions ----------------------------------------------------------------


@lru_cache(maxsize=256)
def objective_of(spec: Spec) -> Any:
  """Compile loss and gradient over all rows: `f(params, data, numbers) -> (sum, mean, grads)`.

  `sum` is what `grads` are the gradient of, and `mean` the loss that is reported.
  """
  gradient = make_gradient(spec)

  @jax.jit
  def objective(params: Params, data: Data, numbers: Numbers) -> tuple[Array, Array, Params]:
    n = data.n.astype(spec.dtype)
    value, grads = gradient(
      params, data.x, data.targets, None, data.weights, n, numbers.clip_examples
    )
    penalty, grads = add_penalty(params, grads, numbers.alpha / nonzero(data.weights.sum()))
    return value + penalty, value * scale_of_loss(spec) + penalty, grads

  return objective


@lru_cache(maxsize=256)
def outputs_of(spec: Spec) -> Any:
  """Compile the forward pass: `f(params, x) -> [N, C]`."""
  net = network(spec)
  return jax.jit(lambda params, x: net.forward(params, x)[0])
