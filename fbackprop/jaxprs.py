"""Jaxprs: the one module that reads JAX's program representation, on every supported version.

Between its lines JAX changes how a program is written: until 0.11 a closed program is a pair of an
open one and its constants, since 0.12 it is one object; a scan says how many of its operands are
constants by two numbers, or by two trees; a part of the library has become primitives that hold
their program in a method. Whoever walks a program asks here, and holds no table of his own.

A program that isn't known here raises `UnknownProgramError` rather than be walked wrongly: what
hides inside, a derivative rule above all, would go unseen.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import hijax
from jax.extend import core

Program = core.ClosedJaxpr

# Entry by entry, of arrays of one shape and of scalars.
ELEMENTWISE = frozenset((
  "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
  "cbrt", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma",
  "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt",
  "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "log2", "logistic", "lt", "max",
  "min", "mul", "ne", "neg", "nextafter", "not", "one_minus_square", "or", "polynomial", "pow",
  "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square",
  "stop_gradient", "sub", "tan", "tanh", "xor",
))  # fmt: skip
# Where the program of a call stands among its parameters.
CALLS = (
  dict.fromkeys(("jit", "pjit", "remat2", "checkpoint"), "jaxpr")
  | dict.fromkeys(("closed_call", "core_call", "eval_jaxpr", "composite"), "call_jaxpr")
  | dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), "call_jaxpr")
  | {"custom_vmap_call": "call", "custom_partitioning": "call", "linear_call": "callee"}
)
# Where the programs of a loop or a choice stand.
BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
# These hold programs that only JAX evaluates.
OPAQUE = frozenset((
  "custom_linear_solve", "pallas_call", "reduce", "reduce_window", "remat_opt", "run_state",
  "select_and_scatter", "shard_map",
))  # fmt: skip
# A hijax primitive holds its program in its method `expand`.
HIJAX = "call_hi_primitive"
HiPrim: Any = getattr(hijax, "HiPrim", None) or getattr(hijax, "VJPHiPrimitive", ())
# Those of JAX itself that have a derivative of their own, as a library's `custom_jvp` is one: that
# of their expansion is another one, or there is none.
LIBRARY_RULES = frozenset(("CustomJVPTraced", "CustomRoot", "Frexp", "Ldexp", "_RootLinearMap"))
# Those that carry the rules of `custom_vjp` and `custom_jvp`.
WRITTEN_RULES = frozenset(("CustomVJPTraced", "CustomJVPTraced", "OptRemat", "VmapOf"))


class UnknownProgramError(Exception):
  """A form of jaxpr that this version of the package doesn't know."""

  def __init__(self, what: str) -> None:
    super().__init__(f"{what} of JAX {jax.__version__} is unknown")


class Scan(NamedTuple):
  """A scan: `body(*consts, *carry, *rows) -> (*carry, *rows)`.

  Attributes:
    body: the program of one turn.
    consts, carry: how many of its operands are the same in each turn, and are handed on.
    length: how many turns.
    reverse: whether the last row comes first.
  """

  body: Program
  consts: int
  carry: int
  length: int
  reverse: bool


class While(NamedTuple):
  """A while loop: `cond(*cond_consts, *carry) -> bool`, `body(*body_consts, *carry) -> carry`."""

  cond: Program
  cond_consts: int
  body: Program
  body_consts: int


def parameter(equation: Any, *keys: str) -> Any:
  """Return the first of several alternative parameters that an equation has."""
  for key in keys:
    if key in equation.params:
      return equation.params[key]
  name, have = equation.primitive.name, ", ".join(map(str, equation.params)) or "none"
  raise UnknownProgramError(f"{name!r} without a parameter {keys[0]!r} (it has {have})")


def is_program(value: Any) -> bool:
  """Return whether a value is a jaxpr, open or closed."""
  return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


def closed(value: Any) -> Program:
  """Close a jaxpr over no constants if it is open."""
  if not is_program(value):
    raise UnknownProgramError(f"a program of type {type(value).__name__!r}")
  return value if isinstance(value, Program) else Program(value, ())


def bind(primitive: Any, params: Any, values: Sequence[Any]) -> list[Any]:
  """Apply an equation's primitive with its parameters."""
  out = primitive.bind(*values, **primitive.get_bind_params(dict(params)))
  return list(out) if primitive.multiple_results else [out]


def scan_of(equation: Any) -> Scan:
  """Return the parts of a scan equation."""
  params = equation.params
  if "num_consts" in params:
    consts, carry = params["num_consts"], params["num_carry"]
  else:
    parts = parameter(equation, "ft_in").unpack()
    if len(parts) != 3:
      raise UnknownProgramError(f"'scan' whose operands have {len(parts)} parts")
    consts, carry = len(parts[0]), len(parts[1])
  body = closed(parameter(equation, "jaxpr"))
  return Scan(body, consts, carry, parameter(equation, "length"), parameter(equation, "reverse"))


def while_of(equation: Any) -> While:
  """Return the parts of a while equation."""
  return While(
    closed(parameter(equation, "cond_jaxpr")),
    parameter(equation, "cond_nconsts"),
    closed(parameter(equation, "body_jaxpr")),
    parameter(equation, "body_nconsts"),
  )


def branches_of(equation: Any) -> list[Program]:
  """Return the branches of a `lax.cond` or `lax.switch`."""
  return list(map(closed, parameter(equation, "branches")))


def bodies(equation: Any) -> list[Program]:
  """Return the jaxprs inside a loop or a branch."""
  found = [parameter(equation, key) for key in BODIES.get(equation.primitive.name, ())]
  return [closed(p) for one in found for p in (one if isinstance(one, tuple) else (one,))]


def with_bodies(equation: Any, rewrite: Callable[..., Program], place: tuple[Any, ...]) -> Any:
  """Return an equation's parameters with its bodies rewritten.

  Args:
    equation: of a loop or a choice; the parameters of any other are as they are.
    rewrite: called with a program and its `place=`.
    place: of the equation; a body's place is this one, with what tells several bodies apart.
  """
  params = dict(equation.params)
  if equation.primitive.name == "scan":
    params["jaxpr"] = rewrite(scan_of(equation).body, place=place)
  elif equation.primitive.name == "while":
    loop = while_of(equation)
    params["body_jaxpr"] = rewrite(loop.body, place=(*place, "body"))
    params["cond_jaxpr"] = rewrite(loop.cond, place=(*place, "cond"))
  elif equation.primitive.name == "cond":
    branches = enumerate(branches_of(equation))
    params["branches"] = tuple(rewrite(b, place=(*place, i)) for i, b in branches)
  return params


def inner_program(equation: Any) -> Program | None:
  """Return the jaxpr that an equation calls, if calling it is all that it does.

  Raises:
    UnknownProgramError: the equation holds a program, and isn't known.
  """
  name = equation.primitive.name
  if name in ELEMENTWISE or name in BODIES:
    return None
  if name in CALLS:
    return closed(parameter(equation, CALLS[name], "jaxpr"))
  if name == HIJAX:
    return expanded(equation)
  if not is_opaque(name) and holds_program(equation.params.values()):
    raise UnknownProgramError(f"the primitive {name!r}, which holds a program,")
  return None


def is_opaque(name: str) -> bool:
  """Return whether a primitive holds jaxprs that only JAX can evaluate."""
  return name in OPAQUE or name.startswith("scatter")


def holds_program(values: Any) -> bool:
  """Return whether an equation's parameters hold a jaxpr, as in a linear solve."""
  return any(
    is_program(v) or isinstance(v, HiPrim) or (isinstance(v, tuple | list) and holds_program(v))
    for v in values
  )


def expanded(equation: Any) -> Program:
  """Expand a hijax equation into a jaxpr; traced once for each primitive."""
  primitive = equation.params.get("_prim")
  if not (isinstance(primitive, HiPrim) and hasattr(primitive, "in_tree")):
    raise UnknownProgramError(f"the hijax equation {type(primitive).__name__!r}")
  known: Program | None = vars(primitive).get("_fbackprop_program")
  if known is not None:
    return known

  def flat(*values: Any) -> list[Any]:
    return jax.tree.leaves(primitive.expand(*jax.tree.unflatten(primitive.in_tree, values)))

  avals = [v.aval for v in (*equation.invars, *equation.outvars)]
  is_wide = any(getattr(a.dtype, "itemsize", 0) == 8 for a in avals)
  with jax.enable_x64(is_wide):  # A program of 32 bits isn't written otherwise in a wide context.
    program: Program = jax.make_jaxpr(flat)(*map(shape_of, avals[: len(equation.invars)]))
  vars(primitive)["_fbackprop_program"] = program
  return program


def shape_of(aval: Any) -> Any:
  """Return the abstract value with which a jaxpr that takes this variable is traced."""
  shape: Any = jax.ShapeDtypeStruct  # In jax it has no types.
  return shape(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def has_library_rule(equation: Any) -> bool:
  """Return whether autodiff must keep a custom derivative that JAX itself defines.

  That of a `custom_vjp`, and of a hijax primitive that isn't one of JAX's own, is what is verified.
  """
  if equation.primitive.name == HIJAX:
    kind = type(equation.params.get("_prim"))
    return kind.__module__.startswith("jax.") and kind.__name__ in LIBRARY_RULES
  return bool(equation.primitive.name == "custom_jvp_call")


def carries_rule(program: Program) -> bool:
  """Return whether a traced program contains a custom derivative rule of a user.

  Raises:
    UnknownProgramError: it stands where it can't be taken out.
  """
  for equation in program.jaxpr.eqns:
    name, kind = equation.primitive.name, type(equation.params.get("_prim"))
    if name in ("custom_vjp_call", "custom_jvp_call", "linear_call"):
      return True
    is_library = kind.__module__.startswith("jax.") and kind.__name__ not in WRITTEN_RULES
    if name == HIJAX and not is_library:
      return True
    if any(map(carries_rule, programs_in(equation))):
      if is_opaque(name):
        raise UnknownProgramError(f"how a derivative rule is taken out of {name!r}")
      return True
  return False


def programs_in(equation: Any) -> Iterator[Program]:
  """Return all jaxprs among an equation's parameters."""
  inner = inner_program(equation)
  if inner is not None:
    yield inner
    return
  waiting = list(equation.params.values())
  while waiting:
    value = waiting.pop()
    if is_program(value):
      yield closed(value)
    elif isinstance(value, tuple | list):
      waiting += value


def equations_of(program: Program) -> Iterator[Any]:
  """Return all equations of a program, those of loops and calls included."""
  for equation in program.jaxpr.eqns:
    yield equation
    for inner in programs_in(equation):
      yield from equations_of(inner)


def interpret(
  program: Program,
  arguments: Sequence[Any],
  constant: Callable[[Any, Any], Any],
  apply: Callable[[int, Any, list[Any]], Sequence[Any]],
) -> list[Any]:
  """Interpret a program's equations in order.

  What no result needs isn't computed, and values that nothing reads any more are let go.

  Args:
    program: closed.
    arguments: one for each of its inputs; whatever `apply` works on.
    constant: makes such a value of a constant of the program and its aval.
    apply: the outputs of an equation, given its number, itself and its inputs.

  Returns:
    The values of the outputs.
  """
  jaxpr = program.jaxpr
  kept = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
  live, last = uses(jaxpr.eqns, kept)
  values: dict[Any, Any] = {}
  for variable, value in zip(jaxpr.constvars, program.consts, strict=True):
    values[variable] = constant(value, variable.aval)
  values.update(zip(jaxpr.invars, arguments, strict=True))

  def read(atom: Any) -> Any:
    return constant(atom.val, atom.aval) if isinstance(atom, core.Literal) else values[atom]

  for i in sorted(live):
    equation = jaxpr.eqns[i]
    outputs = apply(i, equation, [read(atom) for atom in equation.invars])
    values.update(zip(equation.outvars, outputs, strict=True))
    for v in equation.invars:
      if not isinstance(v, core.Literal) and last[v] == i and v not in kept:
        values.pop(v, None)
  return [read(atom) for atom in jaxpr.outvars]


def uses(equations: Sequence[Any], results: set[Any]) -> tuple[set[int], dict[Any, int]]:
  """Return which equations the results need, and where each variable is read last."""
  live, needed = set(results), set()
  last: dict[Any, int] = {}
  for i in reversed(range(len(equations))):
    if equations[i].effects or not live.isdisjoint(equations[i].outvars):
      needed.add(i)
      for v in equations[i].invars:
        if not isinstance(v, core.Literal):
          live.add(v)
          last.setdefault(v, i)
  return needed, last


def read_by(program: Program, place: int) -> list[int]:
  """Return the inputs of a program on which one of its equations depends."""

  def variables(equation: Any) -> set[Any]:
    return {v for v in equation.invars if not isinstance(v, core.Literal)}

  equations = program.jaxpr.eqns
  wanted = variables(equations[place])
  for equation in reversed(equations[:place]):
    if not wanted.isdisjoint(equation.outvars):
      wanted |= variables(equation)
  return [i for i, v in enumerate(program.jaxpr.invars) if v in wanted]


def last_reads(program: Program) -> list[int]:
  """Return for each input the index of the last equation that reads it; −1 if none does."""
  last = dict.fromkeys(program.jaxpr.invars, -1)
  for i, equation in enumerate(program.jaxpr.eqns):
    for atom in equation.invars:
      if not isinstance(atom, core.Literal) and atom in last:
        last[atom] = i
  return [last[v] for v in program.jaxpr.invars]
