"""Mutants of cotangents: paths cut or weighted; cotangents altered, exchanged, cut to a subset."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np

from fbackprop.verify.explain import patterns
from fbackprop.verify.explain.search import Candidates, Mutants, Search, Sweep, replacing, room
from fbackprop.verify.explain.tape import Pulled, Tape
from fbackprop.verify.interpret.primitives import is_float, rounded

# The weights of a path, instead of 1.
WEIGHTS = (0.0, 2.0, -1.0, 0.5, 3.0)
# The number of a path's mutants that are compared at once.
BATCH = 100
# The most paths that are tried in pairs.
MOST_PATHS = 400
# With fewer wrong entries a free factor would always fit.
LEAST_WRONG = 4
# Up to this many examples, the search covers runs that touch neither end.
LONGEST_FOR_RANGES = 256
MOST_FOR_THRESHOLDS = 20_000
# A threshold must pick its entries out of so many equally large sets: in an array of few entries,
# any of them are the largest of some value.
LEAST_CHOICE = 30
Change = Callable[[np.ndarray], np.ndarray]
LIMITS = (1.0, 0.1, 0.5, 2.0, 5.0, 10.0, 0.01, 1e-3, 100.0)
# Nonlinear operations on a cotangent.
NONLINEAR: tuple[tuple[str, Change], ...] = (
  ("its sign alone", np.sign),
  ("its absolute value", np.abs),
  ("squared", np.square),
  ("negative entries cut off", lambda bar: np.maximum(bar, 0.0)),
)
OF_OUTPUTS: tuple[tuple[str, Change], ...] = (
  ("ignored, as if it were 1", np.ones_like),
  *NONLINEAR[:3],
  ("squared with its sign", lambda bar: bar * np.abs(bar)),
  ("its mean everywhere", lambda bar: np.full_like(bar, bar.mean())),
  ("its sum everywhere", lambda bar: np.full_like(bar, bar.sum())),
  ("its first entry everywhere", lambda bar: np.full_like(bar, bar.flat[0] if bar.size else 0.0)),
  ("that of the first example for all", lambda bar: 0 * bar + bar[:, :1] if bar.ndim > 1 else bar),
  ("divided by its norm", lambda bar: bar / (np.linalg.norm(bar) or 1.0)),
  ("divided by its largest entry", lambda bar: bar / (np.max(np.abs(bar), initial=0.0) or 1.0)),
  *NONLINEAR[3:],
  *((f"clipped to [{-x:g}, {x:g}]", partial(np.clip, a_min=-x, a_max=x)) for x in LIMITS),
)


Cotangents = Callable[[Search, int, np.ndarray, str], Candidates]


def on_paths(others: Cotangents, search: Search, times: int = 1) -> Iterator[Mutants]:
  """Yield the mutants of each path whose cotangent is one of others, as far as there is room."""
  for place, bar, where in search.paths:
    cotangents = islice(others(search, place, bar, where), times * room(bar))
    while batch := list(islice(cotangents, BATCH)):
      yield from replacing(place, bar, batch)


# --- Paths ----------------------------------------------------------------------------------------


def cut(search: Search, place: int, bar: np.ndarray, where: str) -> Candidates:
  """Yield a cotangent that is cut or reweighted."""
  for weight in WEIGHTS:
    yield f"path: the one through {where} {weighted(weight, search)}", weight * bar


def weighted(weight: float, search: Search) -> str:
  """Describe the fault of a path that contributes so many times its cotangent."""
  known = {0.0: "is missing", 2.0: "is counted twice", -1.0: "has the wrong sign"}
  name = patterns.name_factor(weight, search.sizes) or f"{weight:.8g}"
  return known.get(weight, f"is counted with the factor {name}")


def weighted_paths(search: Search) -> Iterator[Sweep]:
  """Yield each path with a weight fitted by least squares."""
  paths = enumerate(search.paths) if search.wrong >= LEAST_WRONG else ()
  for number, (place, bar, where) in paths:
    found, terms = (x[:, 0] for x in search.products(place, bar))
    factor = found @ search.target / (found @ found)
    if search.fits(factor * found, abs(factor) * terms):
      changes = search.tape.pulled({place: bar})
      change = changes[search.index][0]  # The leaf's entries know the factor better.
      fitted = float(np.vdot(change, search.error) / np.vdot(change, change))
      for factor in search.free(("weight", number), fitted):
        leaves = [w + factor * c for w, c in zip(search.tape.wants, changes, strict=True)]
        yield Sweep(f"path: the one through {where} {weighted(1 + factor, search)}", leaves)


def pairs_of_paths(search: Search) -> Iterator[Mutants]:
  """Yield pairs of paths, each missing, doubled or of the wrong sign."""
  found = search.paths[:MOST_PATHS]
  products = [search.products(place, bar) for place, bar, _ in found]
  s, terms = np.moveaxis(np.array(products).reshape(len(found), 2, search.target.size), 0, -1)
  for a in WEIGHTS[:3]:
    for b in WEIGHTS[:3]:
      both = (a - 1) * s[:, :, None] + (b - 1) * s[:, None, :]
      fits = search.fits(both, terms[:, :, None] + terms[:, None, :])
      for i, j in np.argwhere(fits)[:8]:
        (p, p_bar, p_name), (q, q_bar, q_name) = found[i], found[j]
        bars = {p: (a - 1) * p_bar}
        bars[q] = bars.get(q, 0.0) + (b - 1) * q_bar
        text = f"path: the one through {p_name} {weighted(a, search)}"
        if i != j:
          yield Mutants(bars, [f"{text}, and the one through {q_name} {weighted(b, search)}"])


def stop_gradients(search: Search) -> Iterator[Mutants | Sweep]:
  """Yield each `stop_gradient` of the reference removed, then all of them."""
  tape = search.tape
  stops = [k for k, step in enumerate(tape.steps) if step.name == "stop_gradient"]
  for k in stops:
    (place, *_), (out, *_) = tape.steps[k].inputs, tape.steps[k].outputs
    if out in tape.bars and place in tape.depends:
      text = f"stop_gradient: that of {tape.describe(place)} is removed"
      yield Mutants({place: tape.bars[out]}, [text])

  def let_through(k: int, inputs: list[np.ndarray], bars: list[np.ndarray]) -> Pulled:
    return [*bars] if k in stops else tape.pull(k, inputs, bars)

  if len(stops) > 1:
    yield Sweep("stop_gradient: all are removed", tape.pulled(pull=let_through))


# --- Altered cotangents ---------------------------------------------------------------------------


def output_cotangents(search: Search) -> Iterator[Sweep]:
  """Yield the pullbacks of altered output cotangents."""
  y_bars = search.tape.y_bars
  for text, change in OF_OUTPUTS:
    bars = {place: np.asarray(change(bar)) for place, bar in y_bars.items()}
    if not all(np.array_equal(bars[place], bar) for place, bar in y_bars.items()):
      yield Sweep(f"cotangent: {text}", search.tape.pulled(bars))


def altered(search: Search, place: int, bar: np.ndarray, where: str) -> Candidates:
  """Yield a cotangent that is rounded, flipped, clipped, or made positive."""
  yield from patterns.rearranged(bar[0], f"the cotangent of {where}")
  for limit in LIMITS:
    text = f"clipped: the cotangent of {where} to [{-limit:g}, {limit:g}]"
    yield text, np.clip(bar, -limit, limit)
  for text, change in NONLINEAR:
    yield f"cotangent: that of {where}, {text}", change(bar)


def rounded_products(search: Search) -> Iterator[Sweep]:
  """Yield every product of matrices, or every step, computed in a narrower dtype."""
  for name, dtype in patterns.NARROW:
    narrow = partial(rounded, dtype=dtype)
    for only, what in (("dot_general", "products of matrices"), ("", "every step")):
      for before, after in ((narrow, np.asarray), (narrow, narrow), (np.asarray, narrow)):
        pulled = with_rounding(search.tape, only, before, after)
        yield Sweep(f"precision: {what} in {name}", pulled)


def with_rounding(tape: Tape, only: str, before: Change, after: Change) -> list[np.ndarray]:
  """Return the leaves' cotangents if steps round their operands, their results, or both."""

  def pull(k: int, inputs: list[np.ndarray], bars: list[np.ndarray]) -> Pulled:
    if only not in ("", tape.steps[k].name):
      return tape.pull(k, inputs, bars)
    inputs = [before(x) if is_float(x.dtype) else x for x in inputs]
    return [b if b is None else after(b) for b in tape.pull(k, inputs, list(map(before, bars)))]

  return tape.pulled(pull=pull)


def exchanged(search: Search, place: int, bar: np.ndarray, where: str) -> Candidates:
  """Yield another cotangent of the same size, or one summed along another axis."""
  for other, name in search.by_shape[bar.squeeze().shape][: max(1, room(bar) // 4)]:
    other = other.reshape(bar.shape)
    yield f"path: the cotangent of {name} replaces that of {where}", other
    yield f"path: minus the cotangent of {name} replaces that of {where}", -other
    yield f"path: the cotangent of {name} is added to that of {where}", bar + other
    for axis in range(1, bar.ndim) if bar.ndim > 2 else ():
      total = np.broadcast_to(other.sum(axis, keepdims=True), bar.shape)
      own = bar.shape[axis]
      counts = [n for n in dict.fromkeys((own, *bar.shape[1:])) if n > 1]
      means = [(f"sum / {n}" if n != own else "mean", 1.0 / n) for n in counts]
      for what, factor in (("sum", 1.0), ("negated sum", -1.0), *means):
        text = f"path: the cotangent of {name}, its {what} over axis {axis - 1}, replaces that of "
        yield text + where, factor * total


def multiplied(search: Search, place: int, bar: np.ndarray, where: str) -> Candidates:
  """Yield a cotangent with one factor too many, or one too few."""
  tape = search.tape
  for i in tape.alike(place, is_own=True):
    for what, change in (("multiplied", np.multiply), ("divided", np.divide)):
      text = f"other function: the cotangent of {where} is {what} by {tape.describe(i)}"
      yield text, change(bar, tape.values[i][None])


def untransposed_steps(search: Search) -> Iterator[Mutants]:
  """Yield each linear step applied to its cotangent, instead of its transpose."""
  tape = search.tape
  for (k, j), bar in sorted(tape.edges.items()):
    step = tape.steps[k]
    place, out = step.inputs[j], step.outputs[0]
    is_square = np.shape(tape.values[place]) == np.shape(tape.values[out])
    if is_square and search.is_upstream(place) and not step.is_elementwise:
      values = [tape.values[i] for i in step.inputs]
      values[j] = tape.bars[out][0]
      text = f"other function: {step.name} itself replaces its transpose"
      yield from replacing(place, bar, [(text, step.evaluate(values)[0])])


# --- Subsets of a cotangent -----------------------------------------------------------------------


def left_out(search: Search, place: int, bar: np.ndarray, where: str, axes: slice) -> Candidates:
  """Yield a cotangent without slices along some axes, or with slices that count twice."""
  terms = bar * search.tangents[place]
  magnitude = np.abs(terms).reshape(len(terms), -1).sum(1, keepdims=True)
  for axis in range(1, bar.ndim)[axes]:
    n = bar.shape[axis]
    each = terms.sum(tuple(a for a in range(1, bar.ndim) if a != axis))
    for k, what in ((-1.0, "left out"), (1.0, "counted twice")) if 2 <= n <= 4096 else ():
      for selected in fitting_sets(k * each, partial(search.fits, terms=magnitude)):
        part = bar.copy()
        part[(slice(None),) * axis + (selected,)] *= 1 + k
        along = "" if axis == 1 else f" along axis {axis - 1}"
        where = f"{patterns.describe_indices(selected, n)}{along} of {search.tape.describe(place)}"
        yield f"subset of examples: {where} {what}", part


def fitting_sets(each: np.ndarray, fits: Callable[..., np.ndarray]) -> Iterator[np.ndarray]:
  """Yield sets of columns of `each` `[DIRECTIONS, n]` whose sum fits."""
  n = each.shape[1]
  index = np.arange(n)
  sums = np.concatenate([np.zeros((len(each), 1)), np.cumsum(each, 1)], 1)
  # Single columns, the first ones, the last ones, and those that touch neither end.
  ranges = [(index, index + 1), (0 * index[2:], index[2:]), (index[1:-1], n + 0 * index[1:-1])]
  if n <= LONGEST_FOR_RANGES:
    first, last = np.triu_indices(n - 1, 2)
    ranges.append((first + 1, last + 1))
  for starts, ends in ranges:
    for m in np.flatnonzero(fits(sums[:, ends] - sums[:, starts])):
      yield index[starts[m] : ends[m]]
  for step in range(2, min(5, n)):
    for start in range(step):
      if fits(each[:, start::step].sum(1, keepdims=True)):
        yield index[start::step]


def beyond_thresholds(search: Search, place: int, bar: np.ndarray, where: str) -> Candidates:
  """Yield a cotangent that is cut off where a value of its shape is large, or small."""
  tape = search.tape
  terms = (bar * search.tangents[place]).reshape(len(search.target), -1)
  magnitude = np.abs(terms).sum(1, keepdims=True)
  for other in tape.alike(place, is_own=True) if 2 <= bar.size <= MOST_FOR_THRESHOLDS else ():
    value = np.asarray(tape.values[other]).ravel()
    for sense, key in (("", value), ("the magnitude of ", np.abs(value))):
      for sign, relation in ((1.0, "below"), (-1.0, "above")):
        order = np.argsort(sign * key, kind="stable")
        fits = search.fits(-np.cumsum(terms[:, order], 1)[:, :-1], magnitude)
        for m in np.flatnonzero(fits & (np.diff(sign * key[order]) > 0)):
          if math.comb(len(key), min(int(m) + 1, len(key) - int(m) - 1, 2)) < LEAST_CHOICE:
            continue
          kept = bar.copy()
          kept.flat[order[: m + 1]] = 0.0
          last, after = sign * key[order[m]], sign * key[order[m + 1]]
          for low, high in search.free(("threshold", place, other, sense, sign), (last, after)):
            if last < high and low < after:  # The limit lies between, at both points.
              limit = f"{tape.describe(other)} is {relation} some {sign * low:.3g}"
              yield f"other function: nothing passes through {where} where {sense}{limit}", kept


def weighted_examples(search: Search) -> Iterator[Mutants]:
  """Yield examples with individual factors, fitted by least squares."""
  tape, error = search.tape, search.error.ravel()
  alike, readers = {tape.float_leaves[search.index]}, list(tape.outputs)
  for step in tape.steps:  # Those that read the leaf, also through broadcasts.
    if not alike.isdisjoint(step.inputs):
      readers += step.outputs
      alike.update(step.outputs if step.name in ("broadcast_in_dim", "reshape") else ())
  for place in filter(search.is_upstream, dict.fromkeys(readers)):
    bar = tape.bars[place]
    n = bar.shape[1] if bar.ndim > 1 else 0
    if not 2 <= n <= 128 or n + 2 > error.size or n > room(error):
      continue
    masked = np.eye(n).reshape(n, n, *(1,) * (bar.ndim - 2)) * bar
    each = tape.pulled({place: masked})[search.index].reshape(n, -1)
    factors = np.linalg.lstsq(each.T, error, rcond=None)[0]
    factors = np.where(np.abs(factors) < 1e-9, 0.0, factors)
    exact = np.where(np.abs(factors - np.round(factors)) < 1e-7, np.round(factors), factors)
    for weights in search.free(("weights of examples", place), exact):
      wrong = np.flatnonzero(weights)
      if not len(wrong) or np.ptp(weights) < 1e-9:
        continue
      counts = sorted({float(f"{1 + c:.6g}") for c in weights[wrong]})
      what = "left out" if counts == [0.0] else f"counted {', '.join(map(str, counts[:4]))} times"
      text = f"subset of examples: {patterns.describe_indices(wrong, n)} {what}"
      yield Mutants({place: np.tensordot(weights, masked, 1)[None]}, [text])
