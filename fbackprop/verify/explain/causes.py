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

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.explain import activations, cotangents, paths, residuals
from fbackprop.verify.explain.matching import Matcher, Numbers
from fbackprop.verify.explain.patterns import (
  WrongLeaf,
  any_factor,
  blank_slices,
  first_fit,
  last_patterns,
  looks_rounded,
  plain_patterns,
  rearranged,
  tolerance_of,
)
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.interpret.programs import without_rules
from fbackprop.verify.witnesses.comparison import Difference
from fbackprop.verify.witnesses.rule import with_float0
from fbackprop.verify.witnesses.traces import Setting

# Arguments of more numbers are not searched.
MOST_NUMBERS = 2_000_000
UNKNOWN = "no known pattern"

# The order in which causes are tried: patterns of the leaf alone, and mutants of the sweep.
ORDER: tuple[tuple[str, tuple[Callable[..., Iterator[Any]], ...]], ...] = (
  ("patterns", (plain_patterns, rearranged)),
  ("mutants", (cotangents.output_cotangents,)),
  ("patterns", (any_factor,)),
  ("mutants", (
    activations.slopes_at_kinks,
    residuals.conditions,
    activations.other_activations,
    paths.stop_gradients,
    paths.cut_paths,
    residuals.scan_mutants,
    cotangents.left_out_examples,
    cotangents.beyond_thresholds,
    cotangents.left_out_slices,
    activations.other_points,
    residuals.other_operands,
    cotangents.inner_cotangents,
    activations.at_outputs,
    cotangents.untransposed_steps,
    paths.pairs_of_paths,
    cotangents.others_cotangents,
    cotangents.multiplied_cotangents,
    residuals.recomputed,
    residuals.other_masks,
    paths.rounded_products,
  )),
  ("patterns", (last_patterns,)),
  ("mutants", (paths.weighted_paths, cotangents.weighted_examples)),  # With a free parameter.
  ("patterns", (blank_slices,)),
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
  if not np.isfinite(got[leaf]).all():
    is_true = np.isfinite(want[leaf]).all()
    return "not finite: the rule's numbers, where the true ones are finite" if is_true else UNKNOWN
  if not np.isfinite(want[leaf]).all():
    return UNKNOWN
  numbers = Numbers(got, want, bounds, leaf)
  wrong = wrong_leaf(args, y_bar, numbers)

  @functools.cache
  def matcher() -> Matcher | None:
    with suppress(TimeoutError):
      return matcher_of(reference, args, y_bar, numbers, wrong.sizes, until)
    return None

  with jax.enable_x64(True), np.errstate(all="ignore"):
    for kind, searchers in ORDER:
      if kind == "patterns":
        found = first_fit(wrong, *searchers)
      else:
        found = first_mutant(matcher(), searchers, until)
      if found is not None:
        return found
  return looks_rounded(wrong) or UNKNOWN


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

    tree = jax.tree.unflatten(rule.out_structure, with_float0(at.witnesses.outputs, at.y_bar))
    args = rule.signature.arguments(own)
    got, want, bounds = zip(*((d.got, d.want, d.bound) for d in differences), strict=True)
    return find_cause(reference, args, tree, got, want, bounds, leaf)


def matcher_of(
  reference: Callable[..., Any],
  args: tuple[Any, ...],
  y_bar: Any,
  numbers: Numbers,
  sizes: Sequence[tuple[str, int]],
  until: float,
) -> Matcher | None:
  """Trace the backward sweep; None if its program isn't that of the wrong gradient."""
  leaves, structure = jax.tree.flatten(args)

  def flat(*given: Any) -> list[Any]:
    return jax.tree.leaves(reference(*jax.tree.unflatten(structure, given)))

  bars = [b if is_float(b.dtype) else None for b in jax.tree.leaves(y_bar)]
  matcher = Matcher(Tape(flat, leaves, bars, until), numbers, sizes)
  want = numbers.want[numbers.leaf]
  error = np.abs(matcher.wants[numbers.leaf] - want)
  return matcher if (error <= 1e-9 * np.max(np.abs(want), initial=0.0)).all() else None


def first_mutant(
  matcher: Matcher | None, searchers: Sequence[Callable[..., Iterator[Any]]], until: float
) -> str | None:
  """Return the first mutant that explains all leaves, or else the first that explains this one."""
  partly: list[str] = []
  for searcher in searchers if matcher is not None else ():
    assert matcher is not None
    try:
      found = matcher.first(searcher(matcher))
    except TimeoutError:
      break
    if found is not None and found not in matcher.partial:
      return found
    partly += matcher.partial
    matcher.partial = []
    if time.monotonic() > until:
      break
  return partly[0] if partly else None


def wrong_leaf(args: tuple[Any, ...], y_bar: Any, numbers: Numbers) -> WrongLeaf:
  """Return the wrong leaf, with the data that may explain it."""
  got, want, bounds, leaf = numbers
  floats = [np.asarray(x) for x in jax.tree.leaves(args) if is_float(x.dtype)]
  others = tuple(
    (f"float leaf {i}", got[i], w, floats[i])
    for i, w in enumerate(want)
    if i != leaf and w.shape == want[leaf].shape
  )
  tolerance = tolerance_of(got[leaf], want[leaf], bounds[leaf])
  batch = batch_of(args, y_bar)
  sizes = sizes_of(args, y_bar, batch)
  return WrongLeaf(got[leaf], want[leaf], tolerance, floats[leaf], sizes, others, batch)


def batch_of(args: tuple[Any, ...], y_bar: Any) -> int | None:
  """Return the number of examples: the length of y, or else of the last argument with an axis."""
  shapes = [np.shape(b) for b in jax.tree.leaves(y_bar)]
  shapes += [np.shape(x) for x in jax.tree.leaves(args)[::-1]]
  return next((shape[0] for shape in shapes if shape), None)


def sizes_of(args: tuple[Any, ...], y_bar: Any, batch: int | None) -> tuple[tuple[str, int], ...]:
  """Return named dimensions that may occur in a factor; N is the batch size."""
  found = {} if batch is None else {batch: "N"}
  leaves = jax.tree.leaves(y_bar) + [x for x in jax.tree.leaves(args) if hasattr(x, "shape")]
  for x in leaves:
    for n in np.shape(x):
      found.setdefault(n, f"D{len(found)}" if len(found) else "N")
  for x in leaves:
    if np.ndim(x) > 1:
      found.setdefault(int(np.prod(np.shape(x))), f"S{len(found)}")
  return tuple((name, n) for n, name in found.items())[:12]
