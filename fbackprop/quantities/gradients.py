"""The summed gradient, the gradient of each example, and the moments of these gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.layers.dense import DenseParams
from fbackprop.layers.factors import ByParameter, Factors, is_factors
from fbackprop.layers.normalization import NormParams
from fbackprop.meshes import product
from fbackprop.quantities import parameters
from fbackprop.quantities.capture import (
  count_examples,
  has_offset,
  is_dense,
  read,
  replace_factors,
)  # fmt: skip
from fbackprop.quantities.kernels import sum_layers, total_sqnorms
from fbackprop.types import Array, Layer, Params, Residuals, exportable, widen


def gradient(captured: Any) -> Params:
  """Compute the summed gradient Σ_i g_i that the plain backward pass returns.

    w_bar = xᵀ ȳ,   b_bar = Σ_i ȳ_i;   scale_bar = Σ_i ȳ_i x_hat_i,   shift_bar = Σ_i ȳ_i.

  Normalisation: a sum, not a mean. A nonfinite entry of one example is nonfinite in the sum, and a
  batch without examples gives zero.

  Cost: the products of the plain backward pass.

  Args:
    captured: the parameters' result of the backward pass of a network of captured layers.

  Returns:
    The structure, shapes and dtypes of the network's parameters.

  Raises:
    TypeError: an array isn't floating, or two arrays of one layer differ in dtype.
    ValueError: a node of the tree isn't factors, or their shapes don't fit. The message names its
      path.

  Example:
    >>> from fbackprop.quantities.capture import Affine
    >>> x, y_bar = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[1.0], [10.0]])
    >>> grads = gradient(Affine(x, y_bar))
    >>> grads.w.tolist(), grads.b.tolist()
    ([[31.0], [42.0]], [11.0])

  References:
    Rumelhart, Hinton, Williams, Nature 323 (1986), 533–536, eq. 6.
  """
  read("gradient", captured)
  return replace_factors(summed, captured)


def summed(factors: Factors) -> Any:
  """Compute Σ_i g_i of one layer."""
  if isinstance(factors, ByParameter):
    return parameters.replace_leaves(parameters.total, factors)
  x, y_bar = factors
  first = product(jnp.swapaxes(x, -1, -2), y_bar) if is_dense(factors) else (y_bar * x).sum(-2)
  return as_params(factors, first, y_bar.sum(-2))


def as_params(factors: Factors, first: Array, offset: Array) -> DenseParams | NormParams:
  """Return the statistics of w and b, or of scale and shift, as the layer's parameters."""
  kind = DenseParams if is_dense(factors) else NormParams
  return kind(first, offset if has_offset(factors) else None)


def mean_gradient(captured: Any) -> Params:
  """Compute Σ_i g_i / N, or 0 for N = 0; divide before the sum, which in float16 might overflow.

  The plain backward pass does the same, since its seed cotangents are 1/N.
  """
  return replace_factors(mean_of, captured)


def mean_of(factors: Factors) -> Any:
  """Compute Σ_i g_i / N of one layer."""
  n = max(count_examples(factors), 1)
  if isinstance(factors, ByParameter):
    share = jnp.asarray(1 / n)
    return summed(ByParameter(parameters.replace_leaves(
      lambda leaf: parameters.scaled(leaf, share), factors)))  # fmt: skip
  return summed(factors._replace(y_bar=factors.y_bar / n))


def without_factors(tree: Any) -> Any:
  """Replace factors in a pytree by summed gradients, and leave all else unchanged."""
  return replace_factors(lambda node: summed(node) if is_factors(node) else node, tree)


def plain(net: Layer) -> Layer:
  """Return a network with the plain backward pass, its layers captured or not."""

  def plain_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Array]:
    params_bar, x_bar = net.backward(params, residuals, y_bar)
    return without_factors(params_bar), x_bar

  return net._replace(backward=plain_backward)


def example_gradients(captured: Any) -> Params:
  """Compute the gradient of each example's loss, g_i, with the axis N in front.

    w_bar_i = x_i ⊗ ȳ_i,   b_bar_i = ȳ_i;   scale_bar_i = ȳ_i x_hat_i,   shift_bar_i = ȳ_i.

  Normalisation: each is the gradient of one example's loss, not divided by N. Nonfinite values of
  an example stay in its own row.

  Cost: N times the memory of the parameters. For most statistics of these gradients there is a
  function here that doesn't form them.

  Args:
    captured: see `gradient`.

  Returns:
    The structure and dtypes of the parameters, each leaf `[N, *shape]`, as from `vmap` of a
    gradient.

  Raises:
    TypeError, ValueError: see `gradient`.

  References:
    Goodfellow, "Efficient per-example gradient computations", arXiv:1510.01799 (2015), section 3.
  """
  read("example_gradients", captured)
  return replace_factors(unsummed, captured)


def unsummed(factors: Factors) -> Any:
  """Compute g_i of one layer for all i."""
  if isinstance(factors, ByParameter):
    return parameters.replace_leaves(parameters.unsummed, factors)
  x, y_bar = factors
  if is_dense(factors):
    first = jnp.moveaxis(x[..., :, None] * y_bar[..., None, :], -3, 0)
  else:
    first = jnp.moveaxis(y_bar * x, -2, 0)
  return as_params(factors, first, jnp.moveaxis(y_bar, -2, 0))


# --- Moments --------------------------------------------------------------------------------------


def second_moment(captured: Any) -> Params:
  """Compute the sum of squared per-example gradients, elementwise: Σ_i g_i².

  The square of a product is the product of the squares, hence

    Σ_i w_bar_i² = (x²)ᵀ (ȳ²),   Σ_i b_bar_i² = Σ_i ȳ_i²,

  and for a normalisation Σ_i (ȳ_i x_hat_i)² and Σ_i ȳ_i².

  Normalisation: a sum, not a mean, and not centred. An example without gradient adds 0; inf and NaN
  propagate. A batch without examples gives 0.

  Cost: one product per layer, of the size of the gradient's.

  Args:
    captured: see `gradient`.

  Returns:
    The structure and shapes of the network's parameters, in float32 at least.

  Raises:
    TypeError, ValueError: see `gradient`.

  References:
    Dangel, Kunstner, Hennig, "BackPACK: packing more into backprop", ICLR (2020), appendix A.1.
  """
  read("second_moment", captured)
  return replace_factors(summed_squares, captured)


def summed_squares(factors: Factors) -> Any:
  """Compute Σ_i g_i² of one layer."""
  if isinstance(factors, ByParameter):
    return parameters.replace_leaves(parameters.summed_squares, factors)
  x, y_bar = (widen(factor) for factor in factors)
  is_outer, squares = is_dense(factors), y_bar**2
  first = product(jnp.swapaxes(x**2, -1, -2), squares) if is_outer else ((y_bar * x) ** 2).sum(-2)
  return as_params(factors, first, squares.sum(-2))


def variance(captured: Any) -> Params:
  """Compute the unbiased variance of the per-example gradients, elementwise.

    (Σ_i g_i² − (Σ_i g_i)² / N) / (N − 1)

  Normalisation: the variance of one example's gradient; that of the mean gradient is N times
  smaller. For fewer than two examples every entry is NaN. Inf and NaN of an example give NaN.

  Range: the two terms cancel where the gradients agree. The error is about ε Σ_i g_i² / (N − 1)
  with the dtype's ε, so that a variance below ε times the squared mean is noise; the result is
  never below 0.

  Cost: that of `gradient` and of `second_moment`.

  Args:
    captured: see `gradient`.

  Returns:
    The structure and shapes of the network's parameters, in float32 at least.

  Raises:
    TypeError, ValueError: see `gradient`.

  References:
    Dangel, Kunstner, Hennig, "BackPACK: packing more into backprop", ICLR (2020), appendix A.1,
    where it is biased: divided by N.
  """
  n = count_examples(read("variance", captured)[0])

  def unbiased(squares: Array, mean: Array) -> Array:
    if n < 2:
      return jnp.full_like(squares, jnp.nan)
    return jnp.maximum(squares - n * widen(mean) ** 2, 0) / (n - 1)

  # The mean is the same expression as in `compute`, so that one program computes it once.
  return replace_factors(lambda f: jax.tree.map(unbiased, summed_squares(f), mean_of(f)), captured)


@exportable
class NoiseScale(NamedTuple):
  """The gradient noise scale and its two terms, each `[]`.

  Attributes:
    scale: tr Σ / ‖G‖², in examples: the simple noise scale, or critical batch size.
    trace: tr Σ, the summed variance of one example's gradient; an unbiased estimate.
    sqnorm: ‖G‖², the squared norm of the true gradient; an unbiased estimate, which may be negative
      where the batch is too small to see the gradient through its noise.
  """

  scale: Array
  trace: Array
  sqnorm: Array


def noise_scale(captured: Any) -> NoiseScale:
  """Estimate the simple noise scale: the batch size at which noise equals the gradient in size.

  With m = Σ_i ‖g_i‖² / N, the mean squared norm, and q = ‖Σ_i g_i / N‖², that of the mean,

    tr Σ = (m − q) N / (N − 1),   ‖G‖² = (N q − m) / (N − 1),   scale = tr Σ / ‖G‖².

  The naive estimate q of ‖G‖² is too large by tr Σ / N. The two estimates are unbiased, but their
  quotient isn't: average each over some steps, and then divide.

  Normalisation: that of one example's gradient; the seed cotangents must be 1, not 1/N. Fewer than
  two examples give NaN. Where `sqnorm` is 0 or below, `scale` is infinite or negative, and
  meaningless; if all examples are without gradient, `trace` and `sqnorm` are 0 and `scale` is NaN.
  Inf or NaN in an example make all three NaN.

  Cost: that of `example_sqnorms`, and of `gradient` for q.

  Args:
    captured: see `gradient`.

  Returns:
    `NoiseScale(scale, trace, sqnorm)`, each `[]`, in float32 at least.

  Raises:
    TypeError, ValueError: see `gradient`.

  Example:
    >>> from fbackprop.quantities.capture import Linear
    >>> noise_scale(Linear(jnp.ones((2, 1)), jnp.array([[1.0], [3.0]])))[1:]
    (Array(2., dtype=float32), Array(3., dtype=float32))

  References:
    McCandlish, Kaplan, Amodei et al., "An empirical model of large-batch training",
    arXiv:1812.06162 (2018), appendix A.1, with batches of 1 and N.
  """
  layers = read("noise_scale", captured)
  n = count_examples(layers[0])
  squares = total_sqnorms(layers)
  if n < 2:
    return NoiseScale(*[jnp.full((), jnp.nan, squares.dtype)] * 3)
  entries = [entry for layer in layers for entry in jax.tree.leaves(mean_of(layer))]
  of_mean = sum_layers([(widen(entry) ** 2).sum() for entry in entries])
  mean = squares.sum() / n
  # With two infinite terms it would be inf − inf in one and inf in the other.
  finite = jnp.isfinite(mean) & jnp.isfinite(of_mean)
  # Below 0 only by rounding, where the gradients agree.
  trace = jnp.where(finite, jnp.maximum(mean - of_mean, 0) * (n / (n - 1)), jnp.nan)
  sqnorm = jnp.where(finite, (n * of_mean - mean) / (n - 1), jnp.nan)
  return NoiseScale(trace / sqnorm, trace, sqnorm)
