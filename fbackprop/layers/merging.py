"""Merging layers: a node of a graph with several inputs, or with several outputs.

Their x, or their y, is a tuple of arrays, in the order of the node's inputs: see `fbackprop.graph`.
"""

import jax.numpy as jnp
import numpy as np

from fbackprop import checks, gates
from fbackprop.errors import ShapeError
from fbackprop.layers.activations import check_no_params, no_params
from fbackprop.types import Array, Gate, Layer, Params, Residuals, Second

Arrays = tuple[Array, ...]


def merging(gate: Gate) -> Layer:
  """Lift a gate of any number of inputs to a layer without parameters.

  Args:
    gate: a `Gate` of arity None.

  Returns:
    The `Layer` that applies the gate to each entry; x is a tuple of arrays of one shape and dtype.

  Raises:
    TypeError: `gate` isn't a Gate, or has another arity.
  """
  checks.check_unit("merging", "gate", gate, Gate)
  is_any = gate.arity is None
  checks.check_that("merging", "gate", gate, is_any, "be a Gate of arity None, of any inputs")

  def merge_forward(params: Params, x: Arrays, key: Array | None = None) -> tuple[Array, Residuals]:
    check_no_params(gate.name, params)
    check_several(gate.name, x)
    return gate.forward(*x)

  def merge_backward(params: Params, residuals: Residuals, y_bar: Array) -> tuple[Params, Arrays]:
    check_no_params(gate.name, params)
    return (), gate.backward(residuals, y_bar)

  def squares(params: Params, residuals: Residuals, h: Array) -> Arrays:
    return gate.backward(residuals, h)  # The derivatives of a sum are 1, and so are their squares.

  second = Second(squares=squares) if gate is gates.add else None
  rules = (no_params, merge_forward, merge_backward)
  return Layer(gate.name, *rules, options=(("gate", gate),), second=second)


def check_several(where: str, x: Arrays) -> None:
  """Raise unless x is a tuple of arrays."""
  wanted = "be a tuple of arrays, one for each of several inputs, as of a node of fb.graph"
  checks.check_that(where, "x", x, type(x) is tuple and x, wanted)


def concatenate_forward(
  params: Params, x: Arrays, key: Array | None = None
) -> tuple[Array, Residuals]:
  """y = [x_1, ..., x_k], side by side: a sum of copies, each padded with zeros.

  Args:
    params: `()`.
    x: a tuple of arrays `[N, D_i]` of one dtype.
    key: not used.

  Returns:
    `(y, residuals)`: y `[N, Σ D_i]`; kept are the widths, as those of empty arrays `[0, D_i]`.
  """
  check_no_params("concatenate", params)
  check_several("concatenate", x)
  for i, part in enumerate(x):
    checks.check_floating("concatenate", f"x[{i}]", part)
    shape = ("N", "D") if i == 0 else (x[0].shape[0], "D")
    checks.check_shape("concatenate", f"x[{i}]", part, shape, x[0].dtype)
  return jnp.concatenate(x, 1), tuple(jnp.zeros((0, part.shape[1]), part.dtype) for part in x)


def concatenate_backward(params: Params, like: Residuals, y_bar: Array) -> tuple[Params, Arrays]:
  """x_i_bar = the columns of y_bar that x_i became."""
  check_no_params("concatenate", params)
  widths = [part.shape[-1] for part in like]
  checks.check_shape("concatenate", "y_bar", y_bar, ("N", sum(widths)), like[0].dtype)
  return (), columns(y_bar, widths)


def concatenate_squares(params: Params, like: Residuals, h: Array) -> Arrays:
  """Σ_k h_k (∂y_k/∂x_i)², as the backward rule: the derivatives are 0 and 1."""
  return concatenate_backward(params, like, h)[1]


def columns(y: Array, widths: list[int]) -> Arrays:
  """Cut `[N, Σ D_i]` into its parts `[N, D_i]`."""
  ends = np.cumsum(widths).tolist()
  return tuple(y[:, end - width : end] for end, width in zip(ends, widths, strict=True))


def split(*widths: int) -> Layer:
  """Build the layer that cuts its features into parts: y = (x_1, ..., x_k).

  In `fbackprop.graph` the parts of a node "s" are "s[0]", "s[1]", ....

  Args:
    *widths: the width D_i of each part, at least 1.

  Returns:
    A `Layer` without parameters; x is `[N, Σ D_i]`, y a tuple of arrays `[N, D_i]`.

  Raises:
    TypeError: a width isn't an integer.
    ValueError: there is no width, or one is below 1. When traced: x has another width.

  Example:
    >>> y, _ = split(2, 1).forward((), jnp.array([[1.0, 2.0, 3.0]]))
    >>> print(*y)
    [[1. 2.]] [[3.]]
  """
  if not widths:
    raise ShapeError("must be the widths of the parts, got none", "widths", "split")
  for i, width in enumerate(widths):
    checks.check_size("split", f"widths[{i}]", width)

  def split_forward(params: Params, x: Array, key: Array | None = None) -> tuple[Arrays, Residuals]:
    check_no_params("split", params)
    checks.check_floating("split", "x", x)
    checks.check_shape("split", "x", x, ("N", sum(widths)))
    return columns(x, list(widths)), ()

  def split_backward(params: Params, residuals: Residuals, y_bar: Arrays) -> tuple[Params, Array]:
    check_no_params("split", params)
    wanted = f"be a tuple of {len(widths)} arrays, one for each part"
    fits = type(y_bar) is tuple and len(y_bar) == len(widths)
    checks.check_that("split", "y_bar", y_bar, fits, wanted)
    for i, (part, width) in enumerate(zip(y_bar, widths, strict=True)):
      shape = (y_bar[0].shape[0], width)
      checks.check_shape("split", f"y_bar[{i}]", part, shape, y_bar[0].dtype)
    return (), jnp.concatenate(y_bar, 1)

  def squares(params: Params, residuals: Residuals, h: Arrays) -> Array:
    return split_backward(params, residuals, h)[1]

  rules, options = (no_params, split_forward, split_backward), (("widths", widths),)
  return Layer("split", *rules, options=options, second=Second(squares=squares))


add = merging(gates.add)
multiply = merging(gates.multiply)
concatenate = Layer(
  "concatenate", no_params, concatenate_forward, concatenate_backward,
  second=Second(squares=concatenate_squares),
)  # fmt: skip
