"""The updates of a step: scikit-learn's Adam and SGD with traced constants, and any of optax's.

Adam and SGD aren't optax's, since they have to give scikit-learn's numbers: its Adam adds epsilon
before the bias correction of v, and its Nesterov momentum keeps the velocity times the rate.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop.errors import DtypeError, describe
from fbackprop.train.optimizers import as_transformation
from fbackprop.types import Array, Params


class Constants(NamedTuple):
  """The constants of an update, traced, so that other values need no other program, `[]` each."""

  beta_1: Any
  beta_2: Any
  epsilon: Any
  momentum: Any


class Solver(NamedTuple):
  """An optimizer of the estimators.

  Attributes:
    init: `init(params, rate) -> state`.
    update: `update(grads, state, params, rate, constants, value) -> (params, state)`.
  """

  init: Callable[..., Any]
  update: Callable[..., tuple[Params, Any]]


class Moments(NamedTuple):
  """The state of Adam: the number of steps `[]`, and the running means of g and g²."""

  t: Any
  mean: Params
  square: Params


def zeros_like(params: Params) -> Params:
  """Return zeros on the host, where they cost no program."""
  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)


def adam_init(params: Params, rate: Any) -> Moments:
  """Start Adam at t = 0."""
  return Moments(np.zeros((), np.int32), zeros_like(params), zeros_like(params))


def adam_update(
  grads: Params, state: Moments, params: Params, rate: Array, constants: Constants, value: Array
) -> tuple[Params, Moments]:
  """m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², p ← p − rate √(1 − β₂ᵗ)/(1 − β₁ᵗ) m/(√v + ε).

  References:
    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR (2015), the end of section 2.
  """
  beta_1, beta_2, epsilon, _ = constants
  t = state.t + 1
  power = t.astype(rate.dtype)
  scale = rate * jnp.sqrt(1 - beta_2**power) / (1 - beta_1**power)
  mean = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, state.mean, grads)
  square = jax.tree.map(lambda v, g: beta_2 * v + (1 - beta_2) * (g * g), state.square, grads)
  params = jax.tree.map(
    lambda p, m, v: p - scale * m / (jnp.sqrt(v) + epsilon), params, mean, square
  )
  return params, Moments(t, mean, square)


def sgd_init(params: Params, rate: Any) -> Params:
  """Start with velocity 0."""
  return zeros_like(params)


def sgd_update(
  grads: Params, velocity: Params, params: Params, rate: Array, constants: Constants, value: Array,
  *, nesterov: bool,
) -> tuple[Params, Params]:  # fmt: skip
  """v ← μ v − rate g, p ← p + v; with Nesterov's momentum p ← p + μ v − rate g.

  References:
    Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
    (2013).
  """

  def advance(v: Array, g: Array) -> Array:
    return constants.momentum * v - rate * g

  velocity = jax.tree.map(advance, velocity, grads)
  moves = jax.tree.map(advance, velocity, grads) if nesterov else velocity
  return jax.tree.map(jnp.add, params, moves), velocity


def from_optax(make: Any) -> Solver:
  """Convert an optimizer of optax, or a function of the rate that makes one, as `optax.adamw`."""

  def of_rate(rate: Any) -> optax.GradientTransformationExtraArgs:
    made = make if isinstance(make, optax.GradientTransformation) else make(rate)
    return optax.with_extra_args_support(as_transformation(made))

  @jax.jit
  def init(params: Params, rate: Any) -> Any:
    return of_rate(rate).init(params)

  def update(
    grads: Params, state: Any, params: Params, rate: Array, constants: Constants, value: Array
  ) -> tuple[Params, Any]:
    moves, state = of_rate(rate).update(grads, state, params, value=value, grad=grads)
    return optax.apply_updates(params, moves), state

  return Solver(init, update)


SOLVERS = {
  "adam": Solver(adam_init, adam_update),
  "sgd": Solver(sgd_init, functools.partial(sgd_update, nesterov=False)),
  "nesterov": Solver(sgd_init, functools.partial(sgd_update, nesterov=True)),
}


class Call(NamedTuple):
  """A `functools.partial` that is equal to its copies."""

  func: Any
  args: tuple[Any, ...]
  keywords: tuple[tuple[str, Any], ...]

  def __call__(self, rate: Any) -> Any:
    return self.func(*self.args, rate, **dict(self.keywords))


def solver_key(where: str, solver: Any, nesterov: bool) -> Any:
  """Return what tells a solver from others, by which its programs are kept.

  Raises:
    DtypeError: it is neither a name nor an optimizer of optax, nor a function.
  """
  if isinstance(solver, str):
    return "nesterov" if solver == "sgd" and nesterov else solver
  if isinstance(solver, functools.partial):
    return Call(solver.func, solver.args, tuple(sorted(solver.keywords.items())))
  if isinstance(solver, optax.MultiSteps):
    return as_transformation(solver)
  if isinstance(solver, optax.GradientTransformation) or callable(solver):
    return solver
  wanted = "adam, sgd, lbfgs, an optimizer of optax, or a function of the rate such as optax.adamw"
  raise DtypeError(f"must be {wanted}, got {describe(solver)}", "solver", where)


def solver_of(key: Any) -> Solver:
  """Return the solver of a `solver_key`."""
  return SOLVERS[key] if isinstance(key, str) else from_optax(key)
