"""The cause of a wrong gradient: the first known fault that reproduces its numbers.

This is mutation testing in reverse. Known faults (mutants) are planted in the reference's own
backward pass, one after the other, and the first that reproduces the rule's numbers, entry by
entry, is the cause. Patterns of the one leaf come first: a factor, a transpose, a clip. Then the
reference is traced and its backward sweep altered at each step (`tape`): a path cut, a cotangent
rounded, a derivative taken elsewhere. A sweep is linear in cotangents, so that thousands of mutants
can be screened by inner products, and few are pulled back (`matching`).

Simple mutants precede specific ones, and mutants with a free parameter come last, since a free
parameter can fit the effect of another fault. The order is `ORDER`; a new cause is a function in
the module of its kind, and a line there.

Doubts: a cause is a hypothesis that fits one point within rounding, not a proof. Two simultaneous
faults fit no mutant but a pair of paths. Where several mutants give the same numbers, as at a point
where their difference vanishes, the first is named. A time budget ends the search, so that its
result depends on the speed of the machine.

References:
  DeMillo, Lipton, Sayward, "Hints on test data selection", IEEE Computer 11 (1978).
"""

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
from fbackprop.verify.explain.search import Search
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.witnesses.rule import with_float0
from fbackprop.verify.witnesses.traces import Setting
from fbackprop.verify.witnesses.verdicts import Difference

# Arguments of more numbers are not searched.
MOST_NUMBERS = 2_000_000
UNKNOWN = "no known pattern"

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
    budget_s: the time limit of the search in seconds.

  Returns:
    "kind: detail", the kind being one of `KINDS`; "no known pattern" where nothing fits.

  Example:
    >>> x = np.arange(3.0)
    >>> find_cause(lambda x: x**2, (x,), np.ones(3), [x], [2 * x], [np.full(3, 1e-15)], 0)
    'constant factor: 1/2 (match 0e+00)'
  """
  until = time.monotonic() + budget_s
  if not np.isfinite(want[leaf]).all():
    return UNKNOWN
  if not np.isfinite(got[leaf]).all():
    return "not finite: the rule's numbers, where the true ones are finite"
  search = Search(reference, args, y_bar, got, want, bounds, leaf, until)
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
  with jax.enable_x64(True):
    own = [jnp.asarray(x) if is_float(x.dtype) else x for x in at.leaves]
    stripped = without_rules(rule.forward, *own)

    def reference(*args: Any) -> Any:
      return jax.tree.unflatten(rule.out_structure, stripped(*jax.tree.leaves(args)))

    tree = jax.tree.unflatten(rule.out_structure, with_float0(rule.outputs, at.y_bar))
    args = rule.signature.arguments(own)
    got, want, bounds = zip(*((d.got, d.want, d.bound) for d in differences), strict=True)
    return find_cause(reference, args, tree, got, want, bounds, leaf)
