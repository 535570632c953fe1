"""The rows of the gates."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import gates
from fbackprop.types import Array, Gate
from fbackprop.verify.cases.case import Case, Generator, Kinks, Primals, Reference, always, points

# --- Inputs ---------------------------------------------------------------------------------------


def normal(rng: Generator, n: int, dtype: Any, count: int, scale: float = 1) -> Primals:
  return tuple((scale * rng.normal(size=(n, 3))).astype(dtype) for _ in range(count))


def away_from_zero(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  """Draw inputs of magnitude 0.5 to 2 and random sign, for divisors."""
  signs = rng.choice([-1, 1], size=(count, n, 3))
  return tuple((signs * rng.uniform(0.5, 2, size=(count, n, 3))).astype(dtype))


def positive(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  return tuple(rng.uniform(0.5, 2, size=(count, n, 3)).astype(dtype))


def positive_base(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  return (*positive(rng, n, dtype, 1), *normal(rng, n, dtype, 1))


# Beyond both edges of a clip.
wide_range = partial(normal, scale=4)

# --- Kinks ----------------------------------------------------------------------------------------

at_zero = points([[0.0, -0.0, 1.0], [-1.0, 2.0, 0.0]])
two_tied = points([[1.0, -2.0, 0.0], [3.0, 1.0, 0.0]], [[1.0, -2.0, -0.0], [2.0, 4.0, 0.0]])
# Triples without a tie, with each pair tied above or below the third, and all tied.
three_tied = points(
  [[1.0, 2.0, 2.0], [0.0, 5.0, -0.0]],
  [[2.0, 2.0, 0.0], [2.0, 5.0, 0.0]],
  [[3.0, 0.0, 2.0], [2.0, 5.0, 0.0]],
)
# Zeros, where the product of the other factors isn't y / x.
ZEROS = (
  [[0.0, 0.0, 2.0], [0.0, 1.0, 2.0]],
  [[3.0, 0.0, 0.0], [0.0, 3.0, 1.0]],
  [[1.0, 4.0, 0.0], [0.0, 0.0, 5.0]],
)
# An exponential has under- or overflowed, or nearly does; and zero.
far_out = points([[0.0, 30.0, -30.0], [1e3, -1e3, 100.0], [-100.0, 9.0, -9.0]])
at_0_and_6 = points([[0.0, 6.0, 0.0], [-0.0, -1.0, 7.0]])
at_minus_1_and_1 = points([[-1.0, 1.0, 0.0], [-0.0, -2.0, 2.0]])


def delicate_powers(dtype: Any) -> list[Primals]:
  """Return a base of zero, a negative base under integer exponents, and an exponent of zero."""
  a = [[0.0, 0.0, 0.0], [-2.0, -3.0, -1.5], [2.0, 1.0, -2.0]]
  b = [[2.0, 1.0, 3.0], [3.0, -1.0, 0.0], [0.0, -2.0, 2.0]]
  return [*points(a, b)(dtype), (np.zeros((1, 3), dtype),) * 2]


# --- References -----------------------------------------------------------------------------------


def stacked(function: Reference) -> Reference:
  """Reduce the inputs by a function of an array and an axis."""
  return lambda *xs: function(jnp.stack(xs), 0)


def first(is_before: Reference) -> Reference:
  """Return the first of the tied inputs."""
  return lambda *xs: reduce(lambda a, b: jnp.where(is_before(a, b), a, b), xs)


def power_of(a: Array, b: Array) -> Array:
  """Return a^b with no gradient to b where a isn't above 0, and none to a where b is 0."""
  fixed = jax.lax.stop_gradient(jnp.where(b == 0, 1.0, b))
  elsewhere = jnp.where(b == 0, 1.0, a**fixed)
  return jnp.where(a > 0, jnp.where(a > 0, a, 1.0) ** b, elsewhere)


def abs_of(z: Array) -> Array:
  """Return |z| with the derivative 0 at 0, where that of `jnp.abs` is 1."""
  return z * jnp.sign(z)


def leaky(z: Array) -> Array:
  return jnp.where(z <= 0, 0.01 * z, z)


def clipped(z: Array, low: float, high: float) -> Array:
  return jnp.where(z <= low, low * jnp.ones_like(z), jnp.where(z >= high, high, z))


# --- The rows -------------------------------------------------------------------------------------


def gate_row(
  gate: Gate,
  reference: Reference,
  kinks: Kinks | None = None,
  draw: Callable[..., Primals] = normal,
  count: int | None = None,
  variant: str = "",
) -> Case:
  """Return the row of a gate.

  `count` is the number of inputs of a gate of any arity.
  """
  suffix = variant if count is None else f"_{count}{variant}"
  drawn = partial(draw, count=gate.arity if count is None else count)
  return Case(f"gate_{gate.name}{suffix}", partial(always, gate), drawn, reference, kinks)


GATES = (
  *(gate_row(gates.add, stacked(jnp.sum), count=k) for k in (1, 2, 3)),
  gate_row(gates.subtract, jnp.subtract),
  gate_row(gates.negate, jnp.negative),
  *(gate_row(gates.multiply, stacked(jnp.prod), points(*ZEROS[:k]), count=k) for k in (1, 2, 3)),
  gate_row(gates.divide, jnp.divide, draw=away_from_zero),
  gate_row(gates.square, jnp.square, at_zero),
  gate_row(gates.reciprocal, jnp.reciprocal, draw=away_from_zero),
  *(
    gate_row(gate, stacked(function), kinks, count=k)
    for gate, function in ((gates.max, jnp.max), (gates.min, jnp.min))
    for k, kinks in enumerate((None, two_tied, three_tied), 1)
  ),
  gate_row(gates.relu, jax.nn.relu, at_zero),
  gate_row(gates.identity, lambda x: x),
  gate_row(gates.exp, jnp.exp),
  gate_row(gates.log, jnp.log, draw=positive),
  gate_row(gates.sqrt, jnp.sqrt, draw=positive),
  gate_row(gates.sin, jnp.sin, at_zero),
  gate_row(gates.cos, jnp.cos, at_zero),
  gate_row(gates.abs, abs_of, at_zero, away_from_zero),
  gate_row(gates.power, power_of, delicate_powers, positive_base),
  gate_row(gates.sigmoid, jax.nn.sigmoid, at_zero),
  gate_row(gates.tanh, jnp.tanh, at_zero),
  gate_row(gates.gelu, partial(jax.nn.gelu, approximate=False), far_out),
  gate_row(gates.gelu_tanh, partial(jax.nn.gelu, approximate=True), far_out),
  gate_row(gates.leaky_relu, leaky, at_zero),
  gate_row(gates.relu6, partial(clipped, low=0, high=6), at_0_and_6, wide_range),
  gate_row(gates.hard_tanh, partial(clipped, low=-1, high=1), at_minus_1_and_1),
  *(
    gate_row(getattr(gates, name), getattr(jax.nn, name), far_out)
    for name in ("softplus", "elu", "selu", "silu", "mish")
  ),
)

# The same gates with another policy at their kinks, and the references that have that policy.
CHOICES = (
  gate_row(gates.relu_with(at_zero=0.5), lambda z: jnp.maximum(z, 0), at_zero, variant="_half"),
  gate_row(
    gates.leaky_relu_with(0.2, at_zero=1), partial(jax.nn.leaky_relu, negative_slope=0.2),
    at_zero, variant="_one",
  ),
  gate_row(
    gates.clip_with(0, 6, at_edges=0.5), lambda z: jnp.minimum(jnp.maximum(z, 0), 6), at_0_and_6,
    wide_range, variant="_half",
  ),
  gate_row(gates.clip_with(-1, 1, at_edges=1), jax.nn.hard_tanh, at_minus_1_and_1, variant="_one"),
  gate_row(gates.elu_with(0.5), partial(jax.nn.elu, alpha=0.5), far_out, variant="_0.5"),
  gate_row(
    gates.elu_with(2.0, accurate_tail=True), partial(jax.nn.elu, alpha=2.0), far_out,
    variant="_accurate",
  ),
  gate_row(gates.max_with(ties="first"), first(jnp.greater_equal), three_tied, normal, 3, "_first"),
  gate_row(gates.min_with(ties="first"), first(jnp.less_equal), three_tied, normal, 3, "_first"),
)  # fmt: skip
