"""Optimizers: the lecture's update rule, those of optax by name, and the update of a step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fbackprop.curvature import kfac
from fbackprop.errors import check_choice, check_that
from fbackprop.layers.factors import refuse_factors
from fbackprop.ranges import RANGES, check_in_range, check_range
from fbackprop.train.arguments import OptimizerName, ScheduleName, check_warmup
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params, exportable


def gradient_descent(rate: float) -> optax.GradientTransformation:
  """Build plain gradient descent, the lecture's step 2: p ← p − rate · ∂J/∂p, all weights at once.

  All gradients are taken at the old weights. (Updating a layer before the gradient of the layer
  below is computed, as some worked examples do, isn't gradient descent.)

  Args:
    rate: step size, a finite number above 0. Schedules, momentum and the like are in optax.

  Returns:
    A stateless optax `GradientTransformation`; the same numbers as `optax.sgd(rate)`.

  Raises:
    TypeError: `rate` isn't a number.
    ValueError: `rate` isn't finite and above 0.

  Example:
    >>> optimizer = gradient_descent(0.5)
    >>> params, grads = {"w": jax.numpy.array([1.0])}, {"w": jax.numpy.array([0.2])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params))
    >>> print(optax.apply_updates(params, updates)["w"])
    [0.9]
  """
  check_in_range("gradient_descent", "rate", rate)
  rate = float(rate)  # A NumPy scalar would promote a gradient in bfloat16.

  def init(params: Params) -> tuple[()]:
    return ()  # Not optax's EmptyState, which `jax.export` can't serialise.

  def update(grads: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
    refuse_factors("gradient_descent", "grads", grads)
    return jax.tree.map(lambda g: -rate * g, grads), state

  return optax.GradientTransformation(init, update)


def make_update(optimizer: Any, net: Layer, loss: Loss) -> Callable[..., tuple[Params, Any]]:
  """Build the parameter update from a gradient.

  Args:
    optimizer: an optax optimizer.
    net: the network.
    loss: the loss.

  Returns:
    `update(params, opt_state, batch, key, value, grads) -> (params, opt_state)`, with `batch` =
    `(x, targets, weights)`, `key` that of the forward pass, and `value` and `grads` the mean loss
    and its gradient.
  """
  optimizer = as_transformation(optimizer)
  propose = optax.with_extra_args_support(optimizer).update
  mean_loss = make_mean_loss(net, loss)

  def update(
    params: Params, opt_state: Any, batch: Any, key: Array | None, value: Array, grads: Params
  ) -> tuple[Params, Any]:
    refuse_factors("make_update", "grads", grads)

    # Optax's line searches hand on what is given besides, and refuse what this doesn't take.
    def value_fn(params: Params, batch: Any = batch, key: Any = key) -> Array:
      return mean_loss(params, batch, key)

    more = {"value": value, "grad": grads, "value_fn": value_fn, "batch": batch, "key": key}
    updates, opt_state = propose(grads, opt_state, params, **more)
    return optax.apply_updates(params, updates), opt_state

  return update


def as_transformation(optimizer: Any) -> optax.GradientTransformation:
  """Convert an optimizer, `optax.MultiSteps` included, to a transformation; raise for others."""
  if isinstance(optimizer, optax.MultiSteps):
    # Not `MultiSteps.gradient_transformation`, which doesn't pass extra arguments on.
    return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
  is_known = isinstance(optimizer, optax.GradientTransformation)
  wanted = "be an optax GradientTransformation, such as fbackprop.train.gradient_descent(0.1)"
  check_that("make_step", "optimizer", optimizer, is_known, wanted)
  return optimizer


@exportable
class Scaled(NamedTuple):
  """The state of an optimizer whose updates are multiplied by a factor, `[]`, float32."""

  scale: Array
  inner: Any


def scaled(optimizer: Any) -> optax.GradientTransformation:
  """Scale an optimizer's updates by a factor in its state, initially 1."""
  optimizer = optax.with_extra_args_support(as_transformation(optimizer))

  def init(params: Params) -> Scaled:
    return Scaled(jnp.ones((), jnp.float32), optimizer.init(params))

  def update(updates: Params, state: Scaled, params: Any = None, **more: Any) -> tuple[Any, Scaled]:
    updates, inner = optimizer.update(updates, state.inner, params, **more)
    updates = jax.tree.map(lambda update: update * state.scale.astype(update.dtype), updates)
    return updates, Scaled(state.scale, inner)

  return optax.GradientTransformationExtraArgs(init, update)


@exportable
class Averaged(NamedTuple):
  """The state of an optimizer that keeps an average of the parameters.

  Attributes:
    average: the average, like the parameters.
    inner: the optimizer's own state.
  """

  average: Params
  inner: Any


def averaged(optimizer: Any, decay: float) -> optax.GradientTransformation:
  """Keep an exponential moving average of the parameters beside an optimizer.

  After each step the average is decay · average + (1 − decay) · params, and begins as the initial
  parameters. The steps themselves are the optimizer's; the average stands in its state, as
  `result.state.opt_state.average` of `fit`.

  Args:
    optimizer: an optax optimizer, or `gradient_descent`.
    decay: from 0 to below 1: 0.99 averages over about the last hundred steps.

  Raises:
    TypeError: `optimizer` isn't one, or `decay` isn't a number.
    ValueError: `decay` isn't from 0 to below 1.

  Example:
    >>> optimizer = averaged(gradient_descent(1.0), 0.5)
    >>> params = {"w": jnp.array([4.0])}
    >>> updates, state = optimizer.update({"w": jnp.array([2.0])}, optimizer.init(params), params)
    >>> print(optax.apply_updates(params, updates)["w"], state.average["w"])
    [2.] [3.]

  References:
    Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control
    Optim. 30 (1992); as a moving average: Tarvainen, Valpola, "Mean teachers", NIPS (2017).
  """
  check_range("averaged", "decay", decay, RANGES["dropout"])
  decay = float(decay)
  own = optax.with_extra_args_support(as_transformation(optimizer))

  def init(params: Params) -> Averaged:
    # A copy: the parameters themselves may be donated.
    return Averaged(jax.tree.map(jnp.array, params), own.init(params))

  def update(updates: Params, state: Averaged, params: Any = None, **more: Any) -> tuple[Any, Any]:
    updates, inner = own.update(updates, state.inner, params, **more)
    new = optax.apply_updates(params, updates)
    average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, new)
    return updates, Averaged(average, inner)

  return optax.GradientTransformationExtraArgs(init, update)


def make_mean_loss(net: Layer, loss: Loss) -> Callable[[Params, Any, Array | None], Array]:
  """Build the mean loss as a function of the parameters, to be differentiated by line searches.

  Under autodiff, in forward and in reverse mode, its derivative is our backward pass: the tangent
  of the mean is ⟨grads, params_dot⟩. Only `params` is differentiated.
  """
  loss_and_gradient: Callable[..., tuple[Array, Params]] = value_and_grad(net, loss)

  def with_gradient(params: Params, batch: Any, key: Array | None) -> tuple[Array, Params]:
    x, targets, weights = batch
    return loss_and_gradient(params, x, targets, key=key, weights=weights)

  @jax.custom_jvp
  def mean_loss(params: Params, batch: Any, key: Array | None) -> Array:
    return with_gradient(params, batch, key)[0]

  @mean_loss.defjvp
  def mean_loss_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    value, grads = with_gradient(*primals)
    products = jax.tree.map(jnp.vdot, grads, tangents[0])
    return value, sum(jax.tree.leaves(products), jnp.zeros_like(value))

  return mean_loss


# The optimizers of the command line that need no network, without their rate, by optax's numbers.
OPTIMIZERS: dict[OptimizerName, Callable[[], optax.GradientTransformation]] = {
  "gradient_descent": optax.identity,
  "momentum": lambda: optax.trace(0.9),
  "nesterov": lambda: optax.trace(0.9, nesterov=True),
  "adam": optax.scale_by_adam,
  "rmsprop": optax.scale_by_rms,
  "adagrad": optax.scale_by_rss,
  "lion": optax.scale_by_lion,
}
# Functions of the peak rate and of the steps over which it decays.
SCHEDULES: dict[ScheduleName, Callable[[float, int], optax.Schedule]] = {
  "constant": lambda rate, left: optax.constant_schedule(rate),
  "cosine": optax.cosine_decay_schedule,
  "linear": lambda rate, left: optax.linear_schedule(rate, 0.0, left),
  "exponential": lambda rate, left: optax.exponential_decay(rate, left, 1e-3),
}


def make_optimizer(
  name: OptimizerName,
  rate: float,
  steps: int,
  *,
  schedule: ScheduleName = "constant",
  warmup: int = 0,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
  model: tuple[Layer, Loss] | None = None,
) -> optax.GradientTransformation:
  """Build an optimizer by name.

  In this order: the gradient is clipped to the global norm `clip_norm`; the optimizer turns it into
  a direction, with optax's defaults, and momentum and Nesterov's with 0.9; `weight_decay` · w is
  added to the direction of each weight matrix; the sum is multiplied by the learning rate of the
  step.

  Args:
    name: one of `OPTIMIZERS`, or "kfac" (`fbackprop.curvature.kfac` with one draw of each example's
      target per step, damping 0.01, directions of at most 0.01 nats, an inversion every 10 steps).
    rate: learning rate, the peak one of a schedule; above 0.
    steps: length of the run, over which a schedule decays.
    schedule: one of `SCHEDULES`: constant, cosine or linear decay to 0, or exponential decay by a
      factor of 1,000.
    warmup: steps of linear warmup from 0; at most `steps`.
    weight_decay: decoupled weight decay (weight matrices only); at least 0.
    clip_norm: clip the gradient to this global norm; None for no clipping.
    model: the network and the loss, for "kfac".

  Raises:
    ValueError: unknown name, or number out of range.
    TypeError: a number has the wrong type, or "kfac" has no model.

  Example:
    >>> optimizer = make_optimizer("adam", 1e-3, 1000, schedule="cosine", weight_decay=0.01)
  """
  check_choice("make_optimizer", "name", name, (*OPTIMIZERS, "kfac"))
  check_choice("make_optimizer", "schedule", schedule, SCHEDULES)
  for what, number in (("rate", rate), ("weight_decay", weight_decay), ("clip_norm", clip_norm)):
    if number is not None or what != "clip_norm":
      check_in_range("make_optimizer", what, number)
  check_warmup(warmup, steps)
  is_plain = name == "gradient_descent" and schedule == "constant" and not warmup
  if is_plain and not weight_decay and clip_norm is None:
    return gradient_descent(rate)
  clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
  decay = [optax.add_decayed_weights(weight_decay, is_weight)] if weight_decay else []
  scale = optax.scale_by_learning_rate(rates(rate, steps, schedule, warmup))
  return optax.chain(*clip, direction_of(name, model), *decay, scale)


def direction_of(
  name: OptimizerName, model: tuple[Layer, Loss] | None
) -> optax.GradientTransformation:
  """Build what turns a gradient into the direction of descent, uphill as the gradient is."""
  if name != "kfac":
    return OPTIMIZERS[name]()
  wanted = "be (net, loss) for kfac, which takes their curvature"
  check_that("make_optimizer", "model", model, model is not None, wanted)
  assert model is not None
  options: dict[str, Any] = {"damping": 0.01, "kl_bound": 0.01, "refresh": (1, 10)}
  natural = kfac(*model, rate=1.0, kind="monte_carlo", **options)
  return optax.chain(natural, optax.scale(-1.0))


def rates(rate: float, steps: int, schedule: ScheduleName, warmup: int) -> optax.ScalarOrSchedule:
  """Build the learning-rate schedule, as a function of the step's number from 0."""
  after = SCHEDULES[schedule](rate, max(1, steps - warmup))
  if not warmup:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def is_weight(params: Params) -> Params:
  """Mark the weight matrices, which all layers call w, and recurrent ones u.

  Biases and scales aren't decayed, nor the feedback of a rule, which may be fixed.
  """

  def is_decayed(path: tuple[Any, ...], leaf: Any) -> bool:
    names = [getattr(key, "name", None) for key in path]
    return bool(path) and names[-1] in ("w", "u") and names[0] != "feedback"

  return jax.tree_util.tree_map_with_path(is_decayed, params)
