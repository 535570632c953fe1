"""Which of many alterations of the backward sweep explains what was got.

An alteration adds cotangents at some places of the tape, and the sweep is linear in them, so

    got − want  =  k · (their pullback to the leaves).

Thousands are tried for the price of one forward sweep: with the tangents v_dot of every value along
a random direction r in the leaf, ⟨r, pullback of v_bar⟩ = ⟨v_dot, v_bar⟩, and that must be
⟨r, got − want⟩. What passes for three directions is pulled back and compared entry by entry.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fbackprop.verify.explain.patterns import LEAF_SHARE, LEFT_OVER
from fbackprop.verify.explain.tape import Tape

DIRECTIONS = 3
# Of the sum of the magnitudes of an inner product's terms.
PRODUCT_SHARE = 1e-11
# A free factor needs at least so many wrong entries, or it would always be found.
LEAST_WRONG = 4
# Matches at the leaf alone are kept until one at all leaves is found, but so many are enough.
MOST_PARTIAL = 4
# Entries of a batch of alterations at one place.
MOST_ENTRIES = 4_000_000


class Group(NamedTuple):
  """Alterations of one kind.

  Attributes:
    bars: cotangents to add, `[E, ...]` by place: E alterations.
    tell: the text of alteration e with factor k.
    factors: those to try; None for any.
  """

  bars: Mapping[int, np.ndarray]
  tell: Callable[[int, float], str]
  factors: tuple[float, ...] | None = (1.0,)


class Whole(NamedTuple):
  """An alteration in many places at once: the cotangents of all leaves after it."""

  text: str
  leaves: Sequence[np.ndarray]


class Matcher:
  """Holds alterations against what was got.

  Args:
    tape: of the reference.
    leaf: the number of the float leaf that is to be explained.
    got, want, bounds: of all float leaves.
  """

  def __init__(
    self,
    tape: Tape,
    leaf: int,
    got: Sequence[np.ndarray],
    want: Sequence[np.ndarray],
    bounds: Sequence[np.ndarray],
  ) -> None:
    self.tape, self.leaf = tape, leaf
    self.errors = [g - w for g, w in zip(got, want, strict=True)]
    self.tolerances = [tolerance_of(*each) for each in zip(got, want, bounds, strict=True)]
    self.scale = float(np.max(np.abs(got[leaf]), initial=0.0)) or 1.0
    error = self.errors[leaf]
    self.wrong = int((np.abs(error) > self.tolerances[leaf]).sum())
    rng = np.random.default_rng(0)
    r = rng.normal(size=(DIRECTIONS, *error.shape))
    directions = [np.zeros((DIRECTIONS, *e.shape)) for e in self.errors]
    directions[leaf] = r
    self.tangents = tape.tangents(directions)
    axes = tuple(range(1, r.ndim))
    self.target = (r * error).sum(axes)
    self.slack = (np.abs(r) * self.tolerances[leaf]).sum(axes)
    self.partial: list[str] = []

  def is_upstream(self, place: int) -> bool:
    """Whether a place lies between the leaf and the outputs."""
    return place in self.tape.bars and bool(self.tangents[place].any())

  def first(self, candidates: Iterable[Group | Whole]) -> str | None:
    """The text of the first that explains all leaves, or one that explains this leaf alone."""
    for candidate in candidates:
      found = self.of_whole(candidate) if isinstance(candidate, Whole) else self.of_group(candidate)
      if found is not None:
        return found
      if time.monotonic() > self.tape.until or len(self.partial) >= MOST_PARTIAL:
        break
    return self.partial[0] if self.partial else None

  def of_whole(self, whole: Whole) -> str | None:
    """Compares the leaves."""
    changes = [
      np.asarray(x).reshape(e.shape) - w
      for x, e, w in zip(whole.leaves, self.errors, self.wants(), strict=True)
    ]
    return self.judged(whole.text, changes)

  def wants(self) -> list[np.ndarray]:
    """The tape's own cotangents of the leaves."""
    return [x[0] for x in self.tape.at_leaves(self.tape.bars)]

  def of_group(self, group: Group) -> str | None:
    """Screens the alterations, and pulls back those that pass."""
    if any(len(bars) == 0 for bars in group.bars.values()):
      return None
    found: np.ndarray | float = 0.0
    terms: np.ndarray | float = 0.0
    with np.errstate(all="ignore"):
      for place, bars in group.bars.items():
        products = self.products(place, bars)
        found, terms = found + products[0], terms + products[1]
      found, terms = np.asarray(found), np.asarray(terms)
      if found.ndim < 2:
        return None
      factors = group.factors
      if factors is None:
        return self.of_any_factor(group, found, terms)
      for k in factors:
        slack = self.slack[:, None] + PRODUCT_SHARE * (abs(k) * terms)
        passes = (np.abs(k * found - self.target[:, None]) <= slack).all(0)
        for e in np.flatnonzero(passes):
          text = self.confirmed(group, int(e), k)
          if text is not None:
            return text
    return None

  def of_any_factor(self, group: Group, found: np.ndarray, terms: np.ndarray) -> str | None:
    """The factor by least squares."""
    if self.wrong < LEAST_WRONG:
      return None
    factors = (found * self.target[:, None]).sum(0) / (found * found).sum(0)
    slack = self.slack[:, None] + PRODUCT_SHARE * np.abs(factors) * terms
    slack = slack + 1e-9 * np.abs(self.target[:, None])
    passes = (np.abs(factors * found - self.target[:, None]) <= slack).all(0)
    for e in np.flatnonzero(passes & np.isfinite(factors)):
      text = self.confirmed(group, int(e), self.refined(group, int(e), float(factors[e])))
      if text is not None:
        return text
    return None

  def refined(self, group: Group, e: int, factor: float) -> float:
    """The factor from the leaf's entries."""
    change = self.pulled(group, e, 1.0)[self.leaf]
    square = float(np.vdot(change, change))
    return float(np.vdot(change, self.errors[self.leaf])) / square if square > 0 else factor

  def products(self, place: int, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """⟨v_dot, v_bar⟩ `[DIRECTIONS, E]`, and the sum of its terms' magnitudes."""
    dots = self.tangents[place]
    v = np.broadcast_to(dots, (DIRECTIONS, *dots.shape[1:])).reshape(DIRECTIONS, -1)
    flat = bars.reshape(len(bars), -1).T
    return v @ flat, np.abs(v) @ np.abs(flat)

  def pulled(self, group: Group, e: int, k: float) -> list[np.ndarray]:
    """What one alteration changes at the leaves."""
    bars = {place: k * b[e : e + 1] for place, b in group.bars.items()}
    return [x[0] for x in self.tape.at_leaves(self.tape.sweep(bars)[0])]

  def confirmed(self, group: Group, e: int, k: float) -> str | None:
    """The text if every entry is reproduced."""
    return self.judged(group.tell(e, k), self.pulled(group, e, k))

  def judged(self, text: str, changes: Sequence[np.ndarray]) -> str | None:
    """The text if all leaves are explained; notes it if this leaf is."""
    if not self.explains(self.leaf, changes):
      return None
    left = float(np.max(np.abs(self.errors[self.leaf] - changes[self.leaf]), initial=0.0))
    text = f"{text} (match {left / self.scale:.0e})"
    if all(self.explains(i, changes) for i in range(len(changes))):
      return text
    if self.wrong >= 1:
      self.partial.append(text)
    return None

  def explains(self, i: int, changes: Sequence[np.ndarray]) -> bool:
    """Whether the change of a leaf is its error; of this leaf, also that it isn't its rest."""
    with np.errstate(all="ignore"):
      left = np.abs(self.errors[i] - changes[i])
      largest = np.max(np.abs(self.errors[i]), initial=0.0)
      is_most = i != self.leaf or np.max(left, initial=0.0) <= LEFT_OVER * largest
      return bool((left <= self.tolerances[i]).all() and is_most)


def tolerance_of(got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> np.ndarray:
  """The error of an entry that still counts as reproduced."""
  finite = [np.max(np.abs(x), initial=0.0, where=np.isfinite(x)) for x in (got, want)]
  return np.asarray(4 * np.where(np.isfinite(bound), bound, 0.0) + LEAF_SHARE * max(finite))


def say(text: str, e: int, k: float) -> str:
  """A text that doesn't depend on the alteration."""
  return text


def say_each(texts: Sequence[str], e: int, k: float) -> str:
  """The text of alteration e."""
  return texts[e]


def altered(
  matcher: Matcher,
  text: str,
  hook: Callable[..., Any],
) -> Whole:
  """A whole sweep with another rule at some steps."""
  tape = matcher.tape
  bars, _ = tape.sweep(tape.y_bars, partial(hook, tape))
  return Whole(text, [x[0] for x in tape.at_leaves(bars)])
