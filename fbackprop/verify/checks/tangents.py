"""The rule in forward mode: its tangents against those of the function without its rules.

A JVP rule must be linear in the tangent, since J(x) v is, and reverse mode is its transposition:
a rule that takes |v| has none. The tangent of each float argument is drawn by itself, so that a
failure names the argument; ⟨J v, u⟩ = ⟨v, Jᵀ u⟩ ties both modes together.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import (
  Program,
  UnknownProgramError,
  equations_of,
  released,
  shape_of,
  without_rules,
)
from fbackprop.verify.checks import evidence
from fbackprop.verify.checks.evidence import AS_GIVEN, Evidence, Problem
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report import RuleError
from fbackprop.verify.witnesses.kinks import find_ties
from fbackprop.verify.witnesses.rule import Function, Leaves, raised, replaced
from fbackprop.verify.witnesses.traces import Setting, float_arrays
from fbackprop.verify.witnesses.verdicts import Difference, compare


def check_tangents(problem: Problem) -> Iterator[Evidence]:
  """Compare tangents with autodiff's, one argument at a time; check that they are linear.

  Raises:
    RuleError: the rule raises in forward mode, or isn't linear: it has no transpose.
  """
  f_jvp, signature = problem.f_jvp, problem.signature
  if f_jvp is None and problem.rule.f_vjp is None and problem.linear:
    # The rule of a custom_jvp is one of tangents; reverse mode doesn't see all of it.
    f_jvp = partial(jax.jvp, problem.rule.f) if problem.witnesses.has_jvp else None
  if f_jvp is None:
    return
  with jax.enable_x64(True):
    own = list(map(shape_of, problem.leaves))
    inputs = [*own, *(own[i] for i in signature.floats)]
    try:
      traced = [jax.make_jaxpr(partial(pushed, problem, f_jvp))(*inputs)]
    except UnknownProgramError:
      raise
    except Exception as error:
      raise RuleError("raises", f"in forward mode the rule raises {raised(error)}") from error
    # Without autodiff of f, its differences judge the transpose of the tangents.
    with contextlib.suppress(Exception):
      traced.append(jax.make_jaxpr(partial(reference_tangents, problem))(*inputs))
  rule, *others = released(traced)
  truth = others[0] if others else None
  if any(e.primitive.name == "custom_lin" for e in equations_of(rule)):
    yield evidence.not_checked("tangents: f holds a custom_vjp, which has no forward mode")
    return
  rng = np.random.default_rng([problem.seed, 8])
  for where in (AS_GIVEN, "redrawn"):
    leaves = problem.leaves if where == AS_GIVEN else problem.test_points[0].leaves
    for i, name in enumerate(signature.float_names):
      yield from compare_tangents(problem, (rule, truth), where, leaves, i, name, rng)


def compare_tangents(
  problem: Problem,
  programs: tuple[Program, Program | None],
  where: str,
  leaves: Leaves,
  place: int,
  name: str,
  rng: np.random.Generator,
) -> Iterator[Evidence]:
  """Compare the tangents by one argument with autodiff's, and with multiples and sums of them.

  The programs are the rule's and autodiff's; the latter is None where autodiff can't run.
  """
  evaluator = Evaluator(problem.signature.working, problem.noise())
  # Rounded to a narrower dtype on the way, no rule is linear.
  unrounded = problem.witnesses.unrounded(problem.noise())
  floats = [np.asarray(leaves[i]) for i in problem.signature.floats]
  v, w = (rng.normal(size=floats[place].shape) for _ in range(2))

  def along(program: Program, tangent: np.ndarray, evaluator: Evaluator = unrounded) -> Leaves:
    nothing = [np.zeros_like(x) for x in floats]
    return evaluator.run(program, [*leaves, *replaced(nothing, [place], [tangent])])

  rule, truth = programs
  got = along(rule, v, evaluator)
  want = got if truth is None else along(truth, v, evaluator)
  if not all(np.isfinite(y[0]).all() for y in want):
    return
  yield evidence.ran("tangents")
  one, other = along(rule, v), along(rule, w)
  sums = [x + y for x, y in zip(one, other, strict=True)]
  doubled = [-2.0 * y for y in one]
  comparisons = (
    ("a tangent times -2 must give -2 times the result", along(rule, -2.0 * v), doubled),
    ("the sum of two tangents must give the sum of the results", along(rule, v + w), sums),
    ("", got, want),
  )
  for law, a, b in comparisons:
    for d in compare(a, b, problem.allowance, bool(evaluator.fragile), problem.witnesses.tolerance):
      if d.is_wrong.any() and law:
        raise RuleError("cotangent", f"the rule isn't linear in the tangent: {law}", name)
      if not law and is_rounded_away(problem, d):
        continue
      # At a kink another slope than autodiff's may be right, of which the transpose is judged.
      if d.is_wrong.any() and not find_ties(Setting(problem.witnesses, leaves, problem.y_bar)):
        message = f"the tangent of output {d.leaf}, to which the index belongs, isn't autodiff's"
        yield evidence.reported(d.finding("fail", "tangents", where, name, message=message))
        return


def is_rounded_away(problem: Problem, d: Difference) -> bool:
  """Return whether what differs is lost in the rounding of the narrow dtype.

  So are the tangents of a function that an approximation stands for. The transpose is judged more
  strictly.
  """
  limit = problem.half_unit * np.max(np.abs(d.want), initial=0.0)
  return problem.may_approximate and bool((d.error <= limit)[d.is_wrong].all())


def without_transpose(problem: Problem, error: RuleError) -> RuleError:
  """Return the reason why a forward rule raises in reverse mode: it isn't linear in a tangent.

  JAX transposes the rule's program, and of one that squares a tangent says that an assertion
  failed. If the rule is linear, or has no forward mode, the error is returned as it is.
  """
  if error.check != "raises" or (problem.f_jvp is None and problem.rule.f_vjp is not None):
    return error
  push = partial(pushed, problem, problem.f_jvp or partial(jax.jvp, problem.rule.f))
  leaves, signature = problem.own_leaves, problem.signature
  rng = np.random.default_rng([problem.seed, 9])
  zeros = [jnp.zeros_like(leaves[i]) for i in signature.floats]
  try:
    for place, name in enumerate(signature.float_names):
      v = jnp.asarray(rng.normal(size=zeros[place].shape), zeros[place].dtype)
      one, other = (push(*leaves, *replaced(zeros, [place], [k * v])) for k in (1, -2))
      if not all(is_multiple(a, b, -2.0) for a, b in zip(one, other, strict=True)):
        law = "a tangent times -2 must give -2 times the result"
        message = f"the rule isn't linear in the tangent, so that it has no transpose: {law}"
        return RuleError("cotangent", message, name)
  except Exception:  # It raises in forward mode, too.
    return error
  return error


def is_multiple(one: Any, other: Any, factor: float) -> bool:
  """Return whether a tangent is a multiple of another, within half of the digits."""
  a, b = factor * np.asarray(one, np.float64), np.asarray(other, np.float64)
  tolerance = float(np.sqrt(jnp.finfo(one.dtype).eps)) * float(np.max(np.abs(a), initial=0.0))
  return not np.isfinite(a).all() or bool(np.all(np.abs(a - b) <= tolerance))


def pushed(problem: Problem, f_jvp: Function, *inputs: Any) -> Leaves:
  """Return the rule's tangents of the float outputs; the tangents of float leaves come last."""
  signature = problem.signature
  leaves, moving = inputs[: len(signature.names)], iter(inputs[len(signature.names) :])
  tangents = [
    next(moving) if real else np.zeros(np.shape(x), jax.dtypes.float0)
    for x, real in zip(leaves, signature.is_float, strict=True)
  ]
  primals = signature.arguments(leaves)
  y, y_dot = f_jvp(primals, jax.tree.unflatten(signature.structure, tangents))
  outputs = zip(jax.tree.leaves(y), jax.tree.leaves(y_dot), strict=True)
  return [jnp.asarray(d) for o, d in outputs if is_float(jnp.asarray(o).dtype)]


def reference_tangents(problem: Problem, *inputs: Any) -> Leaves:
  """Return the tangents of the function whose derivative is meant, without its rules."""
  count, floats = len(problem.signature.names), problem.signature.floats
  leaves = inputs[:count]
  stripped = without_rules(problem.rule.differentiated, *leaves)

  def reference(*own: Any) -> Leaves:
    return float_arrays(stripped(*replaced(leaves, floats, own)))

  return list(jax.jvp(reference, [leaves[i] for i in floats], list(inputs[count:]))[1])
