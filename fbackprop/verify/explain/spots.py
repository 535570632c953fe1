"""An equation of a program as a spot that can be edited, and the values that it might have read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from fbackprop.verify.explain.steps import Step, Steps
from fbackprop.verify.interpret.primitives import is_float

# The steps that round their operand.
ROUNDING = frozenset(("convert_element_type", "reduce_precision", "round"))

# Returns the value at a place, in the sample that an edit is evaluated for.
Read = Callable[[int], Any]
Outputs = list[Any]
Change = Callable[[Any], Any]


class Edit(NamedTuple):
  """An edit of one spot.

  Attributes:
    text: what is wrong there, "kind: detail".
    outputs: the equation's outputs instead, given what reads a value, and the turn.
  """

  text: str
  outputs: Callable[[Read, int], Outputs]


class Other(NamedTuple):
  """A value that may have been meant: its name, and its places in order of execution."""

  name: str
  places: list[int]


@dataclass(frozen=True)
class Spot:
  """An equation of a program, in all turns of a scan alike.

  Attributes:
    steps: the program.
    turns: the numbers of the equation's steps, one for each turn.
    name: the equation in words.
    named: all values of the program.
  """

  steps: Steps
  turns: Sequence[int]
  name: str
  named: Sequence[Other]

  @property
  def step(self) -> Step:
    """The step of the first turn."""
    return self.steps.steps[self.turns[0]]

  @property
  def params(self) -> Any:
    """The equation's parameters."""
    return self.step.equation.params

  @property
  def value(self) -> Any:
    """The first output in the first turn."""
    return self.steps.values[self.step.outputs[0]]

  @property
  def is_single(self) -> bool:
    """Whether the equation gives one array, by a primitive of its own name."""
    return len(self.step.outputs) == 1 and self.step.name == self.step.equation.primitive.name

  @property
  def is_number(self) -> bool:
    """Whether the equation gives one array of floats."""
    return len(self.step.outputs) == 1 and is_float(self.value.dtype)

  @property
  def operands(self) -> list[Any]:
    """The operands' values in the first turn."""
    return [self.steps.values[i] for i in self.step.inputs]

  def is_edited_here(self, j: int) -> bool:
    """Return whether an operand is edited here, rather than as a constant or another's output."""
    place = self.step.inputs[j]
    is_of_one = self.steps.reads[place] == 1 and place in self.steps.maker
    return not is_of_one and place not in self.steps.constants

  def is_rounding_alone(self, j: int, other: Other) -> bool:
    """Return whether an operand is made by a rounding that another value isn't made by."""
    own, its = (self.steps.needed_by([i]) for i in (self.step.inputs[j], other.places[0]))
    return any(self.steps.steps[k].name in ROUNDING for k in own - its)

  # --- Other values -------------------------------------------------------------------------------

  @cached_property
  def others(self) -> list[Other]:
    """The distinct values that are known before the equation, in every turn."""
    ends = [self.steps.steps[k].outputs[0] for k in self.turns]
    found: dict[Any, Other] = {}
    for name, places in self.named:
      for own in self.along(places):
        x, last = self.steps.values[own[0]], self.steps.values[own[-1]]
        is_before = all(place < end for place, end in zip(own, ends, strict=True))
        if is_before and isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
          key = x.dtype.kind, x.shape, x.tobytes(), last.tobytes()
          found.setdefault(key, Other(name, own))
    return list(found.values())

  def along(self, places: list[int]) -> Iterator[list[int]]:
    """Yield the places of a value in this equation's turns."""
    count = len(self.turns)
    if len(places) == count:
      yield places
    elif len(places) == 1:
      yield places * count
    elif count == 1:  # Of the first turn of a scan, and of the last.
      yield from ([places[0]], [places[-1]])

  def like(self, x: Any) -> Iterator[tuple[Other, Change]]:
    """Yield the values that fit into the place of another one, each with how it gets its shape."""
    for other in self.others:
      value = self.steps.values[other.places[0]]
      if value.dtype.kind == x.dtype.kind and (fit := fitting(value.shape, x.shape)):
        yield other, fit

  # --- Edits --------------------------------------------------------------------------------------

  def inputs(self, read: Read, turn: int) -> list[Any]:
    """Return the operands in a turn."""
    return [read(i) for i in self.steps.steps[self.turns[turn]].inputs]

  def evaluate(self, inputs: list[Any], turn: int) -> Outputs:
    """Apply the equation to operands."""
    return self.steps.steps[self.turns[turn]].evaluate(inputs, self.steps.evaluator)

  def changed(self, text: str, change: Change) -> Edit:
    """Return the edit that applies a function to the output."""

    def outputs(read: Read, turn: int) -> Outputs:
      (own,) = self.evaluate(self.inputs(read, turn), turn)
      return [change(own)]

    return Edit(text, outputs)

  def combined(
    self, text: str, other: Other, fit: Change, combine: Callable[[Any, Any], Any]
  ) -> Edit:
    """Return the edit that combines the output with another value."""

    def outputs(read: Read, turn: int) -> Outputs:
      (own,) = self.evaluate(self.inputs(read, turn), turn)
      return [combine(own, fit(read(other.places[turn])))]

    return Edit(text, outputs)

  def reading(self, text: str, j: int, change: Change) -> Edit:
    """Return the edit that applies a function to an operand."""

    def outputs(read: Read, turn: int) -> Outputs:
      inputs = self.inputs(read, turn)
      inputs[j] = change(inputs[j])
      return self.evaluate(inputs, turn)

    return Edit(text, outputs)

  def reading_other(self, text: str, j: int, other: Other, fit: Change) -> Edit:
    """Return the edit that reads another value."""

    def outputs(read: Read, turn: int) -> Outputs:
      inputs = self.inputs(read, turn)
      inputs[j] = fit(read(other.places[turn]))
      return self.evaluate(inputs, turn)

    return Edit(text, outputs)

  def instead(self, text: str, function: Callable[..., Any]) -> Edit:
    """Return the edit that applies another function to the operands."""
    return Edit(text, lambda read, turn: [function(*self.inputs(read, turn))])

  def free_constants(self) -> Iterator[tuple[float, Callable[[float], Edit]]]:
    """Yield each constant operand, and the edit that gives another number in its place."""
    for j, operand in enumerate(self.operands):
      is_constant = self.step.inputs[j] in self.steps.constants and np.ndim(operand) == 0
      if is_constant and is_float(operand.dtype):
        yield float(operand), partial(self.with_constant, j)

  def free_changes(self) -> Iterator[tuple[float, Callable[[float], Edit]]]:
    """Yield a factor and a term of the output, each with the number that changes nothing."""
    what = f"other function: {self.name}"
    yield 1.0, lambda c: self.changed(f"{what} lacks the factor {c:.9g}", partial(np.multiply, c))
    yield 0.0, lambda c: self.changed(f"{what} lacks the term {c:.9g}", partial(np.add, c))

  def with_constant(self, j: int, c: float) -> Edit:
    """Return the edit that gives another constant as an operand."""
    text = f"operand {j} of {self.name} is {self.operands[j]:g}, where {c:.9g} is right"
    return self.reading(f"other function: {text}", j, lambda x: np.asarray(c).astype(x.dtype))


def fitting(shape: tuple[int, ...], wanted: tuple[int, ...]) -> Change | None:
  """Return how an array gets a shape: as it is, broadcast, transposed or reshaped; or None."""
  if shape == wanted:
    return np.asarray
  for own in (shape, (*shape, *(1,) * (len(wanted) - len(shape)))):
    pairs = zip(own[::-1], wanted[::-1], strict=False)
    if len(own) <= len(wanted) and all(a in (1, b) for a, b in pairs):
      return lambda x: np.broadcast_to(np.reshape(x, own), wanted)
  if shape == wanted[::-1]:
    return np.transpose
  is_same = [n for n in shape if n != 1] == [n for n in wanted if n != 1]
  return (lambda x: np.reshape(x, wanted)) if is_same else None
