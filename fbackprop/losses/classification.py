"""Losses of classification: cross-entropy of one class out of C or of C labels; hinge loss.

The textbook formulas `log(sum(exp(z))) - z_y` and `p - 1` lose all digits to cancellation where the
prediction is right. For labels, the formulas here subtract no numbers of equal sign: the loss of
the right class is log1p of the other classes' weight, and the gradient of the right class is minus
the sum of the others'. Differences of logits keep their rounding error as a second term
(`rows.exact_difference`), since the exponential would amplify it.

Doubts: for soft targets the gradient is a difference of two positive terms, which cancel where p is
near t: its error is then relative to these terms (`scripts/accuracy.py`). The sources are those of
the functions.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import checks
from fbackprop.errors import DtypeError, RangeError, ShapeError, describe
from fbackprop.losses.rows import (
  check_logits,
  check_values,
  diagonal_root,
  exact_difference,
  one_hot,
  scale_rows,
)  # fmt: skip
from fbackprop.meshes import split_like
from fbackprop.types import Array, Loss, LossCurvature, Residuals, widen


def softmax_cross_entropy_forward(
  outputs: Array,
  targets: Array,
  label_smoothing: float = 0.0,
  class_weights: np.ndarray | None = None,
  ignore_label: int | None = None,
) -> tuple[Array, Residuals]:
  """losses_n = −Σ_c t_nc log p_nc with p = softmax(z), the softmax and its logarithm in one rule.

  A label y is equivalent to the row t that is 1 at y and 0 elsewhere: losses_n = −log p_ny. Rows of
  probabilities needn't sum to one. The options modify t first: see `softmax_cross_entropy_with`.

  Numerical range: loss and gradient are right to some units in the last place for logits of any
  size, right and wrong predictions alike; half precision is widened to float32 within. A logit −inf
  excludes the class where t is 0; where t isn't 0 the loss is +inf, and the gradient is still
  p Σ_c t − t, which is −t at that class. A row of only −inf gives NaN, and so does a logit +inf.

  Args:
    outputs: logits z `[N, C]`, C at least 1.
    targets: labels `[N]`, integers from 0 to C − 1, or probabilities t `[N, C]` in the dtype of
      `outputs`.
    label_smoothing, class_weights, ignore_label: as in `softmax_cross_entropy_with`.

  Returns:
    `(losses [N], residuals)`; the residual is p Σ_c t − t.

  Raises:
    ValueError: a label is out of range. Inside jit, where values are abstract, that example's loss
      and gradient are NaN.

  References:
    Bridle, "Probabilistic interpretation of feedforward classification network outputs",
    Neurocomputing, NATO ASI F68 (1990), 227–236.
  """
  z, t, kept = logits_and_rows(outputs, targets, label_smoothing, class_weights, ignore_label)
  targets = split_like(targets, outputs)

  def over_classes(terms: Array) -> Array:
    """Compute Σ_c terms_nc `[N, 1]`, of terms that are 0 where t is 0."""
    if kept is None or label_smoothing:
      return terms.sum(1, keepdims=True)
    # For labels, taking the label's term is much faster than a sum that selects it.
    return jnp.take_along_axis(terms, targets.astype(jnp.int32)[:, None], 1, mode="clip")

  shifted, e, rest = exponentials(z)
  # −log p_c as a sum of two nonnegative terms.
  surprise = jnp.log1p(rest) - shifted
  losses = over_classes(jnp.where(t == 0, jnp.zeros_like(t), t * surprise))[:, 0]
  # p_c Σ_{k ≠ c} t_k − t_c Σ_{k ≠ c} p_k, where Σ_{k ≠ c} e_k = rest + (1 − e_c).
  others_t = over_classes(t) - t
  rows = (e * others_t - t * (rest + (1 - e))) / (1 + rest)
  return losses.astype(outputs.dtype), rows.astype(outputs.dtype)


def logits_and_rows(
  outputs: Array,
  targets: Array,
  label_smoothing: float,
  class_weights: np.ndarray | None,
  ignore_label: int | None,
) -> tuple[Array, Array, Array | None]:
  """Return the logits z and the rows t, both `[N, C]`, with the options applied; and which count.

  The last is `[N]` for labels, and None for probabilities.
  """
  where, kept = "softmax_cross_entropy", None
  check_logits(where, outputs)
  targets = split_like(targets, outputs)
  if len(getattr(targets, "shape", ())) == 2:
    checks.check_shape(where, "targets", targets, outputs.shape, outputs.dtype)
    if ignore_label is not None:
      problem = f"needs labels [N], got targets {describe(targets)}"
      raise ShapeError(problem, "ignore_label", where)
    t = targets
  else:
    t, kept = one_hot(where, targets, outputs, ignore_label)
  z, t = widen(outputs), widen(t)
  if label_smoothing:
    t = (1 - label_smoothing) * t + label_smoothing / t.shape[1]
  if class_weights is not None:
    checks.check_shape(where, "class_weights", class_weights, outputs.shape[1:])
    t = jnp.asarray(class_weights, t.dtype)[None, :] * t
  if kept is not None and ignore_label is not None:
    # In an ignored row the loss and the gradient are 0, whatever the logits are.
    z, t = (jnp.where(kept[:, None], a, jnp.zeros_like(a)) for a in (z, t))
  return z, t, kept


def exponentials(z: Array) -> tuple[Array, Array, Array]:
  """Compute z − max z and its exponentials e, both `[N, C]`, and Σ_c e_c − 1 `[N, 1]`."""
  # The largest logit is subtracted, so that no exponential overflows: e_c = exp(z_c − max z).
  largest = jax.lax.stop_gradient(z.max(1, keepdims=True))
  shifted, low = exact_difference(z, largest)
  e = jnp.exp(shifted) * (1 + low)
  # Σ_c e_c − 1 without a cancellation: the 1 is removed at one of the largest logits, whose e is 1.
  is_largest = (shifted == 0).astype(z.dtype)
  rest = (e - is_largest).sum(1, keepdims=True) + (is_largest.sum(1, keepdims=True) - 1)
  return shifted, e, rest


def softmax_cross_entropy_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂z_nc = p_nc Σ_c t_nc − t_nc, the residual, which is p − t for a label."""
  return scale_rows(rows, losses_bar)


def softmax_curvature(**options: Any) -> LossCurvature:
  """H_n = T (diag p − p pᵀ), T = Σ_c t_nc: without options 1 for a label, whichever it is.

  The usual root is diag(√p) − p √pᵀ, of C columns. Ours has C − 1, the rank of H_n: the columns of
  its Cholesky factor, which are known in closed form. With q_r = Σ_{c > r} p_c, column r is

    √(p_r q_r / q_{r−1})  at c = r,   −p_c / q_r times that  at c > r,   0  at c < r.

  Its entries are products and quotients of sums of positive numbers, so that none cancels. A
  classifier of two classes takes one column.

  The sampler draws a label from p; its gradient p − e_y is multiplied by √T.

  References:
    Tanabe, Sagae, "An exact Cholesky decomposition and the generalized inverse of the
    variance-covariance matrix of the multinomial distribution", Journal of the Royal Statistical
    Society B 54 (1992), 211–219, theorem 1.
  """

  def probabilities(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Compute p `[N, C]` and T `[N, 1]`."""
    z, t, _ = logits_and_rows(outputs, targets, **options)
    _, e, rest = exponentials(z)
    return e / (1 + rest), t.sum(1, keepdims=True)

  def softmax_root(outputs: Array, targets: Array) -> Array:
    p, total = probabilities(outputs, targets)
    c = p.shape[1]
    if c == 1:
      return jnp.zeros((1, *outputs.shape), outputs.dtype)
    from_here = jnp.cumsum(p[:, ::-1], 1)[:, ::-1]  # q_{r−1}, and below q_r.
    after = from_here[:, 1:]
    none = jnp.zeros_like(after)
    # A class may be so improbable that p underflows; then so do those after it, and q is 0.
    scale = jnp.where(after == 0, none, jnp.sqrt(p[:, :-1]) * jnp.sqrt(after / from_here[:, :-1]))
    share = p[:, None, :] / jnp.where(after == 0, jnp.ones_like(after), after)[:, :, None]
    above = jnp.tril(jnp.ones((c, c), p.dtype), -1)[:, :-1].T
    columns = jnp.eye(c, dtype=p.dtype)[:-1][None] - above[None] * share
    root = jnp.sqrt(total)[:, :, None] * scale[:, :, None] * columns
    return jnp.swapaxes(root, 0, 1).astype(outputs.dtype)

  def softmax_product(outputs: Array, targets: Array, v: Array) -> Array:
    p, total = probabilities(outputs, targets)
    wide = v.astype(p.dtype)
    return (total * p * (wide - (p * wide).sum(1, keepdims=True))).astype(v.dtype)

  def softmax_sample(key: Array, outputs: Array, targets: Array) -> Array:
    z, t, _ = logits_and_rows(outputs, targets, **options)
    labels = jax.random.categorical(key, z, 1)
    # Where z isn't finite the row is NaN, and no label is drawn.
    rows = softmax_cross_entropy_forward(z, labels)[1]
    return (jnp.sqrt(t.sum(1, keepdims=True)) * rows).astype(outputs.dtype)

  return LossCurvature(softmax_root, softmax_product, softmax_sample)


def softmax_cross_entropy_with(
  *, label_smoothing: float = 0.0, class_weights: Any = None, ignore_label: int | None = None
) -> Loss:
  """Build softmax cross-entropy with label smoothing, class weights or an ignored label.

  losses_n = −Σ_c w_c t'_nc log p_nc, t' = (1 − α) t + α/C, and 0 for an ignored row. Weights and
  smoothing together are as in `torch.nn.functional.cross_entropy`.

  The mean of `value_and_grad` is over all N rows, ignored rows included, and isn't divided by class
  weights: each row's loss is independent of the rest of the batch. torch divides by the number of
  rows that aren't ignored, and by the weights of the labels. For that normalisation, pass row
  weights:

    value_and_grad(net, loss)(..., weights=(labels != ignore_label).astype(dtype))
    value_and_grad(net, softmax_cross_entropy)(..., weights=class_weights[labels])

  Args:
    label_smoothing: α, from 0 to 1.
    class_weights: w `[C]`, not negative, of any floating type, cast to that of the outputs; None
      for 1 each.
    ignore_label: an integer, such as −1 or −100; a row of this label has loss 0 and gradient 0,
      whatever its logits are. This option requires labels as targets.

  Returns:
    The `Loss`; see `softmax_cross_entropy_forward` for its numerical range.

  Raises:
    TypeError: an option of another type.
    ValueError: an option out of its range. When traced: weights of another number of classes.

  Example:
    >>> loss = softmax_cross_entropy_with(class_weights=[1.0, 2.0], ignore_label=-1)
    >>> losses, _ = loss.forward(jnp.zeros((3, 2)), jnp.array([0, 1, -1]))
    >>> print(losses)  # ln 2, 2 ln 2, 0
    [0.6931472 1.3862944 0.       ]

  References:
    Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016,
    section 7 (label smoothing).
  """
  where = "softmax_cross_entropy_with"
  checks.check_number(where, "label_smoothing", label_smoothing, 0, 1)
  if ignore_label is not None and not checks.is_integer(ignore_label):
    raise DtypeError(f"must be an integer, got {describe(ignore_label)}", "ignore_label", where)
  options: dict[str, Any] = {
    "label_smoothing": float(label_smoothing),
    "class_weights": None if class_weights is None else as_class_weights(where, class_weights),
    "ignore_label": None if ignore_label is None else int(ignore_label),
  }
  forward = partial(softmax_cross_entropy_forward, **options)
  curvature = softmax_curvature(**options)
  return Loss("softmax_cross_entropy", forward, softmax_cross_entropy_backward, curvature)


def as_class_weights(where: str, weights: Any) -> np.ndarray:
  """Convert class weights to NumPy's float64 `[C]`; raise unless finite and not negative."""
  try:
    array = np.array(weights, np.float64)
  except (TypeError, ValueError) as error:
    problem = f"must be numbers [C], got {describe(weights)}"
    raise DtypeError(problem, "class_weights", where) from error
  checks.check_shape(where, "class_weights", array, ("C",))
  wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
  if wrong.size:
    problem = f"must be finite and not negative, got {array[wrong[0]]} at [{wrong[0]}]"
    raise RangeError(problem, "class_weights", where)
  return array


def sigmoid_cross_entropy_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = −Σ_c [t log σ(z) + (1 − t) log(1 − σ(z))], for C independent binary labels.

  It is computed as t softplus(−z) + (1 − t) softplus(z): both terms have the same sign, nothing
  cancels, and z = 0 isn't a kink. A logit ±inf is a certain prediction: its loss is 0 where it is
  right, and +inf where it isn't.

  Args:
    outputs: logits z `[N, C]`.
    targets: probabilities t `[N, C]`, dtype of `outputs`.

  Returns:
    `(losses [N], residuals)`; the residual is (1 − t) σ(z) − t σ(−z) = σ(z) − t, in the form that
    is accurate where the prediction is right.
  """
  check_values("sigmoid_cross_entropy", outputs, targets)
  z, t = outputs, split_like(targets, outputs)
  none = jnp.zeros_like(z)  # In place of 0 · inf.
  missed = jnp.where(t == 0, none, t * jax.nn.softplus(-z))
  false_alarm = jnp.where(t == 1, none, (1 - t) * jax.nn.softplus(z))
  return (missed + false_alarm).sum(1), (1 - t) * jax.nn.sigmoid(z) - t * jax.nn.sigmoid(-z)


def sigmoid_cross_entropy_backward(rows: Residuals, losses_bar: Array) -> Array:
  """∂losses_n/∂z_nc = σ(z_nc) − t_nc, the residual."""
  return scale_rows(rows, losses_bar)


def sigmoid_cross_entropy_root(outputs: Array, targets: Array) -> Array:
  """H_n is diagonal, σ(z) σ(−z), for targets of any size."""
  check_values("sigmoid_cross_entropy", outputs, targets)
  return diagonal_root(jnp.sqrt(jax.nn.sigmoid(outputs)) * jnp.sqrt(jax.nn.sigmoid(-outputs)))


def sigmoid_cross_entropy_product(outputs: Array, targets: Array, v: Array) -> Array:
  """H_n v_n = σ(z) σ(−z) v_n."""
  return jax.nn.sigmoid(outputs) * jax.nn.sigmoid(-outputs) * v


def sigmoid_cross_entropy_sample(key: Array, outputs: Array, targets: Array) -> Array:
  """σ(z) − t for t = 1 drawn with probability σ(z): −σ(−z) or σ(z)."""
  yes, no = jax.nn.sigmoid(outputs), jax.nn.sigmoid(-outputs)
  return jnp.where(jax.random.uniform(key, outputs.shape, outputs.dtype) < yes, -no, yes)


softmax_cross_entropy = softmax_cross_entropy_with()
sigmoid_cross_entropy = Loss(
  "sigmoid_cross_entropy", sigmoid_cross_entropy_forward, sigmoid_cross_entropy_backward,
  LossCurvature(
    sigmoid_cross_entropy_root, sigmoid_cross_entropy_product, sigmoid_cross_entropy_sample
  ),
)  # fmt: skip


def hinge_forward(outputs: Array, targets: Array) -> tuple[Array, Residuals]:
  """losses_n = max(0, 1 + max_{c ≠ y} z_nc − z_ny), y the label: only the strongest rival counts.

  This is the form of Crammer and Singer, as in `sklearn.metrics.hinge_loss` and
  `optax.losses.multiclass_hinge_loss`. The form of Weston and Watkins, which sums over all rivals,
  is (divided by C) `torch.nn.MultiMarginLoss`. With two classes the two forms are the same.

  Kinks: with a lead of exactly 1 the gradient is 0, as relu'(0) is; k tied rivals get 1/k each.
  Both lie in the subdifferential. The lead is computed without a rounding error, so that the logits
  alone determine the side of the kink.

  Args:
    outputs: scores z `[N, C]`. With C = 1 there is no rival, and the loss is 0.
    targets: labels `[N]`, integers from 0 to C − 1.

  Returns:
    `(losses [N], residuals)`; the residual of an example inside the margin is 1/k at its k
    strongest rivals and −1 at the label; that of any other example is 0.

  Raises:
    ValueError: a label is out of range. Inside jit, where values are abstract, that example's loss
      and gradient are NaN.

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
  """∂losses_n/∂z_nc is 1/k at the k strongest rivals and −1 at the label, or 0: the residual."""
  return scale_rows(rows, losses_bar)


def hinge_root(outputs: Array, targets: Array) -> Array:
  """H_n = 0: the loss is piecewise linear."""
  return jnp.zeros((1, *outputs.shape), outputs.dtype)


def hinge_product(outputs: Array, targets: Array, v: Array) -> Array:
  """H_n v_n = 0."""
  return jnp.zeros_like(v)


hinge = Loss("hinge", hinge_forward, hinge_backward, LossCurvature(hinge_root, hinge_product))
