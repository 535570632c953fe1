"""Bugs of precision: a narrower dtype on the way, a constant cut short, a factor close to one."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_mlp, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen


def residual_in_bfloat16():
  """The activations are kept in bfloat16 to save memory."""

  @jax.custom_vjp
  def layer(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])

  def layer_fwd(params, x):
    y = layer(params, x)
    return y, (params, x, y.astype(jnp.bfloat16))

  def layer_bwd(residuals, y_bar):
    params, x, y = residuals
    z_bar = y_bar * (1 - y.astype(y_bar.dtype) ** 2)
    return {"b": z_bar.sum(0), "w": x.T @ z_bar}, z_bar @ params["w"].T

  layer.defvjp(layer_fwd, layer_bwd)
  return Example(layer, (draw_mlp([4, 5])[0], *draw((6, 4))))


def cotangent_in_bfloat16():
  """The weights' cotangent is sent over the wire in bfloat16."""

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    def pullback(y_bar):
      w_bar = (x.T @ y_bar).astype(jnp.bfloat16)
      return y_bar @ w.T, w_bar.astype(w.dtype)

    return x @ w, pullback

  return Example(linear, draw((6, 4), (4, 3)), f_vjp)


def product_in_bfloat16():
  """The product of the weights' cotangent is accumulated in bfloat16."""

  @jax.custom_vjp
  def linear(x, w):
    return x @ w

  def linear_fwd(x, w):
    return x @ w, (x, w)

  def linear_bwd(residuals, y_bar):
    x, w = residuals
    w_bar = jnp.dot(x.T, y_bar, preferred_element_type=jnp.bfloat16)
    return y_bar @ w.T, w_bar.astype(w.dtype)

  linear.defvjp(linear_fwd, linear_bwd)
  return Example(linear, draw((12, 4), (4, 3)))


def sum_in_float16():
  """The bias's cotangent is accumulated in float16, which ends at 65504."""

  @jax.custom_vjp
  def shift(x, b):
    return x + b

  def shift_fwd(x, b):
    return x + b, b

  def shift_bwd(b, y_bar):
    return y_bar, y_bar.astype(jnp.float16).sum(0).astype(b.dtype)

  shift.defvjp(shift_fwd, shift_bwd)
  return Example(shift, draw((9, 3), (3,)))


def mantissa_cut():
  """reduce_precision to the 10 bits of TF32, and no dtype shows it."""

  def scale(x, gain):
    return x * gain

  def f_vjp(x, gain):
    def pullback(y_bar):
      kept = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)
      return y_bar * gain, (y_bar * kept).sum(0)

    return x * gain, pullback

  return Example(scale, draw((6, 3), (3,)), f_vjp)


def residual_in_int8():
  """The activations are kept in 8 bits, scaled by their largest entry."""

  @jax.custom_vjp
  def gate(x, gain):
    return x * gain

  def gate_fwd(x, gain):
    step = jnp.max(jnp.abs(x)) / 127
    return x * gain, (jnp.round(x / step).astype(jnp.int8), step, gain)

  def gate_bwd(residuals, y_bar):
    x8, step, gain = residuals
    return y_bar * gain, (y_bar * x8.astype(step.dtype) * step).sum(0)

  gate.defvjp(gate_fwd, gate_bwd)
  return Example(gate, draw((6, 3), (3,)))


def factor_near_one():
  """A factor 1.000001 in the cotangent of the weights."""

  @jax.custom_vjp
  def dense(x, w):
    return jnp.sin(x @ w)

  def dense_fwd(x, w):
    return dense(x, w), (x, w)

  def dense_bwd(residuals, y_bar):
    x, w = residuals
    z_bar = y_bar * jnp.cos(x @ w)
    return z_bar @ w.T, 1.000001 * (x.T @ z_bar)

  dense.defvjp(dense_fwd, dense_bwd)
  return Example(dense, draw((5, 4), (4, 3)))


def one_entry():
  """One entry of the weights' cotangent is wrong by a millionth."""

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    def pullback(y_bar):
      return y_bar @ w.T, (x.T @ y_bar).at[1, 2].multiply(1 + 1e-6)

    return x @ w, pullback

  return Example(linear, draw((6, 4), (4, 3)), f_vjp)


def constant_cut_short():
  """gelu's tanh form with sqrt(2/π) written as 0.7979 in the derivative."""

  @jax.custom_vjp
  def gelu(z):
    return jax.nn.gelu(z, approximate=True)

  def gelu_fwd(z):
    return gelu(z), z

  def gelu_bwd(z, y_bar):
    t = jnp.tanh(0.7979 * (z + 0.044715 * z**3))
    slope = 0.5 * z * (1 - t * t) * 0.7979 * (1 + 3 * 0.044715 * z * z)
    return (y_bar * (0.5 * (1 + t) + slope),)

  gelu.defvjp(gelu_fwd, gelu_bwd)
  return Example(gelu, draw((5, 3)))


def reciprocal_one_step():
  """1/a in the rule by a rounded guess and one Newton step, right to some five digits."""

  def divide(x, a):
    return x / a

  def f_vjp(x, a):
    def pullback(y_bar):
      guess = (1 / a).astype(jnp.bfloat16).astype(a.dtype)
      inverse = guess * (2 - a * guess)
      return y_bar * inverse, -y_bar * x * inverse * inverse

    return x / a, pullback

  return Example(divide, (*draw((5, 3)), *draw_positive((5, 3))), f_vjp)


BUGS = (
  Specimen("residual-in-bfloat16", residual_in_bfloat16, ("params/w", "params/b"), ("precision",)),
  Specimen("cotangent-in-bfloat16", cotangent_in_bfloat16, ("w",), ("precision",)),
  Specimen("product-in-bfloat16", product_in_bfloat16, ("w",), ("precision",)),
  Specimen("sum-in-float16", sum_in_float16, ("b",), ("precision",)),
  Specimen("mantissa-cut", mantissa_cut, ("gain",), ("precision",)),
  Specimen("residual-in-int8", residual_in_int8, ("gain",), ("precision",)),
  Specimen("factor-near-one", factor_near_one, ("w",), ("constant factor",)),
  Specimen("one-entry-by-a-millionth", one_entry, ("w",), ("precision", "constant factor")),
  Specimen("constant-cut-short", constant_cut_short, ("z",), ("other function", "precision")),
  Specimen("reciprocal-one-step", reciprocal_one_step, ("x", "a"), ("precision",)),
)
