"""Functions that map a `custom_vjp` function by `jax.vmap` where its rule is right and JAX is not.

An output that no mapped argument reaches, as a penalty on the weights, is shared by all examples.
JAX < 0.12 counts its cotangent once per example, silently, and JAX ≥ 0.12 raises. No rule can help
that: so what is verified is the function with that cotangent counted once, and the report says so.
"""

from collections.abc import Callable
from typing import Any

import jax

from fbackprop.jaxprs import HIJAX, bind, counted_once, equations_of, shares_output
from fbackprop.verify.arguments import Leaves
from fbackprop.verify.rules import Rule
from fbackprop.verify.tracing import evaluate_flat

NOTE = (
  "f maps a custom_vjp function one of whose outputs the mapped arguments don't reach: JAX < 0.12 "
  "counts the cotangent of a shared output once per example, and JAX >= 0.12 raises. This isn't "
  "the rule's fault: it was judged with that cotangent counted once. To have it so in JAX, map the "
  "shared argument too and use one of the equal outputs, or say defvjp(..., generic_batching=True) "
  "in JAX >= 0.12"
)


def has_shared_output(rule: Rule, leaves: Leaves) -> bool:
  """Whether JAX would get the derivative of the function wrong, whatever its rule is."""
  return any(map(shares_output, equations_of(jax.make_jaxpr(rule.forward)(*leaves))))


def counting_once(f: Callable[..., Any]) -> Callable[..., Any]:
  """The function, in whose derivative the cotangent of a shared output counts once."""

  def counted(*args: Any) -> Any:
    leaves, structure = jax.tree.flatten(args)
    moving = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, bool | int)]

    def flat(*own: Any) -> Any:
      full = dict(zip(moving, own, strict=True))
      return f(*jax.tree.unflatten(structure, [full.get(i, x) for i, x in enumerate(leaves)]))

    own = [leaves[i] for i in moving]
    program, result = jax.make_jaxpr(flat, return_shape=True)(*own)
    outputs = evaluate_flat(program, True, *own, override=once)
    return jax.tree.unflatten(jax.tree.structure(result), outputs)

  return counted


def once(equation: Any, inputs: list[Any], place: Any, compared: Any) -> list[Any] | None:
  """The outputs of an equation that carries a rule; None for any other."""
  if equation.primitive.name not in ("custom_vjp_call", HIJAX):
    return None
  params = dict(equation.params)
  if shares_output(equation):
    params["bwd"] = counted_once(params["bwd"], len(equation.outvars))
  return bind(equation.primitive, params, inputs)
