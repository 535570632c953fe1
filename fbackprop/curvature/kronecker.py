"""Kronecker factors of the curvature, layer by layer: K-FAC and EKFAC.

The block of the Fisher information (or of the GGN) by a dense layer's weights [w; b], entry by
entry in row-major order, is Σ_n a_n E[x_n x_nᵀ ⊗ ȳ_n ȳ_nᵀ], with x_n = [x_n; 1] where there is a
bias. K-FAC takes the two factors for independent,

  A ⊗ G,   A = Σ_n a_n x_n x_nᵀ `[D_in + 1, D_in + 1]`,   G = Σ_n a_n E[ȳ_n ȳ_nᵀ] `[D_out, D_out]`,

so that a product with v, shaped as [w; b], is A v G, and an inverse that of the factors. It is
exact for one example, for linear networks with squared error, and for the last layer of a
regression.

EKFAC keeps the eigenvectors of A and G, and measures the curvature along each pair of them:
Λ_ij = Σ_n a_n E[(u_iᵀ x_n)² (v_jᵀ ȳ_n)²]; of all matrices with these eigenvectors it is the nearest
to the block.

Other parameters. A scale, a shift, or a bias of its own is a row `[1, D]`: A = 1, and its block G
is exact. Of a weight that an example uses P times, as of a convolution or of nodes that share it,
"expand" takes the uses as examples: A = Σ_n a_n Σ_p x_np x_npᵀ, G = Σ_n a_n Σ_p E[ȳ_np ȳ_npᵀ] / P;
"reduce" takes the mean of x and the sum of ȳ over them.

References:
  Martens, Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML
  (2015); George, Laurent, Bouthillier, Ballas, Vincent, "Fast approximate natural gradient descent
  in a Kronecker-factored eigenbasis", NeurIPS (2018); Eschenhagen, Immer, Turner, Schneider,
  Hennig, "Kronecker-factored approximate curvature for modern neural network architectures",
  NeurIPS (2023), for expand and reduce; Dangel, Mucsányi, Weber, Eschenhagen, "Kronecker-factored
  approximate curvature (KFAC) from scratch", arXiv:2507.05127 (2025), for the tests.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import check_flag
from fbackprop.curvature.linearization import (
  Kind,
  Linearization,
  check_kind,
  check_model,
  fisher_columns,
  linearize,
  pull_columns,
  ready,
)  # fmt: skip
from fbackprop.errors import StructureError, check_choice
from fbackprop.layers.factors import ByParameter, Factors, Outer, is_factors, is_leaf_factors
from fbackprop.layers.sharing import by_parameter
from fbackprop.losses.rows import curvature_of, sampler_of
from fbackprop.meshes import product as matrix_product
from fbackprop.meshes import second_moment, sum_squares
from fbackprop.quantities.capture import has_offset, is_dense
from fbackprop.quantities.gradients import summed
from fbackprop.transforms import weighted_mean
from fbackprop.types import Array, Layer, Loss, exportable, widen

Sharing = Literal["expand", "reduce"]
MANY_COLUMNS = 256
"""The width from which a symmetric product is formed by its upper blocks alone."""


@exportable
class Kronecker(NamedTuple):
  """The block A ⊗ G of one layer: `a` `[D_a, D_a]` and `g` `[D_g, D_g]`, symmetric.

  It acts on a matrix v `[D_a, D_g]`, the layer's [w; b] or a parameter in that shape, as A v G. In
  a `repeat(.., n)` both have an axis n in front.
  """

  a: Array
  g: Array


@exportable
class Eigen(NamedTuple):
  """A block by its eigenvectors: `u_a` `[D_a, D_a]`, `u_g` `[D_g, D_g]`, `values` `[D_a, D_g]`.

  It acts on a matrix v `[D_a, D_g]` as u_a ((u_aᵀ v u_g) ∘ values) u_gᵀ.
  """

  u_a: Array
  u_g: Array
  values: Array


def kronecker_factors(
  net: Layer,
  loss: Loss,
  *,
  kind: Kind = "exact",
  samples: int = 1,
  sharing: Sharing = "expand",
  eigen: bool = False,
  gradient: bool = False,
) -> Callable[..., Any]:
  """Build the Kronecker factors of the mean loss's Fisher information, for each layer.

  Normalisation: A and G are both means over examples, with the weights of `value_and_grad`, and
  A ⊗ G approximates the block of the mean loss; the ½ of `squared_error` is in the loss. A has the
  1 of the bias as its last row and column.

  Cost: of "exact" R backward passes without weight gradients, R = C − 1 columns for softmax
  cross-entropy and C otherwise, and R N D² products for a layer of D outputs; of the other kinds
  one pass (or `samples`), and N (D_in² + D_out²) products. Symmetric products are formed by half.

  Args:
    net: the network, captured or not; each layer with parameters must state its factors.
    loss: the loss of each example.
    kind: "exact" for the expectation over targets drawn from the model, the GGN for most losses;
      "monte_carlo" for draws; "empirical" for the targets as they are.
    samples: draws of each example's target, at least 1; of "monte_carlo" only.
    sharing: the rule of weights that an example uses several times, "expand" or "reduce".
    eigen: whether to correct the eigenvalues (EKFAC), at the cost of an eigendecomposition of each
      factor and of one more product per layer.
    gradient: whether to return the mean loss and its gradient too, of the same forward pass.

  Returns:
    `f(params, x, targets, *, key=None, weights=None, sample_key=None) -> blocks`: the tree of
    `params` with a `Kronecker` (an `Eigen` with `eigen`) in the place of each dense layer, and of
    each array of the others; in float32 at least. With `gradient` `(loss, grads, blocks)`.
    `sample_key` is that of the draws. A pure function, for jit.

  Raises:
    TypeError: `net` isn't a Layer, or `loss` isn't a Loss.
    ValueError: an unknown kind or rule; a layer has parameters and states no factors; a node uses
      another's weights transposed; the loss states no curvature, or for "monte_carlo" no sampler.
      When traced: an argument has the wrong shape.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.dense(2, 1)
    >>> params, x = net.init(jax.random.key(0)), jnp.array([[1.0, 2.0]])
    >>> a, g = kronecker_factors(net, fb.squared_error)(params, x, jnp.zeros((1, 1)))
    >>> print(a)
    [[1. 2. 1.]
     [2. 4. 2.]
     [1. 2. 1.]]
  """
  where = "kronecker_factors"
  check_model(where, net, loss)
  check_kind(where, kind, samples)
  check_choice(where, "sharing", sharing, ("expand", "reduce"))
  check_flag(where, "eigen", eigen)
  check_flag(where, "gradient", gradient)
  if kind == "monte_carlo":
    sampler_of(where, loss)
  elif kind == "exact":
    curvature_of(where, loss)
  check_not_transposed(where, net)
  net = ready(net)

  def factors(
    params: Any, x: Any, targets: Any, *, key: Any = None, weights: Any = None,
    sample_key: Any = None,
  ) -> Any:  # fmt: skip
    at = linearize(where, net, loss, params, x, targets, key, weights)
    columns = fisher_columns(where, at, kind, samples, sample_key)
    captured = pull_columns(where, at, columns)

    def block_of(layer: Factors) -> Any:
      return map_uses(lambda uses: block(uses, at.shares, sharing, eigen), layer)

    blocks = jax.tree.map(block_of, captured, is_leaf=is_factors)
    return (*mean_and_gradient(at), blocks) if gradient else blocks

  return factors


def check_not_transposed(where: str, net: Layer) -> None:
  """Raise for a node that uses another's weights transposed: x and ȳ would be mixed in A."""
  for node in dict(net.options).get("nodes", ()):
    if node.transposed:
      raise StructureError(
        f"{where}: the node {node.name!r} uses the weights of {node.owner!r} transposed, of which "
        "there are no Kronecker factors; take ggn_diagonal"
      )
  for part in net.parts:
    check_not_transposed(where, part)


def mean_and_gradient(at: Linearization) -> tuple[Array, Any]:
  """Compute the mean loss and its gradient."""
  outputs_bar = at.loss.backward(at.loss_residuals, at.shares)
  captured, _ = at.net.backward(at.params, at.residuals, outputs_bar)
  grads = jax.tree.map(summed, captured, is_leaf=is_factors)
  return weighted_mean(at.shares, at.losses), grads


# --- A layer's uses of a weight -------------------------------------------------------------------


class Uses(NamedTuple):
  """The factors of one matrix of parameters: x `[.., N, P, D_a]`, ȳ `[R, .., N, P, D_g]`.

  ȳ has the roots of the examples' shares. x is None for a row of parameters `[1, D_g]`.
  """

  x: Array | None
  y_bar: Array


def map_uses(function: Callable[[Uses], Any], layer: Factors) -> Any:
  """Apply a function to the uses of a layer's [w; b], or of each of its parameters.

  The factors are as of `pull_columns`.
  """
  if is_dense(layer):
    x, y_bar = (widen(factor) for factor in layer)
    if has_offset(layer):
      x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
    return function(Uses(x[..., None, :], y_bar[..., None, :]))

  def of_parameter(leaf: Any) -> Any:
    if isinstance(leaf, Outer):  # x is the same in each column.
      return function(Uses(widen(leaf.x[0]), widen(leaf.y_bar)))
    return function(Uses(None, widen(leaf.grads)[..., None, :]))

  if not isinstance(layer, ByParameter):
    kind: Any = type(layer)
    layer = jax.vmap(by_parameter, in_axes=(kind(None, 0),))(layer)
  return jax.tree.map(of_parameter, layer.leaves, is_leaf=is_leaf_factors)


def block(uses: Uses, shares: Array, sharing: Sharing, eigen: bool) -> Any:
  """Compute the block of one matrix of parameters."""
  x, y_bar = uses
  p = y_bar.shape[-2]
  if x is not None and p > 1 and sharing == "reduce":
    x, y_bar, p = x.mean(-2, keepdims=True), y_bar.sum(-2, keepdims=True), 1
  g = symmetric_product("r...npi,r...npj->...ij", y_bar, y_bar) / p
  if x is None:
    a = jnp.ones((*g.shape[:-2], 1, 1), g.dtype)
  else:
    weights = jnp.broadcast_to(shares.astype(x.dtype)[:, None, None], x.shape)
    a = symmetric_product("...npi,...npj->...ij", x, x * weights)
  if not eigen:
    return Kronecker(a, g)
  u_a, u_g = jnp.linalg.eigh(a)[1], jnp.linalg.eigh(g)[1]
  return Eigen(u_a, u_g, values_along(Uses(x, y_bar), u_a, u_g))


def values_along(uses: Uses, u_a: Array, u_g: Array) -> Array:
  """Compute the curvature along each pair of eigenvectors, Λ `[.., D_a, D_g]`."""
  y_bar = jnp.matmul(uses.y_bar, u_g[..., None, :, :])
  if uses.x is None:
    return (y_bar**2).sum((0, -3))
  x = jnp.matmul(uses.x, u_a[..., None, :, :])
  if x.shape[-2] == 1:  # The square of a product is the product of the squares.
    x_squares, squares = x[..., 0, :] ** 2, sum_squares(y_bar[..., 0, :])
    return matrix_product(jnp.swapaxes(x_squares, -1, -2), squares)
  grads = jnp.matmul(jnp.swapaxes(x, -1, -2), y_bar)
  return (grads**2).sum((0, -3))


def symmetric_product(subscripts: str, left: Array, right: Array) -> Array:
  """Compute an `einsum` of the form "..i,..j->...ij" that is known to be symmetric.

  Of a wide one only the blocks on and right of the diagonal are multiplied, 10 of 16, a row of
  blocks at a time, and written in place. The others are their transposes.
  """
  d = left.shape[-1]
  if d < MANY_COLUMNS:
    return second_moment(subscripts, left, right)
  width = 16 * -(-d // 64)
  rows = [
    second_moment(subscripts, left[..., start : start + width], right[..., start:])
    for start in range(0, d, width)
  ]
  found = jnp.zeros((*rows[0].shape[:-2], d, d), rows[0].dtype)
  for start, row in zip(range(0, d, width), rows, strict=True):
    mirrored = jnp.swapaxes(row[..., width:], -1, -2)
    for block, at in ((row, (start, start)), (mirrored, (start + width, start))):
      if block.size:
        corner = (0,) * (found.ndim - 2) + at
        found = jax.lax.dynamic_update_slice(found, block, corner)
  return found
