"""Cotangents that were changed: y_bar itself, one on the way, another one in its place."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import MOST_ENTRIES, Group, Matcher, Whole, say_each
from fbackprop.verify.explain.paths import path_bars
from fbackprop.verify.explain.patterns import NARROW
from fbackprop.verify.explain.rearrangement import shifted
from fbackprop.verify.explain.rounding import narrowed

LIMITS = (1.0, 0.1, 0.5, 2.0, 5.0, 10.0, 0.01, 1e-3, 100.0)


def output_cotangents(matcher: Matcher) -> Iterator[Whole]:
  """The pullback of something else than y_bar."""
  tape = matcher.tape
  for text, change in bar_changes():
    bars = {place: change(bar) for place, bar in tape.y_bars.items()}
    if all(np.array_equal(bars[p], tape.y_bars[p]) for p in bars):
      continue
    swept, _ = tape.sweep(bars)
    yield Whole(f"cotangent: {text}", [x[0] for x in tape.at_leaves(swept)])


def bar_changes() -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
  """What may be done to y_bar that isn't linear in it."""
  yield "ignored, as if it were 1", np.ones_like
  yield "its sign alone", np.sign
  yield "its absolute value", np.abs
  yield "squared", np.square
  yield "squared with its sign", signed_square
  yield "its mean everywhere", mean_everywhere
  yield "its sum everywhere", sum_everywhere
  yield "its first entry everywhere", first_everywhere
  yield "that of the first example for all", first_row_everywhere
  yield "divided by its norm", over_norm
  yield "divided by its largest entry", over_largest
  yield "negative entries cut off", rectified
  for limit in LIMITS:
    yield f"clipped to [{-limit:g}, {limit:g}]", partial(limited, limit)


def signed_square(bar: np.ndarray) -> np.ndarray:
  return np.asarray(bar * np.abs(bar))


def mean_everywhere(bar: np.ndarray) -> np.ndarray:
  return np.full_like(bar, bar.mean())


def sum_everywhere(bar: np.ndarray) -> np.ndarray:
  return np.full_like(bar, bar.sum())


def first_everywhere(bar: np.ndarray) -> np.ndarray:
  return np.full_like(bar, bar.flat[0] if bar.size else 0.0)


def first_row_everywhere(bar: np.ndarray) -> np.ndarray:
  return np.broadcast_to(bar[:, :1], bar.shape) if bar.ndim > 1 else bar


def over_norm(bar: np.ndarray) -> np.ndarray:
  return bar / (np.linalg.norm(bar) or 1.0)


def over_largest(bar: np.ndarray) -> np.ndarray:
  return np.asarray(bar / (np.max(np.abs(bar), initial=0.0) or 1.0))


def rectified(bar: np.ndarray) -> np.ndarray:
  return np.asarray(np.maximum(bar, 0.0))


def limited(limit: float, bar: np.ndarray) -> np.ndarray:
  return np.asarray(np.clip(bar, -limit, limit))


def inner_cotangents(matcher: Matcher) -> Iterator[Group]:
  """Cotangents on the way that were rounded, clipped, flipped, made positive."""
  for place, bar, where in path_bars(matcher):
    changes = [(f"precision: the cotangent of {where} is rounded to {name}", narrowed(dtype, bar))
               for name, dtype in NARROW]  # fmt: skip
    changes += [
      (f"clipped: the cotangent of {where} to [{-limit:g}, {limit:g}]", limited(limit, bar))
      for limit in LIMITS
    ]
    changes += [
      (f"cotangent: that of {where}, {text}", change(bar))
      for text, change in (
        ("its sign alone", np.sign),
        ("its absolute value", np.abs),
        ("squared", np.square),
        ("negative entries cut off", rectified),
      )
    ]
    changes += [
      (f"{text}, the cotangent of {where}", moved[None]) for text, moved in shifted(bar[0])
    ]
    for i in range(1, bar.ndim):
      for j in range(i + 1, bar.ndim):
        if bar.shape[i] == bar.shape[j]:
          changes.append((f"transposed: the cotangent of {where}", np.swapaxes(bar, i, j)))
    yield stacked_group({place: bar}, place, changes)


def stacked_group(
  bars: dict[int, np.ndarray], place: int, changes: Sequence[tuple[str, np.ndarray]]
) -> Group:
  """Replacements of one cotangent as one group."""
  changes = [(t, b) for t, b in changes if not np.array_equal(b, bars[place])]
  room = max(1, MOST_ENTRIES // max(1, bars[place].size))
  changes = changes[:room]
  texts = [text for text, _ in changes]
  stack = [b - bars[place] for _, b in changes]
  empty = np.zeros((0, *bars[place].shape[1:]))
  return Group({place: np.concatenate(stack) if stack else empty}, partial(say_each, texts))


def others_cotangents(matcher: Matcher) -> Iterator[Group]:
  """Another cotangent of as many entries in a path's place, summed perhaps along another axis."""
  tape = matcher.tape
  shapes: dict[tuple[int, ...], list[tuple[np.ndarray, str]]] = {}
  for place, bar in tape.bars.items():
    shapes.setdefault(squeezed(bar), []).append((bar, tape.describe(place)))
  for k, j in tape.edges:
    step = tape.steps[k]
    name = f"{tape.describe(step.outputs[0])} to its operand {j}"
    shapes.setdefault(squeezed(tape.edges[k, j]), []).append((tape.edges[k, j], name))
  for place, bar, where in path_bars(matcher):
    texts, stack = [], []
    for other, name in shapes[squeezed(bar)][: max(1, MOST_ENTRIES // max(1, 4 * bar.size))]:
      for sign, sense in ((1.0, ""), (-1.0, "minus ")):
        texts.append(f"path: {sense}the cotangent of {name} stands for that of {where}")
        stack.append(sign * other.reshape(bar.shape) - bar)
      texts.append(f"path: the cotangent of {name} is added to that of {where}")
      stack.append(other.reshape(bar.shape))
      for axis, total in sums(other.reshape(bar.shape)):
        for name_of, factor in axis_factors(bar.shape[1:], axis):
          texts.append(f"path: the cotangent of {name}, its {name_of} over axis {axis}, stands for "
                       f"that of {where}")  # fmt: skip
          stack.append(factor * total - bar)
    yield Group({place: np.concatenate(stack)}, partial(say_each, texts))


def squeezed(bar: np.ndarray) -> tuple[int, ...]:
  """The shape of a cotangent, without axes of length one."""
  return tuple(n for n in bar.shape[1:] if n != 1)


def sums(bar: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Sums along each axis, in the cotangent's shape."""
  if bar.ndim > 2:
    for axis in range(1, bar.ndim):
      yield axis - 1, np.broadcast_to(bar.sum(axis, keepdims=True), bar.shape)


def axis_factors(shape: tuple[int, ...], axis: int) -> Iterator[tuple[str, float]]:
  """What a sum along an axis may be multiplied by."""
  yield "sum", 1.0
  yield "negated sum", -1.0
  for n in dict.fromkeys((shape[axis], *shape)):
    if n > 1:
      yield ("mean" if n == shape[axis] else f"sum / {n}"), 1.0 / n


def multiplied_cotangents(matcher: Matcher) -> Iterator[Group]:
  """A path's cotangent with one factor too many, or too few."""
  tape = matcher.tape
  for place, bar, where in path_bars(matcher):
    texts, stack = [], []
    for other in tape.alike(place, is_own=True):
      value = tape.stacked(other)
      with np.errstate(all="ignore"):
        for sense, changed in (("multiplied", bar * value), ("divided", bar / value)):
          texts.append(f"other function: the cotangent of {where} is {sense} by "
                       f"{tape.describe(other)}")  # fmt: skip
          stack.append(changed - bar)
    stack = stack[: max(1, MOST_ENTRIES // max(1, bar.size))]
    if stack:
      yield Group({place: np.concatenate(stack)}, partial(say_each, texts))


def untransposed_steps(matcher: Matcher) -> Iterator[Group]:
  """A linear step applied to its cotangent as it stands, where its transpose belongs."""
  tape = matcher.tape
  for k, step in enumerate(tape.steps):
    for j, place in enumerate(step.inputs):
      out = step.outputs[0]
      is_square = np.shape(tape.values[place]) == np.shape(tape.values[out])
      if (k, j) not in tape.edges or not is_square or not matcher.is_upstream(place):
        continue
      if step.is_elementwise:
        continue
      again = tape.applied(k, {j: tape.bars[out][0]})[0]
      text = f"other function: {step.name} itself stands for its transpose"
      yield Group({place: (again - tape.edges[k, j])}, partial(say_each, [text]))
