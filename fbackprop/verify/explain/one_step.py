"""The search for the one step of a rule's own program whose edit makes its numbers right.

The other causes are faults planted in the reference's backward sweep. A rule written by hand is
often another program than that sweep, and its fault has no place there. So this search goes the
other way: it edits the rule's own program, as it was traced, at one equation (`edits`); evaluates
what the wrong leaf depends on, many edits of an equation at once as samples; and names the edit
with which every entry of the leaf is the true one.

The evidence is that of the other causes. The edit must give the true numbers at two other points
too, of other arguments and another cotangent, where a number that was fitted at the first is held;
and leaves that are right must stay so. Some of thousands of edits give one number by chance, but
hardly one all digits of all numbers at three points. A truth of zeros is no evidence, since many
edits give zeros.

Doubts: where several edits give the same numbers the first is named, by the order of `edits.TIERS`,
then from the last equation to the first; those of conditions come last. The time limit, of the
thread's own time, makes the result depend on the machine, but not on what else it does.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from fbackprop.jaxprs import Place, is_foreign
from fbackprop.verify.explain import edits
from fbackprop.verify.explain.search import LEFT_OVER, tolerance_of
from fbackprop.verify.explain.spots import Edit, Other, Read, Spot
from fbackprop.verify.explain.steps import Steps, traced
from fbackprop.verify.witnesses.traces import Setting
from fbackprop.verify.witnesses.verdicts import Difference

# The most edits, and the most entries of one value under all of them, that are evaluated at once.
MOST_EDITS = 512
MOST_ENTRIES = 4_000_000
# The iterations for a number that is fitted, and the share of the rest that each must leave.
NEWTON, LEFT_BY_NEWTON = 6, 0.5
# A fitted number this close to one of nine digits is that one.
SAME_NUMBER = 1e-11

# How a cause ends that this search found.
ONE_EDIT = " (right with this edit)"

Point = tuple[Setting, Sequence[Difference]]


def find_edit(first: Point, others: Sequence[Point], leaf: int, budget_s: float) -> str | None:
  """Return the one-step edit of the rule's program that makes a leaf right, in words, or None.

  Args:
    first: the point where the leaf is wrong, with the differences of all leaves.
    others: more such points; without any there is no cause.
    leaf: the number of the wrong leaf.
    budget_s: the time limit in seconds.
  """
  until = time.thread_time() + budget_s
  wrong = first[1][leaf]
  if not others or not wrong.want[wrong.is_wrong].any():
    return None
  try:
    with jax.enable_x64(True), np.errstate(all="ignore"):
      programs = [Edited(*point, leaf, until) for point in (first, *others)]
      if all(program.is_as_reported for program in programs):
        text = next(mending_edits(programs), None)
        return text and text + ONE_EDIT
  except TimeoutError:
    pass
  return None


def mending_edits(programs: Sequence["Edited"]) -> Iterator[str]:
  """Yield the edits, in words, that make the leaf right at all points."""
  first, *others = programs
  spots, size = first.spots(), first.batch_size
  elsewhere = [{tuple(spot.turns): spot for spot in other.spots()} for other in others]

  def holds(spot: Spot, edit: Edit) -> bool:
    twins = [spots[tuple(spot.turns)] for spots in elsewhere]
    return first.keeps_others(spot, edit) and all(
      other.mended(twin, [edit]) for other, twin in zip(others, twins, strict=True)
    )

  def found(kinds: edits.Kinds, where: Sequence[Spot], size: int) -> Iterator[str]:
    for spot in where:
      own = [edit for kind in kinds for edit in kind(spot)]
      for start in range(0, len(own), size):
        for edit in first.mended(spot, own[start : start + size]):
          if holds(spot, edit):
            yield edit.text

  numbers = [spot for spot in spots if spot.value.dtype != bool]
  conditions = [spot for spot in spots if spot.value.dtype == bool]
  for kinds in edits.TIERS:
    yield from found(kinds, numbers, size)
  for free in (Spot.free_constants, Spot.free_changes):
    for spot in filter(lambda spot: spot.is_number, numbers):
      yield from (edit.text for edit in first.fitted(spot, free(spot)) if holds(spot, edit))
  # These change the shape of what follows, so that they aren't evaluated together.
  yield from found((edits.wider_terms,), numbers, 1)
  # Last, since a condition can turn off the branch that is wrong.
  for kinds in (*edits.TIERS, (edits.conditions,)):
    yield from found(kinds, conditions, size)


class Edited:
  """A rule's program at one point, beside the truth of its leaves.

  Attributes:
    at, differences, leaf: the point, the differences of all leaves, the number of the wrong one.
    steps: the program, at its end a step that returns the wrong leaf, for an edit of the whole.
    bars: the places of the cotangents of all leaves.
    needed: the steps that the wrong leaf depends on.
    tolerance: the largest error of an entry of the wrong leaf that is right.
  """

  def __init__(self, at: Setting, differences: Sequence[Difference], leaf: int, until: float):
    self.at, self.differences, self.leaf = at, differences, leaf
    program, signature = at.witnesses.rule, at.witnesses.signature
    steps = Steps(program, at.inputs, until, keeps_all=True, working=signature.working)
    count = len(at.witnesses.forward.out_avals)
    self.bars = steps.outputs[count:]
    copied = traced(lambda x: [jax.lax.copy_p.bind(x)], [program.out_avals[count + leaf]])
    (self.bars[leaf],) = steps.write(copied, [self.bars[leaf]], ("result",))
    values = steps.recomputed({}, {})
    steps.values = [x if isinstance(x, jax.Array) else np.asarray(x) for x in values]  # Or keys.
    self.steps, self.lifted = steps, [x[None] for x in steps.values]
    self.needed = steps.needed_by([self.bars[leaf]])
    d = differences[leaf]
    self.tolerance = tolerance_of(d.got, d.want, d.bound)

  @property
  def is_as_reported(self) -> bool:
    """Whether the program gives the numbers that are called wrong."""
    got = self.steps.values[self.bars[self.leaf]]
    return bool((np.abs(got - self.differences[self.leaf].got) <= self.tolerance).all())

  @property
  def batch_size(self) -> int:
    """The number of edits that are evaluated at once."""
    places = (i for k in self.needed for i in self.steps.steps[k].outputs)
    largest = max(np.size(self.steps.values[i]) for i in places)
    return max(8, min(MOST_EDITS, MOST_ENTRIES // max(1, largest)))

  # --- Names --------------------------------------------------------------------------------------

  def spots(self) -> list[Spot]:
    """Return the equations that the wrong leaf depends on, the last first."""
    steps = self.steps
    turns: dict[Place, list[int]] = {}
    named = {("leaf", i): Other(self.argument(i), [i]) for i in range(len(steps.leaves))}
    named |= {("constant", i): Other(constant(steps.values[i]), [i]) for i in steps.constants}
    for k, step in enumerate(steps.steps):
      turns.setdefault(step.origin, []).append(k)
      for o, place in enumerate(step.outputs):
        named.setdefault((*step.origin, o, "output"), Other(self.equation(k), [])).places.append(
          place
        )
    for key, places in steps.carries.items():
      named[*key, "carry"] = Other("what the scan carries", places)
    # What a user's own Python code depends on isn't edited: it would run once for each edit.
    foreign = [k for k in self.needed if is_foreign(steps.steps[k].name)]
    first = max(foreign, default=-1)
    chosen = [own for own in turns.values() if own[0] > first and not self.needed.isdisjoint(own)]
    chosen.sort(key=lambda own: -own[-1])
    return [Spot(steps, own, self.equation(own[0]), list(named.values())) for own in chosen]

  def argument(self, i: int) -> str:
    """Name an input of the rule: an argument, or the cotangent of an output."""
    names = self.at.witnesses.signature.names
    if i < len(names):
      return names[i]
    return "y_bar" if len(self.at.y_bar) == 1 else f"y_bar {i - len(names)}"

  def equation(self, k: int) -> str:
    """Name a step: its primitive, shape, and the line that it is from."""
    step = self.steps.steps[k]
    if step.origin == ("result", 0):
      return "the result"
    shape, line = list(np.shape(self.steps.values[step.outputs[0]])), self.steps.line_of(step)
    return f"`{step.name}` {shape}" + (f" at {line}" if line else "")

  # --- Evaluation ---------------------------------------------------------------------------------

  def evaluated(
    self, spot: Spot, own: Sequence[Edit], targets: Sequence[int], needed: set[int]
  ) -> list[Any]:
    """Return the values of some places under each of E edits of a spot, `[E, ...]` or `[1, ...]`.

    Args:
      spot: the equation.
      own: its edits.
      targets: the places.
      needed: the steps that these depend on.
    """
    steps, turn_of = self.steps, {k: turn for turn, k in enumerate(spot.turns)}
    changed: dict[int, Any] = {}

    def reader(e: int) -> Read:
      def read(place: int) -> Any:
        samples = changed.get(place, self.lifted[place])
        return samples[min(e, len(samples) - 1)]

      return read

    for k in range(spot.turns[0], len(steps.steps)):
      step = steps.steps[k]
      if k in turn_of:
        rows = [edit.outputs(reader(e), turn_of[k]) for e, edit in enumerate(own)]
        outputs = [np.stack(column) for column in zip(*rows, strict=True)]
      elif k in needed and not changed.keys().isdisjoint(step.inputs):
        steps.check_time()
        inputs = [changed.get(i, self.lifted[i]) for i in step.inputs]
        outputs = steps.evaluator.apply((), 0, step.equation, inputs)
      else:
        continue
      changed.update(zip(step.outputs, outputs, strict=True))
    return [changed.get(place, self.lifted[place]) for place in targets]

  def mended(self, spot: Spot, own: Sequence[Edit]) -> list[Edit]:
    """Return the edits that make the wrong leaf right."""
    try:
      (got,) = self.evaluated(spot, own, [self.bars[self.leaf]], self.needed)
    except TimeoutError:
      raise
    except Exception:  # One of them makes no sense there, as an index that isn't an integer.
      halves = (own[: len(own) // 2], own[len(own) // 2 :]) if len(own) > 1 else ()
      return [edit for half in halves for edit in self.mended(spot, half)]
    are_right = np.broadcast_to(self.are_right(got), len(own))
    return [edit for edit, is_right in zip(own, are_right, strict=True) if is_right]

  def are_right(self, got: Any) -> np.ndarray:
    """Return which samples of the wrong leaf are right, and not nearly as wrong as before."""
    d = self.differences[self.leaf]
    if np.shape(got)[1:] != d.want.shape:
      return np.zeros(1, bool)
    rest, axes = np.abs(got - d.want), tuple(range(1, np.ndim(got)))
    most = LEFT_OVER * np.max(np.abs(d.got - d.want), initial=0.0)
    return np.asarray((rest <= self.tolerance).all(axes) & (rest <= most).all(axes))

  def keeps_others(self, spot: Spot, edit: Edit) -> bool:
    """Return whether the leaves that are right are so with an edit, too."""
    right = [d for i, d in enumerate(self.differences) if i != self.leaf and not d.is_wrong.any()]
    places = [self.bars[d.leaf] for d in right]
    found = self.evaluated(spot, [edit], places, self.steps.needed_by(places)) if places else []
    return all(
      (np.abs(got[0] - d.want) <= tolerance_of(d.got, d.want, d.bound)).all()
      for got, d in zip(found, right, strict=True)
    )

  # --- Fitted numbers -----------------------------------------------------------------------------

  def fitted(
    self, spot: Spot, free: Iterable[tuple[float, Callable[[float], Edit]]]
  ) -> Iterator[Edit]:
    """Yield the edits of one free number that make the wrong leaf right, with that number.

    Args:
      spot: the equation.
      free: the edits as functions of the number, each with the one that changes nothing.
    """
    for neutral, change in free:
      if (c := self.solved(spot, neutral, change)) is not None:
        yield change(c)

  def solved(self, spot: Spot, c: float, change: Callable[[float], Edit]) -> float | None:
    """Solve for the number of an edit by Newton's method, from the one that changes nothing."""
    want = self.differences[self.leaf].want

    def rests(*numbers: float) -> np.ndarray:
      own = [change(number) for number in numbers]
      (got,) = self.evaluated(spot, own, [self.bars[self.leaf]], self.needed)
      return np.reshape(np.broadcast_to(got, (len(own), *want.shape)) - want, (len(own), -1))

    (rest,) = rests(c)
    for _ in range(NEWTON):
      h = 1e-4 * max(1.0, abs(c))
      above, below = rests(c + h, c - h)
      slope = (above - below) / (2 * h)
      square = float(slope @ slope)
      if not 0 < square < np.inf:
        return None
      c -= float(slope @ rest) / square
      near = float(f"{c:.9g}")
      c = near if abs(c - near) < SAME_NUMBER * abs(c) else c
      (now,) = rests(c)
      if self.are_right((now.reshape(want.shape) + want)[None])[0]:
        return c
      if not np.linalg.norm(now) < LEFT_BY_NEWTON * np.linalg.norm(rest):
        return None
      rest = now
    return None


def constant(value: Any) -> str:
  """Name a constant of a program."""
  is_plain = np.ndim(value) == 0 and np.asarray(value).dtype.kind in "fiu"
  return f"{float(value):g}" if is_plain else "a constant"
