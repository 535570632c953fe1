"""Primitives that NumPy doesn't evaluate here: by JAX, sample by sample, in float64 if they can."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import bind
from fbackprop.verify.interpret.primitives import Samples, is_float
from fbackprop.verify.interpret.samples import is_real, lifted


def is_wide(equation: Any) -> bool:
  """Whether all floats that an equation takes and gives are float64."""
  atoms = [*equation.invars, *equation.outvars]
  return all(a.aval.dtype == np.float64 for a in atoms if is_float(a.aval.dtype))


def widened(equation: Any) -> Callable[..., list[Any]]:
  """The primitive on float64, whatever dtype it was traced with."""
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
  """The values in the dtypes that an equation was traced with; without `floats`, the others."""
  return [
    v.astype(a.aval.dtype) if isinstance(v.dtype, np.dtype) and (floats or not is_real(v)) else v
    for v, a in zip(values, equation.invars, strict=True)
  ]


def mapped(function: Callable[..., list[Any]], inputs: list[Any]) -> list[Samples]:
  """Applies a function to each sample; once, if all are the same."""
  inputs = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in inputs]
  if all(x.shape[0] == 1 for x in inputs):
    results = function(*(x[0] for x in inputs))
    return [lifted(r) for r in results]
  axes = tuple(0 if x.shape[0] > 1 else None for x in inputs)
  own = [x if x.shape[0] > 1 else x[0] for x in inputs]
  try:
    results = jax.vmap(function, in_axes=axes)(*own)
  except NotImplementedError:  # Not everything can be batched; one by one always works.
    count = max(x.shape[0] for x in inputs)
    rows = [function(*(x[min(i, x.shape[0] - 1)] for x in inputs)) for i in range(count)]
    results = [jnp.stack(column) for column in zip(*rows, strict=True)]
  return [r if jnp.issubdtype(r.dtype, jax.dtypes.prng_key) else np.asarray(r) for r in results]
