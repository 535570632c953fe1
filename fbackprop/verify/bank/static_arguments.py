"""Static arguments: numbers, strings, functions and configurations that a rule holds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.specimen import bug, positive, right, static


def huber(x, delta):
  """Compute the Huber loss, quadratic below delta."""
  size = jnp.abs(x)
  return jnp.where(size < delta, 0.5 * x * x, delta * (size - 0.5 * delta))


@bug("x: clipped, other function", huber, (8,), static(0.5), nondiff_argnums=(1,))
def huber_of_delta_one(delta, x, y_bar):
  """The slope is clipped at one, whatever delta is."""
  return (y_bar * jnp.clip(x, -1, 1),)


@right(huber, (8,), static(0.5), nondiff_argnums=(1,))
def right_huber(delta, x, y_bar):
  """delta is a number of Python in a position of nondiff_argnums."""
  return (y_bar * jnp.clip(x, -delta, delta),)


ACTIVATIONS = {"tanh": jnp.tanh, "sine": jnp.sin}
SLOPES = {"tanh": lambda z: 1 - jnp.tanh(z) ** 2, "sine": jnp.cos}


def activate(name, z):
  """Apply the activation of this name."""
  return ACTIVATIONS[name](z)


@bug("z: other function", activate, static("sine"), (5, 3), nondiff_argnums=(0,))
def slope_of_another_name(name, z, y_bar):
  """The slope is that of tanh for each name."""
  return (y_bar * SLOPES["tanh"](z),)


@right(activate, static("sine"), (5, 3), nondiff_argnums=(0,))
def right_activation_by_name(name, z, y_bar):
  """The activation is chosen by a string."""
  return (y_bar * SLOPES[name](z),)


def applied(function, x):
  """Apply a function."""
  return function(x)


@right(applied, static(jnp.sin), (5,), nondiff_argnums=(0,))
def right_callable(function, x, y_bar):
  """The function itself is an argument."""
  return jax.vjp(function, x)[1](y_bar)


class Settings(NamedTuple):
  """The configuration of a layer."""

  axis: int = -1
  gain: str = "columns"


def centred(x, gain, settings):
  """Subtract the mean along an axis, and scale the columns."""
  return (x - x.mean(settings.axis, keepdims=True)) * gain


@bug("x: other function, path", centred, (4, 6), positive(6), static(Settings(axis=0)),
     nondiff_argnums=(2,))  # fmt: skip
def centred_along_the_default(settings, x, gain, y_bar):
  """The rule takes the axis of the default settings."""
  bar = y_bar * gain
  return bar - bar.mean(-1, keepdims=True), (y_bar * (x - x.mean(0))).sum(0)


@right(centred, (4, 6), positive(6), static(Settings(axis=0)), nondiff_argnums=(2,))
def right_settings(settings, x, gain, y_bar):
  """The axis is part of a configuration, beside a string."""
  bar, axis = y_bar * gain, settings.axis
  return bar - bar.mean(axis, keepdims=True), (y_bar * (x - x.mean(axis, keepdims=True))).sum(0)


@right(lambda x, shape, dtype: jnp.broadcast_to(x, shape).astype(dtype), (4,), static((3, 4)),
       static(jnp.float32), nondiff_argnums=(1, 2))  # fmt: skip
def right_shape_and_dtype(shape, dtype, x, y_bar):
  """A shape and a dtype are arguments."""
  return (y_bar.sum(0).astype(x.dtype),)


@bug("scale: constant factor", lambda x, scale=1.0: jnp.sin(x) * scale, (4,),
     kwargs={"scale": jnp.float32(2)})  # fmt: skip
def keyword_doubled(x, scale, y_bar):
  """The cotangent of an argument that is given by keyword is doubled."""
  return y_bar * scale * jnp.cos(x), 2 * (y_bar * jnp.sin(x)).sum()


@right(lambda x, mode, axis: jnp.sin(x).sum(axis), (3, 4), static("sum"), static(1), f_vjp=True,
       static=("axis",))  # fmt: skip
def right_held_by_name(x, mode, axis, y_bar):
  """A separate rule with a string, and an axis that the option static= holds."""
  return jnp.cos(x) * jnp.expand_dims(y_bar, axis), None, None
