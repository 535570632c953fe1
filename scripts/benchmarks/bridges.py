"""A specimen of the bank in the form of each of the other checkers: the same function and rule.

A checker gets the float leaves of the arguments, one array each; integers and keys are closed over,
as in common use. Torch and autograd get a function of their own kind whose forward and backward
pass call the JAX function and its rule, in float64, their default for checks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import without_rules
from fbackprop.verify.bank.specimen import Example


class Problem(NamedTuple):
  """A function of float arrays that returns a list of float arrays, with its rule.

  Attributes:
    f: the function with the rule.
    reference: the same function without it.
    leaves: its arguments.
  """

  f: Callable[..., Any]
  reference: Callable[..., Any]
  leaves: list[Any]


def problem_of(example: Example) -> Problem:
  """Flatten the arguments of an example."""
  everything, structure = jax.tree.flatten(example.args)
  everything = [jnp.asarray(leaf) for leaf in everything]
  places = [i for i, leaf in enumerate(everything) if is_float(leaf)]
  with_rule = example.f if example.f_vjp is None else joined(example.f, example.f_vjp)

  def call(function: Callable[..., Any], leaves: Any) -> Any:
    full = list(everything)
    for place, leaf in zip(places, leaves, strict=True):
      full[place] = leaf
    return [y for y in jax.tree.leaves(function(*jax.tree.unflatten(structure, full)))
            if is_float(y)]  # fmt: skip

  def reference(*leaves: Any) -> Any:
    return without_rules(lambda *leaves: call(example.f, leaves), *leaves)(*leaves)

  leaves = [everything[i] for i in places]
  return Problem(lambda *leaves: call(with_rule, leaves), reference, leaves)


def is_float(leaf: Any) -> bool:
  """Return whether a leaf has a cotangent."""
  return bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def joined(f: Callable[..., Any], f_vjp: Callable[..., Any]) -> Callable[..., Any]:
  """Return the function with its rule; the backward pass repeats the forward pass."""
  ruled = jax.custom_vjp(f)
  ruled.defvjp(
    lambda *args: (f_vjp(*args)[0], args), lambda args, y_bar: tuple(f_vjp(*args)[1](y_bar))
  )
  return ruled


# --- For checkers of NumPy arrays -----------------------------------------------------------------


def values(problem: Problem, xs: Any) -> np.ndarray:
  """Return all outputs in one vector, in float64."""
  with jax.enable_x64(True):
    ys = problem.f(*(jnp.asarray(x) for x in xs))
    return np.concatenate([np.zeros(0), *(np.asarray(y, np.float64).ravel() for y in ys)])


def cotangents(problem: Problem, xs: Any, y_bar: np.ndarray) -> list[np.ndarray]:
  """Return the rule's cotangents for a cotangent of that vector."""
  with jax.enable_x64(True):
    ys, pull = jax.vjp(problem.f, *(jnp.asarray(x) for x in xs))
    parts = np.split(y_bar, np.cumsum([y.size for y in ys])[:-1]) if ys else []
    bars = pull([jnp.asarray(part.reshape(y.shape), y.dtype)
                 for part, y in zip(parts, ys, strict=True)])  # fmt: skip
    return [np.asarray(bar, np.float64) for bar in bars]


def inputs(problem: Problem) -> list[np.ndarray]:
  """Return the leaves as NumPy arrays of float64."""
  return [np.array(leaf, np.float64) for leaf in problem.leaves]


def to_torch(problem: Problem, torch: Any) -> Callable[..., Any]:
  """Wrap the function as a `torch.autograd.Function`."""

  class Bridge(torch.autograd.Function):  # type: ignore[misc]
    """Forward and backward in JAX."""

    @staticmethod
    def forward(ctx: Any, *xs: Any) -> Any:
      ctx.xs = [x.detach().numpy() for x in xs]
      return torch.from_numpy(values(problem, ctx.xs))

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, y_bar: Any) -> Any:
      bars = cotangents(problem, ctx.xs, y_bar.numpy())
      return tuple(torch.from_numpy(np.array(bar)) for bar in bars)

  return Bridge.apply


def to_autograd(problem: Problem, extend: Any) -> Callable[..., Any]:
  """Wrap the function as an autograd primitive with a VJP."""

  @extend.primitive  # type: ignore[untyped-decorator]
  def bridge(*xs: Any) -> Any:
    return values(problem, xs)

  def vjp_of(place: int) -> Callable[..., Any]:
    return lambda y, *xs: lambda y_bar: cotangents(problem, xs, y_bar)[place]

  extend.defvjp(bridge, *(vjp_of(place) for place in range(len(problem.leaves))))
  return bridge
