"""Programs traced and made flat: the rule as it is, and the reference without any custom VJP."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.extend import core

from fbackprop.verify.foreign import bind
from fbackprop.verify.primitives import is_float
from fbackprop.verify.programs import inner_program
from fbackprop.verify.samples import constant_key

# What carries a rule of its own for differentiation, and is kept where autodiff must see it.
RULES = {"custom_jvp_call"}
BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}


def flat(program: core.ClosedJaxpr, keep_rules: bool) -> core.ClosedJaxpr:
  """The same program without calls; a custom VJP's rule is gone, its function stays."""
  if not any(changes(equation, keep_rules) for equation in program.jaxpr.eqns):
    return program
  return jax.make_jaxpr(partial(evaluate_flat, program, keep_rules))(*shapes(program))


def shapes(program: core.ClosedJaxpr) -> list[jax.ShapeDtypeStruct]:
  """What a program is traced with again."""
  return [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in program.in_avals]


def changes(equation: Any, keep_rules: bool) -> bool:
  """Whether an equation is written otherwise in a flat program."""
  name = equation.primitive.name
  if name in RULES and keep_rules:
    return False
  if inner_program(equation) is not None:
    return True
  return any(changes(inner, keep_rules) for body in bodies(equation) for inner in body.jaxpr.eqns)


def carries_rule(program: core.ClosedJaxpr) -> bool:
  """Whether a custom VJP, or JVP, stands anywhere in a program as it was traced."""
  for equation in program.jaxpr.eqns:
    if equation.primitive.name.startswith(("custom_vjp_call", "custom_jvp_call")):
      return True
    inner = inner_program(equation)
    if any(carries_rule(p) for p in [*bodies(equation), *([inner] if inner else [])]):
      return True
  return False


def bodies(equation: Any) -> list[core.ClosedJaxpr]:
  """The programs inside a loop or a branch."""
  found = [equation.params[key] for key in BODIES.get(equation.primitive.name, ())]
  return [body for one in found for body in (one if isinstance(one, tuple) else (one,))]


def data_of(program: core.ClosedJaxpr) -> set[Any]:
  """The `constant_key` of every array of floats that a program is closed over."""
  return {constant_key(c) for c in program.consts if is_float(c.dtype) and c.size > 1}


# Called with an equation, its inputs, its place and the comparisons before it; None to leave it be.
Override = Callable[[Any, list[Any], tuple[Any, ...], dict[Any, Any]], list[Any] | None]


def evaluate_flat(
  program: core.ClosedJaxpr,
  keep_rules: bool,
  *arguments: Any,
  override: Override | None = None,
  place: tuple[Any, ...] = (),
) -> list[Any]:
  """Evaluates a program in JAX, its calls written out, some equations replaced."""
  values: dict[Any, Any] = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
  values.update(zip(program.jaxpr.invars, arguments, strict=True))
  compared: dict[Any, Any] = {}

  def read(atom: Any) -> Any:
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  for i, equation in enumerate(program.jaxpr.eqns):
    inputs = [read(atom) for atom in equation.invars]
    name = equation.primitive.name
    outputs = override and override(equation, inputs, (*place, i), compared)
    inner = None if name in RULES and keep_rules else inner_program(equation)
    if outputs is not None:
      pass
    elif inner is not None:
      outputs = evaluate_flat(inner, keep_rules, *inputs, override=override, place=(*place, i))
    else:
      rewrite = partial(flat_body, keep_rules=keep_rules, override=override)
      outputs = bind(equation.primitive, with_bodies(equation, rewrite, (*place, i)), inputs)
    values.update(zip(equation.outvars, outputs, strict=True))
  return [read(atom) for atom in program.jaxpr.outvars]


def with_bodies(equation: Any, rewrite: Callable[..., Any], place: tuple[Any, ...]) -> Any:
  """An equation's parameters, the programs of its bodies rewritten; places as the evaluator's."""
  params = dict(equation.params)
  name = equation.primitive.name
  if name == "scan":
    params["jaxpr"] = rewrite(params["jaxpr"], place=place)
  elif name == "while":
    params["body_jaxpr"] = rewrite(params["body_jaxpr"], place=(*place, "body"))
    params["cond_jaxpr"] = rewrite(params["cond_jaxpr"], place=(*place, "cond"))
  elif name == "cond":
    branches = enumerate(params["branches"])
    params["branches"] = tuple(rewrite(b, place=(*place, i)) for i, b in branches)
  return params


def flat_body(
  program: core.ClosedJaxpr,
  keep_rules: bool,
  override: Override | None,
  place: tuple[Any, ...],
) -> core.ClosedJaxpr:
  """The flat program of a loop's body or a branch."""
  if override is None:
    return flat(program, keep_rules)
  function = partial(evaluate_flat, program, keep_rules, override=override, place=place)
  return jax.make_jaxpr(function)(*shapes(program))


def without_rules(function: Callable[..., Any], *arguments: Any) -> Callable[..., list[Any]]:
  """A function of the same flat arguments whose custom VJPs are gone, for autodiff.

  Args:
    function: of arrays; it returns a list of arrays.
    arguments: of the shapes and dtypes that it will be called with.
  """
  return partial(evaluate_flat, jax.make_jaxpr(function)(*arguments), True)


def sources(program: core.ClosedJaxpr) -> Sequence[int]:
  """For each input, the place of the last equation that reads it; −1 if none does."""
  last = dict.fromkeys(program.jaxpr.invars, -1)
  for i, equation in enumerate(program.jaxpr.eqns):
    for atom in equation.invars:
      if not isinstance(atom, core.Literal) and atom in last:
        last[atom] = i
  return [last[v] for v in program.jaxpr.invars]
