"""One-step edits of a rule's own program: what may have been meant at one of its equations.

An edit is another sign, function, constant, operand, axis or order; a step that is one too many; a
term, factor or mask that is missing. Each is a formula of the values at a point, and so can be
evaluated at any other. To add one, yield it in the function of its kind. `TIERS` is the order in
which they are tried, the likelier and plainer first.

Doubts: a fault of two steps isn't here, nor is a term that the rule computes nowhere.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from fbackprop.verify.explain.spots import ROUNDING, Change, Edit, Spot, fitting
from fbackprop.verify.interpret import indexing, primitives
from fbackprop.verify.interpret.primitives import is_float

# Primitives of the same operands and parameters.
FAMILIES: tuple[tuple[str, ...], ...] = (
  ("add", "sub", "mul", "div", "max", "min", "pow", "atan2"), ("lt", "le"), ("gt", "ge"),
  ("and", "or", "xor"), ("cumsum", "cumprod", "cummax", "cummin"), ("argmax", "argmin"),
  ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), ("reduce_and", "reduce_or"),
  ("scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"),
  ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh",
   "exp", "exp2", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "cbrt", "square", "erf", "erfc",
   "erf_inv", "logistic", "abs", "sign", "neg", "floor", "ceil", "lgamma", "digamma"),
)  # fmt: skip
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
ORDERED = ("sub", "div", "dot_general", "atan2", "pow", *COMPARISONS[:4])
# These give integers for integers.
OF_INTEGERS = ("add", "sub", "mul", "max", "min", "abs", "sign", "neg", "square")
FUNCTIONS: tuple[tuple[str, Change], ...] = (
  ("the absolute value", np.abs), ("the sign", np.sign), ("a square", np.square),
  ("a cube", lambda x: x**3), ("a reciprocal", lambda x: 1 / x), ("1 minus it", lambda x: 1 - x),
  ("1 plus it", lambda x: 1 + x), ("it minus 1", lambda x: x - 1), ("a root", np.sqrt),
  ("exp", np.exp), ("log", np.log), ("tanh", np.tanh), ("sin", np.sin), ("cos", np.cos),
  ("a cut at zero", lambda x: np.maximum(x, 0)), ("the logistic function", primitives.logistic),
)  # fmt: skip
# Relative to the largest entry: half a step of seven bits.
NEAR = 2.0**-7
REDUCTIONS = (("sum", np.sum), ("mean", np.mean), ("largest entry", np.max))
Edits = Iterator[Edit]
Kinds = tuple[Callable[[Spot], Edits], ...]


# --- The step itself ------------------------------------------------------------------------------


def signs(spot: Spot) -> Edits:
  """Yield the other sign of the output, and of each operand."""
  if spot.is_number:
    yield spot.changed(f"path: {spot.name} has the wrong sign", np.negative)
  for j, operand in enumerate(spot.operands):
    if is_float(operand.dtype) and spot.is_edited_here(j):
      yield spot.reading(f"path: operand {j} of {spot.name} has the wrong sign", j, np.negative)


def left_out(spot: Spot) -> Edits:
  """Yield each operand in the place of the output."""
  for j, operand in enumerate(spot.operands if len(spot.step.outputs) == 1 else ()):
    fit = fitting(np.shape(operand), np.shape(spot.value))
    if fit and operand.dtype.kind == spot.value.dtype.kind:
      kind = "precision" if spot.step.name in ROUNDING else "other function"
      text = f"{kind}: {spot.name} is one step too many, after its operand {j}"
      yield spot.instead(text, partial(operand_of, j, fit))


def operand_of(j: int, fit: Change, *operands: Any) -> Any:
  """Return an operand in the shape of the output."""
  return fit(operands[j])


def constants(spot: Spot) -> Edits:
  """Yield other constants: with another sign, larger or smaller by one, doubled, rounded."""
  for j, operand in enumerate(spot.operands):
    if spot.step.inputs[j] not in spot.steps.constants or np.ndim(operand) > 0:
      continue
    if operand.dtype.kind not in "fiu":
      continue
    c = operand.item()
    others = [-c, c + 1, c - 1, 2 * c, 0, 1, -1, 2]
    if operand.dtype.kind == "f":
      others += [1 / c if c else 1.0, c / 2, 0.5, *(float(f"{c:.{n}g}") for n in (1, 2, 3))]
    for other in dict.fromkeys(others):
      if other != c:
        yield spot.with_constant(j, other)


def other_functions(spot: Spot) -> Edits:
  """Yield primitives of the same operands, and the operands exchanged."""
  name, params = spot.step.name, spot.params
  if not spot.is_single:
    return
  family = next((family for family in FAMILIES if name in family), ())
  if spot.value.dtype.kind in "iu" and family in (FAMILIES[0], FAMILIES[-1]):
    family = OF_INTEGERS
  for other in family:
    if other != name:
      yield spot.instead(f"other function: {spot.name} instead of {other}", in_numpy(other, params))
  if name in ORDERED and len({np.shape(x) for x in spot.operands}) == 1:
    text = f"other function: {spot.name} with its operands exchanged"
    yield Edit(text, lambda read, turn: spot.evaluate(spot.inputs(read, turn)[::-1], turn))
  if name == "integer_pow":
    for y in (params["y"] - 1, params["y"] + 1, -params["y"]):
      text = f"other function: {spot.name} instead of the power {y}"
      yield spot.instead(text, in_numpy(name, {"y": y}))


def in_numpy(name: str, params: Any) -> Callable[..., Any]:
  """Return a primitive in NumPy, for arrays without an axis of samples."""
  tables = primitives.EXACT, primitives.ROUNDED, primitives.TRANSCENDENTAL, primitives.SUMS
  function = next((table[name] for table in tables if name in table), None)
  moves = indexing.EXACT.get(name) or indexing.ROUNDED.get(name)

  def apply(*inputs: Any) -> Any:
    own = [np.asarray(x)[None] for x in inputs]
    if function is not None:
      return function(params, *own)[0]
    if moves is not None:
      return moves(params, *own)[0][0]
    raise LookupError(name)

  return apply


# --- Other operands -------------------------------------------------------------------------------


def other_operands(spot: Spot) -> Edits:
  """Yield other values for each operand."""
  for j, operand in enumerate(spot.operands):
    kind = "wrong point" if is_float(operand.dtype) else "other function"
    for other, fit in spot.like(operand) if isinstance(operand, np.ndarray) else ():
      value = spot.steps.values[other.places[0]]
      if value is not operand:
        is_unrounded = is_near(fit(value), operand) and spot.is_rounding_alone(j, other)
        own = "precision" if is_unrounded else kind
        text = f"{own}: operand {j} of {spot.name}, where {other.name} is right"
        yield spot.reading_other(text, j, other, fit)
    for by in (1, -1) if operand.dtype.kind in "iu" else ():
      text = f"other function: operand {j} of {spot.name} is off by {-by}"
      yield spot.reading(text, j, partial(np.add, by, dtype=operand.dtype))


def is_near(x: Any, y: Any) -> bool:
  """Return whether arrays of floats differ as by rounding to few digits."""
  if not is_float(x.dtype):
    return False
  return bool(np.max(np.abs(x - y), initial=0.0) <= NEAR * np.max(np.abs(x), initial=0.0))


def more_terms(spot: Spot) -> Edits:
  """Yield one more term, factor, divisor or mask of the output."""
  for other, fit in spot.like(spot.value) if spot.is_number else ():
    for text, combine in (
      (f"path: {spot.name} lacks the term {other.name}", np.add),
      (f"path: {spot.name} lacks the term minus {other.name}", np.subtract),
      (f"other function: {spot.name} lacks the factor {other.name}", np.multiply),
      (f"other function: {spot.name} lacks the divisor {other.name}", np.divide),
    ):
      yield spot.combined(text, other, fit, combine)
  for other, fit in spot.like(spot.value.astype(bool)) if spot.is_number else ():
    for outcome, word in ((False, ""), (True, "not ")):
      text = f"other function: {spot.name} lacks the mask {word}{other.name}"
      yield spot.combined(text, other, fit, partial(masked, outcome))


def masked(outcome: bool, x: Any, mask: Any) -> Any:
  """Zero the entries where a mask has an outcome."""
  return np.where(mask == outcome, 0.0, x)


def wider_terms(spot: Spot) -> Edits:
  """Yield a term or factor by which the output would have more entries, as before a broadcast."""
  for other in spot.others if spot.is_number else ():
    value = spot.steps.values[other.places[0]]
    if is_float(value.dtype) and value.size > spot.value.size:
      for text, combine in (
        (f"other function: {spot.name} lacks the factor {other.name}", np.multiply),
        (f"path: {spot.name} lacks the term {other.name}", np.add),
      ):
        yield spot.combined(text, other, np.asarray, combine)


# --- Functions, axes and order --------------------------------------------------------------------


def more_functions(spot: Spot) -> Edits:
  """Yield a function of the output or of an operand, and the step taken twice."""
  for what, function in FUNCTIONS if spot.is_number else ():
    yield spot.changed(f"other function: {spot.name} lacks {what}", function)
    for j, operand in enumerate(spot.operands):
      if is_float(operand.dtype) and spot.is_edited_here(j):
        yield spot.reading(f"other function: operand {j} of {spot.name} lacks {what}", j, function)
  if spot.is_number and [np.shape(x) for x in spot.operands] == [spot.value.shape]:

    def twice(read: Any, turn: int) -> Any:
      return spot.evaluate(spot.evaluate(spot.inputs(read, turn), turn), turn)

    yield Edit(f"other function: {spot.name} is meant twice", twice)


def other_order(spot: Spot) -> Edits:
  """Yield the output, and each operand, in another order, or reduced along an axis."""
  if len(spot.step.outputs) == 1:
    for text, change in rearranged(spot.value, spot.name):
      yield spot.changed(text, change)
  for j, operand in enumerate(spot.operands):
    for text, change in rearranged(operand, f"operand {j} of {spot.name}"):
      if spot.is_edited_here(j):
        yield spot.reading(text, j, change)


def rearranged(x: Any, what: str) -> Iterator[tuple[str, Change]]:
  """Yield changes of an array's order, and reductions that are broadcast to its shape."""
  shape = np.shape(x)
  for a, b in itertools.combinations(range(len(shape)), 2):
    if shape[a] == shape[b] > 1:
      yield f"transposed: {what}", partial(np.swapaxes, axis1=a, axis2=b)
  for axis, n in enumerate(shape):
    if n < 2:
      continue
    yield f"permuted: {what}, flipped along axis {axis}", partial(np.flip, axis=axis)
    for by in {1, n - 1}:
      yield f"permuted: {what}, by one along axis {axis}", partial(np.roll, shift=by, axis=axis)
    for name, function in REDUCTIONS if is_float(x.dtype) else ():
      text = f"other function: {what} lacks the {name} along axis {axis}"
      yield text, partial(spread, function, axis)
      yield f"{text}, subtracted", partial(centred, function, axis)
    if is_float(x.dtype):
      yield f"other function: {what} lacks a cumulative sum", partial(np.cumsum, axis=axis)


def spread(function: Callable[..., Any], axis: int, x: np.ndarray) -> Any:
  """Reduce along an axis, and broadcast to the shape before."""
  return np.broadcast_to(function(x, axis=axis, keepdims=True), x.shape)


def centred(function: Callable[..., Any], axis: int, x: np.ndarray) -> Any:
  """Subtract a reduction along an axis."""
  return x - function(x, axis=axis, keepdims=True)


def other_parameters(spot: Spot) -> Edits:
  """Yield the primitive along other axes, from another start, in the other direction."""
  for what, params in parameters_like(spot) if spot.is_single else ():
    text = f"other function: {spot.name} instead of one along {what}"
    yield spot.instead(text, in_numpy(spot.step.name, params))


def parameters_like(spot: Spot) -> Iterator[tuple[str, Any]]:
  """Yield parameters that may give an output of the same shape, in words and as a table."""
  name, params, shape = spot.step.name, spot.params, spot.value.shape
  shapes = [np.shape(x) for x in spot.operands]
  x = shapes[0] if shapes else ()
  if name.startswith(("reduce_", "arg")) and "axes" in params:
    for axes in itertools.combinations(range(len(x)), len(params["axes"])):
      if axes != tuple(params["axes"]) and without(x, axes) == shape:
        yield f"axes {list(axes)}", {**params, "axes": axes}
  elif name.startswith("cum"):
    yield "its axis in the other direction", {**params, "reverse": not params["reverse"]}
    for axis in {*range(len(x))} - {params["axis"]}:
      yield f"axis {axis}", {**params, "axis": axis}
  elif name == "broadcast_in_dim":
    own = tuple(params["broadcast_dimensions"])
    for axes in itertools.permutations(range(len(shape)), len(own)):
      if axes != own and all(n in (1, shape[a]) for n, a in zip(x, axes, strict=True)):
        yield f"dimensions {list(axes)}", {**params, "broadcast_dimensions": axes}
  elif name == "transpose":
    for order in itertools.permutations(range(len(x))):
      if order != tuple(params["permutation"]) and tuple(x[a] for a in order) == shape:
        yield f"the order {list(order)}", {**params, "permutation": order}
  elif name == "iota":
    for axis in {*range(len(shape))} - {params["dimension"]}:
      yield f"axis {axis}", {**params, "dimension": axis}
  elif name == "slice":
    starts, ends = params["start_indices"], params["limit_indices"]
    for axis, n in enumerate(x):
      for by in range(max(-starts[axis], -4), min(n - ends[axis], 4) + 1):
        own = moved(starts, axis, by), moved(ends, axis, by)
        if by:
          named = dict(zip(("start_indices", "limit_indices"), own, strict=True))
          yield f"axis {axis} from {starts[axis] + by}", {**params, **named}
  elif name == "dot_general":
    (a, b), batch = params["dimension_numbers"]
    for own in itertools.permutations(range(len(x)), len(a)):
      for its in itertools.permutations(range(len(shapes[1])), len(b)):
        numbers = ((own, its), batch)
        if (own, its) != (tuple(a), tuple(b)) and contracted(numbers, *shapes) == shape:
          yield f"axes {list(own)} and {list(its)}", {**params, "dimension_numbers": numbers}


def contracted(numbers: Any, x: Sequence[int], y: Sequence[int]) -> tuple[int, ...] | None:
  """Return the shape of a product of arrays; None if their axes don't fit."""
  (a, b), (p, q) = numbers
  if {*a} & {*p} or {*b} & {*q} or [x[i] for i in a] != [y[i] for i in b]:
    return None
  return (*(x[i] for i in p), *without(x, (*a, *p)), *without(y, (*b, *q)))


def without(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
  """Return a shape without some axes."""
  return tuple(n for axis, n in enumerate(shape) if axis not in axes)


def moved(values: Sequence[int], axis: int, by: int) -> tuple[int, ...]:
  """Return numbers of which one is changed."""
  return tuple(v + by * (i == axis) for i, v in enumerate(values))


# --- Conditions -----------------------------------------------------------------------------------


def conditions(spot: Spot) -> Edits:
  """Yield a condition inverted or decided, another comparison, one more condition."""
  if len(spot.step.outputs) != 1 or spot.value.dtype != bool:
    return
  what = f"other function: {spot.name}"
  yield spot.changed(f"{what} is inverted", np.logical_not)
  for name in COMPARISONS if spot.step.name in COMPARISONS else ():
    if name != spot.step.name:
      yield spot.instead(f"{what} instead of {name}", in_numpy(name, spot.params))
  for outcome in (True, False):
    text = f"{what}, which is right if it is always {outcome}"
    yield spot.changed(text, partial(np.full_like, fill_value=outcome))
  for other, fit in spot.like(spot.value):
    yield spot.combined(f"{what} lacks: and {other.name}", other, fit, np.logical_and)
    yield spot.combined(f"{what} lacks: or {other.name}", other, fit, np.logical_or)


TIERS: tuple[Kinds, ...] = (
  (signs, left_out), (constants, other_functions), (other_operands, other_parameters),
  (more_terms,), (more_functions, other_order),
)  # fmt: skip
