"""Values with a leading axis of samples, and primitives applied to them by JAX in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import bind, holds_program
from fbackprop.verify.interpret.primitives import Samples, is_float


def lifted(value: Any) -> Samples:
  """Return a value with an axis of one sample, floats in float64."""
  if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
    return value[None]
  x = np.asarray(value)
  return x.astype(np.float64)[None] if is_float(x.dtype) else x[None]


def constant_key(value: Any) -> Any:
  """Return a key that constants of the same numbers share."""
  x = np.asarray(value)
  return x.shape, x.astype(np.float64).tobytes()


def is_real(x: Any) -> bool:
  """Return whether it is an array of real floats."""
  return is_float(x.dtype)


def shifted(x: np.ndarray, first: np.ndarray) -> np.ndarray:
  """Shift all samples as the first one was shifted: a cast must not widen their spread."""
  return x + (first - x[:1]) if x.shape[0] > 1 else first


def held(mask: np.ndarray, new: Samples, old: Samples) -> Samples:
  """Return new values where a sample or lane continues, the old ones elsewhere."""
  where = np.where if isinstance(new, np.ndarray) else jnp.where  # Typed keys need JAX.
  return where(mask.reshape(*mask.shape, *(1,) * (new.ndim - mask.ndim)), new, old)


def stacked(rows: list[Any], aval: Any) -> Samples:
  """Stack the rows of a scan's output behind the axis of samples."""
  if not rows:
    return np.zeros((1, 0, *aval.shape), np.float64 if is_float(aval.dtype) else aval.dtype)
  if not isinstance(rows[0], np.ndarray):
    return jnp.stack(rows, axis=1)
  return np.stack(np.broadcast_arrays(*rows), axis=1)


# --- Primitives that only JAX evaluates -----------------------------------------------------------


def in_float64(equation: Any, *values: Any) -> list[Any]:
  """Apply a primitive in float64, whatever its traced dtype; raise TypeError where it can't be."""
  params = dict(equation.params)
  for key in ("preferred_element_type", "dtype", "new_dtype", "accumulator_dtype"):
    if params.get(key) is not None and is_float(params[key]):
      params[key] = np.dtype(np.float64)
  types = [a.aval.dtype for a in (*equation.invars, *equation.outvars) if is_float(a.aval.dtype)]
  if holds_program(params.values()) and any(dtype != np.float64 for dtype in types):
    raise TypeError("the program in it computes in the dtype it was traced with")
  results = bind(equation.primitive, params, values)
  if any(is_float(r.dtype) and r.dtype != np.float64 for r in results):
    raise TypeError("it doesn't compute in float64")
  return results


def as_traced(equation: Any, *values: Any) -> list[Any]:
  """Apply a primitive in its traced dtypes."""
  return bind(equation.primitive, equation.params, own_dtypes(equation, values))


def own_dtypes(equation: Any, values: Sequence[Any], floats: bool = True) -> list[Any]:
  """Cast values to the traced dtypes of an equation, optionally all but the floats."""
  return [
    v.astype(a.aval.dtype) if isinstance(v.dtype, np.dtype) and (floats or not is_real(v)) else v
    for v, a in zip(values, equation.invars, strict=True)
  ]


def mapped(function: Callable[..., list[Any]], inputs: list[Any]) -> list[Samples]:
  """Apply a function to each sample, or once if all samples are equal."""
  inputs = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in inputs]
  count = max((x.shape[0] for x in inputs), default=1)
  if count == 1:
    return [lifted(r) for r in function(*(x[0] for x in inputs))]
  axes = tuple(0 if x.shape[0] > 1 else None for x in inputs)
  own = [x if x.shape[0] > 1 else x[0] for x in inputs]
  try:
    results = jax.vmap(function, in_axes=axes)(*own)
  except NotImplementedError:  # Not every primitive can be batched; a loop always works.
    rows = [function(*(x[min(i, x.shape[0] - 1)] for x in inputs)) for i in range(count)]
    results = [jnp.stack(column) for column in zip(*rows, strict=True)]
  return [lifted(r)[0] for r in results]
