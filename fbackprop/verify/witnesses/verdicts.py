"""The comparison of rule and autodiff within rounding error, and the verdict where they differ.

U is the rule, A autodiff of the reference, D one-sided differences of it (`traces`). A kink's
slopes are those of the Clarke subdifferential, between the left and the right derivative.

| U, A | D | verdict |
|---|---|---|
| agree | agrees | pass |
| differ | left = right = A | fail |
| differ | left = right = U | oracle fault |
| differ | left ≠ right, U between | kink: the declared tie policy decides |
| differ | left ≠ right, U outside | fail |
| agree | differs where smooth | semantic: fail, unless declared |

D is computed along the few worst entries of a leaf. Where the reference is tied in many places at
once, a single entry moves all of them, and the one-sided limits of their sum determine none of
them. So U is first compared with autodiff under other tie policies (`kinks`), and slopes that are
right one by one must also be right jointly.

Doubts: D is an estimate with an estimated error, in float64; a verdict of "oracle fault" or "kink"
requires that error to be at most a tenth of the difference to decide; otherwise the rule fails,
since it disagrees with autodiff. The thresholds are empirical: no false positive on the bank of
right rules. A function or a rule with a loop that ends by a tolerance has no derivative of higher
accuracy than the tolerance, and a difference is judged by its size; an error below
`LOOP_TOLERANCE` isn't told from it where further iterations change the numbers as much.

References:
  Clarke, "Optimization and Nonsmooth Analysis", Wiley, 1983; Kakade, Lee, "Provably correct
  automatic subdifferentiation for qualified programs", NeurIPS 2018.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from fbackprop.rounding import pooled
from fbackprop.verify.heat_maps import LeafMap, map_of
from fbackprop.verify.interpret.primitives import digits
from fbackprop.verify.report import Finding, Kind
from fbackprop.verify.witnesses.kinks import find_ties, fit_policy
from fbackprop.verify.witnesses.rule import replaced
from fbackprop.verify.witnesses.traces import (
  CONSTANTS,
  LEAST_BOUND,
  Setting,
  Slopes,
  Values,
  Witnesses,
  evaluate,
  slopes,
)

# The number of spreads from which a difference counts. The spreads are those of roundings four
# times as large as float64's, and each is at least that of its row and its column.
SPREADS = 12.0
# A bound is vacuous if it exceeds this share of the bounded number.
VACUOUS = 1e-3
# Rule and autodiff that differ by less than this share of a leaf agree whatever rounding may do.
AGREED = 1e-9
# A leaf whose bounds are below this share of the largest leaf is zero up to rounding.
ZERO = 1e-9
# The magnitude below which float64 itself flushes to zero.
FLOOR = 1e-290
# The gravest first.
Ruling = Literal["fail", "oracle fault", "kink", "undefined", "inexact", "unresolved"]
# An error below this share of a leaf counts as a loop's tolerance whatever further iterations do.
SURELY_TOLERANCE = 1e-6
# D resolves a difference if its own error is below this share of the difference.
RESOLVED = 0.1
# Differences at their small step are this steep where the slope is infinite, as a root's at zero.
STEEP = 100.0
# The number of entries of a leaf for which D is computed.
ENTRIES = 3
# The tolerance of D's agreement, relative to the terms that a directional derivative sums.
DIFFERENCE_TOLERANCE = 1e-5


# --- The comparison of the rule with the truth, entry by entry ------------------------------------


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
  def error(self) -> np.ndarray:
    """The distances of the numbers from their truth; NaN where neither is finite."""
    with np.errstate(all="ignore"):
      return np.asarray(np.abs(self.got - self.want))

  @property
  def excess(self) -> np.ndarray:
    """The errors over their bounds."""
    with np.errstate(all="ignore"):
      return np.asarray(self.error / self.bound)

  def finding(self, kind: Kind, check: str, where: str, leaf: str, **said: Any) -> Finding:
    """Return the finding of the worst entry, with a `cause` and a `message`."""
    index, wrong = self.worst, self.is_wrong
    got, want, bound = (float(x[index]) for x in (self.got, self.want, self.bound))
    count = int(wrong.sum())
    return Finding(
      kind, check, where, leaf, index, got, want, bound, count, wrong.size, wrong.shape,
      leaf_map=self.map_as(kind), **said,
    )  # fmt: skip

  def map_as(self, kind: Kind) -> LeafMap | None:
    """Return the leaf's numbers; a finding without a verdict is about undecided entries."""
    is_beyond, is_undecided = self.is_wrong, np.asarray(self.is_vacuous)
    if kind == "no verdict":
      is_beyond, is_undecided = np.zeros_like(self.is_wrong), is_undecided | self.is_wrong
    return map_of(self.got, self.want, self.bound, is_beyond, is_undecided)


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
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  allowance: float,
  may_be_vacuous: bool,
  tolerance: float = 0.0,
) -> list[Difference]:
  """Compare the samples of all leaves; the first sample is the unperturbed one.

  Args:
    got: the rule's cotangents, each with an axis of samples.
    want: the true cotangents, likewise.
    allowance: a factor of the bounds.
    may_be_vacuous: whether a bound can be too wide for another reason than cancellation: a fragile
      comparison, an operation that isn't evaluated in float64, a program in a narrow dtype.
    tolerance: the accuracy, relative to a leaf, of loops that end by a tolerance.
  """
  largest = max((largest_of(w[0]) for w in want), default=0.0)
  differences = []
  for leaf, (g, w) in enumerate(zip(got, want, strict=True)):
    with np.errstate(all="ignore"):
      size = np.maximum(np.abs(g[0]), np.abs(w[0]))
      noise = SPREADS * (spread(g) + spread(w)) + LEAST_BOUND * size + FLOOR
      by_rounding = allowance * noise
      bound = by_rounding + tolerance * (np.abs(w[0]) + largest_of(w[0]))
      error = np.abs(g[0] - w[0])
      are_finite = np.isfinite(g[0]), np.isfinite(w[0])
      both = np.logical_and(*are_finite)
      # Where neither is finite there is no truth to compare with.
      is_wrong = np.where(both, error > bound, np.logical_or(*are_finite))
      # A leaf that is zero up to rounding has the size that it should have.
      widest = largest_of(by_rounding)
      is_zero = largest_of(w[0]) <= widest <= ZERO * largest
      scale = max(largest if is_zero else largest_of(w[0]), 2 * FLOOR / VACUOUS)
      is_vacuous = np.isnan(bound) | np.isinf(bound)
      if may_be_vacuous:
        is_vacuous |= by_rounding > VACUOUS * scale
      is_vacuous &= both
    differences.append(Difference(leaf, g[0], w[0], bound, is_wrong & ~is_vacuous, is_vacuous))
  return differences


def where_apart(d: Difference) -> Difference:
  """Return a comparison whose bounds are vacuous only where the numbers differ.

  Where rounding decides a comparison it may move both of them by much, as where it ends a loop.
  """
  with np.errstate(all="ignore"):
    is_apart = ~(d.error <= AGREED * largest_of(d.want))
  return d._replace(is_vacuous=d.is_vacuous & is_apart)


def largest_of(x: np.ndarray) -> float:
  """Return the largest magnitude among the finite entries."""
  return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


def without_number(d: Difference) -> Difference:
  """Return a comparison of the entries alone that neither the rule nor autodiff has a number for.

  Differences may have one: a distance that is guarded at zero is finite there, and its slope isn't
  NaN. Two infinities agree, as of a root at zero.
  """
  return d._replace(is_wrong=np.isnan(d.got) & ~np.isfinite(d.want))


# --- The verdict ----------------------------------------------------------------------------------


class Judgement(NamedTuple):
  """The verdict on one differing leaf.

  Attributes:
    difference: the comparison of the leaf.
    ruling: the row of the table.
    why: the reason in a sentence; "" where the numbers suffice.
    is_resolved: whether D is accurate enough to decide.
    truth: D at the worst entry, where it agrees with neither; NaN elsewhere.
  """

  difference: Difference
  ruling: Ruling
  why: str = ""
  is_resolved: bool = True
  truth: float = np.nan


def judge(at: Setting, differences: Sequence[Difference], seed: int) -> list[Judgement]:
  """Judge every differing leaf, in the order of the backward pass."""
  wrong = [differences[i] for i in at.witnesses.first_to_last if differences[i].is_wrong.any()]
  ties = find_ties(at) if wrong else []
  # Kinks that cancel, as in the stable form of a smooth loss, admit no other slope.
  if ties and not is_smooth(at, seed):
    # A vacuous bound excludes no policy.
    bounds = [np.where(d.is_vacuous, np.inf, d.bound) for d in differences]
    if fit_policy(at, [d.got for d in differences], bounds, ties) is not None:
      return [Judgement(d, "kink") for d in wrong]
  judgements = settled(at, [ruling_of(at, d) for d in wrong])
  if all(j.ruling != "kink" for j in judgements) or is_joint_slope(at, differences):
    return judgements
  why = "each entry is a slope of the kink, all of them together are not"
  return [j._replace(ruling="fail", why=why) if j.ruling == "kink" else j for j in judgements]


def settled(at: Setting, judgements: list[Judgement]) -> list[Judgement]:
  """Excuse differences that are the tolerance of a loop, by letting the loops go on.

  Autodiff differentiates the iterations that were made, an implicit rule the limit. Further
  iterations then move the one or the other, while an error of the rule remains as it is.
  """
  rulings = ("fail", "oracle fault")
  if not at.witnesses.tolerance or all(j.ruling not in rulings for j in judgements):
    return judgements
  later = evaluate(at, None, goes_on=True)
  return [loop_ruling(at, j, later) if j.ruling in rulings else j for j in judgements]


def loop_ruling(at: Setting, judgement: Judgement, later: Values) -> Judgement:
  """Return the ruling on one leaf, given the values after further iterations."""
  d, tolerance = judgement.difference, at.witnesses.tolerance
  with np.errstate(all="ignore"):
    size = np.abs(d.want) + np.max(np.abs(d.want), initial=0.0)
    share = float(np.max((np.abs(d.got - d.want) / size)[d.is_wrong]))
    got, want = (x[d.leaf][0][d.is_wrong] for x in (later.bars, later.bars_want or later.bars))
    gap, after = (largest_of(x) for x in ((d.got - d.want)[d.is_wrong], got - want))
    rule_moved = not largest_of(got - d.got[d.is_wrong]) < gap / 2 or not np.isfinite(got).all()
    has_moved = not largest_of(want - d.want[d.is_wrong]) < gap / 2 or not np.isfinite(want).all()
  if share <= SURELY_TOLERANCE or (share <= tolerance and (has_moved or rule_moved)):
    return judgement._replace(ruling="inexact")
  is_limit = has_moved and after <= gap / 2 and bool(np.isfinite(got - want).all())
  if at.witnesses.is_iterative and (is_limit or (has_moved and not judgement.is_resolved)):
    return judgement._replace(ruling="unresolved")
  return judgement


def is_joint_slope(at: Setting, differences: Sequence[Difference]) -> bool:
  """Return whether entries that are slopes one by one are a joint slope.

  At the tie of a maximum each of its inputs may have the whole slope, but not all of them at once:
  when all move alike, the function is smooth, and the slopes must sum to its slope.
  """
  everywhere = [d.is_wrong.astype(np.float64) for d in differences]
  nowhere = [np.zeros_like(d) for d in everywhere]
  alone = [replaced(nowhere, [i], [wrong]) for i, wrong in enumerate(everywhere) if wrong.any()]
  for direction in [everywhere, *alone]:
    found = slopes(at, direction)
    own, terms = along([d.got for d in differences], direction)
    terms += abs(found.left)
    is_smooth_along = abs(found.left - found.right) <= 1e-5 * terms + 8 * found.error
    is_resolved = found.is_known and found.error < 1e-4 * terms
    is_off = abs(own - found.left) > 1e-3 * terms + 8 * found.error
    if is_resolved and is_smooth_along and is_off:
      return False
  return True


def along(bars: Sequence[np.ndarray], direction: Sequence[np.ndarray]) -> tuple[float, float]:
  """Return the derivative along a direction, and the sum of its terms' magnitudes."""
  products = [np.asarray(b * d) for b, d in zip(bars, direction, strict=True)]
  return float(sum(p.sum() for p in products)), float(sum(np.abs(p).sum() for p in products))


def is_smooth(at: Setting, seed: int) -> bool:
  """Return whether left and right derivatives agree along random directions."""
  rng = np.random.default_rng([seed, 1])
  return all(
    abs(found.left - found.right) <= 1e-4 * (abs(found.left) + abs(found.right)) + 8 * found.error
    for found in (slopes(at, random_direction(rng, at)) for _ in range(3))
  )


def random_direction(rng: np.random.Generator, at: Setting) -> list[np.ndarray]:
  """Draw a normal direction in every float leaf, scaled to the varied entries."""
  found = []
  for leaf in at.float_leaves:
    size = float(np.sqrt(np.mean(leaf**2))) if leaf.size else 0.0
    found.append(rng.normal(size=leaf.shape) * (size if 0 < size < np.inf else 1.0))
  return found


def ruling_of(at: Setting, d: Difference) -> Judgement:
  """Return the judgement by the gravest of the rulings of some entries of a leaf."""
  rulings: list[Ruling] = []
  is_resolved, truth = False, np.nan
  for index in some_entries(d):
    direction = [np.zeros_like(leaf) for leaf in at.float_leaves]
    direction[d.leaf][index] = 1.0
    found = slopes(at, direction)
    got, want = float(d.got[index]), float(d.want[index])
    rulings.append(rule_on(got, want, found))
    gap = abs(got - want)
    is_resolved |= found.is_known and (not np.isfinite(gap) or found.error <= RESOLVED * gap)
    is_third = found.is_known and abs(want - found.left) > 2 * RESOLVED * gap + 8 * found.error
    if index == d.worst and rulings[-1] == "fail" and is_third and is_smooth_at(found):
      truth = (found.left + found.right) / 2
  ruling: Ruling = min(rulings, key=get_args(Ruling).index, default="fail")
  return Judgement(d, ruling, is_resolved=is_resolved, truth=truth)


def is_smooth_at(found: Slopes) -> bool:
  """Return whether left and right derivative are one."""
  size = abs(found.left) + abs(found.right)
  return abs(found.left - found.right) <= 1e-3 * size + 8 * found.error


def some_entries(difference: Difference) -> list[tuple[int, ...]]:
  """Return the worst entry, and those of the largest errors among the wrong ones."""
  with np.errstate(all="ignore"):
    error = np.where(difference.is_wrong, np.abs(difference.got - difference.want), -1.0)
  order = np.argsort(-np.where(np.isnan(error), np.inf, error), axis=None)[:ENTRIES]
  found = [tuple(int(k) for k in np.unravel_index(int(i), error.shape)) for i in order]
  return [index for index in dict.fromkeys([difference.worst, *found]) if not error[index] < 0]


def rule_on(got: float, want: float, found: Slopes) -> Ruling:
  """Return the row of the table for one entry."""
  converges = found.is_known and found.error <= 1e-2 * (abs(found.left) + abs(found.right)) + 1e-6
  if not np.isfinite(got):
    sides = [abs(side) for side in (found.left, found.right) if np.isfinite(side)]
    is_steep = np.isinf(got) and max(sides, default=0.0) > STEEP * (1 + abs(want))
    # Without sides the function isn't finite beside this point.
    is_wrong = sides and (converges or (np.isfinite(want) and not is_steep))
    return "fail" if is_wrong else "undefined"
  gap = abs(got - want)
  if not np.isfinite(want):
    if not converges:
      return "undefined"
    sizes = (abs(found.left - found.right), 1e-3 * abs(got), 1e-3 * abs(found.left), 1e-12)
    gap = max(*sizes, 2 * found.error / RESOLVED)  # The accuracy to require: autodiff isn't finite.
  if not found.is_known or found.error > RESOLVED * gap:
    return "fail"  # D can't resolve the difference, and the rule disagrees with autodiff.
  left, right = sorted((found.left, found.right))
  if right - left <= 2 * RESOLVED * gap:
    # As accurate as D is, and not only nearer to it than to autodiff.
    is_right = abs(got - (left + right) / 2) <= 1e-3 * gap + 8 * found.error
    return "oracle fault" if is_right else "fail"
  return "kink" if left - RESOLVED * gap <= got <= right + RESOLVED * gap else "fail"


def difference_tolerance(witnesses: Witnesses) -> float:
  """Return the tolerance of D's agreement with U and A.

  A narrow program rounds constants of the slope, such as 1/√(2π), that don't occur in the function.
  """
  unit = 0.0 if witnesses.is_wide else CONSTANTS.get(digits(witnesses.signature.working), 0.0)
  coarse = 8 * witnesses.coarsest if witnesses.is_coarse else 0.0
  return max(DIFFERENCE_TOLERANCE, 4 * unit, coarse, witnesses.tolerance)


def confirm(at: Setting, bars: Sequence[np.ndarray], seed: int) -> tuple[bool | None, float, float]:
  """Compare D with U and A, which agree with each other, along random directions.

  Returns:
    (agreement, U's directional derivative, D's); None if no direction is usable: they cross kinks,
    or the differences aren't finite, or too inaccurate.
  """
  rng = np.random.default_rng([seed, 2])
  tolerance = difference_tolerance(at.witnesses)
  shown: tuple[bool | None, float, float] = (None, 0.0, 0.0)
  for _ in range(4):
    direction = random_direction(rng, at)
    found = slopes(at, direction)
    if not found.is_known:
      continue
    own, terms = along(bars, direction)
    middle = (found.left + found.right) / 2
    scale = max(terms, abs(middle))
    margin = tolerance * scale + 8 * found.error
    if abs(found.left - found.right) > margin or 8 * found.error > 1e-2 * scale:
      continue
    agrees = abs(own - middle) <= margin
    if agrees or shown[0] is False:  # A failure must recur in a second direction.
      return agrees, own, middle
    shown = (False, own, middle)
  return shown
