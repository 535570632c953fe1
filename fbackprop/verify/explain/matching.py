"""Selection of the mutants of the backward sweep that reproduce the rule's numbers.

A mutant adds cotangents at some places of the tape, and the sweep is linear in them, so

    got − want  =  k · (their pullback to the leaves).

Thousands are screened at the cost of one forward sweep: with the tangents v_dot of every value
along a random direction r in the leaf, ⟨r, pullback of v_bar⟩ = ⟨v_dot, v_bar⟩ (the dot-product
test of an adjoint), and that must be ⟨r, got − want⟩. A mutant that passes for three directions is
pulled back and compared entry by entry, so that a match by chance is never reported.

Doubts: the screen has a tolerance relative to the sum of the terms' magnitudes; where these cancel,
it excludes little, and more mutants have to be pulled back.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from fbackprop.verify.explain.patterns import LEFT_OVER, tolerance_of
from fbackprop.verify.explain.tape import Hook, Tape

DIRECTIONS = 3
# Relative to the sum of the magnitudes of an inner product's terms.
PRODUCT_SHARE = 1e-11
# With fewer wrong entries a free factor would always fit.
LEAST_WRONG = 4
# A match at the leaf alone is kept until one at all leaves is found; this many are enough.
MOST_PARTIAL = 4
# The most entries in a batch of mutants at one place.
MOST_ENTRIES = 4_000_000


class Mutants(NamedTuple):
  """Mutants of one kind, which add cotangents at the same places.

  Attributes:
    bars: cotangents to add, `[E, ...]` by place: E mutants.
    texts: the description of each mutant, or one for all; or a function of the factor.
    factors: the factors to try; None for a free factor.
  """

  bars: Mapping[int, np.ndarray]
  texts: Sequence[str] | Callable[[float], str]
  factors: tuple[float, ...] | None = (1.0,)

  def text(self, e: int, factor: float) -> str:
    """Return the description of mutant e with a factor."""
    if callable(self.texts):
      return self.texts(factor)
    return self.texts[e if len(self.texts) > 1 else 0]


class Sweep(NamedTuple):
  """A mutant of many places at once: its description, and the cotangents of all leaves."""

  text: str
  leaves: Sequence[np.ndarray]


class Numbers(NamedTuple):
  """The cotangents got and wanted of all float leaves, their bounds, and the wrong leaf's index."""

  got: Sequence[np.ndarray]
  want: Sequence[np.ndarray]
  bounds: Sequence[np.ndarray]
  leaf: int


class Matcher:
  """A comparison of mutants with the rule's numbers.

  Args:
    tape: the reference's backward sweep.
    numbers: the cotangents to explain.
    sizes: dimensions that may occur in a factor, by name.
  """

  def __init__(self, tape: Tape, numbers: Numbers, sizes: Sequence[tuple[str, int]]) -> None:
    got, want, bounds, leaf = numbers
    self.tape, self.leaf, self.sizes = tape, leaf, sizes
    self.errors = [g - w for g, w in zip(got, want, strict=True)]
    self.tolerances = [tolerance_of(*each) for each in zip(got, want, bounds, strict=True)]
    self.scale = float(np.max(np.abs(got[leaf]), initial=0.0)) or 1.0
    self.wants = [x[0] for x in tape.at_leaves(tape.bars)]
    error = self.errors[leaf]
    self.wrong = int((np.abs(error) > self.tolerances[leaf]).sum())
    r = np.random.default_rng(0).normal(size=(DIRECTIONS, *error.shape))
    directions = [np.zeros((DIRECTIONS, *e.shape)) for e in self.errors]
    directions[leaf] = r
    # The tangents of all values, from one forward sweep, screen every mutant.
    self.tangents = tape.tangents(directions)
    axes = tuple(range(1, r.ndim))
    self.target = (r * error).sum(axes)
    self.slack = (np.abs(r) * self.tolerances[leaf]).sum(axes)
    self.partial: list[str] = []

  def is_upstream(self, place: int) -> bool:
    """Return whether a place lies between the leaf and the outputs."""
    return place in self.tape.bars and bool(self.tangents[place].any())

  def first(self, mutants: Iterable[Mutants | Sweep]) -> str | None:
    """Return the text of the first mutant that explains all leaves, or else this leaf."""
    for mutant in mutants:
      found = self.of_sweep(mutant) if isinstance(mutant, Sweep) else self.of_mutants(mutant)
      if found is not None:
        return found
      if time.monotonic() > self.tape.until or len(self.partial) >= MOST_PARTIAL:
        break
    return self.partial[0] if self.partial else None

  def of_sweep(self, sweep: Sweep) -> str | None:
    """Compare a whole sweep at all leaves."""
    trios = zip(sweep.leaves, self.errors, self.wants, strict=True)
    return self.judged(sweep.text, [np.asarray(x).reshape(e.shape) - w for x, e, w in trios])

  def of_mutants(self, mutants: Mutants) -> str | None:
    """Screen the mutants, and pull back those that pass."""
    if any(len(bars) == 0 for bars in mutants.bars.values()):
      return None
    found: np.ndarray | float = 0.0
    terms: np.ndarray | float = 0.0
    with np.errstate(all="ignore"):
      for place, bars in mutants.bars.items():
        products = self.products(place, bars)
        found, terms = found + products[0], terms + products[1]
      found, terms = np.asarray(found), np.asarray(terms)
      if found.ndim < 2:
        return None
      if mutants.factors is None:
        return self.of_any_factor(mutants, found, terms)
      for k in mutants.factors:
        slack = self.slack[:, None] + PRODUCT_SHARE * (abs(k) * terms)
        passes = (np.abs(k * found - self.target[:, None]) <= slack).all(0)
        for e in np.flatnonzero(passes):
          text = self.confirmed(mutants, int(e), k)
          if text is not None:
            return text
    return None

  def of_any_factor(self, mutants: Mutants, found: np.ndarray, terms: np.ndarray) -> str | None:
    """Fit the factor by least squares."""
    if self.wrong < LEAST_WRONG:
      return None
    factors = (found * self.target[:, None]).sum(0) / (found * found).sum(0)
    slack = self.slack[:, None] + PRODUCT_SHARE * np.abs(factors) * terms
    slack = slack + 1e-9 * np.abs(self.target[:, None])
    passes = (np.abs(factors * found - self.target[:, None]) <= slack).all(0)
    for e in map(int, np.flatnonzero(passes & np.isfinite(factors))):
      change = self.pulled(mutants, e, 1.0)[self.leaf]
      square = float(np.vdot(change, change))  # The leaf's entries know the factor better.
      refined = float(np.vdot(change, self.errors[self.leaf])) / square if square > 0 else None
      text = self.confirmed(mutants, e, float(factors[e]) if refined is None else refined)
      if text is not None:
        return text
    return None

  def products(self, place: int, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ⟨v_dot, v_bar⟩ `[DIRECTIONS, E]`, and the sum of its terms' magnitudes."""
    dots = self.tangents[place]
    v = np.broadcast_to(dots, (DIRECTIONS, *dots.shape[1:])).reshape(DIRECTIONS, -1)
    flat = bars.reshape(len(bars), -1).T
    return v @ flat, np.abs(v) @ np.abs(flat)

  def pulled(self, mutants: Mutants, e: int, k: float) -> list[np.ndarray]:
    """Return the change of the leaves by one mutant."""
    bars = {place: k * b[e : e + 1] for place, b in mutants.bars.items()}
    return [x[0] for x in self.tape.at_leaves(self.tape.sweep(bars)[0])]

  def confirmed(self, mutants: Mutants, e: int, k: float) -> str | None:
    """Return the text of a mutant if it reproduces every entry."""
    return self.judged(mutants.text(e, k), self.pulled(mutants, e, k))

  def judged(self, text: str, changes: Sequence[np.ndarray]) -> str | None:
    """Return the text if all leaves are explained; record it if this leaf is."""
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
    """Return whether changes reproduce the error of leaf i, for the wrong leaf with little rest."""
    with np.errstate(all="ignore"):
      left = np.abs(self.errors[i] - changes[i])
      largest = np.max(np.abs(self.errors[i]), initial=0.0)
      is_most = i != self.leaf or np.max(left, initial=0.0) <= LEFT_OVER * largest
      return bool((left <= self.tolerances[i]).all() and is_most)


def adding(place: int, changes: Iterable[tuple[str, np.ndarray]]) -> Mutants:
  """Return mutants that add cotangents `[1, ...]` at a place; there must be at least one."""
  texts, bars = zip(*changes, strict=True)
  return Mutants({place: np.concatenate(bars)}, texts)


def replacing(
  place: int, bar: np.ndarray, others: Iterable[tuple[str, np.ndarray]]
) -> Iterator[Mutants]:
  """Yield mutants that replace a cotangent, or a part of it, by others, as far as there is room."""
  with np.errstate(all="ignore"):
    room = max(1, MOST_ENTRIES // max(1, bar.size))
    changes = [(text, np.reshape(o, bar.shape) - bar) for text, o in islice(others, room)]
  if changes:
    yield adding(place, changes)


def swept(matcher: Matcher, text: str, hook: Hook) -> Sweep:
  """Return the mutant of a whole sweep with another rule at some steps."""
  tape = matcher.tape
  bars, _ = tape.sweep(tape.y_bars, hook)
  return Sweep(text, [x[0] for x in tape.at_leaves(bars)])
