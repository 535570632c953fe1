"""The truth of single entries by differences, for a reference that autodiff can't differentiate.

Rules are written by hand above all where there is no other derivative: a loop that ends by a
tolerance, a special function, a callback. Then each leaf's largest entries, and others at random,
are compared with one-sided differences of the function, on either side. At a kink every slope
between the two is accepted. Where the function's values are known to a tolerance only, the slope is
that of a polynomial fitted to them (`traces`).

Doubts: these bounds are a million times wider than those of autodiff in float64; entries that
weren't drawn aren't compared, and the report counts both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fbackprop.verify.interpret.primitives import lifted
from fbackprop.verify.witnesses.traces import NODES, RADII, Setting, extrapolated, fitted
from fbackprop.verify.witnesses.verdicts import SPREADS, Difference, spread

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
  at: Setting, entries: Sequence[Entry], is_exact: bool, is_noisy: bool = False
) -> tuple[np.ndarray, ...]:
  """Compute the one-sided derivatives of ⟨y_bar, f⟩ by single entries.

  Args:
    at: the programs and the point.
    entries: the entries to vary, one at a time.
    is_exact: whether the function is evaluated in float64 throughout.
    is_noisy: whether some of its operations are evaluated in a narrower dtype.

  Returns:
    (left, right, error, terms), an array [entries] each: the error is infinite where a side isn't
    finite; the terms are Σ |y_bar f| over the size of the entry.
  """
  total = 1 + sum(np.size(x) for x in at.leaves) + sum(np.size(b) for b in at.y_bar)
  room = max(1, MOST_NUMBERS // (total * len(NODES)))
  # A solver that ends by a tolerance may not see a small step.
  steps = () if at.witnesses.is_iterative else STEPS[is_exact]
  unit = 2.0**-50 if is_exact else 2.0**-21
  fits = is_noisy or at.witnesses.is_iterative
  parts = (entries[i : i + room] for i in range(0, len(entries), room))
  found = [best_of(at, part, steps, unit, fits) for part in parts]
  return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def best_of(
  at: Setting, entries: Sequence[Entry], steps: Sequence[float], unit: float, fits: bool
) -> tuple[np.ndarray, ...]:
  """Return the derivatives by the step, or fit, whose estimated error is least, for each entry."""
  tried = [np.stack(by_step(at, entries, step, unit)) for step in steps]
  tried += [np.stack(by_fit(at, entries, unit))] if fits else []
  best = tried[0]
  for other in tried[1:]:
    best = np.where(other[2] < best[2], other, best)
  return tuple(best)


def by_step(
  at: Setting, entries: Sequence[Entry], step: float, unit: float
) -> tuple[np.ndarray, ...]:
  """Extrapolate the quotients over one, two and four steps, on either side of each entry."""
  change, h, size = changes_by_entries(at, entries, step, MULTIPLES)
  right, r_error = extrapolated(change[:, :3], h[:, None] * MULTIPLES[:3])
  left, l_error = extrapolated(change[:, 3:], h[:, None] * MULTIPLES[3:])
  with np.errstate(all="ignore"):
    error = np.maximum(l_error, r_error) + 8 * size.terms * unit / h
  known = np.isfinite(left) & np.isfinite(right) & np.isfinite(error)
  return left, right, np.where(known, error, np.inf), step * size.terms / h


def by_fit(at: Setting, entries: Sequence[Entry], unit: float) -> tuple[np.ndarray, ...]:
  """Fit a polynomial to the changes of each entry, on both sides together.

  The radius is relative to the whole leaf, or where the function isn't finite so far from the
  entry, to the entry: its own change must be large beside the function's tolerance.
  """
  tried = []
  for of_leaf in (True, False):
    change, h, size = changes_by_entries(at, entries, RADII[0], NODES[1:], of_leaf)
    slope, error = fitted(change, h)
    error += 8 * unit * size.together / h
    error = np.where(np.isfinite(slope) & np.isfinite(error), error, np.inf)
    tried.append(np.stack((slope, slope, error, RADII[0] * size.terms / h)))
    if np.isfinite(error).all():
      return tuple(tried[0])
  return tuple(np.where(np.isfinite(tried[0][2]), *tried))


class Size(NamedTuple):
  """The size of ⟨y_bar, f⟩: Σ |y_bar f|, and √Σ (y_bar f)², as of independent roundings."""

  terms: float
  together: float


def changes_by_entries(
  at: Setting,
  entries: Sequence[Entry],
  step: float,
  multiples: np.ndarray,
  of_leaf: bool = False,
) -> tuple[np.ndarray, np.ndarray, Size]:
  """Return the changes of ⟨y_bar, f⟩ by multiples of a step of single entries.

  Args:
    at: the programs and the point.
    entries: the entries to vary, one at a time.
    step: the step, relative to the entry.
    multiples: the multiples of the step.
    of_leaf: whether the step is relative to the root mean square of the entry's leaf instead.

  Returns:
    (the changes [entries, multiples], the step of each entry, the size of ⟨y_bar, f⟩).
  """
  count, many = len(entries), len(multiples)
  inputs = [lifted(leaf) for leaf in at.leaves]
  h = np.empty(count)
  for k, (leaf, index) in enumerate(entries):
    place = at.witnesses.signature.floats[leaf]
    if inputs[place].shape[0] == 1:
      inputs[place] = np.repeat(inputs[place], 1 + count * many, axis=0)
    moved = inputs[place][(slice(None), *index)]
    leaf_size = float(np.sqrt(np.mean(np.asarray(at.leaves[place]) ** 2))) if of_leaf else 0.0
    size = max(abs(float(moved[0])), leaf_size)
    unit = size if 0 < size < np.inf else 1.0
    rows = slice(1 + k * many, 1 + (k + 1) * many)
    # The step as it is rounded, so that its multiples are exact.
    h[k] = (moved[0] + step * unit) - moved[0] or step * unit
    moved[rows] += h[k] * multiples
  outputs = at.witnesses.unrounded().run_stacked(at.witnesses.forward, inputs)
  change, terms, squares = np.zeros(count * many), 0.0, 0.0
  with np.errstate(all="ignore"):
    for b, y in zip(at.y_bar, outputs, strict=True):
      full = np.broadcast_to(y, (1 + count * many, *y.shape[1:]))
      change += ((full[1:] - full[:1]) * np.asarray(b)[None]).reshape(count * many, -1).sum(1)
      terms += float(np.abs(full[0] * b).sum())
      squares += float(((full[0] * b) ** 2).sum())
  return change.reshape(count, many), h, Size(terms, squares**0.5)


def compare_entries(
  at: Setting,
  samples: Sequence[np.ndarray],
  count: int,
  seed: int,
  is_exact: bool,
  allowance: float = 1.0,
  is_noisy: bool = False,
) -> list[Difference]:
  """Compare a rule's cotangents with differences, at `count` entries of each leaf.

  Args:
    at: the programs and the point.
    samples: the rule's cotangents, each with an axis of samples.
    count, seed: the number of entries of each leaf, and the seed by which they are drawn.
    is_exact, is_noisy: as for `slopes_of_entries`.
    allowance: a factor of the bounds.

  Returns:
    A difference for each leaf. Entries that weren't drawn are the rule's own and have no bound;
    those without a known slope are vacuous.
  """
  bars = [b[0] for b in samples]
  entries = drawn_entries(bars, count, seed)
  want = [np.array(bar) for bar in bars]
  bound = [np.zeros(bar.shape) for bar in bars]
  is_wrong, is_vacuous = ([np.zeros(bar.shape, bool) for bar in bars] for _ in range(2))
  if entries:
    found = slopes_of_entries(at, entries, is_exact, is_noisy)
    judged = judged_entries(at, samples, entries, found, is_exact, allowance)
    for (leaf, index), truth, limit, wrong, vacuous in zip(entries, *judged, strict=True):
      bound[leaf][index], is_wrong[leaf][index], is_vacuous[leaf][index] = limit, wrong, vacuous
      want[leaf][index] = bars[leaf][index] if vacuous else truth
  fields = zip(bars, want, bound, is_wrong, is_vacuous, strict=True)
  return [Difference(leaf, *own) for leaf, own in enumerate(fields)]


def judged_entries(
  at: Setting,
  samples: Sequence[np.ndarray],
  entries: Sequence[Entry],
  slopes: tuple[np.ndarray, ...],
  is_exact: bool,
  allowance: float,
) -> tuple[np.ndarray, ...]:
  """Return (truth, bound, whether it is wrong, whether it is vacuous) for each entry."""
  left, right, error, terms = slopes
  low, high = np.minimum(left, right), np.maximum(left, right)
  # Where f computes in a narrower dtype, its factors are rounded to that.
  coarse = 8 * at.witnesses.coarsest if at.witnesses.is_coarse else 0.0
  # The rule's own rounding, which counts where it isn't evaluated in float64.
  noise = [SPREADS * spread(b) for b in samples]
  leaves = np.array([leaf for leaf, _ in entries])
  got = np.array([samples[leaf][0][index] for leaf, index in entries])
  own = np.array([noise[leaf][index] for leaf, index in entries])
  with np.errstate(all="ignore"):
    size = np.maximum(np.abs(low), np.abs(high))
    # The relative term is the remainder of the extrapolation.
    bound = allowance * (8 * error + (1e-7 + coarse) * size + own)
    is_vacuous = ~(bound <= np.maximum(RESOLVED * size, NEGLIGIBLE[is_exact] * terms))
    # A loop's tolerance is relative to its result, hence to the largest slope of a leaf.
    known = np.where(np.isfinite(size), size, 0.0)
    largest = np.array([known[leaves == leaf].max() for leaf in leaves])
    bound += allowance * at.witnesses.tolerance * (size + largest)
    is_kink = high - low > 2 * bound
    truth = np.where(is_kink, np.clip(got, low, high), (low + high) / 2)
    is_wrong = ~is_vacuous & ~(np.abs(got - truth) <= bound)
  return truth, bound, is_wrong, is_vacuous
