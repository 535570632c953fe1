"""Mutants of residuals: other values for the backward pass of a step or a scan to read.

They are stale, neighbouring or rounded residuals, ignored or inverted conditions, residuals of
another iteration of a scan; and values recomputed differently from the forward pass: without a
bias, an eps or a mask, or with another constant.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from fbackprop.jaxprs import Place
from fbackprop.verify.explain.activations import is_linear
from fbackprop.verify.explain.patterns import NARROW, rearranged
from fbackprop.verify.explain.search import Candidates, Mutants, Search, Sweep, replacing, room
from fbackprop.verify.explain.steps import Values
from fbackprop.verify.explain.tape import Pulled, Tape
from fbackprop.verify.interpret.primitives import is_float

# Steps whose backward rule reads operands.
READERS = frozenset(
  ("mul", "div", "dot_general", "max", "min", "select_n", "pow", "atan2", "conv_general_dilated")
)
# The neutral operand of each step.
NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "max": -np.inf, "min": np.inf}
CONSTANTS = (0.0, 1.0, -1.0, 2.0, 0.5, 0.1, 0.01, 0.2, 0.9, 1e-3, 1e-5, 1e-6, 1e-8, 1e-12)


def other_operands(search: Search) -> Iterator[Mutants]:
  """Yield other values for the operands that a step's backward rule reads."""
  tape = search.tape
  for k, step in reversed(list(enumerate(tape.steps))):
    if step.name not in READERS or not search.is_upstream(step.outputs[0]):
      continue
    for i, place in enumerate(step.inputs):
      largest = max(tape.values[place], tape.bars[step.outputs[0]], key=np.size)
      changes = list(replacements(tape, place, f"{step.name}'s operand {i}"))[: room(largest)]
      if changes:
        *alone, together = reread(search, k, i, changes)
        yield from [*alone, together] if len(together.bars) > 1 else alone


def reread(search: Search, k: int, i: int, changes: list[tuple[str, np.ndarray]]) -> list[Mutants]:
  """Return mutants of a step's rule that reads other values of one operand.

  Returns:
    Mutants of each operand's cotangent alone, then those of all together.
  """
  tape, step = search.tape, search.tape.steps[k]
  texts, values = zip(*changes, strict=True)
  inputs = tape.operands(k)
  inputs[i] = np.stack(values)
  pulled = tape.pull(k, inputs, [tape.bars[step.outputs[0]]])
  total: dict[int, np.ndarray] = {}
  found = []
  for j, (operand, bar) in enumerate(zip(step.inputs, pulled, strict=True)):
    if bar is not None and (k, j) in tape.edges and search.is_upstream(operand):
      change = np.broadcast_to(bar, (len(values), *bar.shape[1:])) - tape.edges[k, j]
      total[operand] = total[operand] + change if operand in total else change
      if change.any():
        found.append(Mutants({operand: change}, texts))
  return [*found, Mutants(total, texts)]


def replacements(tape: Tape, place: int, what: str) -> Candidates:
  """Yield the values that may be read instead of an operand."""
  value = np.asarray(tape.values[place])
  if not is_float(value.dtype):
    return
  for other in tape.alike(place):
    # The point of a derivative varies with the arguments, so a pair of constants isn't one.
    kind = "wrong point" if {other, place} & tape.depends else "other function"
    yield f"{kind}: {tape.describe(other)} replaces {what}", tape.values[other]
  yield from rearranged(value, what)
  if value.size > 1:
    yield f"other function: {what} is ignored, as if it were 1", np.ones_like(value)
    yield f"other function: {what} is applied twice", value**2
    yield f"other function: the reciprocal of {what}", 1 / value
    yield f"wrong point: the sign of {what}", np.sign(value)


def conditions(search: Search) -> Iterator[Mutants]:
  """Yield conditions ignored, inverted, or exchanged for another one."""
  tape = search.tape
  moving = tape.dependent(only_floats=False)
  for k, step in reversed(list(enumerate(tape.steps))):
    out = step.outputs[0]
    if step.name != "select_n" or not search.is_upstream(out):
      continue
    which = tape.values[step.inputs[0]]
    # A condition on the data selects among examples; another one is part of a function.
    kind = "other function" if step.inputs[0] in moving else "subset of examples"
    what = f"the condition of {tape.describe(out)}"
    ignored = f"{kind}: {what} is ignored"
    changes = [(f"{kind}: {what} is inverted", ~which)] if which.dtype == bool else []
    changes += [(ignored, np.full_like(which, case)) for case in range(len(step.inputs) - 1)]
    others = tape.alike(step.inputs[0])
    changes += [(f"{kind}: {tape.describe(i)} replaces {what}", tape.values[i]) for i in others]
    # An ignored condition passes everything to one operand, or to all of them.
    together = reread(search, k, 0, changes)[-1]
    if together.bars:
      yield together
    for j, operand in enumerate(step.inputs):
      if (k, j) in tape.edges and operand in together.bars:
        yield from replacing(operand, tape.edges[k, j], [(ignored, tape.bars[out])])


def other_masks(search: Search) -> Iterator[Sweep]:
  """Yield other masks of zeros and a constant before the leaf, as of another key."""
  tape, index = search.tape, search.index
  want = tape.wants[index]
  got = want + search.error
  for bar in tape.bars.values():
    if bar.shape[1:] != got.shape or got.size < 8 or not bar.all():
      continue
    kept, keeps = got / bar[0], want / bar[0]
    scale = float(np.max(keeps, initial=0.0))
    is_mask = [np.isclose(x, scale, rtol=1e-9, atol=0) | (x == 0) for x in (kept, keeps)]
    # What the rule drops is free; what it lets through, where the reference doesn't, must fit.
    passed = np.count_nonzero((kept != 0) & (keeps == 0))
    if scale > 0 and np.all(is_mask) and passed >= 2 and np.count_nonzero(kept) < got.size:
      leaves = [x[None] for x in tape.wants]
      leaves[index] = np.where(kept != 0, scale * bar, 0.0)
      where = tape.describe(tape.float_leaves[index])
      yield Sweep(f"other function: another mask before {where}", leaves)


# --- All turns of a scan alike --------------------------------------------------------------------

# The step, by origin and iteration.
Turns = dict[Place, dict[int, int]]


def scan_mutants(search: Search) -> Iterator[Sweep]:
  """Yield faults that recur in every iteration of a scan."""
  tape = search.tape
  found: Turns = {}
  for k, step in enumerate(tape.steps):
    found.setdefault(step.origin, {})[step.turn] = k
  turns = {origin: at for origin, at in found.items() if len(at) > 1}
  if turns:
    yield Sweep("permuted: a scan is walked from the other end", in_reverse(tape, turns))
  for origin, at in turns.items():
    step = tape.steps[next(iter(at.values()))]
    for j in range(len(step.inputs)):
      # In the first iteration the carry may be a constant.
      if -1 in origin or -2 in origin or not any((k, j) in tape.edges for k in at.values()):
        continue
      what = f"{tape.describe(step.outputs[0])} to its operand {j} in all turns of a scan"
      for factor, text in ((0.0, "is missing"), (2.0, "is counted twice"), (-1.0, "is negated")):
        yield Sweep(f"path: the one through {what} {text}", scaled(tape, at.values(), j, factor))
      if step.name in ("mul", "div"):
        leaves = scaled(tape, at.values(), j, None)
        yield Sweep(f"path: the factor of {what} is left out", leaves)
  for text, places in turned_residuals(tape, turns):
    yield Sweep(text, tape.pulled(pull=tape.reading(places)))


def scaled(tape: Tape, steps: Collection[int], j: int, factor: float | None) -> list[np.ndarray]:
  """Scale one operand's cotangent in some steps; without a factor, pass on the output's."""

  def pull(k: int, inputs: list[Any], bars: list[np.ndarray]) -> Pulled:
    pulled = tape.pull(k, inputs, bars)
    bar = pulled[j] if k in steps else None
    if bar is not None:
      pulled[j] = bars[0] if factor is None else factor * bar
    return pulled

  return tape.pulled(pull=pull)


def in_reverse(tape: Tape, turns: Turns) -> list[np.ndarray]:
  """Traverse a scan backward from its first iteration instead of its last."""
  # Each step, and the one in its place when the iterations come in reverse order.
  other = {
    at[a]: at[b] for at in turns.values() for a, b in zip(sorted(at), sorted(at)[::-1], strict=True)
  }

  def pull(k: int, inputs: list[Any], bars: list[np.ndarray]) -> Pulled:
    if k in other:
      return tape.pull(other[k], tape.operands(other[k]), bars)
    if -2 in tape.steps[k].origin and tape.steps[k].name == "concatenate":
      bars = [np.flip(bars[0], 1)]
    return tape.pull(k, inputs, bars)

  return tape.pulled(pull=pull)


def turned_residuals(tape: Tape, turns: Turns) -> Iterator[tuple[str, Mapping[int, Values]]]:
  """Yield one operand in all iterations: of another iteration, or another value of the same one."""
  for at in turns.values():
    first, last = tape.steps[at[0]], len(at) - 1
    if first.name not in READERS and (not first.is_elementwise or is_linear(tape, at[0])):
      continue
    for j, place in enumerate(first.inputs):
      value = tape.values[place]
      if place not in tape.depends and not is_float(value.dtype):
        continue
      what = f"{first.name}'s operand {j} in a scan"
      shifts = (("turn before", -1, 1), ("turn after", 1, 1), ("turns reversed", last, -1))
      for text, start, sign in shifts:
        reads = {k: at.get(start + sign * turn) for turn, k in at.items()}
        places = {k: {j: tape.steps[m].inputs[j]} for k, m in reads.items() if m is not None}
        if any(tape.steps[k].inputs[j] != own[j] for k, own in places.items()):
          yield f"wrong point: {what} of the {text}", places
      for others in turns.values():
        output = tape.steps[others[0]].outputs[0] if others.keys() == at.keys() else place
        if output != place and np.shape(tape.values[output]) == np.shape(value):
          places = {k: {j: tape.steps[others[turn]].outputs[0]} for turn, k in at.items()}
          yield f"wrong point: {tape.describe(output)} replaces {what}", places


# --- Values recomputed otherwise ------------------------------------------------------------------


def recomputed(search: Search) -> Iterator[Sweep]:
  """Yield the gradient with the values of an altered forward pass."""
  tape = search.tape
  other = copy.copy(tape)
  for text, changes, read_instead in altered_passes(tape):
    other.values = tape.recomputed(changes, read_instead)
    yield Sweep(text, other.pulled())


def altered_passes(tape: Tape) -> Iterator[tuple[str, Values, Mapping[int, Values]]]:
  """Yield (text, the values given, the values read instead by step and operand)."""
  without = "wrong point: the values computed without"
  for k, step in enumerate(tape.steps):
    shape = np.shape(tape.values[step.outputs[0]])
    if tape.depends.isdisjoint(step.inputs):
      continue
    for case in range(len(step.inputs) - 1) if step.name == "select_n" else ():
      yield f"{without} a condition", {}, {k: {0: np.full_like(tape.values[step.inputs[0]], case)}}
    for j, place in enumerate(step.inputs):
      value = tape.values[place]
      is_needed = step.name not in NEUTRAL or (step.name in ("sub", "div") and j == 0)
      if not is_needed and is_float(value.dtype) and np.shape(value) in (shape, ()):
        what = f"{without} operand {j} of {tape.describe(step.outputs[0])}"
        yield what, {}, {k: {j: np.full_like(value, NEUTRAL[step.name])}}
  moving = tape.dependent(only_floats=False)
  read = {i for step in tape.steps if step.outputs[0] in moving for i in step.inputs}
  constants = {place: tape.values[place] for place in tape.constants if place in read}
  scalars = {i: float(x) for i, x in constants.items() if np.ndim(x) == 0 and is_float(x.dtype)}
  for value in dict.fromkeys(filter(np.isfinite, scalars.values())):
    places = [place for place, x in scalars.items() if x == value]
    truncated = [round(value, digits) for digits in range(1, 8)]
    truncated += [float(np.asarray(value).astype(dtype)) for _, dtype in NARROW]
    for other in dict.fromkeys((*CONSTANTS, *truncated)):
      if other != value:
        text = f"other function: with the constant {other:.9g} for {value:.9g}"
        yield text, {place: np.full_like(tape.values[place], other) for place in places}, {}
