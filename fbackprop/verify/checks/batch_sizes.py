"""Batches of other sizes: which axis is that of the examples, and arguments with more or fewer."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fbackprop.verify.checks.test_points import Regime, is_integer, is_sorted, redrawn
from fbackprop.verify.witnesses.arguments import Leaves, Signature
from fbackprop.verify.witnesses.rules import Rule

# Sizes of a batch: none, one, two, three, primes beyond the edges of tiles of 8 to 128.
SIZES = {
  "quick": (1,),
  "large": (1, 13),
  "standard": (0, 1, 2, 3, 13, 131),
  "deep": (0, 1, 2, 3, 7, 13, 16, 33, 131, 257),
}


def find_batch(rule: Rule, leaves: Leaves, outputs: Sequence[Any]) -> dict[int, int] | None:
  """The axis of N examples, by leaf: what can be made longer together, and f still takes it.

  Returns:
    `{leaf: axis}`; None if there is none. Tried are the first axes of leaves of one length, the
    fewest leaves that will do; the outputs must then grow, or be scalars.
  """
  sizes = dict.fromkeys(x.shape[0] for x in leaves if getattr(x, "ndim", 0) and x.shape[0] > 0)
  for size in sizes:
    candidates = [i for i, x in enumerate(leaves) if x.ndim and x.shape[0] == size]
    for group in groups(rule.signature, candidates):
      if takes(rule, leaves, group, size + 1, outputs, size) and takes(
        rule, leaves, group, 2 * size + 1, outputs, size
      ):
        return dict.fromkeys(group, 0)
  return None


def groups(signature: Signature, candidates: list[int]) -> list[list[int]]:
  """Sets of leaves that may share the axis of examples; data stands behind parameters."""
  if not candidates:
    return []
  by_argument: dict[str, list[int]] = {}
  for i in candidates:
    by_argument.setdefault(signature.names[i].partition("/")[0], []).append(i)
  arguments = list(by_argument.values())
  found = [[i for own in arguments for i in own]]
  for first in range(1, len(arguments)):
    found.append([i for own in arguments[first:] for i in own])
  found += arguments
  return [list(g) for g in dict.fromkeys(map(tuple, found))]


def takes(
  rule: Rule,
  leaves: Leaves,
  group: list[int],
  size: int,
  outputs: Sequence[Any],
  old_size: int,
) -> bool:
  """Whether f takes a batch of another size, and only the outputs' first axes grow."""
  own = [
    jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) if i in group else x
    for i, x in enumerate(rule.signature.in_own_dtypes(leaves))
  ]
  try:
    found = jax.tree.leaves(jax.eval_shape(rule.forward, *own))
  except Exception:  # Whatever f raises, it doesn't take it.
    return False
  old = [tuple(o.shape) for o in outputs]
  new = [tuple(o.shape) for o in found]
  if len(old) != len(new):
    return False
  grown = [(size, *o[1:]) if o and o[0] == old_size else o for o in old]
  return new in (grown, old)


def batch_regimes(
  rule: Rule, leaves: Leaves, batch: dict[int, int], level: str, seed: int
) -> list[Regime]:
  """Batches of other sizes: rows that were there, and redrawn ones."""
  rng = np.random.default_rng([seed, 4])
  own_size = leaves[next(iter(batch))].shape[0]
  sizes = [n for n in SIZES[level] if n != own_size]
  if level != "quick":
    sizes.append(own_size + 1)
  is_open = may_be_places(rule, leaves, batch, rng)
  return [
    Regime(
      f"N = {n}",
      with_batch(rng, rule.signature, leaves, batch, n),
      only_finite=is_open and n > own_size,
    )
    for n in dict.fromkeys(sizes)
  ]


def may_be_places(
  rule: Rule, leaves: Leaves, batch: dict[int, int], rng: np.random.Generator
) -> bool:
  """Whether integers that are the places of the examples are so for more of them too.

  They may be labels, of which there happen to be as many: then more examples have the same ones
  again, as a rule may not expect of places. Asked is f, with the places of more examples: if it
  gives the same for still larger numbers in place of the new ones, then it knows no such places.
  """
  rows = [i for i in batch if is_permutation(leaves[i])]
  if not rows:
    return False
  size = leaves[rows[0]].shape[0]
  more = 2 * size + 1  # A number that f takes: see find_batch.
  outputs = []
  places = rng.permutation(more)
  probe = with_batch(rng, rule.signature, leaves, batch, more)
  for numbers in (places, np.where(places < size, places, places + more)):
    own = [numbers.astype(x.dtype) if i in rows else x for i, x in enumerate(probe)]
    try:
      outputs.append([np.asarray(y) for y in rule.forward(*rule.signature.in_own_dtypes(own))])
    except Exception:  # Whatever f raises, it says nothing of what the numbers are.
      return True
  return not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*outputs, strict=True))


def with_batch(
  rng: np.random.Generator, signature: Signature, leaves: Leaves, batch: dict[int, int], n: int
) -> Leaves:
  """The leaves with n examples."""
  own_size = leaves[next(iter(batch))].shape[0]
  rows = np.resize(np.arange(own_size), n)
  found = list(leaves)
  for i in batch:
    picked = np.asarray(leaves[i])[rows]
    if n > own_size and signature.is_float[i]:
      found[i] = redrawn(rng, picked)
    elif n < own_size and is_permutation(leaves[i]):
      found[i] = np.argsort(np.argsort(picked)).astype(picked.dtype)
    else:
      found[i] = np.sort(picked) if is_sorted(leaves[i]) else picked
  return found


def is_permutation(x: Any) -> bool:
  """Whether it holds the numbers of its own places."""
  return is_integer(x) and x.ndim == 1 and np.array_equal(np.sort(x), np.arange(x.size))
