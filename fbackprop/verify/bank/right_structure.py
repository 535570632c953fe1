"""Right rules with unusual arguments: trees, integers, keys, None, closures, constants."""

import functools
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


def dropout_by_key():
  """The mask is drawn again in the rule from the same key."""

  def dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0)

  def f_vjp(x, key):
    def pullback(y_bar):
      return dropout(y_bar, key), None

    return dropout(x, key), pullback

  return Example(dropout, (*draw((5, 6)), jax.random.key(0)), f_vjp)


def not_differentiated():
  """The first two arguments, a function and an exponent, are nondiff_argnums."""

  @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
  def power(function, exponent, x):
    return function(x) ** exponent

  def power_fwd(function, exponent, x):
    y = function(x)
    return y**exponent, y

  def power_bwd(function, exponent, y, bar):
    return (exponent * bar * y ** (exponent - 1) * (1 - y * y),)

  power.defvjp(power_fwd, power_bwd)

  def f(x):
    return power(jnp.tanh, 3, x)

  return Example(f, draw((5, 3)))


def static_axis():
  """The axis is an integer of Python, and nondiff_argnums names it."""

  @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
  def logsumexp(x, axis):
    return jax.nn.logsumexp(x, axis=axis)

  def logsumexp_fwd(x, axis):
    return logsumexp(x, axis), jax.nn.softmax(x, axis=axis)

  def logsumexp_bwd(axis, p, y_bar):
    return (p * jnp.expand_dims(y_bar, axis),)

  logsumexp.defvjp(logsumexp_fwd, logsumexp_bwd)
  return Example(logsumexp, (*draw((5, 3)), 1))


def nested_rules():
  """A rule whose forward pass calls a function with a rule of its own."""

  @jax.custom_vjp
  def inner(z):
    return jnp.sin(z)

  def inner_fwd(z):
    return jnp.sin(z), z

  def inner_bwd(z, y_bar):
    return (y_bar * jnp.cos(z),)

  inner.defvjp(inner_fwd, inner_bwd)

  @jax.custom_vjp
  def outer(x, w):
    return inner(x @ w) * 2

  def outer_fwd(x, w):
    return outer(x, w), (x, w)

  def outer_bwd(residuals, y_bar):
    x, w = residuals
    _, inner_pullback = jax.vjp(inner, x @ w)
    (z_bar,) = inner_pullback(2 * y_bar)
    return z_bar @ w.T, x.T @ z_bar

  outer.defvjp(outer_fwd, outer_bwd)
  return Example(outer, draw((5, 4), (4, 3)))


def closure_and_constants():
  """The function closes over a jax array, and multiplies by one of NumPy."""
  (mixing,) = draw((3, 3), seed=5)
  gains = np.array([0.5, 1.0, 2.0], np.float32)

  @jax.custom_vjp
  def mix(x):
    return jnp.tanh(x @ mixing) * gains

  def mix_fwd(x):
    return mix(x), jnp.tanh(x @ mixing)

  def mix_bwd(h, y_bar):
    return ((y_bar * gains * (1 - h * h)) @ mixing.T,)

  mix.defvjp(mix_fwd, mix_bwd)
  return Example(mix, draw((5, 3)))


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


def mapped_and_jitted():
  """A rule for one example, under vmap, under jit."""

  @jax.custom_vjp
  def unit(w, x):
    return jnp.tanh(w @ x)

  def unit_fwd(w, x):
    y = unit(w, x)
    return y, (w, x, y)

  def unit_bwd(residuals, y_bar):
    w, x, y = residuals
    z_bar = y_bar * (1 - y * y)
    return z_bar * x, z_bar * w

  unit.defvjp(unit_fwd, unit_bwd)

  @jax.jit
  def layer(w, x):
    columns = jax.vmap(unit, in_axes=(1, None))
    return jax.vmap(columns, in_axes=(None, 0))(w, x)

  return Example(layer, draw((4, 3), (5, 4)))


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


def permutation_inverted():
  """A sort whose cotangent goes back by the inverse permutation."""

  @jax.custom_vjp
  def sort(x):
    return jnp.sort(x)

  def sort_fwd(x):
    order = jnp.argsort(x)
    return x[order], order

  def sort_bwd(order, y_bar):
    return (y_bar[jnp.argsort(order)],)

  sort.defvjp(sort_fwd, sort_bwd)
  return Example(sort, draw((7,)))


RIGHT = (
  Specimen("right-none-leaves", none_leaves),
  Specimen("right-float0", integers_with_float0),
  Specimen("right-mask-and-scalar", mask_argument),
  Specimen("right-dropout-by-key", dropout_by_key),
  Specimen("right-not-differentiated", not_differentiated),
  Specimen("right-static-axis", static_axis),
  Specimen("right-nested-rules", nested_rules),
  Specimen("right-closure-and-constants", closure_and_constants),
  Specimen("right-scalars", scalars),
  Specimen("right-several-outputs", several_outputs),
  Specimen("right-mapped-and-jitted", mapped_and_jitted),
  Specimen("right-unused-parameter", unused_parameter),
  Specimen("right-sort-inverted", permutation_inverted),
)
