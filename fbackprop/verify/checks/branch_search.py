"""Inputs that put values on both sides of each comparison of the rule and of the function.

A clip that no random gradient reaches, a mask for x > 3, a branch for one label: where a rule or
the function takes another way, the rule may be wrong there alone. The traced programs show every
comparison in them. Those that came out one way in all regimes are looked for from the other side:
by scaling, and by Newton steps along the gradient of the difference of the two sides. Integers are
set to the numbers that the function compares them with, and to those beside.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import Program, read_by
from fbackprop.verify.checks.test_points import is_fixed, is_integer, is_symmetric
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.interpret.programs import evaluate_flat, flat
from fbackprop.verify.witnesses.arguments import Leaves
from fbackprop.verify.witnesses.traces import Witnesses

Place = tuple[Any, ...]
# For how many comparisons a search is made, by level.
MOST_SITES = {"standard": 24, "large": 3, "deep": 200}
SCALES = (8.0, 64.0, 4096.0, 1 / 64)
STEPS = 8
# So many numbers that integers are compared with are tried.
MOST_NUMBERS = 12


ORDERS = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}


def is_index_check(name: str, bound: np.ndarray) -> bool:
  """Whether it is i < 0, which indexing writes for indices from the end."""
  return name == "lt" and not bound.any()


def numbers_at_edge(name: str, a: np.ndarray, b: np.ndarray) -> set[int]:
  """The two numbers between which the answer changes; both are in the domain of who asks."""
  found: set[int] = set()
  for x, is_right in ((b, True), (a, False)):
    if x.size == 1:
      bound = int(x.reshape(-1)[0])
      lower = bound - 1 if (name in ("lt", "ge")) == is_right else bound
      found |= {lower, lower + 1}
  return found


class Coverage:
  """Which outcomes every comparison has had.

  A place begins with the program that it is in: 0 is the rule, 1 autodiff of the function, which
  goes through the function's own comparisons.
  """

  def __init__(self, witnesses: Witnesses) -> None:
    self.signature = witnesses.signature
    both = (witnesses.rule, witnesses.truth)
    with jax.enable_x64(True) if witnesses.is_wide else contextlib.nullcontext():
      self.programs = [flat(p, keep_rules=False) for p in both if p is not None]
    self.seen: dict[Place, set[str]] = {}
    self.names: dict[Place, str] = {}
    self.integers: set[tuple[int, int]] = set()  # A number, and the leaf it is for.
    self.floats: set[float] = set()
    self.integer_outcomes: dict[Place, set[bool]] = {}
    self.fresh = False

  def watch(self, place: Place, name: str, a: np.ndarray, b: np.ndarray) -> None:
    """Notes the outcomes of one comparison."""
    if a.dtype.kind != "f":
      if name in ("eq", "ne") and a.dtype.kind in "iu" and (b.size == 1 or a.size == 1):
        self.note(place, {int(v) for x in (a, b) if x.size == 1 for v in x.reshape(-1)})
      elif name in ORDERS and a.dtype.kind in "iu" and not is_index_check(name, b):
        self.names[place] = name
        if place[0] == 1 and len(place) == 2 and 1 in (a.size, b.size):
          self.note(place, numbers_at_edge(name, a, b))
        outcomes = np.unique(ORDERS[name](a, b)).tolist()
        self.integer_outcomes.setdefault(place, set()).update(outcomes)
      return
    if name in ("reduce_max", "reduce_min"):
      return  # The largest entry and the next one: there is no other side.
    if name in ("eq", "ne") and 1 in (a.size, b.size):
      constant = float((b if b.size == 1 else a).reshape(-1)[0])
      self.floats |= {constant} if np.isfinite(constant) else set()
    outcomes = self.seen.setdefault(place, set())
    self.names[place] = name
    # At zero both ways often agree, as those of |x| < 1e-5 do: that is no look at the other one.
    counts = (a != 0) | (b == 0)
    for outcome, found in (("above", (a > b) & counts), ("below", (a < b) & counts)):
      if outcome not in outcomes and np.any(found):
        outcomes.add(outcome)
        self.fresh = True

  def note(self, place: Place, values: set[int]) -> None:
    """Notes numbers for the leaves of integers that a comparison depends on."""
    program = self.programs[place[0]]
    for leaf in read_by(program, place[1]):
      dtype = program.in_avals[leaf].dtype
      if isinstance(dtype, np.dtype) and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        self.integers |= {(v, leaf) for v in values if limits.min <= v <= limits.max}

  def look(self, leaves: Sequence[Any], y_bar: Sequence[Any]) -> bool:
    """Evaluates both programs at a point; whether a comparison came out as it never had before."""
    self.fresh = False
    for i, program in enumerate(self.programs):

      def watch(place: Place, *sides: Any, i: int = i) -> None:
        self.watch((i, *place), *sides)

      Evaluator(self.signature.working, watch=watch).run(program, [*leaves, *y_bar])
    return self.fresh

  @property
  def numbers(self) -> list[int]:
    """The numbers that integers are compared with, and those beside, in order."""
    return sorted({value for value, _ in self.integers})

  @property
  def one_sided_integers(self) -> list[str]:
    """The primitives of comparisons of integers that were always true, or never."""
    found = [place for place, outcomes in self.integer_outcomes.items() if len(outcomes) < 2]
    return [self.names[place] for place in found]

  @property
  def one_sided(self) -> list[tuple[Place, str]]:
    """The comparisons that never came out the other way, and that way."""
    return [
      (place, "below" if "above" in outcomes else "above")
      for place, outcomes in self.seen.items()
      if len(outcomes) < 2
    ]


Point = tuple[str, Leaves, list[np.ndarray]]


def search(
  coverage: Coverage, leaves: Leaves, y_bar: list[np.ndarray], most: int
) -> tuple[list[Point], int]:
  """Points at which comparisons come out as they had not.

  Returns:
    (points, how many comparisons stay one-sided); a point is (name, leaves, y_bar).
  """
  points: list[Point] = []

  def try_point(name: str, own: Leaves, bars: list[np.ndarray]) -> None:
    if coverage.look(own, bars):
      points.append((name, own, bars))

  if coverage.one_sided:
    for factor in SCALES:
      try_point(f"cotangent times {factor:g}", leaves, [b * factor for b in y_bar])
  for value in coverage.numbers[:MOST_NUMBERS]:
    own = [
      with_value(x, value) if is_label(x) and (value, i) in coverage.integers else x
      for i, x in enumerate(leaves)
    ]
    coverage.look(own, y_bar)
    points.append((f"some integers {value}", own, y_bar))
  for number in sorted(coverage.floats)[:8]:
    own = [with_value(x, number) if is_free(x) else x for x in leaves]
    points.append((f"some entries {number:g}", own, y_bar))
  tried = 0
  for place, side in coverage.one_sided:
    if not is_outermost(coverage, place) or tried >= most:
      continue
    if len(coverage.seen[place]) == 2:
      continue  # Found meanwhile.
    tried += 1
    name = f"{coverage.names[place]} {side}, for the first time"
    inputs = [*leaves, *y_bar]
    found = cross(coverage.programs[place[0]], coverage.signature.working, place[1:], inputs, side)
    if found is not None:
      try_point(name, found[: len(leaves)], found[len(leaves) :])
  return points, len(coverage.one_sided)


def is_outermost(coverage: Coverage, place: Place) -> bool:
  """Whether a comparison isn't inside a loop: those are left to scaling and to chance."""
  return len(place) == 2 or (len(place) == 3 and coverage.names[place] == "clamp")


def is_label(x: Any) -> bool:
  return is_integer(x) and x.size > 0


def is_free(x: Any) -> bool:
  """Whether it holds floats that may be any."""
  return is_float(x.dtype) and x.size > 0 and not is_fixed(x) and not is_symmetric(x)


def with_value(x: Any, value: float) -> Any:
  """Every third entry replaced."""
  flat_x = np.array(x).reshape(-1)
  flat_x[::3] = value
  return flat_x.reshape(np.shape(x))


def cross(
  own_program: Program, working: Any, place: Place, inputs: list[Any], side: str
) -> list[np.ndarray] | None:
  """Moves the inputs until one entry of a comparison is on the other side; None if that fails."""
  try:
    program, moving = gap_and_gradient(own_program, place)
  except Exception:  # A rule that can't be differentiated can't be searched so.
    return None
  evaluator = Evaluator(working)
  sign = 1.0 if side == "above" else -1.0
  point = list(inputs)
  gap = evaluator.run(program, [*point, np.zeros(program.in_avals[-1].shape)])[0][0]
  usable = np.isfinite(gap)
  if not usable.any():
    return None
  entry = np.unravel_index(int(np.argmin(np.where(usable, np.abs(gap), np.inf))), gap.shape)
  weight = np.zeros(gap.shape)
  weight[entry] = 1.0
  for _ in range(STEPS):
    out = evaluator.run(program, [*point, weight])
    gap, bound, grads = out[0][0], out[1][0], [g[0] for g in out[2:]]
    if sign * gap[entry] > 0:
      return point
    sizes = [rms(point[i]) for i in moving]
    power = sum(float((s * g * s * g).sum()) for s, g in zip(sizes, grads, strict=True))
    if not (np.isfinite(power) and power > 0):
      return None
    # A little beyond, so that the point stands clear of the edge; at most by the edge's own size.
    margin = 0.05 * abs(gap[entry]) + 1e-3 * (abs(bound[entry]) or 1e-3)
    length = (sign * margin - gap[entry]) * 1.1 / power
    for i, s, g in zip(moving, sizes, grads, strict=True):
      point[i] = np.asarray(point[i] + length * s * s * g)
  return None


def rms(x: np.ndarray) -> float:
  """The size of what is moved; 1 of what is zero."""
  return (float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0) or 1.0


def gap_and_gradient(program: Program, place_of_equation: Place) -> tuple[Program, list[int]]:
  """The difference of a comparison's sides, and the gradient of one entry by the float inputs."""
  eqn = program.jaxpr.eqns[place_of_equation[0]]
  edge = place_of_equation[-1]  # Of a clamp: 0 for the lower one, 1 for the upper one.
  shape = eqn.outvars[0].aval.shape
  moving = [i for i, a in enumerate(program.in_avals) if is_float(a.dtype)]

  def gap(*own: Any) -> Any:
    found: list[Any] = []

    def stop(one: Any, values: list[Any], place: Place, compared: Any) -> list[Any] | None:
      if place == place_of_equation[:1]:
        sides = [*values, jnp.zeros_like(values[0])][:2]
        if one.primitive.name == "clamp":
          low, x, high = values
          sides = [x, low if edge == 0 else high]
        found.append([jnp.broadcast_to(x, shape) for x in (jnp.subtract(*sides), sides[1])])
        raise _FoundError
      return None

    with contextlib.suppress(_FoundError):
      evaluate_flat(program, False, *own, override=stop)
    return found[0]

  def both(*own: Any) -> list[Any]:
    rest, weight = own[:-1], own[-1]

    def along(*movable: Any) -> Any:
      full = list(rest)
      for i, value in zip(moving, movable, strict=True):
        full[i] = value
      difference, bound = gap(*full)
      return (weight * difference).sum(), (difference, bound)

    movable = [rest[i] for i in moving]
    _, pull, (difference, bound) = jax.vjp(along, *movable, has_aux=True)
    return [difference, bound, *pull(jnp.ones((), difference.dtype))]

  with jax.enable_x64(True):
    avals = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in program.in_avals]
    dtype = eqn.invars[0].aval.dtype
    traced = jax.make_jaxpr(both)(*avals, jax.ShapeDtypeStruct(shape, dtype))
    return flat(traced, keep_rules=False), moving


class _FoundError(Exception):
  """The equation that was looked for is reached."""
