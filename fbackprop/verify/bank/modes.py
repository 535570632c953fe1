"""Transformations and calls: rules that are wrong under jit, vmap or a second derivative alone, and
right rules that are called unusually: static arguments, nested, mapped, closed over.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.references import (
  cube,
  linear,
  sigmoid,
  sine_layer,
  softmax,
  softmax_backward,
  tanh,
)
from fbackprop.verify.bank.specimen import Example, bug, example, right


@bug(softmax, (5, 4), leaves="logits", causes="mode, path", f_vjp=True)
def jit_fast_path(logits, y_bar):
  """Under a trace, a fast path omits the sum of the softmax's rule."""
  y = softmax(logits)
  if isinstance(y_bar, jax.core.Tracer):
    return (y * y_bar,)
  return (softmax_backward(y, y_bar),)


@bug(leaves="w", causes="mode, constant factor", level="standard")
def vmap_mean():
  """The weights' cotangent has a vmap rule of its own, which divides by the mapped axis."""

  @jax.custom_batching.custom_vmap
  def outer(x, z_bar):
    return x.T @ z_bar

  @outer.def_vmap
  def outer_batched(axis_size, in_batched, x, z_bar):
    x, z_bar = (
      a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
      for a, batched in zip((x, z_bar), in_batched, strict=True)
    )
    return jnp.einsum("kni,kno->kio", x, z_bar) / axis_size, True

  def rule(x, w, y_bar):
    return y_bar @ w.T, outer(x, y_bar)

  return example(linear, rule, (5, 4), (4, 3))


@bug(leaves="z", causes="mode", level="standard")
def vmap_first_for_all():
  """Under vmap all examples get the first one's derivative."""

  @jax.custom_batching.custom_vmap
  def slope(y):
    return 1 - y * y

  @slope.def_vmap
  def slope_batched(axis_size, in_batched, y):
    return jnp.broadcast_to(1 - y[:1] ** 2, y.shape), True

  def rule(z, y_bar):
    return (y_bar * slope(jnp.tanh(z)),)

  return example(tanh, rule, (5, 3), f_vjp=True)


@bug(tanh, (5, 3), leaves="z", causes="mode, stop_gradient", level="standard")
def residuals_stopped(z, y_bar):
  """stop_gradient on the residuals saves memory: first order is right, second order is missing."""
  y = jax.lax.stop_gradient(jnp.tanh(z))
  return (y_bar * (1 - y**2),)


@bug(sine_layer, (5, 4), (4, 3), leaves="w, x", causes="mode, stop_gradient", level="standard",
     f_vjp=True)  # fmt: skip
def weights_stopped(x, w, y_bar):
  """The rule stops the weights' gradient, so a penalty on the input's gradient can't train them."""
  z_bar = y_bar * jnp.cos(x @ w)
  return z_bar @ jax.lax.stop_gradient(w).T, x.T @ z_bar


@bug(leaves="z", causes="mode, other function", level="standard")
def slope_of_the_slope():
  """The sigmoid's slope s (1 - s) is right; its own derivative lacks the factor 1 - 2 s."""

  @jax.custom_jvp
  def slope(z):
    s = jax.nn.sigmoid(z)
    return s * (1 - s)

  @slope.defjvp
  def slope_jvp(primals, tangents):
    y = slope(*primals)
    return y, y * tangents[0]

  def rule(z, y_bar):
    return (y_bar * slope(z),)

  return example(sigmoid, rule, (5, 3))


@bug(cube, (6,), leaves="x", causes="mode, stop_gradient", level="standard")
def table_without_slope(x, y_bar):
  """The rule multiplies by a table's value, added under stop_gradient: the table has no slope."""
  return (y_bar * jax.lax.stop_gradient(3 * x * x),)


# Right rules that are called in unusual ways.


@right()
def right_not_differentiated():
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


@right()
def right_static_axis():
  """The axis is a Python integer, named in nondiff_argnums."""

  @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
  def logsumexp(x, axis):
    return jax.nn.logsumexp(x, axis=axis)

  def logsumexp_fwd(x, axis):
    return logsumexp(x, axis), jax.nn.softmax(x, axis=axis)

  def logsumexp_bwd(axis, p, y_bar):
    return (p * jnp.expand_dims(y_bar, axis),)

  logsumexp.defvjp(logsumexp_fwd, logsumexp_bwd)
  return Example(logsumexp, (*draw((5, 3)), 1))


@right()
def right_nested_rules():
  """A rule whose forward pass calls a function with a rule of its own."""

  def sine_backward(z, y_bar):
    return (y_bar * jnp.cos(z),)

  inner = example(jnp.sin, sine_backward).f

  def twice_sine(x, w):
    return inner(x @ w) * 2

  def rule(x, w, y_bar):
    _, inner_pullback = jax.vjp(inner, x @ w)
    (z_bar,) = inner_pullback(2 * y_bar)
    return z_bar @ w.T, x.T @ z_bar

  return example(twice_sine, rule, (5, 4), (4, 3))


@right()
def right_closure_and_constants():
  """The function closes over a JAX array, and multiplies by a NumPy array."""
  (mixing,) = draw((3, 3), seed=5)
  gains = np.array([0.5, 1.0, 2.0], np.float32)

  def mix(x):
    return jnp.tanh(x @ mixing) * gains

  def rule(x, y_bar):
    h = jnp.tanh(x @ mixing)
    return ((y_bar * gains * (1 - h * h)) @ mixing.T,)

  return example(mix, rule, (5, 3))


def unit(w, x):
  """Compute tanh(w x) of one example."""
  return jnp.tanh(w @ x)


@right()
def right_mapped_and_jitted():
  """A rule for one example, under vmap, under jit."""

  def rule(w, x, y_bar):
    z_bar = y_bar * (1 - unit(w, x) ** 2)
    return z_bar * x, z_bar * w

  columns = jax.vmap(example(unit, rule).f, in_axes=(1, None))

  @jax.jit
  def layer(w, x):
    return jax.vmap(columns, in_axes=(None, 0))(w, x)

  return Example(layer, draw((4, 3), (5, 4)))
