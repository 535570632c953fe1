"""Mutants of cotangents: altered, exchanged, at the output or on the way; omitted examples."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import (
  MOST_ENTRIES,
  PRODUCT_SHARE,
  Matcher,
  Mutants,
  Sweep,
  adding,
  replacing,
)
from fbackprop.verify.explain.paths import path_bars
from fbackprop.verify.explain.patterns import (
  NARROW,
  Candidates,
  describe_indices,
  narrowed,
  shifted,
)
from fbackprop.verify.explain.tape import Tape


def limited(limit: float, bar: np.ndarray) -> np.ndarray:
  """Clip to [-limit, limit]."""
  return np.clip(bar, -limit, limit)


LIMITS = (1.0, 0.1, 0.5, 2.0, 5.0, 10.0, 0.01, 1e-3, 100.0)
# Nonlinear operations on a cotangent.
NONLINEAR: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
  ("its sign alone", np.sign),
  ("its absolute value", np.abs),
  ("squared", np.square),
  ("negative entries cut off", lambda bar: np.maximum(bar, 0.0)),
)
OF_OUTPUTS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
  ("ignored, as if it were 1", np.ones_like),
  *NONLINEAR[:3],
  ("squared with its sign", lambda bar: bar * np.abs(bar)),
  ("its mean everywhere", lambda bar: np.full_like(bar, bar.mean())),
  ("its sum everywhere", lambda bar: np.full_like(bar, bar.sum())),
  ("its first entry everywhere", lambda bar: np.full_like(bar, bar.flat[0] if bar.size else 0.0)),
  (
    "that of the first example for all",
    lambda bar: np.broadcast_to(bar[:, :1], bar.shape) if bar.ndim > 1 else bar,
  ),
  ("divided by its norm", lambda bar: bar / (np.linalg.norm(bar) or 1.0)),
  ("divided by its largest entry", lambda bar: bar / (np.max(np.abs(bar), initial=0.0) or 1.0)),
  *NONLINEAR[3:],
  *((f"clipped to [{-limit:g}, {limit:g}]", partial(limited, limit)) for limit in LIMITS),
)
# Up to this many examples, the search covers runs that touch neither end.
LONGEST_FOR_RANGES = 256
LARGEST_FOR_THRESHOLDS = 20_000


def output_cotangents(matcher: Matcher) -> Iterator[Sweep]:
  """Yield the pullbacks of altered output cotangents."""
  tape = matcher.tape
  for text, change in OF_OUTPUTS:
    bars = {place: np.asarray(change(bar)) for place, bar in tape.y_bars.items()}
    if not all(np.array_equal(bars[p], tape.y_bars[p]) for p in bars):
      yield Sweep(f"cotangent: {text}", [x[0] for x in tape.at_leaves(tape.sweep(bars)[0])])


def inner_cotangents(matcher: Matcher) -> Iterator[Mutants]:
  """Yield intermediate cotangents rounded, clipped, flipped, or made positive."""
  for place, bar, where in path_bars(matcher):
    yield from replacing(place, bar, changed(bar, where))


def changed(bar: np.ndarray, where: str) -> Candidates:
  """Yield the alterations of an intermediate cotangent."""
  for name, dtype in NARROW:
    yield f"precision: the cotangent of {where} is rounded to {name}", narrowed(dtype, bar)
  for limit in LIMITS:
    text = f"clipped: the cotangent of {where} to [{-limit:g}, {limit:g}]"
    yield text, limited(limit, bar)
  for text, change in NONLINEAR:
    yield f"cotangent: that of {where}, {text}", change(bar)
  for text, moved in shifted(bar[0]):
    yield f"{text}, the cotangent of {where}", moved
  for i in range(1, bar.ndim):
    for j in range(i + 1, bar.ndim):
      if bar.shape[i] == bar.shape[j]:
        yield f"transposed: the cotangent of {where}", np.swapaxes(bar, i, j)


def others_cotangents(matcher: Matcher) -> Iterator[Mutants]:
  """Yield another cotangent of the same size instead, or one summed along another axis."""
  tape = matcher.tape
  shapes: dict[tuple[int, ...], list[tuple[np.ndarray, str]]] = {}
  for place, bar in tape.bars.items():
    shapes.setdefault(squeezed(bar), []).append((bar, tape.describe(place)))
  for (k, j), bar in tape.edges.items():
    name = f"{tape.describe(tape.steps[k].outputs[0])} to its operand {j}"
    shapes.setdefault(squeezed(bar), []).append((bar, name))
  for place, bar, where in path_bars(matcher):
    most = max(1, MOST_ENTRIES // max(1, 4 * bar.size))
    others = [(o.reshape(bar.shape), name) for o, name in shapes[squeezed(bar)][:most]]
    yield adding(place, (c for other, name in others for c in exchanged(bar, other, name, where)))


def exchanged(bar: np.ndarray, other: np.ndarray, name: str, where: str) -> Candidates:
  """Yield the change of a cotangent for which another one is mistaken."""
  yield f"path: the cotangent of {name} replaces that of {where}", other - bar
  yield f"path: minus the cotangent of {name} replaces that of {where}", -other - bar
  yield f"path: the cotangent of {name} is added to that of {where}", other
  for axis in range(1, bar.ndim) if bar.ndim > 2 else ():
    total = np.broadcast_to(other.sum(axis, keepdims=True), bar.shape)
    shape = bar.shape[1:]
    means = [
      (f"sum / {n}" if n != bar.shape[axis] else "mean", 1.0 / n)
      for n in dict.fromkeys((bar.shape[axis], *shape))
      if n > 1
    ]
    for what, factor in (("sum", 1.0), ("negated sum", -1.0), *means):
      text = f"path: the cotangent of {name}, its {what} over axis {axis - 1}, replaces that of "
      yield text + where, factor * total - bar


def squeezed(bar: np.ndarray) -> tuple[int, ...]:
  """Return the shape of a cotangent without axes of length one."""
  return tuple(n for n in bar.shape[1:] if n != 1)


def multiplied_cotangents(matcher: Matcher) -> Iterator[Mutants]:
  """Yield a path's cotangent with one factor too many, or one too few."""
  tape = matcher.tape
  for place, bar, where in path_bars(matcher):
    factors = [(tape.stacked(i), tape.describe(i)) for i in tape.alike(place, is_own=True)]
    yield from replacing(
      place,
      bar,
      (
        (f"other function: the cotangent of {where} is {what} by {name}", change(bar, value))
        for value, name in factors
        for what, change in (("multiplied", np.multiply), ("divided", np.divide))
      ),
    )


def untransposed_steps(matcher: Matcher) -> Iterator[Mutants]:
  """Yield each linear step applied to its cotangent, instead of its transpose."""
  tape = matcher.tape
  for (k, j), bar in sorted(tape.edges.items()):
    step = tape.steps[k]
    place, out = step.inputs[j], step.outputs[0]
    is_square = np.shape(tape.values[place]) == np.shape(tape.values[out])
    if is_square and matcher.is_upstream(place) and not step.is_elementwise:
      again = tape.applied(k, {j: tape.bars[out][0]})[0]
      text = f"other function: {step.name} itself replaces its transpose"
      yield Mutants({place: again - bar}, [text])


# --- Subsets of a cotangent -----------------------------------------------------------------------


def left_out_examples(matcher: Matcher) -> Iterator[Mutants]:
  """Yield examples, along the first axis of a cotangent, omitted or counted twice."""
  return left_out(matcher, slice(0, 1))


def left_out_slices(matcher: Matcher) -> Iterator[Mutants]:
  """Yield slices along the other axes of a cotangent omitted or counted twice."""
  return left_out(matcher, slice(1, None))


def left_out(matcher: Matcher, axes: slice) -> Iterator[Mutants]:
  """Yield slices of a cotangent along some axes, omitted or counted twice."""
  tape = matcher.tape
  for place, bar, _ in path_bars(matcher):
    terms = bar * matcher.tangents[place]
    for axis in range(1, bar.ndim)[axes]:
      n = bar.shape[axis]
      if not 2 <= n <= 4096:
        continue
      each = terms.sum(tuple(a for a in range(1, bar.ndim) if a != axis))
      slack = matcher.slack + PRODUCT_SHARE * np.abs(terms).sum(tuple(range(1, bar.ndim)))
      for k, what in ((-1.0, "left out"), (1.0, "counted twice")):
        for selected in fitting_sets(each, k * matcher.target, slack):
          part = np.zeros_like(bar)
          slices = (slice(None),) * axis + (selected,)
          part[slices] = bar[slices]
          along = "" if axis == 1 else f" along axis {axis - 1}"
          where = f"{describe_indices(selected, n)}{along} of {tape.describe(place)}"
          yield Mutants({place: k * part}, [f"subset of examples: {where} {what}"])


def fitting_sets(each: np.ndarray, target: np.ndarray, slack: np.ndarray) -> Iterator[np.ndarray]:
  """Yield sets of columns of `each` `[DIRECTIONS, n]` whose sum is the target."""
  n = each.shape[1]
  sums = np.cumsum(each, 1)
  index = np.arange(n)

  def fits(candidates: np.ndarray) -> np.ndarray:
    shape = (-1, *(1,) * (candidates.ndim - 1))
    return (np.abs(candidates - target.reshape(shape)) <= slack.reshape(shape)).all(0)

  for m in np.flatnonzero(fits(each)):
    yield index[m : m + 1]
  for m in np.flatnonzero(fits(sums)):
    if 0 < m < n - 1:
      yield index[: m + 1]
  for m in np.flatnonzero(fits(sums[:, -1:] - sums)):
    if m < n - 2:
      yield index[m + 1 :]
  if n <= LONGEST_FOR_RANGES:  # From the first index, exclusive, to the second.
    for start, end in np.argwhere(fits(sums[:, None, :] - sums[:, :, None])):
      if start + 2 <= end < n - 1:
        yield index[start + 1 : end + 1]
  for step in range(2, 5):
    for start in range(step):
      if n > step and fits(each[:, start::step].sum(1)):
        yield index[start::step]


def beyond_thresholds(matcher: Matcher) -> Iterator[Mutants]:
  """Yield a cotangent that is cut off where a value of its shape is large, or small."""
  tape = matcher.tape
  for place, bar, where in path_bars(matcher):
    if not 2 <= bar.size <= LARGEST_FOR_THRESHOLDS:
      continue
    terms = (bar * matcher.tangents[place]).reshape(len(matcher.target), -1)
    slack = matcher.slack + PRODUCT_SHARE * np.abs(terms).sum(1)
    for other in tape.alike(place, is_own=True):
      value = np.asarray(tape.values[other]).ravel()
      for sense, key in (("", value), ("the magnitude of ", np.abs(value))):
        for sign, relation in ((1.0, "below"), (-1.0, "above")):
          order = np.argsort(sign * key, kind="stable")
          sums = np.cumsum(terms[:, order], 1)
          fits = (np.abs(sums + matcher.target[:, None]) <= slack[:, None]).all(0)
          for m in np.flatnonzero(fits[:-1]):
            limit = key[order[m]]
            if sign * key[order[m + 1]] <= sign * limit:
              continue
            part = np.zeros(bar.size)
            part[order[: m + 1]] = bar.ravel()[order[: m + 1]]
            text = (
              f"other function: nothing passes through {where} where {sense}"
              f"{tape.describe(other)} is {relation} some {limit:.3g}"
            )
            yield Mutants({place: -part.reshape(bar.shape)}, [text])


def weighted_examples(matcher: Matcher) -> Iterator[Mutants]:
  """Yield examples with individual factors, fitted by least squares."""
  tape, leaf = matcher.tape, matcher.leaf
  error = matcher.errors[leaf].ravel()
  for place in dict.fromkeys([*tape.outputs, *consumers(tape, tape.float_leaves[leaf])]):
    bar = tape.bars.get(place)
    if bar is None or bar.ndim < 2 or not matcher.is_upstream(place):
      continue
    n = bar.shape[1]
    if not 2 <= n <= 128 or n + 2 > error.size or n * error.size > MOST_ENTRIES:
      continue
    masked = np.eye(n).reshape(n, n, *(1,) * (bar.ndim - 2)) * bar
    each = tape.at_leaves(tape.sweep({place: masked})[0])[leaf].reshape(n, -1)
    factors = np.linalg.lstsq(each.T, error, rcond=None)[0]
    factors = np.where(np.abs(factors) < 1e-9, 0.0, factors)
    wrong = np.flatnonzero(factors)
    if not len(wrong) or np.ptp(factors) < 1e-9:
      continue
    exact = np.where(np.abs(factors - np.round(factors)) < 1e-7, np.round(factors), factors)
    counts = sorted({float(f"{1 + c:.6g}") for c in exact[wrong]})
    what = "left out" if counts == [0.0] else f"counted {', '.join(map(str, counts[:4]))} times"
    weights = exact.reshape(1, n, *(1,) * (bar.ndim - 2))
    text = f"subset of examples: {describe_indices(wrong, n)} {what}"
    yield Mutants({place: weights * bar}, [text])


def consumers(tape: Tape, place: int) -> list[int]:
  """Return the outputs of the steps that read a value, through broadcasts."""
  found: list[int] = []
  for step in tape.steps:
    if place in step.inputs:
      found += step.outputs
      if step.name in ("broadcast_in_dim", "reshape"):
        found += consumers(tape, step.outputs[0])
  return found
