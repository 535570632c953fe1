"""Norms and inner products of the per-example gradients, without forming them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.checks import ShapeError, StructureError, check_flag, check_that, describe
from fbackprop.layers.factors import ByParameter, Factors
from fbackprop.meshes import diagonal
from fbackprop.quantities import parameters
from fbackprop.quantities.capture import has_offset, is_dense, read, replace_factors, widths_of
from fbackprop.quantities.parameters import inner
from fbackprop.transforms import nonzero
from fbackprop.types import Array, widen


def example_sqnorms(captured: Any, *, per_layer: bool = False) -> Any:
  """Compute the squared norm of each example's gradient, ‖g_i‖², without forming g_i.

  The norm of an outer product is the product of the norms, hence, over the layers l,

    ‖g_i‖² = Σ_l (‖x_i‖² + 1) ‖ȳ_i‖²,

  without the 1 where there is no bias; for a normalisation ‖ȳ_i x_hat_i‖² + ‖ȳ_i‖². A weight that
  an example uses several times has the cross terms of `parameters`.

  Normalisation: that of one example's loss, not divided by N. An example without gradient has
  exactly 0; an example with an infinite or NaN gradient has inf or NaN, and affects no other.
  Squares are summed in float32 at least, so that in float32 a norm above 1.8e19 gives inf and one
  below 1e-19 may give 0.

  Cost: N (D_in + D_out) products per layer, where the gradients would take N D_in D_out.

  Args:
    captured: see `gradient`.
    per_layer: whether to return a norm for each layer. Each copy in a `repeat` is a layer.

  Returns:
    `[N]`, in float32 at least. With `per_layer` the tree of `captured`, with an array `[N]` in
    place of each layer's factors; `[n, N]` in a `repeat(.., n)`.

  Raises:
    TypeError, ValueError: see `gradient`.

  Example:
    >>> from fbackprop.quantities.capture import Linear
    >>> x, y_bar = jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[2.0], [0.0]])
    >>> example_sqnorms(Linear(x, y_bar)).tolist()
    [100.0, 0.0]

  References:
    Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799 (2015), section 4.
  """
  check_flag("example_sqnorms", "per_layer", per_layer)
  layers = read("example_sqnorms", captured)
  return replace_factors(layer_sqnorms, captured) if per_layer else total_sqnorms(layers)


def total_sqnorms(layers: list[Factors]) -> Array:
  """Compute ‖g_i‖² over all layers, `[N]`."""
  squares = [layer_sqnorms(layer) for layer in layers]
  return sum_layers([each.sum(tuple(range(each.ndim - 1))) for each in squares])


def layer_sqnorms(factors: Factors) -> Array:
  """Compute ‖g_i‖² of one layer, `[..., N]`, the copies of a `repeat` in front."""
  if isinstance(factors, ByParameter):
    return sum_layers([parameters.sqnorms(leaf) for leaf in parameters.leaves_of(factors)])
  x, y_bar = (widen(factor) for factor in factors)
  if not is_dense(factors):
    squares = ((y_bar * x) ** 2).sum(-1)
    return squares + (y_bar**2).sum(-1) if has_offset(factors) else squares
  x_squares, y_bar_squares = (x**2).sum(-1), (y_bar**2).sum(-1)
  return (x_squares + 1 if has_offset(factors) else x_squares) * y_bar_squares


def sum_layers(values: list[Array]) -> Array:
  """Sum arrays of one shape in the widest of their dtypes."""
  dtype = jnp.result_type(*{value.dtype: value for value in values})
  return functools.reduce(jnp.add, [value.astype(dtype) for value in values])


def gram(captured: Any, other: Any = None) -> Array:
  """Compute the Gram matrix of per-example gradients, K_ij = g_i · g_j, without forming them.

    K_ij = Σ_l (x_i · x_j + 1) (ȳ_i · ȳ_j)

  over the layers l, without the 1 where there is no bias; for a normalisation (ȳ_i x_hat_i) · (ȳ_j
  x_hat_j) + ȳ_i · ȳ_j.

  The empirical neural tangent kernel is this matrix with another seed: if the seed cotangent is the
  unit vector of output c for each example, instead of a loss's, K_ij = ∂f_c(x_i)/∂Θ · ∂f_c(x_j)/∂Θ.
  With `other`, K_ij = g_i · h_j: the kernel between two batches, or between two outputs.

  Normalisation: that of one example's loss each, not divided by N. An example without gradient has
  a row and a column of 0, unless it meets one that isn't finite; inf and NaN stay in their rows and
  columns.

  Cost: N² (D_in + D_out) products per layer, and N² memory.

  Args:
    captured: see `gradient`.
    other: factors of the same network for other examples, or None for the same ones.

  Returns:
    `[N, N]`, in float32 at least; `[N, M]` for M other examples.

  Raises:
    TypeError, ValueError: see `gradient`; also if `other` is from another network.

  Example:
    >>> from fbackprop.quantities.capture import Linear
    >>> gram(Linear(jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [-1.0]]))).tolist()
    [[1.0, -2.0], [-2.0, 4.0]]

  References:
    Jacot, Gabriel, Hongler, "Neural tangent kernel", NeurIPS (2018); Novak,
    Sohl-Dickstein, Schoenholz, "Fast finite width neural tangent kernel", ICML (2022).
  """
  layers = read("gram", captured)
  others = layers if other is None else read("gram", other)
  if other is not None:
    check_same_network(captured, other)
  return sum_layers([layer_gram(a, b) for a, b in zip(layers, others, strict=True)])


def layer_gram(a: Factors, b: Factors) -> Array:
  """Compute g_i · h_j of one layer, summed over the copies of a `repeat`."""
  if isinstance(a, ByParameter) and isinstance(b, ByParameter):
    pairs = zip(parameters.leaves_of(a), parameters.leaves_of(b), strict=True)
    each = sum_layers([parameters.gram(*pair) for pair in pairs])
    return each.sum(tuple(range(each.ndim - 2)))
  x, y_bar = (widen(factor) for factor in a)
  other_x, other_y_bar = (widen(factor) for factor in b)
  offsets = inner(y_bar, other_y_bar)
  if is_dense(a):
    products = inner(x, other_x)
    products = (products + 1 if has_offset(a) else products) * offsets
  else:
    products = inner(y_bar * x, other_y_bar * other_x)
    products = products + offsets if has_offset(a) else products
  return products.sum(tuple(range(products.ndim - 2)))


def check_same_network(captured: Any, other: Any) -> None:
  """Raise for factors of different networks; the numbers of examples may differ."""
  ours: Any = jax.tree.structure(captured)
  theirs: Any = jax.tree.structure(other)
  if ours != theirs:
    problem = "must be the factors of the network that captured is of"
    said = f"{problem}, got {describe(theirs)} for {describe(ours)}"
    raise StructureError(said, "other", "gram")
  ours, theirs = widths_of(captured), widths_of(other)
  leaves = jax.tree_util.tree_leaves_with_path(captured)
  for i, ((path, want), got) in enumerate(zip(leaves, jax.tree.leaves(other), strict=True)):
    name, wanted = f"other{jax.tree_util.keystr(path)}", f"have the widths of {describe(want)}"
    check_that("gram", name, got, ours[i] == theirs[i], wanted, ShapeError)


def cosine_similarities(captured: Any) -> Array:
  """Compute the cosine similarity of each pair of examples' gradients: K_ij / √(K_ii K_jj).

  An example without gradient has no direction: its row and column are 0, including its diagonal
  entry. An example with a nonfinite gradient has NaN in its row and column, and affects no other.

  Cost: that of `gram`.

  Args:
    captured: see `gradient`.

  Returns:
    `[N, N]`, in float32 at least; from −1 to 1, up to rounding.

  Raises:
    TypeError, ValueError: see `gradient`.

  References:
    Fort, Nowak, Jastrzębski, Narayanan, "Stiffness: a new perspective on generalization in neural
    networks", arXiv:1901.09491 (2019).
  """
  kernel = gram(captured)
  norms = jnp.sqrt(diagonal(kernel))
  return kernel / nonzero(norms[:, None] * norms[None, :])


def global_norm(captured: Any) -> Array:
  """Compute the norm of the summed gradient without forming it: ‖Σ_i g_i‖ = √(Σ_ij K_ij).

  Normalisation: that of the sum; for the mean, divide by N. It is exact, not an estimate; where the
  gradients cancel, it is exact relative to √(Σ_ij |K_ij|), and never below 0. Inf or NaN in an
  example gives inf or NaN, and a batch without examples gives 0.

  Cost: that of `gram`: less than that of the gradient where N² (D_in + D_out) is less than N D_in
  D_out, for N below about half of the width.

  Args:
    captured: see `gradient`.

  Returns:
    `[]`, in float32 at least.

  Raises:
    TypeError, ValueError: see `gradient`.

  Example:
    >>> from fbackprop.quantities.capture import Linear
    >>> float(global_norm(Linear(jnp.eye(2), jnp.array([[3.0], [4.0]]))))
    5.0
  """
  return jnp.sqrt(jnp.maximum(gram(captured).sum(), 0))
