"""The axes whose lengths a function lets vary, besides that of its examples.

A remainder of a tile, an odd length or a single step are where rules go wrong, along any axis:
time, channels, classes. An axis is found by abstract evaluation: lengths of one size are
lengthened, in the smallest set of arguments' axes for which the function still accepts them.

Doubts: the sets that are tried hold one axis, two, or all of one size; a function that ties three
of four equal axes together is taken to have no such axis. Axes of length 1 broadcast, and aren't
varied.
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.witnesses.rule import Leaves, Rule

Axes = frozenset[tuple[int, int]]
# Abstract evaluations per problem.
MOST_TRIALS = 60
LENGTHS = {"quick": (3,), "standard": (1, 3, 13), "deep": (1, 2, 3, 5, 8, 13, 33)}


def find_axes(rule: Rule, leaves: Leaves, known: Axes) -> list[Axes]:
  """Find the sets of (leaf, axis) that can be lengthened together, without those in `known`."""
  free = [
    (i, axis)
    for i, x in enumerate(leaves)
    for axis, n in enumerate(np.shape(x))
    if n > 1 and (i, axis) not in known
  ]
  found: list[Axes] = []
  trials = 0
  while free:
    first = free.pop(0)
    size = np.shape(leaves[first[0]])[first[1]]
    same = [a for a in free if np.shape(leaves[a[0]])[a[1]] == size]
    for others in candidates(first, same):
      trials += 1
      if trials > MOST_TRIALS:
        return found
      axes = frozenset((first, *others))
      if all(accepts_lengths(rule, leaves, axes, n) for n in (size + 1, 2 * size + 1)):
        found.append(axes)
        free = [a for a in free if a not in axes]
        break
  return found


def candidates(
  first: tuple[int, int], same: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], ...]]:
  """Yield sets of other axes to be lengthened with the first."""
  yield ()
  yield from ((a,) for a in same)
  # The same axis of all arguments, then all axes of one length.
  alike = tuple(a for a in same if a[1] == first[1] and a[0] != first[0])
  if len(alike) > 1:
    yield alike
  yield from itertools.combinations(same, 2) if len(same) < 6 else ()
  if len(same) > 2:
    yield tuple(same)


def lengthened(leaves: Leaves, axes: Axes, n: int) -> list[tuple[int, ...]]:
  """Return the shapes of the leaves with some axes of length n."""
  return [
    tuple(n if (i, axis) in axes else own for axis, own in enumerate(np.shape(x)))
    for i, x in enumerate(leaves)
  ]


def accepts_lengths(rule: Rule, leaves: Leaves, axes: Axes, n: int) -> bool:
  """Return whether f returns floats for arguments with these axes of length n."""
  own = [
    jax.ShapeDtypeStruct(shape, x.dtype)
    for shape, x in zip(
      lengthened(leaves, axes, n), rule.signature.in_own_dtypes(leaves), strict=True
    )
  ]
  try:
    outputs = jax.tree.leaves(jax.eval_shape(rule.forward, *own))
  except Exception:  # Any exception of f counts as a refusal.
    return False
  return any(is_float(o.dtype) for o in outputs)


def resized(leaves: Leaves, axes: Axes, n: int) -> Leaves:
  """Return the leaves with some axes of length n: rows repeat, or are left out."""
  found = []
  for i, x in enumerate(leaves):
    for axis in (a for leaf, a in sorted(axes) if leaf == i):
      x = np.take(x, np.resize(np.arange(np.shape(x)[axis]), n), axis=axis)
    found.append(x)
  return found


def name_of(rule: Rule, axes: Axes, n: int) -> str:
  """Return the printed name of a test point, such as "axis 1 of q, k: length 3"."""
  by_axis: dict[int, list[str]] = {}
  for leaf, axis in sorted(axes):
    by_axis.setdefault(axis, []).append(rule.signature.names[leaf])
  words = (f"axis {axis} of {', '.join(names)}" for axis, names in by_axis.items())
  return f"{' and '.join(words)}: length {n}"


def changed_lengths(
  level: str, leaves: Leaves, groups: Sequence[Axes]
) -> list[list[tuple[Axes, int]]]:
  """Return the lengths at which axes are tried, all axes at once, each of another length."""
  tried = LENGTHS.get(level, ())
  rounds = []
  for k in range(len(tried) + 1):
    changes = []
    for i, axes in enumerate(groups):
      leaf, axis = min(axes)
      own = np.shape(leaves[leaf])[axis]
      n = (*tried, own + 1)[(k + i) % (len(tried) + 1)]
      if n != own:
        changes.append((axes, n))
    rounds.append(changes)
  found = [changes for changes in rounds if changes]
  return found[:1] if level == "quick" else found
