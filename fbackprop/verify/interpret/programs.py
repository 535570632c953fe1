"""Flat programs: calls inlined, and the reference without any custom VJP."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from fbackprop.jaxprs import (
  Program,
  bind,
  bodies,
  has_library_rule,
  inner_program,
  interpret,
  shape_of,
  with_bodies,
)
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.interpret.samples import constant_key


def flat(program: Program, keep_rules: bool) -> Program:
  """Inline all calls of a program; a custom VJP's rule is dropped, its function stays."""
  if not any(changes(equation, keep_rules) for equation in program.jaxpr.eqns):
    return program
  return jax.make_jaxpr(partial(evaluate_flat, program, keep_rules))(*shapes(program))


def shapes(program: Program) -> list[Any]:
  """Return what a program is traced with again."""
  return list(map(shape_of, program.in_avals))


def changes(equation: Any, keep_rules: bool) -> bool:
  """Whether an equation changes in a flat program."""
  if keep_rules and has_library_rule(equation):
    return False
  if inner_program(equation) is not None:
    return True
  return any(changes(inner, keep_rules) for body in bodies(equation) for inner in body.jaxpr.eqns)


def data_of(program: Program) -> set[Any]:
  """Return the `constant_key` of every array of floats that a program is closed over."""
  return {constant_key(c) for c in program.consts if is_float(c.dtype) and c.size > 1}


# Called with an equation, its inputs, its place and the comparisons before it; None to leave it be.
Override = Callable[[Any, list[Any], tuple[Any, ...], dict[Any, Any]], list[Any] | None]


def evaluate_flat(
  program: Program,
  keep_rules: bool,
  *arguments: Any,
  override: Override | None = None,
  place: tuple[Any, ...] = (),
) -> list[Any]:
  """Evaluate a program in JAX, its calls inlined, some equations replaced."""
  compared: dict[Any, Any] = {}

  def apply(i: int, equation: Any, inputs: list[Any]) -> list[Any]:
    outputs = override and override(equation, inputs, (*place, i), compared)
    if outputs is not None:
      return outputs
    inner = None if keep_rules and has_library_rule(equation) else inner_program(equation)
    if inner is not None:
      return evaluate_flat(inner, keep_rules, *inputs, override=override, place=(*place, i))
    rewrite = partial(flat_body, keep_rules=keep_rules, override=override)
    return bind(equation.primitive, with_bodies(equation, rewrite, (*place, i)), inputs)

  return interpret(program, arguments, lambda value, _: value, apply)


def flat_body(
  program: Program,
  keep_rules: bool,
  override: Override | None,
  place: tuple[Any, ...],
) -> Program:
  """Return the flat program of a loop's body or a branch."""
  if override is None:
    return flat(program, keep_rules)
  function = partial(evaluate_flat, program, keep_rules, override=override, place=place)
  return jax.make_jaxpr(function)(*shapes(program))


def without_rules(function: Callable[..., Any], *arguments: Any) -> Callable[..., list[Any]]:
  """Return a function of the same flat arguments without custom VJPs, for autodiff.

  Args:
    function: of arrays; it returns a list of arrays.
    arguments: of the shapes and dtypes that it will be called with.
  """
  return partial(evaluate_flat, jax.make_jaxpr(function)(*arguments), True)
