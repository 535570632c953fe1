"""Why a gradient is wrong: the first known slip that reproduces its numbers.

Patterns of the one leaf come first, then alterations of the reference's backward sweep, the simpler
before the more particular. Each is a concrete array, held against every entry.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import numpy as np

from fbackprop.verify.explain import (
  cotangents,
  kinks,
  operands,
  paths,
  points,
  recomputation,
  rounding,
  scans,
  subsets,
)
from fbackprop.verify.explain.matching import Matcher, tolerance_of
from fbackprop.verify.explain.patterns import Problem, find_factor, find_last, find_pattern
from fbackprop.verify.explain.rearrangement import find_blank_slices, find_rearrangement
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.primitives import is_float

UNKNOWN = "no known pattern"
Stages = tuple[Callable[..., Iterator[Any]], ...]


def find_cause(
  reference: Callable[..., Any],
  args: tuple[Any, ...],
  y_bar: Any,
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  bounds: Sequence[np.ndarray],
  leaf: int,
  *,
  parts: Any = None,
  budget_s: float = 3.0,
) -> str:
  """Names the cause of a wrong gradient.

  Args:
    reference: `reference(*args) -> y`, differentiable in float64, without custom VJPs.
    args: pytrees of arrays.
    y_bar: cotangents of y.
    got, want: cotangents of the float leaves of `args`, in order.
    bounds: what |got − want| may be.
    leaf: the number of the leaf that is to be explained, the first wrong one.
    parts: not read.
    budget_s: the search is given up after this many seconds.

  Returns:
    "kind: detail", the kind being one of `KINDS`; "no known pattern" where nothing fits.

  Example:
    >>> x = np.arange(3.0)
    >>> find_cause(lambda x: x**2, (x,), np.ones(3), [x], [2 * x], [np.full(3, 1e-15)], 0)
    'constant factor: 1/2 (match 0e+00)'
  """
  until = time.monotonic() + budget_s
  leaves = jax.tree.leaves(args)
  floats = [x for x in leaves if is_float(x.dtype)]
  if not np.isfinite(got[leaf]).all():
    is_true = np.isfinite(want[leaf]).all()
    return "not finite: the rule's numbers, where the true ones are finite" if is_true else UNKNOWN
  if not np.isfinite(want[leaf]).all():
    return UNKNOWN
  problem = problem_of(args, y_bar, floats, got, want, bounds, leaf)
  found = find_pattern(problem) or find_rearrangement(problem)
  if found is None:
    with suppress(TimeoutError), jax.enable_x64(True), np.errstate(all="ignore"):
      found = find_edit(reference, args, y_bar, problem, got, want, bounds, leaf, until)
  if found is None:
    batch = batch_of(args, y_bar)
    found = find_factor(problem) or find_last(problem) or find_blank_slices(problem, batch)
  return found or rounding.looks_rounded(problem.got - problem.want, problem.want) or UNKNOWN


def find_edit(
  reference: Callable[..., Any],
  args: tuple[Any, ...],
  y_bar: Any,
  problem: Problem,
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  bounds: Sequence[np.ndarray],
  leaf: int,
  until: float,
) -> str | None:
  """The alteration of the backward sweep that explains the numbers, or None."""
  leaves, structure = jax.tree.flatten(args)

  def flat(*given: Any) -> list[Any]:
    return jax.tree.leaves(reference(*jax.tree.unflatten(structure, given)))

  bars = [b if is_float(b.dtype) else None for b in jax.tree.leaves(y_bar)]
  tape = Tape(flat, leaves, bars, until)
  matcher = Matcher(tape, leaf, got, want, bounds)
  own = matcher.wants()[leaf]
  # A program that isn't the one whose gradient is wanted would explain nothing.
  if not (np.abs(own - problem.want) <= 1e-9 * np.max(np.abs(problem.want), initial=0.0)).all():
    return None
  early: Stages = (cotangents.output_cotangents,)
  stages: Stages = (
    kinks.slopes_at_kinks,
    operands.conditions,
    points.other_activations,
    paths.stop_gradients,
    partial(paths.cut_paths, sizes=problem.sizes),
    scans.scan_slips,
    subsets.left_out,
    subsets.beyond_thresholds,
    partial(subsets.left_out, is_first=False),
    points.other_points,
    operands.other_operands,
    cotangents.inner_cotangents,
    points.everywhere,
    cotangents.untransposed_steps,
    paths.pairs_of_paths,
    cotangents.others_cotangents,
    cotangents.multiplied_cotangents,
    recomputation.recomputed,
    operands.other_masks,
    rounding.rounded_products,
  )
  # What has a number that is free can explain by it what has another reason.
  loose: Stages = (
    partial(paths.cut_paths, sizes=problem.sizes, is_free=True),
    subsets.weighted_examples,
  )
  return (
    first_of(matcher, early, until)
    or find_factor(problem)
    or first_of(matcher, stages, until)
    or find_last(problem)
    or first_of(matcher, loose, until)
  )


def first_of(matcher: Matcher, stages: Stages, until: float) -> str | None:
  """The first alteration that explains all leaves, else the first that explains this one."""
  partly: list[str] = []
  for stage in stages:
    try:
      found = matcher.first(stage(matcher))
    except TimeoutError:
      break
    if found is not None and found not in matcher.partial:
      return found
    partly += matcher.partial
    matcher.partial = []
    if time.monotonic() > until:
      break
  return partly[0] if partly else None


def problem_of(
  args: tuple[Any, ...],
  y_bar: Any,
  floats: Sequence[Any],
  got: Sequence[np.ndarray],
  want: Sequence[np.ndarray],
  bounds: Sequence[np.ndarray],
  leaf: int,
) -> Problem:
  """The wrong leaf, with what may explain it."""
  shape = want[leaf].shape
  others = tuple(
    (f"float leaf {i}", got[i], w, np.asarray(floats[i]))
    for i, w in enumerate(want)
    if i != leaf and w.shape == shape
  )
  tolerance = tolerance_of(got[leaf], want[leaf], bounds[leaf])
  parameter = np.asarray(floats[leaf])
  return Problem(got[leaf], want[leaf], tolerance, parameter, sizes_of(args, y_bar, leaf), others)


def batch_of(args: tuple[Any, ...], y_bar: Any) -> int | None:
  """The number of examples: the first axis of y, else of the last argument with an axis."""
  shapes = [np.shape(b) for b in jax.tree.leaves(y_bar)]
  shapes += [np.shape(x) for x in jax.tree.leaves(args)[::-1]]
  return next((shape[0] for shape in shapes if shape), None)


def sizes_of(args: tuple[Any, ...], y_bar: Any, leaf: int) -> tuple[tuple[str, int], ...]:
  """Dimensions that may stand in a factor; N is the first axis of y, or what most arrays share."""
  batch = batch_of(args, y_bar)
  found = {} if batch is None else {batch: "N"}
  leaves = jax.tree.leaves(y_bar) + [x for x in jax.tree.leaves(args) if hasattr(x, "shape")]
  for x in leaves:
    for n in np.shape(x):
      found.setdefault(n, f"D{len(found)}" if len(found) else "N")
  for x in leaves:
    if np.ndim(x) > 1:
      found.setdefault(int(np.prod(np.shape(x))), f"S{len(found)}")
  return tuple((name, n) for n, name in found.items())[:12]
