"""The diagonal of the generalized Gauss–Newton matrix, of the mean loss and of each example.

Of a dense layer the derivative of example n's column r by w_ij is x_ni ȳ_rnj, and its square is the
product of the squares. So

  diag G of w = Σ_n (x_n²)ᵀ (Σ_r ȳ_rn²),   of b = Σ_n Σ_r ȳ_rn²:

R backward passes without a weight gradient, and one product per layer in all. BackPACK and autodiff
form it for every column.

References:
  Dangel, Kunstner, Hennig, "BackPACK: packing more into backprop", ICLR (2020), appendix A.2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.curvature.linearization import (
  Linearization,
  check_chunk,
  check_model,
  linearize,
  pull_columns,
  random_columns,
  ready,
  root_columns,
  sum_over_columns,
)  # fmt: skip
from fbackprop.layers.factors import ByParameter, Factors, is_factors
from fbackprop.losses.rows import curvature_of
from fbackprop.meshes import product, sum_squares
from fbackprop.quantities import parameters
from fbackprop.quantities.capture import is_dense
from fbackprop.quantities.gradients import as_params
from fbackprop.ranges import Range, check_range
from fbackprop.types import Array, Layer, Loss, Params, widen


def ggn_diagonal(
  net: Layer, loss: Loss, *, samples: int | None = None, chunk: int | None = None
) -> Callable[..., Params]:
  """Build the diagonal of the generalized Gauss–Newton matrix of the mean loss.

  For a network that is piecewise linear in each parameter, as a relu network, it is the diagonal of
  the Hessian. A weight that each example uses several times has all its cross terms.

  Normalisation: that of the mean loss of `value_and_grad`, with its weights. Never below 0.

  Cost: of the exact one R backward passes without their weight gradients, with R = C − 1 columns
  for softmax cross-entropy and C otherwise, and R N D numbers of memory for a layer of D outputs.

  Args:
    net: the network, captured or not; each layer with parameters must state its factors.
    loss: the loss of each example; it must state its curvature.
    samples: estimate it from that many random columns in place of all R; unbiased, with a relative
      error of about √(2 / (N samples)) of one entry. Each is a sum of the exact columns with random
      signs. None for the exact one.
    chunk: the most columns that are in memory at once; None for all.

  Returns:
    `f(params, x, targets, *, key=None, weights=None, sample_key=None) -> diagonal`, like `params`,
    in float32 at least; `sample_key` is that of the signs. A pure function, for jit.

  Raises:
    TypeError: `net` isn't a Layer, or `loss` isn't a Loss.
    ValueError: a layer has parameters and states no factors; the loss states no curvature; a number
      is below 1. When traced: an argument has the wrong shape.

  Example:
    >>> import jax.numpy as jnp
    >>> import fbackprop as fb
    >>> net = fb.dense(2, 1, bias=False)
    >>> params, x = net.init(jax.random.key(0)), jnp.array([[1.0, 2.0], [3.0, 0.0]])
    >>> diagonal = ggn_diagonal(net, fb.squared_error)(params, x, jnp.zeros((2, 1)))
    >>> print(diagonal.w.round(4).ravel())  # Σ_n x² / N
    [5. 2.]
  """
  where = "ggn_diagonal"
  check_chunk(where, chunk)
  columns_of = check_columns(where, net, loss, samples)
  net = ready(net)

  def diagonal(
    params: Params, x: Any, targets: Any, *, key: Any = None, weights: Any = None,
    sample_key: Any = None,
  ) -> Params:  # fmt: skip
    at = linearize(where, net, loss, params, x, targets, key, weights)
    columns = columns_of(at, sample_key)
    squares = sum_over_columns(where, at, columns, chunk, summed_squares)
    inputs = pull_columns(where, at, columns[:1])  # Of which only x is read.
    return jax.tree.map(weigh, inputs, squares, is_leaf=is_factors)

  return diagonal


def example_ggn_diagonals(
  net: Layer, loss: Loss, *, samples: int | None = None
) -> Callable[..., Params]:
  """Build the diagonal of the GGN of each example's loss, with the axis N in front.

  Normalisation: each is that of one example's loss, not divided by N.

  Cost: as of `ggn_diagonal`, and N times the memory of the parameters.

  Args, Raises: as of `ggn_diagonal`.

  Returns:
    `f(params, x, targets, *, key=None, sample_key=None) -> diagonals`, of the structure of
    `params`, each leaf `[N, *shape]`, in float32 at least.
  """
  where = "example_ggn_diagonals"
  columns_of = check_columns(where, net, loss, samples)
  net = ready(net)

  def diagonals(
    params: Params, x: Any, targets: Any, *, key: Any = None, sample_key: Any = None
  ) -> Params:
    at = linearize(where, net, loss, params, x, targets, key, None)
    columns = columns_of(at._replace(shares=jnp.ones_like(at.shares)), sample_key)
    factors = pull_columns(where, at, columns)
    return jax.tree.map(of_examples, factors, is_leaf=is_factors)

  return diagonals


def check_columns(
  where: str, net: Any, loss: Any, samples: Any
) -> Callable[[Linearization, Any], Array]:
  """Check the arguments; return the function of the columns, all or random ones."""
  check_model(where, net, loss)
  curvature_of(where, loss)
  if samples is None:
    return lambda at, sample_key: root_columns(where, at)
  check_range(where, "samples", samples, Range(int, 1))
  return lambda at, sample_key: random_columns(where, at, samples, sample_key)


def summed_squares(factors: Any) -> Any:
  """Compute of each layer Σ_r ȳ_r², `[..., N, D]`, or, parameter by parameter, the diagonal."""

  def of_layer(node: Factors) -> Any:
    if isinstance(node, ByParameter):
      each = jax.vmap(partial(parameters.replace_leaves, parameters.summed_squares))(node)
      return jax.tree.map(lambda squares: squares.sum(0), each)
    return sum_squares(widen(node.y_bar))

  return jax.tree.map(of_layer, factors, is_leaf=is_factors)


def weigh(factors: Factors, squares: Any) -> Any:
  """Compute the diagonal of a layer from its inputs and Σ_r ȳ_r²."""
  if isinstance(factors, ByParameter):
    return squares
  x_squares = widen(factors[0]) ** 2
  if is_dense(factors):
    first = product(jnp.swapaxes(x_squares, -1, -2), squares)
  else:
    first = (x_squares * squares).sum(-2)
  return as_params(factors, first, squares.sum(-2))


def of_examples(factors: Factors) -> Any:
  """Compute each example's diagonal of a layer, N in front."""
  if isinstance(factors, ByParameter):
    each = jax.vmap(partial(parameters.replace_leaves, parameters.unsummed))(factors)
    return jax.tree.map(lambda grads: sum_squares(widen(grads)), each)
  x_squares, squares = widen(factors[0]) ** 2, sum_squares(widen(factors.y_bar))
  if is_dense(factors):
    first = x_squares[..., :, None] * squares[..., None, :]
    first = jnp.moveaxis(first, -3, 0)
  else:
    first = jnp.moveaxis(x_squares * squares, -2, 0)
  return as_params(factors, first, jnp.moveaxis(squares, -2, 0))
