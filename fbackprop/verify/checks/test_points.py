"""Test points of a rule: other arguments of the same shapes, and batches of other sizes.

One random point hardly tests zeros, ties, saturation, a single example or a remainder of a
tile. Each point is derived from the arguments as given and preserves their domain as far as it can
be inferred: nonnegative arrays stay nonnegative, rows that sum to one still do, a symmetric matrix
is only scaled, integers stay within their range. To add a test point, add a line to `value_points`,
or a size to `SIZES`.

Doubts: the domain is inferred from the numbers of one call, so that a constraint which they satisfy
by chance is preserved too, and one which they don't show is violated; `structure` breaks the
preserved ones one by one.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.verify.checks.indices import Pointer
from fbackprop.verify.witnesses.arrays import (
  column_scaled,
  is_fixed,
  is_integer,
  is_mask,
  is_permutation,
  is_positive,
  is_repeated,
  is_sorted,
  kind,
  redrawn,
  relabelled,
  rounded_to_half,
  scaled,
  with_row,
  with_signs,
  with_zeros,
)
from fbackprop.verify.witnesses.rule import Leaves, Rule, Signature, replaced

# Batch sizes: none, one, two, three, and primes beyond the edges of tiles of 8 to 128. Of a single
# example "the last one counts twice" is "a factor 2", so that larger ones come first.
SIZES = {
  "quick": (1,),
  "large": (13, 1),
  "standard": (13, 3, 2, 1, 0, 131),
  "deep": (13, 7, 3, 2, 1, 0, 16, 33, 131, 257),
}


class Point(NamedTuple):
  """The arguments and the cotangent of one test point.

  Attributes:
    name: the printed name.
    leaves: the arguments, floats in float64.
    only_finite: whether it may lie outside of the rule's domain: then the rule only has to be
      finite where the truth is.
    y_bar: the point's own cotangents; None for the problem's.
  """

  name: str
  leaves: Leaves
  only_finite: bool = False
  y_bar: Sequence[np.ndarray] | None = None


def value_points(
  signature: Signature,
  leaves: Leaves,
  y_bar: Leaves,
  level: str,
  seed: int,
  pointers: Mapping[int, Pointer],
) -> list[Point]:
  """Return the test points of the arguments' own shapes.

  Args:
    signature, leaves, y_bar: the call.
    level, seed: as for `vjp`.
    pointers: the leaves that index another one, or count along an axis.
  """
  rng = np.random.default_rng([seed, 3])
  labels = {
    i: pointers.get(i, Pointer())
    for i, x in enumerate(leaves)
    if is_integer(x) and may_repeat(x, pointers.get(i))
  }
  floats = [leaves[i] for i in signature.floats]

  def changed(name: str, change: Callable[[np.ndarray], np.ndarray], **options: Any) -> Point:
    own = [change(np.asarray(x)) for x in floats]
    return Point(name, replaced(leaves, signature.floats, own), **options)

  def labelled(name: str, change: Callable[[np.ndarray, Pointer], np.ndarray]) -> Point:
    own = [change(np.asarray(leaves[i]), pointer) for i, pointer in labels.items()]
    return Point(name, replaced(leaves, list(labels), own))

  redraw, ids = partial(redrawn, rng), labelled("", partial(drawn_ids, rng)).leaves
  found = [
    Point("redrawn", replaced(ids, signature.floats, [redraw(np.asarray(x)) for x in floats]))
  ]
  if level == "quick":
    return found
  found += [
    changed("some entries zero", lambda x: with_zeros(rng, redraw(x))),
    changed("ties", lambda x: rounded_to_half(redraw(x))),
    changed("10 times larger", lambda x: scaled(redraw(x), 10.0)),
    changed("small", lambda x: scaled(redraw(x), 2.0**-10)),
    Point("loss times 2^40", leaves, y_bar=[b * 2.0**40 for b in y_bar]),
    Point("loss times 2^-40", leaves, y_bar=[b * 2.0**-40 for b in y_bar]),
    changed("columns of scale 1e-4 to 1e4", lambda x: column_scaled(rng, redraw(x))),
  ]
  found += [
    changed("a row of zeros", lambda x: with_row(redraw(x), 0.0)),
    changed("two equal rows", lambda x: with_row(redraw(x))),
  ]
  if len({x.shape for x in floats}) < len(floats):
    alike: dict[tuple[int, ...], np.ndarray] = {}
    equal = [alike.setdefault(x.shape, x) for x in floats]
    found.append(Point("equal arguments", replaced(leaves, signature.floats, equal)))
  for i, x in zip(signature.floats, floats, strict=True):
    if x.size and len(floats) <= 12:
      found.append(Point(f"{signature.names[i]} zero", replaced(leaves, [i], [np.zeros_like(x)])))
  if any(is_positive(x) and not is_fixed(x) for x in floats):
    found.append(changed("signs changed", partial(with_signs, rng), only_finite=True))
  found.append(changed("1e4 times larger", lambda x: scaled(redraw(x), 1e4)))
  if any(kind(x) in "iub" for x in leaves):
    found.append(Point("other labels", [relabelled(rng, x) for x in leaves]))
  for k, name in enumerate(("smallest", "largest") if labels else ()):
    point = labelled(f"{name} label everywhere", lambda x, p: np.full_like(x, range_of(x, p)[k]))  # noqa: B023
    found.append(point)
  masks = [i for i, x in enumerate(leaves) if kind(x) == "b" or (kind(x) == "f" and is_mask(x))]
  for name, fill in MASKS.items() if masks else ():
    own = [fill(np.asarray(leaves[i])) for i in masks]
    found.append(Point(name, replaced(leaves, masks, own)))
  for again in range(2, 8) if level == "deep" else ():
    found += [
      changed(f"redrawn, {again}", redraw),
      changed(f"zeros and ties, {again}", lambda x: with_zeros(rng, rounded_to_half(x))),
      changed(f"100 times larger, {again}", lambda x: scaled(redraw(x), 100.0)),
    ]
  return found


# --- Integers that point --------------------------------------------------------------------------


def may_repeat(x: Any, pointer: Pointer | None) -> bool:
  """Return whether integers may be drawn anew: they point or repeat, and none is overwritten."""
  if pointer is None:
    return is_repeated(x)
  return x.size > 0 and not pointer.is_overwriting and (x.size == 1 or not is_permutation(x))


def range_of(x: np.ndarray, pointer: Pointer) -> tuple[int, int]:
  """Return the least and the largest value that integers may have; nothing points outside."""
  low, high = int(x.min()), int(x.max())
  if pointer.end is None:
    return low, high
  # A negative index counts from the end.
  return (0 if low >= 0 else max(low, -pointer.end)), max(high, pointer.end - 1)


def drawn_ids(rng: np.random.Generator, x: np.ndarray, pointer: Pointer) -> np.ndarray:
  """Draw integers within their range, some of them twice."""
  low, high = range_of(x, pointer)
  drawn = rng.integers(low, high + 1, size=x.shape).astype(x.dtype)
  if x.size > 1:
    drawn.reshape(-1)[-1] = drawn.reshape(-1)[0]
  return np.sort(drawn) if is_sorted(x) else drawn


def numbered(change: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
  """Fill a mask by a function of the number of each entry."""
  return np.asarray(change(np.arange(x.size))).reshape(x.shape).astype(x.dtype)


# Masks of booleans, or of zeros and ones, at their edges.
MASKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "every mask true": np.ones_like,
  "every mask false": np.zeros_like,
  "masks alternating": partial(numbered, lambda i: i % 2),
  "masks with one entry": partial(numbered, lambda i: i == i.max(initial=0)),
}


# --- Batches of other sizes -----------------------------------------------------------------------


def find_batch(rule: Rule, leaves: Leaves) -> list[int] | None:
  """Find the leaves whose first axis is that of N examples: f lets them grow together.

  The search tries first axes of one length, in the smallest set of leaves that works; the outputs
  must then grow, or be scalars.

  Returns:
    The leaves; None if there are none.
  """
  names = [name.partition("/")[0] for name in rule.signature.names]
  own, old = rule.signature.in_own_dtypes(leaves), [tuple(o.shape) for o in rule.outputs]

  def accepts(group: list[int], size: int, n: int) -> bool:
    """Return whether f accepts n examples, and only the first axes of its outputs grow."""
    wider = [jax.ShapeDtypeStruct((n, *own[i].shape[1:]), own[i].dtype) for i in group]
    try:
      found = jax.eval_shape(rule.forward, *replaced(own, group, wider))
    except Exception:  # Any exception of f counts as a refusal.
      return False
    grown = [(n, *o[1:]) if o and o[0] == size else o for o in old]
    return [tuple(o.shape) for o in found] in (grown, old)

  for size in dict.fromkeys(x.shape[0] for x in leaves if x.ndim and x.shape[0] > 0):
    by_argument: dict[str, list[int]] = {}
    for i, x in enumerate(leaves):
      if x.ndim and x.shape[0] == size:
        by_argument.setdefault(names[i], []).append(i)
    arguments = list(by_argument.values())
    # Data come after parameters: the last arguments together, then each by itself.
    groups = [list(itertools.chain(*arguments[k:])) for k in range(len(arguments))]
    for group in groups + arguments[:-1]:
      if all(accepts(group, size, n) for n in (size + 1, 2 * size + 1)):
        return group
  return None


def batch_points(
  rule: Rule, leaves: Leaves, batch: list[int], level: str, seed: int
) -> list[Point]:
  """Return batches of other sizes, of the given rows and redrawn ones."""
  rng = np.random.default_rng([seed, 4])
  own_n = leaves[batch[0]].shape[0]
  one_more = (own_n + 1,) if level == "deep" else ()
  sizes = dict.fromkeys(n for n in (*SIZES[level], *one_more) if n != own_n)
  is_open = may_be_indices(rule, leaves, batch, rng)
  return [
    Point(f"N = {n}", with_batch(rng, leaves, batch, n), only_finite=is_open and n > own_n)
    for n in sizes
  ]


def may_be_indices(rule: Rule, leaves: Leaves, batch: list[int], rng: np.random.Generator) -> bool:
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
  probe = with_batch(rng, leaves, batch, more)
  for numbers in (indices, np.where(indices < size, indices, indices + more)):
    own = replaced(probe, rows, [numbers.astype(leaves[i].dtype) for i in rows])
    try:
      outputs.append([np.asarray(y) for y in rule.forward(*rule.signature.in_own_dtypes(own))])
    except Exception:  # An exception of f proves nothing about the integers.
      return True
  return not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*outputs, strict=True))


def with_batch(rng: np.random.Generator, leaves: Leaves, batch: list[int], n: int) -> Leaves:
  """Return the leaves with n examples."""
  own_n = leaves[batch[0]].shape[0]
  found = list(leaves)
  for i in batch:
    picked = np.asarray(leaves[i])[np.resize(np.arange(own_n), n)]
    if n > own_n and kind(picked) == "f":
      found[i] = redrawn(rng, picked)
    elif n < own_n and is_permutation(leaves[i]):
      found[i] = np.argsort(np.argsort(picked)).astype(picked.dtype)
    else:
      found[i] = np.sort(picked) if is_sorted(leaves[i]) else picked
  return found
