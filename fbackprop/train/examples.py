"""The examples of a run: weighted, split, validated once on the host, evaluated on the device.

Label smoothing and class weights modify the targets, and the loss stays the plain one of the task:
with t' = (1 − α) t + α/C and w_c t'_c for a row of targets, softmax cross-entropy is
`softmax_cross_entropy_with(label_smoothing=α, class_weights=w)`. The test set keeps its labels and
is scored by the plain loss, so that runs with and without these options are comparable.
"""

import hashlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import errors
from fbackprop.checks import check_array, check_arrays, example_count
from fbackprop.errors import check_that, describe
from fbackprop.meshes import is_explicit, mesh_of, take_rows
from fbackprop.ranges import check_in_range
from fbackprop.train.arguments import ClassWeights, check_class_weights
from fbackprop.train.data.rows import Dataset, listed, lost_values
from fbackprop.train.data.splits import Split, stratified
from fbackprop.train.step import Batch
from fbackprop.types import Array, Layer, Loss, Params


def check_examples(name: str, examples: Any, net: Layer, loss: Loss) -> Batch:
  """Validate the examples of a run and move them to the device.

  Args:
    name: the argument's name, "data" or "test".
    examples: `(x, targets)` or a `Batch`, of NumPy or JAX arrays; x may be a pytree of them, and
      targets a tuple.
    net: the network, traced on the shapes.
    loss: the loss, traced on the shapes.

  Returns:
    The `Batch`, on the device.

  Raises:
    TypeError: the value isn't a pair, or has the wrong dtype.
    ValueError: there are no examples, shapes don't fit, a value is NaN or infinite, or a label is
      out of range.
  """
  is_batch = isinstance(examples, tuple | list) and len(examples) in (2, 3)
  check_that("", name, examples, is_batch, "be a pair (x, targets) or a Batch")
  batch = Batch(*examples)
  check_arrays("fit", f"{name}.x", batch.x)
  for part, value in named_parts(name, batch):
    check_array("fit", part, value)
    mesh = mesh_of(value) if isinstance(value, jax.Array) else None
    if mesh and is_explicit(mesh) and jax.sharding.get_abstract_mesh() != mesh:
      problem = "lives on a mesh with Explicit axes; call fit within `with jax.set_mesh(mesh):`"
      raise errors.RangeError(problem, part, "fit")
    check_finite(part, np.asarray(value))
  n, weights = example_count(batch.x), batch.weights
  check_that("", f"{name}.x", batch.x, n, "hold at least one example", errors.ShapeError)
  # Weights aren't converted: they need the loss's dtype.
  x, targets, _ = jax.tree_util.tree_map_with_path(
    lambda path, value: as_jax(f"{name}{jax.tree_util.keystr(path)}", value),
    batch._replace(weights=None),
  )
  params = jax.eval_shape(lambda: net.init(jax.random.key(0)))
  shapes = jax.tree.map(describe, (x, targets))
  with errors.noted(f"while fitting {name}: x {shapes[0]}, targets {shapes[1]}"):
    outputs = jax.eval_shape(lambda params, x: net.forward(params, x)[0], params, x)
    losses = losses_of_zeros(loss, outputs, targets)
  if losses.shape != (n,):
    problem = f"must give one number for each example, got {describe(losses)}"
    raise errors.StructureError(problem, "loss", "fit", before="the")
  if weights is None:
    return Batch(x, targets)
  part = f"{name}.weights"
  is_like = weights.shape == losses.shape and weights.dtype == losses.dtype
  check_that("fit", part, weights, is_like, f"be {describe(losses)}", errors.ShapeError)
  host = np.asarray(weights)
  for is_wrong, problem in (((host < 0).any(), "negative"), (not host.any(), "all zero")):
    if is_wrong:
      raise errors.RangeError(f"must not be {problem}", part, "fit")
  return Batch(x, targets, on_device(weights))


def losses_of_zeros(loss: Loss, outputs: Any, targets: Any) -> Any:
  """Trace the losses `[N]` of outputs of a shape and dtype, for the loss's checks of its arguments.

  The targets are concrete, not tracers, so that the loss checks the values of its labels.
  """
  try:
    return jax.eval_shape(lambda outputs: loss.forward(outputs, targets)[0], outputs)
  # A loss whose checks compute with JAX: evaluated, which compiles each of its operations.
  except jax.errors.ConcretizationTypeError:
    return loss.forward(jnp.zeros(outputs.shape, outputs.dtype), targets)[0]


def on_device(value: Any) -> Array:
  """Move an array to the device; NumPy's is copied, and no program is compiled for it."""
  return jax.device_put(np.array(value)) if isinstance(value, np.ndarray) else jnp.asarray(value)


def as_jax(name: str, value: Any) -> Array:
  """Convert an array to a dtype of JAX, such as float64 to float32, never silently.

  Warn of columns that lose distinct values by it, such as time stamps.

  Raises:
    TypeError: JAX has no such dtype.
    ValueError: an integer or a number is too large.
  """
  if not isinstance(value, np.ndarray):
    return jnp.asarray(value)
  if value.dtype.kind == "f" and value.dtype.itemsize > 8:
    problem = f"must have a dtype that JAX has too, got {describe(value)}"
    raise errors.DtypeError(f"{problem}; convert it, as by .astype(numpy.float64)", name, "fit")
  dtype = jax.dtypes.canonicalize_dtype(value.dtype.newbyteorder("="))
  with np.errstate(over="ignore"):
    own = value.astype(dtype)
  if jnp.issubdtype(dtype, jnp.integer):
    for place in map(tuple, np.argwhere(own != value)):
      got = f"{value[place]} at [{', '.join(map(str, place))}]"
      raise errors.RangeError(f"must fit into {dtype}, got {got}", name, "fit")
  elif value.dtype.kind == "f" and own.dtype.itemsize < value.dtype.itemsize and value.ndim:
    check_finite(name, own)
    raw, narrow = (part.reshape(len(part), -1) for part in (value.astype(np.float64), own))
    for said in lost_values([f"{name}[:, {j}]" for j in range(raw.shape[1])], [raw], [narrow]):
      advice = "subtract its mean and divide by its deviation first, in float64"
      warnings.warn(f"fit: {said}; {advice}", stacklevel=4)
  return jax.device_put(own)


def named_parts(name: str, batch: Batch) -> list[tuple[str, Any]]:
  """List the arrays of a batch by name, such as "data.x" or "data.targets[1]"."""

  leaves = jax.tree_util.tree_leaves_with_path
  # For `check_array` a list isn't a pytree.
  others = leaves(batch._replace(x=None), is_leaf=lambda value: not isinstance(value, tuple | None))
  found = leaves(Batch(batch.x, None)) + others
  return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in found]


def check_finite(name: str, values: np.ndarray) -> None:
  """Raise for NaN and infinity; the message has the index of the first."""
  # np.issubdtype doesn't know bfloat16.
  if jnp.issubdtype(values.dtype, jnp.inexact) and not (finite := np.isfinite(values)).all():
    first = tuple(np.argwhere(~finite)[0])
    got = f"{values[first]} at [{', '.join(map(str, first))}], {(~finite).sum()} in all"
    raise errors.RangeError(f"must be finite, got {got}", name, "fit")


def holds_labels(targets: Any) -> bool:
  """Return whether targets are labels, one integer per example."""
  is_array = not isinstance(targets, tuple)
  return is_array and targets.ndim == 1 and bool(jnp.issubdtype(targets.dtype, jnp.integer))


def make_evaluate(
  net: Layer, loss: Loss
) -> Callable[[Params, Batch | None], tuple[float | None, float | None]]:
  """Build `evaluate(params, batch) -> (mean loss, accuracy or None)`, without randomness."""

  @jax.jit
  def measure(params: Params, batch: Batch) -> tuple[Array, Array | None]:
    outputs = net.forward(params, batch.x)[0]
    mean = loss.forward(outputs, batch.targets)[0].mean()
    is_labelled = holds_labels(batch.targets)
    return mean, (outputs.argmax(1) == batch.targets).sum() if is_labelled else None

  def evaluate(params: Params, batch: Batch | None) -> tuple[float | None, float | None]:
    if batch is None:
      return None, None
    mean, right = measure(params, batch)
    return float(mean), None if right is None else int(right) / len(batch.targets)

  return evaluate


def digest(tree: Any) -> str:
  """Compute a short SHA-256 fingerprint of a pytree."""
  leaves, structure = jax.tree.flatten(tree)
  found = hashlib.sha256(str(structure).encode())
  for leaf in leaves:
    array = np.asarray(leaf, order="C")
    found.update(f"{array.shape} {array.dtype}".encode())
    found.update(array.tobytes())
  return found.hexdigest()[:16]


def training_batch(
  dataset: Dataset, *, label_smoothing: float = 0.0, class_weights: ClassWeights = "none"
) -> Batch:
  """Build the training examples, as `fit` takes them.

  Args:
    dataset: the data.
    label_smoothing: α, 0 ≤ α < 1. For labels: t' = (1 − α) t + α/C; for several labels at once,
      each of which is binary: t' = (1 − α) t + α/2.
    class_weights: w_c, which multiplies the loss of examples of class c, for each class in the
      order of `dataset.output_names`; "balanced" for n / (C · n_c), whose mean over the examples is
      1. The mean loss is over the examples, and isn't divided by their class weights.

  Returns:
    The `Batch`, with `dataset.weights`.

  Raises:
    ValueError: the task doesn't support the option, or the number of weights differs from that of
      the classes. The attribute `argument` names the option.

  References:
    Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section
    7; King, Zeng, "Logistic regression in rare events data", Political Analysis 9 (2001), for the
    balanced weights, as in `sklearn.utils.class_weight.compute_class_weight`.
  """
  check_in_range("", "label_smoothing", label_smoothing)
  check_class_weights(class_weights)
  targets = dataset.targets
  if label_smoothing:
    if dataset.task == "regression":
      raise errors.RangeError("needs labels, and this is a regression", "label_smoothing")
    choices = dataset.outputs if dataset.is_classification else 2
    targets = (1 - label_smoothing) * as_rows(dataset) + label_smoothing / choices
  if not isinstance(class_weights, str) or class_weights != "none":
    if not dataset.is_classification:
      problem = f"needs a classification, and this is a {dataset.task}"
      raise errors.RangeError(problem, "class_weights")
    if isinstance(class_weights, str):
      own = balanced_weights(dataset.targets, dataset.outputs)
    elif len(class_weights) == dataset.outputs:
      own = np.asarray(class_weights, np.float64)
    else:
      wanted = f"{dataset.outputs} numbers, for {listed(dataset.output_names, 8)}"
      raise errors.RangeError(f"must be {wanted}, got {len(class_weights)}", "class_weights")
    targets = own[None, :] * (targets if targets.ndim == 2 else as_rows(dataset))
  targets = targets.astype(np.float32) if targets.ndim == 2 else targets
  weights = None if dataset.weights is None else on_device(dataset.weights)
  return Batch(on_device(dataset.x), on_device(targets), weights)


def as_rows(dataset: Dataset) -> np.ndarray:
  """Return the targets as probabilities `[N, C]`, in float64."""
  rows: np.ndarray = dataset.targets.astype(np.float64)
  return np.eye(dataset.outputs)[dataset.targets] if dataset.is_classification else rows


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
  """Compute n / (C · n_c) for each class, `[classes]`, which equalises the classes' total weights.

  A class without examples has weight 0 and isn't counted in C.
  """
  counts = np.bincount(labels, minlength=classes)
  present = counts > 0
  return np.where(present, len(labels) / (present.sum() * np.maximum(counts, 1)), 0.0)


def size_aside(n: int, labels: np.ndarray | None, fraction: float) -> int:
  """Compute the size of the validation set, rounded up to whole examples.

  Args:
    n: number of examples.
    labels: their labels, `[N]`; None for other targets.
    fraction: fraction of the validation set.

  Raises:
    ValueError: a part has fewer examples than classes, or a class has a single example.
  """
  aside = math.ceil(fraction * n)
  counts = np.array([n]) if labels is None else np.unique(labels, return_counts=True)[1]
  if min(aside, n - aside) < len(counts) or counts.min() < 2:
    needed = f"{len(counts)} examples, and each class two in all" if labels is not None else "one"
    problem = f"of {fraction:g} divides {n} examples into {n - aside} and {aside}; each part needs "
    raise errors.RangeError(problem + needed, "stop.validation_fraction")
  return aside


def rows_aside(n: int, labels: np.ndarray | None, fraction: float, key: Array) -> Split:
  """Split examples, stratified by class.

  Args:
    n: number of examples.
    labels: their labels, `[N]`; None for other targets.
    fraction: fraction of the validation set.
    key: key of the run.

  Returns:
    The rows of the training set, and those of the validation set.

  Raises:
    ValueError: the examples can't be split so.
  """
  own_key = jax.random.fold_in(jax.random.split(key)[1], 2**32 - 1)  # Not the number of any epoch.
  seed = int(jax.random.bits(own_key, dtype=jnp.uint32))
  return stratified(n, size_aside(n, labels, fraction), labels, seed)


def set_aside(examples: Batch, fraction: float, key: Array) -> tuple[Batch, Batch]:
  """Split a run's examples into training and validation set; see `rows_aside`.

  Raises:
    ValueError: the examples can't be split so; or those of a part have zero weight.
  """
  labels = np.asarray(examples.targets) if holds_labels(examples.targets) else None
  parts = rows_aside(example_count(examples.x), labels, fraction, key)
  train, validation = (take_rows(examples, rows) for rows in parts)
  for name, part in (("training", train), ("validation", validation)):
    if part.weights is not None and not np.asarray(part.weights).any():
      problem = f"of {fraction:g}: the weights of the {name} part are all zero"
      raise errors.RangeError(problem, "stop.validation_fraction")
  return train, validation
