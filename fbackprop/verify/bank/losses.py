"""Losses: means, labels, soft targets, margins, saturation."""

import jax
import jax.numpy as jnp

from fbackprop.verify.bank import references as ref
from fbackprop.verify.bank.specimen import bug, labels, normal, positive, probabilities, right

# Cross-entropy with labels.


@bug("logits: constant factor", lambda logits, labels: ref.cross_entropy(logits, labels).mean(),
     (6, 4), labels(6, 4))  # fmt: skip
def sum_for_mean(logits, labels, loss_bar):
  """The loss is a mean, and its rule is that of a sum."""
  return ref.cross_entropy_backward(logits, labels, jnp.broadcast_to(loss_bar, labels.shape)), None


def smoothed_cross_entropy(logits, labels):
  """Average the cross-entropy with labels smoothed by 0.1 over the examples."""
  classes = logits.shape[1]
  targets = 0.9 * jax.nn.one_hot(labels, classes, dtype=logits.dtype) + 0.1 / classes
  return mean_with_targets(logits, targets)


@bug("logits: other function", smoothed_cross_entropy, (6, 4), labels(6, 4), f_vjp=True)
def smoothing_forgotten(logits, labels, loss_bar):
  """The forward pass smooths the labels, the rule doesn't."""
  losses_bar = jnp.broadcast_to(loss_bar / logits.shape[0], labels.shape)
  return ref.cross_entropy_backward(logits, labels, losses_bar), None


@right(smoothed_cross_entropy, (6, 5), labels(6, 5), f_vjp=True)
def right_label_smoothing(logits, labels, loss_bar):
  """Smoothed labels without forming them: p - ε/C, minus 1 - ε at the label."""
  rows, p = jnp.arange(logits.shape[0]), jax.nn.softmax(logits) - 0.1 / logits.shape[1]
  return loss_bar / rows.size * p.at[rows, labels].add(-0.9), None


def with_z_loss(logits, labels):
  """Add 1e-4 logsumexp² to the cross-entropy, which keeps the logits near zero."""
  lse = ref.logsumexp(logits)
  return lse - ref.chosen(logits, labels) + 1e-4 * lse**2


@bug("logits: path, other function", with_z_loss, (6, 5), labels(6, 5))
def z_loss_forgotten(logits, labels, losses_bar):
  """The term 1e-4 logsumexp² has no gradient."""
  return ref.cross_entropy_backward(logits, labels, losses_bar), None


def fused_backward(logits, labels, losses_bar):
  """Pull a cotangent back through softmax and cross-entropy at once: p, minus 1 at the label."""
  p = jax.nn.softmax(logits)
  return losses_bar[:, None] * p.at[jnp.arange(p.shape[0]), labels].add(-1), None


@right(ref.cross_entropy, (6, 4), labels(6, 4))
def right_fused_cross_entropy(logits, labels, losses_bar):
  """Softmax and cross-entropy in one, for any cotangent of each loss."""
  return fused_backward(logits, labels, losses_bar)


@right(ref.cross_entropy, normal(6, 4, seed=0, times=1000), labels(6, 4))
def right_saturated_logits(logits, labels, losses_bar):
  """The same rule for logits up to 1000, where most probabilities are 0 or 1."""
  return fused_backward(logits, labels, losses_bar)


# Cross-entropy with targets, and its parts.


def mean_with_targets(logits, targets):
  """Average -Σ_c t log softmax(logits) over the examples."""
  return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))


@bug("logits: other function, path", mean_with_targets, (6, 4), probabilities(6, 4), f_vjp=True)
def soft_labels_sum(logits, targets, loss_bar):
  """p - t holds only where each row of t sums to one, as the given rows do."""
  log_p, mean_bar = jax.nn.log_softmax(logits), loss_bar / logits.shape[0]
  return mean_bar * (jnp.exp(log_p) - targets), -mean_bar * log_p


@bug("logits: constant factor", lambda logits, targets: mean_with_targets(logits / 4.0, targets),
     (6, 4), probabilities(6, 4), f_vjp=True)  # fmt: skip
def temperature_forgotten(logits, targets, loss_bar):
  """The logits are divided by a temperature, but their cotangent isn't."""
  log_p, mean_bar = jax.nn.log_softmax(logits / 4.0), loss_bar / logits.shape[0]
  total = targets.sum(1, keepdims=True)
  return mean_bar * (jnp.exp(log_p) * total - targets), -mean_bar * log_p


@right(lambda z, t: -jnp.sum(t * jax.nn.log_softmax(z), axis=1), (6, 4), positive(6, 4), f_vjp=True)
def right_soft_labels(logits, targets, losses_bar):
  """The rows of targets needn't sum to one: p Σt - t, and -log p for the targets."""
  log_p, total = jax.nn.log_softmax(logits), targets.sum(1, keepdims=True)
  logits_bar = losses_bar[:, None] * (jnp.exp(log_p) * total - targets)
  return logits_bar, -losses_bar[:, None] * log_p


def binary_cross_entropy(logits, targets):
  """Compute the cross-entropy of σ(logits), in the form that never overflows."""
  return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


@bug("logits: not finite", binary_cross_entropy, (5, 3), positive(5, 3), level="standard")
def binary_saturated(logits, targets, losses_bar):
  """(p - t) / (p (1 - p)) times p (1 - p) is 0/0 once the sigmoid is exactly 1."""
  p = jax.nn.sigmoid(logits)
  p_bar = losses_bar * (p - targets) / (p * (1 - p))
  return p_bar * p * (1 - p), -losses_bar * logits


@right(binary_cross_entropy, normal(5, 3, seed=0, times=30), positive(5, 3))
def right_binary_cross_entropy(logits, targets, losses_bar):
  """The sigmoid of the logits minus the targets, which never overflows."""
  return losses_bar * (jax.nn.sigmoid(logits) - targets), -losses_bar * logits


@bug("logits: not finite", ref.logsumexp, (5, 4), level="standard")
def logsumexp_overflow(logits, y_bar):
  """The forward pass subtracts the maximum; the rule doesn't, and gives inf/inf."""
  e = jnp.exp(logits)
  return (y_bar[:, None] * e / e.sum(-1, keepdims=True),)


def logsumexp_by_chunks(logits):
  """Compute `logsumexp` by chunks of two classes with a running maximum."""
  largest, total = logits[:, 0], jnp.ones_like(logits[:, 0])
  for start in range(1, logits.shape[1], 2):
    chunk = logits[:, start : start + 2]
    new = jnp.maximum(largest, chunk.max(1))
    total = total * jnp.exp(largest - new) + jnp.exp(chunk - new[:, None]).sum(1)
    largest = new
  y = largest + jnp.log(total)
  return y, (logits, y)


@right(ref.logsumexp, (5, 6), forward=logsumexp_by_chunks)
def right_classes_by_chunks(logits, y, y_bar):
  """The forward pass runs over chunks of classes, the rule uses its result."""
  return (y_bar[:, None] * jnp.exp(logits - y[:, None]),)


@bug("p: path, other function", lambda p, q: jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=1),
     probabilities(5, 3), probabilities(5, 3, seed=1))  # fmt: skip
def divergence_without_one(p, q, y_bar):
  """d/dp of p (log p - log q) is log p - log q + 1; the 1 is missing."""
  return y_bar[:, None] * (jnp.log(p) - jnp.log(q)), -y_bar[:, None] * p / q


# Errors, margins and distances.


def huber(predictions, targets):
  """Compute the Huber loss that bends at 2."""
  error = jnp.abs(predictions - targets)
  return jnp.where(error <= 2, 0.5 * error**2, 2 * error - 2)


@bug("predictions: clipped, other function", huber, (6, 3), (6, 3))
def huber_delta(predictions, targets, losses_bar):
  """The forward pass bends at |error| = 2, the rule at 1."""
  bar = losses_bar * jnp.clip(predictions - targets, -1, 1)
  return bar, -bar


@right(huber, (6, 3), (6, 3), f_vjp=True)
def right_huber_clipped(predictions, targets, losses_bar):
  """Huber's slope is the clipped error."""
  bar = losses_bar * jnp.maximum(jnp.minimum(predictions - targets, 2), -2)
  return bar, -bar


def hinge(scores, labels):
  """Sum the violations of the margin 1 over the other classes."""
  return jnp.maximum(scores - ref.chosen(scores, labels)[:, None] + 1, 0).sum(1) - 1


@bug("scores: path, other function, clipped", hinge, (6, 5), labels(6, 5), f_vjp=True)
def hinge_count(scores, labels, losses_bar):
  """The label's entry gets -1 once, instead of once for each class that violates the margin."""
  is_label = jax.nn.one_hot(labels, scores.shape[1], dtype=scores.dtype)
  violated = (scores - ref.chosen(scores, labels)[:, None] + 1 > 0) * (1 - is_label)
  return losses_bar[:, None] * (violated - is_label * violated.max(1, keepdims=True)), None


@right(hinge, (6, 5), labels(6, 5), f_vjp=True)
def right_hinge_by_count(scores, labels, losses_bar):
  """The label's entry counts the classes that violate the margin."""
  rows = jnp.arange(labels.shape[0])
  violated = scores - ref.chosen(scores, labels)[:, None] + 1 > 0
  violated = violated.astype(scores.dtype).at[rows, labels].set(0)
  return losses_bar[:, None] * violated.at[rows, labels].set(-violated.sum(1)), None


def triplet(anchor, positive, negative):
  """Compute the squared distance of the positive minus that of the negative."""
  near = jnp.sum((anchor - positive) ** 2, axis=1)
  return near - jnp.sum((anchor - negative) ** 2, axis=1)


@bug("anchor: path", triplet, (5, 3), (5, 3), (5, 3), f_vjp=True)
def triplet_anchor(anchor, positive, negative, y_bar):
  """The anchor occurs in both distances, and only the positive's contributes."""
  near = 2 * y_bar[:, None] * (anchor - positive)
  return near, -near, 2 * y_bar[:, None] * (anchor - negative)


@right(lambda y, t: 2.0**-20 * jnp.mean((y - t) ** 2), (5, 3), (5, 3))
def right_scaled_loss(predictions, targets, loss_bar):
  """The factors of a loss times 2⁻²⁰ are multiplied before the error."""
  error = predictions - targets
  bar = (loss_bar * 2.0**-19 / error.size) * error if error.size else error
  return bar, -bar
