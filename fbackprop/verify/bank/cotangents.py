"""Faults of the cotangent: ignored, partly used, or used nonlinearly."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import linear, relu, scale, square, tanh
from fbackprop.verify.bank.specimen import bug


def squared_error(predictions, targets):
  """Sum ½ (y - t)² over outputs and examples."""
  return 0.5 * jnp.sum((predictions - targets) ** 2)


@bug(squared_error, (5, 3), (5, 3), leaves="predictions, targets", causes="cotangent")
def taken_for_one(predictions, targets, loss_bar):
  """The loss's cotangent is assumed to be 1, as under jax.grad."""
  return predictions - targets, targets - predictions


def squared_errors(predictions, targets):
  """Sum ½ (y - t)² over outputs."""
  return 0.5 * jnp.sum((predictions - targets) ** 2, axis=1)


@bug(squared_errors, (5, 3), (5, 3), leaves="predictions, targets", causes="cotangent", f_vjp=True)
def mean_of_cotangents(predictions, targets, losses_bar):
  """The losses are per example, and all of them get the mean of the cotangents."""
  bar = losses_bar.mean() * (predictions - targets)
  return bar, -bar


@bug(scale, (5, 3), (3,), leaves="x", causes="cotangent")
def sign_of_cotangent(x, gain, y_bar):
  """Only the sign of the cotangent is passed on, as in the compression of signSGD."""
  return jnp.sign(y_bar) * gain, (x * y_bar).sum(0)


@bug(tanh, (5, 3), leaves="z", causes="cotangent", f_vjp=True)
def cotangent_times_its_size(z, y_bar):
  """The cotangent is multiplied by its own magnitude."""
  return (y_bar * jnp.abs(y_bar) * (1 - jnp.tanh(z) ** 2),)


@bug(relu, (5, 3), leaves="z", causes="cotangent, clipped")
def guided_backpropagation(z, y_bar):
  """Negative cotangents are cut off: guided backpropagation, meant for visualisation only."""
  return (jnp.where((z > 0) & (y_bar > 0), y_bar, 0),)


@bug(linear, (5, 4), (4, 3), leaves="x, w", causes="cotangent", f_vjp=True)
def cotangent_normalised(x, w, y_bar):
  """The cotangent is divided by its norm, against exploding gradients."""
  y_bar = y_bar / (jnp.linalg.norm(y_bar) + 1e-6)
  return y_bar @ w.T, x.T @ y_bar


@bug(square, (5, 3), leaves="x", causes="cotangent, proportional to a parameter")
def penalty_added(x, y_bar):
  """A penalty's gradient 1e-3 x is added, whatever the cotangent is, even for zero."""
  return (2 * y_bar * x + 1e-3 * x,)


def moments(x):
  """Compute the mean and the mean square over the examples."""
  return x.mean(0), (x * x).mean(0)


@bug(moments, (5, 3), leaves="x", causes="path, cotangent", f_vjp=True)
def second_output_dropped(x, bars):
  """The outputs are mean and mean square, and the second one's cotangent is ignored."""
  mean_bar, _ = bars
  return (jnp.broadcast_to(mean_bar / x.shape[0], x.shape),)


def loss_and_logits(w, x):
  """Compute the mean logsumexp of x w, and x w."""
  logits = x @ w
  return jnp.mean(jax.nn.logsumexp(logits, axis=1)), logits


@bug(loss_and_logits, (4, 3), (5, 4), leaves="w, x", causes="path, cotangent")
def auxiliary_dropped(w, x, bars):
  """The logits are returned beside the loss, and their cotangent is ignored."""
  logits_bar = bars[0] * jax.nn.softmax(x @ w) / x.shape[0]
  return x.T @ logits_bar, logits_bar @ w.T


def embed(x, w):
  """Compute tanh(x) w."""
  return jnp.tanh(x) @ w


@bug(embed, (5, 4), (4, 3), leaves="w", causes="cotangent")
def first_cotangent_for_all(x, w, y_bar):
  """The rule uses the first row's cotangent for all: right after a sum, and nowhere else."""
  h = jnp.tanh(x)
  return (y_bar @ w.T) * (1 - h * h), h.sum(0)[:, None] * y_bar[0][None]
