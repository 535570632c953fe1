"""The truth of single entries by differences, for a reference that autodiff can't differentiate.

Rules are written by hand above all where there is no other derivative: a loop that ends by a
tolerance, a special function, a callback. Then each leaf's largest entries, and others at random,
are compared with one-sided differences of the function, on either side. At a kink every slope
between the two is accepted.

Doubts: these bounds are a million times wider than those of autodiff in float64; entries that
weren't drawn aren't compared, and the report counts both.
"""

from collections.abc import Sequence

import numpy as np

from fbackprop.verify.interpret.primitives import lifted
from fbackprop.verify.witnesses.traces import Setting
from fbackprop.verify.witnesses.verdicts import Difference

Entry = tuple[int, tuple[int, ...]]
# Relative steps, in a program evaluated in float64 and in a narrower one. The first two terms of
# the error are cancelled, so that the fourth root of the rounding unit balances it with rounding.
STEPS = {True: (2.0**-20, 2.0**-13), False: (2.0**-9, 2.0**-6)}
# The multiples of a step at which the function is evaluated.
MULTIPLES = np.array([1.0, 2.0, 4.0, -1.0, -2.0, -4.0])
# The accuracy demanded of a truth: an entry whose slope is known less accurately has none, unless
# it is zero up to this share of the function's own terms.
RESOLVED = 1e-2
NEGLIGIBLE = {True: 1e-6, False: 1e-2}
# Numbers of a batch of perturbed arguments.
MOST_NUMBERS = 4_000_000


def drawn_entries(bars: Sequence[np.ndarray], count: int, seed: int) -> list[Entry]:
  """Draw at most `count` entries of each leaf: half of them the largest, the others at random."""
  rng = np.random.default_rng([seed, 5])
  found: list[Entry] = []
  for leaf, bar in enumerate(bars):
    size = np.where(np.isfinite(bar), np.abs(bar), np.inf).reshape(-1)
    order = np.argsort(-size, kind="stable")
    places = dict.fromkeys(int(i) for i in [*order[: (count + 1) // 2], *rng.permutation(bar.size)])
    found += [
      (leaf, tuple(int(k) for k in np.unravel_index(i, bar.shape))) for i in list(places)[:count]
    ]
  return found


def slopes_of_entries(
  at: Setting, entries: Sequence[Entry], is_exact: bool
) -> tuple[np.ndarray, ...]:
  """Compute the one-sided derivatives of ⟨y_bar, f⟩ by single entries.

  Args:
    at: the programs and the point.
    entries: the entries to vary, one at a time.
    is_exact: whether the function is evaluated in float64 throughout.

  Returns:
    (left, right, error, terms), an array [entries] each: the error is infinite where a side isn't
    finite; the terms are Σ |y_bar f| over the size of the entry.
  """
  total = 1 + sum(np.size(x) for x in at.leaves) + sum(np.size(b) for b in at.y_bar)
  room = max(1, MOST_NUMBERS // (total * (1 + len(MULTIPLES))))
  found = [
    best_of(at, entries[i : i + room], STEPS[is_exact], 2.0**-50 if is_exact else 2.0**-21)
    for i in range(0, len(entries), room)
  ]
  return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def best_of(
  at: Setting, entries: Sequence[Entry], steps: Sequence[float], unit: float
) -> tuple[np.ndarray, ...]:
  """Return the derivatives by the step whose estimated error is least, entry by entry."""
  tried = [np.stack(by_step(at, entries, step, unit)) for step in steps]
  best = tried[0]
  for other in tried[1:]:
    best = np.where(other[2] < best[2], other, best)
  return tuple(best)


def by_step(
  at: Setting, entries: Sequence[Entry], step: float, unit: float
) -> tuple[np.ndarray, ...]:
  """Extrapolate the quotients over one, two and four steps, on either side of each entry."""
  signature = at.witnesses.signature
  count, many = len(entries), len(MULTIPLES)
  inputs = [lifted(leaf) for leaf in at.leaves]
  h = np.empty(count)
  for k, (leaf, index) in enumerate(entries):
    place = signature.floats[leaf]
    if inputs[place].shape[0] == 1:
      inputs[place] = np.repeat(inputs[place], 1 + count * many, axis=0)
    moved = inputs[place][(slice(None), *index)]
    size = abs(float(moved[0]))
    h[k] = step * (size if 0 < size < np.inf else 1.0)
    rows = slice(1 + k * many, 1 + (k + 1) * many)
    moved[rows] += h[k] * MULTIPLES
    h[k] = (moved[1 + k * many] - moved[0]) or h[k]  # The step as it was rounded.
  outputs = at.witnesses.unrounded().run_stacked(at.witnesses.forward, inputs)
  change, terms = np.zeros(count * many), 0.0
  with np.errstate(all="ignore"):
    for b, y in zip(at.y_bar, outputs, strict=True):
      full = np.broadcast_to(y, (1 + count * many, *y.shape[1:]))
      change += ((full[1:] - full[:1]) * np.asarray(b)[None]).reshape(count * many, -1).sum(1)
      terms += float(np.abs(full[0] * b).sum())
    quotient = change.reshape(count, many) / (h[:, None] * MULTIPLES)
    sides, errors = [], []
    for one in (3, 0):
      d1, d2, d4 = quotient[:, one : one + 3].T
      limit = (8 * d1 - 6 * d2 + d4) / 3
      sides.append(limit)
      errors.append(np.abs(limit - (2 * d1 - d2)) + 8 * terms * unit / h)
    error = np.maximum(*errors)
  known = np.isfinite(sides[0]) & np.isfinite(sides[1])
  error = np.where(known & np.isfinite(error), error, np.inf)
  return sides[0], sides[1], error, step * terms / h


def compare_entries(
  at: Setting,
  bars: Sequence[np.ndarray],
  count: int,
  seed: int,
  is_exact: bool,
  allowance: float = 1.0,
) -> list[Difference]:
  """Compare a rule's cotangents with differences, at `count` entries of each leaf.

  Returns:
    A difference for each leaf. Entries that weren't drawn are the rule's own and have no bound;
    those without a known slope are vacuous.
  """
  entries = drawn_entries(bars, count, seed)
  # Where f computes in a narrower dtype, its factors are rounded to that.
  coarse = 8 * at.witnesses.coarsest if at.witnesses.is_coarse else 0.0
  want = [np.array(bar) for bar in bars]
  bound = [np.zeros(bar.shape) for bar in bars]
  is_wrong, is_vacuous = ([np.zeros(bar.shape, bool) for bar in bars] for _ in range(2))
  slopes = zip(*slopes_of_entries(at, entries, is_exact), strict=True) if entries else ()
  for (leaf, index), (left, right, error, terms) in zip(entries, slopes, strict=True):
    low, high = sorted((left, right))
    size = max(abs(low), abs(high))
    # The relative term is the remainder of the extrapolation.
    limit = allowance * (8 * error + (1e-7 + coarse) * size)
    bound[leaf][index] = limit
    is_vacuous[leaf][index] = not limit <= max(RESOLVED * size, NEGLIGIBLE[is_exact] * terms)
    if not is_vacuous[leaf][index]:
      is_kink = high - low > 2 * limit
      truth = np.clip(bars[leaf][index], low, high) if is_kink else (low + high) / 2
      want[leaf][index] = truth
      is_wrong[leaf][index] = not abs(bars[leaf][index] - truth) <= limit
  fields = zip(bars, want, bound, is_wrong, is_vacuous, strict=True)
  return [Difference(leaf, *own) for leaf, own in enumerate(fields)]
