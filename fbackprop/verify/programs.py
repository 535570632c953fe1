"""What is asked of traced programs before they are evaluated."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from fbackprop.verify.primitives import is_float

CALLS = {
  "jit": "jaxpr",
  "pjit": "jaxpr",
  "closed_call": "call_jaxpr",
  "core_call": "call_jaxpr",
  "remat2": "jaxpr",
  "checkpoint": "jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
  "custom_vjp_call_jaxpr": "fun_jaxpr",
  "custom_vmap_call": "call",
}


def inner_program(equation: Any) -> core.ClosedJaxpr | None:
  """The program that an equation calls, if that is all it does."""
  key = CALLS.get(equation.primitive.name)
  if key is None or key not in equation.params:
    return None
  inner = equation.params[key]
  return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


def holds_program(values: Any) -> bool:
  """Whether a program stands among an equation's parameters, as in a linear solve."""
  return any(
    isinstance(v, core.Jaxpr | core.ClosedJaxpr) or (isinstance(v, tuple) and holds_program(v))
    for v in values
  )


def is_wide(equation: Any) -> bool:
  """Whether all floats that an equation takes and gives are float64."""
  atoms = [*equation.invars, *equation.outvars]
  return all(a.aval.dtype == np.float64 for a in atoms if is_float(a.aval.dtype))


def dtype_of(atom: Any) -> Any:
  """The dtype that a variable or a constant was traced with."""
  return atom.aval.dtype


class Uses(NamedTuple):
  """Which equations are needed for the results, and where each variable is read last."""

  needed: set[int]
  last: dict[Any, int]


def uses(equations: Sequence[Any], results: set[Any]) -> Uses:
  """What is needed: a program as it was traced also holds what nobody reads."""
  live, needed = set(results), set()
  last: dict[Any, int] = {}
  for i in reversed(range(len(equations))):
    if equations[i].effects or not live.isdisjoint(equations[i].outvars):
      needed.add(i)
      for v in equations[i].invars:
        if not isinstance(v, core.Literal):
          live.add(v)
          last.setdefault(v, i)
  return Uses(needed, last)
