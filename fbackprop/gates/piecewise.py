"""Piecewise linear gates: relu, leaky_relu, relu6, hard_tanh, abs; max, min; identity.

At a kink the derivative doesn't exist, and one policy defines its value: **the kink belongs to the
piece that isn't the identity**. So relu'(0) = 0, leaky_relu'(0) = its slope, and a value at the
edge of a clip counts as clipped: 0. PyTorch does the same for all four, and `jax.nn` for relu and
relu6; Bertoin et al. (NeurIPS 2021) find that relu'(0) = 0 trains best. Neither piece of abs is
special, and abs'(0) = 0 is the middle of its subdifferential; `jax.grad` has 1 there. Any other
value of relu'(0) is an option: `relu_with(at_zero=0.5)`.

The output of a piecewise gate but abs identifies the piece, so that it is the only residual, which
the next layer holds as its input; with another value at the kink, z is a residual too. A NaN
propagates forward and backward: hence `where(z <= 0, 0, z)` and not `where(z > 0, z, 0)`.

A tie of max or min has one policy too: k tied inputs get 1/k each (as in `jnp.maximum` for two,
`torch.amax` for any number), which is the mean of the one-sided derivatives and lies in the
subdifferential. The other common choice, all of it to the first of them (as by `argmax`), is
`max_with(ties="first")`.
"""

from functools import reduce
from typing import Any, Literal

import jax.numpy as jnp

from fbackprop.checks import RangeError, check_number
from fbackprop.gates.arithmetic import check_upstream, flat, gate
from fbackprop.types import Array, Gate, Residuals

__all__ = [
  "abs", "clip_with", "hard_tanh", "identity", "leaky_relu", "leaky_relu_with", "max", "max_with",
  "min", "min_with", "relu", "relu6", "relu_with",
]  # fmt: skip

Ties = Literal["share", "first"]


def relu_forward(z: Array) -> tuple[Array, Residuals]:
  """y = max(z, 0). Residuals: y."""
  y = jnp.where(z <= 0, jnp.zeros_like(z), z)
  return y, y


def relu_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 1 where y > 0, which is equivalent to z > 0, else 0: relu'(0) = 0."""
  return (jnp.where(y <= 0, jnp.zeros_like(y_bar), y_bar),)


def relu_with(*, at_zero: float) -> Gate:
  """Build relu with another derivative at its kink.

  Args:
    at_zero: relu'(0), from 0 to 1; `jnp.maximum(z, 0)` has 0.5 there.

  Returns:
    A `Gate` of one input. Its residual is z, unless `at_zero` is 0, which gives `relu` itself.

  Raises:
    TypeError: `at_zero` isn't a number.
    ValueError: it isn't from 0 to 1.

  Example:
    >>> gate = relu_with(at_zero=0.5)
    >>> y, z = gate.forward(jnp.array([-1.0, 0.0, 1.0]))
    >>> print(gate.backward(z, jnp.ones(3))[0])
    [0.  0.5 1. ]
  """
  check_number("relu_with", "at_zero", at_zero, 0, 1)
  at_zero = float(at_zero)
  if at_zero == 0:
    return relu

  def relu_forward_keeping_z(z: Array) -> tuple[Array, Residuals]:
    return with_slope_at(relu.forward(z)[0], z, 0.0, at_zero), z

  def relu_backward_at_zero(z: Residuals, y_bar: Array) -> tuple[Array]:
    check_upstream("relu", z, y_bar)
    below = jnp.where(z < 0, jnp.zeros_like(y_bar), y_bar)
    return (jnp.where(z == 0, at_zero * y_bar, below),)

  return relu._replace(forward=relu_forward_keeping_z, backward=relu_backward_at_zero)


def leaky_relu_with(negative_slope: float = 0.01, *, at_zero: float | None = None) -> Gate:
  """Build the gate y = z for z > 0, and y = negative_slope · z elsewhere.

  Args:
    negative_slope: the slope below 0; above 0, so that y and z have the same sign.
    at_zero: the derivative where y is 0, from `negative_slope` to 1 or the other way round; by
      default `negative_slope`, as in PyTorch. `jax.nn.leaky_relu` has 1.

  Returns:
    A `Gate` of one input; its residual is its output.

  Raises:
    TypeError: an argument isn't a number.
    ValueError: `negative_slope` isn't above 0, or `at_zero` isn't between the slopes.

  References:
    Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network acoustic models",
    ICML workshop (2013), eq. 2.
  """
  check_number("leaky_relu_with", "negative_slope", negative_slope)
  if negative_slope <= 0:
    problem = f"must be above 0, got {negative_slope}; relu is that with 0"
    raise RangeError(problem, "negative_slope", "leaky_relu_with")
  kink = negative_slope if at_zero is None else at_zero
  check_number("leaky_relu_with", "at_zero", kink, *sorted((negative_slope, 1)))
  # Python's numbers adopt the dtype of an array operand; NumPy's would promote it.
  slope, kink = float(negative_slope), float(kink)

  def leaky_relu_forward(z: Array) -> tuple[Array, Residuals]:
    y = with_slope_at(jnp.where(z <= 0, slope * z, z), z, 0.0, kink - slope)
    return y, y

  def leaky_relu_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
    z_bar = jnp.where(y <= 0, slope * y_bar, y_bar)
    return (z_bar if kink == slope else jnp.where(y == 0, kink * y_bar, z_bar),)

  rules, cases = (leaky_relu_forward, leaky_relu_backward), "1 above 0, else the slope"
  facts: dict[str, Any] = {"cases": cases, "initializer": "he_normal"}
  return gate(*rules, second=flat, kinks=(0.0,), **facts)


def clip_with(low: float, high: float, *, at_edges: float = 0.0) -> Gate:
  """Build the gate y = z between `low` and `high`, and the nearer bound elsewhere.

  Args:
    low: the lower edge.
    high: the upper edge, above `low`.
    at_edges: the derivative at the edges, from 0 to 1: 0.5 is what `jnp.clip` has, and 1
      `jax.nn.hard_tanh`.

  Returns:
    A `Gate` of one input. Its residuals are its output and, where `at_edges` isn't 0, z.

  Raises:
    TypeError: an argument isn't a number.
    ValueError: the edges aren't in order, or `at_edges` isn't from 0 to 1.
  """
  for name, value in (("low", low), ("high", high)):
    check_number("clip_with", name, value)
  check_number("clip_with", "at_edges", at_edges, 0, 1)
  if low >= high:
    raise RangeError(f"must be below high, got {low} and {high}", "low", "clip_with")
  low, high, at_edges = float(low), float(high), float(at_edges)

  def clip_forward(z: Array) -> tuple[Array, Residuals]:
    y = jnp.where(z <= low, jnp.full_like(z, low), jnp.where(z >= high, jnp.full_like(z, high), z))
    if at_edges == 0:
      return y, y
    for edge in (low, high):
      y = with_slope_at(y, z, edge, at_edges)
    return y, z

  def clip_backward(kept: Residuals, y_bar: Array) -> tuple[Array]:
    z_bar = jnp.where((kept <= low) | (kept >= high), jnp.zeros_like(y_bar), y_bar)
    if at_edges == 0:
      return (z_bar,)
    return (jnp.where((kept == low) | (kept == high), at_edges * y_bar, z_bar),)

  cases = f"1 from {low:g} to {high:g}, else 0"
  return gate(clip_forward, clip_backward, second=flat, kinks=(low, high), cases=cases)


def with_slope_at(y: Array, z: Array, kink: float, more: float) -> Array:
  """Return y, with its autodiff derivative at a kink increased by `more`.

  So `jax.grad` of a forward rule follows the policy of its backward rule, and is a valid witness at
  the kink too.
  """
  if more == 0:
    return y
  at_kink = jnp.where(z == kink, z, jnp.full_like(z, kink))
  return y + more * (at_kink - kink)


def abs_forward(z: Array) -> tuple[Array, Residuals]:
  """y = |z|. Residuals: z, since the output has lost the sign."""
  return jnp.abs(z), z


def abs_backward(z: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: the sign of z, with abs'(0) = 0."""
  return (y_bar * jnp.sign(z),)


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


# He's initialiser is derived for a unit that passes half of its input (He et al., ICCV 2015).
relu = gate(
  relu_forward, relu_backward, second=flat, kinks=(0.0,), cases="1 above 0, else 0",
  initializer="he_normal",
)  # fmt: skip
leaky_relu = leaky_relu_with()
# Krizhevsky, "Convolutional deep belief networks on CIFAR-10" (2010); Collobert, PhD thesis (2004).
relu6 = clip_with(0, 6)._replace(name="relu6", initializer="he_normal")
hard_tanh = clip_with(-1, 1)._replace(name="hard_tanh")
abs = gate(abs_forward, abs_backward, second=flat, kinks=(0.0,), symbol="|x|", cases="the sign")
max = gate(max_forward, route_backward, None, commutative=True, cases="to the largest input")
min = gate(min_forward, route_backward, None, commutative=True, cases="to the smallest input")
identity = gate(identity_forward, identity_backward, second=flat, formula="1")
