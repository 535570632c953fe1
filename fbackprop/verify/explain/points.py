"""Derivatives of the right or another function, at the right or another point."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import (
  MOST_ENTRIES,
  Group,
  Matcher,
  Whole,
  altered,
  say_each,
)
from fbackprop.verify.explain.patterns import NARROW
from fbackprop.verify.explain.regions import find_regions
from fbackprop.verify.explain.slopes import from_narrow_output, named_slopes, other_slopes
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float


def other_activations(matcher: Matcher) -> Iterator[Group]:
  """The derivative of another activation than the longest of elementwise functions."""
  tape = matcher.tape
  for region in find_regions(matcher, is_longest=True):
    s = tape.stacked(region.source)
    own = region.slopes(s)
    with np.errstate(all="ignore"):
      # Slopes that are 0 or 1 at all these points say nothing about a function.
      found = [(name, x) for name, x in named_slopes(s) if np.ptp(x) > 0]
      if not found:
        continue
      texts = [
        f"other function: the derivative of {name} in place of that of {region.name}"
        for name, _ in found
      ]
      stack = np.concatenate([np.broadcast_to(slope, s.shape) for _, slope in found])
      bars = {region.source: tape.bars[region.sink] * (stack - own)}
    yield Group(bars, partial(say_each, texts))


def other_points(matcher: Matcher) -> Iterator[Group]:
  """The derivative of each region elsewhere, and formulas that it is mistaken for."""
  tape = matcher.tape
  for region in find_regions(matcher):
    s, y = tape.stacked(region.source), tape.stacked(region.sink)
    bar = tape.bars[region.sink]
    own = region.slopes(s)
    if not is_float(own.dtype):
      continue
    output = tape.describe(region.sink)
    with np.errstate(all="ignore"):
      other = other_slopes(s, y, own, region.name) + from_narrow_output(y, own, NARROW)
      texts = [text for text, _ in other]
      if is_step_like(tape, region.steps):
        text = f"semantic: {region.name} is taken for the identity, a straight-through rule"
        texts = [text if "the identity" in t else t for t in texts]
      slopes = [np.broadcast_to(slope, s.shape) for _, slope in other]
      places = [region.sink, *(p for p in tape.alike(region.source) if p != region.sink)]
      places = places[: max(1, MOST_ENTRIES // max(1, s.size))]
      found = region.slopes(np.concatenate([tape.stacked(p) for p in places]))
      found = np.broadcast_to(found, (len(places), *s.shape[1:]))
      names = [f"{tape.describe(p)}" for p in places]
      told = [f"wrong point: the derivative of {region.name} at its output {output}"]
      told += [f"wrong point: the derivative of {region.name} at {name}" for name in names[1:]]
      stack = np.concatenate([found, *slopes])
    yield Group({region.source: bar * (stack - own)}, partial(say_each, told + texts))


def is_step_like(tape: Tape, steps: Sequence[int]) -> bool:
  """Whether a function clips or rounds: what a straight-through rule is written for."""
  names = {tape.steps[k].name for k in steps}
  return bool(names & {"clamp", "round", "floor", "ceil", "sign"}) or {"max", "min"} <= names


def everywhere(matcher: Matcher) -> Iterator[Whole]:
  """The derivatives of one function at its output, in every layer."""
  tape = matcher.tape
  names = dict.fromkeys(step.name for step in tape.steps if step.is_elementwise)
  for name in names:
    yield altered(
      matcher, f"wrong point: the derivatives of {name} at its outputs", partial(at_output, name)
    )


def at_output(
  name: str, tape: Tape, k: int, inputs: list[np.ndarray], bars: list[np.ndarray]
) -> list[np.ndarray | None] | None:
  """Elementwise steps of one name, their inputs replaced by their outputs."""
  step = tape.steps[k]
  if step.name != name:
    return None
  output = tape.stacked(step.outputs[0])
  replaced = [
    output if i in tape.depends and x.shape == output.shape and x.dtype == output.dtype else x
    for i, x in zip(step.inputs, inputs, strict=True)
  ]
  return tape.pull(k, replaced, bars)
