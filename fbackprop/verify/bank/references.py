"""Reference functions without rules, shared by several subjects of the bank."""

import jax
import jax.numpy as jnp


def linear(x, w):
  """Compute x w."""
  return x @ w


def dense(x, w, b):
  """Compute x w + b."""
  return x @ w + b


def layer(params, x):
  """Compute x w + b from a dictionary of parameters."""
  return x @ params["w"] + params["b"]


def layer_backward(params, x, y_bar):
  """Pull a cotangent back through `layer`."""
  return {"b": y_bar.sum(0), "w": x.T @ y_bar}, y_bar @ params["w"].T


def wide_linear(x, w):
  """Compute x w, accumulated in float32 and cast back."""
  return jnp.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype)


def tanh_layer(x, w):
  """Compute tanh(x w)."""
  return jnp.tanh(x @ w)


def sine_layer(x, w):
  """Compute sin(x w)."""
  return jnp.sin(x @ w)


def scale(x, gain):
  """Multiply each column by its gain."""
  return x * gain


def shift(x, b):
  """Add a bias."""
  return x + b


def square(x):
  """Compute x²."""
  return x * x


def cube(x):
  """Compute x³."""
  return x**3


def energy(x):
  """Compute the sum of squares."""
  return jnp.sum(x * x)


def tanh(z):
  """Compute the hyperbolic tangent."""
  return jnp.tanh(z)


def relu(z):
  """Compute the positive part."""
  return jnp.maximum(z, 0)


def sigmoid(z):
  """Compute the logistic function."""
  return jax.nn.sigmoid(z)


def softplus(z):
  """Compute log(1 + eᶻ)."""
  return jax.nn.softplus(z)


def softmax(logits):
  """Compute the softmax over the last axis."""
  return jax.nn.softmax(logits, axis=-1)


def softmax_backward(y, y_bar):
  """Pull a cotangent back through `softmax`, from its output."""
  return y * (y_bar - (y * y_bar).sum(-1, keepdims=True))


def logsumexp(logits):
  """Compute log Σ exp over the last axis."""
  return jax.nn.logsumexp(logits, axis=-1)


def chosen(logits, labels):
  """Return the logit of each row's label, [N]."""
  return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


def cross_entropy(logits, labels):
  """Compute -log softmax(logits) at each row's label, [N]; labels below zero count as 0."""
  return -chosen(jax.nn.log_softmax(logits), jnp.maximum(labels, 0))


def cross_entropy_backward(logits, labels, losses_bar):
  """Pull a cotangent [N] back through `cross_entropy`, to the logits."""
  p = jax.nn.softmax(logits)
  one_hot = jax.nn.one_hot(jnp.maximum(labels, 0), p.shape[1], dtype=p.dtype)
  return losses_bar[:, None] * (p - one_hot)
