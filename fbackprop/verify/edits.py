"""Alterations of the backward sweep: paths cut or doubled, cotangents of some examples, others'.

Each is a bug that somebody may have written, done to the reference's own tape.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import ml_dtypes
import numpy as np

from fbackprop.verify.matching import Group, Matcher, Whole
from fbackprop.verify.patterns import NARROW, name_factor
from fbackprop.verify.primitives import is_float
from fbackprop.verify.rearrangement import describe_indices, shifted
from fbackprop.verify.tape import Tape

# Entries of a batch of alterations at one place.
MOST_ENTRIES = 4_000_000
LIMITS = (1.0, 0.1, 0.5, 2.0, 5.0, 10.0, 0.01, 1e-3, 100.0)
PATH_FACTORS = (-1.0, 1.0, -2.0, -0.5, 2.0)


def describe(tape: Tape, place: int) -> str:
  """A value, by what computed it."""
  for step in tape.steps:
    if place in step.outputs:
      return f"{step.name} {list(np.shape(tape.values[place]))}"
  return f"argument leaf {place}" if place < len(tape.leaves) else "a constant"


# --- Paths ----------------------------------------------------------------------------------------


def stop_gradients(matcher: Matcher) -> Iterator[Group | Whole]:
  """Each `stop_gradient` of the reference let through, then all of them."""
  tape = matcher.tape
  stops = [k for k, step in enumerate(tape.steps) if step.name == "stop_gradient"]
  for k in stops:
    step = tape.steps[k]
    if step.outputs[0] in tape.bars and step.inputs[0] in tape.depends:
      where = describe(tape, step.inputs[0])
      text = f"stop_gradient: that of {where} is removed"
      yield Group({step.inputs[0]: tape.bars[step.outputs[0]]}, partial(say, text))
  if len(stops) > 1:
    yield altered(matcher, "stop_gradient: all are removed", let_through)


def say(text: str, e: int, k: float) -> str:
  """A text that doesn't depend on the alteration."""
  return text


def let_through(
  tape: Tape, k: int, inputs: list[np.ndarray], bars: list[np.ndarray]
) -> list[np.ndarray | None] | None:
  """A `stop_gradient` that stops nothing."""
  return list(bars) if tape.steps[k].name == "stop_gradient" else None


def altered(
  matcher: Matcher,
  text: str,
  hook: Callable[..., list[np.ndarray | None] | None],
) -> Whole:
  """A whole sweep with another rule at some steps."""
  tape = matcher.tape
  bars, _ = tape.sweep(tape.y_bars, partial(hook, tape))
  return Whole(text, [x[0] for x in tape.at_leaves(bars)])


def paths(
  matcher: Matcher, sizes: Sequence[tuple[str, int]], is_free: bool = False
) -> Iterator[Group]:
  """Each edge of the graph, and each value, cut or counted otherwise; backwards."""
  for place, bar, where in path_bars(matcher):
    yield Group(
      {place: bar}, partial(say_path, where, sizes), None if is_free else PATH_FACTORS
    )


def path_bars(matcher: Matcher) -> Iterator[tuple[int, np.ndarray, str]]:
  """The cotangents that can be cut: of values, and of one of the uses of a value."""
  tape = matcher.tape
  uses: dict[int, int] = {}
  for k, j in tape.edges:
    uses[tape.steps[k].inputs[j]] = uses.get(tape.steps[k].inputs[j], 0) + 1
  for k in range(len(tape.steps) - 1, -1, -1):
    step = tape.steps[k]
    for place in step.outputs:
      if uses.get(place, 0) != 1 and matcher.is_upstream(place):
        yield place, tape.bars[place], describe(tape, place)
    for j, place in enumerate(step.inputs):
      if (k, j) in tape.edges and matcher.is_upstream(place):
        where = f"{describe(tape, step.outputs[0])} to its operand {j}"
        if len(step.inputs) == 1:
          where = describe(tape, step.outputs[0])
        yield place, tape.edges[k, j], where


def say_path(where: str, sizes: Sequence[tuple[str, int]], e: int, k: float) -> str:
  """What happened to a path that contributes 1 + k times what it should."""
  known = {-1.0: "is missing", 1.0: "is counted twice", -2.0: "has the wrong sign"}
  if k in known:
    return f"path: the one through {where} {known[k]}"
  name = name_factor(1 + k, sizes) or f"{1 + k:.8g}"
  return f"path: the one through {where} is counted with the factor {name}"


def pairs_of_paths(matcher: Matcher) -> Iterator[Group]:
  """Two paths at once, each missing, doubled or of the wrong sign."""
  found = list(path_bars(matcher))[:400]
  if len(found) < 2:
    return
  products = [matcher.products(place, bar) for place, bar, _ in found]
  s = np.stack([p[0][:, 0] for p in products], 1)
  terms = np.stack([p[1][:, 0] for p in products], 1)
  target = matcher.target[:, None, None]
  for a in (-1.0, 1.0, -2.0):
    for b in (-1.0, 1.0, -2.0):
      left = np.abs(a * s[:, :, None] + b * s[:, None, :] - target)
      slack = matcher.slack[:, None, None] + 1e-11 * (terms[:, :, None] + terms[:, None, :])
      for i, j in np.argwhere((left <= slack).all(0))[:8]:
        if i == j:
          continue
        (p, p_bar, p_name), (q, q_bar, q_name) = found[i], found[j]
        bars = {p: a * p_bar + b * q_bar} if p == q else {p: a * p_bar, q: b * q_bar}
        first = say_path(p_name, (), 0, a)
        second = say_path(q_name, (), 0, b).removeprefix("path: ")
        yield Group(bars, partial(say, f"{first}, and {second}"))


# --- Examples -------------------------------------------------------------------------------------


def subsets(matcher: Matcher) -> Iterator[Group]:
  """Some slices of a cotangent left out, or counted twice."""
  tape = matcher.tape
  for place, bar, _ in path_bars(matcher):
    terms = bar * matcher.tangents[place]
    for axis in range(bar.ndim - 1):
      n = bar.shape[axis + 1]
      others = tuple(a for a in range(1, bar.ndim) if a != axis + 1)
      if not 2 <= n <= 4096:
        continue
      each = terms.sum(others)
      size = np.abs(terms).sum(tuple(range(1, bar.ndim)))
      slack = matcher.slack + 1e-11 * size
      for selected in fitting_sets(each, -matcher.target, slack):
        yield subset_group(tape, place, bar, axis, selected, -1.0)
      for selected in fitting_sets(each, matcher.target, slack):
        yield subset_group(tape, place, bar, axis, selected, 1.0)


def fitting_sets(each: np.ndarray, target: np.ndarray, slack: np.ndarray) -> Iterator[np.ndarray]:
  """Sets of columns of `each` `[DIRECTIONS, n]` whose sum is the target."""
  n = each.shape[1]
  sums = np.cumsum(each, 1)
  index = np.arange(n)
  for m in np.flatnonzero((np.abs(each - target[:, None]) <= slack[:, None]).all(0)):
    yield index[m : m + 1]
  for m in np.flatnonzero((np.abs(sums - target[:, None]) <= slack[:, None]).all(0)):
    if 0 < m < n - 1:
      yield index[: m + 1]
  rest = sums[:, -1:] - sums
  for m in np.flatnonzero((np.abs(rest - target[:, None]) <= slack[:, None]).all(0)):
    if m < n - 2:
      yield index[m + 1 :]
  for step in range(2, 5):
    for start in range(step):
      chosen = each[:, start::step].sum(1)
      if n > step and (np.abs(chosen - target) <= slack).all():
        yield index[start::step]


def subset_group(
  tape: Tape, place: int, bar: np.ndarray, axis: int, selected: np.ndarray, k: float
) -> Group:
  """The cotangent's slices that are left out or doubled."""
  part = np.zeros_like(bar)
  slices = (slice(None),) * (axis + 1) + (selected,)
  part[slices] = bar[slices]
  what = "left out" if k < 0 else "counted twice"
  where = describe_indices(selected, bar.shape[axis + 1])
  along = "" if axis == 0 else f" along axis {axis}"
  text = f"subset of examples: {where}{along} of {describe(tape, place)} {what}"
  return Group({place: k * part}, partial(say, text))


def weighted_examples(matcher: Matcher) -> Iterator[Group]:
  """Each example counted with a factor of its own, by least squares."""
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
    text = f"subset of examples: {describe_indices(wrong, n)} {what}"
    weights = exact.reshape(1, n, *(1,) * (bar.ndim - 2))
    yield Group({place: weights * bar}, partial(say, text))


def consumers(tape: Tape, place: int) -> list[int]:
  """The outputs of the steps that read a value, through broadcasts."""
  found: list[int] = []
  for step in tape.steps:
    if place in step.inputs:
      own = list(step.outputs)
      found += own
      if step.name in ("broadcast_in_dim", "reshape"):
        found += consumers(tape, own[0])
  return found


# --- Cotangents -----------------------------------------------------------------------------------


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
  yield "divided by its norm", over_norm
  yield "divided by its largest entry", over_largest
  yield "negative entries cut off", rectified
  for limit in LIMITS:
    yield f"clipped to [{-limit:g}, {limit:g}]", partial(limited, limit)


def signed_square(bar: np.ndarray) -> np.ndarray:
  return bar * np.abs(bar)


def mean_everywhere(bar: np.ndarray) -> np.ndarray:
  return np.full_like(bar, bar.mean())


def sum_everywhere(bar: np.ndarray) -> np.ndarray:
  return np.full_like(bar, bar.sum())


def first_everywhere(bar: np.ndarray) -> np.ndarray:
  return np.full_like(bar, bar.flat[0] if bar.size else 0.0)


def over_norm(bar: np.ndarray) -> np.ndarray:
  return bar / (np.linalg.norm(bar) or 1.0)


def over_largest(bar: np.ndarray) -> np.ndarray:
  return bar / (np.max(np.abs(bar), initial=0.0) or 1.0)


def rectified(bar: np.ndarray) -> np.ndarray:
  return np.maximum(bar, 0.0)


def limited(limit: float, bar: np.ndarray) -> np.ndarray:
  return np.clip(bar, -limit, limit)


def narrowed(dtype: type, bar: np.ndarray) -> np.ndarray:
  return bar.astype(dtype).astype(np.float64)


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


def say_each(texts: Sequence[str], e: int, k: float) -> str:
  """The text of alteration e."""
  return texts[e]


def others_cotangents(matcher: Matcher) -> Iterator[Group]:
  """Another value's cotangent of the same shape, at a value and at one operand of a step alone."""
  tape = matcher.tape
  shapes: dict[tuple[int, ...], list[int]] = {}
  for place, bar in tape.bars.items():
    shapes.setdefault(bar.shape[1:], []).append(place)
  for k in range(len(tape.steps) - 1, -1, -1):
    step = tape.steps[k]
    place = step.outputs[0]
    if len(step.outputs) != 1 or not matcher.is_upstream(place):
      continue
    bar = tape.bars[place]
    room = max(1, MOST_ENTRIES // max(1, bar.size))
    others = [p for p in shapes[bar.shape[1:]] if not np.array_equal(tape.bars[p], bar)][:room]
    if not others:
      continue
    stack = np.concatenate([tape.bars[p] for p in others])
    where = describe(tape, place)
    texts = [f"path: the cotangent of {describe(tape, p)} stands for that of {where}"
             for p in others]  # fmt: skip
    yield Group({place: stack - bar}, partial(say_each, texts))
    pulled = tape.pull(k, [tape.stacked(i) for i in step.inputs], [stack])
    for j, operand in enumerate(step.inputs):
      if pulled[j] is not None and (k, j) in tape.edges and matcher.is_upstream(operand):
        change = np.broadcast_to(pulled[j], (len(others), *pulled[j].shape[1:])) - tape.edges[k, j]
        yield Group({operand: change}, partial(say_each, texts))


def rounded_products(matcher: Matcher) -> Iterator[Whole]:
  """Every product of matrices, or every step, computed in a narrower dtype."""
  for name, dtype in NARROW:
    for only, what in (("dot_general", "products of matrices"), ("", "every step")):
      for inputs, outputs in ((True, False), (True, True), (False, True)):
        hook = partial(round_step, dtype, only, inputs, outputs)
        yield altered(matcher, f"precision: {what} in {name}", hook)


def round_step(
  dtype: type,
  only: str,
  is_in: bool,
  is_out: bool,
  tape: Tape,
  k: int,
  inputs: list[np.ndarray],
  bars: list[np.ndarray],
) -> list[np.ndarray | None] | None:
  """One step with rounded operands, a rounded result, or both."""
  if only and tape.steps[k].name != only:
    return None
  if is_in:
    inputs = [narrowed(dtype, x) if is_float(x.dtype) else x for x in inputs]
    bars = [narrowed(dtype, b) for b in bars]
  pulled = tape.pull(k, inputs, bars)
  if not is_out:
    return pulled
  return [None if b is None else narrowed(dtype, b) for b in pulled]


def looks_rounded(error: np.ndarray, want: np.ndarray) -> str | None:
  """The dtype whose rounding is of the size of the errors, where nothing reproduces them.

  Rounding is of either sign and touches nearly every entry.
  """
  scale = float(np.sqrt(np.mean(want**2))) if want.size else 0.0
  if want.size < 8 or not 0 < scale < np.inf or np.count_nonzero(error) < 0.75 * want.size:
    return None
  size = float(np.sqrt(np.mean(error**2)))
  if abs(float(error.mean())) > 0.75 * size:
    return None
  for name, dtype in NARROW:
    unit = float(ml_dtypes.finfo(dtype).eps) / 2
    if unit / 8 <= size / scale <= unit * 2:
      return f"precision: errors of the size of {name}'s rounding, {size / scale:.0e}"
  return None
