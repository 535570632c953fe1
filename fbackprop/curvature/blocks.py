"""The algebra of Kronecker blocks: product, solve, trace, log-determinant.

A tree of blocks is a block-diagonal matrix, which acts on trees like the parameters. To be inverted
it is damped by λ > 0, in one of three ways:

  "pi"           (A + π √λ I) ⊗ (G + √λ/π I), π² = (tr A / D_a) / (tr G / D_g)
  "eigenvalues"  (A + λ I) ⊗ (G + λ I): λ is added to the eigenvalues of each factor
  "exact"        A ⊗ G + λ I, by eigendecompositions

The first is an approximation of the third by two Cholesky factors, and errs on the side of more
damping; eigenvalue-corrected blocks take the third.

References:
  Martens, Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML
  (2015), section 6.3.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fbackprop.curvature.kronecker import Eigen, Kronecker
from fbackprop.errors import DtypeError, RangeError, ShapeError, check_choice, describe
from fbackprop.layers.dense import DenseParams
from fbackprop.ranges import POSITIVE, check_range
from fbackprop.types import Array, Params

Block = Kronecker | Eigen
Method = Literal["pi", "eigenvalues", "exact"]
METHODS: tuple[Method, ...] = ("pi", "eigenvalues", "exact")


def product(blocks: Any, v: Params) -> Params:
  """Compute the product of the blocks with v, like the parameters.

  Raises:
    ValueError: v isn't like the parameters of the blocks.
  """
  return map_blocks("product", multiply, blocks, v)


def inverse(blocks: Any, *, damping: Any, method: Method | None = None) -> Any:
  """Compute the inverse of the damped blocks, as blocks.

  Args:
    blocks: a tree of `Kronecker` or `Eigen`.
    damping: λ, above 0; it may be an array `[]`, whose value isn't checked.
    method: see the module; by default "pi", and "exact" for an `Eigen`.

  Returns:
    A tree of blocks: `Kronecker` of the factors' inverses, or `Eigen` of inverse eigenvalues.

  Raises:
    TypeError, ValueError: `damping` isn't a number above 0; an unknown method, or one that an
      `Eigen` can't have.
  """
  check_damping("inverse", damping)
  return jax.tree.map(
    lambda block: inverse_of(block, damping, method_of("inverse", block, method)),
    check_blocks("inverse", blocks), is_leaf=is_block,
  )  # fmt: skip


def solve(blocks: Any, v: Params, *, damping: Any, method: Method | None = None) -> Params:
  """Compute the product of the inverse of the damped blocks with v.

  Args, Raises: as of `inverse` and `product`.

  Example:
    >>> import fbackprop as fb
    >>> net = fb.dense(2, 1, bias=False)
    >>> params, x = net.init(jax.random.key(0)), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> blocks = fb.curvature.kronecker_factors(net, fb.squared_error)(params, x, jnp.zeros((2, 1)))
    >>> v = params._replace(w=jnp.array([[1.0], [1.0]]))
    >>> solve(blocks, v, damping=1.0, method="exact").w.tolist()  # 1 / (1 + 1), 1 / (0 + 1)
    [[0.5], [1.0]]
  """
  return product(inverse(blocks, damping=damping, method=method), v)


def trace(blocks: Any) -> Array:
  """Compute the trace of the blocks, `[]`: Σ tr A tr G, or the sum of the eigenvalues."""

  def of_block(block: Block) -> Array:
    if isinstance(block, Eigen):
      return block.values.sum()
    return (jnp.trace(block.a, axis1=-2, axis2=-1) * jnp.trace(block.g, axis1=-2, axis2=-1)).sum()

  return total(map(of_block, leaves_of("trace", blocks)))


def log_determinant(blocks: Any, *, damping: Any, method: Method | None = None) -> Array:
  """Compute the log-determinant of the damped blocks, `[]`.

  Args, Raises: as of `inverse`.
  """
  check_damping("log_determinant", damping)

  def of_block(block: Block) -> Array:
    chosen = method_of("log_determinant", block, method)
    if chosen == "exact":
      return jnp.log(eigen_of(block).values + damping).sum()
    assert isinstance(block, Kronecker)
    a, g = damped(block, damping, chosen)
    of_a, of_g = (2 * jnp.log(diagonal_of(jnp.linalg.cholesky(m))).sum(-1) for m in (a, g))
    return (g.shape[-1] * of_a + a.shape[-1] * of_g).sum()

  return total(map(of_block, leaves_of("log_determinant", blocks)))


def matrices(blocks: Any) -> list[Array]:
  """Form each block as a matrix `[.., D_a D_g, D_a D_g]`, of [w; b] in row-major order.

  They stand in the order of the tree. For looking at small ones, and for tests.
  """

  def of_block(block: Block) -> Array:
    d_a, d_g = shape_of(block)
    if isinstance(block, Eigen):
      u = kron(block.u_a, block.u_g)
      values = block.values.reshape(*block.values.shape[:-2], d_a * d_g)
      return jnp.matmul(u * values[..., None, :], jnp.swapaxes(u, -1, -2))
    return kron(block.a, block.g)

  return list(map(of_block, leaves_of("matrices", blocks)))


# --- One block ------------------------------------------------------------------------------------


def multiply(block: Block, v: Array) -> Array:
  """Compute the product of a block with a matrix `[.., D_a, D_g]`."""
  if isinstance(block, Kronecker):
    return jnp.matmul(jnp.matmul(block.a, v), block.g)
  u_a, u_g = block.u_a, block.u_g
  inner = jnp.matmul(jnp.matmul(jnp.swapaxes(u_a, -1, -2), v), u_g) * block.values
  return jnp.matmul(jnp.matmul(u_a, inner), jnp.swapaxes(u_g, -1, -2))


def inverse_of(block: Block, damping: Any, method: Method) -> Block:
  """Compute the inverse of a damped block."""
  if method == "exact":
    eigen = eigen_of(block)
    return eigen._replace(values=1 / (eigen.values + damping))
  assert isinstance(block, Kronecker)
  return Kronecker(*map(inverse_of_symmetric, damped(block, damping, method)))


def inverse_of_symmetric(matrix: Array) -> Array:
  """Compute the inverse of a positive matrix `[.., D, D]` by its Cholesky factor."""
  identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
  root = jax.lax.linalg.cholesky(matrix)
  half = jax.lax.linalg.triangular_solve(root, identity, left_side=True, lower=True)
  return jnp.matmul(jnp.swapaxes(half, -1, -2), half)


def damped(block: Kronecker, damping: Any, method: Method) -> tuple[Array, Array]:
  """Return the factors with damping: with λ each, or split by π."""
  if method == "eigenvalues":
    return plus(block.a, damping), plus(block.g, damping)
  mean_a, mean_g = (diagonal_of(matrix).mean(-1) for matrix in block)
  # A factor of zeros, as of a layer that no gradient reaches, has no scale; any split will do.
  is_zero = (mean_a <= 0) | (mean_g <= 0)
  one = jnp.ones_like(mean_a)
  pi = jnp.sqrt(jnp.where(is_zero, one, mean_a) / jnp.where(is_zero, one, mean_g))
  root = jnp.sqrt(jnp.asarray(damping, block.a.dtype))
  return plus(block.a, pi * root), plus(block.g, root / pi)


def plus(matrix: Array, damping: Any) -> Array:
  """Add a number, or one for each copy, to the diagonal."""
  identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
  numbers = jnp.broadcast_to(jnp.asarray(damping, matrix.dtype), matrix.shape[:-2])
  return matrix + numbers[..., None, None] * identity


def eigen_of(block: Block) -> Eigen:
  """Return a block by its eigenvectors."""
  if isinstance(block, Eigen):
    return block
  (of_a, u_a), (of_g, u_g) = (jnp.linalg.eigh(matrix) for matrix in block)
  # Below 0 only by rounding.
  of_a, of_g = jnp.maximum(of_a, 0), jnp.maximum(of_g, 0)
  return Eigen(u_a, u_g, of_a[..., :, None] * of_g[..., None, :])


def kron(a: Array, b: Array) -> Array:
  """Compute the Kronecker product of the last two axes."""
  d = a.shape[-1] * b.shape[-1]
  outer = a[..., :, None, :, None] * b[..., None, :, None, :]
  return outer.reshape(*a.shape[:-2], d, d)


def diagonal_of(matrix: Array) -> Array:
  """Return the diagonal of the last two axes."""
  return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def shape_of(block: Block) -> tuple[int, int]:
  """Return the shape `(D_a, D_g)` of the matrices that a block acts on."""
  return block[0].shape[-1], block[1].shape[-1]


# --- Trees of blocks ------------------------------------------------------------------------------


def is_block(node: Any) -> bool:
  """Return whether a node of a tree is a block."""
  return isinstance(node, Block)


def check_blocks(where: str, blocks: Any) -> Any:
  """Return a tree of blocks; raise for anything else."""
  for leaf in (found := jax.tree.leaves(blocks, is_leaf=is_block)):
    if not is_block(leaf):
      problem = (
        f"must be a tree of Kronecker or Eigen, as of kronecker_factors, got {describe(leaf)}"
      )
      raise DtypeError(problem, "blocks", where)
  if not found:
    raise DtypeError("must hold a block; there is none", "blocks", where)
  return blocks


def leaves_of(where: str, blocks: Any) -> list[Any]:
  """Return the blocks of a tree."""
  return jax.tree.leaves(check_blocks(where, blocks), is_leaf=is_block)


def map_blocks(
  where: str, function: Callable[[Any, Array], Array], blocks: Any, v: Params
) -> Params:
  """Apply `function(block, matrix)` to the part of v that each block acts on."""

  def on_part(path: Any, block: Any, part: Any) -> Any:
    d_a, d_g = shape_of(block)
    front = block[0].shape[:-2]
    sizes = sum(leaf.size for leaf in jax.tree.leaves(part))
    if sizes != math.prod(front) * d_a * d_g:
      name = f"v{jax.tree_util.keystr(path)}"
      problem = f"must have the {math.prod(front) * d_a * d_g} numbers of its block, got {sizes}"
      raise ShapeError(problem, name, where)
    if not isinstance(part, DenseParams):
      return function(block, part.reshape(*front, d_a, d_g)).reshape(part.shape)
    w = part.w if part.b is None else jnp.concatenate([part.w, part.b[..., None, :]], -2)
    found = function(block, w)
    if part.b is None:
      return DenseParams(found, part.b)
    return DenseParams(found[..., :-1, :], found[..., -1, :])

  check_blocks(where, blocks)
  try:
    return jax.tree_util.tree_map_with_path(on_part, blocks, v, is_leaf=is_block)
  except (AttributeError, ValueError) as error:
    if isinstance(error, ShapeError):
      raise
    problem = "must be like the parameters that the blocks are of"
    raise ShapeError(problem, "v", where) from error


def check_damping(where: str, damping: Any) -> None:
  """Raise for a number that isn't above 0; an array `[]` is taken as it is."""
  if isinstance(damping, jax.Array):
    if damping.shape != ():
      raise ShapeError(f"must be one number, got {describe(damping)}", "damping", where)
    if isinstance(damping, jax.core.Tracer):
      return
    damping = float(damping)
  check_range(where, "damping", damping, POSITIVE)


def method_of(where: str, block: Block, method: Any) -> Method:
  """Return the way in which a block is damped."""
  if method is None:
    return "exact" if isinstance(block, Eigen) else "pi"
  check_choice(where, "method", method, METHODS)
  if isinstance(block, Eigen) and method != "exact":
    problem = f"must be 'exact' for eigenvalue-corrected blocks, got {method!r}"
    raise RangeError(problem, "method", where)
  chosen: Method = method
  return chosen


def total(values: Any) -> Array:
  """Add the blocks' values."""
  return functools.reduce(jnp.add, values)
