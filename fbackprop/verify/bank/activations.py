"""Activations: derivatives at another value, of another function, incomplete; from the output."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import layer, sigmoid, softmax, softplus, tanh
from fbackprop.verify.bank.specimen import bug, mlp_params, normal, positive, right


def gelu(z):
  """Compute z Φ(z)."""
  return z * 0.5 * (1 + jax.lax.erf(z / 2**0.5))


def silu(z):
  """Compute z σ(z)."""
  return z * jax.nn.sigmoid(z)


def elu(z):
  """Compute z above zero, eᶻ - 1 below."""
  return jnp.where(z > 0, z, jnp.expm1(jnp.minimum(z, 0)))


def leaky_relu(z):
  """Compute z above zero, 0.01 z below."""
  return jnp.where(z >= 0, z, 0.01 * z)


def swish(z, beta):
  """Compute z σ(β z), with a learned slope for each column."""
  return z * jax.nn.sigmoid(beta * z)


@bug("z: wrong point", tanh, (5, 3))
def tanh_at_output(z, y_bar):
  """The derivative 1 - tanh² is taken at the output: tanh is applied once too often."""
  return (y_bar * (1 - jnp.tanh(jnp.tanh(z)) ** 2),)


@bug("z: wrong point", sigmoid, (5, 3))
def sigmoid_at_input(z, y_bar):
  """The derivative y (1 - y) is written with z in place of y."""
  return (y_bar * (z * (1 - z)),)


@bug("z: wrong point", softplus, (5, 3))
def softplus_at_output(z, y_bar):
  """softplus's derivative is the sigmoid of z; the rule takes the sigmoid of the output."""
  return (y_bar * jax.nn.sigmoid(softplus(z)),)


@bug("z: other function", gelu, (5, 3))
def gelu_other_form(z, y_bar):
  """The gelu of erf has the derivative of the tanh form."""
  c = (2 / jnp.pi) ** 0.5
  t = jnp.tanh(c * (z + 0.044715 * z**3))
  slope = 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
  return (y_bar * slope,)


@bug("z: path, other function", silu, (5, 3))
def silu_without_slope(z, y_bar):
  """The derivative of z σ(z) is only σ(z); the term z σ'(z) is missing."""
  return (y_bar * jax.nn.sigmoid(z),)


@bug("z: other function, wrong point", elu, (5, 3))
def elu_without_alpha(z, y_bar):
  """Below zero elu's slope is y + 1; the 1 is missing."""
  return (y_bar * jnp.where(z > 0, 1.0, elu(z)),)


@bug("z: other function", leaky_relu, (5, 3))
def leaky_relu_without_leak(z, y_bar):
  """The slope 0.01 below zero is 0 in the rule."""
  return (y_bar * (z > 0),)


@bug("z: other function, wrong point", lambda z: -jnp.logaddexp(0.0, -z), (5, 3))
def log_sigmoid_complement(z, y_bar):
  """log σ has the derivative 1 - σ(z); the rule takes σ(z)."""
  return (y_bar * jnp.exp(-jnp.logaddexp(0.0, -z)),)


@bug("z: other function, semantic", lambda z: jnp.abs(z), positive(5, 3), level="standard")
def absolute_always_positive(z, y_bar):
  """z| has the slope 1 everywhere; the given z is positive."""
  return (y_bar,)


@bug("logits: path, other function", softmax, (5, 4))
def softmax_diagonal(logits, y_bar):
  """The softmax's Jacobian is taken to be diagonal: y (1 - y)."""
  y = softmax(logits)
  return (y_bar * y * (1 - y),)


@bug("beta: zero", swish, (5, 3), positive(3))
def swish_beta_zero(z, beta, y_bar):
  """The learned slope of swish is treated as a constant."""
  s = jax.nn.sigmoid(beta * z)
  return y_bar * (s + z * beta * s * (1 - s)), jnp.zeros_like(beta)


@bug("slope: subset of examples, other function", lambda z, slope: jnp.where(z >= 0, z, slope * z),
     (6, 4), positive(4), f_vjp=True)  # fmt: skip
def prelu_slope_everywhere(z, slope, y_bar):
  """The slope's cotangent is summed over the positive entries, too."""
  return jnp.where(z >= 0, y_bar, slope * y_bar), jnp.sum(y_bar * z, axis=0)


@bug("v, x: other function, path", lambda x, w, v: (x @ w) * jax.nn.sigmoid(x @ v), (5, 4), (4, 3),
     (4, 3), f_vjp=True)  # fmt: skip
def gated_without_complement(x, w, v, y_bar):
  """The gate of a GLU has the slope s (1 - s); the rule takes s."""
  z, s = x @ w, jax.nn.sigmoid(x @ v)
  z_bar, gate_bar = y_bar * s, y_bar * z * s
  return z_bar @ w.T + gate_bar @ v.T, x.T @ z_bar, x.T @ gate_bar


def relu_net(params, x):
  """Compute an MLP with relu."""
  for p in params[:-1]:
    x = jax.nn.relu(layer(p, x))
  return layer(params[-1], x)


@bug("params/0/w, params/0/b: wrong point", relu_net, mlp_params(4, 6, 6, 3), normal(5, 4, seed=1),
     f_vjp=True)  # fmt: skip
def mask_of_the_neighbour(params, x, y_bar):
  """Two hidden layers have the same width, and the first takes the relu mask of the second."""
  h1 = jax.nn.relu(layer(params[0], x))
  h2 = jax.nn.relu(layer(params[1], h1))
  z2_bar = (y_bar @ params[2]["w"].T) * (h2 > 0)
  z1_bar = (z2_bar @ params[1]["w"].T) * (h2 > 0)
  bars = [(x, z1_bar), (h1, z2_bar), (h2, y_bar)]
  params_bar = tuple({"b": bar.sum(0), "w": h.T @ bar} for h, bar in bars)
  return params_bar, z1_bar @ params[0]["w"].T


# Right derivatives, most of them from the output alone.


def keeping_output(reference):
  """Return the forward pass whose only residual is the output."""
  return lambda z: (y := reference(z), (y,))


@right(tanh, (5, 3), forward=keeping_output(tanh))
def right_tanh_from_output(y, y_bar):
  """1 - y² as (1 - y) (1 + y)."""
  return (y_bar * ((1 - y) * (1 + y)),)


@right(sigmoid, (5, 3), forward=keeping_output(sigmoid))
def right_sigmoid_from_output(y, y_bar):
  """y - y² for y (1 - y)."""
  return (y_bar * (y - y * y),)


@right(softplus, (5, 3), forward=keeping_output(softplus))
def right_softplus_from_output(y, y_bar):
  """σ(z) = 1 - exp(-y), of softplus's output y."""
  return (y_bar * -jnp.expm1(-y),)


@right(elu, (5, 3), forward=keeping_output(elu))
def right_elu_from_output(y, y_bar):
  """Below zero the slope is y + 1."""
  return (y_bar * jnp.where(y > 0, 1, y + 1),)


@right(leaky_relu, (5, 3), forward=keeping_output(leaky_relu))
def right_leaky_relu_from_output(y, y_bar):
  """The output has the sign of the input, so the input isn't kept."""
  return (y_bar * jnp.where(y >= 0, 1, 0.01).astype(y.dtype),)


@right(silu, (5, 3))
def right_silu_factored(z, y_bar):
  """silu's slope as s (1 + z (1 - s)), with s recomputed."""
  s = jax.nn.sigmoid(z)
  return (y_bar * s * (1 + z * (1 - s)),)


@right(gelu, (5, 3), f_vjp=True)
def right_gelu_by_erfc(z, y_bar):
  """gelu's slope Φ(z) + z φ(z), with Φ by erfc."""
  distribution = 0.5 * jax.lax.erfc(-z * 0.5**0.5)
  density = jnp.exp(-0.5 * z * z) / (2 * jnp.pi) ** 0.5
  return (y_bar * (distribution + z * density),)


@right(swish, (5, 3), positive(3), f_vjp=True)
def right_swish_learned(z, beta, y_bar):
  """Both cotangents of swish share the slope of its gate, as s σ(-β z)."""
  s = jax.nn.sigmoid(beta * z)
  slope = y_bar * z * s * jax.nn.sigmoid(-beta * z)
  return y_bar * s + beta * slope, jnp.einsum("nd,nd->d", slope, z)


@right(softmax, (5, 4), forward=keeping_output(softmax))
def right_softmax_by_matrix(y, y_bar):
  """The softmax's Jacobian diag(y) - y yᵀ is formed explicitly for each row."""
  jacobian = jax.vmap(jnp.diag)(y) - y[:, :, None] * y[:, None, :]
  return (jnp.einsum("nij,nj->ni", jacobian, y_bar),)
