"""Bugs of losses: means, labels, soft targets, margins, saturation."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_labels, draw_positive, draw_probabilities
from fbackprop.verify.bank.specimen import Example, Specimen


def cross_entropy_of_probabilities(logits, targets):
  """The mean over examples of -Σ_c t log softmax(logits)."""
  return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))


def sum_for_mean():
  """The loss is a mean, and the rule of a sum."""

  @jax.custom_vjp
  def cross_entropy(logits, labels):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()

  def cross_entropy_fwd(logits, labels):
    return cross_entropy(logits, labels), (jax.nn.softmax(logits), labels)

  def cross_entropy_bwd(residuals, loss_bar):
    p, labels = residuals
    return loss_bar * (p - jax.nn.one_hot(labels, p.shape[1], dtype=p.dtype)), None

  cross_entropy.defvjp(cross_entropy_fwd, cross_entropy_bwd)
  return Example(cross_entropy, (*draw((6, 4)), draw_labels(6, 4)))


def smoothing_forgotten():
  """The forward pass smooths the labels, the rule takes them as they are."""

  def loss(logits, labels):
    targets = 0.9 * jax.nn.one_hot(labels, 4, dtype=logits.dtype) + 0.1 / 4
    return cross_entropy_of_probabilities(logits, targets)

  def f_vjp(logits, labels):
    def pullback(loss_bar):
      p = jax.nn.softmax(logits)
      p_minus_t = p - jax.nn.one_hot(labels, 4, dtype=p.dtype)
      return loss_bar * p_minus_t / logits.shape[0], None

    return loss(logits, labels), pullback

  return Example(loss, (*draw((6, 4)), draw_labels(6, 4)), f_vjp)


def soft_labels_sum():
  """p - t holds only where each row of t sums to one, as the rows of this call do."""

  def f_vjp(logits, targets):
    log_p = jax.nn.log_softmax(logits)
    n = logits.shape[0]

    def pullback(loss_bar):
      return loss_bar / n * (jnp.exp(log_p) - targets), -loss_bar / n * log_p

    return cross_entropy_of_probabilities(logits, targets), pullback

  arguments = (*draw((6, 4)), draw_probabilities(6, 4))
  return Example(cross_entropy_of_probabilities, arguments, f_vjp)


def temperature_forgotten():
  """The logits are divided by a temperature, their cotangent isn't."""

  def loss(logits, targets):
    return cross_entropy_of_probabilities(logits / 4.0, targets)

  def f_vjp(logits, targets):
    log_p, n = jax.nn.log_softmax(logits / 4.0), logits.shape[0]

    def pullback(loss_bar):
      total = targets.sum(1, keepdims=True)
      return loss_bar / n * (jnp.exp(log_p) * total - targets), -loss_bar / n * log_p

    return loss(logits, targets), pullback

  return Example(loss, (*draw((6, 4)), draw_probabilities(6, 4)), f_vjp)


def z_loss_forgotten():
  """The small term 1e-4 logsumexp², which keeps logits near zero, has no gradient."""

  @jax.custom_vjp
  def loss(logits, labels):
    lse = jax.nn.logsumexp(logits, axis=1)
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return lse - chosen + 1e-4 * lse**2

  def loss_fwd(logits, labels):
    return loss(logits, labels), (logits, labels)

  def loss_bwd(residuals, losses_bar):
    logits, labels = residuals
    p = jax.nn.softmax(logits)
    return losses_bar[:, None] * (p - jax.nn.one_hot(labels, 5, dtype=p.dtype)), None

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, (*draw((6, 5)), draw_labels(6, 5)))


def binary_saturated():
  """(p - t) / (p (1 - p)) times p (1 - p) is 0/0 once the sigmoid has reached 1."""

  @jax.custom_vjp
  def loss(logits, targets):
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))

  def loss_fwd(logits, targets):
    return loss(logits, targets), (logits, targets)

  def loss_bwd(residuals, losses_bar):
    logits, targets = residuals
    p = jax.nn.sigmoid(logits)
    p_bar = losses_bar * (p - targets) / (p * (1 - p))
    return p_bar * p * (1 - p), -losses_bar * logits

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, (*draw((5, 3)), *draw_positive((5, 3))))


def logsumexp_overflow():
  """The forward pass subtracts the maximum; the rule doesn't, and gives inf/inf."""

  @jax.custom_vjp
  def logsumexp(logits):
    return jax.nn.logsumexp(logits, axis=-1)

  def logsumexp_fwd(logits):
    return logsumexp(logits), logits

  def logsumexp_bwd(logits, y_bar):
    e = jnp.exp(logits)
    return (y_bar[:, None] * e / e.sum(-1, keepdims=True),)

  logsumexp.defvjp(logsumexp_fwd, logsumexp_bwd)
  return Example(logsumexp, draw((5, 4)))


def huber_delta():
  """The forward pass bends at |error| = 2, the rule at 1."""

  @jax.custom_vjp
  def huber(predictions, targets):
    error = jnp.abs(predictions - targets)
    return jnp.where(error <= 2, 0.5 * error**2, 2 * error - 2)

  def huber_fwd(predictions, targets):
    return huber(predictions, targets), predictions - targets

  def huber_bwd(error, losses_bar):
    bar = losses_bar * jnp.clip(error, -1, 1)
    return bar, -bar

  huber.defvjp(huber_fwd, huber_bwd)
  return Example(huber, draw((6, 3), (6, 3)))


def hinge_count():
  """The label's row gets -1 once, not once for each class that violates the margin."""

  def hinge(scores, labels):
    chosen = jnp.take_along_axis(scores, labels[:, None], axis=1)
    margins = jnp.maximum(scores - chosen + 1, 0)
    return jnp.sum(margins, axis=1) - 1

  def f_vjp(scores, labels):
    chosen = jnp.take_along_axis(scores, labels[:, None], axis=1)
    is_label = jax.nn.one_hot(labels, scores.shape[1], dtype=scores.dtype)
    violated = (scores - chosen + 1 > 0) * (1 - is_label)

    def pullback(losses_bar):
      return losses_bar[:, None] * (violated - is_label * violated.max(1, keepdims=True)), None

    return hinge(scores, labels), pullback

  return Example(hinge, (*draw((6, 5)), draw_labels(6, 5)), f_vjp)


def divergence_without_one():
  """d/dp of p (log p - log q) is log p - log q + 1; the 1 is forgotten."""

  @jax.custom_vjp
  def divergence(p, q):
    return jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=1)

  def divergence_fwd(p, q):
    return divergence(p, q), (p, q)

  def divergence_bwd(residuals, y_bar):
    p, q = residuals
    return y_bar[:, None] * (jnp.log(p) - jnp.log(q)), -y_bar[:, None] * p / q

  divergence.defvjp(divergence_fwd, divergence_bwd)
  return Example(divergence, (draw_probabilities(5, 3), draw_probabilities(5, 3, seed=1)))


def triplet_anchor():
  """The anchor stands in both distances, and only the positive one is counted."""

  def triplet(anchor, positive, negative):
    near = jnp.sum((anchor - positive) ** 2, axis=1)
    return near - jnp.sum((anchor - negative) ** 2, axis=1)

  def f_vjp(anchor, positive, negative):
    def pullback(y_bar):
      near = 2 * y_bar[:, None] * (anchor - positive)
      far = 2 * y_bar[:, None] * (anchor - negative)
      return near, -near, far

    return triplet(anchor, positive, negative), pullback

  return Example(triplet, draw((5, 3), (5, 3), (5, 3)), f_vjp)


BUGS = (
  Specimen("sum-for-mean", sum_for_mean, ("logits",), ("constant factor",)),
  Specimen("smoothing-forgotten", smoothing_forgotten, ("logits",), ("other function",)),
  Specimen("soft-labels-sum", soft_labels_sum, ("logits",), ("other function", "path")),
  Specimen("temperature-forgotten", temperature_forgotten, ("logits",), ("constant factor",)),
  Specimen("z-loss-forgotten", z_loss_forgotten, ("logits",), ("path", "other function")),
  Specimen("binary-saturated", binary_saturated, ("logits",), ("not finite",), level="standard"),
  Specimen(
    "logsumexp-overflow", logsumexp_overflow, ("logits",), ("not finite",), level="standard"
  ),
  Specimen("huber-delta", huber_delta, ("predictions",), ("clipped", "other function")),
  Specimen("hinge-count", hinge_count, ("scores",), ("path", "other function", "clipped")),
  Specimen("divergence-without-one", divergence_without_one, ("p",), ("path", "other function")),
  Specimen("triplet-anchor", triplet_anchor, ("anchor",), ("path",)),
)
