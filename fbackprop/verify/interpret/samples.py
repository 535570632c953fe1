"""Values with an axis of samples in front, as an evaluation carries them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.interpret.primitives import Samples, is_float


def lifted(value: Any) -> Samples:
  """A value with an axis of one sample; floats in float64."""
  if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
    return value[None]
  x = np.asarray(value)
  return x.astype(np.float64)[None] if is_float(x.dtype) else x[None]


def constant_key(value: Any) -> Any:
  """What two constants of the same numbers have in common."""
  x = np.asarray(value)
  return x.shape, x.astype(np.float64).tobytes()


def is_real(x: Any) -> bool:
  """Whether it holds real floats."""
  return is_float(x.dtype)


def shifted(x: np.ndarray, first: np.ndarray) -> np.ndarray:
  """All samples moved as the first one is: a cast must not widen their spread."""
  return x + (first - x[:1]) if x.shape[0] > 1 else first


def held(mask: np.ndarray, new: Samples, old: Samples) -> Samples:
  """The new values where a sample or a lane goes on, the old ones elsewhere."""
  where = np.where if isinstance(new, np.ndarray) else jnp.where  # Keys are JAX's.
  return where(mask.reshape(*mask.shape, *(1,) * (new.ndim - mask.ndim)), new, old)


def without_result(mask: np.ndarray, x: Samples) -> Samples:
  """NaN where a sample or a lane would still go on; integers stay as they are."""
  return held(mask, np.full_like(x, np.nan), x) if is_real(x) else x


def stacked(rows: list[Any], aval: Any) -> Samples:
  """The rows of a scan's output, after the axis of samples."""
  if not rows:
    dtype = np.float64 if is_float(aval.dtype) else aval.dtype
    return np.zeros((1, 0, *aval.shape), dtype)
  if not isinstance(rows[0], np.ndarray):
    return jnp.stack(rows, axis=1)
  samples = max(r.shape[0] for r in rows)
  return np.stack([np.broadcast_to(r, (samples, *r.shape[1:])) for r in rows], axis=1)
