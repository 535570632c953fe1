"""The backward sweep of a traced program, recorded so that it can be altered at any step.

The reference is traced in float64; its calls are inlined and short scans unrolled, so that the
program is one list of steps (a Wengert list). Each step's pullback is traced once and evaluated by
NumPy, so that nothing is compiled, and many altered sweeps run as one: arrays have a leading axis
of samples, of length 1 where all samples are equal.

Doubts: loops that end by a condition, and long scans, are single steps, inside of which nothing is
altered; a program of more than `MOST_STEPS` steps isn't searched at all.

References:
  Griewank, Walther, "Evaluating Derivatives", SIAM, 2008, chapters 2 and 3.
"""

import math
import time
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
from fbackprop.verify.witnesses.rule import replaced

# Longer scans remain single steps; programs of more steps aren't searched.
LONGEST_SCAN = 32
MOST_STEPS = 1200


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

  def evaluate(self, values: Sequence[Any]) -> list[Any]:
    """Apply the step by NumPy."""
    return [x[0] for x in Evaluator().apply((), 0, self.equation, [x[None] for x in values])]


# The cotangents of a step's operands, given its number, its inputs and its outputs' cotangents;
# None for an operand that has none.
Pulled = list[np.ndarray | None]
Pull = Callable[[int, list[Any], list[np.ndarray]], Pulled]
Bars = Mapping[int, np.ndarray]
Edges = Mapping[tuple[int, int], np.ndarray]
# Values by place, or by operand.
Values = Mapping[int, Any]


@dataclass
class Tape:
  """The steps of a function at one point, with their values and cotangents.

  Attributes:
    function: a function of flat arrays that returns a list of arrays.
    leaves: the arguments; floats are float64.
    y_bar: the cotangents of the outputs; None for an output that isn't a float.
    until: the deadline of the search; TimeoutError is raised beyond it.
    steps: the program's equations, in order.
    constants: the constants' values by place; the arguments have the first places.
    outputs: the places of the results.
    maker: the step that computes each place.
    values: the value of every variable, without an axis of samples.
    depends: the places of floats that depend on a float argument.
    bars: the cotangent of every variable that has one.
    edges: the cotangent that each step sends to each operand.
    float_leaves: the places of the arguments that are floats.
    wants: their cotangents.
  """

  function: Callable[..., list[Any]]
  leaves: Sequence[Any]
  y_bar: Sequence[np.ndarray | None]
  until: float = math.inf

  def __post_init__(self) -> None:
    self.check_time()
    self.steps: list[Step] = []
    self.constants: dict[int, Any] = {}
    self.pullbacks: dict[Any, Program] = {}
    self.values: list[Any] = [None] * len(self.leaves)
    program = jax.make_jaxpr(self.function)(*self.leaves)
    self.outputs = self.write(program, list(range(len(self.leaves))), ())
    if len(self.steps) > MOST_STEPS:
      raise ValueError(f"the program has {len(self.steps)} steps, more than {MOST_STEPS}")
    self.maker = {place: k for k, step in enumerate(self.steps) for place in step.outputs}
    self.float_leaves = [i for i, x in enumerate(self.leaves) if is_float(x.dtype)]
    given = dict(enumerate(self.leaves)) | self.constants
    self.values = self.recomputed({place: lifted(x)[0] for place, x in given.items()}, {})
    self.depends = self.dependent()
    self.y_bars: dict[int, np.ndarray] = {}
    for place, bar in zip(self.outputs, self.y_bar, strict=True):
      if bar is not None:
        self.y_bars[place] = self.y_bars.get(place, 0.0) + np.asarray(bar)[None]
    self.bars, self.edges = self.sweep(self.y_bars)
    self.wants = [x[0] for x in self.at_leaves(self.bars)]

  def check_time(self) -> None:
    """Raise TimeoutError if the time of the search is up."""
    if time.monotonic() > self.until:
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

    return jaxprs.interpret(program, inputs, new, apply)

  def unroll(self, equation: Any, operands: list[int], origin: Place) -> list[int]:
    """Append a scan's iterations, one after the other."""
    body, consts, carry, length, is_reverse = jaxprs.scan_of(equation)
    fixed, carried, rows = operands[:consts], operands[consts:][:carry], operands[consts + carry :]
    avals = [atom.aval for atom in equation.invars[consts + carry :]]
    outputs: dict[int, list[int]] = {}
    for turn in range(length)[::-1] if is_reverse else range(length):
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
      outputs = step.evaluate([own.get(j, values[i]) for j, i in enumerate(step.inputs)])
      for place, x in zip(step.outputs, outputs, strict=True):
        values[place] = x
        changed.add(place)
    return values

  def tangents(self, directions: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Differentiate every float value along directions of the float leaves, `[S, ...]` each."""
    places = [place for place, x in enumerate(self.values) if is_float(x.dtype)]
    floats = [self.leaves[i] for i in self.float_leaves]

    def run(*given: Any) -> list[Any]:
      values = dict(enumerate(self.leaves)) | self.constants
      values |= zip(self.float_leaves, given, strict=True)
      for step in self.steps:
        values |= zip(step.outputs, step.bind([values[i] for i in step.inputs]), strict=True)
      return [values[place] for place in places]

    program = jax.make_jaxpr(lambda *dots: jax.jvp(run, floats, list(dots))[1])(*floats)
    dots = Evaluator().run_stacked(program, directions)
    return {place: np.asarray(d) for place, d in zip(places, dots, strict=True)}

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

  def describe(self, place: int) -> str:
    """Name a value by the step that computed it."""
    if place in self.maker:
      return f"{self.steps[self.maker[place]].name} {list(np.shape(self.values[place]))}"
    return f"argument leaf {place}" if place < len(self.leaves) else "a constant"

  # --- Backward -----------------------------------------------------------------------------------

  def sweep(self, bars: Bars, pull: Pull | None = None) -> tuple[Bars, Edges]:
    """Pull cotangents, each with an axis of samples, back to the leaves.

    Args:
      bars: cotangents by place.
      pull: replaces `self.pull`.

    Returns:
      The cotangents by place, and by step and operand.
    """
    total = dict(bars)
    edges: dict[tuple[int, int], np.ndarray] = {}
    for k, step in reversed(list(enumerate(self.steps))):
      if total.keys().isdisjoint(step.outputs) or self.depends.isdisjoint(step.inputs):
        continue
      self.check_time()
      out = [total.get(i, np.zeros((1, *np.shape(self.values[i])))) for i in step.outputs]
      pulled = (pull or self.pull)(k, self.operands(k), out)
      for j, (place, bar) in enumerate(zip(step.inputs, pulled, strict=True)):
        if bar is not None and place in self.depends:
          edges[k, j] = bar
          total[place] = total[place] + bar if place in total else bar
    return total, edges

  def pulled(self, bars: Bars | None = None, pull: Pull | None = None) -> list[np.ndarray]:
    """Return the cotangents of the float leaves, by default those of the outputs' cotangents."""
    return self.at_leaves(self.sweep(self.y_bars if bars is None else bars, pull)[0])

  def at_leaves(self, bars: Bars) -> list[np.ndarray]:
    """Return the cotangents of the float leaves; zeros where none arrives."""
    return [bars.get(i, np.zeros((1, *np.shape(self.values[i])))) for i in self.float_leaves]

  def operands(self, k: int) -> list[Any]:
    """Return the inputs of a step, each with an axis of one sample."""
    return [self.values[i][None] for i in self.steps[k].inputs]

  def pull(self, k: int, inputs: list[Any], bars: list[np.ndarray]) -> Pulled:
    """Apply the pullback of one step; None for an operand that isn't a float."""
    step = self.steps[k]
    which = [j for j, i in enumerate(step.inputs) if is_float(self.values[i].dtype)]
    outs = [b for b, i in zip(bars, step.outputs, strict=True) if is_float(self.values[i].dtype)]
    none: Pulled = [None] * len(inputs)
    if step.name == "stop_gradient" or not outs or not which:
      return none

    def pullback(*arrays: Any) -> list[Any]:
      def own(*floats: Any) -> list[Any]:
        outputs = step.bind(replaced(list(arrays[: len(inputs)]), which, floats))
        return [y for y in outputs if is_float(y.dtype)]

      y, pull = jax.vjp(own, *[arrays[j] for j in which])
      own_bars = zip(arrays[len(inputs) :], y, strict=True)
      return list(pull([bar.astype(out.dtype) for bar, out in own_bars]))

    arrays = [*inputs, *outs]
    if k not in self.pullbacks:
      # Equal steps, such as those of a network's layers, share one trace.
      types = [(x.shape[1:], str(x.dtype)) for x in arrays]
      key = f"{step.name} {step.equation.params} {types}"
      if "jaxpr" in key or key not in self.pullbacks:
        self.pullbacks[key] = jax.make_jaxpr(pullback)(*[x[0] for x in arrays])
      self.pullbacks[k] = self.pullbacks[key]
    return replaced(none, which, Evaluator().run_stacked(self.pullbacks[k], arrays))

  def reading(self, places: Mapping[int, Values]) -> Pull:
    """Return `pull` with the rules of some steps reading other places, by step and operand."""

    def pull(k: int, inputs: list[Any], bars: list[np.ndarray]) -> Pulled:
      own = places.get(k, {})
      inputs = [self.values[own[j]][None] if j in own else x for j, x in enumerate(inputs)]
      return self.pull(k, inputs, bars)

    return pull


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
