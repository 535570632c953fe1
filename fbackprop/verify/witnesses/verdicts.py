"""Who is right where the rule and autodiff differ: the table of the three witnesses.

| U, A | D | verdict |
|---|---|---|
| agree | agrees | pass |
| differ | left = right = A | fail |
| differ | left = right = U | oracle fault |
| differ | left ≠ right, U between | kink: the declared tie policy decides |
| differ | left ≠ right, U outside | fail |
| agree | differs where smooth | semantic: fail, unless declared |

D is asked along single entries; where the reference is tied in many places at once, a single entry
moves all of them, and left and right limits of their sum say little about each. Then U is compared
with autodiff under other policies at the ties (`ties.py`).
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from fbackprop.jaxprs import while_of
from fbackprop.verify.interpret.primitives import digits, is_float
from fbackprop.verify.witnesses.comparison import Difference
from fbackprop.verify.witnesses.differences import Slopes, slopes
from fbackprop.verify.witnesses.kinks import find_ties, fit_policy
from fbackprop.verify.witnesses.rules import Rule
from fbackprop.verify.witnesses.traces import CONSTANTS, Witnesses

Ruling = Literal["fail", "oracle fault", "kink", "undefined", "inexact", "unresolved"]
# How far a loop that ends by a tolerance, and the differences over it, may be from its limit.
LOOP_TOLERANCE = 1e-3
# D resolves a difference if its own error is below this share of it.
RESOLVED = 0.1
# So steep are differences, at their small step, where the slope is infinite, as a root's at zero.
STEEP = 100.0
# How many entries of a leaf are asked for.
ENTRIES = 3
# Of the terms that a directional derivative sums: agreement of D with the others.
DIFFERENCE_TOLERANCE = 1e-5


class Judgement(NamedTuple):
  """What is to be said of one leaf that differs.

  Attributes:
    difference: the leaf.
    ruling: the row of the table.
    why: in a sentence, "" where the numbers say it.
  """

  difference: Difference
  ruling: Ruling
  why: str = ""


def judge(
  rule: Rule,
  witnesses: Witnesses,
  leaves: Sequence[object],
  y_bar: Sequence[np.ndarray],
  differences: Sequence[Difference],
  seed: int,
) -> list[Judgement]:
  """The judgement of every leaf that differs, in the order of the backward pass."""
  by_leaf = {d.leaf: d for d in differences}
  wrong = [by_leaf[i] for i in witnesses.first_to_last if by_leaf[i].is_wrong.any()]
  if not wrong:
    return []
  ties = find_ties(witnesses, leaves)
  if ties and not is_smooth(witnesses, leaves, y_bar, seed):
    got = [d.got for d in differences]
    bounds = [np.where(d.is_vacuous, np.inf, d.bound) for d in differences]
    if fit_policy(rule, witnesses, leaves, y_bar, got, bounds, ties) is not None:
      return [Judgement(d, "kink") for d in wrong]
  judgements = [judge_leaf(witnesses, leaves, y_bar, d) for d in wrong]
  if any(j.ruling == "kink" for j in judgements) and not is_joint_slope(
    witnesses, leaves, y_bar, differences
  ):
    why = "each entry is a slope of the kink, all of them together are not"
    judgements = [
      Judgement(j.difference, "fail", why) if j.ruling == "kink" else j for j in judgements
    ]
  return judgements


def is_joint_slope(
  witnesses: Witnesses,
  leaves: Sequence[object],
  y_bar: Sequence[np.ndarray],
  differences: Sequence[Difference],
) -> bool:
  """Whether entries that are slopes one by one are so together.

  Where a maximum is tied, each of its inputs may have the whole slope, but not all of them: when
  all move alike, the function is smooth, and the slopes have to sum to its own.
  """
  by_leaf = sorted(differences, key=lambda d: d.leaf)
  everywhere = [d.is_wrong.astype(np.float64) for d in by_leaf]
  alone = [
    [wrong if k == i else np.zeros_like(wrong) for k, wrong in enumerate(everywhere)]
    for i in range(len(everywhere))
  ]
  for direction in [everywhere, *alone]:
    if not any(np.any(d) for d in direction):
      continue
    found = slopes(witnesses, leaves, y_bar, direction)
    products = [d.got * e for d, e in zip(by_leaf, direction, strict=True)]
    own = float(sum(p.sum() for p in products))
    terms = float(sum(np.abs(p).sum() for p in products)) + abs(found.left)
    is_smooth_along = abs(found.left - found.right) <= 1e-5 * terms + 8 * found.error
    is_resolved = found.is_known and found.error < 1e-4 * terms
    is_off = abs(own - found.left) > 1e-3 * terms + 8 * found.error
    if is_resolved and is_smooth_along and is_off:
      return False
  return True


def is_smooth(
  witnesses: Witnesses, leaves: Sequence[object], y_bar: Sequence[np.ndarray], seed: int
) -> bool:
  """Whether left and right agree along random directions."""
  rng = np.random.default_rng([seed, 1])
  for _ in range(3):
    direction = random_direction(rng, witnesses, leaves)
    found = slopes(witnesses, leaves, y_bar, direction)
    size = abs(found.left) + abs(found.right)
    if not abs(found.left - found.right) <= 1e-4 * size + 8 * found.error:
      return False
  return True


def random_direction(
  rng: np.random.Generator, witnesses: Witnesses, leaves: Sequence[object]
) -> list[np.ndarray]:
  """A normal direction in every float leaf, as large as what it moves."""
  found = []
  for i in witnesses.signature.floats:
    leaf = np.asarray(leaves[i])
    size = float(np.sqrt(np.mean(leaf**2))) if leaf.size else 0.0
    found.append(rng.normal(size=leaf.shape) * (size if 0 < size < np.inf else 1.0))
  return found


def judge_leaf(
  witnesses: Witnesses,
  leaves: Sequence[object],
  y_bar: Sequence[np.ndarray],
  difference: Difference,
) -> Judgement:
  """One leaf: the gravest of the rulings of some of its entries."""
  rulings: list[Ruling] = []
  is_resolved = False
  for index in some_entries(difference):
    direction = [np.zeros_like(np.asarray(leaves[i])) for i in witnesses.signature.floats]
    direction[difference.leaf][index] = 1.0
    found = slopes(witnesses, leaves, y_bar, direction)
    got, want = float(difference.got[index]), float(difference.want[index])
    rulings.append(rule_on(got, want, found))
    gap = abs(got - want)
    is_resolved |= found.is_known and (not np.isfinite(gap) or found.error <= RESOLVED * gap)
  for ruling in ("fail", "oracle fault", "kink", "undefined"):
    if ruling in rulings:
      if ruling == "fail" and ends_early(witnesses):
        if is_small(difference):
          return Judgement(difference, "inexact")
        if not is_resolved:
          return Judgement(difference, "unresolved")
      return Judgement(difference, ruling)
  return Judgement(difference, "fail")


def ends_early(witnesses: Witnesses) -> bool:
  """Whether the reference has a loop that ends by a tolerance.

  Autodiff goes through the turns that were made; an implicit rule is that of the limit. So they
  differ a little; and where the loop ends far from its limit, not even differences tell.
  """
  return any(ends_by_tolerance(e) for e in witnesses.forward.jaxpr.eqns
             if e.primitive.name == "while")  # fmt: skip


def is_small(difference: Difference) -> bool:
  """Whether a difference is such as a loop's tolerance leaves."""
  size = np.abs(difference.want) + np.max(np.abs(difference.want), initial=0.0)
  error = np.where(difference.is_wrong, np.abs(difference.got - difference.want), 0.0)
  return bool((error <= LOOP_TOLERANCE * size).all())


def ends_by_tolerance(loop: Any) -> bool:
  """Whether floats decide when a loop ends."""
  equations = while_of(loop).cond.jaxpr.eqns
  return any(is_float(atom.aval.dtype) for e in equations for atom in e.invars)


def some_entries(difference: Difference) -> list[tuple[int, ...]]:
  """The worst entry, and the largest errors among the wrong ones."""
  with np.errstate(all="ignore"):
    error = np.abs(difference.got - difference.want)
  error = np.where(difference.is_wrong, np.where(np.isnan(error), np.inf, error), -1.0)
  order = np.argsort(-error, axis=None)[:ENTRIES]
  found = [tuple(int(k) for k in np.unravel_index(int(i), error.shape)) for i in order]
  return list(dict.fromkeys(index for index in [difference.worst, *found] if error[index] >= 0))


def rule_on(got: float, want: float, found: Slopes) -> Ruling:
  """The row of the table for one entry."""
  if not np.isfinite(got):
    sides = [abs(side) for side in (found.left, found.right) if np.isfinite(side)]
    if not sides:
      return "undefined"  # Beside this point the function isn't finite.
    is_steep = np.isinf(got) and max(sides) > STEEP * (1 + abs(want))
    if is_finite_slope(found) or (np.isfinite(want) and not is_steep):
      return "fail"
    return "undefined"
  gap = abs(got - want)
  if not np.isfinite(want):
    if not is_finite_slope(found):
      return "undefined"
    sizes = (abs(found.left - found.right), 1e-3 * abs(got), 1e-3 * abs(found.left), 1e-12)
    gap = max(*sizes, 2 * found.error / RESOLVED)  # Known well enough: autodiff says nothing.
  if not found.is_known or found.error > RESOLVED * gap:
    return "fail"  # The differences can't resolve it, and the rule isn't what autodiff says.
  left, right = sorted((found.left, found.right))
  if right - left <= 2 * RESOLVED * gap:
    middle = (left + right) / 2
    return "oracle fault" if abs(got - middle) <= 2 * RESOLVED * gap else "fail"
  return "kink" if left - RESOLVED * gap <= got <= right + RESOLVED * gap else "fail"


def is_finite_slope(found: Slopes) -> bool:
  """Whether differences converge to something finite."""
  return found.is_known and found.error <= 1e-2 * (abs(found.left) + abs(found.right)) + 1e-6


def difference_tolerance(witnesses: Witnesses) -> float:
  """How closely D can agree with U and A.

  A narrow program rounds constants of the slope, as 1/√(2π), that the function doesn't have.
  """
  unit = 0.0 if witnesses.is_wide else CONSTANTS.get(digits(witnesses.signature.working), 0.0)
  return max(DIFFERENCE_TOLERANCE, 4 * unit)


def confirm(
  witnesses: Witnesses,
  leaves: Sequence[object],
  y_bar: Sequence[np.ndarray],
  bars: Sequence[np.ndarray],
  seed: int,
) -> tuple[bool | None, float, float]:
  """Whether D agrees with U and A, which agree with each other.

  Returns:
    (agreement, U's directional derivative, D's); None if no direction could be judged: they cross
    kinks, or the differences aren't finite.
  """
  rng = np.random.default_rng([seed, 2])
  tolerance = difference_tolerance(witnesses)
  shown: tuple[bool | None, float, float] = (None, 0.0, 0.0)
  for _ in range(4):
    direction = random_direction(rng, witnesses, leaves)
    found = slopes(witnesses, leaves, y_bar, direction)
    if not found.is_known:
      continue
    products = [np.asarray(b * d) for b, d in zip(bars, direction, strict=True)]
    own = float(sum(p.sum() for p in products))
    terms = float(sum(np.abs(p).sum() for p in products))
    middle = (found.left + found.right) / 2
    scale = max(terms, abs(middle))
    if abs(found.left - found.right) > tolerance * scale + 8 * found.error:
      continue
    if 8 * found.error > 1e-2 * scale:
      continue
    if abs(own - middle) <= tolerance * scale + 8 * found.error:
      return True, own, middle
    if shown[0] is False:  # Twice, in two directions.
      return False, own, middle
    shown = (False, own, middle)
  return shown
