"""Bugs of the cotangent: ignored, used in part, or not linearly."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw
from fbackprop.verify.bank.specimen import Example, Specimen


def taken_for_one():
  """The loss's cotangent is taken for 1, as it is under jax.grad."""

  @jax.custom_vjp
  def loss(predictions, targets):
    return 0.5 * jnp.sum((predictions - targets) ** 2)

  def loss_fwd(predictions, targets):
    return loss(predictions, targets), predictions - targets

  def loss_bwd(error, _):
    return error, -error

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, draw((5, 3), (5, 3)))


def losses_taken_for_mean():
  """One loss for each example, and all of them get the mean of the cotangents."""

  def losses(predictions, targets):
    return 0.5 * jnp.sum((predictions - targets) ** 2, axis=1)

  def f_vjp(predictions, targets):
    error = predictions - targets

    def pullback(losses_bar):
      bar = losses_bar.mean() * error
      return bar, -bar

    return losses(predictions, targets), pullback

  return Example(losses, draw((5, 3), (5, 3)), f_vjp)


def sign_of_cotangent():
  """The sign of the cotangent is passed on, as signSGD compresses it."""

  @jax.custom_vjp
  def scale(x, gain):
    return x * gain

  def scale_fwd(x, gain):
    return x * gain, (x, gain)

  def scale_bwd(residuals, y_bar):
    x, gain = residuals
    return jnp.sign(y_bar) * gain, (x * y_bar).sum(0)

  scale.defvjp(scale_fwd, scale_bwd)
  return Example(scale, draw((5, 3), (3,)))


def focal_cotangent():
  """The cotangent is multiplied by its own size."""

  def tanh(z):
    return jnp.tanh(z)

  def f_vjp(z):
    y = jnp.tanh(z)

    def pullback(y_bar):
      return (y_bar * jnp.abs(y_bar) * (1 - y * y),)

    return y, pullback

  return Example(tanh, draw((5, 3)), f_vjp)


def guided_backpropagation():
  """Negative cotangents are cut off: guided backpropagation, good for pictures only."""

  @jax.custom_vjp
  def relu(z):
    return jnp.maximum(z, 0)

  def relu_fwd(z):
    y = relu(z)
    return y, y

  def relu_bwd(y, y_bar):
    return (jnp.where((y > 0) & (y_bar > 0), y_bar, 0),)

  relu.defvjp(relu_fwd, relu_bwd)
  return Example(relu, draw((5, 3)))


def normalised_cotangent():
  """The cotangent is divided by its norm, against explosion."""

  def linear(x, w):
    return x @ w

  def f_vjp(x, w):
    def pullback(y_bar):
      y_bar = y_bar / (jnp.linalg.norm(y_bar) + 1e-6)
      return y_bar @ w.T, x.T @ y_bar

    return x @ w, pullback

  return Example(linear, draw((5, 4), (4, 3)), f_vjp)


def noise_added():
  """A penalty's gradient 1e-3 x is added, whatever the cotangent is, even zero."""

  @jax.custom_vjp
  def square(x):
    return x * x

  def square_fwd(x):
    return x * x, x

  def square_bwd(x, y_bar):
    return (2 * y_bar * x + 1e-3 * x,)

  square.defvjp(square_fwd, square_bwd)
  return Example(square, draw((5, 3)))


def second_output_dropped():
  """Of two outputs, mean and mean square, the second one's cotangent isn't used."""

  def moments(x):
    return x.mean(0), (x * x).mean(0)

  def f_vjp(x):
    def pullback(bars):
      mean_bar, _ = bars
      return (jnp.broadcast_to(mean_bar / x.shape[0], x.shape),)

    return moments(x), pullback

  return Example(moments, draw((5, 3)), f_vjp)


def auxiliary_dropped():
  """The logits are returned beside the loss, and only the loss has a cotangent."""

  @jax.custom_vjp
  def loss_and_logits(w, x):
    logits = x @ w
    return jnp.mean(jax.nn.logsumexp(logits, axis=1)), logits

  def loss_fwd(w, x):
    loss, logits = loss_and_logits(w, x)
    return (loss, logits), (w, x, jax.nn.softmax(logits))

  def loss_bwd(residuals, bars):
    w, x, p = residuals
    logits_bar = bars[0] * p / x.shape[0]
    return x.T @ logits_bar, logits_bar @ w.T

  loss_and_logits.defvjp(loss_fwd, loss_bwd)
  return Example(loss_and_logits, draw((4, 3), (5, 4)))


def first_of_the_batch():
  """The rule takes the first row's cotangent for all: right after a sum, and nowhere else."""

  @jax.custom_vjp
  def embed(x, w):
    return jnp.tanh(x) @ w

  def embed_fwd(x, w):
    return embed(x, w), (jnp.tanh(x), w)

  def embed_bwd(residuals, y_bar):
    h, w = residuals
    w_bar = h.sum(0)[:, None] * y_bar[0][None]
    return (y_bar @ w.T) * (1 - h * h), w_bar

  embed.defvjp(embed_fwd, embed_bwd)
  return Example(embed, draw((5, 4), (4, 3)))


BUGS = (
  Specimen("taken-for-one", taken_for_one, ("predictions", "targets"), ("cotangent",)),
  Specimen("mean-of-cotangents", losses_taken_for_mean, ("predictions", "targets"), ("cotangent",)),
  Specimen("sign-of-cotangent", sign_of_cotangent, ("x",), ("cotangent",)),
  Specimen("cotangent-times-its-size", focal_cotangent, ("z",), ("cotangent",)),
  Specimen("guided-backpropagation", guided_backpropagation, ("z",), ("cotangent", "clipped")),
  Specimen("cotangent-normalised", normalised_cotangent, ("x", "w"), ("cotangent",)),
  Specimen("penalty-added", noise_added, ("x",), ("cotangent", "proportional to a parameter")),
  Specimen("second-output-dropped", second_output_dropped, ("x",), ("path", "cotangent")),
  Specimen("auxiliary-dropped", auxiliary_dropped, ("w", "x"), ("path", "cotangent")),
  Specimen("first-cotangent-for-all", first_of_the_batch, ("w",), ("cotangent",)),
)
