"""Paths through the graph that are cut, counted twice or otherwise, or let through."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from fbackprop.verify.explain.matching import PRODUCT_SHARE, Group, Matcher, Whole, altered, say
from fbackprop.verify.explain.patterns import name_factor
from fbackprop.verify.explain.tape import Tape

PATH_FACTORS = (-1.0, 1.0, -2.0, -0.5, 2.0)


def stop_gradients(matcher: Matcher) -> Iterator[Group | Whole]:
  """Each `stop_gradient` of the reference let through, then all of them."""
  tape = matcher.tape
  stops = [k for k, step in enumerate(tape.steps) if step.name == "stop_gradient"]
  for k in stops:
    step = tape.steps[k]
    if step.outputs[0] in tape.bars and step.inputs[0] in tape.depends:
      where = tape.describe(step.inputs[0])
      text = f"stop_gradient: that of {where} is removed"
      yield Group({step.inputs[0]: tape.bars[step.outputs[0]]}, partial(say, text))
  if len(stops) > 1:
    yield altered(matcher, "stop_gradient: all are removed", let_through)


def let_through(
  tape: Tape, k: int, inputs: list[np.ndarray], bars: list[np.ndarray]
) -> list[np.ndarray | None] | None:
  """A `stop_gradient` that stops nothing."""
  return list(bars) if tape.steps[k].name == "stop_gradient" else None


def cut_paths(
  matcher: Matcher, sizes: Sequence[tuple[str, int]], is_free: bool = False
) -> Iterator[Group]:
  """Each edge of the graph, and each value, cut or counted otherwise; backwards."""
  for place, bar, where in path_bars(matcher):
    yield Group({place: bar}, partial(say_path, where, sizes), None if is_free else PATH_FACTORS)


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
        yield place, tape.bars[place], tape.describe(place)
    for j, place in enumerate(step.inputs):
      if (k, j) in tape.edges and matcher.is_upstream(place):
        where = f"{tape.describe(step.outputs[0])} to its operand {j}"
        if len(step.inputs) == 1:
          where = tape.describe(step.outputs[0])
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
      slack = matcher.slack[:, None, None] + PRODUCT_SHARE * (terms[:, :, None] + terms[:, None, :])
      for i, j in np.argwhere((left <= slack).all(0))[:8]:
        if i == j:
          continue
        (p, p_bar, p_name), (q, q_bar, q_name) = found[i], found[j]
        bars = {p: a * p_bar + b * q_bar} if p == q else {p: a * p_bar, q: b * q_bar}
        first = say_path(p_name, (), 0, a)
        second = say_path(q_name, (), 0, b).removeprefix("path: ")
        yield Group(bars, partial(say, f"{first}, and {second}"))
