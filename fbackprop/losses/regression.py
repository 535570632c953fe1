"""Losses of regression: squared error, Huber, log cosh, and Poisson for counts."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from fbackprop.losses.rows import check_values, diagonal_root, scale_rows
from fbackprop.meshes import split_like
from fbackprop.ranges import POSITIVE, check_range
from fbackprop.types import Array, Loss, LossCurvature, Residuals


def squared_error_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = ½ Σ_c (y_nc − t_nc)².

  Args:
    outputs: y `[N, C]`.
    targets: t `[N, C]`, dtype of `outputs`.

  Returns:
    `(losses [N], residuals)`; the residual is y − t.
  """
  check_values("squared_error", outputs, targets)
  error = outputs - targets
  return 0.5 * (error * error).sum(1), error


def squared_error_backward(error: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂y_nc = y_nc − t_nc, the residual."""
  return scale_rows(error, losses_bar)


def squared_error_root(outputs: Array, targets: Array) -> Array:
  """H_n = I: the root is I."""
  check_values("squared_error", outputs, targets)
  return diagonal_root(jnp.ones_like(outputs))


def squared_error_product(outputs: Array, targets: Array, v: Array) -> Array:
  """H_n v_n = v_n."""
  return v


def squared_error_sample(key: Array, outputs: Array, targets: Array) -> Array:
  """y − t for t drawn from the normal distribution of mean y and variance 1."""
  return jax.random.normal(key, outputs.shape, outputs.dtype)


def huber_forward(outputs: Array, targets: Array, delta: float = 1.0) -> tuple[Array, Residuals]:
  """losses_n = Σ_c h(y_nc − t_nc), h(e) = ½ e² where |e| < δ, and δ (|e| − ½ δ) elsewhere.

  The slope is continuous, at |e| = δ too. The curvature jumps there from 1 to 0; at |e| = δ itself
  it is 0, since the point belongs to the line, as in Huber's definition.

  Args:
    outputs: y `[N, C]`.
    targets: t `[N, C]`, dtype of `outputs`.
    delta: δ, where the square turns into a line.

  Returns:
    `(losses [N], residuals)`; the residual is the slope, e clipped to ±δ.

  References:
    Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35
    (1964), 73–101.
  """
  check_values("huber", outputs, targets)
  error = outputs - targets
  size = jnp.abs(error)
  near = size < delta
  losses = jnp.where(near, 0.5 * error * error, delta * (size - 0.5 * delta)).sum(1)
  return losses, jnp.where(near, error, delta * jnp.sign(error))


def huber_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂y_nc = min(max(y_nc − t_nc, −δ), δ), the residual."""
  return scale_rows(rows, losses_bar)


def huber_curvature(delta: float) -> LossCurvature:
  """H_n is diagonal: 1 where |y − t| < δ, and 0 beyond, at ±δ too.

  The Fisher information is that of the density e^(−h(e)), which is normal within ±δ and exponential
  beyond, with the masses A = √(2π) erf(δ/√2) and B = 2 e^(−δ²/2) / δ: the identity times A / (A +
  B), the share of errors within ±δ.
  """
  within = math.sqrt(2 * math.pi) * math.erf(delta / math.sqrt(2))
  share = within / (within + 2 * math.exp(-(delta**2) / 2) / delta)

  def near(outputs: Array, targets: Array) -> Array:
    check_values("huber", outputs, targets)
    return (jnp.abs(outputs - targets) < delta).astype(outputs.dtype)

  def huber_root(outputs: Array, targets: Array) -> Array:
    return diagonal_root(near(outputs, targets))

  def huber_product(outputs: Array, targets: Array, v: Array) -> Array:
    return near(outputs, targets) * v

  def huber_sample(key: Array, outputs: Array, targets: Array) -> Array:
    of_part, of_sign, of_error = jax.random.split(key, 3)
    shape, dtype = outputs.shape, outputs.dtype
    error = jax.random.truncated_normal(of_error, -delta, delta, shape, dtype)
    edge = delta * jax.random.rademacher(of_sign, shape, dtype)
    return jnp.where(jax.random.uniform(of_part, shape, dtype) < share, error, edge)

  def huber_fisher(outputs: Array, targets: Array) -> Array:
    return diagonal_root(jnp.full_like(outputs, math.sqrt(share)))

  return LossCurvature(huber_root, huber_product, huber_sample, huber_fisher)


def huber_with(delta: float) -> Loss:
  """Build the Huber loss that is quadratic for errors up to ±`delta` and linear beyond.

  Args:
    delta: δ, a number above 0, in units of the outputs. `huber` is `huber_with(1.0)`.

  Returns:
    The `Loss`; see `huber_forward`.

  Raises:
    TypeError: `delta` isn't a number.
    ValueError: `delta` isn't above 0, or isn't finite.

  Example:
    >>> losses, _ = huber_with(0.5).forward(jnp.array([[0.25, 2.0]]), jnp.zeros((1, 2)))
    >>> print(losses)  # 0.25² / 2 + 0.5 (2 − 0.25)
    [0.90625]
  """
  check_range("huber_with", "delta", delta, POSITIVE)
  delta = float(delta)
  forward = partial(huber_forward, delta=delta)
  return Loss("huber", forward, huber_backward, huber_curvature(delta))


def log_cosh_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = Σ_c log cosh(y_nc − t_nc): e²/2 for small errors, |e| − log 2 for large ones.

  Near 0, where cosh e has lost the digits of e, it is computed as −½ log(1 − tanh² e); beyond ±1
  the exponential that would overflow is factored out: |e| − log 2 + log(1 + e^(−2|e|)).

  Args:
    outputs: y `[N, C]`.
    targets: t `[N, C]`, dtype of `outputs`.

  Returns:
    `(losses [N], residuals)`; the residual is tanh(y − t).

  References:
    Green, "Bayesian reconstructions from emission tomography data using a modified EM algorithm",
    IEEE Transactions on Medical Imaging 9 (1990), 84–93.
  """
  check_values("log_cosh", outputs, targets)
  error = outputs - targets
  slope = jnp.tanh(error)
  size = jnp.abs(error)
  is_small = size < 1
  small_slope = jnp.where(is_small, slope, jnp.zeros_like(slope))
  small = -0.5 * jnp.log1p(-small_slope * small_slope)
  large = size - math.log(2) + jnp.log1p(jnp.exp(-2 * size))
  return jnp.where(is_small, small, large).sum(1), slope


def log_cosh_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂y_nc = tanh(y_nc − t_nc), the residual."""
  return scale_rows(rows, losses_bar)


def log_cosh_root(outputs: Array, targets: Array) -> Array:
  """H_n is diagonal, 1 − tanh² e = 1 / cosh² e with e = y − t; the root is 1 / cosh e."""
  return diagonal_root(inverse_cosh(outputs, targets))


def log_cosh_product(outputs: Array, targets: Array, v: Array) -> Array:
  """H_n v_n = v_n / cosh² e."""
  return inverse_cosh(outputs, targets) ** 2 * v


def inverse_cosh(outputs: Array, targets: Array) -> Array:
  """Compute 1 / cosh(y − t) as 2 e^(−|e|) / (1 + e^(−2|e|)), in which nothing overflows."""
  check_values("log_cosh", outputs, targets)
  small = jnp.exp(-jnp.abs(outputs - targets))
  return 2 * small / (1 + small * small)


def log_cosh_sample(key: Array, outputs: Array, targets: Array) -> Array:
  """tanh e for e drawn from the density 1 / (π cosh e), whose quantile at u is log tan(π u / 2)."""
  return -jnp.cos(math.pi * jax.random.uniform(key, outputs.shape, outputs.dtype))


def log_cosh_fisher(outputs: Array, targets: Array) -> Array:
  """The mean of tanh² e under that density is ½."""
  return diagonal_root(jnp.full_like(outputs, math.sqrt(0.5)))


def poisson_nll_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = Σ_c e^(z_nc) − t_nc z_nc: −log Poisson(t; e^z) without the constant log t!.

  This is `torch.nn.PoissonNLLLoss` at its defaults. A log rate −inf, the rate 0, is valid where t
  is 0; where t isn't 0 the loss is +inf, and the slope −t. Where the rate overflows, so does the
  loss; a log rate +inf gives NaN.

  Args:
    outputs: z `[N, C]`, the logarithms of the rates.
    targets: t `[N, C]`, counts or amounts, not negative, dtype of `outputs`.

  Returns:
    `(losses [N], residuals)`; the residual is e^z − t.

  References:
    Nelder, Wedderburn, "Generalized linear models", Journal of the Royal Statistical Society A 135
    (1972), 370–384.
  """
  check_values("poisson_nll", outputs, targets)
  z, t = outputs, split_like(targets, outputs)
  rate = jnp.exp(z)
  return (rate - jnp.where(t == 0, jnp.zeros_like(z), t * z)).sum(1), rate - t


def poisson_nll_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂z_nc = e^(z_nc) − t_nc, the residual."""
  return scale_rows(rows, losses_bar)


def poisson_nll_root(outputs: Array, targets: Array) -> Array:
  """H_n is diagonal, the rates e^z; the root is e^(z/2)."""
  check_values("poisson_nll", outputs, targets)
  return diagonal_root(jnp.exp(0.5 * outputs))


def poisson_nll_product(outputs: Array, targets: Array, v: Array) -> Array:
  """H_n v_n = e^z v_n."""
  return jnp.exp(outputs) * v


def poisson_nll_sample(key: Array, outputs: Array, targets: Array) -> Array:
  """e^z − t for t drawn from the Poisson distribution of rate e^z."""
  rate = jnp.exp(outputs)
  return rate - jax.random.poisson(key, rate).astype(rate.dtype)


squared_error = Loss(
  "squared_error", squared_error_forward, squared_error_backward,
  LossCurvature(squared_error_root, squared_error_product, squared_error_sample),
)  # fmt: skip
huber = huber_with(1.0)
log_cosh = Loss(
  "log_cosh", log_cosh_forward, log_cosh_backward,
  LossCurvature(log_cosh_root, log_cosh_product, log_cosh_sample, log_cosh_fisher),
)  # fmt: skip
poisson_nll = Loss(
  "poisson_nll", poisson_nll_forward, poisson_nll_backward,
  LossCurvature(poisson_nll_root, poisson_nll_product, poisson_nll_sample),
)  # fmt: skip
