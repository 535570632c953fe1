"""Elementwise functions of one value inside a program, and what their derivative is taken for."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import bind
from fbackprop.verify.explain.matching import Matcher
from fbackprop.verify.explain.steps import struct
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.evaluation import Evaluator

LONGEST_REGION = 24


class Region:
  """An elementwise function of one value inside the program, t = φ(s).

  Args:
    tape: the program.
    source, sink: the places of s and t.
    steps: those in between, in order.
  """

  def __init__(self, tape: Tape, source: int, sink: int, steps: Sequence[int]) -> None:
    self.tape, self.source, self.sink, self.steps = tape, source, sink, steps
    shape = struct(np.shape(tape.values[source]), np.float64)
    self.program = jax.make_jaxpr(self.derivative)(shape)

  def derivative(self, x: Any) -> Any:
    """φ', in JAX."""
    return jax.jvp(self.function, (x,), (jnp.ones_like(x),))[1]

  def function(self, x: Any) -> Any:
    """φ."""
    found = {self.source: x}
    for k in self.steps:
      step = self.tape.steps[k]
      inputs = [found.get(i, self.tape.values[i]) for i in step.inputs]
      found.update(zip(step.outputs, bind(step.primitive, step.params, inputs), strict=True))
    return found[self.sink]

  def slopes(self, points: np.ndarray) -> np.ndarray:
    """φ' at points `[E, ...]`."""
    return np.asarray(Evaluator().run_stacked(self.program, [points])[0])

  @property
  def name(self) -> str:
    """The steps, in short."""
    names = [self.tape.steps[k].name for k in self.steps]
    return names[0] if len(names) == 1 else "(" + " ".join(dict.fromkeys(names)) + ")"


def find_regions(matcher: Matcher, is_longest: bool = False) -> Iterator[Region]:
  """Single steps first, then the longest regions of one input, then those inside them.

  Args:
    matcher: with the program.
    is_longest: whether only the longest are wanted.
  """
  tape = matcher.tape
  sources: dict[int, list[int]] = {}
  made_by = {step.outputs[0]: k for k, step in enumerate(tape.steps)}
  for step in tape.steps:
    sink = step.outputs[0]
    operands = {i for i in step.inputs if i in tape.depends}
    shape = np.shape(tape.values[sink])
    if not step.is_elementwise or any(np.shape(tape.values[i]) != shape for i in operands):
      continue
    common = [set(sources.get(i, [])) | {i} for i in operands]
    if common:
      sources[sink] = sorted(set.intersection(*common))
  found: list[tuple[int, int, list[int]]] = []
  for sink, starts in sources.items():
    for source in starts:
      if matcher.is_upstream(source) and matcher.is_upstream(sink):
        steps = between(tape, made_by, source, sink)
        if 0 < len(steps) <= LONGEST_REGION:
          found.append((source, sink, steps))
  longest = set()
  for sink in sources:
    ending = [f for f in found if f[1] == sink]
    is_inner = any(sink in tape.steps[k].inputs for f in found if f[1] != sink for k in f[2])
    if ending and not is_inner:
      longest.add(max(ending, key=lambda f: len(f[2]))[:2])
  found.sort(key=lambda f: (len(f[2]) > 1, f[:2] not in longest, -f[1]))
  for source, sink, steps in found:
    if is_longest and (source, sink) not in longest:
      continue
    if len(steps) > 1 or not is_linear(tape, steps[0]):
      yield Region(tape, source, sink, steps)


def is_linear(tape: Tape, k: int) -> bool:
  """Whether a single step's derivative depends on nothing."""
  return tape.steps[k].name in ("add", "sub", "neg", "copy", "convert_element_type")


def between(tape: Tape, made_by: dict[int, int], source: int, sink: int) -> list[int]:
  """The steps that compute the sink from the source."""
  found: set[int] = set()
  waiting = [sink]
  while waiting:
    place = waiting.pop()
    if place == source or place not in made_by or made_by[place] in found:
      continue
    k = made_by[place]
    found.add(k)
    waiting += [i for i in tape.steps[k].inputs if i in tape.depends]
  return sorted(found)
