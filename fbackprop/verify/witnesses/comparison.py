"""Comparison of the rule's numbers with the truth, entry by entry, within rounding error."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fbackprop.live_check import pooled
from fbackprop.verify.report.findings import Finding, Kind

# The number of spreads from which a difference counts. The spreads are those of roundings four
# times as large as float64's, and each is at least that of its row and its column.
SPREADS = 12.0
# A bound is vacuous if it exceeds this share of the bounded number.
VACUOUS = 1e-3
# A leaf whose bounds are below this share of the largest leaf is zero up to rounding.
ZERO = 1e-9
# The magnitude below which float64 itself flushes to zero.
FLOOR = 1e-290


class Difference(NamedTuple):
  """The comparison of one leaf.

  Attributes:
    leaf: its index among the float leaves.
    got, want, bound: the rule's numbers, the truth, and the bound; float64, in the leaf's shape.
    is_wrong: where |got − want| is beyond the bound, or one of them alone isn't finite.
    is_vacuous: where the bound is vacuous; nowhere by default.
  """

  leaf: int
  got: np.ndarray
  want: np.ndarray
  bound: np.ndarray
  is_wrong: np.ndarray
  is_vacuous: np.ndarray = np.zeros((), bool)

  @property
  def worst(self) -> tuple[int, ...]:
    """The entry with the largest error over its bound; nonfinite entries come first."""
    excess = np.where(np.isnan(self.excess), np.inf, self.excess)
    excess = np.where(self.is_wrong, excess, -1.0)
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), excess.shape))

  @property
  def share(self) -> float:
    """The largest error over its bound, of the finite entries."""
    return largest_of(self.excess)

  @property
  def excess(self) -> np.ndarray:
    """The errors over their bounds."""
    with np.errstate(all="ignore"):
      return np.asarray(np.abs(self.got - self.want) / self.bound)

  def finding(self, kind: Kind, check: str, where: str, leaf: str, **said: Any) -> Finding:
    """Return the finding of the worst entry, with a `cause` and a `message`."""
    index, wrong = self.worst, self.is_wrong
    got, want, bound = (float(x[index]) for x in (self.got, self.want, self.bound))
    count = int(wrong.sum())
    return Finding(
      kind, check, where, leaf, index, got, want, bound, count, wrong.size, wrong.shape, **said
    )


def spread(samples: np.ndarray) -> np.ndarray:
  """Return the standard deviation of each entry's samples about the first.

  With four samples an entry may be constant by chance. So its deviation is at least the product
  estimate from its rows and columns, Π_axis (mean over the other axes) / mean^(ndim − 1): `pooled`.
  """
  if samples.shape[0] == 1:
    return np.zeros(samples.shape[1:])
  with np.errstate(all="ignore"):
    moved = samples[1:] - samples[:1]  # In place from here on: allocating new pages costs more.
    np.abs(moved, out=moved)
    # Scaled so that squares can't underflow, neither beside a larger entry nor all of them.
    own = moved.max(0)
    moved /= np.where(own > 0, own, 1.0)
    moved *= moved
    return pooled(np.asarray(own * np.sqrt(moved.mean(0))))


def compare(
  got: Sequence[np.ndarray], want: Sequence[np.ndarray], allowance: float, may_be_vacuous: bool
) -> list[Difference]:
  """Compare the samples of all leaves; the first sample is the unperturbed one.

  Args:
    got: the rule's cotangents, each with an axis of samples.
    want: the true cotangents, likewise.
    allowance: a factor of the bounds.
    may_be_vacuous: whether a bound can be too wide for another reason than cancellation: a fragile
      comparison, an operation that isn't evaluated in float64, a program in a narrow dtype.
  """
  largest = max((largest_of(w[0]) for w in want), default=0.0)
  differences = []
  for leaf, (g, w) in enumerate(zip(got, want, strict=True)):
    with np.errstate(all="ignore"):
      size = np.maximum(np.abs(g[0]), np.abs(w[0]))
      noise = SPREADS * (spread(g) + spread(w)) + 8 * 2.0**-52 * size + FLOOR
      bound = allowance * noise
      error = np.abs(g[0] - w[0])
      are_finite = np.isfinite(g[0]), np.isfinite(w[0])
      both = np.logical_and(*are_finite)
      # Where neither is finite there is no truth to compare with.
      is_wrong = np.where(both, error > bound, np.logical_or(*are_finite))
      # A leaf that is zero up to rounding has the size that it should have.
      widest = largest_of(bound)
      is_zero = largest_of(w[0]) <= widest <= ZERO * largest
      scale = max(largest if is_zero else largest_of(w[0]), 2 * FLOOR / VACUOUS)
      is_vacuous = np.isnan(bound) | np.isinf(bound)
      if may_be_vacuous:
        is_vacuous |= bound > VACUOUS * scale
      is_vacuous &= both
    differences.append(Difference(leaf, g[0], w[0], bound, is_wrong & ~is_vacuous, is_vacuous))
  return differences


def largest_of(x: np.ndarray) -> float:
  """Return the largest magnitude among the finite entries."""
  return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))
