"""The rows of the losses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.losses import classification as classes
from fbackprop.losses import regression
from fbackprop.losses.combination import combine
from fbackprop.types import Array, Loss
from fbackprop.verify.cases.case import CLASSES, Case, Generator, Primals, Reference, always, points

# --- Targets --------------------------------------------------------------------------------------


def labels(rng: Generator, n: int, dtype: Any) -> Any:
  return rng.integers(0, CLASSES, n, dtype=np.int32)


def labels_with_gaps(rng: Generator, n: int, dtype: Any) -> Any:
  """Draw labels, every third one ignored, but not the second, in which a law plants a NaN."""
  return np.where(np.arange(n) % 3 == 0, -1, labels(rng, n, dtype)).astype(np.int32)


def one_hot(rng: Generator, n: int, dtype: Any) -> Any:
  return np.eye(CLASSES, dtype=dtype)[labels(rng, n, dtype)]


def shares(rng: Generator, n: int, dtype: Any) -> Any:
  """Draw class weights that don't sum to one."""
  return rng.uniform(0.1, 1, size=(n, CLASSES)).astype(dtype)


def values(rng: Generator, n: int, dtype: Any) -> Any:
  return rng.normal(size=(n, CLASSES)).astype(dtype)


def counts(rng: Generator, n: int, dtype: Any) -> Any:
  return rng.poisson(1, size=(n, CLASSES)).astype(dtype)


def labels_and_values(rng: Generator, n: int, dtype: Any) -> Any:
  return labels(rng, n, dtype) % 3, values(rng, n, dtype)[:, :2]


TARGETS = {
  draw.__name__: draw
  for draw in (labels, labels_with_gaps, one_hot, shares, values, counts, labels_and_values)
}


def outputs_and(rng: Generator, n: int, dtype: Any, targets: Callable[..., Any]) -> Primals:
  outputs = (2 * rng.normal(size=(n, CLASSES))).astype(dtype)
  return outputs, targets(rng, n, dtype)


# --- Kinks ----------------------------------------------------------------------------------------


def at_equal_outputs(dtype: Any, targets: Callable[..., Any]) -> list[Primals]:
  """Return outputs that are all 0: tied logits, σ = ½."""
  return [(np.zeros((2, CLASSES), dtype), targets(np.random.default_rng(0), 2, dtype))]


NO_TARGETS = np.zeros((1, CLASSES))


def where_the_hinge_bends(dtype: Any) -> list[Primals]:
  """Return a lead of exactly 1, two and three tied rivals, and a lead that is too small."""
  scores = [[2, 1, 0, -1], [2, 1, 1, 0], [0, 0, 0, 0], [1, 3, 3, 0], [1, 1, 2, 0]]
  return [(np.array(scores, dtype), np.array([0, 0, 1, 0, 2], np.int32))]


# --- References -----------------------------------------------------------------------------------


def half_squares(outputs: Array, targets: Array) -> Array:
  return ((outputs - targets) ** 2).sum(1) / 2


def huber(outputs: Array, targets: Array, delta: float) -> Array:
  """Return e²/2 for errors up to δ, and its tangent beyond."""
  error = jnp.abs(outputs - targets)
  near = jnp.minimum(error, delta)
  return (near**2 / 2 + delta * (error - near)).sum(1)


def log_of_cosh(outputs: Array, targets: Array) -> Array:
  return jnp.log(jnp.cosh(outputs - targets)).sum(1)


def cross_entropy(outputs: Array, targets: Array) -> Array:
  if targets.ndim == 1:
    targets = jax.nn.one_hot(targets, outputs.shape[1], dtype=outputs.dtype)
  return -(targets * jax.nn.log_softmax(outputs, axis=1)).sum(1)


OPTIONS: dict[str, Any] = {
  "label_smoothing": 0.25, "class_weights": (0.5, 1.0, 2.0, 0.0), "ignore_label": -1,
}  # fmt: skip


def cross_entropy_with_options(outputs: Array, targets: Array) -> Array:
  t = jax.nn.one_hot(targets, CLASSES, dtype=outputs.dtype) * 0.75 + 0.25 / CLASSES
  weights = jnp.asarray(OPTIONS["class_weights"], outputs.dtype)[None]
  return jnp.where(targets == -1, 0.0, cross_entropy(outputs, weights * t))


def binary_cross_entropy(outputs: Array, targets: Array) -> Array:
  yes, no = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
  return -(targets * yes + (1 - targets) * no).sum(1)


def margin_to_the_best_rival(outputs: Array, targets: Array) -> Array:
  own = jax.nn.one_hot(targets, CLASSES, dtype=bool)
  rival = jnp.where(own, -jnp.inf, outputs).max(1)
  return jax.nn.relu(1 + rival - jnp.where(own, outputs, 0.0).sum(1))


def poisson(outputs: Array, targets: Array) -> Array:
  return (jnp.exp(outputs) - targets * outputs).sum(1)


# Its two parts overlap in one output, and cover all.
TWO_COSTS = combine(
  (0.5, classes.softmax_cross_entropy, slice(0, 3)),
  (2.0, regression.squared_error, slice(-2, None)),
)


def two_costs(outputs: Array, targets: Any) -> Array:
  first = cross_entropy(outputs[:, :3], targets[0])
  return 0.5 * first + 2 * half_squares(outputs[:, 2:], targets[1])


# --- The rows -------------------------------------------------------------------------------------


def loss_row(name: str, loss: Loss, targets: str, reference: Reference, **fields: Any) -> Case:
  """Return the row of a loss.

  `targets` is the kind of its targets; `kinks` is by default the point of tied outputs, and `title`
  is the name.
  """
  make, draw = partial(always, loss), partial(outputs_and, targets=TARGETS[targets])
  kinks = partial(at_equal_outputs, targets=TARGETS[targets])
  return Case(name, make, draw, reference, kinks, title=name, targets=targets)._replace(**fields)


def huber_row(name: str, loss: Loss, delta: float, **fields: Any) -> Case:
  """Return the row of a Huber loss; its kinks are errors of 0 and ±δ, where square meets line."""
  kinks = points([[0, delta, -delta, 2]], NO_TARGETS)
  reference = partial(huber, delta=delta)
  return loss_row(name, loss, "values", reference, kinks=kinks, **fields)


_ce = "softmax_cross_entropy"
LOSSES = (
  loss_row("squared_error", regression.squared_error, "values", half_squares),
  huber_row("huber_1", regression.huber, 1.0, title="huber", slow=True),
  huber_row("huber", regression.huber_with(0.5), 0.5, title="huber_with"),
  loss_row(
    "log_cosh", regression.log_cosh, "values", log_of_cosh,
    kinks=points([[0, 1, -1, 20]], NO_TARGETS),
  ),
  loss_row("poisson_nll", regression.poisson_nll, "counts", poisson),
  loss_row(
    "hinge", classes.hinge, "labels", margin_to_the_best_rival, kinks=where_the_hinge_bends
  ),
  loss_row("sigmoid_cross_entropy", classes.sigmoid_cross_entropy, "shares", binary_cross_entropy),
  loss_row(f"{_ce}_labels", classes.softmax_cross_entropy, "labels", cross_entropy, title=_ce),
  loss_row(f"{_ce}_one_hot", classes.softmax_cross_entropy, "one_hot", cross_entropy, title=""),
  loss_row(
    f"{_ce}_rows", classes.softmax_cross_entropy, "shares", cross_entropy, title=f"{_ce}, rows"
  ),
  loss_row(
    f"{_ce}_options", classes.softmax_cross_entropy_with(**OPTIONS), "labels_with_gaps",
    cross_entropy_with_options, title=f"{_ce}_with",
  ),
  loss_row("combine", TWO_COSTS, "labels_and_values", two_costs),
)  # fmt: skip
