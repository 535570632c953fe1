"""A traced program written as a list of steps, its calls written out and short scans unrolled."""

from functools import partial
from typing import Any, NamedTuple

import jax

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
from fbackprop.verify.interpret.primitives import is_float

# Longer scans, and programs of more steps than this, aren't looked into.
LONGEST_SCAN = 32
MOST_STEPS = 1200
# The class has no types of its own.
struct: Any = jax.ShapeDtypeStruct


class Step(NamedTuple):
  """One equation.

  Attributes:
    primitive, params: what is done.
    inputs, outputs: places in the table of values.
    name: of the primitive, or of the function that carries a rule of its own.
    is_elementwise: whether an entry of the output depends on that entry of the inputs alone.
    equation: as it was traced.
    origin: what is the same for a step of an unrolled scan in all its turns.
    turn: which turn it is; 0 elsewhere.
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
  """Writes a program down.

  Args:
    program: traced.

  Attributes:
    steps: its equations, in order.
    constants: values by place; the arguments have the first places.
    count: of places.
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
    """Adds a program's equations to the steps; returns the places of its outputs."""

    def new(value: Any = None, _: Any = None) -> int:
      self.count += 1
      if value is not None:
        self.constants[self.count - 1] = value
      return self.count - 1

    def apply(i: int, equation: Any, operands: list[int]) -> list[int]:
      name = equation.primitive.name
      inner = inner_program(equation)
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
    """Writes out an axis of length 1 that an elementwise step meets with a longer one."""
    if aval.shape in ((), shape):
      return place
    broadcast = partial(
      jax.lax.broadcast_in_dim, shape=shape, broadcast_dimensions=tuple(range(len(shape)))
    )
    program = jax.make_jaxpr(broadcast)(struct(aval.shape, aval.dtype))
    return self.write(program, [place], (*origin, -3))[0]

  def unroll(self, scan: Scan, operands: list[int], origin: tuple[int, ...]) -> list[int]:
    """A scan's turns, one after the other."""
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
  """What a turn of a scan reads."""
  return [jax.lax.index_in_dim(x, turn, keepdims=False) for x in stacks]


def stacked_rows(*rows: Any) -> Any:
  """What the turns of a scan write."""
  return jax.lax.concatenate([jax.lax.expand_dims(row, (0,)) for row in rows], 0)


def pullback_of(step: Step, which: list[int], outs: int, *arrays: Any) -> list[Any]:
  """The pullback of a step, as a function that can be traced."""
  inputs, bars = list(arrays[:-outs]), arrays[-outs:]

  def own(*floats: Any) -> list[Any]:
    given = list(inputs)
    for j, x in zip(which, floats, strict=True):
      given[j] = x
    return [y for y in bind(step.primitive, step.params, given) if is_float(y.dtype)]

  _, pull = jax.vjp(own, *[inputs[j] for j in which])
  return list(pull(list(bars)))


def is_elementwise(program: Program) -> bool:
  """Whether all that a program does is elementwise."""
  for equation in program.jaxpr.eqns:
    inner = inner_program(equation)
    if inner is not None:
      if not is_elementwise(inner):
        return False
    elif equation.primitive.name not in ELEMENTWISE | {"broadcast_in_dim"}:
      return False
  return len(program.jaxpr.outvars) == 1
