"""The loss of a support vector machine: the right class must lead by a margin."""

import jax.numpy as jnp

from fbackprop.losses.exact import exact_difference
from fbackprop.losses.labels import one_hot
from fbackprop.losses.rows import check_logits, scale_rows
from fbackprop.meshes import split_like
from fbackprop.types import Array, Loss, Residuals


def hinge_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = max(0, 1 + max_{c ≠ y} z_nc − z_ny), y the label: the strongest rival alone counts.

  This is the form of Crammer and Singer, as in `sklearn.metrics.hinge_loss` and
  `optax.losses.multiclass_hinge_loss`. That of Weston and Watkins, which sums over all rivals, is
  (divided by C) `torch.nn.MultiMarginLoss`. With two classes they are the same.

  Kinks: with a lead of exactly 1 the gradient is 0, as relu'(0) is; k rivals that are tied get 1/k
  each. Both lie in the subdifferential. The lead is computed without a rounding error, so that
  nothing but the logits decides on which side of the kink an example lies.

  Args:
    outputs: scores z `[N, C]`. With C = 1 there is no rival, and the loss is 0.
    targets: labels `[N]`, integers from 0 to C − 1.

  Returns:
    `(losses [N], residuals)`; kept is, for an example inside the margin, 1/k at its k strongest
    rivals and −1 at the label, and 0 for the others.

  Raises:
    ValueError: a label is out of range. Inside jit, where values can't be looked at, that
      example's loss and gradient are NaN.

  References:
    Crammer, Singer, "On the algorithmic implementation of multiclass kernel-based vector
    machines", JMLR 2 (2001), 265–292, eq. 3. Weston, Watkins, "Support vector machines for
    multi-class pattern recognition", ESANN 1999, 219–224.
  """
  check_logits("hinge", outputs)
  t, _ = one_hot("hinge", split_like(targets, outputs), outputs)
  is_rival = t == 0
  own = jnp.where(is_rival, jnp.zeros_like(outputs), t * outputs).sum(1)
  strongest = jnp.where(is_rival, outputs, -jnp.inf).max(1)
  high, low = exact_difference(strongest, own)
  violation = (1 + high) + low
  losses = jnp.where(violation <= 0, jnp.zeros_like(violation), violation)
  tied = (is_rival & (outputs == strongest[:, None])).astype(outputs.dtype)
  rows = tied / jnp.maximum(tied.sum(1, keepdims=True), 1) - t
  # Where the violation isn't above 0 the loss is 0 or NaN, and so is the gradient.
  return losses, jnp.where(violation[:, None] > 0, rows, losses[:, None])


def hinge_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂z_nc is 1/k at the k strongest rivals and −1 at the label, or 0; it was kept."""
  return scale_rows(rows, losses_bar)


hinge = Loss("hinge", hinge_forward, hinge_backward)
