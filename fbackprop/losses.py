"""Losses: one number for each example, unreduced, each with its backward rule beside it.

The mean over the batch isn't here: it is the seed cotangent `1/N` that `value_and_grad` hands to
`backward`. Each loss keeps one array `[N, C]`, the derivative of an example's loss by its outputs,
so that the backward rule is one product. Targets are constants: no cotangent flows to them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import (
  DtypeError,
  check_floating,
  check_same,
  check_shape,
  describe,
  is_concrete,
)
from fbackprop.types import Array, Loss, Residuals


def scale_rows(rows: Residuals, losses_bar: Array) -> Array:
  """outputs_bar_nc = losses_bar_n · ∂losses_n/∂outputs_nc, the backward rule of every loss here."""
  check_shape("loss", "losses_bar", losses_bar, (rows.shape[0],))
  outputs_bar: Array = losses_bar[:, None] * rows
  return outputs_bar


def check_outputs(where: str, outputs: Array) -> None:
  """Refuses outputs that aren't a floating `[N, C]`."""
  check_floating(where, "outputs", outputs)
  check_shape(where, "outputs", outputs, ("N", "C"))


def squared_error_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = ½ Σ_c (y_nc − t_nc)².

  Args:
    outputs: y `[N, C]`.
    targets: t `[N, C]`, dtype of `outputs`.

  Returns:
    `(losses [N], residuals)`; kept is y − t.
  """
  check_outputs("squared_error", outputs)
  check_same("squared_error", ("outputs", "targets"), outputs, targets)
  error = outputs - targets
  return 0.5 * (error * error).sum(1), error


def squared_error_backward(error: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂y_nc = y_nc − t_nc, and that was kept."""
  return scale_rows(error, losses_bar)


def softmax_cross_entropy_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = −Σ_c t_nc log p_nc with p = softmax(z), the softmax and its logarithm in one rule.

  A label y stands for the row t that is 1 at y and 0 elsewhere: losses_n = −log p_ny. Rows of
  probabilities needn't sum to one. A logit −inf is fine where t is 0.

  Args:
    outputs: logits z `[N, C]`.
    targets: labels `[N]`, integers from 0 to C − 1, or probabilities t `[N, C]` in the dtype of
      `outputs`.

  Returns:
    `(losses [N], residuals)`; kept is p Σ_c t − t.

  Raises:
    ValueError: a label is out of range. Inside jit, where values can't be looked at, that
      example's loss and gradient are NaN.

  References:
    Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    Neurocomputing, NATO ASI F68 (1990), 227–236.
  """
  check_outputs("softmax_cross_entropy", outputs)
  if len(getattr(targets, "shape", ())) == 2:
    check_same("softmax_cross_entropy", ("outputs", "targets"), outputs, targets)
    t, defined = targets, None
  else:
    t, defined = one_hot(targets, outputs)
  shifted = outputs - jax.lax.stop_gradient(outputs.max(1, keepdims=True))
  unnormalized = jnp.exp(shifted)
  total = unnormalized.sum(1, keepdims=True)
  terms = jnp.where(t == 0, jnp.zeros_like(t), t * (jnp.log(total) - shifted))
  losses = terms.sum(1)
  rows = unnormalized / total * t.sum(1, keepdims=True) - t
  if defined is not None:
    losses = jnp.where(defined, losses, jnp.nan)
    rows = jnp.where(defined[:, None], rows, jnp.nan)
  return losses, rows


def softmax_cross_entropy_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂z_nc = p_nc Σ_c t_nc − t_nc, which is p − t for a label, and that was kept."""
  return scale_rows(rows, losses_bar)


def one_hot(labels: Array, outputs: Array) -> tuple[Array, Array]:
  """Rows t `[N, C]` that are 1 at the label, and which labels `[N]` lie in 0 ... C − 1."""
  n, c = outputs.shape
  check_shape("softmax_cross_entropy", "targets", labels, (n,))
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise DtypeError(
      "softmax_cross_entropy: targets must be integer labels [N] or probabilities [N, C], got "
      f"{describe(labels)}"
    )
  if is_concrete(labels) and labels.size:
    check_labels("softmax_cross_entropy: targets", np.asarray(labels), c)
  labels = jnp.asarray(labels)
  if labels.dtype.itemsize < 4:  # In int8 the number of classes itself may not fit.
    labels = labels.astype(jnp.int32)
  rows = labels[:, None] == jnp.arange(c, dtype=labels.dtype)[None, :]
  return rows.astype(outputs.dtype), (labels >= 0) & (labels < c)


def check_labels(where: str, labels: np.ndarray, classes: int) -> None:
  """Refuses the first label outside of 0 ... classes − 1, by its row."""
  wrong = np.flatnonzero((labels < 0) | (labels >= classes))
  if wrong.size:
    raise ValueError(
      f"{where} must be labels from 0 to {classes - 1}, got {labels[wrong[0]]} in row {wrong[0]}"
    )


def sigmoid_cross_entropy_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = −Σ_c [t log σ(z) + (1 − t) log(1 − σ(z))], C independent yes-or-no questions.

  Written as t softplus(−z) + (1 − t) softplus(z): both terms are of one sign, nothing cancels, and
  z = 0 is no kink.

  Args:
    outputs: logits z `[N, C]`.
    targets: probabilities t `[N, C]`, dtype of `outputs`.

  Returns:
    `(losses [N], residuals)`; kept is (1 − t) σ(z) − t σ(−z) = σ(z) − t, in the form that keeps
    its digits where the prediction is right.
  """
  check_outputs("sigmoid_cross_entropy", outputs)
  check_same("sigmoid_cross_entropy", ("outputs", "targets"), outputs, targets)
  z, t = outputs, targets
  losses = (t * jax.nn.softplus(-z) + (1 - t) * jax.nn.softplus(z)).sum(1)
  return losses, (1 - t) * jax.nn.sigmoid(z) - t * jax.nn.sigmoid(-z)


def sigmoid_cross_entropy_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂z_nc = σ(z_nc) − t_nc, and that was kept."""
  return scale_rows(rows, losses_bar)


squared_error = Loss("squared_error", squared_error_forward, squared_error_backward)
softmax_cross_entropy = Loss(
  "softmax_cross_entropy", softmax_cross_entropy_forward, softmax_cross_entropy_backward
)
sigmoid_cross_entropy = Loss(
  "sigmoid_cross_entropy", sigmoid_cross_entropy_forward, sigmoid_cross_entropy_backward
)
