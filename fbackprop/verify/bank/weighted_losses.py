"""Bugs of losses with weights, ignored rows, and labels that act only sometimes."""

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank.arguments import draw, draw_labels, draw_positive
from fbackprop.verify.bank.specimen import Example, Specimen


def losses_of(logits, labels):
  """-log softmax(logits) at the label, for each example; labels below zero count as 0."""
  log_p = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]


def losses_bar_to_logits(logits, labels, losses_bar):
  """The cotangent of `losses_of`."""
  p = jax.nn.softmax(logits)
  one_hot = jax.nn.one_hot(jnp.maximum(labels, 0), p.shape[1], dtype=p.dtype)
  return losses_bar[:, None] * (p - one_hot)


def ignored_in_the_denominator():
  """The mean is over rows with a label; the rule divides by all rows."""

  @jax.custom_vjp
  def loss(logits, labels):
    kept = (labels >= 0).astype(logits.dtype)
    return jnp.sum(kept * losses_of(logits, labels)) / jnp.maximum(kept.sum(), 1)

  def loss_fwd(logits, labels):
    return loss(logits, labels), (logits, labels)

  def loss_bwd(residuals, loss_bar):
    logits, labels = residuals
    losses_bar = loss_bar * (labels >= 0) / labels.shape[0]
    return losses_bar_to_logits(logits, labels, losses_bar), None

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, (*draw((6, 4)), jnp.asarray([1, -1, 0, 3, -1, 2])))


def ignored_rows_leak():
  """Rows without a label add nothing to the loss, and get the gradient of label 0."""

  def loss(logits, labels):
    return jnp.sum(jnp.where(labels >= 0, losses_of(logits, labels), 0))

  def f_vjp(logits, labels):
    def pullback(loss_bar):
      losses_bar = jnp.broadcast_to(loss_bar, labels.shape)
      return losses_bar_to_logits(logits, labels, losses_bar), None

    return loss(logits, labels), pullback

  return Example(loss, (*draw((6, 4)), jnp.asarray([1, -1, 0, 3, -1, 2])), f_vjp)


def weights_in_the_denominator():
  """The mean divides by the sum of the weights, the rule by N."""

  @jax.custom_vjp
  def loss(logits, labels, weights):
    return jnp.sum(weights * losses_of(logits, labels)) / weights.sum()

  def loss_fwd(logits, labels, weights):
    losses = losses_of(logits, labels)
    return loss(logits, labels, weights), (logits, labels, weights, losses)

  def loss_bwd(residuals, loss_bar):
    logits, labels, weights, losses = residuals
    mean = jnp.sum(weights * losses) / weights.sum()
    logits_bar = losses_bar_to_logits(logits, labels, loss_bar * weights / len(weights))
    return logits_bar, None, loss_bar * (losses - mean) / weights.sum()

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, (*draw((6, 4)), draw_labels(6, 4), *draw_positive((6,))))


def weights_twice():
  """The weights enter the loss once and its rule twice."""

  def losses(logits, labels, weights):
    return weights * losses_of(logits, labels)

  def f_vjp(logits, labels, weights):
    y = losses(logits, labels, weights)

    def pullback(losses_bar):
      bar = losses_bar * weights
      logits_bar = losses_bar_to_logits(logits, labels, bar * weights)
      return logits_bar, None, losses_bar * losses_of(logits, labels)

    return y, pullback

  return Example(losses, (*draw((6, 4)), draw_labels(6, 4), *draw_positive((6,))), f_vjp)


def weights_without_gradient():
  """The weights are floats and enter the loss, and their cotangent is zero."""

  @jax.custom_vjp
  def loss(predictions, targets, weights):
    return jnp.sum(weights * jnp.abs(predictions - targets))

  def loss_fwd(predictions, targets, weights):
    kept = (jnp.sign(predictions - targets), weights)
    return loss(predictions, targets, weights), kept

  def loss_bwd(residuals, loss_bar):
    sign, weights = residuals
    return loss_bar * weights * sign, -loss_bar * weights * sign, None

  loss.defvjp(loss_fwd, loss_bwd)
  return Example(loss, (*draw((7,), (7,)), *draw_positive((7,))))


def class_weights_of_the_prediction():
  """Each row's weight is that of its label; the rule takes the weight of each column."""

  class_weights = np.array([0.5, 1.0, 2.0, 4.0], np.float32)

  def losses(logits, labels):
    return jnp.take(class_weights, labels) * losses_of(logits, labels)

  def f_vjp(logits, labels):
    def pullback(losses_bar):
      return losses_bar_to_logits(logits, labels, losses_bar) * class_weights[None], None

    return losses(logits, labels), pullback

  return Example(losses, (*draw((6, 4)), draw_labels(6, 4)), f_vjp)


def label_zero_as_padding():
  """Label 0 is taken for padding in the rule only; no label of this call is 0."""

  @jax.custom_vjp
  def losses(logits, labels):
    return losses_of(logits, labels)

  def losses_fwd(logits, labels):
    return losses(logits, labels), (logits, labels)

  def losses_bwd(residuals, losses_bar):
    logits, labels = residuals
    return losses_bar_to_logits(logits, labels, jnp.where(labels > 0, losses_bar, 0)), None

  losses.defvjp(losses_fwd, losses_bwd)
  return Example(losses, (*draw((5, 4)), jnp.asarray([1, 3, 2, 1, 2])))


def equal_labels():
  """Pairs of one label attract each other, and the rule moves one of the two; here all differ."""

  def attraction(x, labels):
    same = (labels[:, None] == labels[None]).astype(x.dtype)
    return 0.5 * jnp.sum(same[..., None] * (x[:, None] - x[None]) ** 2)

  def f_vjp(x, labels):
    same = (labels[:, None] == labels[None]).astype(x.dtype)

    def pullback(y_bar):
      return y_bar * jnp.einsum("nm,nmd->nd", same, x[:, None] - x[None]), None

    return attraction(x, labels), pullback

  return Example(attraction, (*draw((5, 3)), jnp.asarray([3, 0, 4, 1, 2])), f_vjp)


def embedding_overwrites():
  """Rows of the table that are used twice keep the last cotangent; they should add up."""

  @jax.custom_vjp
  def embed(table, indices):
    return table[indices]

  def embed_fwd(table, indices):
    return table[indices], (table, indices)

  def embed_bwd(residuals, y_bar):
    table, indices = residuals
    return jnp.zeros_like(table).at[indices].set(y_bar), None

  embed.defvjp(embed_fwd, embed_bwd)
  return Example(embed, (*draw((6, 3)), jnp.asarray([4, 1, 4, 0, 2])))


BUGS = (
  Specimen(
    "ignored-in-the-denominator", ignored_in_the_denominator, ("logits",), ("constant factor",)
  ),
  Specimen("ignored-rows-leak", ignored_rows_leak, ("logits",), ("subset of examples",)),
  Specimen(
    "weights-in-the-denominator", weights_in_the_denominator, ("logits",), ("constant factor",)
  ),
  Specimen("weights-twice", weights_twice, ("logits",), ("other function", "subset of examples")),
  Specimen("weights-without-gradient", weights_without_gradient, ("weights",), ("zero",)),
  Specimen(
    "class-weights-of-the-prediction",
    class_weights_of_the_prediction,
    ("logits",),
    ("other function",),
  ),
  Specimen(
    "label-zero-as-padding",
    label_zero_as_padding,
    ("logits",),
    ("subset of examples",),
    level="standard",
  ),
  Specimen(
    "equal-labels",
    equal_labels,
    ("x",),
    ("constant factor", "path", "subset of examples"),
    level="standard",
  ),
  Specimen("embedding-overwrites", embedding_overwrites, ("table",), ("subset of examples",)),
)
