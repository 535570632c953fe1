"""Right rules at arguments drawn by hypothesis, on which the verifier must have no finding.

A case is a network, optionally with a loss, in a common form: outputs or mean loss, a rule as a
pair or in a `jax.custom_vjp`, with weights, with a key. Its regime determines its numbers: their
scale, zeros, ties, zero biases, saturation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from scripts.benchmarks.bridges import joined

ACTIVATIONS = (
  "relu", "leaky_relu", "elu", "selu", "sigmoid", "tanh", "softplus", "gelu", "gelu_tanh", "silu",
  "mish", "hard_tanh", "relu6", "identity",
)  # fmt: skip
LOSSES = (
  "none", "squared_error", "softmax_cross_entropy", "softmax_cross_entropy of rows",
  "sigmoid_cross_entropy", "huber", "log_cosh", "hinge", "poisson_nll",
)  # fmt: skip
REGIMES = ("plain", "zeros", "ties", "zero bias", "small", "large", "at rest")
FORMS = ("pair", "custom_vjp")
# The treatment of a loss's targets and weights: arguments held constant by a stop_gradient, or no
# arguments.
CONSTANTS = ("arguments", "closed over")


class Case(NamedTuple):
  """One generated case; see the module."""

  dtype: str
  regime: str
  activation: str
  loss: str
  sizes: tuple[int, ...]
  n: int
  form: str
  normalization: str
  weighted: bool
  dropout: bool
  structure: str
  constants: str
  seed: int


cases = st.builds(
  Case,
  dtype=st.sampled_from(["float32", "float64", "bfloat16", "float16"]),
  regime=st.sampled_from(REGIMES),
  activation=st.sampled_from(ACTIVATIONS),
  loss=st.sampled_from(LOSSES),
  sizes=st.lists(st.sampled_from([1, 2, 3, 5]), min_size=2, max_size=4).map(tuple),
  n=st.sampled_from([1, 2, 5, 7]),
  form=st.sampled_from(FORMS),
  normalization=st.sampled_from(["none", "none", "layer_norm", "rms_norm"]),
  weighted=st.booleans(),
  dropout=st.booleans(),
  structure=st.sampled_from(["plain", "plain", "skip", "repeat", "remat"]),
  constants=st.sampled_from(CONSTANTS),
  seed=st.integers(0, 2**31 - 1),
)

Call = tuple[Callable[..., Any], tuple[Any, ...], Callable[..., Any] | None]


def verify(case: Case, level: str) -> fb.verify.Report:
  """Return the report on a case; float64 has x64 on, as for its users."""
  with jax.enable_x64(case.dtype == "float64"):
    f, args, f_vjp = build(case)
    seed, surrogate = case.seed % 1000, holds_floats(case)
    return fb.verify.vjp(f, *args, f_vjp=f_vjp, level=level, seed=seed, surrogate=surrogate)


def build(case: Case) -> Call:
  """Build the function, its arguments and its rule (None if the function contains it)."""
  rng = np.random.default_rng(case.seed)
  net = network(case)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: number(rng, case, leaf.shape, leaf.ndim > 1), shapes)
  x = number(rng, case, (case.n, case.sizes[0]), True)
  key = (jax.random.key(case.seed % 1000),) if case.dropout else ()
  if case.loss == "none":
    f, f_vjp = outputs_of(net)
    args: tuple[Any, ...] = (params, x, *key)
  else:
    loss = getattr(fb, case.loss.partition(" ")[0])
    targets = targets_of(case, rng)
    weights = (jnp.asarray(rng.uniform(0.5, 2.0, case.n), case.dtype),) if case.weighted else ()
    f, f_vjp = mean_loss_of(net, loss, case.weighted)
    if case.constants == "closed over":
      f, f_vjp = closed_over(f, f_vjp, (targets, *weights))
      args = (params, x, *key)
    else:
      args = (params, x, targets, *weights, *key)
  if case.form == "pair":
    return f, args, f_vjp
  return joined(f, f_vjp), args, None


def network(case: Case) -> fb.Layer:
  """Build the network of a case."""
  normalization = None if case.normalization == "none" else getattr(fb, case.normalization)
  net = fb.mlp(
    case.sizes,
    getattr(fb, case.activation),
    normalization=normalization,
    dropout=0.25 if case.dropout else 0.0,
    skip=case.structure == "skip",
    repeat_hidden=case.structure == "repeat",
    dtype=jnp.dtype(case.dtype),
  )
  return fb.remat(net) if case.structure == "remat" else net


def number(rng: np.random.Generator, case: Case, shape: tuple[int, ...], is_matrix: bool) -> Any:
  """Draw numbers of the case's regime."""
  values = rng.normal(size=shape)
  if case.regime == "at rest" or (case.regime == "zero bias" and not is_matrix):
    values = np.zeros(shape)
  elif case.regime == "zeros":
    values = np.where(rng.random(shape) < 0.4, 0.0, values)
  elif case.regime == "ties":
    values = np.round(2 * values) / 2
  elif case.regime == "small":
    values = values * 1e-3
  elif case.regime == "large":
    # Limits for the range of float16, and of the exponential of a Poisson loss.
    is_narrow = case.dtype == "float16" or case.loss == "poisson_nll"
    values = values * (3.0 if is_narrow else 100.0)
  return jnp.asarray(values, case.dtype)


def targets_of(case: Case, rng: np.random.Generator) -> Any:
  """Draw targets in the loss's domain."""
  classes, shape = case.sizes[-1], (case.n, case.sizes[-1])
  if case.loss in ("softmax_cross_entropy", "hinge"):
    return jnp.asarray(rng.integers(0, classes, case.n), jnp.int32)
  if case.loss == "softmax_cross_entropy of rows":
    rows = rng.exponential(size=shape)
    return jnp.asarray(rows / rows.sum(1, keepdims=True), case.dtype)
  if case.loss == "sigmoid_cross_entropy":
    return jnp.asarray(rng.random(shape), case.dtype)
  if case.loss == "poisson_nll":
    return jnp.asarray(rng.integers(0, 5, shape), case.dtype)
  return number(rng, case, shape, True)


def outputs_of(net: fb.Layer) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Return the network, and its rule."""

  def outputs_vjp(params: Any, x: Any, *key: Any) -> Any:
    y, backward = fb.pullback(net)(params, x, *key)
    return y, lambda y_bar: (*backward(y_bar), *(None for _ in key))

  return lambda params, x, *key: net.forward(params, x, *key)[0], outputs_vjp


def mean_loss_of(
  net: fb.Layer, loss: fb.Loss, weighted: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Build the mean loss of a batch by params and x, with constant targets and weights."""
  gradient = fb.value_and_grad(net, loss, input_gradient=True)

  def options_of(rest: tuple[Any, ...]) -> dict[str, Any]:
    weights = rest[:1] if weighted else ()
    key = rest[len(weights) :]
    return {"weights": weights[0] if weights else None, "key": key[0] if key else None}

  def mean_loss(params: Any, x: Any, targets: Any, *rest: Any) -> Any:
    targets, rest = jax.lax.stop_gradient((targets, rest))
    return gradient(params, x, targets, **options_of(rest))[0]

  def mean_loss_vjp(params: Any, x: Any, targets: Any, *rest: Any) -> Any:
    value, (grads, x_bar) = gradient(params, x, targets, **options_of(rest))

    def pull(y_bar: Any) -> Any:
      bars = jax.tree.map(lambda leaf: y_bar * leaf, (grads, x_bar))
      return (*bars, *map(zero_bar, (targets, *rest)))

    return value, pull

  return mean_loss, mean_loss_vjp


def closed_over(
  f: Callable[..., Any], f_vjp: Callable[..., Any], constants: tuple[Any, ...]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """Close over the constants, which are as wide as x, leaving params, x and the key."""

  def own(x: Any) -> Any:
    return (c.astype(x.dtype) if jnp.issubdtype(c.dtype, jnp.floating) else c for c in constants)

  def closed_vjp(params: Any, x: Any, *key: Any) -> Any:
    y, pull = f_vjp(params, x, *own(x), *key)

    def closed_pull(y_bar: Any) -> Any:
      params_bar, x_bar, *rest = pull(y_bar)
      return params_bar, x_bar, *rest[len(constants) :]

    return y, closed_pull

  return lambda params, x, *key: f(params, x, *own(x), *key), closed_vjp


def holds_floats(case: Case) -> bool:
  """Return whether float arguments are held constant: differences ignore a stop_gradient."""
  has_labels = case.loss in ("softmax_cross_entropy", "hinge")
  is_held = case.loss != "none" and case.constants == "arguments"
  return is_held and (case.weighted or not has_labels)


def zero_bar(leaf: Any) -> Any:
  """Return the cotangent of a constant: zero for a float, None for labels and keys."""
  return jnp.zeros_like(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else None
