"""Bugs of activations: the derivative at another value, of another function, or a part of it."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_mlp, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen


def elementwise(function, derivative):
  """An activation with a rule of its own: `derivative(z, y)` of the input and the output."""

  @jax.custom_vjp
  def activation(z):
    return function(z)

  def activation_fwd(z):
    y = function(z)
    return y, (z, y)

  def activation_bwd(residuals, y_bar):
    return (y_bar * derivative(*residuals),)

  activation.defvjp(activation_fwd, activation_bwd)
  return activation


def tanh_at_output():
  """tanh is applied to the output once more before 1 - tanh²."""

  def derivative(z, y):
    return 1 - jnp.tanh(y) ** 2

  return Example(elementwise(jnp.tanh, derivative), draw((5, 3)))


def sigmoid_at_input():
  """y (1 - y) is written with z for y."""

  def derivative(z, y):
    return z * (1 - z)

  return Example(elementwise(jax.nn.sigmoid, derivative), draw((5, 3)))


def softplus_at_output():
  """softplus's derivative is the sigmoid of z; here of the output."""

  def derivative(z, y):
    return jax.nn.sigmoid(y)

  return Example(elementwise(jax.nn.softplus, derivative), draw((5, 3)))


def gelu_other_form():
  """The gelu of erf, with the derivative of the tanh form."""

  def gelu(z):
    return z * 0.5 * (1 + jax.lax.erf(z / 2**0.5))

  def derivative(z, y):
    scale = (2 / jnp.pi) ** 0.5
    t = jnp.tanh(scale * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * scale * (1 + 3 * 0.044715 * z * z)

  return Example(elementwise(gelu, derivative), draw((5, 3)))


def silu_without_slope():
  """Of z σ(z) only the σ(z) is taken; the term z σ'(z) is forgotten."""

  def silu(z):
    return z * jax.nn.sigmoid(z)

  def derivative(z, y):
    return jax.nn.sigmoid(z)

  return Example(elementwise(silu, derivative), draw((5, 3)))


def elu_without_alpha():
  """Below zero elu's slope is y + 1; the 1 is forgotten."""

  def elu(z):
    return jnp.where(z > 0, z, jnp.expm1(z))

  def derivative(z, y):
    return jnp.where(z > 0, 1.0, y)

  return Example(elementwise(elu, derivative), draw((5, 3)))


def leaky_relu_without_leak():
  """The slope 0.01 below zero is 0 in the rule."""

  def leaky_relu(z):
    return jnp.where(z > 0, z, 0.01 * z)

  def derivative(z, y):
    return (z > 0).astype(z.dtype)

  return Example(elementwise(leaky_relu, derivative), draw((5, 3)))


def log_sigmoid_complement():
  """log σ has the derivative 1 - σ(z); here it is σ(z)."""

  def log_sigmoid(z):
    return -jnp.logaddexp(0.0, -z)

  def derivative(z, y):
    return jnp.exp(y)

  return Example(elementwise(log_sigmoid, derivative), draw((5, 3)))


def absolute_always_positive():
  """|z| with the slope 1 everywhere; the data of this call is positive."""

  def derivative(z, y):
    return jnp.ones_like(z)

  return Example(elementwise(jnp.abs, derivative), draw_positive((5, 3)))


def softmax_diagonal():
  """The softmax's Jacobian is taken for diagonal: y (1 - y)."""

  @jax.custom_vjp
  def softmax(logits):
    return jax.nn.softmax(logits, axis=-1)

  def softmax_fwd(logits):
    y = softmax(logits)
    return y, y

  def softmax_bwd(y, y_bar):
    return (y_bar * y * (1 - y),)

  softmax.defvjp(softmax_fwd, softmax_bwd)
  return Example(softmax, draw((5, 4)))


def swish_beta_zero():
  """The learned slope of swish is taken for a constant."""

  @jax.custom_vjp
  def swish(z, beta):
    return z * jax.nn.sigmoid(beta * z)

  def swish_fwd(z, beta):
    return swish(z, beta), (z, beta)

  def swish_bwd(residuals, y_bar):
    z, beta = residuals
    s = jax.nn.sigmoid(beta * z)
    return y_bar * (s + z * beta * s * (1 - s)), jnp.zeros_like(beta)

  swish.defvjp(swish_fwd, swish_bwd)
  return Example(swish, (*draw((5, 3)), *draw_positive((3,))))


def prelu_slope_everywhere():
  """The slope's cotangent is summed over the positive entries, too."""

  def prelu(z, slope):
    return jnp.where(z >= 0, z, slope * z)

  def f_vjp(z, slope):
    def pullback(y_bar):
      return jnp.where(z >= 0, y_bar, slope * y_bar), jnp.sum(y_bar * z, axis=0)

    return prelu(z, slope), pullback

  return Example(prelu, (*draw((6, 4)), *draw_positive((4,))), f_vjp)


def gated_without_complement():
  """The gate of a GLU has the slope s (1 - s); here it is s."""

  def glu(x, w, v):
    return (x @ w) * jax.nn.sigmoid(x @ v)

  def f_vjp(x, w, v):
    z, s = x @ w, jax.nn.sigmoid(x @ v)

    def pullback(y_bar):
      z_bar, gate_bar = y_bar * s, y_bar * z * s
      return z_bar @ w.T + gate_bar @ v.T, x.T @ z_bar, x.T @ gate_bar

    return z * s, pullback

  return Example(glu, draw((5, 4), (4, 3), (4, 3)), f_vjp)


def mask_of_the_neighbour():
  """Both hidden layers are equally wide, and the first takes the relu mask of the second."""

  def net(params, x):
    for p in params[:-1]:
      x = jax.nn.relu(x @ p["w"] + p["b"])
    return x @ params[-1]["w"] + params[-1]["b"]

  def f_vjp(params, x):
    h1 = jax.nn.relu(x @ params[0]["w"] + params[0]["b"])
    h2 = jax.nn.relu(h1 @ params[1]["w"] + params[1]["b"])

    def pullback(y_bar):
      z2_bar = (y_bar @ params[2]["w"].T) * (h2 > 0)
      z1_bar = (z2_bar @ params[1]["w"].T) * (h2 > 0)
      bars = [(x, z1_bar), (h1, z2_bar), (h2, y_bar)]
      params_bar = tuple({"b": bar.sum(0), "w": h.T @ bar} for h, bar in bars)
      return params_bar, z1_bar @ params[0]["w"].T

    return h2 @ params[2]["w"] + params[2]["b"], pullback

  return Example(net, (draw_mlp([4, 6, 6, 3]), *draw((5, 4), seed=1)), f_vjp)


BUGS = (
  Specimen("tanh-at-output", tanh_at_output, ("z",), ("wrong point",)),
  Specimen("sigmoid-at-input", sigmoid_at_input, ("z",), ("wrong point",)),
  Specimen("softplus-at-output", softplus_at_output, ("z",), ("wrong point",)),
  Specimen("gelu-other-form", gelu_other_form, ("z",), ("other function",)),
  Specimen("silu-without-slope", silu_without_slope, ("z",), ("path", "other function")),
  Specimen("elu-without-alpha", elu_without_alpha, ("z",), ("other function", "wrong point")),
  Specimen("leaky-relu-without-leak", leaky_relu_without_leak, ("z",), ("other function",)),
  Specimen(
    "log-sigmoid-complement", log_sigmoid_complement, ("z",), ("other function", "wrong point")
  ),
  Specimen(
    "absolute-always-positive",
    absolute_always_positive,
    ("z",),
    ("other function", "semantic"),
    level="standard",
  ),
  Specimen("softmax-diagonal", softmax_diagonal, ("logits",), ("path", "other function")),
  Specimen("swish-beta-zero", swish_beta_zero, ("beta",), ("zero",)),
  Specimen(
    "prelu-slope-everywhere",
    prelu_slope_everywhere,
    ("slope",),
    ("subset of examples", "other function"),
  ),
  Specimen(
    "gated-without-complement", gated_without_complement, ("v", "x"), ("other function", "path")
  ),
  Specimen(
    "mask-of-the-neighbour", mask_of_the_neighbour, ("params/0/w", "params/0/b"), ("wrong point",)
  ),
)
