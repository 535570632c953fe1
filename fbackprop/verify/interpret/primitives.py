"""The primitives of a traced program in NumPy's float64, on a batch of samples at once.

Each array has a leading axis of samples, of length S, or of length 1 where all samples are equal.
NumPy compiles nothing, so that a program can be evaluated at a hundred points in the time that XLA
takes to compile it. A primitive that isn't in the tables at the end is evaluated by JAX, sample by
sample (`mapped`). The tables state the rounding error that each primitive adds.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from fbackprop.jaxprs import (
  bind,
  callback_of,
  flattened,
  holds_program,
  is_program,
  read_alone,
)

Samples = Any  # NumPy arrays, or typed keys of JAX.
Primitive = Callable[..., Samples]


# --- Samples --------------------------------------------------------------------------------------


def lifted(value: Any) -> Samples:
  """Return a value with an axis of one sample, floats in float64, complex numbers in complex128."""
  if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
    return value[None]
  x = np.asarray(value)
  return x.astype(wide_dtype(x.dtype))[None]


def constant_key(value: Any) -> Any:
  """Return a key that constants of the same numbers share."""
  x = np.asarray(value)
  return x.shape, x.astype(wide_dtype(x.dtype)).tobytes()


def is_real(x: Any) -> bool:
  """Return whether it is an array of real floats."""
  return is_float(x.dtype)


def is_complex(x: Any) -> bool:
  """Return whether it is an array of complex numbers."""
  return bool(jnp.issubdtype(x.dtype, np.complexfloating))


def is_rounded(x: Any) -> bool:
  """Return whether it is an array of numbers that are rounded, real or complex."""
  return bool(jnp.issubdtype(x.dtype, np.inexact))


def shifted(x: np.ndarray, first: np.ndarray) -> np.ndarray:
  """Shift all samples as the first one was shifted: a cast must not widen their spread."""
  return x + (first - x[:1]) if x.shape[0] > 1 else first


def held(mask: np.ndarray, new: Samples, old: Samples) -> Samples:
  """Return new values where a sample or lane continues, the old ones elsewhere."""
  where = np.where if isinstance(new, np.ndarray) else jnp.where  # Typed keys need JAX.
  return where(mask.reshape((*mask.shape, *(1,) * (new.ndim - mask.ndim))), new, old)


def stacked(rows: list[Any], aval: Any) -> Samples:
  """Stack the rows of a scan's output behind the axis of samples."""
  if not rows:
    return np.zeros((1, 0, *aval.shape), np.float64 if is_float(aval.dtype) else aval.dtype)
  if not isinstance(rows[0], np.ndarray):
    return jnp.stack(rows, axis=1)
  return np.stack(np.broadcast_arrays(*rows), axis=1)


# --- Primitives in NumPy --------------------------------------------------------------------------


def aligned(values: list[np.ndarray]) -> list[np.ndarray]:
  """Give the scalars among arrays the number of axes of the arrays."""
  ndim = max(v.ndim for v in values)
  return [
    v if v.ndim == ndim else v.reshape(v.shape[0], *(1,) * (ndim - v.ndim), *v.shape[1:])
    for v in values
  ]


def elementwise(function: Callable[..., Any]) -> Primitive:
  """Return the primitive that applies a NumPy function elementwise."""

  def apply(params: Any, *values: np.ndarray) -> np.ndarray:
    return np.asarray(function(*aligned(list(values))))

  return apply


def integer_pow(params: Any, x: np.ndarray) -> np.ndarray:
  return x ** params["y"] if params["y"] >= 0 else 1 / x ** -params["y"]


def power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return np.power(x, y.astype(x.dtype) if x.dtype.kind == "f" else y)


def round_to_integer(params: Any, x: np.ndarray) -> np.ndarray:
  if int(params["rounding_method"]) == 1:  # Ties to even.
    return np.rint(x)
  return np.trunc(x + np.copysign(np.nextafter(0.5, 0.0), x))


def polynomial(x: np.ndarray, *coefficients: np.ndarray) -> np.ndarray:
  """Evaluate by Horner's rule; the constant coefficient comes first."""
  *rest, total = coefficients
  for coefficient in reversed(rest):
    total = coefficient + x * total
  return total


def divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  if x.dtype.kind in "fc":
    return x / y
  safe = np.where(y == 0, np.ones_like(y), y)
  magnitude = np.abs(x) // np.abs(safe)  # XLA rounds towards zero, NumPy's // down.
  return np.where(y == 0, -np.ones_like(x), magnitude * np.sign(x) * np.sign(safe)).astype(x.dtype)


def shifted_right(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Shift bits to the right, with zeros from the left; none remains if all are shifted."""
  unsigned = np.dtype(f"u{x.dtype.itemsize}")
  own, by, bits = x.view(unsigned), y.view(unsigned), 8 * x.dtype.itemsize
  found = np.where(by < bits, own >> np.minimum(by, bits - 1).astype(unsigned), 0)
  return found.astype(unsigned).view(x.dtype)


def bits_as(equation: Any, x: Samples) -> Samples:
  """Read the bits of numbers in their traced dtype as those of another one."""
  (operand,), new = equation.invars, np.dtype(equation.params["new_dtype"])
  own = np.ascontiguousarray(np.asarray(x).astype(operand.aval.dtype))
  if own.dtype.itemsize == new.itemsize:
    return lifted(own.view(new))[0]
  return mapped(as_traced, equation, [x])[0]


def remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  if x.dtype.kind == "f":
    return np.fmod(x, y)
  return np.where(y == 0, x, np.fmod(x, np.where(y == 0, np.ones_like(y), y)))


def arctangent(y: np.ndarray, x: np.ndarray) -> np.ndarray:
  if x.dtype.kind == "f":
    return np.arctan2(y, x)
  return np.asarray(-1j * np.log((x + 1j * y) / np.sqrt(x**2 + y**2)))


def logistic(x: np.ndarray) -> np.ndarray:
  if x.dtype.kind == "c":
    return np.asarray(1 / (1 + np.exp(-x)))
  small = np.exp(-np.abs(x))  # Neither overflows nor cancels.
  return np.asarray(np.where(x >= 0, 1.0, small) / (1 + small))


def special(name: str) -> Callable[..., np.ndarray]:
  """Return a function of SciPy, whose import takes as long as the checks of a small rule."""
  return lambda *own: getattr(import_module("scipy.special"), name)(*own)


def select_n(params: Any, which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
  which, out, *rest = aligned([which, *cases])
  for i, case in enumerate(rest, 1):
    out = np.where(which >= i, case, out)
  return out


def broadcast_in_dim(params: Any, x: np.ndarray, *_: Any) -> np.ndarray:
  shape, dims = params["shape"], params["broadcast_dimensions"]
  x = np.expand_dims(x, [1 + axis for axis in range(len(shape)) if axis not in dims])
  return np.broadcast_to(x, (x.shape[0], *shape))


def reshape(params: Any, x: np.ndarray, *_: Any) -> np.ndarray:
  if params["dimensions"] is not None:
    x = x.transpose(0, *(1 + axis for axis in params["dimensions"]))
  return x.reshape(x.shape[0], *params["new_sizes"])


def reduction(function: Callable[..., Any]) -> Primitive:
  """Return the primitive that reduces over `axes`."""

  def apply(params: Any, x: np.ndarray) -> np.ndarray:
    axes = tuple(1 + axis for axis in params["axes"])
    return np.asarray(function(x, axis=axes)) if axes else x

  return apply


def extreme(function: Callable[..., Any], infinity: float, name: str) -> Primitive:
  """Return the primitive of a maximum or minimum; complex numbers compare by their parts."""

  def apply(x: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    kinds = {"f": infinity, "c": complex(infinity, infinity), "b": infinity > 0}
    of_integers = getattr(np.iinfo(x.dtype), name) if x.dtype.kind in "iu" else None
    return np.asarray(function(x, axis=axis, initial=kinds.get(x.dtype.kind, of_integers)))

  return reduction(apply)


def concatenate(params: Any, *values: np.ndarray) -> np.ndarray:
  samples = max(v.shape[0] for v in values)
  full = [np.broadcast_to(v, (samples, *v.shape[1:])) for v in values]
  return np.concatenate(full, axis=1 + params["dimension"])


def slice_of(params: Any, x: np.ndarray) -> np.ndarray:
  strides = params["strides"] or (1,) * (x.ndim - 1)
  windows = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
  return x[(slice(None), *(slice(*window) for window in windows))]


def iota(params: Any, *_: Any) -> np.ndarray:
  shape, dimension = params["shape"], params["dimension"]
  dtype = np.dtype(params["dtype"])
  steps = np.arange(shape[dimension], dtype=np.float64 if is_float(dtype) else dtype)
  others = [axis for axis in range(len(shape)) if axis != dimension]
  return np.broadcast_to(np.expand_dims(steps, others), shape)[None]


def argument(function: Callable[..., Any]) -> Primitive:
  """Return the primitive of an argmax or argmin."""

  def apply(params: Any, x: np.ndarray) -> np.ndarray:
    found = np.asarray(function(x, axis=1 + params["axes"][0]))
    return found.astype(np.dtype(params["index_dtype"]))

  return apply


def cumulative(function: Callable[..., Any]) -> Primitive:
  """Return the primitive of a cumulative function, in either direction."""

  def apply(params: Any, x: np.ndarray) -> np.ndarray:
    axis = 1 + params["axis"]
    turned = partial(np.flip, axis=axis) if params["reverse"] else np.asarray
    return turned(function(turned(x), axis=axis))

  return apply


def dot_general(params: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Contract axes by one matrix product for each batch entry and sample."""
  (x_sum, y_sum), (x_batch, y_batch) = params["dimension_numbers"]
  x_free = [a for a in range(x.ndim - 1) if a not in x_sum and a not in x_batch]
  y_free = [a for a in range(y.ndim - 1) if a not in y_sum and a not in y_batch]
  batch = tuple(x.shape[1 + a] for a in x_batch)
  x_shape, y_shape = [x.shape[1 + a] for a in x_free], [y.shape[1 + a] for a in y_free]
  terms = int(np.prod([x.shape[1 + a] for a in x_sum], dtype=int))
  left = x.transpose(0, *(1 + a for a in (*x_batch, *x_free, *x_sum)))
  right = y.transpose(0, *(1 + a for a in (*y_batch, *y_sum, *y_free)))
  left = left.reshape(x.shape[0], *batch, int(np.prod(x_shape, dtype=int)), terms)
  right = right.reshape(y.shape[0], *batch, terms, int(np.prod(y_shape, dtype=int)))
  product = np.matmul(left, right)
  return product.reshape(product.shape[0], *batch, *x_shape, *y_shape)


def convert(params: Any, x: np.ndarray) -> np.ndarray:
  """Convert to another kind of dtype; floats are float64, and the caller rounds them."""
  dtype = np.dtype(wide_dtype(params["new_dtype"]))
  if dtype.kind == "f":
    return (x.real if x.dtype.kind == "c" else x).astype(np.float64)
  if x.dtype.kind == "f" and dtype.kind in "iu":
    limits = np.iinfo(dtype)
    return np.nan_to_num(np.clip(x, limits.min, limits.max)).astype(dtype)  # As XLA saturates.
  return x.astype(dtype)


def is_float(dtype: Any) -> bool:
  """Return whether it is a real floating dtype, those of `ml_dtypes` included."""
  return bool(jnp.issubdtype(dtype, np.floating))


def part_dtype(dtype: Any) -> Any:
  """Return the dtype of the parts of a complex dtype, and any other dtype unchanged."""
  return {"complex64": np.dtype(np.float32), "complex128": np.dtype(np.float64)}.get(
    getattr(dtype, "name", ""), dtype
  )


def wide_dtype(dtype: Any) -> Any:
  """Return float64 or complex128 for a dtype that rounds, and any other dtype unchanged."""
  if is_float(dtype):
    return np.dtype(np.float64)
  return np.dtype(np.complex128) if jnp.issubdtype(dtype, np.complexfloating) else dtype


def rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
  """Round float64 numbers, or the parts of complex ones, to another dtype and back."""
  if x.dtype.kind == "c":
    return np.asarray(rounded(x.real, part_dtype(dtype)) + 1j * rounded(x.imag, part_dtype(dtype)))
  return x.astype(np.dtype(dtype)).astype(np.float64)


def digits(dtype: Any) -> int:
  """Return the number of explicit significand bits of a floating dtype, or of a complex one."""
  return int(ml_dtypes.finfo(np.dtype(part_dtype(dtype))).nmant)


def conjugate(params: Any, x: np.ndarray) -> np.ndarray:
  """Return the conjugates; that of a real number is complex."""
  return np.conj(x).astype(np.complex128)


def complex_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Return x + iy; as an arithmetic expression it would be NaN where y is infinite."""
  z = np.empty(np.broadcast_shapes(x.shape, y.shape), np.complex128)
  z.real, z.imag = x, y
  return z


def fourier_axes(params: Any, ndim: int) -> list[int]:
  """Return the axes of a Fourier transform, of an array that has an axis of samples."""
  return list(range(ndim - len(params["fft_lengths"]), ndim))


def fft(params: Any, x: np.ndarray) -> np.ndarray:
  """Evaluate a Fourier transform, which JAX names by its kind and the lengths of its real side."""
  kind = getattr(params["fft_type"], "name", str(params["fft_type"])).lower()
  transform: Callable[..., Any] = getattr(np.fft, f"{kind}n")
  axes = fourier_axes(params, x.ndim)
  return np.asarray(transform(x, s=params["fft_lengths"], axes=axes) if axes else x)


def sizes_of_parts(name: str, inputs: list[np.ndarray], z: np.ndarray) -> np.ndarray:
  """Return the magnitudes to which the parts of a complex result are rounded, as x + iy.

  The parts of a sum are rounded by themselves; those of a product are differences, and may cancel
  where their terms don't. Library functions are accurate relative to |z|.
  """
  if name in ("add", "sub", "add_any"):
    return complex_of(np.abs(z.real), np.abs(z.imag))
  if name in ("mul", "div", "square"):
    x, y = aligned([inputs[0], inputs[-1]])
    scale = np.abs(y) if name == "div" else 1.0
    if name == "div":
      y = np.conj(y) / scale
    a, b, c, d = np.abs(x.real), np.abs(x.imag), np.abs(y.real), np.abs(y.imag)
    return complex_of((a * c + b * d) / scale, (a * d + b * c) / scale)
  size = np.abs(z)
  return complex_of(size, size)


# Passed through unchanged.
PASSED = frozenset((
  "copy", "copy_p", "stop_gradient", "optimization_barrier", "sharding_constraint", "pvary",
  "mesh_cast", "reshard", "pcast",
))  # fmt: skip
COMPARISONS = {
  "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
  "ne": np.not_equal,
}  # fmt: skip


def table(functions: Mapping[str, Callable[..., Any]], alike: str = "") -> dict[str, Primitive]:
  """Return elementwise primitives; those in `alike` share their names with NumPy functions."""
  functions = {**functions, **{name: getattr(np, name) for name in alike.split()}}
  return {name: elementwise(function) for name, function in functions.items()}


# The results of these are as exact as their inputs: no rounding is added.
EXACT: dict[str, Primitive] = {
  **table(COMPARISONS, "abs sign floor ceil"),
  **table({
    "neg": np.negative, "max": np.maximum, "min": np.minimum, "is_finite": np.isfinite,
    "rem": remainder, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "shift_right_logical": shifted_right, "real": np.real, "imag": np.imag, "complex": complex_of,
  }),
  "conj": conjugate,
  "round": round_to_integer, "select_n": select_n, "broadcast_in_dim": broadcast_in_dim,
  "transpose": lambda params, x: x.transpose(0, *(1 + a for a in params["permutation"])),
  "squeeze": lambda params, x: np.squeeze(x, tuple(1 + a for a in params["dimensions"])),
  "rev": lambda params, x: np.flip(x, tuple(1 + a for a in params["dimensions"])),
  "reshape": reshape, "concatenate": concatenate, "slice": slice_of, "iota": iota,
  "reduce_max": extreme(np.max, -np.inf, "min"), "reduce_min": extreme(np.min, np.inf, "max"),
  "reduce_or": reduction(np.any), "reduce_and": reduction(np.all),
  "argmax": argument(np.argmax), "argmin": argument(np.argmin),
  "cummax": cumulative(np.maximum.accumulate), "cummin": cumulative(np.minimum.accumulate),
  "convert_element_type": convert, "reduce_precision": lambda params, x: x,
}  # fmt: skip

# One rounding: half a unit in the last place.
ROUNDED: dict[str, Primitive] = {
  **table({"add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply}),
  **table({"div": divide, "one_minus_square": lambda x: (1 + x) * (1 - x)}, "sqrt square"),
  "integer_pow": integer_pow,
}

# Library functions, accurate to some units in the last place.
TRANSCENDENTAL = table(
  {
    "rsqrt": lambda x: 1 / np.sqrt(x), "polynomial": polynomial, "pow": power,
    "logistic": logistic, "atan": np.arctan, "atan2": arctangent, "asin": np.arcsin,
    "acos": np.arccos, "asinh": np.arcsinh, "erf": special("erf"), "erfc": special("erfc"),
    "erf_inv": special("erfinv"), "lgamma": special("gammaln"),
    "digamma": special("digamma"), "bessel_i0e": special("i0e"), "bessel_i1e": special("i1e"),
    "regularized_incomplete_beta": special("betainc"), "igamma": special("gammainc"),
    "igammac": special("gammaincc"), "zeta": special("zeta"),
  },
  "cbrt exp exp2 expm1 log log1p log2 sin cos tan tanh sinh cosh",
)  # fmt: skip

# Sums, perturbed by the roundings of their terms.
SUMS: dict[str, Primitive] = {
  "reduce_sum": reduction(lambda x, axis: np.sum(x, axis=axis, dtype=x.dtype)),
  "dot_general": dot_general,
  "cumsum": cumulative(lambda x, axis: np.cumsum(x, axis=axis, dtype=x.dtype)),
}


# --- Primitives that only JAX evaluates -----------------------------------------------------------


def in_float64(equation: Any, *values: Any) -> list[Any]:
  """Apply a primitive in float64, whatever its traced dtype; raise TypeError where it can't be."""
  params = dict(equation.params)
  for key in ("preferred_element_type", "dtype", "new_dtype", "accumulator_dtype"):
    if params.get(key) is not None:
      params[key] = wide_dtype(params[key])
  is_narrow = any(d != wide_dtype(d) for d in dtypes_of(equation))
  if is_narrow and equation.primitive.name.startswith("random_"):
    raise TypeError("in another dtype other numbers are drawn")
  if is_narrow and holds_program(params.values()):
    raise TypeError("the program in it computes in the dtype it was traced with")
  results = bind(equation.primitive, params, as_arrays(values))
  if any(r.dtype != wide_dtype(r.dtype) for r in results):
    raise TypeError("it doesn't compute in float64")
  return results


@lru_cache(maxsize=1024)
def dtypes_of(equation: Any) -> frozenset[Any]:
  """Return the dtypes of an equation's operands and results, and of all inside of it."""
  atoms = (*equation.invars, *equation.outvars)
  found = {a.aval.dtype for a in atoms if hasattr(a.aval, "dtype")}
  for program in filter(is_program, flattened(equation.params.values())):
    found.update(*map(dtypes_of, read_alone(program).jaxpr.eqns))
  return frozenset(found)


def as_traced(equation: Any, *values: Any) -> list[Any]:
  """Apply a primitive in its traced dtypes."""
  return bind(equation.primitive, equation.params, as_arrays(own_dtypes(equation, values)))


def as_arrays(values: Sequence[Any]) -> list[Any]:
  """Return values as arrays of JAX, which the code of a package's own primitive gets elsewhere.

  JAX converts the operands of its own primitives, but hands NumPy's to others' as they are.
  """
  return [v if isinstance(v, jax.Array) else jax.device_put(v) for v in values]


def own_dtypes(equation: Any, values: Sequence[Any], floats: bool = True) -> list[Any]:
  """Cast values to the traced dtypes of an equation, optionally all but those that are rounded."""
  return [
    v.astype(a.aval.dtype) if isinstance(v.dtype, np.dtype) and (floats or not is_rounded(v)) else v
    for v, a in zip(values, equation.invars, strict=True)
  ]


def mapped(function: Callable[..., list[Any]], equation: Any, inputs: list[Any]) -> list[Samples]:
  """Apply `function(equation, *values)` to each sample, or once if all samples are equal."""
  count = max((x.shape[0] for x in inputs), default=1)
  if count == 1:
    results = batched(function, equation, None)(*(x[0] for x in inputs))
    return [lifted(r) for r in results]
  axes = tuple(0 if x.shape[0] > 1 else None for x in inputs)
  own = [x if x.shape[0] > 1 else x[0] for x in inputs]
  try:
    results = batched(function, equation, axes)(*own)
  except NotImplementedError:  # Not every primitive can be batched; a loop always works.
    single = batched(function, equation, None)
    rows = [single(*(x[min(i, x.shape[0] - 1)] for x in inputs)) for i in range(count)]
    results = [stack_of(column) for column in zip(*rows, strict=True)]
  return [lifted(r)[0] for r in results]


def stack_of(rows: Sequence[Any]) -> Any:
  """Stack the results of all samples; NumPy has no typed keys."""
  is_key = jnp.issubdtype(rows[0].dtype, jax.dtypes.prng_key)
  return jnp.stack(rows) if is_key else np.stack([np.asarray(row) for row in rows])


def called_back(equation: Any, inputs: list[Any]) -> list[Samples]:
  """Call the function of a pure callback for each sample; compiling a call takes longer.

  Raises:
    TypeError: it was traced in a narrower dtype.
    JaxRuntimeError: the function raises, or returns arrays of other shapes, as in a compiled call.
  """
  avals = [v.aval for v in equation.outvars]
  if any(d != wide_dtype(d) for d in dtypes_of(equation)):
    raise TypeError("it was traced in a narrower dtype")
  count = max((x.shape[0] for x in inputs), default=1)
  rows = []
  for k in range(count):
    own = [x[min(k, x.shape[0] - 1)] for x in inputs]
    try:
      found = [np.asarray(r) for r in callback_of(equation)(*map(jax.device_put, own))]
    except Exception as error:
      raise jax.errors.JaxRuntimeError(f"{type(error).__name__}: {error}") from error
    if [r.shape for r in found] != [a.shape for a in avals]:
      raise jax.errors.JaxRuntimeError("the callback returned arrays of other shapes")
    rows.append([r.astype(a.dtype) for r, a in zip(found, avals, strict=True)])
  return [np.stack(column) for column in zip(*rows, strict=True)]


@lru_cache(maxsize=256)
def batched(function: Callable[..., Any], equation: Any, axes: Any) -> Callable[..., Any]:
  """Return a function of an equation's inputs, batched along axes, or for one sample.

  A kernel or solver, which holds a program, is compiled once for all points.
  """
  apply = partial(function, equation)
  if axes is not None:
    apply = jax.vmap(apply, in_axes=axes)
  return jax.jit(apply) if holds_program(equation.params.values()) else apply
