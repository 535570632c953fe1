"""Gates that pass the gradient to some of their inputs: max, min, identity.

At a tie the derivative doesn't exist, and its value is a choice. One policy holds everywhere: k
tied inputs get 1/k each (as in `jnp.maximum` for two, `torch.amax` for any number), which is the
mean of the one-sided derivatives and lies in the subdifferential. The other common choice, all of
it to the first of them (as by `argmax`), is `max_with(ties="first")`.
"""

from functools import reduce
from typing import Literal

import jax.numpy as jnp

from fbackprop.errors import RangeError
from fbackprop.gates.arithmetic import gate
from fbackprop.types import Array, Gate, Residuals

__all__ = ["identity", "max", "max_with", "min", "min_with"]

Ties = Literal["share", "first"]


def max_forward(*xs: Array) -> tuple[Array, Residuals]:
  """y = max(x_1, ..., x_n). Residuals: for each input, the entries where it attains the maximum."""
  y = reduce(jnp.maximum, xs)
  return y, attained(xs, y)


def min_forward(*xs: Array) -> tuple[Array, Residuals]:
  """y = min(x_1, ..., x_n). Residuals: for each input, the entries where it attains the minimum."""
  y = reduce(jnp.minimum, xs)
  return y, attained(xs, y)


def route_backward(winners: Residuals, y_bar: Array) -> tuple[Array, ...]:
  """Route the gradient of max or min to the winning input; k tied ones get 1/k each."""
  k = sum(won.astype(y_bar.dtype) for won in winners)
  return tuple(jnp.where(won, y_bar / k, jnp.zeros_like(y_bar)) for won in winners)


def attained(xs: tuple[Array, ...], y: Array) -> tuple[Array, ...]:
  """Return which inputs equal the output, NaN included, so that no NaN is hidden."""
  return tuple((x == y) | jnp.isnan(x) for x in xs)


def first_of(winners: tuple[Array, ...]) -> tuple[Array, ...]:
  """Return the first winner alone."""
  taken = jnp.zeros_like(winners[0])
  first = []
  for won in winners:
    first.append(won & ~taken)
    taken = taken | won
  return tuple(first)


def max_with(*, ties: Ties) -> Gate:
  """Build `max` with a choice at ties.

  Args:
    ties: "share" sends 1/k of the gradient to each of k tied inputs, as `max` itself does;
      "first" sends all of it to the first of them.

  Returns:
    A `Gate` of any number of inputs.

  Raises:
    ValueError: `ties` is neither of these.
  """
  return with_ties(max, ties)


def min_with(*, ties: Ties) -> Gate:
  """Build `min` with a choice at ties, as `max_with`."""
  return with_ties(min, ties)


def with_ties(gate: Gate, ties: Ties) -> Gate:
  """Build `max` or `min` with a choice at ties."""
  if ties not in ("share", "first"):
    raise RangeError(f"must be 'share' or 'first', got {ties!r}", "ties", f"{gate.name}_with")
  if ties == "share":
    return gate

  def first_forward(*xs: Array) -> tuple[Array, Residuals]:
    y, winners = gate.forward(*xs)
    return y, first_of(winners)

  return gate._replace(forward=first_forward)


def identity_forward(z: Array) -> tuple[Array, Residuals]:
  """y = z. Residuals: none."""
  return z, ()


def identity_backward(residuals: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1."""
  return (y_bar,)


max = gate("max", None, max_forward, route_backward, commutative=True, cases="to the largest input")
min = gate(
  "min", None, min_forward, route_backward, commutative=True, cases="to the smallest input"
)
identity = gate("identity", 1, identity_forward, identity_backward, formula="1")
