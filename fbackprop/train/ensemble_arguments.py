"""What an ensemble is told of its members, looked at before anything is done."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbackprop.checks import DtypeError, ShapeError, check_number, describe, is_integer


def check_keys(keys: Any) -> int:
  """How many members there are; refuses what isn't a row of typed keys."""
  is_keys = hasattr(keys, "dtype") and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
  if not is_keys:
    raise DtypeError(
      "fit_ensemble: keys must be typed keys [K], such as jax.random.split(jax.random.key(seed), "
      f"K), got {describe(keys)}"
    )
  if keys.ndim != 1 or not len(keys):
    raise ShapeError(f"fit_ensemble: keys must have shape [K], K at least 1, got {describe(keys)}")
  return len(keys)


def check_rates(rates: Any, size: int) -> np.ndarray:
  """The rates `[K]` in float64; refuses other numbers of them, and those that can't be."""
  rates = list(rates)
  if len(rates) != size:
    raise ShapeError(
      f"fit_ensemble: rates must be one for each of the {size} keys, got {len(rates)}"
    )
  for k, rate in enumerate(rates):
    check_number("fit_ensemble", f"rates[{k}]", rate)
    if rate <= 0:
      raise ValueError(f"fit_ensemble: rates[{k}] must be above 0, got {rate}")
  return np.asarray(rates, np.float64)


def check_numbers(members: Any, size: int) -> list[int]:
  """Numbers of members, each once and in order; refuses those of others."""
  members = list(members)
  for k in members:
    if not is_integer(k):
      raise DtypeError(f"fit_ensemble: check_members must be integers, got {describe(k)}")
    if not 0 <= k < size:
      raise ValueError(f"fit_ensemble: check_members must be from 0 to {size - 1}, got {k}")
  return sorted(map(int, set(members)))


def optimizer_by_rate(
  optimizer: Any, has_rates: bool
) -> Callable[[Any], optax.GradientTransformation]:
  """The optimiser as a function of a member's rate, whether it is one or not."""
  if has_rates:
    if not callable(optimizer) or isinstance(optimizer, optax.GradientTransformation):
      raise DtypeError(
        "fit_ensemble: with rates, optimizer must be a function of the rate, such as optax.sgd, "
        f"got {describe(optimizer)}"
      )
    by_rate: Callable[[Any], optax.GradientTransformation] = optimizer
    return by_rate
  return lambda rate: optimizer
