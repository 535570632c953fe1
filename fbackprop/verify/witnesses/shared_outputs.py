"""Functions that map a `custom_vjp` by `jax.vmap`, where its rule is right and JAX is wrong.

An output that depends on no mapped argument, such as a penalty on the weights, is shared by all
examples. JAX < 0.12 silently counts its cotangent once per example, and JAX ≥ 0.12 raises. No rule
can prevent that, so `vjp` verifies the function with that cotangent counted once, and the report
says so.
"""

import inspect
from collections.abc import Callable, Mapping
from types import CellType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.linear_util import wrap_init

from fbackprop.jaxprs import HIJAX, bind, equations_of, evaluate_flat, inner_program
from fbackprop.verify.witnesses.rule import Leaves, Rule, replaced

NOTE = (
  "f maps a custom_vjp function one of whose outputs the mapped arguments don't reach: JAX < 0.12 "
  "counts the cotangent of a shared output once per example, and JAX >= 0.12 raises. This isn't "
  "the rule's fault: it was judged with that cotangent counted once. To have it so in JAX, map the "
  "shared argument too and use one of the equal outputs, or say defvjp(..., generic_batching=True) "
  "in JAX >= 0.12"
)


def shares_output(equation: Any) -> bool:
  """Return whether it is a mapped `custom_vjp` with an output that depends on no mapped argument.

  JAX < 0.12 counts that output's cotangent once per example, and JAX ≥ 0.12 raises.
  """
  if equation.primitive.name != "custom_vjp_call" or not batching_of(equation.params["bwd"]):
    return False
  program = inner_program(equation)
  assert program is not None
  count = len(program.in_avals) - equation.params["num_consts"]
  equation.params["fwd_jaxpr_thunk"].call_wrapped(*[True] * count)  # Before it nothing is known.
  rule, outputs = equation.params["bwd"], len(program.out_avals)
  while cells := batching_of(rule):
    if None in list(cells["in_dims"]())[-outputs:]:
      return True
    rule = cells["bwd"]
  return False


def batching_of(rule: Any) -> Mapping[str, Any]:
  """Return JAX's record of the batching of a backward rule; nothing if it isn't batched."""
  function: Any = getattr(rule, "f", None)
  if not getattr(function, "__qualname__", "").startswith("batch_custom_vjp_bwd."):
    return {}
  return inspect.getclosurevars(function).nonlocals


def counted_once(rule: Any, outputs: int) -> Any:
  """Return a batched backward rule that counts the cotangent of a shared output once.

  The first example receives all of it, as with `defvjp(..., generic_batching=True)` of JAX ≥ 0.12.

  Args:
    rule: the parameter "bwd" of a `custom_vjp_call`.
    outputs: the number of its outputs.
  """
  if not (cells := batching_of(rule)):
    return rule
  batched, size = rule.f, cells["axis_data"].size

  def counted_once_backward(*args: Any) -> Any:
    own, dims = list(args), list(cells["in_dims"]())
    for i in range(len(args) - outputs, len(args)):
      if dims[i] is None and not isinstance(args[i], SymbolicZero):
        if size == 0:
          raise ValueError("vmap over no examples: none has the cotangent of a shared output")
        rest = jnp.zeros((size - 1, *args[i].shape), args[i].dtype)
        own[i], dims[i] = jnp.concatenate([args[i][None], rest]), 0
    instead = {"in_dims": lambda: dims, "bwd": counted_once(cells["bwd"], outputs)}
    closure = tuple(
      CellType(instead[name]) if name in instead else cell
      for name, cell in zip(batched.__code__.co_freevars, batched.__closure__, strict=True)
    )
    function = FunctionType(batched.__code__, batched.__globals__, None, None, closure)
    return function(*own)

  return wrap_init(counted_once_backward, debug_info=rule.debug_info)


def has_shared_output(rule: Rule, leaves: Leaves) -> bool:
  """Return whether JAX differentiates the function wrongly, whatever its rule is."""
  return any(map(shares_output, equations_of(jax.make_jaxpr(rule.forward)(*leaves))))


def counting_once(f: Callable[..., Any]) -> Callable[..., Any]:
  """Return the function with a derivative that counts the cotangent of a shared output once."""

  def counted(*args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    moving = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, bool | int)]

    def flat(*own: Any) -> Any:
      return f(*jax.tree.unflatten(structure, replaced(leaves, moving, own)))

    own = [leaves[i] for i in moving]
    program, result = jax.make_jaxpr(flat, return_shape=True)(*own)
    outputs = evaluate_flat(program, True, *own, override=once)
    return jax.tree.unflatten(jax.tree.structure(result), outputs)

  return counted


def once(equation: Any, inputs: list[Any], place: Any, compared: Any) -> list[Any] | None:
  """Evaluate an equation that has a rule of its own; return None for any other."""
  if equation.primitive.name not in ("custom_vjp_call", HIJAX):
    return None
  params = dict(equation.params)
  if shares_output(equation):
    params["bwd"] = counted_once(params["bwd"], len(equation.outvars))
  return bind(equation.primitive, params, inputs)
