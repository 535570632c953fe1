"""Right rules that name a dtype: sums in float32, arguments in bfloat16, casts that widen."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


def bfloat16_arguments():
  """Arguments in bfloat16, products accumulated in float32 and cast at the end."""

  @jax.custom_vjp
  def linear(x, w):
    return jnp.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype)

  def linear_fwd(x, w):
    return linear(x, w), (x, w)

  def linear_bwd(residuals, y_bar):
    x, w = residuals
    x_bar = jnp.dot(y_bar, w.T, preferred_element_type=jnp.float32)
    w_bar = jnp.dot(x.T, y_bar, preferred_element_type=jnp.float32)
    return x_bar.astype(x.dtype), w_bar.astype(w.dtype)

  linear.defvjp(linear_fwd, linear_bwd)
  return Example(linear, draw((6, 4), (4, 3), dtype=jnp.bfloat16))


def bfloat16_softmax():
  """A softmax of bfloat16 logits, computed in float32 both ways."""

  def softmax(logits):
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(logits.dtype)

  def f_vjp(logits):
    y = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    def pullback(y_bar):
      wide = y_bar.astype(jnp.float32)
      x_bar = y * (wide - (y * wide).sum(-1, keepdims=True))
      return (x_bar.astype(logits.dtype),)

    return y.astype(logits.dtype), pullback

  return Example(softmax, draw((5, 4), dtype=jnp.bfloat16), f_vjp)


def float32_by_name():
  """float32 arguments are cast to float32 once more, as code for bfloat16 does."""

  @jax.custom_vjp
  def norm(x):
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)

  def norm_fwd(x):
    return norm(x), x

  def norm_bwd(x, y_bar):
    wide, bar = x.astype(jnp.float32), y_bar.astype(jnp.float32)
    rstd = jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + 1e-6)
    x_hat = wide * rstd
    return ((rstd * (bar - x_hat * (bar * x_hat).mean(-1, keepdims=True))).astype(x.dtype),)

  norm.defvjp(norm_fwd, norm_bwd)
  return Example(norm, draw((5, 6)))


def sums_in_float32():
  """A scan adds rows into an accumulator that is float32 by name."""

  @jax.custom_vjp
  def scale(x, gain):
    return x * gain

  def scale_fwd(x, gain):
    return x * gain, (x, gain)

  def scale_bwd(residuals, y_bar):
    x, gain = residuals

    def add(total, rows):
      return total + (rows[0] * rows[1]).astype(jnp.float32), None

    total, _ = jax.lax.scan(add, jnp.zeros(gain.shape, jnp.float32), (x, y_bar))
    return y_bar * gain, total.astype(gain.dtype)

  scale.defvjp(scale_fwd, scale_bwd)
  return Example(scale, draw((7, 3), (3,)))


def preferred_float32():
  """Each product names float32 as its element type, and the highest precision."""

  def linear(x, w, b):
    return x @ w + b

  def f_vjp(x, w, b):
    def product(a, b):
      return jnp.dot(a, b, precision="highest", preferred_element_type=jnp.float32)

    def pullback(y_bar):
      w_bar, ones = product(x.T, y_bar), jnp.ones_like(y_bar[:, 0])
      b_bar = product(ones, y_bar).astype(b.dtype)
      return product(y_bar, w.T).astype(x.dtype), w_bar.astype(w.dtype), b_bar

    return linear(x, w, b), pullback

  return Example(linear, draw((5, 4), (4, 3), (3,)), f_vjp)


def huge_and_tiny():
  """A product of 1e15 and 1e-15 sized factors, in an order that doesn't overflow."""

  @jax.custom_vjp
  def scaled(x, gain):
    return (x * 1e15) * (gain * 1e-15)

  def scaled_fwd(x, gain):
    return scaled(x, gain), (x, gain)

  def scaled_bwd(residuals, y_bar):
    x, gain = residuals
    return (y_bar * (gain * 1e-15)) * 1e15, ((y_bar * 1e-15) * (x * 1e15)).sum(0)

  scaled.defvjp(scaled_fwd, scaled_bwd)
  return Example(scaled, draw((5, 3), (3,)))


def matrix_columns_scaled():
  """Columns between 1e-4 and 1e4 in a product, which no absolute tolerance suits."""

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    def pullback(y_bar):
      return jnp.einsum("no,io->ni", y_bar, w), jnp.einsum("ni,no->io", x, y_bar)

    return x @ w, pullback

  x, w = draw((5, 4), (4, 3))
  return Example(linear, (x * jnp.asarray([1e-4, 1, 1e2, 1e4], x.dtype), w), f_vjp)


RIGHT = (
  Specimen("right-bfloat16-arguments", bfloat16_arguments),
  Specimen("right-bfloat16-softmax", bfloat16_softmax),
  Specimen("right-float32-by-name", float32_by_name),
  Specimen("right-sums-in-float32", sums_in_float32),
  Specimen("right-preferred-float32", preferred_float32),
  Specimen("right-huge-and-tiny", huge_and_tiny),
  Specimen("right-columns-scaled", matrix_columns_scaled),
)
