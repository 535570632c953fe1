"""Rounding errors of gradients in float64: how far two of them may differ by rounding alone.

Method: a program is run again with every rounding changed by half a unit, up or down by one of the
result's own last bits, which is as good as random. What the results move by is the size of the
rounding error, cancellation included.

References:
  Vignes, Discrete stochastic arithmetic for validating results of numerical software, Numerical
    Algorithms 37, 2004.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import jaxprs
from fbackprop.types import Array

# Four float64 roundings (2⁻⁵³): a number perturbed by this relative amount always changes.
UNIT = 2.0**-51
# Number of standard deviations of the rounding error from which a difference counts.
SPREADS = 12.0
# Primitives whose results are rounded. Others move values or choose among them: if changed, the
# largest of a row would no longer equal itself.
ROUNDED = frozenset((
  "add", "add_any", "conv_general_dilated", "cos", "cosh", "cumsum", "div", "dot_general", "erf",
  "erfc", "exp", "exp2", "expm1", "integer_pow", "log", "log1p", "logistic", "mul", "pow",
  "reduce_sum", "rsqrt", "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh",
))  # fmt: skip
# Runs with changed roundings.
RUNS = 3
# The largest spread that is taken for rounding, relative to the terms: a larger one may come from a
# comparison that turned out differently.
LARGEST_SPREAD = 1e-7
# Smallest meaningful difference: near here float64 itself flushes to zero.
FLOOR = 1e-290


def evaluate_changed(program: jaxprs.Program, bit: Any, arguments: Sequence[Any]) -> list[Any]:
  """Evaluate a program in float64 with its roundings changed, those inside of loops excepted.

  Args:
    program: a jaxpr, whose calls are evaluated without their rules.
    bit: which of a result's last bits, as good as random, decides whether it is changed up or down.
    arguments: the program's inputs.
  """

  def apply(_: int, equation: Any, inputs: list[Any]) -> list[Any]:
    inner = jaxprs.inner_program(equation)
    if inner is not None:
      return evaluate_changed(inner, bit, inputs)
    found = jaxprs.bind(equation.primitive, equation.params, inputs)
    return list(map(change, found)) if equation.primitive.name in ROUNDED else found

  def change(y: Any) -> Any:
    if y.dtype != jnp.float64:
      return y
    drawn = jax.lax.bitcast_convert_type(y, jnp.uint64) >> jnp.asarray(bit, jnp.uint64) & 1
    return y * (1 + UNIT * (drawn.astype(y.dtype) - 0.5))

  return jaxprs.interpret(program, arguments, lambda value, _: value, apply)


def spreads_of(
  changed: Callable[..., list[list[Array]]],
  leaves: Sequence[Any],
  got: list[np.ndarray],
  want: list[np.ndarray],
) -> list[np.ndarray]:
  """Compute how far two gradients move, entry by entry, as their roundings are changed.

  Args:
    changed: both gradients of a bit and the leaves, by `evaluate_changed`.
    leaves: the leaves of the arguments.
    got, want: the gradients with unchanged roundings, float64.
  """
  spreads = [np.zeros_like(g) for g in got]
  with jax.enable_x64(True):
    for bit in range(RUNS):
      for plain, found in zip((got, want), changed(bit, *leaves), strict=True):
        moved = (np.abs(np.asarray(f) - p) for f, p in zip(found, plain, strict=True))
        spreads = list(map(np.maximum, spreads, moved))
  return spreads


def differ(got: np.ndarray, want: np.ndarray, spread: np.ndarray) -> bool:
  """Return whether two gradients differ by more than their rounding errors, or aren't finite.

  Args:
    got, want: the gradients, float64.
    spread: standard deviation of the rounding error of each.
  """
  size = np.maximum(np.abs(got), np.abs(want))
  # Both gradients round the terms of their sums, and then the result, to a few units; subnormal
  # numbers are flushed.
  bound = 2 * SPREADS * pooled(spread) + 8 * 2.0**-52 * size + FLOOR
  return not bool((np.abs(got - want) <= bound).all())


def pooled(sizes: np.ndarray) -> np.ndarray:
  """Raise each entry to at least the magnitude predicted by its row, column and other slices.

  The prediction is the product of their mean squares over the overall mean, as of a rank-one array.
  A single entry of `terms` may be small by chance, as its random factors cancel; a whole row isn't.
  """
  largest = float(sizes.max(initial=0.0))
  if not 0 < largest < math.inf:
    return sizes
  squares = (sizes / largest) ** 2
  product = mean = squares.mean()
  for axis in range(squares.ndim):
    others = tuple(a for a in range(squares.ndim) if a != axis)
    product = product * (squares.mean(others, keepdims=True) / mean)
  return np.asarray(np.maximum(sizes, largest * np.sqrt(product)))
