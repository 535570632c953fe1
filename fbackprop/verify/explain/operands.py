"""Another value where a step's backward reads an operand: a stale or neighbouring residual."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import MOST_ENTRIES, Group, Matcher, Whole, say_each
from fbackprop.verify.explain.patterns import NARROW
from fbackprop.verify.explain.rearrangement import shifted
from fbackprop.verify.explain.rounding import narrowed
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float

# Steps with operands that the backward pass reads.
READERS = frozenset(
  ("mul", "div", "dot_general", "max", "min", "select_n", "pow", "atan2", "conv_general_dilated")
)


def other_operands(matcher: Matcher) -> Iterator[Group]:
  """Another value where a step's backward reads an operand: a stale or neighbouring residual."""
  tape = matcher.tape
  for k in range(len(tape.steps) - 1, -1, -1):
    step = tape.steps[k]
    if step.name not in READERS or not matcher.is_upstream(step.outputs[0]):
      continue
    inputs = [tape.stacked(i) for i in step.inputs]
    out = [tape.bars[step.outputs[0]]]
    for i, place in enumerate(step.inputs):
      changes = list(replacements(tape, place, f"{step.name}'s operand {i}"))
      room = max(1, MOST_ENTRIES // max(1, inputs[i].size, out[0].size))
      changes = changes[:room]
      if not changes:
        continue
      replaced = list(inputs)
      replaced[i] = np.stack([value for _, value in changes])
      texts = [text for text, _ in changes]
      with np.errstate(all="ignore"):
        pulled = tape.pull(k, replaced, out)
      bars: dict[int, np.ndarray] = {}
      for j, operand in enumerate(step.inputs):
        bar = pulled[j]
        if bar is None or (k, j) not in tape.edges or not matcher.is_upstream(operand):
          continue
        change = np.broadcast_to(bar, (len(changes), *bar.shape[1:])) - tape.edges[k, j]
        bars[operand] = bars[operand] + change if operand in bars else change
        if change.any():
          yield Group({operand: change}, partial(say_each, texts))
      if len(bars) > 1:
        yield Group(bars, partial(say_each, texts))


def replacements(tape: Tape, place: int, what: str) -> Iterator[tuple[str, np.ndarray]]:
  """What may stand in an operand's place."""
  value = np.asarray(tape.values[place])
  if value.dtype == bool or not is_float(value.dtype):
    return
  for other in tape.alike(place):
    # Where neither moves with the arguments, it is no point at which a derivative is taken.
    kind = "wrong point" if {other, place} & tape.depends else "other function"
    yield f"{kind}: {tape.describe(other)} stands for {what}", np.asarray(tape.values[other])
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


def conditions(matcher: Matcher) -> Iterator[Group]:
  """Conditions that are ignored, inverted, or exchanged for another one."""
  tape = matcher.tape
  moving = tape.data_dependent()
  for k in range(len(tape.steps) - 1, -1, -1):
    step = tape.steps[k]
    if step.name != "select_n" or not matcher.is_upstream(step.outputs[0]):
      continue
    which = tape.values[step.inputs[0]]
    # A condition that comes with the data chooses among examples; another is part of a function.
    kind = "other function" if step.inputs[0] in moving else "subset of examples"
    what = f"the condition of {tape.describe(step.outputs[0])}"
    changes = []
    if which.dtype == bool:
      changes = [(f"{kind}: {what} is inverted", ~which)]
    for case in range(len(step.inputs) - 1):
      changes.append((f"{kind}: {what} is ignored", np.full_like(which, case)))
    for other in tape.alike(step.inputs[0]):
      text = f"{kind}: {tape.describe(other)} stands for {what}"
      changes.append((text, np.asarray(tape.values[other])))
    texts = [text for text, _ in changes]
    inputs = [tape.stacked(i) for i in step.inputs]
    inputs[0] = np.stack([value for _, value in changes])
    pulled = tape.pull(k, inputs, [tape.bars[step.outputs[0]]])
    bars: dict[int, np.ndarray] = {}
    for j, operand in enumerate(step.inputs):
      if pulled[j] is not None and (k, j) in tape.edges and matcher.is_upstream(operand):
        change = pulled[j] - tape.edges[k, j]
        bars[operand] = bars[operand] + change if operand in bars else change
    # An ignored condition lets everything through, to one operand, or to all of them.
    if bars:
      yield Group(bars, partial(say_each, texts))
    for j, operand in enumerate(step.inputs):
      if (k, j) in tape.edges and operand in bars:
        everything = tape.bars[step.outputs[0]] - tape.edges[k, j]
        yield Group({operand: everything}, partial(say_each, [f"{kind}: {what} is ignored"]))


def other_masks(matcher: Matcher) -> Iterator[Whole]:
  """Another mask of zeros and a constant than the one before the leaf, as of another key."""
  tape, leaf = matcher.tape, matcher.leaf
  place = tape.float_leaves[leaf]
  wants = matcher.wants()
  got = wants[leaf] + matcher.errors[leaf]
  for bar in tape.bars.values():
    if bar.shape[1:] != got.shape or got.size < 8 or not bar.all():
      continue
    kept, keeps = (x / bar[0] for x in (got, wants[leaf]))
    scale = float(np.max(keeps, initial=0.0))
    is_mask = [np.isclose(x, scale, rtol=1e-9, atol=0) | (x == 0) for x in (kept, keeps)]
    if scale > 0 and all(m.all() for m in is_mask) and 0 < np.count_nonzero(kept) < got.size:
      candidate = np.where(kept != 0, scale * bar[0], 0.0)
      text = f"other function: another mask before {tape.describe(place)}"
      yield Whole(text, [candidate if i == leaf else w for i, w in enumerate(wants)])
