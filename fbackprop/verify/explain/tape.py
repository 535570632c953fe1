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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import (
  ELEMENTWISE,
  Program,
  Scan,
  bind,
  has_library_rule,
  inner_program,
  interpret,
  scan_of,
)
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.witnesses.rule import replaced

# Longer scans remain single steps; programs of more steps aren't searched.
LONGEST_SCAN = 32
MOST_STEPS = 1200
# Any, since the class's constructor is untyped.
struct: Any = jax.ShapeDtypeStruct


class Step(NamedTuple):
  """One equation.

  Attributes:
    primitive, params: the operation.
    inputs, outputs: places in the table of values.
    name: the name of the primitive, or of the function with a rule of its own.
    is_elementwise: whether each entry of the output depends on the same entry of the inputs alone.
    equation: the traced equation.
    origin: an identifier shared by the copies of a step in all iterations of an unrolled scan.
    turn: the iteration; 0 outside of a scan.
  """

  primitive: Any
  params: Any
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  name: str
  is_elementwise: bool
  equation: Any
  origin: tuple[int, ...] = ()
  turn: int = 0


class Writer:
  """A writer of a program as a list of steps.

  Args:
    program: the traced program.

  Attributes:
    steps: the program's equations, in order.
    constants: the constants' values by place; the arguments have the first places.
    count: the number of places.
    outputs: the places of the results.
  """

  def __init__(self, program: Program) -> None:
    self.steps: list[Step] = []
    self.constants: dict[int, Any] = {}
    self.count = len(program.jaxpr.invars)
    self.outputs = self.write(program, list(range(self.count)), ())
    if len(self.steps) > MOST_STEPS:
      raise ValueError(f"the program has {len(self.steps)} steps, more than {MOST_STEPS}")

  def write(
    self, program: Program, inputs: list[int], origin: tuple[int, ...], turn: int = 0
  ) -> list[int]:
    """Append a program's equations to the steps; return the places of its outputs."""

    def new(value: Any = None, _: Any = None) -> int:
      self.count += 1
      if value is not None:
        self.constants[self.count - 1] = value
      return self.count - 1

    def apply(i: int, equation: Any, operands: list[int]) -> list[int]:
      name = equation.primitive.name
      inner = inner_program(equation)
      # An elementwise function with a custom JVP stays one step, so that its pullback is that of
      # the custom rule.
      is_one_step = name == "custom_jvp_call" and inner is not None and is_elementwise(inner)
      is_whole = is_one_step or (has_library_rule(equation) and name != "custom_jvp_call")
      if inner is not None and not is_whole:
        return self.write(inner, operands, (*origin, i), turn)
      if name == "scan" and scan_of(equation).length <= LONGEST_SCAN:
        return self.unroll(scan_of(equation), operands, (*origin, i))
      outputs = [new() for _ in equation.outvars]
      label = equation.params.get("name", name) if is_one_step else name
      simple = is_one_step or name in ELEMENTWISE
      if simple:
        shape = equation.outvars[0].aval.shape
        pairs = zip(operands, equation.invars, strict=True)
        operands = [self.widen(place, atom.aval, shape, (*origin, i)) for place, atom in pairs]
      step = Step(
        equation.primitive, equation.params, tuple(operands), tuple(outputs), label, simple,
        equation, (*origin, i), turn,
      )  # fmt: skip
      self.steps.append(step)
      return outputs

    return interpret(program, inputs, new, apply)

  def widen(self, place: int, aval: Any, shape: tuple[int, ...], origin: tuple[int, ...]) -> int:
    """Broadcast an axis of length 1 that an elementwise step combines with a longer one."""
    if aval.shape in ((), shape):
      return place
    broadcast = partial(
      jax.lax.broadcast_in_dim, shape=shape, broadcast_dimensions=tuple(range(len(shape)))
    )
    program = jax.make_jaxpr(broadcast)(struct(aval.shape, aval.dtype))
    return self.write(program, [place], (*origin, -3))[0]

  def unroll(self, scan: Scan, operands: list[int], origin: tuple[int, ...]) -> list[int]:
    """Append a scan's iterations, one after the other."""
    body, consts, carry, length, is_reverse = scan
    fixed, carried = operands[:consts], operands[consts : consts + carry]
    stacked = operands[consts + carry :]
    columns = body.in_avals[consts + carry :]
    turns = range(length)[::-1] if is_reverse else range(length)
    outputs: dict[int, list[int]] = {}
    for turn in turns:
      pick = jax.make_jaxpr(partial(rows_at, turn))(
        *[struct((length, *c.shape), c.dtype) for c in columns]
      )
      xs = self.write(pick, stacked, (*origin, -1), turn)
      out = self.write(body, [*fixed, *carried, *xs], origin, turn)
      carried, outputs[turn] = out[:carry], out[carry:]
    rows = body.out_avals[carry:]
    stack = jax.make_jaxpr(stacked_rows)
    return carried + [
      self.write(
        stack(*[struct(row.shape, row.dtype)] * length),
        [outputs[turn][j] for turn in range(length)],
        (*origin, -2),
      )[0]
      for j, row in enumerate(rows)
    ]


def rows_at(turn: int, *stacks: Any) -> list[Any]:
  """Return the inputs of one iteration of a scan."""
  return [jax.lax.index_in_dim(x, turn, keepdims=False) for x in stacks]


def stacked_rows(*rows: Any) -> Any:
  """Stack the outputs of the iterations."""
  return jax.lax.concatenate([jax.lax.expand_dims(row, (0,)) for row in rows], 0)


def pullback_of(step: Step, which: list[int], outs: int, *arrays: Any) -> list[Any]:
  """Apply the pullback of a step; the function can be traced."""
  inputs, bars = list(arrays[:-outs]), arrays[-outs:]

  def own(*floats: Any) -> list[Any]:
    given = replaced(inputs, which, floats)
    return [y for y in bind(step.primitive, step.params, given) if is_float(y.dtype)]

  _, pull = jax.vjp(own, *[inputs[j] for j in which])
  return list(pull(list(bars)))


def is_elementwise(program: Program) -> bool:
  """Return whether a program is elementwise in all its equations."""

  def is_simple(equation: Any) -> bool:
    inner = inner_program(equation)
    if inner is not None:
      return is_elementwise(inner)
    return equation.primitive.name in ELEMENTWISE or equation.primitive.name == "broadcast_in_dim"

  return len(program.jaxpr.outvars) == 1 and all(map(is_simple, program.jaxpr.eqns))


# Replaces a step's operand cotangents, given its number, its inputs and its outputs' cotangents;
# None keeps the step's own.
Pulled = list[np.ndarray | None]
Hook = Callable[[int, list[np.ndarray], list[np.ndarray]], Pulled | None]


class Tape:
  """The steps of a function at one point, with their values and cotangents.

  Args:
    function: a function of flat arrays that returns a list of arrays.
    leaves: the arguments; floats are float64.
    y_bar: the cotangents of the outputs; None for an output that isn't a float.
    until: the deadline of the search.

  Attributes:
    values: the value of every variable, without an axis of samples.
    bars: the cotangent of every variable, or None where there is none.
    edges: the cotangent that each step sends to each operand.
    float_leaves: the places of the arguments that are floats.
  """

  def __init__(
    self,
    function: Callable[..., list[Any]],
    leaves: Sequence[Any],
    y_bar: Sequence[np.ndarray | None],
    until: float = math.inf,
  ) -> None:
    self.until = until
    self.pullbacks: dict[Any, Program] = {}
    written = Writer(jax.make_jaxpr(function)(*leaves))
    self.steps, self.constants, self.count = written.steps, written.constants, written.count
    self.outputs = written.outputs
    self.leaves = list(leaves)
    self.float_leaves = [i for i, x in enumerate(leaves) if is_float(x.dtype)]
    self.values = self.evaluated()
    self.depends = self.dependent()
    self.y_bars = {
      place: np.asarray(bar)[None]
      for place, bar in self.summed(zip(self.outputs, y_bar, strict=True)).items()
    }
    self.bars, self.edges = self.sweep(self.y_bars)

  # --- Values -----------------------------------------------------------------------------------

  def run(self, *floats: Any) -> list[Any]:
    """Compute all values in JAX, as a function of the float leaves."""
    values: list[Any] = [*self.leaves, *[None] * (self.count - len(self.leaves))]
    given = dict(zip(self.float_leaves, floats, strict=True)) | self.constants
    for place, x in given.items():
      values[place] = x
    for step in self.steps:
      outputs = bind(step.primitive, step.params, [values[i] for i in step.inputs])
      for place, x in zip(step.outputs, outputs, strict=True):
        values[place] = x
    return [jnp.zeros(()) if x is None else x for x in values]

  def evaluated(self) -> list[Any]:
    """Compute all values by NumPy."""
    floats = [self.leaves[i] for i in self.float_leaves]
    program = jax.make_jaxpr(self.run)(*floats)
    return [x[0] for x in Evaluator().run(program, floats)]

  def tangents(self, directions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Differentiate every float value along directions of the float leaves, `[S, ...]` each."""
    floats = [self.leaves[i] for i in self.float_leaves]

    def push(*dots: Any) -> list[Any]:
      values, dots_out = jax.jvp(self.run, tuple(floats), dots)
      return [
        d if is_float(v.dtype) else jnp.zeros(()) for v, d in zip(values, dots_out, strict=True)
      ]

    program = jax.make_jaxpr(push)(*floats)
    return [np.asarray(d) for d in Evaluator().run_stacked(program, list(directions))]

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

  # --- Backward -----------------------------------------------------------------------------------

  def summed(self, bars: Any) -> dict[int, Any]:
    """Return cotangents by place, summing those of one place."""
    total: dict[int, Any] = {}
    for place, bar in bars:
      if bar is not None:
        accumulate(total, place, bar)
    return total

  def sweep(
    self, bars: dict[int, np.ndarray], hook: Hook | None = None
  ) -> tuple[dict[int, np.ndarray], dict[tuple[int, int], np.ndarray]]:
    """Pull cotangents, each with an axis of samples, back to the leaves.

    Args:
      bars: cotangents by place; a place may occur several times.
      hook: replaces the rules of some steps.

    Returns:
      The cotangents by place, and by step and operand.
    """
    total = dict(bars)
    edges: dict[tuple[int, int], np.ndarray] = {}
    for k in range(len(self.steps) - 1, -1, -1):
      step = self.steps[k]
      if total.keys().isdisjoint(step.outputs) or self.depends.isdisjoint(step.inputs):
        continue
      if time.monotonic() > self.until:
        raise TimeoutError
      out = [total.get(i, np.zeros((1, *np.shape(self.values[i])))) for i in step.outputs]
      inputs = self.operands(k)
      pulled = hook(k, inputs, out) if hook is not None else None
      if pulled is None:
        pulled = self.pull(k, inputs, out)
      for j, (place, bar) in enumerate(zip(step.inputs, pulled, strict=True)):
        if bar is not None and place in self.depends:
          edges[k, j] = bar
          accumulate(total, place, bar)
    return total, edges

  def stacked(self, place: int) -> Any:
    """Return a value with an axis of one sample."""
    return stacked(self.values[place])

  def operands(self, k: int) -> list[Any]:
    """Return the inputs of a step, each with an axis of one sample."""
    return [self.stacked(i) for i in self.steps[k].inputs]

  def pull(self, k: int, inputs: list[Any], bars: list[np.ndarray]) -> Pulled:
    """Apply the pullback of one step; None for an operand that isn't a float."""
    step = self.steps[k]
    if step.name == "stop_gradient":
      return [None] * len(inputs)
    is_real = [is_float(self.values[i].dtype) for i in step.inputs]
    which = [j for j, real in enumerate(is_real) if real]
    outs = [b for b, i in zip(bars, step.outputs, strict=True) if is_float(self.values[i].dtype)]
    found: Pulled = [None] * len(inputs)
    if not outs or not which:
      return found
    if k not in self.pullbacks:
      shapes = [struct(np.shape(x)[1:], x.dtype) for x in inputs]
      out_shapes = [struct(b.shape[1:], np.float64) for b in outs]
      # Equal steps, such as those of a network's layers, share one trace.
      parameters = "\n".join(f"{key}={value}" for key, value in step.params.items())
      key = (step.name, parameters, *((s.shape, str(s.dtype)) for s in shapes))
      is_shared = step.name != "custom_jvp_call" and "jaxpr" not in parameters
      if not (is_shared and key in self.pullbacks):
        pullback = partial(pullback_of, step, which, len(out_shapes))
        self.pullbacks[key if is_shared else k] = jax.make_jaxpr(pullback)(*shapes, *out_shapes)
      self.pullbacks[k] = self.pullbacks[key if is_shared else k]
    pulled = Evaluator().run_stacked(self.pullbacks[k], [*inputs, *outs])
    for j, bar in zip(which, pulled, strict=True):
      found[j] = np.asarray(bar)
    return found

  def recomputed(
    self, changes: dict[int, Any], read_instead: dict[int, dict[int, Any]]
  ) -> list[Any]:
    """Recompute all values, with some of them given, or other operands of some steps.

    Args:
      changes: the given values by place.
      read_instead: the value that is read, by step and operand.
    """
    values = list(self.values)
    for place, x in changes.items():
      values[place] = x
    changed = set(changes)
    for k, step in enumerate(self.steps):
      own = read_instead.get(k, {})
      if not own and not any(i in changed for i in step.inputs):
        continue
      if time.monotonic() > self.until:
        raise TimeoutError
      inputs = [own.get(j, values[i]) for j, i in enumerate(step.inputs)]
      outputs = Evaluator().apply(step.equation, [stacked(x) for x in inputs], ())
      for place, x in zip(step.outputs, outputs, strict=True):
        values[place] = x[0]
        changed.add(place)
    return values

  def applied(self, k: int, inputs: dict[int, np.ndarray]) -> list[np.ndarray]:
    """Apply a step to other operands, each with an axis of samples."""
    step = self.steps[k]
    values = [stacked(inputs.get(j, self.values[i])) for j, i in enumerate(step.inputs)]
    return [np.asarray(x) for x in Evaluator().apply(step.equation, values, ())]

  def alike(self, place: int, is_own: bool = False) -> list[int]:
    """Return the distinct other values of a value's shape and dtype, optionally with itself."""
    value = self.values[place]
    if not isinstance(value, np.ndarray):
      return []
    seen = set() if is_own else {value.tobytes()}
    found = []
    for other, x in enumerate(self.values):
      if isinstance(x, np.ndarray) and (x.dtype, x.shape) == (value.dtype, value.shape):
        key = x.tobytes()
        if key not in seen:
          seen.add(key)
          found.append(other)
    return found

  def describe(self, place: int) -> str:
    """Name a value by the step that computed it."""
    for step in self.steps:
      if place in step.outputs:
        return f"{step.name} {list(np.shape(self.values[place]))}"
    return f"argument leaf {place}" if place < len(self.leaves) else "a constant"

  def at_leaves(self, bars: dict[int, np.ndarray]) -> list[np.ndarray]:
    """Return the cotangents of the float leaves; zeros where none arrives."""
    return [bars.get(i, np.zeros((1, *np.shape(self.values[i])))) for i in self.float_leaves]


def accumulate(total: dict[int, Any], place: int, bar: Any) -> None:
  """Add a cotangent to that of a place."""
  total[place] = total[place] + bar if place in total else bar


def stacked(value: Any) -> Any:
  """Return a value with an axis of one sample."""
  return value[None] if hasattr(value, "shape") else np.asarray(value)[None]
