"""The rows of the gates."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from tests.table import Case, always


def normal(rng, n, dtype, count):
  return tuple(rng.normal(size=(n, 3)).astype(dtype) for _ in range(count))


def away_from_zero(rng, n, dtype, count):
  """Sizes from 0.5 to 2, for what is divided by."""
  signs = rng.choice([-1, 1], size=(count, n, 3))
  return tuple((signs * rng.uniform(0.5, 2, size=(count, n, 3))).astype(dtype))


def positive(rng, n, dtype, count):
  return tuple(rng.uniform(0.5, 2, size=(count, n, 3)).astype(dtype))


def at_zero(dtype):
  return [(np.array([[0.0, -0.0, 1.0], [-1.0, 2.0, 0.0]], dtype),)]


def two_tied(dtype):
  a = np.array([[1.0, -2.0, 0.0], [3.0, 1.0, 0.0]], dtype)
  return [(a, np.array([[1.0, -2.0, -0.0], [2.0, 4.0, 0.0]], dtype))]


def three_tied(dtype):
  """No tie, each pair above or below the third, and all three."""
  a = np.array([[1.0, 2.0, 2.0], [0.0, 5.0, -0.0]], dtype)
  b = np.array([[2.0, 2.0, 0.0], [2.0, 5.0, 0.0]], dtype)
  return [(a, b, np.array([[3.0, 0.0, 2.0], [2.0, 5.0, 0.0]], dtype))]


def with_zeros(dtype, count):
  """Where the product of the others can't be had by dividing."""
  a, b = [[0.0, 0.0, 2.0], [0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0], [0.0, 3.0, 1.0]]
  c = [[1.0, 4.0, 0.0], [0.0, 0.0, 5.0]]
  return [tuple(np.array(rows, dtype) for rows in (a, b, c)[:count])]


def sum_of(*xs):
  return jnp.stack(xs).sum(0)


def product_of(*xs):
  return jnp.stack(xs).prod(0)


def max_of(*xs):
  return jnp.stack(xs).max(0)


def min_of(*xs):
  return jnp.stack(xs).min(0)


def same(x):
  return x


def wide_range(rng, n, dtype, count):
  """Beyond both edges of a clip."""
  return tuple((4 * rng.normal(size=(n, 3))).astype(dtype) for _ in range(count))


def far_out(dtype):
  """Where an exponential has under- or overflowed, or is about to, and at zero."""
  return [(np.array([[0.0, 30.0, -30.0], [1e3, -1e3, 100.0], [-100.0, 9.0, -9.0]], dtype),)]


def positive_base(rng, n, dtype, count):
  return (*positive(rng, n, dtype, 1), *normal(rng, n, dtype, 1))


def delicate_powers(dtype):
  """A base of zero, a negative base under integers, an exponent of zero."""
  a = [[0.0, 0.0, 0.0], [-2.0, -3.0, -1.5], [2.0, 1.0, -2.0]]
  b = [[2.0, 1.0, 3.0], [3.0, -1.0, 0.0], [0.0, -2.0, 2.0]]
  return [(np.array(a, dtype), np.array(b, dtype)), (np.zeros((1, 3), dtype),) * 2]


def power_of(a, b):
  """a^b; nothing moves with b where a isn't above zero, and with a where b is zero."""
  fixed = jax.lax.stop_gradient(jnp.where(b == 0, 1.0, b))
  elsewhere = jnp.where(b == 0, 1.0, a**fixed)
  return jnp.where(a > 0, jnp.where(a > 0, a, 1.0) ** b, elsewhere)


def abs_of(z):
  """|z|, with 0 as its derivative at 0, where that of `jnp.abs` is 1."""
  return z * jnp.sign(z)


def at_edges(dtype, low, high):
  return [(np.array([[low, high, 0.0], [-0.0, low - 1, high + 1]], dtype),)]


exact_gelu = partial(jax.nn.gelu, approximate=False)
tanh_gelu = partial(jax.nn.gelu, approximate=True)


def leaky(z, slope=0.01):
  return jnp.where(z <= 0, slope * z, z)


def clipped(z, low, high):
  return jnp.where(z <= low, low * jnp.ones_like(z), jnp.where(z >= high, high, z))


def first_max(*xs):
  return reduce(lambda a, b: jnp.where(a >= b, a, b), xs)


def first_min(*xs):
  return reduce(lambda a, b: jnp.where(a <= b, a, b), xs)


def half_relu(z):
  return jnp.maximum(z, 0)


def half_clipped(z):
  return jnp.minimum(jnp.maximum(z, 0), 6)


at_0_and_6 = partial(at_edges, low=0.0, high=6.0)
at_minus_1_and_1 = partial(at_edges, low=-1.0, high=1.0)


def gate_row(gate, reference, draw=normal, count=None, kinks=None, variant=""):
  suffix = variant if count is None else f"_{count}{variant}"
  draw = partial(draw, count=gate.arity if count is None else count)
  return Case(f"gate_{gate.name}{suffix}", partial(always, gate), draw, reference, kinks)


GATES = (
  *(gate_row(fb.gates.add, sum_of, count=k) for k in (1, 2, 3)),
  gate_row(fb.gates.subtract, jnp.subtract),
  gate_row(fb.gates.negate, jnp.negative),
  *(
    gate_row(fb.gates.multiply, product_of, count=k, kinks=partial(with_zeros, count=k))
    for k in (1, 2, 3)
  ),
  gate_row(fb.gates.divide, jnp.divide, away_from_zero),
  gate_row(fb.gates.square, jnp.square, kinks=at_zero),
  gate_row(fb.gates.reciprocal, jnp.reciprocal, away_from_zero),
  gate_row(fb.gates.max, max_of, count=1),
  gate_row(fb.gates.max, max_of, count=2, kinks=two_tied),
  gate_row(fb.gates.max, max_of, count=3, kinks=three_tied),
  gate_row(fb.gates.min, min_of, count=1),
  gate_row(fb.gates.min, min_of, count=2, kinks=two_tied),
  gate_row(fb.gates.min, min_of, count=3, kinks=three_tied),
  gate_row(fb.gates.relu, jax.nn.relu, kinks=at_zero),
  gate_row(fb.gates.identity, same),
  gate_row(fb.gates.exp, jnp.exp),
  gate_row(fb.gates.log, jnp.log, positive),
  gate_row(fb.gates.sqrt, jnp.sqrt, positive),
  gate_row(fb.gates.sin, jnp.sin, kinks=at_zero),
  gate_row(fb.gates.cos, jnp.cos, kinks=at_zero),
  gate_row(fb.gates.abs, abs_of, away_from_zero, kinks=at_zero),
  gate_row(fb.gates.power, power_of, positive_base, kinks=delicate_powers),
  gate_row(fb.gates.sigmoid, jax.nn.sigmoid, kinks=at_zero),
  gate_row(fb.gates.tanh, jnp.tanh, kinks=at_zero),
  gate_row(fb.gates.gelu, exact_gelu, kinks=far_out),
  gate_row(fb.gates.leaky_relu, leaky, kinks=at_zero),
  gate_row(fb.gates.relu6, partial(clipped, low=0, high=6), wide_range, kinks=at_0_and_6),
  gate_row(fb.gates.hard_tanh, partial(clipped, low=-1, high=1), kinks=at_minus_1_and_1),
  gate_row(fb.gates.softplus, jax.nn.softplus, kinks=far_out),
  gate_row(fb.gates.elu, jax.nn.elu, kinks=far_out),
  gate_row(fb.gates.selu, jax.nn.selu, kinks=far_out),
  gate_row(fb.gates.gelu_tanh, tanh_gelu, kinks=far_out),
  gate_row(fb.gates.silu, jax.nn.silu, kinks=far_out),
  gate_row(fb.gates.mish, jax.nn.mish, kinks=far_out),
)

# The same gates with another choice at their kinks, and what has that choice elsewhere.
CHOICES = (
  gate_row(fb.gates.relu_with(at_zero=0.5), half_relu, kinks=at_zero, variant="_half"),
  gate_row(
    fb.gates.leaky_relu_with(0.2, at_zero=1),
    partial(jax.nn.leaky_relu, negative_slope=0.2),
    kinks=at_zero,
    variant="_one",
  ),
  gate_row(
    fb.gates.clip_with(0, 6, at_edges=0.5), half_clipped, wide_range, kinks=at_0_and_6,
    variant="_half",
  ),
  gate_row(
    fb.gates.clip_with(-1, 1, at_edges=1), jax.nn.hard_tanh, kinks=at_minus_1_and_1, variant="_one"
  ),
  gate_row(fb.gates.elu_with(0.5), partial(jax.nn.elu, alpha=0.5), kinks=far_out, variant="_0.5"),
  gate_row(
    fb.gates.elu_with(2.0, accurate_tail=True), partial(jax.nn.elu, alpha=2.0), kinks=far_out,
    variant="_accurate",
  ),
  gate_row(
    fb.gates.max_with(ties="first"), first_max, count=3, kinks=three_tied, variant="_first"
  ),
  gate_row(
    fb.gates.min_with(ties="first"), first_min, count=3, kinks=three_tied, variant="_first"
  ),
)  # fmt: skip
