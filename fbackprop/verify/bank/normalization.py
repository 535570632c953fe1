"""Normalisations, norms and matrix functions: a wrong correction, eps, divisor or point."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.specimen import bug, normal, positive, right

EPS = 1e-5


def normalized(x):
  """Return (x - mean) / sqrt(var + eps) over the last axis, and 1 / sqrt(var + eps)."""
  centered = x - mean(x)
  rstd = jax.lax.rsqrt(mean(centered**2) + EPS)
  return centered * rstd, rstd


def mean(x):
  """Compute the mean over the last axis, which is kept."""
  return x.mean(-1, keepdims=True)


def layer_norm_forward(x, scale, shift):
  """Compute (x - mean) / sqrt(var + eps) over the last axis, scaled and shifted; keep x_hat."""
  x_hat, rstd = normalized(x)
  return x_hat * scale + shift, (x_hat, rstd, scale)


def layer_norm(x, scale, shift):
  """Compute `layer_norm_forward` alone."""
  return layer_norm_forward(x, scale, shift)[0]


def inverse_root(x):
  """Compute 1 / sqrt(mean of squares + eps) over the last axis."""
  return jax.lax.rsqrt(mean(x * x) + EPS)


LAYER_NORM = (layer_norm, (6, 5), positive(5), normal(5, seed=2))


def scale_and_shift_bar(x_hat, y_bar):
  """Pull a cotangent back to the scale and the shift."""
  return (y_bar * x_hat).sum(0), y_bar.sum(0)


@bug("x: path", *LAYER_NORM, forward=layer_norm_forward)
def layer_norm_without_mean(x_hat, rstd, scale, y_bar):
  """The correction by the mean of the cotangent is missing."""
  bar = y_bar * scale
  return rstd * (bar - x_hat * mean(bar * x_hat)), *scale_and_shift_bar(x_hat, y_bar)


@bug("x: path", *LAYER_NORM, forward=layer_norm_forward)
def layer_norm_without_variance(x_hat, rstd, scale, y_bar):
  """The correction along x_hat is missing."""
  bar = y_bar * scale
  return rstd * (bar - mean(bar)), *scale_and_shift_bar(x_hat, y_bar)


@bug("x: other function, wrong point, not finite", *LAYER_NORM)
def layer_norm_without_eps(x, scale, shift, y_bar):
  """The rule recomputes x_hat without eps: wrong by 1e-5 where the variance is near 1."""
  centered, bar = x - mean(x), y_bar * scale
  rstd = jax.lax.rsqrt(mean(centered**2))
  x_hat = centered * rstd
  x_bar = rstd * (bar - (mean(bar) + x_hat * mean(bar * x_hat)))
  return x_bar, *scale_and_shift_bar(normalized(x)[0], y_bar)


@bug("x: path, other function", *LAYER_NORM, forward=layer_norm_forward)
def layer_norm_unbiased(x_hat, rstd, scale, y_bar):
  """The correction along x_hat divides by D - 1."""
  bar = y_bar * scale
  along = x_hat * (bar * x_hat).sum(-1, keepdims=True) / (x_hat.shape[-1] - 1)
  return rstd * (bar - mean(bar) - along), *scale_and_shift_bar(x_hat, y_bar)


@bug("x: path, other function", *LAYER_NORM, forward=layer_norm_forward)
def layer_norm_axis(x_hat, rstd, scale, y_bar):
  """The mean of the cotangent is taken over the examples."""
  bar = y_bar * scale
  x_bar = rstd * (bar - bar.mean(0, keepdims=True) - x_hat * mean(bar * x_hat))
  return x_bar, *scale_and_shift_bar(x_hat, y_bar)


@bug("x: path, other function", *LAYER_NORM, f_vjp=True)
def layer_norm_scale_left_out(x, scale, shift, y_bar):
  """The corrections use the cotangent of y instead of x_hat's: the scale is missing there."""
  x_hat, rstd = normalized(x)
  x_bar = rstd * (y_bar * scale - (mean(y_bar) + x_hat * mean(y_bar * x_hat)))
  return x_bar, *scale_and_shift_bar(x_hat, y_bar)


@right(*LAYER_NORM, forward=layer_norm_forward)
def right_layer_norm_sums(x_hat, rstd, scale, y_bar):
  """layer_norm's rule in sums: rstd / D (D b - Σ b - x_hat Σ b x_hat)."""
  d, bar = x_hat.shape[-1], y_bar * scale
  sums = bar.sum(-1, keepdims=True) + x_hat * (bar * x_hat).sum(-1, keepdims=True)
  return rstd / d * (d * bar - sums), jnp.einsum("nd,nd->d", y_bar, x_hat), y_bar.sum(0)


@right(*LAYER_NORM, f_vjp=True)
def right_layer_norm_from_moments(x, scale, shift, y_bar):
  """layer_norm's rule through the cotangents of variance and mean, with x centred again."""
  d, bar, centered = x.shape[-1], y_bar * scale, x - mean(x)
  rstd = 1 / jnp.sqrt(jnp.mean(centered * centered, -1, keepdims=True) + EPS)
  var_bar = (-0.5 * bar * centered * rstd**3).sum(-1, keepdims=True)
  mean_bar = -(bar * rstd).sum(-1, keepdims=True)
  x_bar = bar * rstd + 2 * var_bar * centered / d + mean_bar / d
  return x_bar, (y_bar * centered * rstd).sum(0), y_bar.sum(0)


@bug("scale: wrong point", lambda x, scale: scale * x * inverse_root(x), (6, 5), positive(5),
     f_vjp=True)  # fmt: skip
def rms_norm_scale_at_input(x, scale, y_bar):
  """The scale's cotangent uses x instead of the normalised x_hat."""
  rstd = inverse_root(x)
  x_hat, bar = x * rstd, y_bar * scale
  return rstd * (bar - x_hat * mean(bar * x_hat)), (y_bar * x).sum(0)


def rms_norm(x):
  """Divide by the root mean square over the last axis."""
  return x * inverse_root(x)


@bug("x: path", rms_norm, (6, 5))
def rms_norm_constant(x, y_bar):
  """The rule of rms_norm treats the root mean square as a constant."""
  return (y_bar * inverse_root(x),)


@right(rms_norm, (6, 5), forward=lambda x: (rms_norm(x), (rms_norm(x), inverse_root(x))))
def right_rms_norm_from_output(y, rstd, y_bar):
  """rms_norm's rule from y and the inverse root alone; the scale is 1."""
  return (rstd * (y_bar - y * mean(y_bar * y)),)


def batch_norm(x, scale):
  """Normalise over the examples."""
  return (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + EPS) * scale


@bug("x: path", batch_norm, (7, 4), positive(4))
def batch_norm_constant(x, scale, y_bar):
  """batch_norm's rule is that of evaluation, with the batch's mean and variance as constants."""
  rstd = jax.lax.rsqrt(x.var(0) + EPS)
  return y_bar * rstd * scale, (y_bar * ((x - x.mean(0)) * rstd)).sum(0)


@right(batch_norm, (7, 4), positive(4))
def right_batch_norm_projected(x, scale, y_bar):
  """batch_norm's rule as a projection that removes the components along 1 and x_hat."""
  rstd = jax.lax.rsqrt(x.var(0) + EPS)
  x_hat = (x - x.mean(0)) * rstd
  scale_bar = (y_bar * x_hat).sum(0)
  along = x_hat * scale_bar / max(x.shape[0], 1)
  return scale * rstd * (y_bar - y_bar.mean(0) - along), scale_bar


@bug("x: not finite", lambda x: x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6), (5, 3),
     level="standard")  # fmt: skip
def norm_at_zero(x, y_bar):
  """The forward pass has an eps under its root; the rule divides by the norm, 0/0 at a zero row."""
  length = jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)
  norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
  along = (x / length) * norm / length
  return ((y_bar - along * (y_bar * (x / norm)).sum(-1, keepdims=True)) / length,)


def length_of_rows(x):
  """Compute the length of each row, with a gradient of 0 at a zero row."""
  square = (x * x).sum(-1)
  nonzero = square > 0
  return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, square, 1)), 0)


@right(length_of_rows, lambda: normal(5, 3, seed=0)().at[2].set(0), f_vjp=True)
def right_safe_norm(x, y_bar):
  """The length of each row, with the gradient 0 at a zero row by two wheres."""
  y = length_of_rows(x)
  nonzero = y > 0
  return (jnp.where(nonzero, y_bar / jnp.where(nonzero, y, 1), 0)[:, None] * x,)


@bug("v: path", lambda x, v, g: x @ (g * v / jnp.linalg.norm(v, axis=0)), (5, 4), (4, 3),
     positive(3), f_vjp=True)  # fmt: skip
def weight_norm_projection(x, v, g, y_bar):
  """The cotangent of v in g v / |v| lacks the projection that preserves the length."""
  length, w_bar = jnp.linalg.norm(v, axis=0), x.T @ y_bar
  return y_bar @ (g * v / length).T, w_bar * g / length, (w_bar * v / length).sum(0)


def gram(a):
  """Compute a aᵀ + 1, which is symmetric and positive definite."""
  return a @ a.T + jnp.eye(a.shape[0], dtype=a.dtype)


def ridge_solve(a, b):
  """Solve (a aᵀ + 1) x = b."""
  return jnp.linalg.solve(gram(a), b)


@right(ridge_solve, (3, 4), (3, 2))
def right_ridge_solve(a, b, x_bar):
  """The rule solves with the same matrix, which is symmetric."""
  x, b_bar = ridge_solve(a, b), ridge_solve(a, x_bar)
  return -(b_bar @ (x.T @ a) + x @ (b_bar.T @ a)), b_bar


@right(lambda a: jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(gram(a))))), (3, 4), f_vjp=True)
def right_log_determinant(a, y_bar):
  """The rule of a log determinant solves with the Cholesky factor."""
  factor = jnp.linalg.cholesky(gram(a))
  return (y_bar * jax.scipy.linalg.cho_solve((factor, True), a),)
