"""Bugs that show under one transformation only: jit, vmap, a second derivative."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


def fast_path_of_jit():
  """What is traced takes a fast path, which forgets the sum of the softmax's rule."""

  def softmax(logits):
    return jax.nn.softmax(logits, axis=-1)

  def f_vjp(logits):
    y = softmax(logits)

    def pullback(y_bar):
      if isinstance(y_bar, jax.core.Tracer):
        return (y * y_bar,)
      return (y * (y_bar - (y * y_bar).sum(-1, keepdims=True)),)

    return y, pullback

  return Example(softmax, draw((5, 4)), f_vjp)


def batched_rule_means():
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

  @jax.custom_vjp
  def linear(x, w):
    return x @ w

  def linear_fwd(x, w):
    return x @ w, (x, w)

  def linear_bwd(residuals, y_bar):
    x, w = residuals
    return y_bar @ w.T, outer(x, y_bar)

  linear.defvjp(linear_fwd, linear_bwd)
  return Example(linear, draw((5, 4), (4, 3)))


def batched_rule_shares():
  """Under vmap all examples get the first one's derivative."""

  @jax.custom_batching.custom_vmap
  def slope(y):
    return 1 - y * y

  @slope.def_vmap
  def slope_batched(axis_size, in_batched, y):
    return jnp.broadcast_to(1 - y[:1] ** 2, y.shape), True

  def tanh(z):
    return jnp.tanh(z)

  def f_vjp(z):
    y = jnp.tanh(z)

    def pullback(y_bar):
      return (y_bar * slope(y),)

    return y, pullback

  return Example(tanh, draw((5, 3)), f_vjp)


def residuals_stopped():
  """stop_gradient on the residuals, to save memory: right once, and no second derivative."""

  @jax.custom_vjp
  def tanh(z):
    return jnp.tanh(z)

  def tanh_fwd(z):
    y = jnp.tanh(z)
    return y, jax.lax.stop_gradient(y)

  def tanh_bwd(y, y_bar):
    return (y_bar * (1 - jax.lax.stop_gradient(y) ** 2),)

  tanh.defvjp(tanh_fwd, tanh_bwd)
  return Example(tanh, draw((5, 3)))


def weights_stopped():
  """The weights are stopped in the rule, so that a penalty on the input's gradient can't train."""

  def linear(x, w):
    return jnp.sin(x @ w)

  def f_vjp(x, w):
    def pullback(y_bar):
      z_bar = y_bar * jnp.cos(x @ w)
      return z_bar @ jax.lax.stop_gradient(w).T, x.T @ z_bar

    return linear(x, w), pullback

  return Example(linear, draw((5, 4), (4, 3)), f_vjp)


def slope_with_a_wrong_slope():
  """The sigmoid's slope s (1 - s) is right; its own derivative forgets the factor 1 - 2 s."""

  @jax.custom_jvp
  def slope(z):
    s = jax.nn.sigmoid(z)
    return s * (1 - s)

  @slope.defjvp
  def slope_jvp(primals, tangents):
    y = slope(*primals)
    return y, y * tangents[0]

  @jax.custom_vjp
  def sigmoid(z):
    return jax.nn.sigmoid(z)

  def sigmoid_fwd(z):
    return sigmoid(z), z

  def sigmoid_bwd(z, y_bar):
    return (y_bar * slope(z),)

  sigmoid.defvjp(sigmoid_fwd, sigmoid_bwd)
  return Example(sigmoid, draw((5, 3)))


def rounded_slope():
  """The rule multiplies by a table's value, added by stop_gradient: the table has no slope."""

  @jax.custom_vjp
  def cube(x):
    return x**3

  def cube_fwd(x):
    return x**3, x

  def cube_bwd(x, y_bar):
    table = jax.lax.stop_gradient(3 * x * x)
    return (y_bar * table,)

  cube.defvjp(cube_fwd, cube_bwd)
  return Example(cube, draw((6,)))


BUGS = (
  Specimen("jit-fast-path", fast_path_of_jit, ("logits",), ("mode", "path")),
  Specimen("vmap-mean", batched_rule_means, ("w",), ("mode", "constant factor"), level="standard"),
  Specimen("vmap-first-for-all", batched_rule_shares, ("z",), ("mode",), level="standard"),
  Specimen(
    "residuals-stopped", residuals_stopped, ("z",), ("mode", "stop_gradient"), level="standard"
  ),
  Specimen(
    "weights-stopped", weights_stopped, ("w", "x"), ("mode", "stop_gradient"), level="standard"
  ),
  Specimen(
    "slope-of-the-slope",
    slope_with_a_wrong_slope,
    ("z",),
    ("mode", "other function"),
    level="standard",
  ),
  Specimen(
    "table-without-slope", rounded_slope, ("x",), ("mode", "stop_gradient"), level="standard"
  ),
)
