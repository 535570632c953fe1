"""The cause of a wrong gradient: the first known fault that reproduces its numbers.

This is mutation testing in reverse. Known faults (mutants) are planted in the reference's own
backward pass, one after the other, and the first that reproduces the rule's numbers, entry by
entry, is the cause. Patterns of the one leaf come first: a factor, a transpose, a clip. Then the
reference is traced and its backward sweep altered at each step (`tape`): a path cut, a cotangent
rounded, a derivative taken elsewhere. A sweep is linear in cotangents, so that thousands of mutants
can be screened by inner products, and few are pulled back (`matching`).

Simple mutants precede specific ones, and mutants with a free parameter come last, since a free
parameter can fit the effect of another fault. The order is `ORDER`. To add a cause, write a
function in the module of its kind (`patterns` of the leaf alone, `cotangents`, `residuals` or
`activations` of the sweep), and a line there.

A misleading cause is worse than none. So a cause must also hold at two other points, of redrawn
arguments and another cotangent, with the same free numbers: what was a constant at one point only
is none. And errors that are merely of the size of a dtype's rounding must change at random when the
arguments move a little, as rounding does and a formula doesn't.

Doubts: a cause is a hypothesis that fits three points within rounding, not a proof. Two
simultaneous faults fit no mutant but a pair of paths. Where several mutants give the same numbers,
as at points where their difference vanishes, the first is named. A time budget ends the search, so
that its result depends on the speed of the machine.

References:
  DeMillo, Lipton, Sayward, "Hints on test data selection", IEEE Computer 11 (1978).
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import without_rules
from fbackprop.verify.explain import activations, cotangents, patterns, residuals
from fbackprop.verify.explain.cotangents import on_paths
from fbackprop.verify.explain.one_step import find_edit
from fbackprop.verify.explain.search import Facts, Search
from fbackprop.verify.interpret.evaluation import Noise
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report import RuleError
from fbackprop.verify.witnesses.arrays import redrawn, relabelled
from fbackprop.verify.witnesses.rule import Leaves, Signature, with_float0
from fbackprop.verify.witnesses.traces import Setting, evaluate
from fbackprop.verify.witnesses.verdicts import Difference, compare

# Arguments of more numbers are not searched.
MOST_NUMBERS = 2_000_000
UNKNOWN = "no known pattern"
# The seed of each other point, and the additional time for them, in seconds.
OTHERS = (11, 13)
OTHERS_S = 2.0
# The time limit of the search for an edit of the rule's own program, in seconds.
EDITS_S = 1.0
# Moved by so many times their relative size, errors of rounding are others; above this correlation
# they are the same.
MOVES, MOST_CORRELATED = 32.0, 0.7

# The order in which causes are tried: patterns of the leaf alone, and mutants of the sweep. In each
# row, a mutant that explains all leaves precedes those that explain the wrong one alone.
ORDER: tuple[tuple[Callable[[Search], Iterable[Any]], ...], ...] = (
  (patterns.plain_patterns, patterns.shuffled),
  (cotangents.output_cotangents,),
  (patterns.any_factor,),
  (
    activations.slopes_at_kinks, residuals.conditions, activations.other_activations,
    cotangents.stop_gradients, partial(on_paths, cotangents.cut), residuals.scan_mutants,
    partial(on_paths, partial(cotangents.left_out, axes=slice(0, 1))),
    partial(on_paths, cotangents.beyond_thresholds),
    partial(on_paths, partial(cotangents.left_out, axes=slice(1, None))),
    activations.other_points, residuals.other_operands, partial(on_paths, cotangents.altered),
    activations.at_outputs, cotangents.untransposed_steps, cotangents.pairs_of_paths,
    partial(on_paths, cotangents.exchanged, times=4), partial(on_paths, cotangents.multiplied),
    residuals.recomputed, residuals.other_masks, cotangents.rounded_products,
  ),
  (patterns.last_patterns,),
  (cotangents.weighted_paths, cotangents.weighted_examples),  # With a free parameter.
  (patterns.blank_slices,),
)  # fmt: skip


def find_cause(
  reference: Callable[..., Any],
  args: tuple[Any, ...],
  y_bar: Any,
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  bounds: Sequence[np.ndarray],
  leaf: int,
  *,
  others: Sequence[Facts] | None = None,
  budget_s: float = 3.0,
) -> str:
  """Name the cause of a wrong gradient.

  Args:
    reference: `reference(*args) -> y`, differentiable in float64, without custom VJPs.
    args: pytrees of arrays.
    y_bar: cotangents of y.
    got, want: cotangents of the float leaves of `args`, in order.
    bounds: the bounds of |got − want|.
    leaf: the index of the leaf to explain, the first wrong one.
    others: the same at other points, where a cause must hold too; there is none without a point.
      None where one point is enough.
    budget_s: the time limit of the search in seconds.

  Returns:
    "kind: detail", the kind being one of `KINDS`; "no known pattern" where nothing fits.

  Example:
    >>> x = np.arange(3.0)
    >>> find_cause(lambda x: x**2, (x,), np.ones(3), [x], [2 * x], [np.full(3, 1e-15)], 0)
    'constant factor: 1/2 (match 0e+00)'
  """
  until = time.thread_time() + budget_s
  if not np.isfinite(want[leaf]).all():
    return UNKNOWN
  if not np.isfinite(got[leaf]).all():
    return "not finite: the rule's numbers, where the true ones are finite"

  def elsewhere() -> list[Search]:
    return [Search(reference, *point, leaf, until + OTHERS_S) for point in others or ()]

  search = Search(
    reference, args, y_bar, got, want, bounds, leaf, until, None if others is None else elsewhere
  )
  with jax.enable_x64(True), np.errstate(all="ignore"):
    found = filter(None, map(search.first, ORDER))
    return next(found, None) or patterns.looks_rounded(search) or UNKNOWN


def cause_of(at: Setting, differences: Sequence[Difference], leaf: int) -> str:
  """Return the cause of a wrong leaf, as `find_cause`; "" where the arguments are too large.

  Args:
    at: the programs and the point.
    differences: the differences of all float leaves.
    leaf: the index of the wrong leaf.
  """
  if sum(np.size(x) for x in at.leaves) > MOST_NUMBERS:
    return ""
  rule = at.witnesses.source
  points = [point for seed in OTHERS if (point := other_point(at, leaf, seed)) is not None]
  with jax.enable_x64(True):
    stripped = without_rules(rule.forward, *wide(at.leaves))

    def reference(*args: Any) -> Any:
      return jax.tree.unflatten(rule.out_structure, stripped(*jax.tree.leaves(args)))

    others = [facts(*point) for point in points]
    found = find_cause(reference, *facts(at, differences), leaf, others=others)
  if found == UNKNOWN or found.startswith(patterns.ROUNDING):
    found = find_edit((at, differences), points, leaf, EDITS_S) or found
  if found.startswith(patterns.ROUNDING) and not is_rounding(at, differences[leaf]):
    return UNKNOWN
  return with_names(found, at.witnesses.signature)


def with_names(cause: str, signature: Signature) -> str:
  """Call arguments by their names; behind them, a program's inputs are the output's cotangents."""
  names = signature.names
  floats = [names[i] for i in signature.floats]
  cause = re.sub(r"float leaf (\d+)", lambda found: floats[int(found[1])], cause)

  def input_of(found: re.Match[str]) -> str:
    place = int(found[1])
    return names[place] if place < len(names) else "y_bar"

  return re.sub(r"argument leaf (\d+)", input_of, cause)


def wide(leaves: Sequence[Any]) -> Leaves:
  """Return the leaves as arrays of JAX, floats in float64."""
  return [jnp.asarray(x) for x in leaves]


def facts(at: Setting, differences: Sequence[Difference]) -> Facts:
  """Return the rule's numbers at a point, as trees of arrays in float64."""
  rule = at.witnesses.source
  tree = jax.tree.unflatten(rule.out_structure, with_float0(rule.outputs, at.y_bar))
  got, want, bounds = zip(*((d.got, d.want, d.bound) for d in differences), strict=True)
  args = jax.tree.unflatten(rule.signature.structure, wide(at.leaves))
  return Facts(args, tree, got, want, bounds)


# --- Other points ---------------------------------------------------------------------------------


def other_point(at: Setting, leaf: int, seed: int) -> tuple[Setting, Sequence[Difference]] | None:
  """Return another point where the leaf is wrong, with all differences; None if there is none.

  The arguments are redrawn; or permuted, where the fault needs their zeros, ties or sizes; or else
  only the cotangent is another.
  """
  rng = np.random.default_rng(seed)
  y_bar = [redrawn_bar(rng, bar) for bar in at.y_bar]
  for change in (redrawn, permuted, None):
    leaves = [another(rng, x, change) for x in at.leaves] if change else at.leaves
    other = Setting(at.witnesses, leaves, y_bar)
    differences = differences_at(other)
    if differences and differences[leaf].is_wrong.any():
      d = differences[leaf]
      if np.isfinite(d.got).all() and np.isfinite(d.want).all():
        return other, differences
  return None


def differences_at(at: Setting) -> list[Difference]:
  """Return the differences of all leaves at a point; none where f or the rule isn't defined."""
  try:
    values = evaluate(at, Noise(3))
  except RuleError:
    return []
  if not values.is_finite or values.bars_want is None:
    return []
  return compare(values.bars, values.bars_want, 1.0, False)


def another(rng: np.random.Generator, x: Any, change: Callable[..., np.ndarray]) -> Any:
  """Return another argument of the same kind."""
  return change(rng, np.asarray(x)) if is_float(x.dtype) else relabelled(rng, x)


def permuted(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Permute the entries of each row alike, or of a vector."""
  return x[..., rng.permutation(x.shape[-1])] if x.ndim else x


def redrawn_bar(rng: np.random.Generator, bar: np.ndarray) -> np.ndarray:
  """Draw another cotangent of the same size."""
  size = float(np.sqrt(np.mean(np.square(bar)))) if np.size(bar) else 0.0
  return np.asarray(size * rng.normal(size=np.shape(bar)))


def is_rounding(at: Setting, d: Difference) -> bool:
  """Return whether a leaf's errors become others when everything moves a little."""
  rng = np.random.default_rng(12)
  error = d.got - d.want
  share = MOVES * float(np.linalg.norm(error) / np.linalg.norm(d.want))

  def moved(x: Any) -> Any:
    return x * (1 + share * rng.normal(size=np.shape(x))) if is_float(x.dtype) else x

  near = Setting(at.witnesses, [moved(x) for x in at.leaves], [moved(b) for b in at.y_bar])
  differences = differences_at(near)
  if not differences:
    return False
  other = differences[d.leaf].got - differences[d.leaf].want
  size = float(np.linalg.norm(error) * np.linalg.norm(other))
  return size > 0 and abs(float(np.vdot(error, other))) < MOST_CORRELATED * size
