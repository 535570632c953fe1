"""The lecture's update rule, and what a step hands to it or to any optimiser of optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fbackprop.checks import DtypeError, check_number, describe
from fbackprop.layers.factors import refuse_factors
from fbackprop.transforms import value_and_grad
from fbackprop.types import Array, Layer, Loss, Params, exportable


def gradient_descent(rate: float) -> optax.GradientTransformation:
  """Plain gradient descent, the lecture's step 2: p ← p − rate · ∂J/∂p, for every weight at once.

  All gradients are taken at the old weights. (Updating a layer before the gradient of the layer
  below is computed, as some worked examples do, isn't gradient descent.)

  Args:
    rate: step size, a finite number above 0. A schedule, momentum and the like are optax's.

  Returns:
    An optax `GradientTransformation` without state; the same numbers as `optax.sgd(rate)`.

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
  check_number("gradient_descent", "rate", rate)
  if rate <= 0:
    raise ValueError(f"gradient_descent: rate must be above 0, got {rate}")

  rate = float(rate)  # A NumPy scalar would promote a gradient in bfloat16.

  def init(params: Params) -> tuple[()]:
    return ()  # Not optax's EmptyState, which `jax.export` can't write.

  def update(grads: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
    refuse_factors("gradient_descent", "grads", grads)
    return jax.tree.map(lambda g: -rate * g, grads), state

  return optax.GradientTransformation(init, update)


def make_update(optimizer: Any, net: Layer, loss: Loss) -> Callable[..., tuple[Params, Any]]:
  """Builds what an optimiser makes of a gradient.

  Args:
    optimizer: of optax.
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

    def value_fn(params: Params) -> Array:
      return mean_loss(params, batch, key)

    more = {"value": value, "grad": grads, "value_fn": value_fn}
    updates, opt_state = propose(grads, opt_state, params, **more)
    return optax.apply_updates(params, updates), opt_state

  return update


def as_transformation(optimizer: Any) -> optax.GradientTransformation:
  """Takes `optax.MultiSteps` too, and refuses what is no optimiser."""
  if isinstance(optimizer, optax.MultiSteps):
    # Not its own gradient_transformation(), which passes no extra arguments on.
    return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
  if not isinstance(optimizer, optax.GradientTransformation):
    raise DtypeError(
      "make_step: optimizer must be an optax GradientTransformation, such as "
      f"fbackprop.train.gradient_descent(0.1), got {describe(optimizer)}"
    )
  return optimizer


@exportable
class Scaled(NamedTuple):
  """The state of an optimiser whose updates are multiplied by a number, `[]`, float32."""

  scale: Array
  inner: Any


def scaled(optimizer: Any) -> optax.GradientTransformation:
  """An optimiser whose updates are multiplied by a number in its state, which begins at 1."""
  optimizer = optax.with_extra_args_support(as_transformation(optimizer))

  def init(params: Params) -> Scaled:
    return Scaled(jnp.ones((), jnp.float32), optimizer.init(params))

  def update(updates: Params, state: Scaled, params: Any = None, **more: Any) -> tuple[Any, Scaled]:
    updates, inner = optimizer.update(updates, state.inner, params, **more)
    updates = jax.tree.map(lambda update: update * state.scale.astype(update.dtype), updates)
    return updates, Scaled(state.scale, inner)

  return optax.GradientTransformationExtraArgs(init, update)


def make_mean_loss(net: Layer, loss: Loss) -> Callable[[Params, Any, Array | None], Array]:
  """The mean loss as a function of the parameters, for line searches, which differentiate it.

  Under anybody's autodiff, in forward and in reverse mode, its derivative is our backward pass:
  the tangent of the mean is ⟨grads, params_dot⟩. Nothing but `params` is a variable.
  """
  loss_and_gradient = value_and_grad(net, loss)

  def with_gradient(params: Params, batch: Any, key: Array | None) -> tuple[Array, Params]:
    x, targets, weights = batch
    value, grads = loss_and_gradient(params, x, targets, key=key, weights=weights)
    return value, grads

  @jax.custom_jvp
  def mean_loss(params: Params, batch: Any, key: Array | None) -> Array:
    return with_gradient(params, batch, key)[0]

  @mean_loss.defjvp
  def mean_loss_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    value, grads = with_gradient(*primals)
    products = jax.tree.map(jnp.vdot, grads, tangents[0])
    return value, sum(jax.tree.leaves(products), jnp.zeros_like(value))

  return mean_loss
