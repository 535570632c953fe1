"""Jaxprs: the only module that reads JAX's program representation, on every supported version.

The representation changes between minor versions of JAX: up to 0.11 a closed jaxpr is a pair of an
open one and its constants, since 0.12 it is a single object; a scan states the number of its
constant operands by two numbers, or by two trees; parts of the library have become primitives that
hold their jaxpr in a method. All code that traverses jaxprs uses this module and keeps no tables of
its own.

An unknown form raises `UnknownProgramError` rather than be traversed wrongly: its contents, above
all a derivative rule, would go unnoticed.
"""

import gc
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from types import CellType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import hijax
from jax.extend import core

Program = core.ClosedJaxpr
# The path of an equation: its index in a program, behind that of the equation that holds it.
Place = tuple[Any, ...]

# Elementwise primitives, of arrays of one shape and of scalars.
ELEMENTWISE = frozenset((
  "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
  "cbrt", "ceil", "clamp", "convert_element_type", "copy", "copy_p", "cos", "cosh", "digamma",
  "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt",
  "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "log2", "logistic", "lt", "max",
  "min", "mul", "ne", "neg", "nextafter", "not", "one_minus_square", "or", "polynomial", "pow",
  "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square",
  "stop_gradient", "sub", "tan", "tanh", "xor",
))  # fmt: skip
# More primitives that hold no jaxpr: most equations of most programs, whose parameters needn't be
# searched for one.
PLAIN = ELEMENTWISE | frozenset((
  "argmax", "argmin", "broadcast_in_dim", "concatenate", "cumsum", "dot_general", "dynamic_slice",
  "dynamic_update_slice", "gather", "iota", "pad", "reduce_and", "reduce_max", "reduce_min",
  "reduce_or", "reduce_sum", "reshape", "rev", "slice", "sort", "split", "squeeze", "transpose",
))  # fmt: skip
# Call primitives, by the parameter that holds the called jaxpr.
CALLS = (
  dict.fromkeys(("jit", "pjit", "remat2", "checkpoint"), "jaxpr")
  | dict.fromkeys(("closed_call", "core_call", "eval_jaxpr", "composite"), "call_jaxpr")
  | dict.fromkeys(("custom_jvp_call", "custom_vjp_call"), "call_jaxpr")
  | {"custom_vmap_call": "call", "custom_partitioning": "call", "linear_call": "callee"}
)
# Control-flow primitives, by the parameters that hold their bodies.
BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
# Primitives with jaxprs that only JAX itself can evaluate.
OPAQUE = frozenset((
  "custom_linear_solve", "pallas_call", "reduce", "reduce_window", "remat_opt", "run_state",
  "select_and_scatter",
))  # fmt: skip
# The parameters of a `shard_map` that state how its operands and results are split.
SPECS = ("in_specs", "out_specs")
# Primitives that read and write buffers, or are batched, by code that isn't JAX's own.
FOREIGN = frozenset((
  "custom_partitioning", "custom_vmap_call", "ffi_call", "pallas_call", "run_state", "shard_map",
))  # fmt: skip
# The hijax call primitive, which returns its jaxpr by the method `expand`.
HIJAX = "call_hi_primitive"
HiPrim: Any = getattr(hijax, "HiPrim", None) or getattr(hijax, "VJPHiPrimitive", ())
# Primitives of JAX itself with a derivative rule of their own, such as a `custom_jvp` of the
# library: their expansion has another derivative, or none.
LIBRARY_RULES = frozenset(("CustomJVPTraced", "CustomRoot", "Frexp", "Ldexp", "_RootLinearMap"))
# Primitives that carry the rules of `custom_vjp` and `custom_jvp`.
WRITTEN_RULES = frozenset(("CustomVJPTraced", "CustomJVPTraced", "OptRemat", "VmapOf"))


class UnknownProgramError(Exception):
  """A jaxpr has a form that this version of the package doesn't support."""

  def __init__(self, what: str) -> None:
    super().__init__(f"{what} of JAX {jax.__version__} is unknown")


def parameter(equation: Any, *keys: str) -> Any:
  """Return an equation's parameter by the first of several alternative names that it has."""
  for key in keys:
    if key in equation.params:
      return equation.params[key]
  name, have = equation.primitive.name, ", ".join(map(str, equation.params)) or "none"
  raise UnknownProgramError(f"{name!r} without a parameter {keys[0]!r} (it has {have})")


def is_program(value: Any) -> bool:
  """Return whether a value is a jaxpr, open or closed."""
  return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


def closed(value: Any) -> Program:
  """Close an open jaxpr over no constants; return a closed one unchanged."""
  if not is_program(value):
    raise UnknownProgramError(f"a program of type {type(value).__name__!r}")
  return value if isinstance(value, Program) else Program(value, ())


def read_alone(value: Any) -> Program:
  """Close a jaxpr whose constants are elsewhere, in another operand: they become its first inputs.

  Its equations may be read; it can't be evaluated in its equation's place.
  """
  constants = () if isinstance(value, Program) else getattr(value, "constvars", ())
  if constants:
    value = value.replace(constvars=[], invars=[*constants, *value.invars], debug_info=None)
  return closed(value)


def bind(primitive: Any, params: Any, values: Sequence[Any]) -> list[Any]:
  """Bind an equation's primitive to values and parameters; return its outputs as a list."""
  out = primitive.bind(*values, **primitive.get_bind_params(dict(params)))
  return list(out) if primitive.multiple_results else [out]


def scan_of(equation: Any) -> tuple[Program, int, int, int, bool]:
  """Return the parts of a scan, `body(*consts, *carry, *rows) -> (*carry, *rows)`.

  Returns:
    (body, the number of its constants, the number of its carried operands, the number of
    iterations, whether the rows are scanned from the last to the first).
  """
  if "num_consts" in equation.params:
    consts, carry = equation.params["num_consts"], equation.params["num_carry"]
  else:
    parts = parameter(equation, "ft_in").unpack()
    if len(parts) != 3:
      raise UnknownProgramError(f"'scan' whose operands have {len(parts)} parts")
    consts, carry = len(parts[0]), len(parts[1])
  body = closed(parameter(equation, "jaxpr"))
  return body, consts, carry, parameter(equation, "length"), parameter(equation, "reverse")


def while_of(equation: Any) -> tuple[Program, int, Program, int]:
  """Return the parts of a while equation: (cond, the number of its constants, body, the same).

  They are called as `cond(*cond_consts, *carry) -> bool` and `body(*body_consts, *carry) -> carry`.
  """
  cond, body = bodies(equation)
  return cond, parameter(equation, "cond_nconsts"), body, parameter(equation, "body_nconsts")


def solve_of(equation: Any, inputs: Sequence[Any]) -> tuple[Program, list[Any]]:
  """Return the program of a linear solve, which gives its results, and the inputs of that."""
  lengths, programs = parameter(equation, "const_lengths"), parameter(equation, "jaxprs")
  if not {"matvec", "vecmat", "solve"} <= set(getattr(lengths, "_fields", ())):
    raise UnknownProgramError("'custom_linear_solve' without lengths by the names of its parts")
  start = lengths.matvec + lengths.vecmat
  own = [*inputs[start : start + lengths.solve], *inputs[sum(n or 0 for n in lengths) :]]
  return closed(programs.solve), own


def callback_of(equation: Any) -> Callable[..., Any]:
  """Return the function of arrays that a pure callback calls."""
  callback: Callable[..., Any] = parameter(equation, "callback")
  return callback


def bodies(equation: Any) -> list[Program]:
  """Return the jaxprs inside a loop or a branch."""
  found = [parameter(equation, key) for key in BODIES.get(equation.primitive.name, ())]
  return list(map(closed, flattened(found)))


def with_bodies(equation: Any, rewrite: Callable[..., Program], place: Place) -> Any:
  """Return an equation's parameters with its bodies rewritten.

  Args:
    equation: a loop or a branch; the parameters of any other equation are returned unchanged.
    rewrite: called with a jaxpr and its `place=`.
    place: path of the equation; that of a body extends it by an index where there are several.
  """
  name, params = equation.primitive.name, dict(equation.params)
  for key in BODIES.get(name, ()):
    if name == "cond":
      branches = enumerate(bodies(equation))
      params[key] = tuple(rewrite(b, place=(*place, i)) for i, b in branches)
    else:
      inside = place if name == "scan" else (*place, key.removesuffix("_jaxpr"))
      params[key] = rewrite(closed(parameter(equation, key)), place=inside)
  return params


def inner_program(equation: Any) -> Program | None:
  """Return the jaxpr that an equation calls, if the equation is nothing but a call.

  Raises:
    UnknownProgramError: the equation holds a jaxpr in an unknown form.
  """
  name = equation.primitive.name
  if name in PLAIN or name in BODIES:
    return None
  if name in CALLS:
    return closed(parameter(equation, CALLS[name], "jaxpr"))
  if name == HIJAX:
    return expanded(equation)
  if name == "shard_map":
    return unsharded(equation)
  if not is_opaque(equation) and holds_program(equation.params.values()):
    raise UnknownProgramError(f"the primitive {name!r}, which holds a program,")
  return None


def is_opaque(equation: Any) -> bool:
  """Return whether a primitive holds jaxprs that only JAX can evaluate, or only its own package.

  A primitive of another package, as of a linear solve, is evaluated and differentiated by its own
  code, whatever it does with the jaxprs.
  """
  name = equation.primitive.name
  if name in OPAQUE or name.startswith("scatter"):
    return True
  implementation = getattr(equation.primitive, "impl", None)
  module = getattr(implementation, "__module__", None)
  return isinstance(implementation, FunctionType) and not f"{module}.".startswith("jax.")


def holds_program(values: Any) -> bool:
  """Return whether any of an equation's parameters is a jaxpr, as for a linear solve."""
  return any(is_program(v) or isinstance(v, HiPrim) for v in flattened(values))


def flattened(values: Iterable[Any]) -> Iterator[Any]:
  """Yield the values inside of nested tuples and lists."""
  for value in values:
    yield from flattened(value) if isinstance(value, tuple | list) else (value,)


def expanded(equation: Any) -> Program:
  """Expand a hijax equation into a jaxpr, which is traced once for each primitive."""
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
  with jax.enable_x64(is_wide):  # In an x64 context a 32-bit jaxpr would trace differently.
    program: Program = jax.make_jaxpr(flat)(*map(shape_of, avals[: len(equation.invars)]))
  vars(primitive)["_fbackprop_program"] = program
  return program


@lru_cache(maxsize=256)
def unsharded(equation: Any) -> Program:
  """Return the program of a `shard_map` as one of whole arrays: its body, mapped over the devices.

  Under `vmap` along named axes the collectives are sums, transpositions and slices of the mapped
  axes, which can be evaluated and differentiated anywhere.
  """
  mesh, body = parameter(equation, "mesh"), closed(parameter(equation, "jaxpr"))
  manual = parameter(equation, "newly_manual_axes", "manual_axes")
  sizes = {name: size for name, size in mesh.shape.items() if name in manual}
  ins, outs = ([list(spec) for spec in parameter(equation, key)] for key in SPECS)

  def names_of(split: Any) -> list[str]:
    found = () if split is None else split if isinstance(split, tuple) else (split,)
    return [name for name in found if name in sizes]

  def apply(_: int, inner: Any, values: list[Any]) -> list[Any]:
    name = inner.primitive.name
    if name in ("pvary", "pcast", "reshard", "sharding_constraint"):
      return values
    if name == "psum_invariant":
      return [jax.lax.psum(value, parameter(inner, "axes")) for value in values]  # type: ignore[no-untyped-call]
    called = None if has_library_rule(inner) else inner_program(inner)
    if called is not None:  # The rule in it is taken out.
      return call(called, *values)
    return bind(inner.primitive, with_bodies(inner, mapped, ()), values)

  def call(program: Program, *values: Any) -> list[Any]:
    return interpret(program, values, lambda value, _: value, apply)

  def mapped(program: Program, place: Place) -> Program:
    trace = jax.make_jaxpr(partial(call, program), axis_env=list(sizes.items()))
    return trace(*map(shape_of, program.in_avals))

  def whole(*inputs: Any) -> list[Any]:
    parts, function = [], partial(call, body)
    for x, spec in zip(inputs, ins, strict=True):
      shape, order = [], []
      for n, split in itertools.zip_longest(jax.numpy.shape(x), spec):
        own = names_of(split)
        order += [*own, None]
        shape += [*(sizes[name] for name in own), n // math.prod(sizes[name] for name in own)]
      # The axes of devices in front, in the order of the mesh.
      front = [order.index(name) for name in sizes if name in order]
      rest = [i for i, name in enumerate(order) if name is None]
      parts.append(jax.numpy.reshape(x, shape).transpose(*front, *rest))
    for name, size in reversed(sizes.items()):
      places = tuple(0 if any(name in names_of(s) for s in spec) else None for spec in ins)
      function = jax.vmap(function, in_axes=places, out_axes=0, axis_name=name, axis_size=size)
    return [joined(y, spec) for y, spec in zip(function(*parts), outs, strict=True)]

  def joined(y: Any, spec: Sequence[Any]) -> Any:
    used = [name for split in spec for name in names_of(split)]
    y = y[tuple(slice(None) if name in used else 0 for name in sizes)]
    front = [name for name in sizes if name in used]
    order, shape = [], []
    for i, (n, split) in enumerate(itertools.zip_longest(y.shape[len(front) :], spec)):
      own = names_of(split)
      order += [*(front.index(name) for name in own), len(front) + i]
      shape.append(n * math.prod(sizes[name] for name in own))
    return y.transpose(*order).reshape(shape)

  avals = [v.aval for v in (*equation.invars, *equation.outvars)]
  is_wide = any(getattr(a.dtype, "itemsize", 0) == 8 for a in avals)
  nothing = jax.sharding.AbstractMesh((), ())
  with jax.enable_x64(is_wide), jax.sharding.use_abstract_mesh(nothing):
    return jax.make_jaxpr(whole)(*map(shape_of, avals[: len(equation.invars)]))


def shape_of(aval: Any) -> Any:
  """Return the abstract value by which a jaxpr with this input is traced."""
  shape: Any = jax.ShapeDtypeStruct  # Untyped in jax.
  return shape(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def has_library_rule(equation: Any) -> bool:
  """Return whether autodiff must keep a custom derivative that JAX itself defines.

  A `custom_vjp`, and a hijax primitive or a `custom_jvp` that isn't one of JAX's own, carry the
  rule under test.
  """
  if equation.primitive.name == HIJAX:
    primitive = equation.params.get("_prim")
    kind = type(primitive)
    if not (kind.__module__.startswith("jax.") and kind.__name__ in LIBRARY_RULES):
      return False
    return kind.__name__ != "CustomJVPTraced" or is_of_library(vars(primitive).values())
  if equation.primitive.name != "custom_jvp_call":
    return False
  return is_of_library([parameter(equation, "jvp_jaxpr_fun")])


def is_of_library(values: Iterable[Any]) -> bool:
  """Return whether all functions within these values, closures included, are JAX's own.

  The rule of a `custom_jvp` is wrapped several times in functions of JAX, and `defjvps` puts the
  user's functions into a list in a closure: any function of another module is the user's.
  """
  waiting, seen = list(values), set()
  while waiting:
    value = waiting.pop()
    if id(value) in seen:
      continue
    seen.add(id(value))
    if isinstance(value, FunctionType):
      if not (value.__module__ or "").startswith(("jax.", "functools")):
        return False
      waiting += [c.cell_contents for c in value.__closure__ or () if c != CellType()]
    elif isinstance(value, tuple | list):
      waiting += value
    elif isinstance(value, partial):
      waiting += (value.func, *value.args)
    elif type(value).__name__ in ("WrappedFun", "custom_jvp"):
      waiting += (getattr(value, name, None) for name in ("f", "transforms", "fun", "jvp"))
  return True


def carries_rule(program: Program) -> bool:
  """Return whether a traced jaxpr contains a user's custom derivative rule.

  Raises:
    UnknownProgramError: the rule is where it can't be removed.
  """
  for equation in program.jaxpr.eqns:
    name, kind = equation.primitive.name, type(equation.params.get("_prim"))
    is_library = kind.__module__.startswith("jax.") and kind.__name__ not in WRITTEN_RULES
    is_rule = name in ("custom_vjp_call", "custom_jvp_call", "linear_call")
    if is_rule or (name == HIJAX and not is_library):
      return True
    if any(map(carries_rule, programs_in(equation))):
      if is_opaque(equation):
        raise UnknownProgramError(f"how a derivative rule is taken out of {name!r}")
      return True
  return False


def carries_jvp(program: Program) -> bool:
  """Return whether a traced jaxpr contains a user's `custom_jvp`, at any depth."""
  for equation in program.jaxpr.eqns:
    kind = type(equation.params.get("_prim")).__name__
    is_jvp = equation.primitive.name == "custom_jvp_call" or kind == "CustomJVPTraced"
    if is_jvp and not has_library_rule(equation):
      return True
    if any(map(carries_jvp, programs_in(equation))):
      return True
  return False


def programs_in(equation: Any) -> Iterator[Program]:
  """Yield all jaxprs among an equation's parameters."""
  if equation.primitive.name in PLAIN:
    return
  inner = None if equation.primitive.name == "shard_map" else inner_program(equation)
  held = filter(is_program, flattened(equation.params.values()))
  yield from map(read_alone, held if inner is None else [inner])


def equations_of(program: Program) -> Iterator[Any]:
  """Yield all equations of a jaxpr, including those of loops and calls."""
  for equation in program.jaxpr.eqns:
    yield equation
    for inner in programs_in(equation):
      yield from equations_of(inner)


def holds_foreign_code(program: Program) -> bool:
  """Return whether a program calls kernels, callbacks or functions with a batching rule."""
  return any(is_foreign(e.primitive.name) for e in equations_of(program))


def is_foreign(name: str) -> bool:
  """Return whether a primitive runs code that isn't JAX's own."""
  return name in FOREIGN or name.endswith("_callback")


def released(programs: Sequence[Program]) -> list[Program]:
  """Return programs that were traced in an x64 context, with copies of their NumPy constants.

  There JAX notes that a NumPy array has 64 bits, and while a program or a cache holds the note, it
  hands the same array to 32-bit operations as one of 64 bits, which they refuse: after such a trace
  a function that closes over NumPy arrays fails everywhere (jax 0.10 and 0.12).
  """
  inside = (c for p in programs for inner in programs_of(p) for c in inner.consts)
  if not any(isinstance(c, np.ndarray) and c.dtype.itemsize == 8 for c in inside):
    return list(programs)
  own = list(map(with_own_constants, programs))
  jax.clear_caches()  # type: ignore[no-untyped-call]
  steps_of.cache_clear()  # Its keys hold programs.
  gc.collect()
  return own


def programs_of(program: Program) -> Iterator[Program]:
  """Yield a program and all programs inside of it."""
  yield program
  for equation in program.jaxpr.eqns:
    for inner in programs_in(equation):
      yield from programs_of(inner)


def floats_in(program: Program) -> Iterator[np.ndarray]:
  """Yield all floating-point constants of a program, at any depth."""
  for inner in programs_of(program):
    atoms = (v for e in inner.jaxpr.eqns for v in e.invars if isinstance(v, core.Literal))
    for value in (*inner.consts, *(v.val for v in atoms)):
      if jnp.issubdtype(jax.dtypes.result_type(value), np.floating):
        yield np.asarray(value, np.float64)


def with_own_constants(program: Program) -> Program:
  """Return the program with copies of its NumPy constants, inside of calls and loops too."""

  def copied(value: Any) -> Any:
    if is_program(value):
      whole = with_own_constants(closed(value))
      return whole if isinstance(value, Program) else whole.jaxpr
    return tuple(map(copied, value)) if type(value) is tuple else value

  equations = [
    e.replace(params={key: copied(value) for key, value in e.params.items()})
    for e in program.jaxpr.eqns
  ]
  consts = [np.array(c) if isinstance(c, np.ndarray) else c for c in program.consts]
  return Program(program.jaxpr.replace(eqns=equations), consts)


def ends_by_tolerance(program: Program) -> bool:
  """Return whether a program holds a loop, at any depth, whose end depends on floats.

  Such a loop, as of a solver, ends where its result is accurate enough; a count doesn't.
  """
  loops = (e for e in equations_of(program) if e.primitive.name == "while")
  return any(ends_by_floats(*while_of(loop)) for loop in loops)


def ends_by_floats(cond: Program, count: int, body: Program, body_count: int) -> bool:
  """Return whether a loop's condition depends on floats, itself or by what the body carries."""
  has_floats, read = inputs_of(cond, [0])
  carried = {i - count for i in read if i >= count}
  while not has_floats:
    has_floats, read = inputs_of(body, carried)
    more = carried | {i - body_count for i in read if i >= body_count}
    if more == carried:
      return has_floats
    carried = more
  return True


def inputs_of(program: Program, outputs: Iterable[int]) -> tuple[bool, set[int]]:
  """Return whether some outputs of a program depend on floats, and the indices of their inputs."""
  jaxpr = program.jaxpr
  wanted = variables(jaxpr.outvars[i] for i in outputs)
  for equation in reversed(jaxpr.eqns):
    if not wanted.isdisjoint(equation.outvars):
      wanted |= variables(equation.invars)
  has_floats = any(jax.numpy.issubdtype(v.aval.dtype, jax.numpy.floating) for v in wanted)
  return has_floats, {i for i, v in enumerate(jaxpr.invars) if v in wanted}


def interpret(
  program: Program,
  arguments: Sequence[Any],
  constant: Callable[[Any, Any], Any],
  apply: Callable[[int, Any, list[Any]], Sequence[Any]],
  outputs: Sequence[Any] | None = None,
) -> list[Any]:
  """Interpret a jaxpr's equations in order.

  Dead code is skipped, and a value is released after its last use.

  Args:
    program: a closed jaxpr.
    arguments: one for each input, of any type that `apply` supports.
    constant: converts a constant of the jaxpr, given its value and its aval, to such a type.
    apply: computes the outputs of an equation, given its index, the equation and its inputs.
    outputs: the variables and literals to evaluate instead of the jaxpr's outputs.

  Returns:
    The values of the outputs.
  """
  jaxpr = program.jaxpr
  outvars = jaxpr.outvars if outputs is None else outputs
  steps = steps_of(jaxpr) if outputs is None else steps_to(jaxpr, outputs)
  values: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
  for variable, value in zip(jaxpr.constvars, program.consts, strict=True):
    values[variable] = constant(value, variable.aval)

  def read(atom: Any) -> Any:
    return constant(atom.val, atom.aval) if isinstance(atom, core.Literal) else values[atom]

  for i, released in steps:
    equation = jaxpr.eqns[i]
    found = apply(i, equation, [read(atom) for atom in equation.invars])
    values.update(zip(equation.outvars, found, strict=True))
    for v in released:
      del values[v]
  return [read(atom) for atom in outvars]


def steps_to(jaxpr: Any, outvars: Sequence[Any]) -> list[tuple[int, list[Any]]]:
  """Return the indices of the equations to evaluate, each with the variables to release after."""
  kept = variables(outvars)
  live, needed = set(kept), []
  for i, equation in reversed(list(enumerate(jaxpr.eqns))):
    if equation.effects or not live.isdisjoint(equation.outvars):
      needed.append(i)
      live |= variables(equation.invars)
  needed.reverse()
  last = {v: i for i in needed for v in variables(jaxpr.eqns[i].invars)}
  return [(i, [v for v in variables(jaxpr.eqns[i].invars) - kept if last[v] == i]) for i in needed]


@lru_cache(maxsize=4096)
def steps_of(jaxpr: Any) -> list[tuple[int, list[Any]]]:
  """Return `steps_to` a jaxpr's outputs: a loop's body is interpreted many times."""
  return steps_to(jaxpr, jaxpr.outvars)


def variables(atoms: Iterable[Any]) -> set[Any]:
  """Return the variables among atoms, without the literals."""
  return {v for v in atoms if not isinstance(v, core.Literal)}


def read_by(program: Program, place: int) -> list[int]:
  """Return the indices of the inputs on which one equation of a jaxpr depends."""
  equations = program.jaxpr.eqns
  wanted = variables(equations[place].invars)
  for equation in reversed(equations[:place]):
    if not wanted.isdisjoint(equation.outvars):
      wanted |= variables(equation.invars)
  return [i for i, v in enumerate(program.jaxpr.invars) if v in wanted]


def last_reads(program: Program) -> list[int]:
  """Return, for each input, the index of the last equation that reads it, or −1 if none does."""
  last = {v: i for i, e in enumerate(program.jaxpr.eqns) for v in variables(e.invars)}
  return [last.get(v, -1) for v in program.jaxpr.invars]


def line_of(equation: Any) -> str:
  """Return where an equation was written, "file.py:12", outside of JAX and of the verifier.

  It is "" where that isn't known: JAX notes for parts of a `custom_vjp` where it was called.
  """
  traceback = getattr(getattr(equation, "source_info", None), "traceback", None)
  for frame in getattr(traceback, "frames", ()):
    file = str(frame.file_name)
    if "/jax/" not in file and "/fbackprop/verify/" not in file and "functools" not in file:
      return f"{file.rpartition('/')[2]}:{frame.line_num}"
    if file.endswith("/custom_derivatives.py") and "__call__" in str(frame.function_name):
      return ""
  return ""


# --- Flat programs: calls inlined, and custom VJPs taken out --------------------------------------


# Called with an equation, its inputs, its place and the preceding comparisons; returns None to keep
# the equation.
Override = Callable[[Any, list[Any], Place, dict[Any, Any]], list[Any] | None]


def flat(
  program: Program, keep_rules: bool, override: Override | None = None, place: Place = ()
) -> Program:
  """Inline all calls of a program; drop a custom VJP's rule, but keep its function."""
  # In an x64 context JAX may note a 64-bit NumPy constant as one of 32 bits, as elsewhere, and use
  # it as one of 64: a trace refuses such a program, which renaming would hand on.
  is_doubtful = jax.dtypes.canonicalize_dtype(np.float64) == np.float64 and any(
    not isinstance(c, jax.Array) and c.dtype.itemsize == 4 for c in program.consts
  )
  if override is None and not is_doubtful:
    return inlined(program, has_library_rule if keep_rules else None)
  function = partial(evaluate_flat, program, keep_rules, override=override, place=place)
  return jax.make_jaxpr(function)(*map(shape_of, program.in_avals))


def inlined(program: Program, keeps: Callable[[Any], bool] | None, place: Place = ()) -> Program:
  """Inline the calls that `keeps` isn't true of: variables are renamed, quicker than by a trace."""
  equations: list[Any] = []
  constants = dict(zip(program.jaxpr.constvars, program.consts, strict=True))

  def walk(jaxpr: Any, atoms: dict[Any, Any]) -> list[Any]:
    def read(atom: Any) -> Any:
      return atom if isinstance(atom, core.Literal) else atoms.get(atom, atom)

    for equation in jaxpr.eqns:
      own = list(map(read, equation.invars))
      inner = None if keeps and keeps(equation) else inner_program(equation)
      if inner is not None:
        fresh = {v: core.Var(v.aval) for v in inner.jaxpr.constvars}
        constants.update(zip(fresh.values(), inner.consts, strict=True))
        results = walk(inner.jaxpr, fresh | dict(zip(inner.jaxpr.invars, own, strict=True)))
        atoms.update(zip(equation.outvars, results, strict=True))
        continue
      # A program may be called twice, and then defines each of its variables twice.
      results = [v if isinstance(v, core.DropVar) else core.Var(v.aval) for v in equation.outvars]
      atoms.update(zip(equation.outvars, results, strict=True))
      params = with_bodies(equation, partial(inlined, keeps=keeps), ())
      equations.append(equation.replace(invars=own, outvars=results, params=params))
    return list(map(read, jaxpr.outvars))

  outvars = walk(program.jaxpr, {})
  own = {"eqns": equations, "outvars": outvars, "constvars": list(constants)}
  return Program(program.jaxpr.replace(**own), list(constants.values()))


def is_no_mere_call(equation: Any) -> bool:
  """Return whether an equation isn't a call without a rule, as of a function under `jax.jit`."""
  return equation.primitive.name not in ("jit", "pjit", "closed_call", "core_call")


def function_of(program: Program) -> Callable[..., list[Any]]:
  """Return a traced program as a function that keeps all rules in it."""
  function: Callable[..., list[Any]] = core.jaxpr_as_fun(inlined(program, is_no_mere_call))
  return function


def evaluate_flat(
  program: Program,
  keep_rules: bool,
  *arguments: Any,
  override: Override | None = None,
  place: Place = (),
) -> list[Any]:
  """Evaluate a program in JAX with its calls inlined and some equations replaced."""
  compared: dict[Any, Any] = {}

  def apply(i: int, equation: Any, inputs: list[Any]) -> list[Any]:
    outputs = override and override(equation, inputs, (*place, i), compared)
    if outputs is not None:
      return outputs
    inner = None if keep_rules and has_library_rule(equation) else inner_program(equation)
    if inner is not None:
      return evaluate_flat(inner, keep_rules, *inputs, override=override, place=(*place, i))
    rewrite = partial(flat, keep_rules=keep_rules, override=override)
    params = with_bodies(equation, rewrite, (*place, i))
    return bind(equation.primitive, params, inputs)

  return interpret(program, arguments, lambda value, _: value, apply)


def without_rules(function: Callable[..., Any], *arguments: Any) -> Callable[..., list[Any]]:
  """Return a function of the same flat arguments without custom VJPs, for autodiff.

  Args:
    function: a function of arrays that returns a list of arrays.
    arguments: arrays of the shapes and dtypes of later calls.
  """
  return partial(evaluate_flat, jax.make_jaxpr(function)(*arguments), True)
