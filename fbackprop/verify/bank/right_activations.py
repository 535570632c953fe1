"""Right derivatives of activations: from the output, recomputed, and any slope at a kink."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen


def from_output(function, derivative):
  """An activation whose rule keeps the output alone: `derivative(y)`."""

  @jax.custom_vjp
  def activation(z):
    return function(z)

  def activation_fwd(z):
    y = function(z)
    return y, y

  def activation_bwd(y, y_bar):
    return (y_bar * derivative(y),)

  activation.defvjp(activation_fwd, activation_bwd)
  return Example(activation, draw((5, 3)))


def with_zeros(x):
  """The array, with an exact zero in every third entry."""
  return x.ravel().at[::3].set(0).reshape(x.shape)


def tanh_from_output():
  """1 - y² as (1 - y) (1 + y)."""

  def derivative(y):
    return (1 - y) * (1 + y)

  return from_output(jnp.tanh, derivative)


def sigmoid_from_output():
  """y - y² for y (1 - y)."""

  def derivative(y):
    return y - y * y

  return from_output(jax.nn.sigmoid, derivative)


def softplus_from_output():
  """σ(z) = 1 - exp(-y), of softplus's output y."""

  def derivative(y):
    return -jnp.expm1(-y)

  return from_output(jax.nn.softplus, derivative)


def elu_from_output():
  """Below zero the slope is y + 1."""

  def elu(z):
    return jnp.where(z > 0, z, jnp.expm1(jnp.minimum(z, 0)))

  def derivative(y):
    return jnp.where(y > 0, 1, y + 1)

  return from_output(elu, derivative)


def leaky_relu_from_output():
  """The sign of the output is that of the input, which isn't kept."""

  def leaky_relu(z):
    return jnp.where(z >= 0, z, 0.1 * z)

  def derivative(y):
    return jnp.where(y >= 0, 1, 0.1).astype(y.dtype)

  return from_output(leaky_relu, derivative)


def silu_factored():
  """silu's slope as s (1 + z (1 - s)), with s recomputed."""

  @jax.custom_vjp
  def silu(z):
    return z * jax.nn.sigmoid(z)

  def silu_fwd(z):
    return silu(z), z

  def silu_bwd(z, y_bar):
    s = jax.nn.sigmoid(z)
    return (y_bar * s * (1 + z * (1 - s)),)

  silu.defvjp(silu_fwd, silu_bwd)
  return Example(silu, draw((5, 3)))


def gelu_by_erfc():
  """gelu's slope Φ(z) + z φ(z), with Φ by erfc."""

  def gelu(z):
    return jax.nn.gelu(z, approximate=False)

  def f_vjp(z):
    def pullback(y_bar):
      distribution = 0.5 * jax.lax.erfc(-z * 0.5**0.5)
      density = jnp.exp(-0.5 * z * z) / (2 * jnp.pi) ** 0.5
      return (y_bar * (distribution + z * density),)

    return gelu(z), pullback

  return Example(gelu, draw((5, 3)), f_vjp)


def swish_learned():
  """swish with a slope to be learned for each column."""

  def swish(z, beta):
    return z * jax.nn.sigmoid(beta * z)

  def f_vjp(z, beta):
    s = jax.nn.sigmoid(beta * z)

    def pullback(y_bar):
      slope = y_bar * z * s * jax.nn.sigmoid(-beta * z)
      return y_bar * s + beta * slope, jnp.einsum("nd,nd->d", slope, z)

    return z * s, pullback

  return Example(swish, (*draw((5, 3)), *draw_positive((3,))), f_vjp)


def softmax_by_matrix():
  """The softmax's Jacobian is written out, diag(y) - y yᵀ, for each row."""

  @jax.custom_vjp
  def softmax(logits):
    return jax.nn.softmax(logits, axis=-1)

  def softmax_fwd(logits):
    y = softmax(logits)
    return y, y

  def softmax_bwd(y, y_bar):
    jacobian = jax.vmap(jnp.diag)(y) - y[:, :, None] * y[:, None, :]
    return (jnp.einsum("nij,nj->ni", jacobian, y_bar),)

  softmax.defvjp(softmax_fwd, softmax_bwd)
  return Example(softmax, draw((5, 4)))


def relu_with_slope(slope):
  """A relu whose rule has some slope at exactly zero, where the data is zero."""

  @jax.custom_vjp
  def relu(z):
    return jnp.maximum(z, 0)

  def relu_fwd(z):
    return relu(z), jnp.sign(z)

  def relu_bwd(sign, y_bar):
    return (y_bar * jnp.where(sign == 0, slope, (sign > 0).astype(sign.dtype)),)

  relu.defvjp(relu_fwd, relu_bwd)
  return Example(relu, (with_zeros(*draw((5, 4))),))


def relu_slope_zero():
  """The slope of relu is 0 at 0."""
  return relu_with_slope(0)


def relu_slope_half():
  """The slope of relu is ½ at 0."""
  return relu_with_slope(0.5)


def relu_slope_one():
  """The slope of relu is 1 at 0."""
  return relu_with_slope(1)


def absolute_slope_zero():
  """|x| with the slope 0 at 0, by the sign."""

  def absolute(x):
    return jnp.abs(x)

  def f_vjp(x):
    def pullback(y_bar):
      return (jnp.copysign(1, x) * jnp.where(x == 0, 0, y_bar),)

    return jnp.abs(x), pullback

  return Example(absolute, (with_zeros(*draw((5, 4))),), f_vjp)


def pool_with(share):
  """A maximum over each row, with ties; `share(x, y)` says how they share the cotangent."""

  @jax.custom_vjp
  def pool(x):
    return jnp.max(x, axis=1)

  def pool_fwd(x):
    y = pool(x)
    return y, share(x, y)

  def pool_bwd(shares, y_bar):
    return (y_bar[:, None] * shares,)

  pool.defvjp(pool_fwd, pool_bwd)
  (x,) = draw((5, 4))
  return Example(pool, (x.at[:, 2].set(x.max(1)),))


def pool_shared():
  """Equal entries share the cotangent."""

  def share(x, y):
    ties = (x == y[:, None]).astype(x.dtype)
    return ties / ties.sum(1, keepdims=True)

  return pool_with(share)


def pool_to_the_first():
  """The first of equal entries gets the cotangent, by argmax."""

  def share(x, y):
    return jax.nn.one_hot(jnp.argmax(x, axis=1), x.shape[1], dtype=x.dtype)

  return pool_with(share)


RIGHT = (
  Specimen("right-tanh-from-output", tanh_from_output),
  Specimen("right-sigmoid-from-output", sigmoid_from_output),
  Specimen("right-softplus-from-output", softplus_from_output),
  Specimen("right-elu-from-output", elu_from_output),
  Specimen("right-leaky-relu-from-output", leaky_relu_from_output),
  Specimen("right-silu-factored", silu_factored),
  Specimen("right-gelu-by-erfc", gelu_by_erfc),
  Specimen("right-swish-learned", swish_learned),
  Specimen("right-softmax-by-matrix", softmax_by_matrix),
  Specimen("right-relu-slope-zero", relu_slope_zero),
  Specimen("right-relu-slope-half", relu_slope_half),
  Specimen("right-relu-slope-one", relu_slope_one),
  Specimen("right-absolute-slope-zero", absolute_slope_zero),
  Specimen("right-pool-shared", pool_shared),
  Specimen("right-pool-to-the-first", pool_to_the_first),
)
