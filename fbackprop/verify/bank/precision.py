"""Precision: a narrower dtype on the way, a truncated constant, a factor close to one."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import bug, normal, one_layer, positive, right


def tanh_layer(params, x):
  """Compute tanh(x w + b)."""
  return jnp.tanh(ref.layer(params, x))


def keeping_bf16(params, x):
  """Compute `tanh_layer`, and keep its output in bfloat16."""
  y = tanh_layer(params, x)
  return y, (params, x, y.astype(jnp.bfloat16))


@bug("params/w, params/b: precision", tanh_layer, one_layer(4, 5), (6, 4), forward=keeping_bf16)
def residual_in_bfloat16(params, x, y, y_bar):
  """The activations are kept in bfloat16, to save memory."""
  z_bar = y_bar * (1 - y.astype(y_bar.dtype) ** 2)
  return {"b": z_bar.sum(0), "w": x.T @ z_bar}, z_bar @ params["w"].T


@bug("w: precision", ref.linear, (6, 4), (4, 3), f_vjp=True)
def cotangent_in_bfloat16(x, w, y_bar):
  """The weights' cotangent is communicated in bfloat16."""
  return y_bar @ w.T, (x.T @ y_bar).astype(jnp.bfloat16).astype(w.dtype)


@bug("w: precision", ref.linear, (12, 4), (4, 3))
def product_in_bfloat16(x, w, y_bar):
  """The product of the weights' cotangent is accumulated in bfloat16."""
  w_bar = jnp.dot(x.T, y_bar, preferred_element_type=jnp.bfloat16)
  return y_bar @ w.T, w_bar.astype(w.dtype)


@bug("b: precision", ref.shift, (9, 3), (3,))
def sum_in_float16(x, b, y_bar):
  """The bias's cotangent is accumulated in float16, whose largest number is 65504."""
  return y_bar, y_bar.astype(jnp.float16).sum(0).astype(b.dtype)


@bug("gain: precision", ref.scale, (6, 3), (3,), f_vjp=True)
def mantissa_cut(x, gain, y_bar):
  """reduce_precision rounds to the 10 bits of TF32, which no dtype shows."""
  kept = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)
  return y_bar * gain, (y_bar * kept).sum(0)


def keeping_int8(x, gain):
  """Compute `scale`, and keep x in 8 bits."""
  step = jnp.max(jnp.abs(x)) / 127
  return x * gain, (jnp.round(x / step).astype(jnp.int8), step, gain)


@bug("gain: precision", ref.scale, (6, 3), (3,), forward=keeping_int8)
def residual_in_int8(x8, step, gain, y_bar):
  """The activations are kept in 8 bits, scaled by their largest entry."""
  return y_bar * gain, (y_bar * x8.astype(step.dtype) * step).sum(0)


@bug("w: constant factor", ref.sine_layer, (5, 4), (4, 3))
def factor_near_one(x, w, y_bar):
  """The weights' cotangent has a factor of 1.000001."""
  z_bar = y_bar * jnp.cos(x @ w)
  return z_bar @ w.T, 1.000001 * (x.T @ z_bar)


@bug("w: precision, constant factor", ref.linear, (6, 4), (4, 3), f_vjp=True)
def one_entry_by_a_millionth(x, w, y_bar):
  """One entry of the weights' cotangent is wrong by a millionth."""
  return y_bar @ w.T, (x.T @ y_bar).at[1, 2].multiply(1 + 1e-6)


@bug("z: other function, precision", lambda z: jax.nn.gelu(z, approximate=True), (5, 3))
def constant_cut_short(z, y_bar):
  """The derivative of gelu's tanh form has 0.7979 in place of sqrt(2/π)."""
  t = jnp.tanh(0.7979 * (z + 0.044715 * z**3))
  slope = 0.5 * z * (1 - t * t) * 0.7979 * (1 + 3 * 0.044715 * z * z)
  return (y_bar * (0.5 * (1 + t) + slope),)


@bug("x, a: precision", lambda x, a: x / a, (5, 3), positive(5, 3), f_vjp=True)
def reciprocal_one_step(x, a, y_bar):
  """The rule computes 1/a by a rounded guess and one Newton step, accurate to some five digits."""
  guess = (1 / a).astype(jnp.bfloat16).astype(a.dtype)
  inverse = guess * (2 - a * guess)
  return y_bar * inverse, -y_bar * x * inverse * inverse


# Right rules that name a dtype, and right rules on numbers of very different magnitudes.


@right(ref.wide_linear, (6, 4), (4, 3), dtype=jnp.bfloat16)
def right_bfloat16_arguments(x, w, y_bar):
  """Arguments in bfloat16, products accumulated in float32 and cast at the end."""
  return ref.wide_linear(y_bar, w.T), ref.wide_linear(x.T, y_bar)


@right(lambda logits: jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(logits.dtype),
       (5, 4), dtype=jnp.bfloat16, f_vjp=True)  # fmt: skip
def right_bfloat16_softmax(logits, y_bar):
  """A softmax of bfloat16 logits, computed in float32 in both passes."""
  y = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  return (ref.softmax_backward(y, y_bar.astype(jnp.float32)).astype(logits.dtype),)


def wide_rms_norm(x):
  """Divide by the root mean square in float32, and cast back."""
  wide = x.astype(jnp.float32)
  return (wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


@right(wide_rms_norm, (5, 6))
def right_float32_by_name(x, y_bar):
  """float32 arguments are cast to float32 again, as in code for bfloat16."""
  wide, bar = x.astype(jnp.float32), y_bar.astype(jnp.float32)
  rstd = jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)
  x_hat = wide * rstd
  return ((rstd * (bar - x_hat * (bar * x_hat).mean(-1, keepdims=True))).astype(x.dtype),)


@right(ref.scale, (7, 3), (3,))
def right_sums_in_float32(x, gain, y_bar):
  """A scan accumulates rows in an array of explicit dtype float32."""

  def add(total, rows):
    return total + (rows[0] * rows[1]).astype(jnp.float32), None

  total = jax.lax.scan(add, jnp.zeros(gain.shape, jnp.float32), (x, y_bar))[0]
  return y_bar * gain, total.astype(gain.dtype)


@right(ref.dense, (5, 4), (4, 3), (3,), f_vjp=True)
def right_preferred_float32(x, w, b, y_bar):
  """Each product has the element type float32 and the highest precision."""

  def product(a, b):
    wide = jnp.dot(a, b, precision="highest", preferred_element_type=jnp.float32)
    return wide.astype(a.dtype)

  return product(y_bar, w.T), product(x.T, y_bar), product(jnp.ones_like(y_bar[:, 0]), y_bar)


@right(lambda x, gain: (x * 1e15) * (gain * 1e-15), (5, 3), (3,))
def right_huge_and_tiny(x, gain, y_bar):
  """A product of factors of sizes 1e15 and 1e-15, in an order that doesn't overflow."""
  return (y_bar * (gain * 1e-15)) * 1e15, ((y_bar * 1e-15) * (x * 1e15)).sum(0)


@right(ref.linear, lambda: normal(5, 4, seed=0)() * jnp.asarray([1e-4, 1, 1e2, 1e4], jnp.float32),
       normal(4, 3, seed=1), f_vjp=True)  # fmt: skip
def right_columns_scaled(x, w, y_bar):
  """A product with columns between 1e-4 and 1e4, for which no absolute tolerance fits."""
  return jnp.einsum("no,io->ni", y_bar, w), jnp.einsum("ni,no->io", x, y_bar)


# A narrower dtype in the function itself, as in everyday mixed precision.


def mixed_linear(x, w):
  """Multiply in bfloat16, and cast to float32."""
  return (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(jnp.float32)


def mixed_linear_backward(x, w, y_bar):
  """Pull a cotangent back through `mixed_linear`, in bfloat16 as well."""
  x, w, y_bar = (a.astype(jnp.bfloat16) for a in (x, w, y_bar))
  return (y_bar @ w.T).astype(jnp.float32), (x.T @ y_bar).astype(jnp.float32)


@right(mixed_linear, (8, 16), (16, 4))
def right_mixed_linear(x, w, y_bar):
  """A mixed product, both ways in bfloat16."""
  return mixed_linear_backward(x, w, y_bar)


@bug("z: precision", ref.tanh, (16,))
def needless_bfloat16(z, y_bar):
  """The function is computed in float32, its rule in bfloat16."""
  slope = (1 - jnp.tanh(z) ** 2).astype(jnp.bfloat16)
  return ((y_bar.astype(jnp.bfloat16) * slope).astype(z.dtype),)


def half_tanh(z):
  """Compute tanh in float16, and cast to float32."""
  return jnp.tanh(z.astype(jnp.float16)).astype(jnp.float32)


@bug("z: wrong point, other function", half_tanh, (16,))
def half_slope_at_output(z, y_bar):
  """In float16 as the function is, the slope at the output instead of the input."""
  y = jnp.tanh(jnp.tanh(z.astype(jnp.float16)))
  return ((y_bar.astype(jnp.float16) * (1 - y * y)).astype(jnp.float32),)


@right(half_tanh, (16,))
def right_half_tanh(z, y_bar):
  """The slope in float16, as the function is."""
  y = jnp.tanh(z.astype(jnp.float16))
  return ((y_bar.astype(jnp.float16) * (1 - y * y)).astype(jnp.float32),)


@right(lambda x: x.astype(jnp.float8_e4m3fn).astype(jnp.float32), (8,))
def right_float8_round_trip(x, y_bar):
  """A cast to eight bits and back has the slope of the identity."""
  return (y_bar,)
