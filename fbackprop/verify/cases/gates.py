"""The rows of the gates."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import gates
from fbackprop.types import Array, Gate
from fbackprop.verify.cases.case import Case, Generator, Primals, always

Draw = Callable[..., Primals]


def normal(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  return tuple(rng.normal(size=(n, 3)).astype(dtype) for _ in range(count))


def away_from_zero(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  """Draw inputs of magnitude 0.5 to 2 and random sign, for divisors."""
  signs = rng.choice([-1, 1], size=(count, n, 3))
  return tuple((signs * rng.uniform(0.5, 2, size=(count, n, 3))).astype(dtype))


def positive(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  return tuple(rng.uniform(0.5, 2, size=(count, n, 3)).astype(dtype))


def at_zero(dtype: Any) -> list[Primals]:
  return [(np.array([[0.0, -0.0, 1.0], [-1.0, 2.0, 0.0]], dtype),)]


def two_tied(dtype: Any) -> list[Primals]:
  a = np.array([[1.0, -2.0, 0.0], [3.0, 1.0, 0.0]], dtype)
  return [(a, np.array([[1.0, -2.0, -0.0], [2.0, 4.0, 0.0]], dtype))]


def three_tied(dtype: Any) -> list[Primals]:
  """Return triples without a tie, with each pair tied above or below the third, and all tied."""
  a = np.array([[1.0, 2.0, 2.0], [0.0, 5.0, -0.0]], dtype)
  b = np.array([[2.0, 2.0, 0.0], [2.0, 5.0, 0.0]], dtype)
  return [(a, b, np.array([[3.0, 0.0, 2.0], [2.0, 5.0, 0.0]], dtype))]


def with_zeros(dtype: Any, count: int) -> list[Primals]:
  """Return inputs with zeros, where the product of the other factors isn't y / x."""
  a, b = [[0.0, 0.0, 2.0], [0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0], [0.0, 3.0, 1.0]]
  c = [[1.0, 4.0, 0.0], [0.0, 0.0, 5.0]]
  return [tuple(np.array(rows, dtype) for rows in (a, b, c)[:count])]


def sum_of(*xs: Array) -> Array:
  return jnp.stack(xs).sum(0)


def product_of(*xs: Array) -> Array:
  return jnp.stack(xs).prod(0)


def max_of(*xs: Array) -> Array:
  return jnp.stack(xs).max(0)


def min_of(*xs: Array) -> Array:
  return jnp.stack(xs).min(0)


def same(x: Array) -> Array:
  return x


def wide_range(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  """Draw inputs beyond both edges of a clip."""
  return tuple((4 * rng.normal(size=(n, 3))).astype(dtype) for _ in range(count))


def far_out(dtype: Any) -> list[Primals]:
  """Return inputs where an exponential has under- or overflowed, or nearly does, and zero."""
  return [(np.array([[0.0, 30.0, -30.0], [1e3, -1e3, 100.0], [-100.0, 9.0, -9.0]], dtype),)]


def positive_base(rng: Generator, n: int, dtype: Any, count: int) -> Primals:
  return (*positive(rng, n, dtype, 1), *normal(rng, n, dtype, 1))


def delicate_powers(dtype: Any) -> list[Primals]:
  """Return a base of zero, a negative base under integer exponents, and an exponent of zero."""
  a = [[0.0, 0.0, 0.0], [-2.0, -3.0, -1.5], [2.0, 1.0, -2.0]]
  b = [[2.0, 1.0, 3.0], [3.0, -1.0, 0.0], [0.0, -2.0, 2.0]]
  return [(np.array(a, dtype), np.array(b, dtype)), (np.zeros((1, 3), dtype),) * 2]


def power_of(a: Array, b: Array) -> Array:
  """Return a^b with no gradient to b where a isn't above 0, and none to a where b is 0."""
  fixed = jax.lax.stop_gradient(jnp.where(b == 0, 1.0, b))
  elsewhere = jnp.where(b == 0, 1.0, a**fixed)
  return jnp.where(a > 0, jnp.where(a > 0, a, 1.0) ** b, elsewhere)


def abs_of(z: Array) -> Array:
  """Return |z| with the derivative 0 at 0, where that of `jnp.abs` is 1."""
  return z * jnp.sign(z)


def at_edges(dtype: Any, low: float, high: float) -> list[Primals]:
  return [(np.array([[low, high, 0.0], [-0.0, low - 1, high + 1]], dtype),)]


exact_gelu = partial(jax.nn.gelu, approximate=False)
tanh_gelu = partial(jax.nn.gelu, approximate=True)


def leaky(z: Array, slope: float = 0.01) -> Array:
  return jnp.where(z <= 0, slope * z, z)


def clipped(z: Array, low: float, high: float) -> Array:
  return jnp.where(z <= low, low * jnp.ones_like(z), jnp.where(z >= high, high, z))


def first_max(*xs: Array) -> Array:
  return reduce(lambda a, b: jnp.where(a >= b, a, b), xs)


def first_min(*xs: Array) -> Array:
  return reduce(lambda a, b: jnp.where(a <= b, a, b), xs)


def half_relu(z: Array) -> Array:
  return jnp.maximum(z, 0)


def half_clipped(z: Array) -> Array:
  return jnp.minimum(jnp.maximum(z, 0), 6)


at_0_and_6 = partial(at_edges, low=0.0, high=6.0)
at_minus_1_and_1 = partial(at_edges, low=-1.0, high=1.0)


def gate_row(
  gate: Gate,
  reference: Callable[..., Array],
  draw: Draw = normal,
  count: int | None = None,
  kinks: Callable[[Any], list[Primals]] | None = None,
  variant: str = "",
) -> Case:
  """Return the row of a gate.

  `count` is the number of inputs of a gate of any arity.
  """
  suffix = variant if count is None else f"_{count}{variant}"
  drawn = partial(draw, count=gate.arity if count is None else count)
  return Case(f"gate_{gate.name}{suffix}", partial(always, gate), drawn, reference, kinks)


GATES = (
  *(gate_row(gates.add, sum_of, count=k) for k in (1, 2, 3)),
  gate_row(gates.subtract, jnp.subtract),
  gate_row(gates.negate, jnp.negative),
  *(
    gate_row(gates.multiply, product_of, count=k, kinks=partial(with_zeros, count=k))
    for k in (1, 2, 3)
  ),
  gate_row(gates.divide, jnp.divide, away_from_zero),
  gate_row(gates.square, jnp.square, kinks=at_zero),
  gate_row(gates.reciprocal, jnp.reciprocal, away_from_zero),
  gate_row(gates.max, max_of, count=1),
  gate_row(gates.max, max_of, count=2, kinks=two_tied),
  gate_row(gates.max, max_of, count=3, kinks=three_tied),
  gate_row(gates.min, min_of, count=1),
  gate_row(gates.min, min_of, count=2, kinks=two_tied),
  gate_row(gates.min, min_of, count=3, kinks=three_tied),
  gate_row(gates.relu, jax.nn.relu, kinks=at_zero),
  gate_row(gates.identity, same),
  gate_row(gates.exp, jnp.exp),
  gate_row(gates.log, jnp.log, positive),
  gate_row(gates.sqrt, jnp.sqrt, positive),
  gate_row(gates.sin, jnp.sin, kinks=at_zero),
  gate_row(gates.cos, jnp.cos, kinks=at_zero),
  gate_row(gates.abs, abs_of, away_from_zero, kinks=at_zero),
  gate_row(gates.power, power_of, positive_base, kinks=delicate_powers),
  gate_row(gates.sigmoid, jax.nn.sigmoid, kinks=at_zero),
  gate_row(gates.tanh, jnp.tanh, kinks=at_zero),
  gate_row(gates.gelu, exact_gelu, kinks=far_out),
  gate_row(gates.leaky_relu, leaky, kinks=at_zero),
  gate_row(gates.relu6, partial(clipped, low=0, high=6), wide_range, kinks=at_0_and_6),
  gate_row(gates.hard_tanh, partial(clipped, low=-1, high=1), kinks=at_minus_1_and_1),
  gate_row(gates.softplus, jax.nn.softplus, kinks=far_out),
  gate_row(gates.elu, jax.nn.elu, kinks=far_out),
  gate_row(gates.selu, jax.nn.selu, kinks=far_out),
  gate_row(gates.gelu_tanh, tanh_gelu, kinks=far_out),
  gate_row(gates.silu, jax.nn.silu, kinks=far_out),
  gate_row(gates.mish, jax.nn.mish, kinks=far_out),
)

# The same gates with another policy at their kinks, and the references that have that policy.
CHOICES = (
  gate_row(gates.relu_with(at_zero=0.5), half_relu, kinks=at_zero, variant="_half"),
  gate_row(
    gates.leaky_relu_with(0.2, at_zero=1),
    partial(jax.nn.leaky_relu, negative_slope=0.2),
    kinks=at_zero,
    variant="_one",
  ),
  gate_row(
    gates.clip_with(0, 6, at_edges=0.5), half_clipped, wide_range, kinks=at_0_and_6,
    variant="_half",
  ),
  gate_row(
    gates.clip_with(-1, 1, at_edges=1), jax.nn.hard_tanh, kinks=at_minus_1_and_1, variant="_one"
  ),
  gate_row(gates.elu_with(0.5), partial(jax.nn.elu, alpha=0.5), kinks=far_out, variant="_0.5"),
  gate_row(
    gates.elu_with(2.0, accurate_tail=True), partial(jax.nn.elu, alpha=2.0), kinks=far_out,
    variant="_accurate",
  ),
  gate_row(
    gates.max_with(ties="first"), first_max, count=3, kinks=three_tied, variant="_first"
  ),
  gate_row(
    gates.min_with(ties="first"), first_min, count=3, kinks=three_tied, variant="_first"
  ),
)  # fmt: skip
