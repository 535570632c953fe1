"""`jax.vmap` with the batch axis last, for ensembles of tiny networks.

`jax.vmap` moves the batch axis to the front, whatever `in_axes` says: a layer of two neurons is
then an inner loop of length two. With the batch axis last the inner loop runs over the members, in
whole vector registers, and XLA fuses a step into a few kernels.

Method: the function is traced to a jaxpr for one member, and the jaxpr is interpreted with each
array batched along a new last axis, the batching rules being those below. A matrix product becomes
a sum of elementwise products. Any other primitive is left to `jax.vmap`: as correct, but slower.

Doubts: a product is unrolled up to `MOST_TERMS` terms, a number measured on two CPUs only. XLA
duplicates a sum into each of its consumers, where they are fused; a division by an unknown 1 keeps
it from that (see `hold`), which relies on XLA never duplicating a division.

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
from fbackprop.jaxprs import ELEMENTWISE
from fbackprop.meshes import is_explicit
from fbackprop.types import Array

REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
  "reduce_sum": lax.add,
  "reduce_max": lax.max,
  "reduce_min": lax.min,
  "reduce_and": lax.bitwise_and,
  "reduce_or": lax.bitwise_or,
}
MOST_TERMS = 32
"""The most terms of a sum that is unrolled; beyond it a library's product wins."""

shape_of: Callable[..., Any] = jax.ShapeDtypeStruct  # In jax it has no types.


class Value(NamedTuple):
  """An array, and whether it is batched: has the axis of the members at its end."""

  array: Array
  has_members: bool


def vmap_last(f: Callable[..., Any], size: int, one: Array) -> Callable[..., Any]:
  """Map a function over the last axis of every argument; results have it last too.

  Args:
    f: takes and returns trees of arrays. What it closes over is the same for all.
    size: the length of that axis.
    one: the number 1, as an argument of the compiled program, so that the compiler doesn't know it.
      A division by it changes nothing, and the compiler never computes a division twice: otherwise
      it computes a neuron's sum anew for each of its users.

  Returns:
    The mapped function, which must be called in a trace of `one`.
  """

  def mapped(*args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)

    def flat(*leaves: Array) -> Any:
      return f(*jax.tree.unflatten(structure, leaves))

    member = [shape_of(leaf.shape[:-1], leaf.dtype) for leaf in leaves]
    program, result = jax.make_jaxpr(flat, return_shape=True)(*member)
    interpreter = BatchedInterpreter(size, one)
    values = interpreter.program(program, [Value(leaf, True) for leaf in leaves])
    return jax.tree.unflatten(jax.tree.structure(result), [interpreter.spread(v) for v in values])

  return mapped


def constant(value: Any, aval: Any) -> Value:
  """Convert a constant of a program, which is the same for all members."""
  with jax.enable_x64(True):  # A shuffle sorts numbers of 64 bits.
    return Value(jnp.asarray(value, aval.dtype), False)


class BatchedInterpreter:
  """Evaluate a jaxpr for all members, in a trace."""

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
    shape = equation.outvars[0].aval.shape
    first = inputs[0].array
    if name == "select_n":
      outputs = bind(self.flag(inputs[0], shape), *(self.fit(value, shape) for value in inputs[1:]))
    elif name in ELEMENTWISE:
      outputs = bind(*(self.fit(value, shape) for value in inputs))
    elif name == "broadcast_in_dim":
      places = (*params["broadcast_dimensions"], len(shape))
      outputs = [lax.broadcast_in_dim(first, (*shape, self.size), places)]
    elif name == "reshape":
      outputs = [lax.reshape(first, (*shape, self.size))]
    elif name == "dot_general" and is_short(equation):
      outputs = [
        self.product(inputs[0], inputs[1], params["dimension_numbers"], equation.outvars[0].aval)
      ]
    elif name in REDUCTIONS and 1 <= reduced(equation) <= MOST_TERMS:
      outputs = [self.reduction(name, first, params["axes"])]
    elif name == "cond":
      outputs = self.cond(inputs, jaxprs.branches_of(equation))
    else:
      axes = [-1 if value.has_members else None for value in inputs]
      outputs = jax.vmap(bind, axes, -1)(*(value.array for value in inputs))
    return [Value(array, True) for array in outputs]

  def fit(self, value: Value, shape: tuple[int, ...]) -> Array:
    """Broadcast an operand of an elementwise operation to the shape of its result."""
    array, has_members = value
    if array.ndim == has_members:  # A scalar goes with any shape.
      places = (len(shape),) if has_members else ()
      return lax.broadcast_in_dim(array, (*shape, self.size), places)
    return self.spread(value, shape)

  def spread(self, value: Value, shape: tuple[int, ...] | None = None) -> Array:
    """Broadcast an array to all members, if it isn't batched."""
    array, has_members = value
    shape = (array.shape[:-1] if has_members else array.shape) if shape is None else shape
    if array.shape == (*shape, self.size) and has_members:
      return array
    return lax.broadcast_in_dim(array, (*shape, self.size), range(array.ndim))

  def hold(self, array: Array, terms: int) -> Array:
    """Return the array unchanged, so that the compiler computes it once."""
    if terms <= 2 or not jnp.issubdtype(array.dtype, jnp.floating):
      return array
    return array / jnp.broadcast_to(self.one.astype(array.dtype), array.shape)

  def flag(self, which: Value, shape: tuple[int, ...]) -> Array:
    """Broadcast a predicate; that of a whole member is computed once for all of its arrays."""
    if which.has_members and which.array.ndim == 1 and which.array.dtype == bool:
      # Not by `hold`: to divide a choice of 1 and 0 the compiler divides the two.
      which = Value(lax.sqrt(which.array.astype(jnp.float32)) > 0, True)
    return self.fit(which, shape)

  def product(self, left: Value, right: Value, numbers: Any, result: Any) -> Array:
    """Compute a product of matrices, or of two vectors, as the sum of its terms."""
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

  def reduction(self, name: str, array: Array, axes: Sequence[int]) -> Array:
    """Reduce few terms."""
    rows = list(in_front(array, axes))
    return self.hold(functools.reduce(REDUCTIONS[name], rows), len(rows))

  def cond(self, inputs: list[Value], branches: Any) -> list[Array]:
    """Evaluate the chosen branch, or all of them and select, where the members don't agree."""
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
  """Merge axes to a single one, in front of the others."""
  others = [axis for axis in range(array.ndim) if axis not in axes]
  terms = math.prod(array.shape[axis] for axis in axes)
  moved = lax.transpose(array, (*axes, *others))
  return lax.reshape(moved, (terms, *(array.shape[axis] for axis in others)))


def is_short(equation: Any) -> bool:
  """Whether a product is one of two matrices, or vectors, whose sums have few terms."""
  (axes, _), (batch, _) = equation.params["dimension_numbers"]
  terms = math.prod(equation.invars[0].aval.shape[axis] for axis in axes)
  return not batch and 1 <= terms <= MOST_TERMS


def reduced(equation: Any) -> int:
  """Count the terms of a reduction."""
  return math.prod(equation.invars[0].aval.shape[axis] for axis in equation.params["axes"])


def is_tiny(f: Callable[..., Any], *args: Any) -> bool:
  """Whether a function of one member has no matrix product that a library computes faster.

  On Explicit axes it isn't tiny: no rule here says how a result with the members last is sharded.
  """
  return not is_explicit(jax.sharding.get_abstract_mesh()) and all(
    equation.primitive.name != "dot_general" or is_short(equation)
    for equation in jaxprs.equations_of(jax.make_jaxpr(f)(*args))
  )
