"""Losses of regression: squared error, Huber, log cosh, and Poisson for counts."""

import math
from functools import partial

import jax.numpy as jnp

from fbackprop.losses.rows import check_values, scale_rows
from fbackprop.meshes import split_like
from fbackprop.ranges import POSITIVE, check_range
from fbackprop.types import Array, Loss, Residuals


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
  return Loss("huber", partial(huber_forward, delta=float(delta)), huber_backward)


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


squared_error = Loss("squared_error", squared_error_forward, squared_error_backward)
huber = huber_with(1.0)
log_cosh = Loss("log_cosh", log_cosh_forward, log_cosh_backward)
poisson_nll = Loss("poisson_nll", poisson_nll_forward, poisson_nll_backward)
