"""Optimisers and schedules by name, as the command line has them; the numbers are optax's."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from fbackprop.checks import check_number
from fbackprop.train.method_names import OPTIMIZERS, SCHEDULES, OptimizerName, ScheduleName
from fbackprop.train.optimizers import gradient_descent
from fbackprop.types import Params

DIRECTIONS: dict[OptimizerName, Callable[[], optax.GradientTransformation]] = {
  "gradient_descent": optax.identity,
  "momentum": lambda: optax.trace(0.9),
  "nesterov": lambda: optax.trace(0.9, nesterov=True),
  "adam": optax.scale_by_adam,
  "rmsprop": optax.scale_by_rms,
  "adagrad": optax.scale_by_rss,
  "lion": optax.scale_by_lion,
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
) -> optax.GradientTransformation:
  """Builds an optimiser.

  In this order: the gradient is shortened to `clip_norm`; the optimiser makes a direction of it,
  with optax's defaults, momentum and Nesterov's with 0.9; `weight_decay` · w is added to that of
  each weight matrix; all of it is multiplied by the rate of the step.

  Args:
    name: one of `OPTIMIZERS`.
    rate: the step size, and of a schedule the largest one; above 0.
    steps: of the run, at whose end a schedule arrives.
    schedule: one of `SCHEDULES`: as it is, or down to 0 along a cosine or a line, or by a factor of
      1,000 exponentially.
    warmup: in so many first steps the rate rises from 0; at most `steps`.
    weight_decay: at least 0. Biases, and the scales and shifts of normalisations, are spared.
    clip_norm: the largest Euclidean norm of the whole gradient; None for any.

  Raises:
    ValueError: a name or a number can't be.
    TypeError: what must be a number isn't.

  Example:
    >>> optimizer = make_optimizer("adam", 1e-3, 1000, schedule="cosine", weight_decay=0.01)
  """
  for what, value, choices in (
    ("name", name, OPTIMIZERS),
    ("schedule", schedule, SCHEDULES),
  ):
    if value not in choices:
      raise ValueError(f"make_optimizer: {what} must be one of {', '.join(choices)}, got {value!r}")
  for what, number in (("rate", rate), ("weight_decay", weight_decay), ("clip_norm", clip_norm)):
    if number is not None:
      check_number("make_optimizer", what, number)
  if rate <= 0 or weight_decay < 0 or (clip_norm is not None and clip_norm <= 0):
    got = f"{rate:g}, {weight_decay:g} and {clip_norm}"
    raise ValueError(
      f"make_optimizer: rate and clip_norm must be above 0, weight_decay at least 0, got {got}"
    )
  if not 0 <= warmup <= steps:
    raise ValueError(f"make_optimizer: warmup must be from 0 to the {steps} steps, got {warmup}")
  is_plain = name == "gradient_descent" and schedule == "constant" and not warmup
  if is_plain and not weight_decay and clip_norm is None:
    return gradient_descent(rate)
  parts = [
    *([optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []),
    DIRECTIONS[name](),
    *([optax.add_decayed_weights(weight_decay, is_weight)] if weight_decay else []),
    optax.scale_by_learning_rate(rates(rate, steps, schedule, warmup)),
  ]
  return optax.chain(*parts)


def rates(rate: float, steps: int, schedule: ScheduleName, warmup: int) -> optax.ScalarOrSchedule:
  """The rate of each step, counted from 0."""
  left = max(1, steps - warmup)
  after: optax.Schedule = {
    "constant": lambda: optax.constant_schedule(rate),
    "cosine": lambda: optax.cosine_decay_schedule(rate, left),
    "linear": lambda: optax.linear_schedule(rate, 0.0, left),
    "exponential": lambda: optax.exponential_decay(rate, left, 1e-3),
  }[schedule]()
  if not warmup:
    return after
  return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def is_weight(params: Params) -> Params:
  """For each array, whether it is a weight matrix, which a layer calls w."""

  def named_w(path: Any, leaf: Any) -> bool:
    return bool(path) and getattr(path[-1], "name", None) == "w"

  return jax.tree_util.tree_map_with_path(named_w, params)
