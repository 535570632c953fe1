"""Values that were computed again, but otherwise than the first time.

A bias, an eps, a mask or a constant is left out, or is another one, in a forward pass of which the
backward pass keeps what it reads.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fbackprop.verify.explain.matching import Matcher, Whole
from fbackprop.verify.explain.patterns import NARROW
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float

# What an operand is if it might as well not be there.
NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0, "max": -np.inf, "min": np.inf}
CONSTANTS = (0.0, 1.0, -1.0, 2.0, 0.5, 0.1, 0.01, 0.2, 0.9, 1e-3, 1e-5, 1e-6, 1e-8, 1e-12)


def recomputed(matcher: Matcher) -> Iterator[Whole]:
  """The gradient with the values of an altered forward pass."""
  tape = matcher.tape
  for text, changes, read in left_out_operands(tape):
    values = tape.recomputed(changes, read)
    yield swept(tape, values, f"wrong point: the values computed without {text}")
  for value, places in literals(tape).items():
    for other in dict.fromkeys((*CONSTANTS, *cut_short(value))):
      if other != value:
        changes = {place: np.full_like(tape.values[place], other) for place in places}
        values = tape.recomputed(changes, {})
        yield swept(tape, values, f"other function: with the constant {other:.9g} for {value:.9g}")


def cut_short(value: float) -> list[float]:
  """A constant with fewer digits."""
  return [round(value, digits) for digits in range(1, 8)] + [
    float(np.asarray(value).astype(dtype)) for _, dtype in NARROW
  ]


Read = dict[int, dict[int, Any]]


def left_out_operands(tape: Tape) -> Iterator[tuple[str, dict[int, Any], Read]]:
  """Each operand that can be left out."""
  for k, step in enumerate(tape.steps):
    shape = np.shape(tape.values[step.outputs[0]])
    if not tape.depends.intersection(step.inputs):
      continue
    if step.name == "select_n":
      which = np.asarray(tape.values[step.inputs[0]])
      for case in range(len(step.inputs) - 1):
        yield "a condition", {}, {k: {0: np.full_like(which, case)}}
    for j, place in enumerate(step.inputs):
      value = tape.values[place]
      if step.name in NEUTRAL and is_float(value.dtype) and np.shape(value) in (shape, ()):
        if step.name in ("sub", "div") and j == 0:
          continue
        neutral = np.full_like(value, NEUTRAL[step.name])
        yield f"operand {j} of {tape.describe(step.outputs[0])}", {}, {k: {j: neutral}}


def literals(tape: Tape) -> dict[float, list[int]]:
  """The scalar constants, by their number."""
  found: dict[float, list[int]] = {}
  moving = tape.data_dependent()
  read = {i for step in tape.steps if step.outputs[0] in moving for i in step.inputs}
  for place in tape.constants:
    value = tape.values[place]
    if place in read and np.ndim(value) == 0 and is_float(value.dtype) and np.isfinite(value):
      found.setdefault(float(value), []).append(place)
  return found


def swept(tape: Tape, values: list[Any], text: str) -> Whole:
  """The cotangents of the leaves with other values."""
  own = tape.values
  tape.values = values
  try:
    bars, _ = tape.sweep(tape.y_bars)
    return Whole(text, [x[0] for x in tape.at_leaves(bars)])
  finally:
    tape.values = own
