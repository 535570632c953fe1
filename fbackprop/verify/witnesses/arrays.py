"""Kinds of arrays, as far as their values tell, and other arrays of the same kind.

A point of comparison elsewhere must stay within the domain of a function that isn't known: a mask
remains one, rows of probabilities sum to one, positive numbers remain positive.
"""

from typing import Any

import numpy as np

# --- Kinds of arrays ------------------------------------------------------------------------------


def kind(x: Any) -> str:
  """Return NumPy's letter for a dtype; "V" for keys."""
  return x.dtype.kind if isinstance(x.dtype, np.dtype) else "V"


def is_integer(x: Any) -> bool:
  return kind(x) in "iu"


def is_positive(x: np.ndarray) -> bool:
  """Return whether the entries are presumably nonnegative."""
  return bool(x.size and (x >= 0).all() and (x > 0).any())


def are_probabilities(x: np.ndarray) -> bool:
  """Return whether rows sum to one."""
  return bool(x.ndim and x.size and (x >= 0).all() and np.allclose(x.sum(-1), 1, atol=1e-4))


def is_mask(x: np.ndarray) -> bool:
  """Return whether entries are zero or one, and both occur."""
  return bool(x.size > 1 and np.isin(x, (0.0, 1.0)).all() and (x == 0).any() and (x == 1).any())


def is_fixed(x: np.ndarray) -> bool:
  """Return whether scaling leaves the domain."""
  return are_probabilities(x) or is_mask(x)


def is_symmetric(x: np.ndarray) -> bool:
  """Return whether it is a symmetric matrix; a constant one counts as a placeholder, not as one."""
  square = x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1
  return bool(square and np.ptp(x) != 0 and np.array_equal(x, np.swapaxes(x, -1, -2)))


def is_sorted(x: Any) -> bool:
  """Return whether it is a nondecreasing row of integers."""
  return is_integer(x) and x.ndim == 1 and bool((np.diff(x) >= 0).all())


def is_repeated(x: Any) -> bool:
  """Return whether integers repeat, as labels do and the entries of a permutation don't."""
  return is_integer(x) and x.size > 1 and np.unique(np.asarray(x)).size < x.size


def is_permutation(x: Any) -> bool:
  """Return whether it holds the numbers from 0 to n - 1."""
  return is_integer(x) and x.ndim == 1 and np.array_equal(np.sort(x), np.arange(x.size))


# --- Other arrays of the same kind ----------------------------------------------------------------


def redrawn(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Draw another array of the same kind."""
  if x.size == 0 or is_symmetric(x) or not np.isfinite(x).all():
    return x
  if are_probabilities(x) and x.shape[-1] > 1:
    rows = rng.exponential(size=x.shape) + 1e-3
    return np.asarray(rows / rows.sum(-1, keepdims=True))
  if is_mask(x):
    return rng.permutation(x.reshape(-1)).reshape(x.shape)
  size = float(np.sqrt(np.mean(x**2))) or 1.0
  if is_positive(x):
    mixed = rng.permutation(x.reshape(-1)).reshape(x.shape)
    return np.asarray(mixed * np.exp(0.1 * rng.normal(size=x.shape)))
  if (x <= 0).all() and (x < 0).any():
    return -redrawn(rng, -x)
  return np.asarray(size * rng.normal(size=x.shape))


def with_zeros(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Set a third of the entries to zero; make rows of probabilities one-hot."""
  if are_probabilities(x):
    return np.asarray(x == x.max(-1, keepdims=True), np.float64)
  if is_symmetric(x) or is_mask(x):
    return x
  return np.where(rng.random(x.shape) < 1 / 3, 0.0, x)


def with_row(x: np.ndarray, value: float | None = None) -> np.ndarray:
  """Set the first row to a value, or to the last row, as where a distance is zero."""
  if x.ndim == 0 or not x.size or is_fixed(x) or is_symmetric(x):
    return x
  found = x.copy()
  found[0] = x[-1] if value is None else value
  return found


def rounded_to_half(x: np.ndarray) -> np.ndarray:
  """Round to multiples of 1/2, so that entries tie and sums vanish; probabilities sum to less.

  Entries that aren't finite stay.
  """
  if are_probabilities(x) and x.shape[-1] > 1:
    return x * 0.75
  if is_symmetric(x) or is_mask(x):
    return x
  finite = np.where(np.isfinite(x), x, 0.0)
  size = float(np.max(np.abs(finite), initial=0.0)) or 1.0
  unit = 2.0 ** np.round(np.log2(size) - 1)
  near = np.round(2 * finite / unit) / 2 * unit
  return np.where((near == 0) & is_positive(x) | ~np.isfinite(x), x, near)


def with_signs(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Negate half of the positive entries."""
  if not is_positive(x) or is_fixed(x):
    return x
  return x * np.where(rng.permutation(np.arange(x.size)) % 2, 1.0, -1.0).reshape(x.shape)


def scaled(x: np.ndarray, factor: float) -> np.ndarray:
  """Scale all entries but those of probabilities and masks."""
  return x if is_fixed(x) else x * factor


def column_scaled(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Scale the last axis from 1e-4 to 1e4."""
  if x.ndim == 0 or is_fixed(x) or is_symmetric(x):
    return x
  exponents = np.linspace(-4, 4, x.shape[-1])
  return np.asarray(x * 10.0 ** rng.permutation(exponents))


def relabelled(rng: np.random.Generator, x: Any) -> Any:
  """Draw other integers of the same kind, preserving permutations and sortedness; permute masks."""
  x = np.asarray(x) if kind(x) in "iub" else x
  if kind(x) == "b" and x.ndim:
    return rng.permutation(x)
  if not is_integer(x) or x.size < 2:
    return x
  seen = np.unique(x)
  if seen.size == x.size:
    return rng.permutation(x.reshape(-1)).reshape(x.shape)
  if seen[0] >= 0 and seen[-1] < 1000:
    seen = np.arange(seen[-1] + 1)
  # The labels are cycled through, as far as there is room.
  drawn = rng.permutation(np.resize(rng.permutation(seen), x.size)).reshape(x.shape).astype(x.dtype)
  return np.sort(drawn) if is_sorted(x) else drawn
