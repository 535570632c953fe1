"""Slips in all turns of a scan at once."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import Matcher, Whole, altered
from fbackprop.verify.explain.operands import READERS
from fbackprop.verify.explain.regions import is_linear
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float

# By origin and turn, the step.
Turns = dict[tuple[int, ...], dict[int, int]]


def scan_slips(matcher: Matcher) -> Iterator[Whole]:
  """What may go wrong in every turn alike."""
  tape = matcher.tape
  turns = turns_of(tape)
  if not turns:
    return
  yield walked_forward(matcher, turns)
  for origin, at in turns.items():
    step = tape.steps[next(iter(at.values()))]
    for j in range(len(step.inputs)):
      # In the first turn the carry may be a constant.
      if -1 in origin or -2 in origin or not any((k, j) in tape.edges for k in at.values()):
        continue
      what = f"{tape.describe(step.outputs[0])} to its operand {j} in all turns of a scan"
      for factor, text in ((0.0, "is missing"), (2.0, "is counted twice"), (-1.0, "is negated")):
        hook = partial(with_factor, frozenset(at.values()), j, factor)
        yield altered(matcher, f"path: the one through {what} {text}", hook)
      if step.name in ("mul", "div"):
        hook = partial(with_bar, frozenset(at.values()), j)
        yield altered(matcher, f"path: the factor of {what} is left out", hook)
  for text, places in turned_residuals(tape, turns):
    yield altered(matcher, text, partial(with_operands, places))


def turns_of(tape: Tape) -> Turns:
  """The steps of unrolled scans: by what they are, by turn."""
  turns: Turns = {}
  for k, step in enumerate(tape.steps):
    if step.origin:
      turns.setdefault(step.origin, {})[step.turn] = k
  return {origin: at for origin, at in turns.items() if len(at) > 1}


def with_factor(
  steps: frozenset[int],
  operand: int,
  factor: float,
  tape: Tape,
  k: int,
  inputs: list[np.ndarray],
  bars: list[np.ndarray],
) -> list[np.ndarray | None] | None:
  """One operand's cotangent multiplied, in some steps."""
  if k not in steps:
    return None
  pulled = tape.pull(k, inputs, bars)
  bar = pulled[operand]
  pulled[operand] = None if bar is None else factor * bar
  return pulled


def with_bar(
  steps: frozenset[int],
  operand: int,
  tape: Tape,
  k: int,
  inputs: list[np.ndarray],
  bars: list[np.ndarray],
) -> list[np.ndarray | None] | None:
  """One operand's cotangent is the output's, in some steps."""
  if k not in steps:
    return None
  pulled = tape.pull(k, inputs, bars)
  pulled[operand] = bars[0]
  return pulled


def walked_forward(matcher: Matcher, turns: Turns) -> Whole:
  """A scan whose backward pass begins at its first turn instead of its last."""
  # A step, and the one that stands in its place when the turns come in the other order.
  other = {}
  for at in turns.values():
    numbers = sorted(at)
    other.update({at[a]: at[b] for a, b in zip(numbers, numbers[::-1], strict=True)})
  text = "permuted: a scan is walked from the other end"
  return altered(matcher, text, partial(in_other_order, other))


def in_other_order(
  other: dict[int, int], tape: Tape, k: int, inputs: list[np.ndarray], bars: list[np.ndarray]
) -> list[np.ndarray | None] | None:
  """A step as that of the turn which is walked through at this moment."""
  step = tape.steps[k]
  if k in other:
    return tape.pull(other[k], [tape.stacked(i) for i in tape.steps[other[k]].inputs], bars)
  if -2 in step.origin and step.name == "concatenate":
    return tape.pull(k, inputs, [np.flip(bars[0], 1)])
  return None


# By step and operand, the place of the value that is read instead.
Operands = dict[int, dict[int, int]]


def turned_residuals(tape: Tape, turns: Turns) -> Iterator[tuple[str, Operands]]:
  """One operand in all turns of a scan: of another turn, or another value of the same turn."""
  for at in turns.values():
    first = tape.steps[at[0]]
    if first.name not in READERS and (not first.is_elementwise or is_linear(tape, at[0])):
      continue
    length = len(at)
    for j, place in enumerate(first.inputs):
      if place not in tape.depends and not is_float(tape.values[place].dtype):
        continue
      what = f"{first.name}'s operand {j} in a scan"
      for text, other in (
        ("the turn before", -1),
        ("the turn after", 1),
        ("the turns reversed", 0),
      ):
        places = {}
        for turn, k in at.items():
          from_turn = turn + other if other else length - 1 - turn
          if from_turn in at:
            places[k] = {j: tape.steps[at[from_turn]].inputs[j]}
        if any(tape.steps[k].inputs[j] != p[j] for k, p in places.items()):
          yield f"wrong point: {what} of {text}", places
      shape = np.shape(tape.values[place])
      for other_at in turns.values():
        output = tape.steps[other_at[0]].outputs[0] if 0 in other_at else None
        if output is None or np.shape(tape.values[output]) != shape or set(other_at) != set(at):
          continue
        places = {k: {j: tape.steps[other_at[turn]].outputs[0]} for turn, k in at.items()}
        yield f"wrong point: {tape.describe(output)} stands for {what}", places


def with_operands(
  places: Operands, tape: Tape, k: int, inputs: list[np.ndarray], bars: list[np.ndarray]
) -> list[np.ndarray | None] | None:
  """Steps whose backward reads other values."""
  if k not in places:
    return None
  inputs = [tape.stacked(places[k][j]) if j in places[k] else x for j, x in enumerate(inputs)]
  return tape.pull(k, inputs, bars)
