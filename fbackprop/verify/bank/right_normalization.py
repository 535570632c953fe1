"""Right rules of normalisations, norms and matrix functions."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen

EPS = 1e-5


def layer_norm(x, scale, shift):
  """(x - mean) / sqrt(var + eps) over the last axis, scaled and shifted."""
  return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + EPS) * scale + shift


def layer_norm_sums():
  """layer_norm's rule in sums: rstd / D (D b - Σ b - x_hat Σ b x_hat)."""

  @jax.custom_vjp
  def norm(x, scale, shift):
    return layer_norm(x, scale, shift)

  def norm_fwd(x, scale, shift):
    rstd = jax.lax.rsqrt(x.var(-1, keepdims=True) + EPS)
    x_hat = (x - x.mean(-1, keepdims=True)) * rstd
    return x_hat * scale + shift, (x_hat, rstd, scale)

  def norm_bwd(residuals, y_bar):
    x_hat, rstd, scale = residuals
    d, bar = x_hat.shape[-1], y_bar * scale
    sums = bar.sum(-1, keepdims=True) + x_hat * (bar * x_hat).sum(-1, keepdims=True)
    return rstd / d * (d * bar - sums), jnp.einsum("nd,nd->d", y_bar, x_hat), y_bar.sum(0)

  norm.defvjp(norm_fwd, norm_bwd)
  return Example(norm, (*draw((6, 5)), *draw_positive((5,)), *draw((5,), seed=2)))


def layer_norm_from_moments():
  """layer_norm's rule by way of the cotangents of variance and mean, with x centred again."""

  def f_vjp(x, scale, shift):
    def pullback(y_bar):
      d = x.shape[-1]
      centered = x - x.mean(-1, keepdims=True)
      rstd = 1 / jnp.sqrt(jnp.mean(centered * centered, -1, keepdims=True) + EPS)
      bar = y_bar * scale
      var_bar = (-0.5 * bar * centered * rstd**3).sum(-1, keepdims=True)
      mean_bar = -(bar * rstd).sum(-1, keepdims=True)
      x_bar = bar * rstd + 2 * var_bar * centered / d + mean_bar / d
      return x_bar, (y_bar * centered * rstd).sum(0), y_bar.sum(0)

    return layer_norm(x, scale, shift), pullback

  arguments = (*draw((6, 5)), *draw_positive((5,)), *draw((5,), seed=2))
  return Example(layer_norm, arguments, f_vjp)


def rms_norm_kept_inverse():
  """rms_norm's rule from y and the inverse root alone; the scale is 1."""

  @jax.custom_vjp
  def rms_norm(x):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + EPS)

  def rms_norm_fwd(x):
    rstd = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS)
    return x * rstd, (x * rstd, rstd)

  def rms_norm_bwd(residuals, y_bar):
    y, rstd = residuals
    return (rstd * (y_bar - y * (y_bar * y).mean(-1, keepdims=True)),)

  rms_norm.defvjp(rms_norm_fwd, rms_norm_bwd)
  return Example(rms_norm, draw((6, 5)))


def batch_norm_projected():
  """batch_norm's rule as a projection: what is along 1 and along x_hat is taken out."""

  @jax.custom_vjp
  def batch_norm(x, scale):
    return (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + EPS) * scale

  def batch_norm_fwd(x, scale):
    return batch_norm(x, scale), (x, scale)

  def batch_norm_bwd(residuals, y_bar):
    x, scale = residuals
    rstd = jax.lax.rsqrt(x.var(0) + EPS)
    x_hat = (x - x.mean(0)) * rstd
    scale_bar = (y_bar * x_hat).sum(0)
    centered_bar = y_bar - y_bar.mean(0)
    return scale * rstd * (centered_bar - x_hat * scale_bar / max(x.shape[0], 1)), scale_bar

  batch_norm.defvjp(batch_norm_fwd, batch_norm_bwd)
  return Example(batch_norm, (*draw((7, 4)), *draw_positive((4,))))


def safe_norm():
  """The length of each row, with the gradient 0 at a zero row by two wheres."""

  def length(x):
    square = (x * x).sum(-1)
    nonzero = square > 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, square, 1)), 0)

  def f_vjp(x):
    y = length(x)

    def pullback(y_bar):
      nonzero = y > 0
      factor = jnp.where(nonzero, y_bar / jnp.where(nonzero, y, 1), 0)
      return (factor[:, None] * x,)

    return y, pullback

  (x,) = draw((5, 3))
  return Example(length, (x.at[2].set(0),), f_vjp)


def ridge_solve():
  """x solves (a aᵀ + 1) x = b; the rule solves with the same matrix, which is symmetric."""

  @jax.custom_vjp
  def solve(a, b):
    return jnp.linalg.solve(a @ a.T + jnp.eye(a.shape[0], dtype=a.dtype), b)

  def solve_fwd(a, b):
    x = solve(a, b)
    return x, (a, x)

  def solve_bwd(residuals, x_bar):
    a, x = residuals
    b_bar = solve(a, x_bar)
    return -(b_bar @ (x.T @ a) + x @ (b_bar.T @ a)), b_bar

  solve.defvjp(solve_fwd, solve_bwd)
  return Example(solve, draw((3, 4), (3, 2)))


def log_determinant():
  """½ log det(1 + a aᵀ) by Cholesky; the rule solves with the factor that was kept."""

  def matrix(a):
    return a @ a.T + jnp.eye(a.shape[0], dtype=a.dtype)

  def half_log_determinant(a):
    return jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix(a)))))

  def f_vjp(a):
    factor = jnp.linalg.cholesky(matrix(a))

    def pullback(y_bar):
      return (y_bar * jax.scipy.linalg.cho_solve((factor, True), a),)

    return jnp.sum(jnp.log(jnp.diagonal(factor))), pullback

  return Example(half_log_determinant, draw((3, 4)), f_vjp)


def attention_rows():
  """Causal attention, row by row by vmap, with D = Σ y y_bar in place of Σ p p_bar."""

  def attend(q, k, v):
    mask = jnp.tril(jnp.ones((q.shape[0], k.shape[0]), bool))
    return jax.nn.softmax(jnp.where(mask, q @ k.T, -jnp.inf)) @ v

  def f_vjp(q, k, v):
    mask = jnp.tril(jnp.ones((q.shape[0], k.shape[0]), bool))
    scores = jnp.where(mask, q @ k.T, -jnp.inf)
    lse = jax.nn.logsumexp(scores, axis=1)
    y = jnp.exp(scores - lse[:, None]) @ v

    def pullback(y_bar):
      delta = (y * y_bar).sum(1)

      def row(q, scores, lse, y_bar, delta):
        p = jnp.exp(scores - lse)
        bar = p * (v @ y_bar - delta)
        return bar @ k, jnp.outer(bar, q), jnp.outer(p, y_bar)

      q_bar, k_bars, v_bars = jax.vmap(row)(q, scores, lse, y_bar, delta)
      return q_bar, k_bars.sum(0), v_bars.sum(0)

    return y, pullback

  return Example(attend, draw((5, 3), (5, 3), (5, 4)), f_vjp)


RIGHT = (
  Specimen("right-layer-norm-sums", layer_norm_sums),
  Specimen("right-layer-norm-from-moments", layer_norm_from_moments),
  Specimen("right-rms-norm-from-output", rms_norm_kept_inverse),
  Specimen("right-batch-norm-projected", batch_norm_projected),
  Specimen("right-safe-norm", safe_norm),
  Specimen("right-ridge-solve", ridge_solve),
  Specimen("right-log-determinant", log_determinant),
  Specimen("right-attention-by-rows", attention_rows),
)
