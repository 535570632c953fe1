"""Branch coverage: inputs that put values on both sides of each comparison of rule and function.

A rule may be wrong in one branch alone: a clip that no random gradient reaches, a mask for x > 3, a
special case of one label. The method is that of dynamic symbolic ("concolic") testing, with
gradients in the place of a constraint solver. The traced programs contain every comparison; the
test points are run and the outcome of each comparison is recorded. Comparisons with a single
outcome are then negated: by scaling the cotangent, and by Newton steps along the gradient of the
difference of the two sides, with inputs scaled to their size. Integers are set to the constants
they are compared with, and to the neighbours of these; floats to the constants they are tested for
equality with.

Doubts: comparisons inside of loops are left to scaling and to chance; each comparison is negated by
itself, so that a branch behind two of them may stay uncovered; a vanishing gradient, or a gap that
Newton's method doesn't close in eight steps, ends the search. The report counts the comparisons
that remain one-sided.

References:
  Godefroid, Klarlund, Sen, "DART: directed automated random testing", PLDI 2005.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import Place, Program, bind, evaluate_flat, flat, interpret, read_by, shape_of
from fbackprop.verify.checks.evidence import Evidence, Problem, not_checked
from fbackprop.verify.checks.maths import check_point
from fbackprop.verify.checks.test_points import Point
from fbackprop.verify.interpret import evaluation, primitives
from fbackprop.verify.witnesses.arrays import is_fixed, is_integer, is_symmetric
from fbackprop.verify.witnesses.rule import Leaves, replaced
from fbackprop.verify.witnesses.traces import Witnesses, in_float64

# The largest number of comparisons that are searched for, by level.
MOST_SITES = {"standard": 24, "large": 3, "deep": 200}
SCALES = (8.0, 64.0, 4096.0, 1 / 64)
NEWTON_STEPS = 8
# The largest number of compared integers that are tried.
MOST_NUMBERS = 12
ORDERS = ("lt", "le", "gt", "ge")


def check_branches(problem: Problem) -> Iterator[Evidence]:
  """Check the mathematics on the other side of every comparison."""
  coverage = Coverage(problem.witnesses)
  coverage.run(problem.leaves, problem.y_bar)
  for point in problem.test_points:
    if not point.only_finite:
      coverage.run(point.leaves, problem.y_bar if point.y_bar is None else point.y_bar)
  points = list(search(coverage, problem))
  sides, left = 2 * len(coverage.outcomes), len(coverage.one_sided)
  if left_out := coverage.numbers[MOST_NUMBERS:]:
    yield not_checked(f"branches: integers of {', '.join(map(str, left_out[:8]))}, ...")
  for site, outcomes in coverage.integer_outcomes.items():
    if len(outcomes) < 2:
      name = coverage.names[site]
      yield not_checked(f"branches: the other side of a comparison of integers, {name}")
  detail = (("branches", f"of {sides} sides of comparisons"),) if sides else ()
  yield Evidence(checks=("branches",) * (sides - left), details=detail)
  for point in points:
    yield from check_point(problem, problem.witnesses, point)


def of_inputs(witnesses: Witnesses) -> Program:
  """Trace the function's own program with the inputs of the rule's, where autodiff is missing."""
  forward, count = witnesses.forward, len(witnesses.forward.in_avals)
  return jax.make_jaxpr(lambda *own: evaluate_flat(forward, False, *own[:count]))(
    *map(shape_of, witnesses.rule.in_avals)
  )


class Coverage:
  """The outcomes observed of every comparison.

  The first number of a site is its program's: 0 is the rule, 1 autodiff of the function, which
  contains the function's own comparisons.
  """

  def __init__(self, witnesses: Witnesses) -> None:
    self.working = witnesses.signature.working
    with in_float64(witnesses.is_wide):
      both = (witnesses.rule, witnesses.truth or of_inputs(witnesses))
      self.programs = [flat(p, keep_rules=False) for p in both]
    # What a program computes from its comparisons needn't be evaluated.
    self.compared = [
      [v for e in p.jaxpr.eqns if evaluation.is_watched(e.primitive.name) for v in e.outvars]
      for p in self.programs
    ]
    self.outcomes: dict[Place, set[str]] = {}
    self.names: dict[Place, str] = {}
    self.integers: set[tuple[int, int]] = set()  # (number, leaf)
    self.floats: set[float] = set()
    self.integer_outcomes: dict[Place, set[bool]] = {}

  def record(self, i: int, place: Place, name: str, a: np.ndarray, b: np.ndarray) -> None:
    """Record the outcomes of one comparison of program i, and the constants to try."""
    site = (i, *place)
    is_equality = name in ("eq", "ne") and 1 in (a.size, b.size)
    # The largest entry and the runner-up have one order only.
    if a.dtype.kind == "f" and name not in ("reduce_max", "reduce_min"):
      constant = float((b if b.size == 1 else a).reshape(-1)[0]) if is_equality else np.inf
      self.floats |= {constant} if np.isfinite(constant) else set()
      self.names[site] = name
      # At zero both branches often agree, as those of |x| < 1e-5 do, so zero covers neither branch.
      counts = (a != 0) | (b == 0)
      sides = {"above": (a > b) & counts, "below": (a < b) & counts}
      seen = {outcome for outcome, where in sides.items() if np.any(where)}
      self.outcomes.setdefault(site, set()).update(seen)
    elif a.dtype.kind in "iu" and is_equality:
      self.note(site, {int(x.reshape(-1)[0]) for x in (a, b) if x.size == 1})
    elif a.dtype.kind in "iu" and name in ORDERS and (name != "lt" or b.any()):
      self.names[site] = name  # Indexing emits i < 0.
      if site[0] == 1 and len(site) == 2 and 1 in (a.size, b.size):
        self.note(site, numbers_at_edge(name, a, b))
      found = np.unique(primitives.COMPARISONS[name](a, b)).tolist()
      self.integer_outcomes.setdefault(site, set()).update(found)

  def note(self, site: Place, values: set[int]) -> None:
    """Record integers to try in the integer leaves that a comparison depends on."""
    program = self.programs[site[0]]
    for leaf in read_by(program, site[1]):
      dtype = program.in_avals[leaf].dtype
      if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        self.integers |= {(v, leaf) for v in values if limits.min <= v <= limits.max}

  def run(self, leaves: Sequence[Any], y_bar: Sequence[Any]) -> bool:
    """Evaluate both programs at a point; return whether any comparison had a new outcome."""
    known = sum(map(len, self.outcomes.values()))
    for i, (program, compared) in enumerate(zip(self.programs, self.compared, strict=True)):
      if compared:
        evaluator = evaluation.Evaluator(self.working, watch=partial(self.record, i))
        evaluator.run_to(program, [*leaves, *y_bar], compared)
    return sum(map(len, self.outcomes.values())) > known

  @property
  def numbers(self) -> list[int]:
    """The integers that appear in comparisons, and their neighbours, in order."""
    return sorted({value for value, _ in self.integers})

  @property
  def one_sided(self) -> list[tuple[Place, str]]:
    """The comparisons with a single outcome so far, each with its missing outcome."""
    found = [(site, seen) for site, seen in self.outcomes.items() if len(seen) < 2]
    return [(site, "below" if "above" in seen else "above") for site, seen in found]


def numbers_at_edge(name: str, a: np.ndarray, b: np.ndarray) -> set[int]:
  """Return the two numbers between which the outcome changes, on the compared side."""
  found: set[int] = set()
  for x, is_below in ((b, name in ("lt", "ge")), (a, name in ("gt", "le"))):
    if x.size == 1:
      lower = int(x.reshape(-1)[0]) - is_below
      found |= {lower, lower + 1}
  return found


def search(coverage: Coverage, problem: Problem) -> Iterator[Point]:
  """Yield points at which comparisons have new outcomes, searching for some of them."""
  leaves, y_bar = problem.leaves, problem.y_bar
  # A rule that isn't meant to be linear is compared at its own small cotangents alone.
  for factor in SCALES if coverage.one_sided and problem.linear else ():
    bars = [b * factor for b in y_bar]
    if coverage.run(leaves, bars):
      yield Point(f"cotangent times {factor:g}", leaves, y_bar=bars)
  for value in coverage.numbers[:MOST_NUMBERS]:
    own = [
      with_value(x, value) if is_integer(x) and x.size and (value, i) in coverage.integers else x
      for i, x in enumerate(leaves)
    ]
    coverage.run(own, y_bar)
    yield Point(f"some integers {value}", own)
  for number in sorted(coverage.floats)[:8]:
    own = [with_value(x, number) if is_free(x) else x for x in leaves]
    yield Point(f"some entries {number:g}", own)
  tried, most = 0, MOST_SITES["large" if problem.is_large else problem.level]
  for site, side in coverage.one_sided:
    # Comparisons inside of loops aren't targets; others have been covered meanwhile.
    is_outermost = len(site) == 2 + (coverage.names[site] == "clamp")
    if is_outermost and tried < most and len(coverage.outcomes[site]) < 2:
      tried += 1
      inputs = crossing(coverage, site, [*leaves, *y_bar], side)
      own, bars = inputs[: len(leaves)], inputs[len(leaves) :]
      is_meant = problem.linear or all(map(np.array_equal, bars, y_bar))
      if inputs and is_meant and coverage.run(own, bars):
        yield Point(f"{coverage.names[site]} {side}, for the first time", own, y_bar=bars)


def is_free(x: Any) -> bool:
  """Return whether an array is of floats that may have any value."""
  return primitives.is_float(x.dtype) and x.size > 0 and not is_fixed(x) and not is_symmetric(x)


def with_value(x: Any, value: float) -> Any:
  """Replace every third entry."""
  found = np.array(x)
  found.flat[::3] = value
  return found


def crossing(coverage: Coverage, site: Place, inputs: list[Any], side: str) -> list[np.ndarray]:
  """Move the inputs by Newton steps until one entry of a comparison crosses to the other side.

  Returns:
    The inputs; none if the search fails.
  """
  try:
    program, moving = gap_and_gradient(coverage.programs[site[0]], site[1:])
  except Exception:  # The search needs a differentiable rule.
    return []
  evaluator = evaluation.Evaluator(coverage.working)
  sign = 1.0 if side == "above" else -1.0
  point = list(inputs)
  gap = evaluator.run(program, [*point, np.zeros(program.in_avals[-1].shape)])[0][0]
  usable = np.isfinite(gap)
  if not usable.any():
    return []
  # The entry nearest to its edge needs the shortest step.
  entry = np.unravel_index(int(np.argmin(np.where(usable, np.abs(gap), np.inf))), gap.shape)
  weight = np.zeros(gap.shape)
  weight[entry] = 1.0
  for _ in range(NEWTON_STEPS):
    out = evaluator.run(program, [*point, weight])
    gap, bound, grads = out[0][0], out[1][0], [g[0] for g in out[2:]]
    if sign * gap[entry] > 0:
      return point
    sizes = [rms(point[i]) for i in moving]
    with np.errstate(invalid="ignore"):  # An argument that isn't finite has no step.
      power = sum(float((s * g * s * g).sum()) for s, g in zip(sizes, grads, strict=True))
    if not (np.isfinite(power) and power > 0):
      break
    # A little beyond the edge, so that rounding can't undo the crossing.
    margin = 0.05 * abs(gap[entry]) + 1e-3 * (abs(bound[entry]) or 1e-3)
    # The Newton step of least norm, in inputs scaled to their size, and a tenth longer.
    length = (sign * margin - gap[entry]) * 1.1 / power
    for i, s, g in zip(moving, sizes, grads, strict=True):
      point[i] = np.asarray(point[i] + length * s * s * g)
  return []


def rms(x: np.ndarray) -> float:
  """Return the root mean square, or 1 for zeros."""
  return (float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0) or 1.0


def gap_and_gradient(program: Program, site: Place) -> tuple[Program, list[int]]:
  """Trace the gap between a comparison's sides, and the gradient of one of its entries.

  Returns:
    (program, the float inputs that it is differentiated with respect to).
  """
  eqn = program.jaxpr.eqns[site[0]]
  edge = site[-1]  # 0 is a clamp's lower edge, 1 its upper one.
  shape = eqn.outvars[0].aval.shape
  moving = [i for i, a in enumerate(program.in_avals) if primitives.is_float(a.dtype)]

  def apply(_: int, equation: Any, values: Leaves) -> Leaves:
    return bind(equation.primitive, equation.params, values)

  def gap(movable: Leaves, own: Leaves, weight: Any) -> Any:
    inputs = replaced(own, moving, movable)
    sides = interpret(program, inputs, lambda value, _: value, apply, eqn.invars)
    if eqn.primitive.name == "clamp":
      sides = [sides[1], sides[2 * edge]]
    a, b = [*sides, jnp.zeros_like(sides[0])][:2]
    difference, bound = (jnp.broadcast_to(x, shape) for x in (jnp.subtract(a, b), b))
    return (weight * difference).sum(), [difference, bound]

  def both(*inputs: Any) -> Leaves:
    *own, weight = inputs
    grads, found = jax.grad(gap, has_aux=True)([own[i] for i in moving], own, weight)
    return found + grads

  with jax.enable_x64(True):
    avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in program.in_avals]
    dtype = eqn.invars[0].aval.dtype
    traced = jax.make_jaxpr(both)(*avals, jax.ShapeDtypeStruct(shape, dtype))
    return flat(traced, keep_rules=False), moving
