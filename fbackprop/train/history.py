"""The history of a run, kept on the host and in checkpoints, and its diagnostics.

The history holds rows, evaluations and gradient checks. The diagnostics are the checks, the health
of the layers, averages over steps, and the place of a divergence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax

from fbackprop.checks import example_count
from fbackprop.combinators import is_chain, keys_of_parts
from fbackprop.live_check import LiveCheck, Measure, checked_loss, make_live_check
from fbackprop.meshes import take_rows
from fbackprop.quantities._compute import captured_pass, compute
from fbackprop.quantities.gradients import plain, without_factors
from fbackprop.quantities.kernels import example_sqnorms
from fbackprop.rules._alignment import alignment
from fbackprop.rules.contract import network_of
from fbackprop.train import step as steps
from fbackprop.train.optimizers import make_update
from fbackprop.train.step import Batch, Info, State, make_gradient, noise_key
from fbackprop.transforms import mean_weights, weighted_mean
from fbackprop.types import Array, Layer, Loss, Params

# The largest number of examples in a gradient check with clipping.
MOST_CLIPPED = 32
SQUARED_NORM = "squared norm of its gradient"


@dataclass
class History:
  """The record of a run so far.

  Attributes:
    rows: the `Info` of the steps of each chunk, `[steps, ...]`, in NumPy.
    evaluations: `Evaluation`s in order; of an ensemble, `EnsembleEvaluation`s.
    checks: the gradient checks, each with its step; of an ensemble, `MemberCheck`s.
    seconds: wall time of earlier processes.
    check_seconds: wall time of gradient checks, of earlier processes and this one.
    rollbacks: number of rollbacks to a checkpoint.
    validation: the step and the validation score of the end of each epoch, see `next_epoch`.
  """

  rows: list[Info]
  evaluations: list[Any] = field(default_factory=list)
  checks: list[Any] = field(default_factory=list)
  seconds: float = 0.0
  check_seconds: float = 0.0
  rollbacks: int = 0
  validation: list[tuple[int, float]] = field(default_factory=list)

  def infos(self, since: int = 0) -> Info:
    """Concatenate the rows of all steps, or of those after one, into one `Info`."""
    # Concatenated on demand, so that a sum has the same order of terms however the run was cut.
    self.rows = [jax.tree.map(lambda *parts: np.concatenate(parts), *self.rows)]
    return jax.tree.map(lambda column: column[since:], self.rows[0])

  def since_evaluation(self) -> Info:
    """Return the rows of the steps after the latest evaluation."""
    return self.infos(self.evaluations[-1].step if self.evaluations else 0)


def make_gradient_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int, clip_examples: float | None = None
) -> Callable[[State], LiveCheck]:
  """Build `check(state) -> LiveCheck`, on `batch_size` examples drawn by the step's number.

  Of a network under a rule of `fbackprop.rules`, the gradient of the network itself is checked.

  With clipping, at most `MOST_CLIPPED` examples, as `jax.grad` is taken of each in turn.
  """
  if clip_examples is not None:
    batch_size = min(batch_size, MOST_CLIPPED)
  # An update that isn't meant to be the gradient is no gradient's; the network's own is checked.
  rule, net = net, network_of(net)
  loss = checked_loss(net, loss)
  gradient_of = make_gradient(net, loss, clip_examples)

  def make_measure() -> Measure:
    # Imported at the first difference only; a run without one imports nothing of `verify`.
    from fbackprop.verify import live

    return live.make_measure()

  live = make_live_check(
    net, loss, ours=lambda *batch, **more: gradient_of(*batch, **more)[:2],
    clip_examples=clip_examples, make_measure=make_measure,
  )  # fmt: skip

  def check(state: State) -> LiveCheck:
    rows = drawn_rows(state, examples, batch_size)
    key, weights = noise_key(net, state), examples.weights
    params = state.params if rule is net else state.params.params
    return live(params, examples.x, examples.targets, key=key, weights=weights, rows=rows)

  return check


def make_health_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int
) -> Callable[[State], dict[str, Any]]:
  """Build a function that measures the health of a network's layers at a state.

  Args:
    net: the network, of captured layers.
    loss: the loss.
    examples: the training set.
    batch_size: number of examples used.

  Returns:
    `measure(state)`, in JSON types: by the layer's name, such as "0.dense", the fields of
    `LayerHealth`, each a number, or for the copies of a `repeat` a list. The examples are those of
    a gradient check at the same step. Dropout is off, since dropped units would count as dead.
  """
  health = jax.jit(compute(net, loss, ("health",)))

  def measure(state: State) -> dict[str, Any]:
    x, targets, weights = take_rows(examples, drawn_rows(state, examples, batch_size))
    found: Any = jax.device_get(health(state.params, x, targets, None, weights)[2]["health"])
    return {
      layer: {field: np.asarray(value).tolist() for field, value in own._asdict().items()}
      for layer, own in found.layers.items()
    }

  return measure


def make_alignment_check(
  net: Layer, loss: Loss, examples: Batch, batch_size: int
) -> Callable[[State], dict[str, Any]]:
  """Build a function that compares a rule's update with the gradient at a state.

  Args:
    net: a network under a rule.
    loss: the loss.
    examples: the training set.
    batch_size: number of examples used.

  Returns:
    `measure(state)`, in JSON types: by the layer's name, the fields of `Alignment`, each a number,
    or None where it isn't defined. The examples and the key are those of a gradient check at the
    same step.
  """
  compared = jax.jit(alignment(net, loss))

  def measure(state: State) -> dict[str, Any]:
    x, targets, weights = take_rows(examples, drawn_rows(state, examples, batch_size))
    key = noise_key(net, state)
    found: Any = jax.device_get(compared(state.params, x, targets, key=key, weights=weights))
    return {
      layer: {
        field: float(value) if np.isfinite(value) else None
        for field, value in own._asdict().items()
      }
      for layer, own in found.items()
    }

  return measure


def drawn_rows(state: State, examples: Batch, count: int) -> np.ndarray:
  """Draw the indices of `count` examples from the step's number, `[count]`."""
  generator = np.random.default_rng(int(state.step))
  return generator.choice(example_count(examples.x), count, replace=False)


# --- The place of a divergence --------------------------------------------------------------------


# A layer of a chain: its name in a report, the layer, its parameters, and its key.
Link = tuple[str, Layer, Params, Array | None]


def locate_nonfinite(
  net: Layer,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  state: State,
  batch: Batch,
  clip_examples: float | None = None,
) -> str:
  """Locate the first nonfinite number, in the order of computation.

  The step is recomputed one operation at a time, since the fused program hides its intermediate
  values.

  Args:
    net: the network; a chain, nested or not, is searched layer by layer, any other layer as a
      whole.
    loss: the loss.
    optimizer: the optimizer.
    state: the state before the failed step.
    batch: the batch of that step.
    clip_examples: as of `make_step`.

  Returns:
    A place, such as "layer 2 (dense): value", "loss, fed by layer 2 (dense)", "layer 0 (dense):
    cotangent", "layer 0 (dense): gradient", "layer 0 (dense): norm of the gradient" where only the
    squares overflow, "optimiser's state" or "update"; where examples are clipped, "example 3 of the
    batch: squared norm of its gradient" too. "nowhere, computed one operation at a time" if all of
    these are finite: the compiled step rounds differently.
  """
  found = computed(net, loss, optimizer, state, batch, clip_examples)
  places = (place for place, value in found if not is_finite(value))
  return next(places, "nowhere, computed one operation at a time")


def computed(
  net: Layer, loss: Loss, optimizer: Any, state: State, batch: Batch, clip_examples: float | None
) -> Iterator[tuple[str, Any]]:
  """Compute a step; yield each value with its place, before any that depends on it."""
  key = noise_key(net, state)
  links = links_of(net, state.params, key)
  x, kept = batch.x, []
  for name, layer, own, own_key in links:
    x, residuals = layer.forward(own, x, own_key)
    kept.append(residuals)
    yield f"{name}: value", x
  losses, loss_residuals = loss.forward(x, batch.targets)
  losses_bar = mean_weights(losses, batch.weights)
  value = weighted_mean(losses_bar, losses)
  yield f"loss, fed by {name}", value

  y_bar = loss.backward(loss_residuals, losses_bar)
  leaves: list[Array] = []  # Leaves of the gradient, in the order of the parameters.
  for (name, layer, own, _), residuals in zip(reversed(links), reversed(kept), strict=True):
    yield f"{name}: cotangent", y_bar
    params_bar, y_bar = layer.backward(own, residuals, y_bar)
    params_bar = without_factors(params_bar)
    yield f"{name}: gradient", params_bar
    yield f"{name}: norm of the gradient", steps.layer_norms(params_bar)
    leaves[:0] = jax.tree.leaves(params_bar)

  # The plain gradient is finite: what remains are clipping and the optimizer.
  grads = jax.tree.unflatten(jax.tree.structure(state.params), leaves)
  if clip_examples is not None:
    args = (state.params, batch.x, batch.targets)
    _, captured = captured_pass("make_step", net, loss, *args, key, batch.weights)
    for i, sqnorm in enumerate(np.asarray(example_sqnorms(captured))):
      yield f"example {i} of the batch: {SQUARED_NORM}", sqnorm
    _, grads, _ = make_gradient(net, loss, clip_examples)(*args, key=key, weights=batch.weights)
    yield "clipped gradient", grads
  update = make_update(optimizer, plain(net), loss)
  params, opt_state = update(state.params, state.opt_state, batch, key, value, grads)
  for after, before in zip(*map(jax.tree.leaves, (opt_state, state.opt_state)), strict=True):
    if is_finite(before):
      yield "optimiser's state", after
  yield "update", params


def links_of(net: Layer, params: Params, key: Array | None, place: str = "") -> list[Link]:
  """List the layers of a chain in order, those of a nested chain under places such as 1.0."""
  if not is_chain(net) or not net.parts:
    return [(f"layer {place or 0} ({net.name})", net, params, key)]
  places = [f"{place}.{i}" if place else str(i) for i in range(len(net.parts))]
  inner = zip(net.parts, params, keys_of_parts(key, net.parts), places, strict=True)
  return [link for part in inner for link in links_of(*part)]


def is_finite(tree: Any) -> bool:
  """Return whether every number in a pytree is finite."""
  leaves = filter(steps.holds_floats, jax.tree.leaves(tree))
  return all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves)
