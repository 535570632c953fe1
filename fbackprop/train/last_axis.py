"""`jax.vmap` with the batch axis last, for ensembles of tiny networks.

`jax.vmap` moves the batch axis to the front, whatever `in_axes` says: a layer of two neurons is
then an inner loop of length two. With the batch axis last, the inner loop runs over the members, in
whole vector registers, and XLA fuses a step into a few kernels.

Method: the function is traced to a jaxpr for one member. `BatchedInterpreter` then evaluates the
jaxpr with each array batched along a new last axis, by the batching rules below. A matrix product
becomes a sum of elementwise products. Any other primitive falls back on `jax.vmap`, which is as
correct, but slower.

Doubts: products are unrolled up to `MOST_TERMS` terms, a number measured on two CPUs only. XLA
duplicates a sum into each of its consumers when it fuses them; a division by a 1 that it doesn't
know prevents this (see `hold`), which relies on XLA never duplicating a division.

References:
  JAX, `docs/autodidax.py`, part 1 on batching and part 2 on jaxpr interpreters.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fbackprop import jaxprs
from fbackprop.meshes import is_explicit
from fbackprop.types import Array

REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
  "reduce_sum": lax.add, "reduce_max": lax.max, "reduce_min": lax.min,
  "reduce_and": lax.bitwise_and, "reduce_or": lax.bitwise_or,
}  # fmt: skip
MOST_TERMS = 32
"""The largest number of terms of an unrolled sum; beyond it a library's product is faster."""

shape_of: Callable[..., Any] = jax.ShapeDtypeStruct  # Untyped in jax.


class Value(NamedTuple):
  """An array, and whether it is batched, with the members' axis at the end."""

  array: Array
  has_members: bool


def vmap_last(f: Callable[..., Any], size: int, one: Any) -> Callable[..., Any]:
  """Map a function over the last axis of every argument and result.

  Args:
    f: the function, of pytrees of arrays; arrays in its closure are shared by all members.
    size: the size of that axis.
    one: the number 1, as an argument of the compiled program, so that XLA can't fold it. Dividing
      by it changes nothing, and XLA never duplicates a division: otherwise a neuron's sum would be
      recomputed for each of its users.

  Returns:
    The mapped function, which must be called in a trace of `one`.
  """

  def mapped(*args: Any) -> Any:
    member = jax.tree.map(lambda leaf: shape_of(leaf.shape[:-1], leaf.dtype), args)
    program, result = jax.make_jaxpr(f, return_shape=True)(*member)
    interpreter = BatchedInterpreter(size, one)
    values = interpreter.program(program, [Value(leaf, True) for leaf in jax.tree.leaves(args)])
    return jax.tree.unflatten(jax.tree.structure(result), map(interpreter.spread, values))

  return mapped


def constant(value: Any, aval: Any) -> Value:
  """Convert a constant of a jaxpr to a `Value` that is shared by all members."""
  with jax.enable_x64(True):  # The exact shuffle sorts 64-bit numbers.
    return Value(jnp.asarray(value, aval.dtype), False)


class BatchedInterpreter:
  """An interpreter that evaluates a jaxpr for all members, within a trace."""

  def __init__(self, size: int, one: Array) -> None:
    self.size, self.one = size, one

  def program(self, closed: Any, arguments: Sequence[Value]) -> list[Value]:
    """Evaluate a closed jaxpr."""
    return jaxprs.interpret(closed, arguments, constant, self.equation)

  def equation(self, _: int, equation: Any, inputs: list[Value]) -> list[Value]:
    """Evaluate one equation."""
    name, params = equation.primitive.name, equation.params
    if (inner := jaxprs.inner_program(equation)) is not None:
      return self.program(inner, inputs)

    def bind(*arrays: Array) -> list[Array]:
      return jaxprs.bind(equation.primitive, params, arrays)

    if not any(value.has_members for value in inputs):
      return [Value(array, False) for array in bind(*(value.array for value in inputs))]
    result, first = equation.outvars[0].aval, inputs[0].array
    shape = result.shape
    if name == "select_n":
      cases = [self.spread(value, shape) for value in inputs[1:]]
      outputs = bind(self.flag(inputs[0], shape), *cases)
    elif name in jaxprs.ELEMENTWISE:
      outputs = bind(*(self.spread(value, shape) for value in inputs))
    elif name == "broadcast_in_dim":
      places = (*params["broadcast_dimensions"], len(shape))
      outputs = [lax.broadcast_in_dim(first, (*shape, self.size), places)]
    elif name == "reshape":
      outputs = [lax.reshape(first, (*shape, self.size))]
    elif name == "dot_general" and is_short(equation):
      outputs = [self.product(inputs[0], inputs[1], params["dimension_numbers"], result)]
    elif name in REDUCTIONS and is_short(equation):
      rows = list(in_front(first, params["axes"]))
      outputs = [self.hold(functools.reduce(REDUCTIONS[name], rows), len(rows))]
    elif name == "cond":
      outputs = self.cond(inputs, jaxprs.bodies(equation))
    else:
      axes = [-1 if value.has_members else None for value in inputs]
      outputs = jax.vmap(bind, axes, -1)(*(value.array for value in inputs))
    return [Value(array, True) for array in outputs]

  def spread(self, value: Value, shape: tuple[int, ...] | None = None) -> Array:
    """Broadcast an array over the members unless it is batched already, and a scalar to `shape`."""
    array, has_members = value
    if shape is None:
      shape = array.shape[:-1] if has_members else array.shape
    if has_members and array.shape == (*shape, self.size):
      return array
    # Elementwise primitives accept scalars beside any shape.
    is_scalar = array.ndim == has_members
    places = [len(shape)] * has_members if is_scalar else range(array.ndim)
    return lax.broadcast_in_dim(array, (*shape, self.size), places)

  def hold(self, array: Array, terms: int) -> Array:
    """Return the array divided by 1, so that XLA computes it only once."""
    if terms <= 2 or not jnp.issubdtype(array.dtype, jnp.floating):
      return array
    return array / jnp.broadcast_to(self.one.astype(array.dtype), array.shape)

  def flag(self, which: Value, shape: tuple[int, ...]) -> Array:
    """Broadcast a predicate; one per member is computed once for all arrays of the member."""
    if which.has_members and which.array.ndim == 1 and which.array.dtype == bool:
      # Not by `hold`: XLA would move the division into the select that converts the predicate. The
      # square root of 0 or 1 is the number itself, and isn't duplicated either.
      which = Value(lax.sqrt(which.array.astype(jnp.float32)) > 0, True)
    return self.spread(which, shape)

  def product(self, left: Value, right: Value, numbers: Any, result: Any) -> Array:
    """Compute the product of two matrices or vectors as an unrolled sum of elementwise products."""
    (left_axes, right_axes), _ = numbers
    terms = []
    rank = left.array.ndim - left.has_members - len(left_axes)
    for value, axes, start in ((left, left_axes, 0), (right, right_axes, rank)):
      rows = in_front(value.array, axes)
      free = rows.ndim - 1 - value.has_members
      places = [*range(start, start + free), *([result.ndim] if value.has_members else [])]
      shape = (*result.shape, self.size)
      terms.append([lax.broadcast_in_dim(row.astype(result.dtype), shape, places) for row in rows])
    products = [a * b for a, b in zip(*terms, strict=True)]
    return self.hold(functools.reduce(lax.add, products), len(products))

  def cond(self, inputs: list[Value], branches: Any) -> list[Array]:
    """Evaluate the branch taken, or all of them and select where the predicate is batched."""
    which, *operands = inputs

    def run(branch: Any) -> list[Array]:
      return [self.spread(value) for value in self.program(branch, operands)]

    if not which.has_members:
      return list(lax.switch(which.array, [functools.partial(run, branch) for branch in branches]))
    results = zip(*map(run, branches), strict=True)
    if len(branches) == 2:
      which = Value(which.array.astype(bool), True)
    return [lax.select_n(self.flag(which, arrays[0].shape[:-1]), *arrays) for arrays in results]


def in_front(array: Array, axes: Sequence[int]) -> Array:
  """Merge axes into a single leading one."""
  moved = lax.transpose(array, (*axes, *(axis for axis in range(array.ndim) if axis not in axes)))
  merged, others = moved.shape[: len(axes)], moved.shape[len(axes) :]
  return lax.reshape(moved, (math.prod(merged), *others))


def is_short(equation: Any) -> bool:
  """Return whether a reduction, or a product of two matrices or vectors, has few enough terms."""
  axes, batch = equation.params.get("axes"), ()
  if axes is None:
    (axes, _), (batch, _) = equation.params["dimension_numbers"]
  terms: int = math.prod(equation.invars[0].aval.shape[axis] for axis in axes)
  return not batch and 1 <= terms <= MOST_TERMS


def is_tiny(f: Callable[..., Any], *args: Any) -> bool:
  """Return whether one member's function has only products that are short enough to unroll.

  On Explicit mesh axes the answer is no: the rules here define no sharding for results with the
  members last.
  """
  return not is_explicit(jax.sharding.get_abstract_mesh()) and all(
    equation.primitive.name != "dot_general" or is_short(equation)
    for equation in jaxprs.equations_of(jax.make_jaxpr(f)(*args))
  )
