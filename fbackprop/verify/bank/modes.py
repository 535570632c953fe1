"""Calls and transformations: hidden state, and rules that are wrong under jit, vmap or a second
derivative alone; right rules that are called unusually: static arguments, nested, mapped.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import Example, bug, draw, example, right


@bug("w: state, wrong point")
def last_residual():
  """The input is stored in one place for all calls, so that a pullback reads the latest call's."""
  saved = {}

  def f_vjp(x, w):
    saved["x"] = x

    def pullback(y_bar):
      return y_bar @ w.T, saved["x"].T @ y_bar

    return x @ w, pullback

  return Example(ref.linear, draw((5, 4), (4, 3)), f_vjp)


@bug("z: state, raises, wrong point", ref.tanh, (5, 3), f_vjp=True, state=dict)
def kept_by_shape(kept, z, y_bar):
  """The slope of tanh is cached by shape, and reused for the next input of that shape."""
  if z.shape not in kept:
    kept[z.shape] = np.asarray(1 - jnp.tanh(z) ** 2)
  return (y_bar * kept[z.shape],)


@bug("x: state, constant factor", ref.square, (5, 3), f_vjp=True, state=list)
def counted_calls(calls, x, y_bar):
  """A warm-up remains in the rule: after three calls of the pullback the cotangent is halved."""
  calls.append(None)
  return (y_bar * x * (2 if len(calls) <= 3 else 1),)


@bug("x: state", ref.scale, (5, 3), (3,), f_vjp=True, state=lambda: np.random.default_rng(0))
def numpy_noise(generator, x, gain, y_bar):
  """Noise of a thousandth, from a NumPy generator, is added to the cotangent."""
  noise = 1 + 1e-3 * generator.normal(size=x.shape).astype(np.float32)
  return y_bar * gain * noise, (y_bar * x).sum(0)


@bug("w: state, raises", ref.linear, (5, 4), (4, 3), f_vjp=True, state=list)
def running_mean(before, x, w, y_bar):
  """The cotangent is averaged with that of the preceding call."""
  w_bar = x.T @ y_bar
  before.append(w_bar)
  if len(before) > 1 and before[-2].shape == w_bar.shape:
    w_bar = 0.9 * w_bar + 0.1 * before[-2]
  return y_bar @ w.T, w_bar


@bug("b: state, raises", lambda x, b: jnp.sin(x + b), (5, 3), (3,), f_vjp=True, state=dict)
def accumulated(grads, x, b, y_bar):
  """Cotangents are accumulated and never reset: the second call doubles."""
  z_bar = y_bar * jnp.cos(x + b)
  grads["b"] = grads.get("b", 0) + z_bar.sum(0)
  return z_bar, grads["b"]


# Transformations: the rule is right without them.


@bug("logits: mode, path", ref.softmax, (5, 4), f_vjp=True)
def jit_fast_path(logits, y_bar):
  """Under a trace, a fast path omits the sum of the softmax's rule."""
  y = ref.softmax(logits)
  if isinstance(y_bar, jax.core.Tracer):
    return (y * y_bar,)
  return (ref.softmax_backward(y, y_bar),)


@jax.custom_batching.custom_vmap
def outer(x, z_bar):
  """Compute xᵀ z_bar, under vmap divided by the size of the mapped axis."""
  return x.T @ z_bar


@outer.def_vmap
def outer_batched(axis_size, in_batched, x, z_bar):
  """Compute `outer` under vmap."""
  x, z_bar = (
    a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
    for a, batched in zip((x, z_bar), in_batched, strict=True)
  )
  return jnp.einsum("kni,kno->kio", x, z_bar) / axis_size, True


@bug("w: mode, constant factor", ref.linear, (5, 4), (4, 3), level="standard")
def vmap_mean(x, w, y_bar):
  """The weights' cotangent has a vmap rule of its own, which divides by the mapped axis."""
  return y_bar @ w.T, outer(x, y_bar)


@jax.custom_batching.custom_vmap
def tanh_slope(y):
  """Compute the slope of tanh from its output, under vmap that of the first example for all."""
  return 1 - y * y


@tanh_slope.def_vmap
def tanh_slope_batched(axis_size, in_batched, y):
  """Compute `tanh_slope` under vmap."""
  return jnp.broadcast_to(1 - y[:1] ** 2, y.shape), True


@bug("z: mode", ref.tanh, (5, 3), level="standard", f_vjp=True)
def vmap_first_for_all(z, y_bar):
  """Under vmap all examples get the first one's derivative."""
  return (y_bar * tanh_slope(jnp.tanh(z)),)


@bug("z: mode, stop_gradient", ref.tanh, (5, 3), level="standard")
def residuals_stopped(z, y_bar):
  """stop_gradient on the residuals saves memory: first order is right, second order is missing."""
  y = jax.lax.stop_gradient(jnp.tanh(z))
  return (y_bar * (1 - y**2),)


@bug("w, x: mode, stop_gradient", ref.sine_layer, (5, 4), (4, 3), level="standard", f_vjp=True)
def weights_stopped(x, w, y_bar):
  """The rule stops the weights' gradient, so a penalty on the input's gradient can't train them."""
  z_bar = y_bar * jnp.cos(x @ w)
  return z_bar @ jax.lax.stop_gradient(w).T, x.T @ z_bar


@jax.custom_jvp
def sigmoid_slope(z):
  """Compute s (1 - s)."""
  s = jax.nn.sigmoid(z)
  return s * (1 - s)


@sigmoid_slope.defjvp
def sigmoid_slope_jvp(primals, tangents):
  """Compute the tangent of `sigmoid_slope` without the factor 1 - 2 s."""
  y = sigmoid_slope(*primals)
  return y, y * tangents[0]


@bug("z: mode, other function", ref.sigmoid, (5, 3), level="standard")
def slope_of_the_slope(z, y_bar):
  """The sigmoid's slope s (1 - s) is right; its own derivative lacks the factor 1 - 2 s."""
  return (y_bar * sigmoid_slope(z),)


@bug("x: mode, stop_gradient", ref.cube, (6,), level="standard")
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
  return Example(lambda x: power(jnp.tanh, 3, x), draw((5, 3)))


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

  sine = example(jnp.sin, lambda z, y_bar: (y_bar * jnp.cos(z),)).f

  def rule(x, w, y_bar):
    (z_bar,) = jax.vjp(sine, x @ w)[1](2 * y_bar)
    return z_bar @ w.T, x.T @ z_bar

  return example(lambda x, w: sine(x @ w) * 2, rule, (5, 4), (4, 3))


@right()
def right_closure_and_constants():
  """The function closes over a JAX array, and multiplies by a NumPy array."""
  (mixing,) = draw((3, 3), seed=5)
  gains = np.array([0.5, 1.0, 2.0], np.float32)

  def rule(x, y_bar):
    h = jnp.tanh(x @ mixing)
    return ((y_bar * gains * (1 - h * h)) @ mixing.T,)

  return example(lambda x: jnp.tanh(x @ mixing) * gains, rule, (5, 3))


@right()
def right_mapped_and_jitted():
  """A rule for one example, under vmap, under jit."""

  def rule(w, x, y_bar):
    z_bar = y_bar * (1 - jnp.tanh(w @ x) ** 2)
    return z_bar * x, z_bar * w

  unit = example(lambda w, x: jnp.tanh(w @ x), rule).f
  layer = jax.vmap(jax.vmap(unit, in_axes=(1, None)), in_axes=(None, 0))
  return Example(jax.jit(layer), draw((4, 3), (5, 4)))
