"""An independent look at a failure: a rule against central differences, with nothing of fbackprop.

The function is run in float64, and its slope along each entry of each float argument is the
extrapolation of central differences of two steps. The pullback is the rule's own, in float64 too.
It says whether the rule and the function agree *at the arguments as given*, and to how many digits;
a failure at another point needs a note of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

STEP = 1e-3
MOST_ENTRIES = 64


def compared(
  f: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  options: Mapping[str, Any],
) -> dict[str, Any]:
  """Return the largest difference of rule and differences over all entries, and where it is."""
  try:
    with jax.enable_x64(True):
      return compare(f, args, kwargs, options)
  except Exception as error:
    return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def compare(
  f: Callable[..., Any],
  args: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  options: Mapping[str, Any],
) -> dict[str, Any]:
  """Compare, in float64."""
  held = {*options.get("static", ()), *(getattr(f, "nondiff_argnums", ()) or ())}
  leaves, structure = jax.tree.flatten((args, dict(kwargs)))
  paths = [path for path, _ in jax.tree_util.tree_flatten_with_path((args, dict(kwargs)))[0]]
  moved = [
    i for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True))
    if is_float(leaf) and not is_held(path, held)
  ]  # fmt: skip
  wide = [np.asarray(leaves[i], np.float64) for i in moved]

  def call(*values: Any) -> Any:
    whole = list(leaves)
    for i, value in zip(moved, values, strict=True):
      whole[i] = jnp.asarray(value)
    own, named = structure.unflatten(whole)
    return [y for y in jax.tree.leaves(f(*own, **named)) if is_float(y)]

  rng = np.random.default_rng(0)
  ys, pullback = jax.vjp(call, *map(jnp.asarray, wide))
  for differentiated, plain in zip(ys, call(*wide), strict=True):
    apart = np.abs(np.asarray(differentiated) - np.asarray(plain))
    if np.max(apart, initial=0.0) > 1e-6:
      i = np.unravel_index(int(np.argmax(apart)), apart.shape)
      return {"differentiated": float(differentiated[i]), "plain": float(plain[i])}
  y_bars = [rng.standard_normal(np.shape(y)) for y in ys]
  bars = pullback([jnp.asarray(bar, y.dtype) for bar, y in zip(y_bars, ys, strict=True)])

  def value(values: list[np.ndarray]) -> float:
    found = [np.asarray(y, np.float64) for y in call(*values)]
    return float(sum(np.sum(y * bar) for y, bar in zip(found, y_bars, strict=True)))

  def slope(k: int, index: tuple[int, ...], step: float) -> float:
    ends = []
    for sign in (1, -1):
      values = [x.copy() for x in wide]
      values[k][index] += sign * step
      ends.append(value(values))
    return (ends[0] - ends[1]) / (2 * step)

  rows = []
  for k, x in enumerate(wide):
    for index in list(np.ndindex(x.shape))[:MOST_ENTRIES]:
      near, nearer = slope(k, index, STEP), slope(k, index, STEP / 2)
      want, got = nearer + (nearer - near) / 3, float(np.asarray(bars[k])[index])
      error = abs(got - want) / max(abs(want), abs(got), 1e-6) if got != want else 0.0
      rows.append((np.inf if np.isnan(error) else error, k, index, got, want))
  error, k, index, got, want = max(rows)
  name = jax.tree_util.keystr(paths[moved[k]])
  return {"error_of_rule": error, "leaf": name, "index": list(index), "rule": got, "slope": want}


def is_float(leaf: Any) -> bool:
  """Return whether a leaf is of real floats."""
  return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)


def is_held(path: Any, held: set[Any]) -> bool:
  """Return whether a leaf of (args, kwargs) belongs to an argument that is held."""
  return getattr(path[1], "idx", getattr(path[1], "key", None)) in held
