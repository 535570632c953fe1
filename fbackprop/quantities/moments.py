"""Moments of the per-example gradients: second moment, variance, noise scale."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.layers.factors import Factors
from fbackprop.meshes import product
from fbackprop.quantities.gradients import as_params, mean_of
from fbackprop.quantities.kernels import sum_layers, total_sqnorms
from fbackprop.quantities.traversal import count_examples, is_dense, read, replace_factors
from fbackprop.types import Array, Params, exportable, widen


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
  n = count_examples(read("variance", captured))

  def layer_variance(factors: Factors) -> Any:
    # The same expression as in `compute`, so that one program computes it once.
    return jax.tree.map(unbiased, summed_squares(factors), mean_of(factors))

  def unbiased(squares: Array, mean: Array) -> Array:
    if n < 2:
      return jnp.full_like(squares, jnp.nan)
    return jnp.maximum(squares - n * widen(mean) ** 2, 0) / (n - 1)

  return replace_factors(layer_variance, captured)


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
  n = count_examples(layers)
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
