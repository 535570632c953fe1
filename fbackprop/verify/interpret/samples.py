"""Values with a leading axis of samples, and primitives applied to them by JAX in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import bind
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


def without_result(mask: np.ndarray, x: Samples) -> Samples:
  """Return NaN where a sample or lane would continue; integers stay as they are."""
  return held(mask, np.full_like(x, np.nan), x) if is_real(x) else x


def stacked(rows: list[Any], aval: Any) -> Samples:
  """Stack the rows of a scan's output behind the axis of samples."""
  if not rows:
    dtype = np.float64 if is_float(aval.dtype) else aval.dtype
    return np.zeros((1, 0, *aval.shape), dtype)
  if not isinstance(rows[0], np.ndarray):
    return jnp.stack(rows, axis=1)
  samples = max(r.shape[0] for r in rows)
  return np.stack([np.broadcast_to(r, (samples, *r.shape[1:])) for r in rows], axis=1)


# --- Primitives that only JAX evaluates -----------------------------------------------------------


def is_wide(equation: Any) -> bool:
  """Return whether all float inputs and outputs of an equation are float64."""
  atoms = [*equation.invars, *equation.outvars]
  return all(a.aval.dtype == np.float64 for a in atoms if is_float(a.aval.dtype))


def widened(equation: Any) -> Callable[..., list[Any]]:
  """Return the primitive on float64, whatever its traced dtype."""
  params = dict(equation.params)
  for key in ("preferred_element_type", "dtype", "new_dtype", "accumulator_dtype"):
    if params.get(key) is not None and is_float(params[key]):
      params[key] = np.dtype(np.float64)

  def apply(*values: Any) -> list[Any]:
    results = bind(equation.primitive, params, values)
    if any(is_float(r.dtype) and r.dtype != np.float64 for r in results):
      raise TypeError("it doesn't compute in float64")
    return results

  return apply


def own_dtypes(equation: Any, values: Sequence[Any], floats: bool = True) -> list[Any]:
  """Cast values to the traced dtypes of an equation, optionally all but the floats."""
  return [
    v.astype(a.aval.dtype) if isinstance(v.dtype, np.dtype) and (floats or not is_real(v)) else v
    for v, a in zip(values, equation.invars, strict=True)
  ]


def mapped(function: Callable[..., list[Any]], inputs: list[Any]) -> list[Samples]:
  """Apply a function to each sample, or once if all samples are equal."""
  inputs = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in inputs]
  if all(x.shape[0] == 1 for x in inputs):
    results = function(*(x[0] for x in inputs))
    return [lifted(r) for r in results]
  axes = tuple(0 if x.shape[0] > 1 else None for x in inputs)
  own = [x if x.shape[0] > 1 else x[0] for x in inputs]
  try:
    results = jax.vmap(function, in_axes=axes)(*own)
  except NotImplementedError:  # Not every primitive can be batched; a loop always works.
    count = max(x.shape[0] for x in inputs)
    rows = [function(*(x[min(i, x.shape[0] - 1)] for x in inputs)) for i in range(count)]
    results = [jnp.stack(column) for column in zip(*rows, strict=True)]
  return [r if jnp.issubdtype(r.dtype, jax.dtypes.prng_key) else np.asarray(r) for r in results]
