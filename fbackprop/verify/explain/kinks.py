"""Slopes at a kink that lie outside those of its two sides."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import Group, Matcher, say
from fbackprop.verify.explain.tape import Tape

# What may be added to the slope that autodiff takes.
EXCESS = (1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5, 3.0, -3.0)
COMPARISONS = frozenset(("gt", "ge", "lt", "le", "eq", "ne"))


def slopes_at_kinks(matcher: Matcher) -> Iterator[Group]:
  """Another slope exactly where a comparison is tied."""
  tape = matcher.tape
  ties = tied_entries(tape)
  for k, step in enumerate(tape.steps):
    out = step.outputs[0]
    if out not in tape.bars or not step.is_elementwise:
      continue
    shape = np.shape(tape.values[out])
    masks = [
      mask for at, mask in ties.items() if mask.shape == shape and at in (k, *chosen(tape, k))
    ]
    for place in dict.fromkeys(i for i in step.inputs if matcher.is_upstream(i)):
      if np.shape(tape.values[place]) != shape:
        continue
      for mask in masks:
        text = f"kink: another slope of {step.name} exactly at its kink"
        yield Group({place: mask * tape.bars[out]}, partial(say, text), EXCESS)


def tied_entries(tape: Tape) -> dict[int, np.ndarray]:
  """For each step with a tie, the entries where it is."""
  found = {}
  for k, step in enumerate(tape.steps):
    values = [tape.values[i] for i in step.inputs]
    tied = None
    if step.name in COMPARISONS | {"max", "min"}:
      tied = values[0] == values[1]
    elif step.name in ("abs", "sign", "relu"):
      tied = values[0] == 0
    if tied is not None and np.any(tied):
      found[k] = np.broadcast_to(tied, np.shape(tape.values[step.outputs[0]]))
  return found


def chosen(tape: Tape, k: int) -> list[int]:
  """The comparisons that a `select_n` follows."""
  if tape.steps[k].name != "select_n":
    return []
  condition = tape.steps[k].inputs[0]
  return [at for at, step in enumerate(tape.steps) if condition in step.outputs]
