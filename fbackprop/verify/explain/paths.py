"""Mutants of the graph: paths cut, weighted, unblocked, or rounded."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from fbackprop.verify.explain.matching import PRODUCT_SHARE, Matcher, Mutants, Sweep, swept
from fbackprop.verify.explain.patterns import NARROW, name_factor, narrowed
from fbackprop.verify.explain.tape import Hook, Pulled, Tape
from fbackprop.verify.interpret.primitives import is_float

PATH_FACTORS = (-1.0, 1.0, -2.0, -0.5, 2.0)
# The most paths that are tried in pairs.
MOST_PATHS = 400


def path_bars(matcher: Matcher) -> Iterator[tuple[int, np.ndarray, str]]:
  """Yield the cotangents that can be cut: those of values, and those of single uses of a value."""
  tape = matcher.tape
  uses: dict[int, int] = {}
  for k, j in tape.edges:
    uses[tape.steps[k].inputs[j]] = uses.get(tape.steps[k].inputs[j], 0) + 1
  for k in range(len(tape.steps) - 1, -1, -1):
    step = tape.steps[k]
    for place in step.outputs:
      if uses.get(place, 0) != 1 and matcher.is_upstream(place):
        yield place, tape.bars[place], tape.describe(place)
    for j, place in enumerate(step.inputs):
      if (k, j) in tape.edges and matcher.is_upstream(place):
        where = tape.describe(step.outputs[0])
        yield place, tape.edges[k, j], where + f" to its operand {j}" * (len(step.inputs) > 1)


def cut_paths(matcher: Matcher, is_free: bool = False) -> Iterator[Mutants]:
  """Yield each edge of the graph, and each value, cut or reweighted; from the last to the first."""
  for place, bar, where in path_bars(matcher):
    say = partial(describe_path, where, matcher.sizes)
    yield Mutants({place: bar}, say, None if is_free else PATH_FACTORS)


def weighted_paths(matcher: Matcher) -> Iterator[Mutants]:
  """Yield each edge with a free weight."""
  return cut_paths(matcher, is_free=True)


def describe_path(where: str, sizes: Sequence[tuple[str, int]], k: float) -> str:
  """Describe the fault of a path that contributes 1 + k times its cotangent."""
  known = {-1.0: "is missing", 1.0: "is counted twice", -2.0: "has the wrong sign"}
  if k in known:
    return f"path: the one through {where} {known[k]}"
  name = name_factor(1 + k, sizes) or f"{1 + k:.8g}"
  return f"path: the one through {where} is counted with the factor {name}"


def pairs_of_paths(matcher: Matcher) -> Iterator[Mutants]:
  """Yield pairs of paths, each missing, doubled or of the wrong sign."""
  found = list(path_bars(matcher))[:MOST_PATHS]
  if len(found) < 2:
    return
  products = [matcher.products(place, bar) for place, bar, _ in found]
  s, terms = (np.stack([p[i][:, 0] for p in products], 1) for i in (0, 1))
  target = matcher.target[:, None, None]
  slack = matcher.slack[:, None, None] + PRODUCT_SHARE * (terms[:, :, None] + terms[:, None, :])
  for a in (-1.0, 1.0, -2.0):
    for b in (-1.0, 1.0, -2.0):
      left = np.abs(a * s[:, :, None] + b * s[:, None, :] - target)
      for i, j in np.argwhere((left <= slack).all(0))[:8]:
        if i == j:
          continue
        (p, p_bar, p_name), (q, q_bar, q_name) = found[i], found[j]
        bars = {p: a * p_bar + b * q_bar} if p == q else {p: a * p_bar, q: b * q_bar}
        second = describe_path(q_name, (), b).removeprefix("path: ")
        yield Mutants(bars, [f"{describe_path(p_name, (), a)}, and {second}"])


def stop_gradients(matcher: Matcher) -> Iterator[Mutants | Sweep]:
  """Yield each `stop_gradient` of the reference removed, then all of them."""
  tape = matcher.tape
  stops = [k for k, step in enumerate(tape.steps) if step.name == "stop_gradient"]
  for k in stops:
    (place, *_), (out, *_) = tape.steps[k].inputs, tape.steps[k].outputs
    if out in tape.bars and place in tape.depends:
      text = f"stop_gradient: that of {tape.describe(place)} is removed"
      yield Mutants({place: tape.bars[out]}, [text])
  if len(stops) > 1:

    def let_through(k: int, _: list[np.ndarray], bars: list[np.ndarray]) -> Pulled | None:
      return list(bars) if k in stops else None

    yield swept(matcher, "stop_gradient: all are removed", let_through)


def rounded_products(matcher: Matcher) -> Iterator[Sweep]:
  """Yield every product of matrices, or every step, computed in a narrower dtype."""
  for name, dtype in NARROW:
    for only, what in (("dot_general", "products of matrices"), ("", "every step")):
      for is_in, is_out in ((True, False), (True, True), (False, True)):
        hook = rounding(matcher.tape, dtype, only, is_in, is_out)
        yield swept(matcher, f"precision: {what} in {name}", hook)


def rounding(tape: Tape, dtype: Any, only: str, is_in: bool, is_out: bool) -> Hook:
  """Return the rule of steps with rounded operands, a rounded result, or both."""

  def hook(k: int, inputs: list[np.ndarray], bars: list[np.ndarray]) -> Pulled | None:
    if only and tape.steps[k].name != only:
      return None
    if is_in:
      inputs = [narrowed(dtype, x) if is_float(x.dtype) else x for x in inputs]
      bars = [narrowed(dtype, b) for b in bars]
    pulled = tape.pull(k, inputs, bars)
    return [None if b is None else narrowed(dtype, b) for b in pulled] if is_out else pulled

  return hook
