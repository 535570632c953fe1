"""Right rules at arguments drawn by hypothesis, on which the verifier must have no finding.

A case is a network, optionally with a loss, in a common form: outputs or mean loss, a rule as a
pair or in a `jax.custom_vjp`, with weights, with a key. Its regime determines its numbers: their
scale, zeros, ties, zero biases, saturation.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from scripts.benchmarks.bridges import is_float, joined

ACTIVATIONS = (
  "relu", "leaky_relu", "elu", "selu", "sigmoid", "tanh", "softplus", "gelu", "gelu_tanh", "silu",
  "mish", "hard_tanh", "relu6", "identity",
)  # fmt: skip
LOSSES = (
  "none", "squared_error", "softmax_cross_entropy", "softmax_cross_entropy of rows",
  "sigmoid_cross_entropy", "huber", "log_cosh", "hinge", "poisson_nll",
)  # fmt: skip
REGIMES = ("plain", "zeros", "ties", "zero bias", "small", "large", "at rest")
WIDTHS = st.lists(st.sampled_from([1, 2, 3, 5]), min_size=2, max_size=4).map(tuple)


class Case(NamedTuple):
  """One generated case, with the strategy that draws each attribute; see the module."""

  dtype: Annotated[str, st.sampled_from(["float32", "float64", "bfloat16", "float16"])]
  regime: Annotated[str, st.sampled_from(REGIMES)]
  activation: Annotated[str, st.sampled_from(ACTIVATIONS)]
  loss: Annotated[str, st.sampled_from(LOSSES)]
  sizes: Annotated[tuple[int, ...], WIDTHS]
  n: Annotated[int, st.sampled_from([1, 2, 5, 7])]
  form: Annotated[str, st.sampled_from(["pair", "custom_vjp"])]
  normalization: Annotated[str, st.sampled_from(["none", "none", "layer_norm", "rms_norm"])]
  weighted: bool
  dropout: bool
  structure: Annotated[str, st.sampled_from(["plain", "plain", "skip", "repeat", "remat"])]
  # A loss's targets and weights are arguments held constant by a stop_gradient, or no arguments.
  constants: Annotated[str, st.sampled_from(["arguments", "closed over"])]
  seed: Annotated[int, st.integers(0, 2**31 - 1)]


cases = st.builds(Case)

Function = Callable[..., Any]


def verify(case: Case, level: str) -> fb.verify.Report:
  """Return the report on a case; float64 has x64 on, as for its users."""
  with jax.enable_x64(case.dtype == "float64"):
    f, args, f_vjp = build(case)
    seed, surrogate = case.seed % 1000, holds_floats(case)
    return fb.verify.vjp(f, *args, f_vjp=f_vjp, level=level, seed=seed, surrogate=surrogate)


def build(case: Case) -> tuple[Function, tuple[Any, ...], Function | None]:
  """Build the function, its arguments and its rule (None if the function contains it)."""
  rng = np.random.default_rng(case.seed)
  net = network(case)
  shapes = jax.eval_shape(net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: number(rng, case, leaf.shape, leaf.ndim > 1), shapes)
  x = number(rng, case, (case.n, case.sizes[0]), True)
  key = (jax.random.key(case.seed % 1000),) if case.dropout else ()
  constants: tuple[Any, ...] = ()
  if case.loss != "none":
    constants = (targets_of(case, rng),)
    if case.weighted:
      constants += (jnp.asarray(rng.uniform(0.5, 2.0, case.n), case.dtype),)
  f, f_vjp = rule_of(case, net, constants)
  args = (params, x, *(() if case.constants == "closed over" else constants), *key)
  return (f, args, f_vjp) if case.form == "pair" else (joined(f, f_vjp), args, None)


def network(case: Case) -> fb.Layer:
  """Build the network of a case."""
  net = fb.mlp(
    case.sizes,
    getattr(fb, case.activation),
    normalization=None if case.normalization == "none" else getattr(fb, case.normalization),
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
    values = values * (3.0 if case.dtype == "float16" or case.loss == "poisson_nll" else 100.0)
  return jnp.asarray(values, case.dtype)


def targets_of(case: Case, rng: np.random.Generator) -> Any:
  """Draw targets in the loss's domain."""
  classes, shape = case.sizes[-1], (case.n, case.sizes[-1])
  if case.loss in ("softmax_cross_entropy", "hinge"):
    return jnp.asarray(rng.integers(0, classes, case.n), jnp.int32)
  if case.loss == "softmax_cross_entropy of rows":
    rows = rng.exponential(size=shape)
    return jnp.asarray(rows / rows.sum(1, keepdims=True), case.dtype)
  if case.loss in ("sigmoid_cross_entropy", "poisson_nll"):
    is_count = case.loss == "poisson_nll"
    return jnp.asarray(rng.integers(0, 5, shape) if is_count else rng.random(shape), case.dtype)
  return number(rng, case, shape, True)


def rule_of(case: Case, net: fb.Layer, constants: tuple[Any, ...]) -> tuple[Function, Function]:
  """Build the outputs, or the mean loss by params and x with constant targets and weights."""

  def split(x: Any, rest: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return the constants, as wide as x if they are closed over, and the key."""
    if case.constants == "arguments":
      return rest[: len(constants)], rest[len(constants) :]
    return [c.astype(x.dtype) if is_float(c) else c for c in constants], rest

  def mean_loss(params: Any, x: Any, held: Any, key: Any) -> Any:
    gradient = fb.value_and_grad(net, getattr(fb, case.loss.partition(" ")[0]), input_gradient=True)
    targets, *weights = held
    options = {name: own[0] if own else None for name, own in (("weights", weights), ("key", key))}
    return gradient(params, x, targets, **options)

  def f(params: Any, x: Any, *rest: Any) -> Any:
    held, key = split(x, rest)
    if not constants:
      return net.forward(params, x, *key)[0]
    return mean_loss(params, x, *jax.lax.stop_gradient((held, key)))[0]

  def f_vjp(params: Any, x: Any, *rest: Any) -> Any:
    held, key = split(x, rest)
    zeros = [jnp.zeros_like(leaf) if is_float(leaf) else None for leaf in rest]
    if not constants:
      y, backward = fb.pullback(net)(params, x, *key)
      return y, lambda y_bar: (*backward(y_bar), *zeros)
    value, grads = mean_loss(params, x, held, key)
    return value, lambda y_bar: (*jax.tree.map(lambda leaf: y_bar * leaf, grads), *zeros)

  return f, f_vjp


def holds_floats(case: Case) -> bool:
  """Return whether float arguments are held constant: differences ignore a stop_gradient."""
  has_floats = case.weighted or case.loss not in ("softmax_cross_entropy", "hinge")
  return case.loss != "none" and case.constants == "arguments" and has_floats
