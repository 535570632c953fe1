"""Right losses: fused with the softmax, smoothed, weighted, padded, scaled, saturated."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank.arguments import draw, draw_labels, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen


def losses_of(logits, labels):
  """logsumexp(logits) minus the label's logit, for each example."""
  chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  return jax.nn.logsumexp(logits, axis=1) - chosen


def minus_one_at(p, labels):
  """p with 1 subtracted at each row's label."""
  return p.at[jnp.arange(p.shape[0]), labels].add(-1)


def fused_cross_entropy():
  """Softmax and cross-entropy in one, for any cotangent of each loss."""

  @jax.custom_vjp
  def losses(logits, labels):
    return losses_of(logits, labels)

  def losses_fwd(logits, labels):
    return losses(logits, labels), (logits, labels)

  def losses_bwd(residuals, losses_bar):
    logits, labels = residuals
    return losses_bar[:, None] * minus_one_at(jax.nn.softmax(logits), labels), None

  losses.defvjp(losses_fwd, losses_bwd)
  return Example(losses, (*draw((6, 4)), draw_labels(6, 4)))


def saturated():
  """The same with logits up to 1000, where most probabilities are 0 or 1."""
  example = fused_cross_entropy()
  logits, labels = example.args
  return example._replace(args=(1000 * logits, labels))


def label_smoothing():
  """Smoothed labels, never written out: p - ε/C, minus 1 - ε at the label."""

  def loss(logits, labels):
    targets = 0.9 * jax.nn.one_hot(labels, 5, dtype=logits.dtype) + 0.1 / 5
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))

  def f_vjp(logits, labels):
    rows = jnp.arange(logits.shape[0])

    def pullback(loss_bar):
      p = jax.nn.softmax(logits) - 0.1 / 5
      return loss_bar / rows.size * p.at[rows, labels].add(-0.9), None

    return loss(logits, labels), pullback

  return Example(loss, (*draw((6, 5)), draw_labels(6, 5)), f_vjp)


def soft_labels():
  """Targets that needn't sum to one: p Σt - t, and -log p for the targets themselves."""

  def losses(logits, targets):
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=1)

  def f_vjp(logits, targets):
    log_p = jax.nn.log_softmax(logits)

    def pullback(losses_bar):
      total = targets.sum(1, keepdims=True)
      logits_bar = losses_bar[:, None] * (jnp.exp(log_p) * total - targets)
      return logits_bar, -losses_bar[:, None] * log_p

    return losses(logits, targets), pullback

  return Example(losses, (*draw((6, 4)), *draw_positive((6, 4))), f_vjp)


def ignored_rows():
  """Rows with the label -1 count neither above nor below the line."""

  @jax.custom_vjp
  def loss(logits, labels):
    kept = (labels >= 0).astype(logits.dtype)
    losses = losses_of(logits, jnp.maximum(labels, 0))
    return jnp.sum(kept * losses) / jnp.maximum(kept.sum(), 1)

  def loss_fwd(logits, labels):
    return loss(logits, labels), (logits, labels)

  def loss_bwd(residuals, loss_bar):
    logits, labels = residuals
    bar = minus_one_at(jax.nn.softmax(logits), jnp.maximum(labels, 0))
    count = jnp.maximum((labels >= 0).sum(), 1)
    return jnp.where((labels >= 0)[:, None], loss_bar * bar / count, 0), None

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, (*draw((6, 4)), jnp.asarray([1, -1, 0, 3, -1, 2])))


def padded_with_zero_weights():
  """Four rows of weight zero are appended, and cut off the cotangents again."""

  def loss(predictions, targets, weights):
    return jnp.sum(weights * jnp.sum((predictions - targets) ** 2, axis=1)) / weights.sum()

  def f_vjp(predictions, targets, weights):
    n = weights.shape[0]
    error = jnp.pad(predictions - targets, ((0, 4), (0, 0)))
    padded = jnp.pad(weights, (0, 4))
    total = padded.sum()
    losses = (error**2).sum(1)
    mean = padded @ losses / total

    def pullback(loss_bar):
      bar = 2 * loss_bar * (padded / total)[:, None] * error
      return bar[:n], -bar[:n], (loss_bar * (losses - mean) / total)[:n]

    return mean, pullback

  return Example(loss, (*draw((5, 3), (5, 3)), *draw_positive((5,))), f_vjp)


def classes_by_chunks():
  """logsumexp by chunks of two classes with a running maximum; the rule goes by the result."""

  @jax.custom_vjp
  def logsumexp(logits):
    return jax.nn.logsumexp(logits, axis=1)

  def logsumexp_fwd(logits):
    largest, total = logits[:, 0], jnp.ones_like(logits[:, 0])
    for start in range(1, logits.shape[1], 2):
      chunk = logits[:, start : start + 2]
      new = jnp.maximum(largest, chunk.max(1))
      total = total * jnp.exp(largest - new) + jnp.exp(chunk - new[:, None]).sum(1)
      largest = new
    y = largest + jnp.log(total)
    return y, (logits, y)

  def logsumexp_bwd(residuals, y_bar):
    logits, y = residuals
    return (y_bar[:, None] * jnp.exp(logits - y[:, None]),)

  logsumexp.defvjp(logsumexp_fwd, logsumexp_bwd)
  return Example(logsumexp, draw((5, 6)))


def binary_from_sigmoid():
  """Cross-entropy of logits and soft targets by the sigmoid, which never overflows."""

  @jax.custom_vjp
  def losses(logits, targets):
    return jax.nn.softplus(logits) - logits * targets

  def losses_fwd(logits, targets):
    return losses(logits, targets), (logits, targets)

  def losses_bwd(residuals, losses_bar):
    logits, targets = residuals
    return losses_bar * (jax.nn.sigmoid(logits) - targets), -losses_bar * logits

  losses.defvjp(losses_fwd, losses_bwd)
  return Example(losses, (30 * draw((5, 3))[0], *draw_positive((5, 3))))


def huber_clipped():
  """Huber's slope is the clipped error."""

  def huber(predictions, targets):
    error = jnp.abs(predictions - targets)
    return jnp.where(error <= 1, 0.5 * error**2, error - 0.5)

  def f_vjp(predictions, targets):
    def pullback(losses_bar):
      bar = losses_bar * jnp.maximum(jnp.minimum(predictions - targets, 1), -1)
      return bar, -bar

    return huber(predictions, targets), pullback

  return Example(huber, draw((6, 3), (6, 3)), f_vjp)


def hinge_by_count():
  """The label's row counts how many classes violate the margin."""

  def hinge(scores, labels):
    chosen = jnp.take_along_axis(scores, labels[:, None], axis=1)
    return jnp.maximum(scores - chosen + 1, 0).sum(1) - 1

  def f_vjp(scores, labels):
    chosen = jnp.take_along_axis(scores, labels[:, None], axis=1)
    rows = jnp.arange(labels.shape[0])
    violated = (scores - chosen + 1 > 0).astype(scores.dtype).at[rows, labels].set(0)
    slopes = violated.at[rows, labels].set(-violated.sum(1))

    def pullback(losses_bar):
      return losses_bar[:, None] * slopes, None

    return hinge(scores, labels), pullback

  return Example(hinge, (*draw((6, 5)), draw_labels(6, 5)), f_vjp)


def scaled_loss():
  """A loss times 2⁻²⁰, as mixed precision scales it back."""

  @jax.custom_vjp
  def loss(predictions, targets):
    return 2.0**-20 * jnp.mean((predictions - targets) ** 2)

  def loss_fwd(predictions, targets):
    return loss(predictions, targets), predictions - targets

  def loss_bwd(error, loss_bar):
    bar = (loss_bar * 2.0**-19 / error.size) * error if error.size else error
    return bar, -bar

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, draw((5, 3), (5, 3)))


RIGHT = (
  Specimen("right-fused-cross-entropy", fused_cross_entropy),
  Specimen("right-saturated-logits", saturated),
  Specimen("right-label-smoothing", label_smoothing),
  Specimen("right-soft-labels", soft_labels),
  Specimen("right-ignored-rows", ignored_rows),
  Specimen("right-padded-with-zero-weights", padded_with_zero_weights),
  Specimen("right-classes-by-chunks", classes_by_chunks),
  Specimen("right-binary-cross-entropy", binary_from_sigmoid),
  Specimen("right-huber-clipped", huber_clipped),
  Specimen("right-hinge-by-count", hinge_by_count),
  Specimen("right-scaled-loss", scaled_loss),
)
