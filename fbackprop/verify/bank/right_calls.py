"""Right rules that are called unusually: static arguments, nested, mapped, closed over, by key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


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
  Specimen("right-dropout-by-key", dropout_by_key),
  Specimen("right-not-differentiated", not_differentiated),
  Specimen("right-static-axis", static_axis),
  Specimen("right-nested-rules", nested_rules),
  Specimen("right-closure-and-constants", closure_and_constants),
  Specimen("right-mapped-and-jitted", mapped_and_jitted),
  Specimen("right-sort-inverted", permutation_inverted),
)
