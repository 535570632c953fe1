"""Flat programs: calls inlined, and the reference without custom VJPs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from fbackprop import jaxprs
from fbackprop.jaxprs import Program, has_library_rule, inner_program
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.interpret.samples import constant_key


def flat(program: Program, keep_rules: bool) -> Program:
  """Inline all calls of a program; drop a custom VJP's rule, but keep its function."""
  if not any(changes(equation, keep_rules) for equation in program.jaxpr.eqns):
    return program
  return again(program, partial(evaluate_flat, program, keep_rules))


def again(program: Program, function: Callable[..., Any]) -> Program:
  """Trace a function of the inputs of a program."""
  return jax.make_jaxpr(function)(*map(jaxprs.shape_of, program.in_avals))


def changes(equation: Any, keep_rules: bool) -> bool:
  """Return whether an equation is altered in a flat program."""
  if keep_rules and has_library_rule(equation):
    return False
  if inner_program(equation) is not None:
    return True
  return any(
    changes(inner, keep_rules) for body in jaxprs.bodies(equation) for inner in body.jaxpr.eqns
  )


def data_of(program: Program) -> set[Any]:
  """Return the `constant_key` of every float array that a program closes over."""
  return {constant_key(c) for c in program.consts if is_float(c.dtype) and c.size > 1}


# Called with an equation, its inputs, its place and the preceding comparisons; returns None to keep
# the equation.
Override = Callable[[Any, list[Any], tuple[Any, ...], dict[Any, Any]], list[Any] | None]


def evaluate_flat(
  program: Program,
  keep_rules: bool,
  *arguments: Any,
  override: Override | None = None,
  place: tuple[Any, ...] = (),
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

    def rewrite(body: Program, place: tuple[Any, ...]) -> Program:
      if override is None:
        return flat(body, keep_rules)
      function = partial(evaluate_flat, body, keep_rules, override=override, place=place)
      return again(body, function)

    params = jaxprs.with_bodies(equation, rewrite, (*place, i))
    return jaxprs.bind(equation.primitive, params, inputs)

  return jaxprs.interpret(program, arguments, lambda value, _: value, apply)


def without_rules(function: Callable[..., Any], *arguments: Any) -> Callable[..., list[Any]]:
  """Return a function of the same flat arguments without custom VJPs, for autodiff.

  Args:
    function: a function of arrays that returns a list of arrays.
    arguments: arrays of the shapes and dtypes of later calls.
  """
  return partial(evaluate_flat, jax.make_jaxpr(function)(*arguments), True)
