"""The lecture's update rule. Any other optimiser is optax's, and is taken as it is."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from fbackprop.checks import DtypeError, describe
from fbackprop.types import Array, Params


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
  if isinstance(rate, bool) or not isinstance(rate, int | float | np.number):
    raise DtypeError(f"gradient_descent: rate must be a number, got {rate!r}")
  if not (math.isfinite(rate) and rate > 0):
    raise ValueError(f"gradient_descent: rate must be finite and above 0, got {rate!r}")

  rate = float(rate)  # A NumPy scalar would promote a gradient in bfloat16.

  def init(params: Params) -> optax.EmptyState:
    return optax.EmptyState()

  def update(grads: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
    return jax.tree.map(lambda g: -rate * g, grads), state

  return optax.GradientTransformation(init, update)


def make_update(optimizer: Any) -> Callable[[Params, Any, Array, Params], tuple[Params, Any]]:
  """Builds `update(params, opt_state, loss, grads) -> (params, opt_state)`."""
  if not isinstance(optimizer, optax.GradientTransformation):
    raise DtypeError(
      "make_step: optimizer must be an optax GradientTransformation, such as "
      f"fbackprop.train.gradient_descent(0.1), got {describe(optimizer)}"
    )
  propose = optax.with_extra_args_support(optimizer).update

  def update(params: Params, opt_state: Any, loss: Array, grads: Params) -> tuple[Params, Any]:
    updates, opt_state = propose(grads, opt_state, params, value=loss)
    return optax.apply_updates(params, updates), opt_state

  return update
