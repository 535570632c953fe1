"""Derivatives taken at the wrong point, of another function, with another operand."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf, expit

from fbackprop.verify.edits import (
  MOST_ENTRIES,
  altered,
  describe,
  narrowed,
  say_each,
)
from fbackprop.verify.evaluation import Evaluator, bind
from fbackprop.verify.matching import Group, Matcher, Whole
from fbackprop.verify.patterns import NARROW
from fbackprop.verify.primitives import is_float
from fbackprop.verify.rearrangement import shifted
from fbackprop.verify.tape import Tape

# Steps with operands that the backward pass reads.
READERS = frozenset(
  ("mul", "div", "dot_general", "max", "min", "select_n", "pow", "atan2", "conv_general_dilated")
)
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
    shape = jax.ShapeDtypeStruct(np.shape(tape.values[source]), np.float64)
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


def find_regions(matcher: Matcher) -> Iterator[Region]:
  """Single steps first, then the longest regions of one input, then those inside them."""
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
  found = []
  for sink, starts in sources.items():
    for source in starts:
      if matcher.is_upstream(source) and matcher.is_upstream(sink):
        steps = between(tape, made_by, source, sink)
        if 0 < len(steps) <= LONGEST_REGION:
          found.append((source, sink, steps))
  longest = set()
  for sink in sources:
    starts = [f for f in found if f[1] == sink]
    is_inner = any(sink in tape.steps[k].inputs for f in found if f[1] != sink for k in f[2])
    if starts and not is_inner:
      longest.add(max(starts, key=lambda f: len(f[2]))[:2])
  found.sort(key=lambda f: (len(f[2]) > 1, f[:2] not in longest, -f[1]))
  for source, sink, steps in found:
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


def points(matcher: Matcher) -> Iterator[Group]:
  """The derivative of each region elsewhere, and those of other functions."""
  tape = matcher.tape
  for region in find_regions(matcher):
    s, y = tape.stacked(region.source), tape.stacked(region.sink)
    bar = tape.bars[region.sink]
    own = region.slopes(s)
    if not is_float(own.dtype):
      continue
    output = describe(tape, region.sink)
    with np.errstate(all="ignore"):
      other = other_slopes(s, y, own, region.name)
      texts = [text for text, _ in other]
      slopes = [np.broadcast_to(slope, s.shape) for _, slope in other]
      places = [region.sink, *same_shape(tape, region.source, region.sink)]
      places = places[: max(1, MOST_ENTRIES // max(1, s.size))]
      found = region.slopes(np.concatenate([tape.stacked(p) for p in places]))
      found = np.broadcast_to(found, (len(places), *s.shape[1:]))
      names = [f"{describe(tape, p)}" for p in places]
      told = [f"wrong point: the derivative of {region.name} at its output {output}"]
      told += [f"wrong point: the derivative of {region.name} at {name}" for name in names[1:]]
      stack = np.concatenate([found, *slopes])
    yield Group({region.source: bar * (stack - own)}, partial(say_each, told + texts))


def other_slopes(
  s: np.ndarray, y: np.ndarray, own: np.ndarray, name: str
) -> list[tuple[str, np.ndarray]]:
  """Derivatives that are mistaken for φ'(s), and formulas that are slips of the pen."""
  one = np.ones_like(s)
  sigma = expit(s)
  tanh = np.tanh(s)
  c = np.sqrt(2 / np.pi)
  inner = np.tanh(c * (s + 0.044715 * s**3))
  normal = np.exp(-s * s / 2) / np.sqrt(2 * np.pi)
  quick = expit(1.702 * s)
  softplus = np.logaddexp(0, s)
  functions = [
    ("the identity", one),
    ("gelu's tanh form", 0.5 * (1 + inner)
      + 0.5 * s * (1 - inner**2) * c * (1 + 3 * 0.044715 * s * s)),
    ("gelu", 0.5 * (1 + erf(s / np.sqrt(2))) + s * normal),
    ("gelu without its second term", 0.5 * (1 + erf(s / np.sqrt(2)))),
    ("gelu's sigmoid form", quick + 1.702 * s * quick * (1 - quick)),
    ("silu", sigma + s * sigma * (1 - sigma)),
    ("sigmoid", sigma * (1 - sigma)),
    ("softplus", sigma),
    ("tanh", 1 - tanh**2),
    ("relu", np.where(s > 0, one, 0 * s)),
    ("elu", np.where(s > 0, one, np.exp(s))),
    ("mish", np.tanh(softplus) + s * sigma * (1 - np.tanh(softplus) ** 2)),
    ("relu6", np.where((s > 0) & (s < 6), one, 0 * s)),
    ("hard tanh", np.where(np.abs(s) < 1, one, 0 * s)),
    *((f"leaky relu of slope {a:g}", np.where(s > 0, one, a + 0 * s)) for a in (0.01, 0.1, 0.2, 0.3)),
    ("exp", np.exp(s)), ("log", 1 / s), ("the square", 2 * s), ("the root", 0.5 / np.sqrt(s)),
    ("the absolute value", np.sign(s)),
  ]  # fmt: skip
  formulas = [
    ("1 - y^2", 1 - y * y), ("1 - y", 1 - y), ("y", y), ("y (1 - y)", y * (1 - y)),
    ("1 + y^2", 1 + y * y), ("y^2", y * y), ("sign(y)", np.sign(y)), ("y > 0", (y > 0) * one),
    ("-y", -y), ("1 / y", 1 / y), ("2 y", 2 * y), ("y / 2", y / 2), ("y^3", y**3),
    ("1 - y'", 1 - own), ("y' squared", own**2), ("-y'", -own), ("1 / y'", 1 / own),
    ("0", 0 * own),
  ]  # fmt: skip
  misplaced = [("1 - s^2", 1 - s * s), ("s (1 - s)", s * (1 - s)), ("s", s), ("s^2", s * s)]
  return (
    [(f"wrong point: the derivative of {name}, written for its output, at its input: {text}", v)
     for text, v in misplaced]
    + [(f"other function: the derivative of {text} in place of that of {name}", v)
       for text, v in functions]
    + [(f"other function: {text} in place of the derivative of {name}", v) for text, v in formulas]
  )  # fmt: skip


def same_shape(tape: Tape, *without: int) -> list[int]:
  """The float values of a place's shape, those of equal numbers once."""
  value = tape.values[without[0]]
  seen = {np.asarray(tape.values[p]).tobytes() for p in without[:1]}
  found = []
  for place, other in enumerate(tape.values):
    is_alike = getattr(other, "dtype", None) == value.dtype and np.shape(other) == np.shape(value)
    if not is_alike or place in without:
      continue
    key = np.asarray(other).tobytes()
    if key not in seen:
      seen.add(key)
      found.append(place)
  return found


def operands(matcher: Matcher) -> Iterator[Group]:
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
  for other in same_shape(tape, place):
    yield f"wrong point: {describe(tape, other)} stands for {what}", np.asarray(tape.values[other])
  if value.dtype == bool:
    yield f"path: {what} is ignored", np.ones_like(value)
    yield f"path: {what} is ignored", np.zeros_like(value)
    yield f"path: {what} is inverted", ~value
  if not is_float(value.dtype):
    return
  for name, dtype in NARROW:
    yield f"precision: {what} is rounded to {name}", narrowed(dtype, value)
  if value.size > 1:
    yield f"other function: {what} is ignored, as if it were 1", np.ones_like(value)
    yield f"wrong point: the sign of {what}", np.sign(value)
    for text, moved in shifted(value):
      yield f"{text}, {what}", moved
  for a in range(value.ndim):
    for b in range(a + 1, value.ndim):
      if value.shape[a] == value.shape[b]:
        yield f"transposed: {what}", np.swapaxes(value, a, b)


def everywhere(matcher: Matcher) -> Iterator[Whole]:
  """The same slip in every layer: derivatives at the output, neighbours in a scan."""
  tape = matcher.tape
  names = dict.fromkeys(step.name for step in tape.steps if step.is_elementwise)
  for name in names:
    yield altered(
      matcher, f"wrong point: the derivatives of {name} at its outputs", partial(at_output, name)
    )
  for text, places in turned_residuals(tape):
    yield altered(matcher, text, partial(with_operands, places))


# By step and operand, the place of the value that is read instead.
Operands = dict[int, dict[int, int]]


def turned_residuals(tape: Tape) -> Iterator[tuple[str, Operands]]:
  """One operand in all turns of a scan: of another turn, or another value of the same turn."""
  turns: dict[tuple[int, ...], dict[int, int]] = {}
  for k, step in enumerate(tape.steps):
    if step.origin:
      turns.setdefault(step.origin, {})[step.turn] = k
  turns = {origin: at for origin, at in turns.items() if len(at) > 1}
  for origin, at in turns.items():
    first = tape.steps[at[0]]
    if first.name not in READERS and (not first.is_elementwise or is_linear(tape, at[0])):
      continue
    length = len(at)
    for j, place in enumerate(first.inputs):
      if place not in tape.depends and not is_float(tape.values[place].dtype):
        continue
      what = f"{first.name}'s operand {j} in a scan"
      for text, other in (("the turn before", -1), ("the turn after", 1), ("the turns reversed", 0)):
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
        yield f"wrong point: {describe(tape, output)} stands for {what}", places


def with_operands(
  places: Operands, tape: Tape, k: int, inputs: list[np.ndarray], bars: list[np.ndarray]
) -> list[np.ndarray | None] | None:
  """Steps whose backward reads other values."""
  if k not in places:
    return None
  inputs = [tape.stacked(places[k][j]) if j in places[k] else x for j, x in enumerate(inputs)]
  return tape.pull(k, inputs, bars)


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
