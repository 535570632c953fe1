"""The rows of the gates."""

from functools import partial

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


exact_gelu = partial(jax.nn.gelu, approximate=False)


def gate_row(gate, reference, draw=normal, count=None, kinks=None):
  suffix = "" if count is None else f"_{count}"
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
  gate_row(fb.gates.sigmoid, jax.nn.sigmoid, kinks=at_zero),
  gate_row(fb.gates.tanh, jnp.tanh, kinks=at_zero),
  gate_row(fb.gates.gelu, exact_gelu, kinks=at_zero),
)
