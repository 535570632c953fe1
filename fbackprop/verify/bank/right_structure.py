"""Right rules of unusual arguments: trees, None, integers, masks, scalars, several outputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import draw, draw_labels, draw_mlp
from fbackprop.verify.bank.specimen import Example, Specimen


class Affine(NamedTuple):
  """A layer's parameters; without a bias b is None."""

  w: Any
  b: Any


def affine(p, x):
  """x w + b, where there is a b."""
  return x @ p.w if p.b is None else x @ p.w + p.b


def affine_backward(p, x, y_bar):
  """The cotangents of `affine`; None for a b that is None."""
  return Affine(x.T @ y_bar, None if p.b is None else y_bar.sum(0)), y_bar @ p.w.T


def none_leaves():
  """NamedTuples in a dictionary, one bias None, and an empty tuple among the parameters."""

  def net(params, x):
    return affine(params["head"], jnp.tanh(affine(params["body"], x)))

  def f_vjp(params, x):
    h = jnp.tanh(affine(params["body"], x))

    def pullback(y_bar):
      head_bar, h_bar = affine_backward(params["head"], h, y_bar)
      body_bar, x_bar = affine_backward(params["body"], x, h_bar * (1 - h * h))
      return {"body": body_bar, "empty": (), "head": head_bar}, x_bar

    return net(params, x), pullback

  w1, b1, w2, x = draw((4, 5), (5,), (5, 3), (6, 4))
  params = {"body": Affine(w1, b1), "empty": (), "head": Affine(w2, None)}
  return Example(net, (params, x), f_vjp)


def integers_with_float0():
  """The labels' cotangent is an array of float0, as jax.vjp gives it."""

  def chosen(logits, labels):
    return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

  def f_vjp(logits, labels):
    def pullback(y_bar):
      rows = jnp.arange(labels.shape[0])
      logits_bar = jnp.zeros_like(logits).at[rows, labels].add(y_bar)
      return logits_bar, np.zeros(labels.shape, jax.dtypes.float0)

    return chosen(logits, labels), pullback

  return Example(chosen, (*draw((5, 3)), draw_labels(5, 3)), f_vjp)


def mask_argument():
  """A boolean mask and a float scale that is a scalar array."""

  @jax.custom_vjp
  def masked(x, mask, scale):
    return jnp.where(mask, scale * x, 0)

  def masked_fwd(x, mask, scale):
    return masked(x, mask, scale), (x, mask, scale)

  def masked_bwd(residuals, y_bar):
    x, mask, scale = residuals
    kept = jnp.where(mask, y_bar, 0)
    return scale * kept, None, jnp.vdot(kept, x)

  masked.defvjp(masked_fwd, masked_bwd)
  x, y, scale = draw((5, 3), (5, 3), ())
  return Example(masked, (x, y > 0, scale))


def scalars():
  """Three scalars, and a scalar out."""

  @jax.custom_vjp
  def normal_log_density(x, mean, log_scale):
    z = (x - mean) * jnp.exp(-log_scale)
    return -0.5 * z * z - log_scale

  def density_fwd(x, mean, log_scale):
    inverse = jnp.exp(-log_scale)
    return normal_log_density(x, mean, log_scale), ((x - mean) * inverse, inverse)

  def density_bwd(residuals, y_bar):
    z, inverse = residuals
    return -y_bar * z * inverse, y_bar * z * inverse, y_bar * (z * z - 1)

  normal_log_density.defvjp(density_fwd, density_bwd)
  return Example(normal_log_density, draw((), (), ()))


def several_outputs():
  """Mean and variance as a dictionary, each with its cotangent."""

  @jax.custom_vjp
  def moments(x):
    return {"mean": x.mean(0), "var": x.var(0)}

  def moments_fwd(x):
    return moments(x), x - x.mean(0)

  def moments_bwd(centered, bars):
    n = max(centered.shape[0], 1)
    return ((bars["mean"] + 2 * bars["var"] * centered) / n,)

  moments.defvjp(moments_fwd, moments_bwd)
  return Example(moments, draw((6, 3)))


def unused_parameter():
  """A parameter that the function doesn't use: its cotangent is zero."""

  def net(params, x):
    return x @ params[0]["w"] + params[0]["b"]

  def f_vjp(params, x):
    def pullback(y_bar):
      used = {"b": jnp.einsum("no->o", y_bar), "w": x.T @ y_bar}
      unused = jax.tree.map(jnp.zeros_like, params[1])
      return (used, unused), y_bar @ params[0]["w"].T

    return net(params, x), pullback

  return Example(net, (draw_mlp([4, 3, 2]), *draw((5, 4))), f_vjp)


RIGHT = (
  Specimen("right-none-leaves", none_leaves),
  Specimen("right-float0", integers_with_float0),
  Specimen("right-mask-and-scalar", mask_argument),
  Specimen("right-scalars", scalars),
  Specimen("right-several-outputs", several_outputs),
  Specimen("right-unused-parameter", unused_parameter),
)
