"""Mutants of residuals: other values for the backward pass of a step or a scan to read.

They are stale, neighbouring or rounded residuals, ignored or inverted conditions, residuals of
another iteration of a scan; and values recomputed differently from the forward pass: without a
bias, an eps or a mask, or with another constant.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fbackprop.verify.explain.activations import is_linear
from fbackprop.verify.explain.matching import MOST_ENTRIES, Matcher, Mutants, Sweep, swept
from fbackprop.verify.explain.patterns import NARROW, Candidates, narrowed, shifted
from fbackprop.verify.explain.tape import Hook, Pulled, Tape, accumulate
from fbackprop.verify.interpret.primitives import is_float

# Steps whose backward rule reads operands.
READERS = frozenset(
  ("mul", "div", "dot_general", "max", "min", "select_n", "pow", "atan2", "conv_general_dilated")
)
# The neutral operand of each step.
NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "max": -np.inf, "min": np.inf}
CONSTANTS = (0.0, 1.0, -1.0, 2.0, 0.5, 0.1, 0.01, 0.2, 0.9, 1e-3, 1e-5, 1e-6, 1e-8, 1e-12)


def other_operands(matcher: Matcher) -> Iterator[Mutants]:
  """Yield other values for the operands that a step's backward rule reads."""
  tape = matcher.tape
  for k in range(len(tape.steps) - 1, -1, -1):
    step = tape.steps[k]
    if step.name not in READERS or not matcher.is_upstream(step.outputs[0]):
      continue
    for i, place in enumerate(step.inputs):
      changes = list(replacements(tape, place, f"{step.name}'s operand {i}"))
      sizes = np.size(tape.values[place]), tape.bars[step.outputs[0]].size
      changes = changes[: max(1, MOST_ENTRIES // max(1, *sizes))]
      if not changes:
        continue
      texts = [text for text, _ in changes]
      bars, alone = pulled_with(matcher, k, i, np.stack([value for _, value in changes]))
      yield from (Mutants({operand: change}, texts) for operand, change in alone if change.any())
      if len(bars) > 1:
        yield Mutants(bars, texts)


def pulled_with(
  matcher: Matcher, k: int, i: int, values: np.ndarray
) -> tuple[dict[int, np.ndarray], list[tuple[int, np.ndarray]]]:
  """Return the change of a step's cotangents with other values `[E, ...]` of one operand.

  Returns:
    (the changes by place, the change of each operand).
  """
  tape, step = matcher.tape, matcher.tape.steps[k]
  inputs = tape.operands(k)
  inputs[i] = values
  with np.errstate(all="ignore"):
    pulled = tape.pull(k, inputs, [tape.bars[step.outputs[0]]])
  total: dict[int, np.ndarray] = {}
  alone = []
  for j, (operand, bar) in enumerate(zip(step.inputs, pulled, strict=True)):
    if bar is not None and (k, j) in tape.edges and matcher.is_upstream(operand):
      change = np.broadcast_to(bar, (len(values), *bar.shape[1:])) - tape.edges[k, j]
      accumulate(total, operand, change)
      alone.append((operand, change))
  return total, alone


def replacements(tape: Tape, place: int, what: str) -> Candidates:
  """Yield the values that may be read instead of an operand."""
  value = np.asarray(tape.values[place])
  if not is_float(value.dtype):
    return
  for other in tape.alike(place):
    # The point of a derivative varies with the arguments, so a pair of constants isn't one.
    kind = "wrong point" if {other, place} & tape.depends else "other function"
    yield f"{kind}: {tape.describe(other)} replaces {what}", np.asarray(tape.values[other])
  for name, dtype in NARROW:
    yield f"precision: {what} is rounded to {name}", narrowed(dtype, value)
  if value.size > 1:
    yield f"other function: {what} is ignored, as if it were 1", np.ones_like(value)
    yield f"other function: {what} is applied twice", value**2
    yield f"other function: the reciprocal of {what}", 1 / value
    yield f"wrong point: the sign of {what}", np.sign(value)
    for text, moved in shifted(value):
      yield f"{text}, {what}", moved
  for a in range(value.ndim):
    for b in range(a + 1, value.ndim):
      if value.shape[a] == value.shape[b]:
        yield f"transposed: {what}", np.swapaxes(value, a, b)


def conditions(matcher: Matcher) -> Iterator[Mutants]:
  """Yield conditions ignored, inverted, or exchanged for another one."""
  tape = matcher.tape
  moving = tape.dependent(only_floats=False)
  for k in range(len(tape.steps) - 1, -1, -1):
    step = tape.steps[k]
    if step.name != "select_n" or not matcher.is_upstream(step.outputs[0]):
      continue
    which = tape.values[step.inputs[0]]
    # A condition on the data selects among examples; another one is part of a function.
    kind = "other function" if step.inputs[0] in moving else "subset of examples"
    what = f"the condition of {tape.describe(step.outputs[0])}"
    ignored = f"{kind}: {what} is ignored"
    changes = [(f"{kind}: {what} is inverted", ~which)] if which.dtype == bool else []
    changes += [(ignored, np.full_like(which, case)) for case in range(len(step.inputs) - 1)]
    changes += [
      (f"{kind}: {tape.describe(other)} replaces {what}", np.asarray(tape.values[other]))
      for other in tape.alike(step.inputs[0])
    ]
    bars, _ = pulled_with(matcher, k, 0, np.stack([value for _, value in changes]))
    # An ignored condition passes everything to one operand, or to all of them.
    if bars:
      yield Mutants(bars, [text for text, _ in changes])
    for j, operand in enumerate(step.inputs):
      if (k, j) in tape.edges and operand in bars:
        yield Mutants({operand: tape.bars[step.outputs[0]] - tape.edges[k, j]}, [ignored])


def other_masks(matcher: Matcher) -> Iterator[Sweep]:
  """Yield other masks of zeros and a constant before the leaf, as of another key."""
  tape, leaf, wants = matcher.tape, matcher.leaf, matcher.wants
  got = wants[leaf] + matcher.errors[leaf]
  for bar in tape.bars.values():
    if bar.shape[1:] != got.shape or got.size < 8 or not bar.all():
      continue
    kept, keeps = (x / bar[0] for x in (got, wants[leaf]))
    scale = float(np.max(keeps, initial=0.0))
    is_mask = [np.isclose(x, scale, rtol=1e-9, atol=0) | (x == 0) for x in (kept, keeps)]
    if scale > 0 and all(m.all() for m in is_mask) and 0 < np.count_nonzero(kept) < got.size:
      candidate = np.where(kept != 0, scale * bar[0], 0.0)
      text = f"other function: another mask before {tape.describe(tape.float_leaves[leaf])}"
      yield Sweep(text, [candidate if i == leaf else w for i, w in enumerate(wants)])


# --- All turns of a scan alike --------------------------------------------------------------------

# The step, by origin and iteration.
Turns = dict[tuple[int, ...], dict[int, int]]


def scan_mutants(matcher: Matcher) -> Iterator[Sweep]:
  """Yield faults that recur in every iteration of a scan."""
  tape = matcher.tape
  turns = turns_of(tape)
  if not turns:
    return
  text = "permuted: a scan is walked from the other end"
  yield swept(matcher, text, in_reverse(tape, turns))
  for origin, at in turns.items():
    step = tape.steps[next(iter(at.values()))]
    for j in range(len(step.inputs)):
      # In the first iteration the carry may be a constant.
      if -1 in origin or -2 in origin or not any((k, j) in tape.edges for k in at.values()):
        continue
      what = f"{tape.describe(step.outputs[0])} to its operand {j} in all turns of a scan"
      steps = frozenset(at.values())
      for factor, text in ((0.0, "is missing"), (2.0, "is counted twice"), (-1.0, "is negated")):
        hook = operand_scaled(tape, steps, j, factor)
        yield swept(matcher, f"path: the one through {what} {text}", hook)
      if step.name in ("mul", "div"):
        hook = operand_scaled(tape, steps, j, None)
        yield swept(matcher, f"path: the factor of {what} is left out", hook)
  for text, places in turned_residuals(tape, turns):
    yield swept(matcher, text, reading(tape, places))


def turns_of(tape: Tape) -> Turns:
  """Return the steps of unrolled scans, by origin and iteration."""
  turns: Turns = {}
  for k, step in enumerate(tape.steps):
    if step.origin:
      turns.setdefault(step.origin, {})[step.turn] = k
  return {origin: at for origin, at in turns.items() if len(at) > 1}


def operand_scaled(tape: Tape, steps: frozenset[int], operand: int, factor: float | None) -> Hook:
  """Scale one operand's cotangent in some steps; without a factor, pass on the output's."""

  def hook(k: int, inputs: list[np.ndarray], bars: list[np.ndarray]) -> Pulled | None:
    if k not in steps:
      return None
    pulled = tape.pull(k, inputs, bars)
    bar = pulled[operand]
    if factor is None:
      pulled[operand] = bars[0]
    elif bar is not None:
      pulled[operand] = factor * bar
    return pulled

  return hook


def in_reverse(tape: Tape, turns: Turns) -> Hook:
  """Traverse a scan backward from its first iteration instead of its last."""
  # Each step, and the one in its place when the iterations come in reverse order.
  other = {}
  for at in turns.values():
    numbers = sorted(at)
    other.update({at[a]: at[b] for a, b in zip(numbers, numbers[::-1], strict=True)})

  def hook(k: int, inputs: list[np.ndarray], bars: list[np.ndarray]) -> Pulled | None:
    step = tape.steps[k]
    if k in other:
      return tape.pull(other[k], tape.operands(other[k]), bars)
    if -2 in step.origin and step.name == "concatenate":
      return tape.pull(k, inputs, [np.flip(bars[0], 1)])
    return None

  return hook


# The place of the value that is read instead, by step and operand.
Operands = dict[int, dict[int, int]]


def turned_residuals(tape: Tape, turns: Turns) -> Iterator[tuple[str, Operands]]:
  """Yield one operand in all iterations: of another iteration, or another value of the same one."""
  for at in turns.values():
    first = tape.steps[at[0]]
    if first.name not in READERS and (not first.is_elementwise or is_linear(tape, at[0])):
      continue
    last = len(at) - 1
    for j, place in enumerate(first.inputs):
      if place not in tape.depends and not is_float(tape.values[place].dtype):
        continue
      what = f"{first.name}'s operand {j} in a scan"
      for text, turn_of in (
        ("the turn before", {turn: turn - 1 for turn in at}),
        ("the turn after", {turn: turn + 1 for turn in at}),
        ("the turns reversed", {turn: last - turn for turn in at}),
      ):
        places = {
          k: {j: tape.steps[at[turn_of[turn]]].inputs[j]}
          for turn, k in at.items()
          if turn_of[turn] in at
        }
        if any(tape.steps[k].inputs[j] != p[j] for k, p in places.items()):
          yield f"wrong point: {what} of {text}", places
      shape = np.shape(tape.values[place])
      for other_at in turns.values():
        output = tape.steps[other_at[0]].outputs[0] if 0 in other_at else None
        if output is None or np.shape(tape.values[output]) != shape or set(other_at) != set(at):
          continue
        places = {k: {j: tape.steps[other_at[turn]].outputs[0]} for turn, k in at.items()}
        yield f"wrong point: {tape.describe(output)} replaces {what}", places


def reading(tape: Tape, places: Operands) -> Hook:
  """Make the backward rules of some steps read other values."""

  def hook(k: int, inputs: list[np.ndarray], bars: list[np.ndarray]) -> Pulled | None:
    if k not in places:
      return None
    own = [tape.stacked(places[k][j]) if j in places[k] else x for j, x in enumerate(inputs)]
    return tape.pull(k, own, bars)

  return hook


# --- Values recomputed otherwise ------------------------------------------------------------------


def recomputed(matcher: Matcher) -> Iterator[Sweep]:
  """Yield the gradient with the values of an altered forward pass."""
  tape = matcher.tape
  for text, k, j, neutral in left_out_operands(tape):
    values = tape.recomputed({}, {k: {j: neutral}})
    yield with_values(tape, values, f"wrong point: the values computed without {text}")
  for value, places in literals(tape).items():
    truncated = [round(value, digits) for digits in range(1, 8)]
    truncated += [float(np.asarray(value).astype(dtype)) for _, dtype in NARROW]
    for other in dict.fromkeys((*CONSTANTS, *truncated)):
      if other != value:
        changes = {place: np.full_like(tape.values[place], other) for place in places}
        text = f"other function: with the constant {other:.9g} for {value:.9g}"
        yield with_values(tape, tape.recomputed(changes, {}), text)


def left_out_operands(tape: Tape) -> Iterator[tuple[str, int, int, np.ndarray]]:
  """Yield each operand that can be omitted: (text, step, operand, the value read instead)."""
  for k, step in enumerate(tape.steps):
    shape = np.shape(tape.values[step.outputs[0]])
    if tape.depends.isdisjoint(step.inputs):
      continue
    if step.name == "select_n":
      which = np.asarray(tape.values[step.inputs[0]])
      for case in range(len(step.inputs) - 1):
        yield "a condition", k, 0, np.full_like(which, case)
    for j, place in enumerate(step.inputs):
      value = tape.values[place]
      is_needed = step.name not in NEUTRAL or (step.name in ("sub", "div") and j == 0)
      if not is_needed and is_float(value.dtype) and np.shape(value) in (shape, ()):
        what = f"operand {j} of {tape.describe(step.outputs[0])}"
        yield what, k, j, np.full_like(value, NEUTRAL[step.name])


def literals(tape: Tape) -> Mapping[float, list[int]]:
  """Return the places of the scalar constants, by their number."""
  found: dict[float, list[int]] = {}
  moving = tape.dependent(only_floats=False)
  read = {i for step in tape.steps if step.outputs[0] in moving for i in step.inputs}
  for place in tape.constants:
    value = tape.values[place]
    if place in read and np.ndim(value) == 0 and is_float(value.dtype) and np.isfinite(value):
      found.setdefault(float(value), []).append(place)
  return found


def with_values(tape: Tape, values: list[Any], text: str) -> Sweep:
  """Return the cotangents of the leaves with other values."""
  own = tape.values
  tape.values = values
  try:
    bars, _ = tape.sweep(tape.y_bars)
    return Sweep(text, [x[0] for x in tape.at_leaves(bars)])
  finally:
    tape.values = own
