"""The search for mutants of the backward sweep that reproduce the rule's numbers.

A mutant adds cotangents at some places of the tape, and the sweep is linear in them, so

    got − want  =  k · (their pullback to the leaves).

Thousands are screened at the cost of one forward sweep: with the tangents v_dot of every value
along a random direction r in the leaf, ⟨r, pullback of v_bar⟩ = ⟨v_dot, v_bar⟩ (the dot-product
test of an adjoint), and that must be ⟨r, got − want⟩. A mutant that passes for three directions is
pulled back and compared entry by entry, so that a match by chance is never reported.

One point is little evidence: a factor that is fitted there always fits, and a number of the data
looks like a constant. So a mutant must also reproduce the rule's numbers at other points, of other
arguments and cotangents, where its free numbers are those of the first (`Search.free`). Points with
more wrong entries than free numbers then leave little room for a coincidence.

Doubts: the screen has a tolerance relative to the sum of the terms' magnitudes; where these cancel,
it excludes little, and more mutants have to be pulled back.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float

DIRECTIONS = 3
# Relative to the sum of the magnitudes of an inner product's terms.
PRODUCT_SHARE = 1e-11
# A match at the leaf alone is kept until one at all leaves is found; this many are enough.
MOST_PARTIAL = 4
# The most entries in a batch of mutants at one place.
MOST_ENTRIES = 4_000_000
# Relative to the largest entry of a leaf, beside four times the caller's bound.
LEAF_SHARE = 1e-12
# The unexplained remainder is at most this share of the explained error.
LEFT_OVER = 1e-2

# A description and an array: what a leaf, or an intermediate cotangent, may be instead.
Candidates = Iterable[tuple[str, np.ndarray]]


class Mutants(NamedTuple):
  """Mutants that add cotangents at the same places.

  Attributes:
    bars: cotangents to add, `[E, ...]` by place: E mutants.
    texts: the description of each mutant.
  """

  bars: Mapping[int, np.ndarray]
  texts: Sequence[str]


class Facts(NamedTuple):
  """The numbers of a rule at one point.

  Attributes:
    args, y_bar: the arguments and the cotangents of the outputs, as for `causes.find_cause`.
    got, want, bounds: the cotangents of the float leaves, likewise.
  """

  args: tuple[Any, ...]
  y_bar: Any
  got: Sequence[np.ndarray]
  want: Sequence[np.ndarray]
  bounds: Sequence[np.ndarray]


class Sweep(NamedTuple):
  """A mutant of many places at once: its description, and the cotangents `[1, ...]` of leaves."""

  text: str
  leaves: Sequence[np.ndarray]


@dataclass
class Search:
  """The cotangents of a wrong gradient, and the comparison of mutants with them.

  Attributes:
    reference, args, y_bar, gots, wants, bounds, index: as for `causes.find_cause`.
    until: the deadline.
    elsewhere: returns the searches at other points; None for a search of one point alone.
    held: at another point, the free numbers of the first.
    numbers: the free numbers that were fitted here.
    got, want: the wrong leaf's values and their truth, in float64.
    error: their difference.
    tolerance: the largest error of a reproduced entry.
    wrong: the number of entries beyond it.
    floats: the arguments whose cotangents the leaves are.
    target: the products of random directions in the wrong leaf with the error, `[DIRECTIONS]`.
    batch: the number of examples: the length of y, or else of the last argument with an axis.
    sizes: named dimensions that may occur in a factor, such as ("N", 32).
  """

  reference: Callable[..., Any]
  args: tuple[Any, ...]
  y_bar: Any
  gots: Sequence[np.ndarray]
  wants: Sequence[np.ndarray]
  bounds: Sequence[np.ndarray]
  index: int
  until: float = math.inf
  elsewhere: Callable[[], Sequence["Search"]] | None = None
  held: Mapping[Any, list[Any]] | None = None

  def __post_init__(self) -> None:
    self.numbers: dict[Any, list[Any]] = {}
    trios = list(zip(self.gots, self.wants, self.bounds, strict=True))
    self.errors = [got - want for got, want, _ in trios]
    self.tolerances = [tolerance_of(*trio) for trio in trios]
    self.got, self.want, _ = trios[self.index]
    self.error, self.tolerance = self.errors[self.index], self.tolerances[self.index]
    self.wrong = int((np.abs(self.error) > self.tolerance).sum())
    r = np.random.default_rng(0).normal(size=(DIRECTIONS, *self.error.shape))
    self.directions = [np.zeros((DIRECTIONS, *e.shape)) for e in self.errors]
    self.directions[self.index] = r
    self.target = (r * self.error).reshape(DIRECTIONS, -1).sum(1)
    self.slack = (np.abs(r) * self.tolerance).reshape(DIRECTIONS, -1).sum(1)
    leaves, bars = jax.tree.leaves(self.args), jax.tree.leaves(self.y_bar)
    self.floats = [np.asarray(x) for x in leaves if is_float(x.dtype)]
    shapes = list(map(np.shape, bars + leaves))
    self.batch = next((n for n, *_ in filter(None, map(np.shape, bars + leaves[::-1]))), None)
    names = {} if self.batch is None else {self.batch: "N"}
    for n in [n for shape in shapes for n in shape]:
      names.setdefault(n, f"D{len(names)}")
    for shape in shapes:
      if len(shape) > 1:
        names.setdefault(math.prod(shape), f"S{len(names)}")
    self.sizes = tuple((name, n) for n, name in names.items())[:12]

  def like_it(self) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Return (name, got, want, argument) of the other leaves of this shape."""
    rows = enumerate(zip(self.gots, self.wants, self.floats, strict=True))
    is_like = [w.shape == self.want.shape and i != self.index for i, w in enumerate(self.wants)]
    return [(f"float leaf {i}", *row) for i, row in rows if is_like[i]]

  # --- Other points -------------------------------------------------------------------------------

  def free(self, key: Any, number: Any) -> list[Any]:
    """Return the free numbers to try: the fitted one, or at another point those of the first.

    Args:
      key: identifies what the number is of, at every point.
      number: the number that fits here.
    """
    if self.held is not None:
      return self.held.get(key, [])
    self.numbers.setdefault(key, []).append(number)
    return [number]

  @cached_property
  def others(self) -> Sequence["Search"]:
    """The searches at other points, which hold the free numbers of this one."""
    found = self.elsewhere() if self.elsewhere is not None else ()
    for other in found:
      other.held = self.numbers
    return found

  def recurs(self, searcher: Callable[["Search"], Iterable[Any]], text: str) -> bool:
    """Return whether a mutant of the same description explains the other points too."""
    if self.elsewhere is None:
      return True
    return bool(self.others) and all(other.finds(searcher, text) for other in self.others)

  def finds(self, searcher: Callable[["Search"], Iterable[Any]], text: str) -> bool:
    """Return whether a mutant of this description explains the leaf."""
    with suppress(TimeoutError):
      for mutant in searcher(self):
        for _, rests in self.rests(mutant, text):
          if self.is_explained(self.index, rests[self.index]):
            return True
    return False

  # --- The sweep ----------------------------------------------------------------------------------

  @cached_property
  def tape(self) -> Tape:
    """The reference's backward sweep; TimeoutError if it has none, or that of another gradient."""
    leaves, structure = jax.tree.flatten(self.args)

    def flat(*given: Any) -> list[Any]:
      return jax.tree.leaves(self.reference(*jax.tree.unflatten(structure, given)))

    bars = [b if is_float(b.dtype) else None for b in jax.tree.leaves(self.y_bar)]
    try:
      tape = Tape(flat, leaves, bars, self.until)
    except TimeoutError:
      raise
    except Exception as missing:  # As of a loop that ends by a tolerance: only the leaf is known.
      self.until = 0.0
      raise TimeoutError from missing
    error = np.abs(tape.wants[self.index] - self.want)
    if not (error <= 1e-9 * np.max(np.abs(self.want), initial=0.0)).all():
      self.until = 0.0
      raise TimeoutError
    return tape

  @cached_property
  def tangents(self) -> dict[int, np.ndarray]:
    """The tangents of all values along the directions, from one forward sweep."""
    return self.tape.tangents(self.directions)

  @cached_property
  def paths(self) -> list[tuple[int, np.ndarray, str]]:
    """The cotangents that can be cut, from the last to the first: (place, `[1, ...]`, text).

    They are those of the values, and of the single uses of a value.
    """
    tape, found = self.tape, []
    reads = Counter(tape.steps[k].inputs[j] for k, j in tape.edges)
    for k, step in reversed(list(enumerate(tape.steps))):
      for place in step.outputs:
        if reads[place] != 1 and self.is_upstream(place):
          found.append((place, tape.bars[place], tape.describe(place)))
      for j, place in enumerate(step.inputs):
        if (k, j) in tape.edges and self.is_upstream(place):
          where = tape.describe(step.outputs[0]) + f" to its operand {j}" * (len(step.inputs) > 1)
          found.append((place, tape.edges[k, j], where))
    return found

  @cached_property
  def by_shape(self) -> dict[tuple[int, ...], list[tuple[np.ndarray, str]]]:
    """All cotangents with their names, by their shape without axes of length 1."""
    tape = self.tape
    found: dict[tuple[int, ...], list[tuple[np.ndarray, str]]] = {}
    for place, bar in tape.bars.items():
      found.setdefault(bar.squeeze().shape, []).append((bar, tape.describe(place)))
    for (k, j), bar in tape.edges.items():
      name = f"{tape.describe(tape.steps[k].outputs[0])} to its operand {j}"
      found.setdefault(bar.squeeze().shape, []).append((bar, name))
    return found

  def is_upstream(self, place: int) -> bool:
    """Return whether a place lies between the leaf and the outputs."""
    return place in self.tape.bars and bool(self.tangents[place].any())

  def products(self, place: int, bars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ⟨v_dot, v_bar⟩ `[DIRECTIONS, E]`, and the sum of its terms' magnitudes."""
    dots = self.tangents[place]
    v = np.broadcast_to(dots, (DIRECTIONS, *dots.shape[1:])).reshape(DIRECTIONS, -1)
    flat = bars.reshape(len(bars), -1).T
    return v @ flat, np.abs(v) @ np.abs(flat)

  def fits(self, sums: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return where sums `[DIRECTIONS, ...]` are the target, given their terms' magnitudes."""
    shape = (DIRECTIONS, *(1,) * (sums.ndim - 1))
    slack = self.slack.reshape(shape) + PRODUCT_SHARE * terms
    return np.asarray((np.abs(sums - self.target.reshape(shape)) <= slack).all(0))

  # --- Matches ------------------------------------------------------------------------------------

  def first(self, searchers: Sequence[Callable[["Search"], Iterable[Any]]]) -> str | None:
    """Return the first mutant that explains all leaves, or else the first that explains this one.

    It must do so at the other points too.

    Args:
      searchers: each yields `Mutants`, `Sweep`, or (text, the wrong leaf's cotangent).
    """
    partly: list[str] = []
    scale = max(np.max(np.abs(x), initial=0.0) for x in (self.got, self.want)) or 1.0
    with suppress(TimeoutError):
      for searcher in searchers:
        most = len(partly) + MOST_PARTIAL
        for mutant in searcher(self):
          if len(partly) >= most:
            break
          for text, rests in self.rests(mutant):
            is_own = self.is_explained(self.index, rests[self.index])
            if is_own and self.recurs(searcher, text):
              text += f" (match {np.max(rests[self.index], initial=0.0) / scale:.0e})"
              if all(self.is_explained(i, rest) for i, rest in rests.items()):
                return text
              partly += [text] * (self.wrong > 0)
    return partly[0] if partly else None

  def rests(self, mutant: Any, only: str = "") -> Iterator[tuple[str, dict[int, np.ndarray]]]:
    """Yield the text of each mutant, and by leaf the part of the error that it leaves.

    Args:
      mutant: what a searcher yields.
      only: the description of the wanted mutants; "" for any.
    """
    texts = mutant.texts if isinstance(mutant, Mutants) else [mutant[0]]
    if only and only not in texts:
      return
    if isinstance(mutant, Mutants):
      self.tape.check_time()
      products = [self.products(*each) for each in mutant.bars.items()]
      for m in map(int, np.flatnonzero(self.fits(*np.sum(products, 0)))):
        if only not in ("", mutant.texts[m]):
          continue
        changes = self.tape.pulled({place: b[m : m + 1] for place, b in mutant.bars.items()})
        pairs = zip(self.errors, changes, strict=True)
        yield mutant.texts[m], {i: np.abs(e - c[0]) for i, (e, c) in enumerate(pairs)}
    elif isinstance(mutant, Sweep):
      trios = zip(self.errors, mutant.leaves, self.tape.wants, strict=True)
      yield mutant.text, {i: np.abs(e - (x[0] - w)) for i, (e, x, w) in enumerate(trios)}
    else:
      text, candidate = mutant
      yield text, {self.index: np.abs(self.got - candidate)}

  def is_explained(self, i: int, rest: np.ndarray) -> bool:
    """Return whether the rest of a leaf's error is tolerable, for the wrong leaf also small."""
    largest = np.max(np.abs(self.errors[i]), initial=0.0)
    is_most = i != self.index or np.max(rest, initial=0.0) <= LEFT_OVER * largest
    return bool((rest <= self.tolerances[i]).all() and is_most)


def tolerance_of(got: np.ndarray, want: np.ndarray, bound: np.ndarray) -> np.ndarray:
  """Return the largest error of a reproduced entry."""
  finite = [np.max(np.abs(x), initial=0.0, where=np.isfinite(x)) for x in (got, want)]
  return np.asarray(4 * np.where(np.isfinite(bound), bound, 0.0) + LEAF_SHARE * max(finite))


def room(bar: np.ndarray) -> int:
  """Return the number of arrays of this size that are mutants of one place."""
  return max(8, MOST_ENTRIES // max(1, bar.size))


def replacing(place: int, bar: np.ndarray, others: Candidates) -> Iterator[Mutants]:
  """Yield the mutants that replace a cotangent, or a part of it, by others."""
  changes = [(text, np.reshape(other, bar.shape) - bar) for text, other in others]
  if changes:
    texts, bars = zip(*changes, strict=True)
    yield Mutants({place: np.concatenate(bars)}, texts)
