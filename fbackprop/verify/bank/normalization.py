"""Bugs of normalisations: each correction term, eps, the divisor, the point."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen

EPS = 1e-5


def layer_norm(x, scale, shift):
  """(x - mean) / sqrt(var + eps) over the last axis, scaled and shifted."""
  centered = x - x.mean(-1, keepdims=True)
  return centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + EPS) * scale + shift


def layer_norm_with(x_rule):
  """A layer_norm whose `x_rule(x_hat, rstd, x_hat_bar, centered)` gives the input's cotangent."""

  @jax.custom_vjp
  def norm(x, scale, shift):
    return layer_norm(x, scale, shift)

  def norm_fwd(x, scale, shift):
    return layer_norm(x, scale, shift), (x, scale)

  def norm_bwd(residuals, y_bar):
    x, scale = residuals
    centered = x - x.mean(-1, keepdims=True)
    rstd = jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + EPS)
    x_bar = x_rule(centered * rstd, rstd, y_bar * scale, centered)
    return x_bar, (y_bar * centered * rstd).sum(0), y_bar.sum(0)

  norm.defvjp(norm_fwd, norm_bwd)
  return Example(norm, (*draw((6, 5)), *draw_positive((5,)), *draw((5,), seed=2)))


def without_mean_term():
  """layer_norm's correction by the mean of the cotangent is missing."""

  def x_rule(x_hat, rstd, bar, centered):
    return rstd * (bar - x_hat * (bar * x_hat).mean(-1, keepdims=True))

  return layer_norm_with(x_rule)


def without_variance_term():
  """layer_norm's correction along x_hat is missing."""

  def x_rule(x_hat, rstd, bar, centered):
    return rstd * (bar - bar.mean(-1, keepdims=True))

  return layer_norm_with(x_rule)


def without_eps():
  """x_hat is recomputed in the rule without eps: wrong by 1e-5 where the variance is near 1."""

  def x_rule(x_hat, rstd, bar, centered):
    rstd = jax.lax.rsqrt((centered**2).mean(-1, keepdims=True))
    x_hat = centered * rstd
    both = bar.mean(-1, keepdims=True) + x_hat * (bar * x_hat).mean(-1, keepdims=True)
    return rstd * (bar - both)

  return layer_norm_with(x_rule)


def unbiased_divisor():
  """The correction along x_hat divides by D - 1."""

  def x_rule(x_hat, rstd, bar, centered):
    along = x_hat * (bar * x_hat).sum(-1, keepdims=True) / (x_hat.shape[-1] - 1)
    return rstd * (bar - bar.mean(-1, keepdims=True) - along)

  return layer_norm_with(x_rule)


def axis_of_examples():
  """The mean of the cotangent is taken over the examples."""

  def x_rule(x_hat, rstd, bar, centered):
    along = x_hat * (bar * x_hat).mean(-1, keepdims=True)
    return rstd * (bar - bar.mean(0, keepdims=True) - along)

  return layer_norm_with(x_rule)


def scale_left_out():
  """The corrections take the cotangent of y, not that of x_hat: the scale is forgotten there."""

  def norm(x, scale):
    return layer_norm(x, scale, jnp.zeros_like(scale))

  def f_vjp(x, scale):
    centered = x - x.mean(-1, keepdims=True)
    rstd = jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + EPS)
    x_hat = centered * rstd

    def pullback(y_bar):
      both = y_bar.mean(-1, keepdims=True) + x_hat * (y_bar * x_hat).mean(-1, keepdims=True)
      return rstd * (y_bar * scale - both), (y_bar * x_hat).sum(0)

    return norm(x, scale), pullback

  return Example(norm, (*draw((6, 5)), *draw_positive((5,))), f_vjp)


def scale_at_input():
  """The scale's cotangent takes x where the normalised x_hat belongs."""

  def norm(x, scale):
    return scale * x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS)

  def f_vjp(x, scale):
    rstd = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS)
    x_hat = x * rstd

    def pullback(y_bar):
      bar = y_bar * scale
      x_bar = rstd * (bar - x_hat * (bar * x_hat).mean(-1, keepdims=True))
      return x_bar, (y_bar * x).sum(0)

    return norm(x, scale), pullback

  return Example(norm, (*draw((6, 5)), *draw_positive((5,))), f_vjp)


def rms_without_correction():
  """rms_norm takes its root mean square for a constant."""

  @jax.custom_vjp
  def rms_norm(x):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS)

  def rms_norm_fwd(x):
    rstd = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPS)
    return x * rstd, rstd

  def rms_norm_bwd(rstd, y_bar):
    return (y_bar * rstd,)

  rms_norm.defvjp(rms_norm_fwd, rms_norm_bwd)
  return Example(rms_norm, draw((6, 5)))


def batch_statistics_constant():
  """batch_norm's rule is that of evaluation, with the batch's mean and variance as constants."""

  @jax.custom_vjp
  def batch_norm(x, scale):
    return (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + EPS) * scale

  def batch_norm_fwd(x, scale):
    rstd = jax.lax.rsqrt(x.var(0) + EPS)
    return batch_norm(x, scale), ((x - x.mean(0)) * rstd, rstd, scale)

  def batch_norm_bwd(residuals, y_bar):
    x_hat, rstd, scale = residuals
    return y_bar * rstd * scale, (y_bar * x_hat).sum(0)

  batch_norm.defvjp(batch_norm_fwd, batch_norm_bwd)
  return Example(batch_norm, (*draw((7, 4)), *draw_positive((4,))))


def norm_at_zero():
  """The forward pass has an eps under its root; the rule divides by the norm, 0/0 at a zero row."""

  @jax.custom_vjp
  def unit(x):
    return x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)

  def unit_fwd(x):
    return unit(x), x

  def unit_bwd(x, y_bar):
    length = jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)
    direction = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    along = (x / length) * jnp.linalg.norm(x, axis=-1, keepdims=True) / length
    return ((y_bar - along * (y_bar * direction).sum(-1, keepdims=True)) / length,)

  unit.defvjp(unit_fwd, unit_bwd)
  return Example(unit, draw((5, 3)))


def weight_norm_projection():
  """g v / |v| without the projection that keeps the length out of v's cotangent."""

  def weight_norm(x, v, g):
    return x @ (g * v / jnp.linalg.norm(v, axis=0))

  def f_vjp(x, v, g):
    length = jnp.linalg.norm(v, axis=0)

    def pullback(y_bar):
      w_bar = x.T @ y_bar
      return y_bar @ (g * v / length).T, w_bar * g / length, (w_bar * v / length).sum(0)

    return weight_norm(x, v, g), pullback

  return Example(weight_norm, (*draw((5, 4), (4, 3)), *draw_positive((3,))), f_vjp)


BUGS = (
  Specimen("layer-norm-without-mean", without_mean_term, ("x",), ("path",)),
  Specimen("layer-norm-without-variance", without_variance_term, ("x",), ("path",)),
  Specimen(
    "layer-norm-without-eps", without_eps, ("x",), ("other function", "wrong point", "not finite")
  ),
  Specimen("layer-norm-unbiased", unbiased_divisor, ("x",), ("path", "other function")),
  Specimen("layer-norm-axis", axis_of_examples, ("x",), ("path", "other function")),
  Specimen("layer-norm-scale-left-out", scale_left_out, ("x",), ("path", "other function")),
  Specimen("rms-norm-scale-at-input", scale_at_input, ("scale",), ("wrong point",)),
  Specimen("rms-norm-constant", rms_without_correction, ("x",), ("path",)),
  Specimen("batch-norm-constant", batch_statistics_constant, ("x",), ("path",)),
  Specimen("norm-at-zero", norm_at_zero, ("x",), ("not finite",), level="standard"),
  Specimen("weight-norm-projection", weight_norm_projection, ("v",), ("path",)),
)
