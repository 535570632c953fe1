"""Elementary bugs: a wrong sign, factor or operand; a cotangent ignored, or used nonlinearly."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.references import cube, energy, linear, relu, scale, square, tanh
from fbackprop.verify.bank.specimen import bug, positive


@bug("centers: constant factor", lambda x, centers: 0.5 * jnp.sum((x - centers) ** 2, axis=-1),
     (5, 3), (5, 3), f_vjp=True)  # fmt: skip
def sign_of_center(x, centers, y_bar):
  """The second operand of a distance gets the sign of the first."""
  x_bar = y_bar[:, None] * (x - centers)
  return x_bar, x_bar


@bug("x: constant factor", energy, (5, 3))
def squares_without_two(x, energy_bar):
  """The factor 2 of the square's derivative is missing."""
  return (energy_bar * x,)


@bug("x: constant factor", lambda x: jnp.var(x, axis=0), (6, 3))
def variance_unbiased(x, y_bar):
  """The variance divides by N, its rule by N - 1."""
  return (2 * y_bar * (x - x.mean(0)) / (x.shape[0] - 1),)


@bug("a: wrong point", lambda a, b: a * b, (4, 3), (4, 3))
def product_own_factor(a, b, y_bar):
  """The cotangent of a product's first factor is multiplied by that factor instead of the other."""
  return y_bar * a, y_bar * a


@bug("b: other function, wrong point", lambda a, b: a / b, (4, 3), positive(4, 3, seed=1),
     f_vjp=True)  # fmt: skip
def quotient_denominator(a, b, y_bar):
  """The denominator's derivative divides by b instead of b squared."""
  return y_bar / b, -y_bar * a / b


@bug("x: other function, wrong point", cube, (7,))
def power_exponent(x, y_bar):
  """The derivative of x³ doesn't reduce the exponent."""
  return (y_bar * 3 * x**3,)


@bug("b: path", lambda a, b: a * a + 2 * a * b + b * b, (6,), (6,), f_vjp=True)
def product_cross_term(a, b, y_bar):
  """The cross term of (a + b)² contributes to both cotangents; b's contribution is missing."""
  return y_bar * (2 * a + 2 * b), y_bar * 2 * b


@bug("predictions, targets: cotangent",
     lambda predictions, targets: 0.5 * jnp.sum((predictions - targets) ** 2), (5, 3),
     (5, 3))  # fmt: skip
def taken_for_one(predictions, targets, loss_bar):
  """The loss's cotangent is assumed to be 1, as under jax.grad."""
  return predictions - targets, targets - predictions


@bug("predictions, targets: cotangent",
     lambda predictions, targets: 0.5 * jnp.sum((predictions - targets) ** 2, axis=1), (5, 3),
     (5, 3), f_vjp=True)  # fmt: skip
def mean_of_cotangents(predictions, targets, losses_bar):
  """The losses are per example, and all of them get the mean of the cotangents."""
  bar = losses_bar.mean() * (predictions - targets)
  return bar, -bar


@bug("x: cotangent", scale, (5, 3), (3,))
def sign_of_cotangent(x, gain, y_bar):
  """Only the sign of the cotangent is passed on, as in the compression of signSGD."""
  return jnp.sign(y_bar) * gain, (x * y_bar).sum(0)


@bug("z: cotangent", tanh, (5, 3), f_vjp=True)
def cotangent_times_its_size(z, y_bar):
  """The cotangent is multiplied by its own magnitude."""
  return (y_bar * jnp.abs(y_bar) * (1 - jnp.tanh(z) ** 2),)


@bug("z: cotangent, clipped", relu, (5, 3))
def guided_backpropagation(z, y_bar):
  """Negative cotangents are cut off: guided backpropagation, meant for visualisation only."""
  return (jnp.where((z > 0) & (y_bar > 0), y_bar, 0),)


@bug("x, w: cotangent", linear, (5, 4), (4, 3), f_vjp=True)
def cotangent_normalised(x, w, y_bar):
  """The cotangent is divided by its norm, against exploding gradients."""
  y_bar = y_bar / (jnp.linalg.norm(y_bar) + 1e-6)
  return y_bar @ w.T, x.T @ y_bar


@bug("x: cotangent, proportional to a parameter", square, (5, 3))
def penalty_added(x, y_bar):
  """A penalty's gradient 1e-3 x is added, whatever the cotangent is, even for zero."""
  return (2 * y_bar * x + 1e-3 * x,)


@bug("x: path, cotangent", lambda x: (x.mean(0), (x * x).mean(0)), (5, 3), f_vjp=True)
def second_output_dropped(x, bars):
  """The outputs are mean and mean square, and the second one's cotangent is ignored."""
  mean_bar, _ = bars
  return (jnp.broadcast_to(mean_bar / x.shape[0], x.shape),)


def loss_and_logits(w, x):
  """Compute the mean logsumexp of x w, and x w."""
  logits = x @ w
  return jnp.mean(jax.nn.logsumexp(logits, axis=1)), logits


@bug("w, x: path, cotangent", loss_and_logits, (4, 3), (5, 4))
def auxiliary_dropped(w, x, bars):
  """The logits are returned beside the loss, and their cotangent is ignored."""
  logits_bar = bars[0] * jax.nn.softmax(x @ w) / x.shape[0]
  return x.T @ logits_bar, logits_bar @ w.T


@bug("w: cotangent", lambda x, w: jnp.tanh(x) @ w, (5, 4), (4, 3))
def first_cotangent_for_all(x, w, y_bar):
  """The rule uses the first row's cotangent for all: right after a sum, and nowhere else."""
  h = jnp.tanh(x)
  return (y_bar @ w.T) * (1 - h * h), h.sum(0)[:, None] * y_bar[0][None]
