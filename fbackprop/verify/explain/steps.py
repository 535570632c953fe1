"""A traced program as a list of steps at one point, any of whose values can be changed.

The program is traced in float64; its calls are inlined and short scans unrolled, so that it is one
list of steps (a Wengert list), evaluated by NumPy. `tape` records the backward sweep of such a
list; `one_step` edits the list of a rule itself.

Doubts: loops that end by a condition, and long scans, are single steps, inside of which nothing is
altered; a program of more than `MOST_STEPS` steps isn't searched at all.

References:
  Griewank, Walther, "Evaluating Derivatives", SIAM, 2008, chapter 2.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fbackprop import jaxprs
from fbackprop.jaxprs import Place, Program
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import is_float, lifted

# Longer scans remain single steps; programs of more steps aren't searched.
LONGEST_SCAN = 32
MOST_STEPS = 1200

# Values by place, or by operand.
Values = Mapping[int, Any]


class Step(NamedTuple):
  """One equation.

  Attributes:
    equation: the traced equation.
    inputs, outputs: places in the table of values.
    name: the name of the primitive, or of the function with a rule of its own.
    is_elementwise: whether each entry of the output depends on the same entry of the inputs alone.
    origin: an identifier shared by the copies of a step in all iterations of an unrolled scan.
    turn: the iteration; 0 outside of a scan.
  """

  equation: Any
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  name: str
  is_elementwise: bool
  origin: Place
  turn: int

  def bind(self, values: Sequence[Any]) -> list[Any]:
    """Apply the step in JAX."""
    return jaxprs.bind(self.equation.primitive, self.equation.params, values)

  def evaluate(self, values: Sequence[Any], evaluator: Evaluator | None = None) -> list[Any]:
    """Apply the step by NumPy."""
    evaluator = evaluator or Evaluator()
    return [x[0] for x in evaluator.apply((), 0, self.equation, [x[None] for x in values])]


@dataclass
class Steps:
  """The steps of a program at one point, with their values.

  Attributes:
    program: the traced program.
    leaves: its arguments; floats are float64.
    until: the deadline of the search, by the time of this thread; TimeoutError is raised beyond it.
    keeps_all: whether steps are kept that no result depends on.
    working: the floating dtype of the program's own arguments, as for `Evaluator`.
    steps: the program's equations, in order.
    constants: the constants' values by place; the arguments have the first places.
    carries: the places of what each scan carries into its turns, by the scan and the number of the
      operand.
    outputs: the places of the results.
    maker: the step that computes each place.
    reads: how often each place is read by a step.
    values: the value of every variable, without an axis of samples.
    float_leaves: the places of the arguments that are floats.
  """

  program: Program
  leaves: Sequence[Any]
  until: float = math.inf
  keeps_all: bool = False
  working: Any = np.float64

  def __post_init__(self) -> None:
    self.check_time()
    self.evaluator = Evaluator(self.working, are_points=True)
    self.steps: list[Step] = []
    self.constants: dict[int, Any] = {}
    self.carries: dict[Place, list[int]] = {}
    self.values: list[Any] = [None] * len(self.leaves)
    self.outputs = self.write(self.program, list(range(len(self.leaves))), ())
    if len(self.steps) > MOST_STEPS:
      raise ValueError(f"the program has {len(self.steps)} steps, more than {MOST_STEPS}")
    self.maker = {place: k for k, step in enumerate(self.steps) for place in step.outputs}
    self.reads = Counter(i for step in self.steps for i in step.inputs)
    self.float_leaves = [i for i, x in enumerate(self.leaves) if is_float(x.dtype)]
    given = dict(enumerate(self.leaves)) | self.constants
    self.values = self.recomputed({place: lifted(x)[0] for place, x in given.items()}, {})

  def check_time(self) -> None:
    """Raise TimeoutError if the time of the search is up."""
    if time.thread_time() > self.until:
      raise TimeoutError

  # --- The program --------------------------------------------------------------------------------

  def write(self, program: Program, inputs: list[int], origin: Place, turn: int = 0) -> list[int]:
    """Append a program's equations to the steps; return the places of its outputs."""

    def new(value: Any = None, aval: Any = None) -> int:
      place = len(self.values)
      self.values.append(None)
      if value is not None:
        is_array = isinstance(value, jax.Array)
        self.constants[place] = value if is_array else np.asarray(value, aval.dtype)
      return place

    def apply(i: int, equation: Any, operands: list[int]) -> Sequence[int]:
      here = (*origin, i)
      name, inner = equation.primitive.name, jaxprs.inner_program(equation)
      # An elementwise function with a custom JVP stays one step, so that its pullback is that of
      # the custom rule.
      is_one_step = name == "custom_jvp_call" and inner is not None and is_elementwise(inner)
      is_library = name == jaxprs.HIJAX and jaxprs.has_library_rule(equation)
      if inner is not None and not is_one_step and not is_library:
        return self.write(inner, operands, here, turn)
      if name == "scan" and jaxprs.parameter(equation, "length") <= LONGEST_SCAN:
        return self.unroll(equation, operands, here)
      outputs = tuple(new() for _ in equation.outvars)
      is_simple = is_one_step or name in jaxprs.ELEMENTWISE
      shape = equation.outvars[0].aval.shape if is_simple else ()
      axes = tuple(range(len(shape)))
      widen = partial(jax.lax.broadcast_in_dim, shape=shape, broadcast_dimensions=axes)
      for j, atom in enumerate(equation.invars if is_simple else ()):
        if atom.aval.shape not in ((), shape):  # An axis of length 1 meets a longer one.
          operands[j] = self.write(traced(widen, [atom.aval]), [operands[j]], (*here, -3))[0]
      label = equation.params.get("name", name) if is_one_step else name
      self.steps.append(Step(equation, tuple(operands), outputs, label, is_simple, here, turn))
      return outputs

    outputs = program.jaxpr.outvars
    others = [v for e in program.jaxpr.eqns for v in e.outvars] if self.keeps_all else []
    return jaxprs.interpret(program, inputs, new, apply, [*outputs, *others])[: len(outputs)]

  def unroll(self, equation: Any, operands: list[int], origin: Place) -> list[int]:
    """Append a scan's iterations, one after the other."""
    body, consts, carry, length, is_reverse = jaxprs.scan_of(equation)
    fixed, carried, rows = operands[:consts], operands[consts:][:carry], operands[consts + carry :]
    avals = [atom.aval for atom in equation.invars[consts + carry :]]
    outputs: dict[int, list[int]] = {}
    for turn in range(length)[::-1] if is_reverse else range(length):
      for i, place in enumerate(carried):
        self.carries.setdefault((*origin, i), []).append(place)
      xs = self.write(traced(partial(rows_at, turn), avals), rows, (*origin, -1), turn)
      out = self.write(body, [*fixed, *carried, *xs], origin, turn)
      carried, outputs[turn] = out[:carry], out[carry:]
    stacks = zip(*(outputs[turn] for turn in range(length)), strict=True)
    return carried + [
      self.write(traced(stacked_rows, [aval] * length), list(places), (*origin, -2))[0]
      for places, aval in zip(stacks, body.out_avals[carry:], strict=True)
    ]

  # --- Values -------------------------------------------------------------------------------------

  def recomputed(self, changes: Values, read_instead: Mapping[int, Values]) -> list[Any]:
    """Recompute all values, with some of them given, or other operands of some steps.

    Args:
      changes: the given values by place.
      read_instead: the value that is read, by step and operand.
    """
    values = [changes.get(place, x) for place, x in enumerate(self.values)]
    changed = set(changes)
    for k, step in enumerate(self.steps):
      own = read_instead.get(k, {})
      is_known = values[step.outputs[0]] is not None
      if is_known and not own and changed.isdisjoint(step.inputs):
        continue
      self.check_time()
      outputs = step.evaluate(
        [own.get(j, values[i]) for j, i in enumerate(step.inputs)], self.evaluator
      )
      for place, x in zip(step.outputs, outputs, strict=True):
        values[place] = x
        changed.add(place)
    return values

  def dependent(self, only_floats: bool = True) -> set[int]:
    """Return the places that depend on a float leaf, also through a `stop_gradient`.

    Args:
      only_floats: whether integers and conditions, which don't carry a derivative, are omitted.
    """
    found = set(self.float_leaves)
    for step in self.steps:
      if not found.isdisjoint(step.inputs):
        found.update(i for i in step.outputs if not only_floats or is_float(self.values[i].dtype))
    return found

  def alike(self, place: int, is_own: bool = False) -> list[int]:
    """Return the distinct other values of a value's shape and dtype, optionally with itself."""
    value = self.values[place]
    first: dict[bytes, int] = {}
    for other, x in enumerate(self.values):  # Neither scalars nor typed keys.
      if isinstance(x, np.ndarray) and (x.dtype, x.shape) == (value.dtype, value.shape):
        first.setdefault(x.tobytes(), other)
    return [other for key, other in first.items() if is_own or key != value.tobytes()]

  def needed_by(self, places: Sequence[int]) -> set[int]:
    """Return the steps that some places depend on."""
    wanted, found = set(places), set()
    for k, step in reversed(list(enumerate(self.steps))):
      if not wanted.isdisjoint(step.outputs):
        found.add(k)
        wanted.update(step.inputs)
    return found

  def line_of(self, step: Step) -> str:
    """Return the line of the source that a step is from, "" if it isn't known."""
    equation, program = None, self.program
    for i in step.origin:
      if not isinstance(i, int) or i < 0:  # What unrolling adds.
        break
      equation = program.jaxpr.eqns[i]
      if equation.primitive.name != "scan":  # A call's own lines may be those of another call.
        break
      program = jaxprs.scan_of(equation)[0]
    return "" if equation is None else jaxprs.line_of(equation)

  def describe(self, place: int) -> str:
    """Name a value by the step that computed it."""
    if place in self.maker:
      return f"{self.steps[self.maker[place]].name} {list(np.shape(self.values[place]))}"
    return f"argument leaf {place}" if place < len(self.leaves) else "a constant"


def traced(function: Callable[..., Any], avals: Sequence[Any]) -> Program:
  """Trace a function of arrays."""
  return jax.make_jaxpr(function)(*map(jaxprs.shape_of, avals))


def rows_at(turn: int, *stacks: Any) -> list[Any]:
  """Return the inputs of one iteration of a scan."""
  return [jax.lax.index_in_dim(x, turn, keepdims=False) for x in stacks]


def stacked_rows(*rows: Any) -> Any:
  """Stack the outputs of the iterations."""
  return jax.lax.concatenate([jax.lax.expand_dims(row, (0,)) for row in rows], 0)


def is_elementwise(program: Program) -> bool:
  """Return whether a program is elementwise in all its equations."""
  simple = {*jaxprs.ELEMENTWISE, "broadcast_in_dim"}
  equations = [e for e in jaxprs.equations_of(program) if jaxprs.inner_program(e) is None]
  is_simple = all(e.primitive.name in simple for e in equations)
  return is_simple and len(program.jaxpr.outvars) == 1
