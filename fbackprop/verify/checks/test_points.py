"""Test points of a rule: other arguments of the same shapes, and batches of other sizes.

One random point hardly tests zeros, ties, saturation, a single example or a remainder of a
tile. Each point is derived from the arguments as given and preserves their domain as far as it can
be inferred: nonnegative arrays stay nonnegative, rows that sum to one still do, a symmetric matrix
is only scaled, integers stay within their range. To add a test point, add a line to `value_points`,
or a size to `SIZES`.

Doubts: the domain is inferred from the numbers of one call, so that a constraint which they satisfy
by chance is preserved too, and one which they don't show is violated; `constraints` lists the
preserved ones for the report.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.verify.witnesses.rule import Leaves, Rule, Signature

# Batch sizes: none, one, two, three, and primes beyond the edges of tiles of 8 to 128.
SIZES = {
  "quick": (1,),
  "large": (1, 13),
  "standard": (0, 1, 2, 3, 13, 131),
  "deep": (0, 1, 2, 3, 7, 13, 16, 33, 131, 257),
}


class Point(NamedTuple):
  """The arguments and the cotangent of one test point.

  Attributes:
    name: the printed name.
    leaves: the arguments, floats in float64.
    loss_scale: a factor of the cotangent.
    only_finite: whether it may lie outside of the rule's domain: then the rule only has to be
      finite where the truth is.
    y_bar: the point's own cotangents; None for the problem's.
  """

  name: str
  leaves: Leaves
  loss_scale: float = 1.0
  only_finite: bool = False
  y_bar: Sequence[np.ndarray] | None = None


def value_points(signature: Signature, leaves: Leaves, level: str, seed: int) -> list[Point]:
  """Return the test points of the arguments' own shapes."""
  rng = np.random.default_rng([seed, 3])

  def changed(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Point:
    pairs = zip(leaves, signature.is_float, strict=True)
    return Point(name, [change(np.asarray(x)) if real else x for x, real in pairs])

  def with_others(name: str, change: Callable[[Any], Any]) -> Point:
    return Point(name, list(map(change, leaves)))

  redraw = partial(redrawn, rng)
  found = [changed("redrawn", redraw)]
  if level == "quick":
    return found
  found += [
    changed("some entries zero", lambda x: with_zeros(rng, redraw(x))),
    changed("ties", lambda x: rounded_to_half(redraw(x))),
    changed("10 times larger", lambda x: scaled(redraw(x), 10.0)),
    changed("small", lambda x: scaled(redraw(x), 2.0**-10)),
    Point("loss times 2^40", leaves, 2.0**40),
    Point("loss times 2^-40", leaves, 2.0**-40),
    changed("columns of scale 1e-4 to 1e4", lambda x: column_scaled(rng, redraw(x))),
  ]
  for i in signature.floats:
    if leaves[i].size and len(signature.floats) <= 12:
      zero = np.zeros_like(leaves[i])
      found.append(Point(f"{signature.names[i]} zero", [*leaves[:i], zero, *leaves[i + 1 :]]))
  if any(is_positive(leaves[i]) and not is_fixed(leaves[i]) for i in signature.floats):
    found.append(changed("signs changed", partial(with_signs, rng))._replace(only_finite=True))
  found.append(changed("1e4 times larger", lambda x: scaled(redraw(x), 1e4)))
  if any(kind(x) in "iub" for x in leaves):
    relabeled = [relabelled(rng, x) if is_integer(x) else x for x in leaves]
    found.append(Point("other labels", [permuted_mask(rng, x) for x in relabeled]))
  if any(map(is_repeated, leaves)):
    for name, function in (("smallest", np.min), ("largest", np.max)):
      fill = partial(with_one_label, function)
      found.append(with_others(f"{name} label everywhere", fill))
  if level == "deep":
    for again in range(2, 8):
      found += [
        changed(f"redrawn, {again}", redraw),
        changed(f"zeros and ties, {again}", lambda x: with_zeros(rng, rounded_to_half(x))),
        changed(f"100 times larger, {again}", lambda x: scaled(redraw(x), 100.0)),
      ]
  return found


def constraints(signature: Signature, leaves: Leaves) -> list[str]:
  """Return the inferred constraints that every point preserves, and that limit the verdict."""
  found = []
  for i in signature.floats:
    name, x = signature.names[i], np.asarray(leaves[i])
    if is_symmetric(x):
      found.append(f"{name} but for symmetric matrices")
    elif is_mask(x):
      found.append(f"{name} but for zeros and ones")
    elif are_probabilities(x) and x.shape[-1] > 1:
      found.append(f"{name} but for numbers from 0 to 1")
    elif is_positive(x):
      found.append(f"{name} below zero, but for being finite there")
  return found


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
  if x.size == 0 or is_symmetric(x):
    return x
  if are_probabilities(x) and x.shape[-1] > 1:
    rows = rng.exponential(size=x.shape) + 1e-3
    return np.asarray(rows / rows.sum(-1, keepdims=True))
  if is_mask(x):
    return rng.permutation(x.reshape(-1)).reshape(x.shape)
  if not np.isfinite(x).all():
    return x
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


def rounded_to_half(x: np.ndarray) -> np.ndarray:
  """Round to multiples of 1/2, so that entries tie and sums vanish; probabilities sum to less."""
  if are_probabilities(x) and x.shape[-1] > 1:
    return x * 0.75
  if is_symmetric(x) or is_mask(x):
    return x
  size = float(np.max(np.abs(x), initial=0.0)) or 1.0
  unit = 2.0 ** np.round(np.log2(size) - 1)
  near = np.round(2 * x / unit) / 2 * unit
  return np.where((near == 0) & is_positive(x), x, near)


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
  """Draw other integers of the same kind, preserving permutations and sortedness."""
  x = np.asarray(x)
  if x.size < 2:
    return x
  seen = np.unique(x)
  if seen.size == x.size:
    return rng.permutation(x.reshape(-1)).reshape(x.shape)
  if seen[0] >= 0 and seen[-1] < 1000:
    seen = np.arange(seen[-1] + 1)
  # The labels are cycled through, as far as there is room.
  drawn = rng.permutation(np.resize(rng.permutation(seen), x.size)).reshape(x.shape).astype(x.dtype)
  return np.sort(drawn) if is_sorted(x) else drawn


def permuted_mask(rng: np.random.Generator, x: Any) -> Any:
  """Permute a boolean array."""
  return rng.permutation(np.asarray(x)) if kind(x) == "b" and x.ndim else x


def with_one_label(pick: Callable[[Any], Any], x: Any) -> Any:
  """Set all labels to a single one."""
  return np.full_like(x, pick(x)) if is_repeated(x) else x


# --- Batches of other sizes -----------------------------------------------------------------------


def find_batch(rule: Rule, leaves: Leaves, outputs: Sequence[Any]) -> dict[int, int] | None:
  """Find the axis of N examples in each leaf: the axes that f lets grow together.

  Returns:
    `{leaf: axis}`; None if there is none. The search tries first axes of one length, in the
    smallest set of leaves that works; the outputs must then grow, or be scalars.
  """
  sizes = dict.fromkeys(x.shape[0] for x in leaves if getattr(x, "ndim", 0) and x.shape[0] > 0)
  for size in sizes:
    candidates = [i for i, x in enumerate(leaves) if x.ndim and x.shape[0] == size]
    for group in batch_groups(rule.signature, candidates):
      if all(accepts(rule, leaves, group, n, outputs, size) for n in (size + 1, 2 * size + 1)):
        return dict.fromkeys(group, 0)
  return None


def batch_groups(signature: Signature, candidates: list[int]) -> list[list[int]]:
  """Return sets of leaves that may share the axis of examples; data come after parameters."""
  by_argument: dict[str, list[int]] = {}
  for i in candidates:
    by_argument.setdefault(signature.names[i].partition("/")[0], []).append(i)
  arguments = list(by_argument.values())
  found = [[i for own in arguments[first:] for i in own] for first in range(len(arguments))]
  return [list(g) for g in dict.fromkeys(map(tuple, found + arguments))]


def accepts(
  rule: Rule, leaves: Leaves, group: list[int], n: int, outputs: Sequence[Any], old_n: int
) -> bool:
  """Return whether f accepts n examples, and only the first axes of its outputs grow."""
  own = [
    jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype) if i in group else x
    for i, x in enumerate(rule.signature.in_own_dtypes(leaves))
  ]
  try:
    found = jax.tree.leaves(jax.eval_shape(rule.forward, *own))
  except Exception:  # Any exception of f counts as a refusal.
    return False
  old = [tuple(o.shape) for o in outputs]
  grown = [(n, *o[1:]) if o and o[0] == old_n else o for o in old]
  return [tuple(o.shape) for o in found] in (grown, old)


def batch_points(
  rule: Rule, leaves: Leaves, batch: dict[int, int], level: str, seed: int
) -> list[Point]:
  """Return batches of other sizes, of the given rows and redrawn ones."""
  rng = np.random.default_rng([seed, 4])
  own_n = leaves[next(iter(batch))].shape[0]
  sizes = [n for n in SIZES[level] if n != own_n]
  if level != "quick":
    sizes.append(own_n + 1)
  is_open = may_be_indices(rule, leaves, batch, rng)
  return [
    Point(
      f"N = {n}",
      with_batch(rng, rule.signature, leaves, batch, n),
      only_finite=is_open and n > own_n,
    )
    for n in dict.fromkeys(sizes)
  ]


def may_be_indices(
  rule: Rule, leaves: Leaves, batch: dict[int, int], rng: np.random.Generator
) -> bool:
  """Return whether integers that enumerate the examples may be indices, for larger batches too.

  They may be labels whose number happens to equal that of the examples; a larger batch then repeats
  them, which a rule may not expect of indices. The test calls f with indices of more examples: if
  its result doesn't change when the new ones become still larger, they don't index examples.
  """
  rows = [i for i in batch if is_permutation(leaves[i])]
  if not rows:
    return False
  size = leaves[rows[0]].shape[0]
  more = 2 * size + 1  # f accepts this batch size: see find_batch.
  outputs = []
  indices = rng.permutation(more)
  probe = with_batch(rng, rule.signature, leaves, batch, more)
  for numbers in (indices, np.where(indices < size, indices, indices + more)):
    own = [numbers.astype(x.dtype) if i in rows else x for i, x in enumerate(probe)]
    try:
      outputs.append([np.asarray(y) for y in rule.forward(*rule.signature.in_own_dtypes(own))])
    except Exception:  # An exception of f proves nothing about the integers.
      return True
  return not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*outputs, strict=True))


def with_batch(
  rng: np.random.Generator, signature: Signature, leaves: Leaves, batch: dict[int, int], n: int
) -> Leaves:
  """Return the leaves with n examples."""
  own_n = leaves[next(iter(batch))].shape[0]
  rows = np.resize(np.arange(own_n), n)
  found = list(leaves)
  for i in batch:
    picked = np.asarray(leaves[i])[rows]
    if n > own_n and signature.is_float[i]:
      found[i] = redrawn(rng, picked)
    elif n < own_n and is_permutation(leaves[i]):
      found[i] = np.argsort(np.argsort(picked)).astype(picked.dtype)
    else:
      found[i] = np.sort(picked) if is_sorted(leaves[i]) else picked
  return found
