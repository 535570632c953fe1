"""Which edits of a right rule are wrong: its numbers beside the right rule's, in plain NumPy.

An edit counts if it runs wherever the right rule does, returns the same shapes and dtypes, and
differs from the right rule by more than 1e-9 of the largest entry of a leaf, in float64, at one of
some points. The points are drawn here, with no code of the verifier: normal numbers, the given ones
moved, larger, smaller, integers drawn again, and arrays with other lengths. None has exact zeros or
ties, since several slopes are right at a kink. A point counts only where the right rule is finite
and equals autodiff of the function without a rule.

In forward mode a leaf's numbers are the output's tangents for a tangent of that leaf alone.
"""

import inspect
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.bank import Example
from scripts.campaigns.mutants.rules import Rule
from scripts.campaigns.mutants.sources import Function

TOLERANCE = 1e-9
# Autodiff of a function rounds otherwise than its rule.
TRUTH = 1e-6
# A rule that casts to float32 on the way is right to fewer digits, and no rule for float64.
DOUBLE = 1e-11
# Seconds that a mutant may take: an edit may turn a loop into an endless one.
MOST_SECONDS = 6

Numbers = list[np.ndarray | None]


class Point(NamedTuple):
  """Arguments in float64, what the right rule gives there, and the seed of the cotangent."""

  args: tuple[Any, ...]
  right: Numbers
  seed: int


class Yardstick(NamedTuple):
  """What the mutants of a rule are measured by.

  Attributes:
    leaves: the paths of the float leaves.
    shapes: the right rule's shapes and dtypes at the given arguments.
    points: the points that count.
    is_double: whether the rule is right to the digits of float64, at all of them.
  """

  leaves: tuple[str, ...]
  shapes: Any
  points: tuple[Point, ...]
  is_double: bool = True


def yardstick(rule: Rule) -> Yardstick:
  """Return what the mutants of a rule are measured by."""
  example = rule.build(rule.function)
  args = example.args
  shapes = shapes_of(numbers(rule, example, args, 0))
  points, is_double = [], True
  with jax.enable_x64(True), np.errstate(all="ignore"):
    for seed, drawn in enumerate(points_of(example, zlib.crc32(rule.name.encode()))):
      found = valid_numbers(rule, example, drawn, seed)
      if found is not None:
        right, truth = found
        points.append(Point(drawn, right, seed))
        is_double = is_double and not differing(truth, right, DOUBLE)
  return Yardstick(leaf_names(example), shapes, tuple(points), is_double)


def valid_numbers(
  rule: Rule, example: Example, args: Any, seed: int
) -> tuple[Numbers, Numbers] | None:
  """Return the right rule's numbers and autodiff's, where they are equal, else None."""
  try:
    right = numbers(rule, example, args, seed)
    truth = right if rule.reference is None else autodiff(rule, example, args, seed)
  except Exception:  # The function isn't defined there, or for such lengths.
    return None
  if not all(np.isfinite(x).all() for x in right if x is not None):
    return None
  return None if differing(truth, right, TRUTH) else (right, truth)


def wrong_leaves(rule: Rule, mutant: Function, by: Yardstick) -> tuple[str, ...] | None:
  """Return the leaves whose numbers an edit changes; () if it is equivalent, None if it is unfair.

  At the first point where any differ; the points begin with the given arguments.
  """
  try:
    with limited(MOST_SECONDS), np.errstate(all="ignore"):
      example = rule.build(mutant)
      if shapes_of(numbers(rule, example, example.args, 0)) != by.shapes:
        return None
      with jax.enable_x64(True):
        found = (
          differing(numbers(rule, example, point.args, point.seed), point.right, TOLERANCE)
          for point in by.points
        )
        first: set[int] = next(filter(None, found), set())
  except Exception:  # A mutant that raises is no fair one.
    return None
  return tuple(name for i, name in enumerate(by.leaves) if i in first)


def differing(got: Numbers, want: Numbers, tolerance: float) -> set[int]:
  """Return the leaves that differ by more than a share of their largest entry."""
  largest = max((float(np.max(np.abs(x), initial=0.0)) for x in want if x is not None), default=0.0)
  found = set()
  for i, (a, b) in enumerate(zip(got, want, strict=True)):
    if a is None and b is None:
      continue
    a, b = (np.zeros_like(b if x is None else x) if x is None else x for x in (a, b))
    scale = max(float(np.max(np.abs(b), initial=0.0)), 1e-6 * largest, 1e-12)
    if a.shape != b.shape or not bool(np.all(np.abs(a - b) <= tolerance * scale)):
      found.add(i)
  return found


@contextmanager
def limited(seconds: int) -> Iterator[None]:
  """Raise TimeoutError after so many seconds, in the main thread."""

  def stop(*_: Any) -> None:
    raise TimeoutError

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# --- The numbers of a rule ------------------------------------------------------------------------


def numbers(rule: Rule, example: Example, args: tuple[Any, ...], seed: int) -> Numbers:
  """Return the rule's cotangents of each float leaf, or the tangents that each leaf causes."""
  rng = np.random.default_rng(seed)
  if rule.mode == "jvp":
    push = example.f_jvp or (lambda primals, dots: tangents_of(example.f, primals, dots))
    return pushed(push, args, rng)
  if example.f_vjp is None:
    return pulled(example.f, args, rng)
  y, pullback = example.f_vjp(*args)
  return matched(args, pullback(cotangent(y, rng)))


def autodiff(rule: Rule, example: Example, args: tuple[Any, ...], seed: int) -> Numbers:
  """Return the same numbers by autodiff of the function without a rule."""
  assert rule.reference is not None
  reference, rng = rule.reference, np.random.default_rng(seed)
  if rule.mode == "jvp":
    return pushed(lambda primals, dots: tangents_of(reference, primals, dots), args, rng)
  return pulled(reference, args, rng)


def floats_in(args: Any) -> tuple[list[Any], Any, list[int]]:
  """Return the leaves of the arguments, their structure, and which of them are floats."""
  leaves, structure = jax.tree.flatten(args)
  return leaves, structure, [i for i, x in enumerate(leaves) if is_float_array(x)]


def is_float_array(x: Any) -> bool:
  """Return whether a leaf is a float array."""
  return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def of_floats(f: Function, args: Any) -> tuple[Function, list[Any]]:
  """Return f as a function of its float leaves alone, and these."""
  leaves, structure, places = floats_in(args)

  def on_floats(*floats: Any) -> Any:
    own = list(leaves)
    for place, x in zip(places, floats, strict=True):
      own[place] = x
    return f(*jax.tree.unflatten(structure, own))

  return on_floats, [leaves[i] for i in places]


def pulled(f: Function, args: Any, rng: np.random.Generator) -> Numbers:
  """Return the cotangents of the float leaves."""
  on_floats, floats = of_floats(f, args)
  y, pullback = jax.vjp(on_floats, *floats)
  return [np.asarray(bar) for bar in pullback(cotangent(y, rng))]


def cotangent(y: Any, rng: np.random.Generator) -> Any:
  """Draw a cotangent of an output."""

  def draw(leaf: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      return np.zeros(np.shape(leaf), jax.dtypes.float0)
    return jnp.asarray(rng.normal(size=np.shape(leaf)), jnp.result_type(leaf))

  return jax.tree.map(draw, y)


def matched(args: Any, bars: Any) -> Numbers:
  """Return a pullback's cotangents of the float leaves; None stands for zeros."""
  found: Numbers = []
  for arg, bar in zip(args, bars, strict=True):
    leaves, _, places = floats_in(arg)
    own = [None] * len(leaves) if bar is None else jax.tree.leaves(bar)
    found += [None if own[i] is None else np.asarray(own[i]) for i in places]
  return found


def pushed(push: Callable[..., Any], args: Any, rng: np.random.Generator) -> Numbers:
  """Return the output's tangents for a tangent of each float leaf alone."""
  leaves, structure, places = floats_in(args)
  drawn = {i: jnp.asarray(rng.normal(size=leaves[i].shape), leaves[i].dtype) for i in places}
  zeros = [zero_tangent(x) for x in leaves]
  found: Numbers = []
  for i in places:
    dots = [drawn[i] if k == i else zero for k, zero in enumerate(zeros)]
    _, y_dot = push(args, jax.tree.unflatten(structure, dots))
    parts = [np.ravel(x) for x in jax.tree.leaves(y_dot) if x.dtype != jax.dtypes.float0]
    found.append(np.concatenate(parts))
  return found


def zero_tangent(x: Any) -> Any:
  """Return a leaf's tangent of zero; that of integers is float0, and a static value has none."""
  if is_float_array(x):
    return jnp.zeros_like(x)
  return np.zeros(np.shape(x), jax.dtypes.float0) if hasattr(x, "dtype") else 0


def tangents_of(f: Function, primals: Any, dots: Any) -> Any:
  """Return the output and its tangent by JAX."""
  on_floats, floats = of_floats(f, primals)
  _, _, places = floats_in(primals)
  leaves = jax.tree.leaves(dots)
  return jax.jvp(on_floats, floats, [leaves[i] for i in places])


def shapes_of(found: Numbers) -> list[Any]:
  """Return the shapes and dtypes."""
  return [None if x is None else (x.shape, x.dtype.name) for x in found]


def leaf_names(example: Example) -> tuple[str, ...]:
  """Return the paths of the float leaves, from the names of the function's arguments."""
  names = list(inspect.signature(example.f).parameters)
  found = []
  for i, arg in enumerate(example.args):
    for path, leaf in jax.tree_util.tree_flatten_with_path(arg)[0]:
      if is_float_array(leaf):
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        found.append("/".join([names[i] if i < len(names) else str(i), *keys]))
  return tuple(found)


# --- Points ---------------------------------------------------------------------------------------


def points_of(example: Example, seed: int) -> Iterator[tuple[Any, ...]]:
  """Yield arguments in float64: the given ones, moved, redrawn, large, small, of other lengths."""
  changes: tuple[Callable[..., np.ndarray], ...] = (
    lambda x, rng: x + 0 * x,
    lambda x, rng: x * (1 + 0.3 * rng.normal(size=x.shape)),
    redrawn,
    lambda x, rng: 8 * redrawn(x, rng),
    lambda x, rng: 0.1 * redrawn(x, rng),
    redrawn,
  )
  leaves, structure = jax.tree.flatten(example.args)
  for i, change in enumerate(changes):
    rng = np.random.default_rng((seed, i))
    own = [changed_leaf(x, change, rng, i) for x in leaves]
    yield jax.tree.unflatten(structure, own)
  sizes = {n for x in leaves if is_float_array(x) for n in x.shape}
  for n in sorted(sizes):
    rng = np.random.default_rng((seed, n, 99))
    own = [resized(x, n, n + 2, rng) for x in leaves]
    yield jax.tree.unflatten(structure, own)


def changed_leaf(x: Any, change: Callable[..., np.ndarray], rng: Any, i: int) -> Any:
  """Return a leaf in float64 and changed; integers and masks are drawn again, but for the first."""
  if is_float_array(x):
    # The first is as given; every other entry moves a little, off exact zeros and ties.
    moved = np.asarray(x, np.float64) + 1e-3 * rng.normal(size=x.shape)
    return jnp.asarray(change(moved, rng), jnp.float64)
  if i in (0, 1, 3, 4) or not hasattr(x, "dtype") or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return x
  return jnp.asarray(other_integers(np.asarray(x), np.shape(x), rng))


def redrawn(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draw numbers of the same size, positive where the given ones are."""
  size = float(np.sqrt(np.mean(x * x))) if x.size else 1.0
  drawn = rng.normal(size=x.shape)
  return size * np.exp(0.4 * drawn) if x.size and np.all(x > 0) else size * drawn


def other_integers(x: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """Draw integers or booleans in the range of the given ones."""
  if not x.size:
    return np.zeros(shape, x.dtype)
  return rng.integers(int(x.min()), int(x.max()) + 1, size=shape).astype(x.dtype)


def resized(x: Any, old: int, new: int, rng: np.random.Generator) -> Any:
  """Return a leaf drawn again, with every axis of one length at another."""
  if not hasattr(x, "dtype") or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return x
  shape = tuple(new if n == old else n for n in x.shape)
  if not is_float_array(x):
    return jnp.asarray(other_integers(np.asarray(x), shape, rng))
  given = np.asarray(x, np.float64)
  size = float(np.sqrt(np.mean(given**2))) if given.size else 1.0
  drawn = rng.normal(size=shape)
  is_positive = given.size > 0 and bool(np.all(given > 0))
  return jnp.asarray(size * np.exp(0.4 * drawn) if is_positive else size * drawn, jnp.float64)
