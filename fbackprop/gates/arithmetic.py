"""Sums, products, quotients and powers."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fbackprop.checks import check_floating, check_shape
from fbackprop.types import Array, Gate, Residuals

__all__ = ["add", "divide", "multiply", "negate", "power", "reciprocal", "square", "subtract"]


def check_inputs(name: str, inputs: tuple[Array, ...]) -> None:
  """Raise unless there is an input, and all inputs share a shape and dtype."""
  if not inputs:
    raise TypeError(f"gate {name} takes at least 1 input, got 0")
  for i, x in enumerate(inputs):
    check_floating(f"gate {name}", f"input {i}", x)
    check_shape(f"gate {name}", f"input {i}", x, inputs[0].shape, inputs[0].dtype)


def check_upstream(name: str, residuals: Residuals, y_bar: Array) -> None:
  """Raise unless y_bar has the residuals' shape and floating dtype."""
  for kept in jax.tree.leaves(residuals):
    dtype = kept.dtype if jnp.issubdtype(kept.dtype, jnp.floating) else None
    check_shape(f"gate {name}", "y_bar", y_bar, tuple(kept.shape), dtype)


def gate(
  forward: Callable[..., tuple[Array, Residuals]],
  backward: Callable[[Residuals, Array], tuple[Array, ...]], arity: int | None = 1, **facts: Any,
) -> Gate:  # fmt: skip
  """Build a gate whose rules check their arguments before they compute.

  Its name is that of its forward rule, such as "add" for `add_forward`, or the fact `name`.
  """
  name = facts.pop("name", forward.__name__.removesuffix("_forward"))
  second = facts.pop("second", None)

  @functools.wraps(forward)
  def forward_checked(*inputs: Array) -> tuple[Array, Residuals]:
    check_inputs(name, inputs)
    return forward(*inputs)

  @functools.wraps(backward)
  def backward_checked(residuals: Residuals, y_bar: Array) -> tuple[Array, ...]:
    check_upstream(name, residuals, y_bar)
    return backward(residuals, y_bar)

  def second_checked(residuals: Residuals, y_bar: Array) -> tuple[Array, ...]:
    check_upstream(name, residuals, y_bar)
    return second(residuals, y_bar)

  # `flat` itself, by which a piecewise linear gate is known.
  facts["second"] = second if second in (None, flat) else second_checked
  return Gate(name, arity, forward_checked, backward_checked, **facts)


def flat(residuals: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative of every piecewise linear gate of one input: 0, at its kinks too."""
  return (jnp.zeros_like(y_bar),)


def add_forward(*xs: Array) -> tuple[Array, Residuals]:
  """y = x_1 + ... + x_n. Residuals: no array; the number of inputs is in the tree structure."""
  return functools.reduce(operator.add, xs), tuple(() for _ in xs)


def add_backward(residuals: Residuals, y_bar: Array) -> tuple[Array, ...]:
  """Local gradients: all 1, so that each input gets the upstream gradient."""
  return tuple(y_bar for _ in residuals)


def subtract_forward(a: Array, b: Array) -> tuple[Array, Residuals]:
  """y = a - b. Residuals: none."""
  return a - b, ()


def subtract_backward(residuals: Residuals, y_bar: Array) -> tuple[Array, Array]:
  """Local gradients: 1 and -1."""
  return y_bar, -y_bar


def negate_forward(x: Array) -> tuple[Array, Residuals]:
  """y = -x. Residuals: none."""
  return -x, ()


def negate_backward(residuals: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: -1."""
  return (-y_bar,)


def multiply_forward(*xs: Array) -> tuple[Array, Residuals]:
  """y = x_1 · ... · x_n. Residuals: the inputs."""
  return functools.reduce(operator.mul, xs), xs


def multiply_backward(xs: Residuals, y_bar: Array) -> tuple[Array, ...]:
  """Local gradients: for x_i, the product of the other inputs.

  It is computed from the products to the left and to the right of each input, since y / x_i is
  wrong where x_i = 0.
  """
  n = len(xs)
  left, right = [y_bar], [xs[-1]]
  for i in range(n - 1):
    left.append(left[i] * xs[i])
    right.append(right[i] * xs[n - 2 - i])
  # left[i] = y_bar x_1 ... x_i and right[j] = x_n x_(n-1) ... x_(n-j): all factors but one.
  return (*(left[i] * right[n - 2 - i] for i in range(n - 1)), left[n - 1])


def divide_forward(a: Array, b: Array) -> tuple[Array, Residuals]:
  """y = a / b. Residuals: y and b."""
  y = a / b
  return y, (y, b)


def divide_backward(residuals: Residuals, y_bar: Array) -> tuple[Array, Array]:
  """Local gradients: 1/b and -a/b² = -y/b."""
  y, b = residuals
  a_bar = y_bar / b
  return a_bar, -a_bar * y


def square_forward(x: Array) -> tuple[Array, Residuals]:
  """y = x². Residuals: x."""
  return x * x, x


def square_backward(x: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: 2x."""
  return (2 * x * y_bar,)


def square_second(x: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: 2."""
  return (2 * y_bar,)


def reciprocal_forward(x: Array) -> tuple[Array, Residuals]:
  """y = 1/x. Residuals: y."""
  y = 1 / x
  return y, y


def reciprocal_backward(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Local gradient: -1/x² = -y²."""
  return (-y_bar * y * y,)


def reciprocal_second(y: Residuals, y_bar: Array) -> tuple[Array]:
  """Second derivative: 2/x³ = 2y³."""
  return (2 * y_bar * y * y * y,)


def power_forward(a: Array, b: Array) -> tuple[Array, Residuals]:
  """y = a^b; for a < 0 a number where b is an integer, and NaN elsewhere. Residuals: a, b and y."""
  y = a**b
  return y, (a, b, y)


def power_backward(residuals: Residuals, y_bar: Array) -> tuple[Array, Array]:
  """Local gradients: b a^(b-1), which for b = 0 is 0 even where a = 0, and y ln a.

  For a = 0 the second one is 0, its limit where b > 0. For a < 0 it doesn't exist: around an
  integer b no power is a real number. Its value is then 0 for all b, so that a constant exponent,
  such as the 2 of a², gets no gradient; autodiff of `a**b` gives NaN. A NaN in a or b propagates.
  """
  a, b, y = residuals
  one = jnp.ones_like(b)
  slope = jnp.where(b == 0, jnp.zeros_like(b), b) * a ** jnp.where(b == 0, one, b - 1)
  # Both factors are masked, since y may be infinite there, or NaN.
  is_zero = (a <= 0) & ~jnp.isnan(b)
  growth = jnp.where(is_zero, jnp.zeros_like(y), y) * jnp.log(jnp.where(is_zero, one, a))
  return y_bar * slope, y_bar * growth


add = gate(add_forward, add_backward, None, commutative=True, symbol="+", formula="1")
subtract = gate(subtract_forward, subtract_backward, 2, symbol="−", formula=("1", "-1"))
negate = gate(negate_forward, negate_backward, second=flat, symbol="−x", formula="-1")
multiply = gate(
  multiply_forward, multiply_backward, None, commutative=True, symbol="×", formula="{others}"
)
divide = gate(divide_forward, divide_backward, 2, symbol="÷", formula=("1 / {b}", "-{y} / {b}"))
square = gate(square_forward, square_backward, second=square_second, symbol="x²", formula="2 · {x}")
reciprocal = gate(
  reciprocal_forward, reciprocal_backward, second=reciprocal_second, symbol="1/x", formula="-{y}²"
)
of_power = ("{b} · {a} ** ({1} - 1)", "{y} · log({a})")
power = gate(power_forward, power_backward, 2, symbol="xʸ", formula=of_power)
