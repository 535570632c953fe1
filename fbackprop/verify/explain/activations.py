"""Mutants of activations: another function's derivative, another point, another slope at a kink.

An activation is a region of the program: elementwise steps t = φ(s) of one value s. The mutants
replace its derivative by those of common functions, by misspelt formulas, and by φ' at other values
of the program.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.explain.patterns import NARROW
from fbackprop.verify.explain.search import Candidates, Mutants, Search, Sweep, replacing, room
from fbackprop.verify.explain.tape import Tape
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import COMPARISONS, rounded, special

LONGEST_REGION = 24
# Offsets of the slope that autodiff takes at a kink.
EXCESS = (1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5, 3.0, -3.0)
# Derivatives in terms of the output y: of tanh, sigmoid, exp, softplus, the root.
FROM_OUTPUT = (
  lambda y: 1 - y * y, lambda y: y * (1 - y), lambda y: y, lambda y: -np.expm1(-y),
  lambda y: 0.5 / y,
)  # fmt: skip


class Region:
  """An elementwise function of one value inside the program, t = φ(s).

  Args:
    tape: the recorded program.
    source, sink: the places of s and t.
    steps: the steps between them, in order.

  Attributes:
    name: the abbreviated names of the steps.
    s, y, own: the values of s and t, and φ'(s), each with an axis of one sample.
  """

  def __init__(self, tape: Tape, source: int, sink: int, steps: Sequence[int]) -> None:
    self.tape, self.source, self.sink, self.steps = tape, source, sink, steps
    names = list(dict.fromkeys(tape.steps[k].name for k in steps))
    self.name = names[0] if len(steps) == 1 else f"({' '.join(names)})"
    self.s, self.y = tape.values[source][None], tape.values[sink][None]

    def function(x: Any) -> Any:
      found = {source: x}
      for k in steps:
        values = [found.get(i, tape.values[i]) for i in tape.steps[k].inputs]
        found |= zip(tape.steps[k].outputs, tape.steps[k].bind(values), strict=True)
      return found[sink]

    one = jnp.ones_like(self.s[0])
    self.program = jax.make_jaxpr(lambda x: jax.jvp(function, (x,), (one,))[1])(self.s[0])
    self.own = self.slopes([self.s])

  def slopes(self, points: Sequence[np.ndarray]) -> np.ndarray:
    """Compute φ' at points, each with an axis of one sample."""
    at = np.concatenate(points)
    return np.broadcast_to(Evaluator().run_stacked(self.program, [at])[0], at.shape)

  def replaced(self, slopes: Candidates) -> Iterator[Mutants]:
    """Yield the mutants with other slopes."""
    bar = self.tape.bars[self.sink]
    return replacing(self.source, bar * self.own, ((text, bar * x) for text, x in slopes))


def find_regions(search: Search, is_longest: bool = False) -> Iterator[Region]:
  """Yield single steps, then the longest regions of one input, then those inside of these.

  Args:
    search: the search that holds the program.
    is_longest: whether only the longest are wanted.
  """
  tape = search.tape
  regions: dict[int, dict[int, set[int]]] = {}  # The steps, by sink and source.
  for k, step in enumerate(tape.steps):
    sink = step.outputs[0]
    operands = {i for i in step.inputs if i in tape.depends}
    shapes = {np.shape(tape.values[i]) for i in (sink, *operands)}
    if step.is_elementwise and operands and len(shapes) == 1:
      known: list[dict[int, set[int]]] = [{i: set()} | regions.get(i, {}) for i in operands]
      sources = set.intersection(*map(set, known))
      regions[sink] = {i: {k}.union(*(each[i] for each in known)) for i in sorted(sources)}
  found = [
    (source, sink, sorted(steps))
    for sink, by_source in regions.items()
    for source, steps in by_source.items()
    if search.is_upstream(source) and search.is_upstream(sink) and len(steps) <= LONGEST_REGION
  ]
  inner = {i for _, _, steps in found for k in steps for i in tape.steps[k].inputs}
  longest = {
    max((f for f in found if f[1] == sink), key=lambda f: len(f[2]))[:2]
    for sink in {f[1] for f in found} - inner
  }
  found.sort(key=lambda f: (len(f[2]) > 1, f[:2] not in longest, -f[1]))
  for source, sink, steps in found:
    is_wanted = (source, sink) in longest or not is_longest
    if is_wanted and (len(steps) > 1 or not is_linear(tape, steps[0])):
      yield Region(tape, source, sink, steps)


def is_linear(tape: Tape, k: int) -> bool:
  """Return whether a single step's derivative is constant."""
  return tape.steps[k].name in ("add", "sub", "neg", "copy", "convert_element_type")


def named_slopes(s: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """Return the derivatives of common functions at s; to add one, add a line."""
  erf, expit = special("erf"), special("expit")
  sigma, tanh, softplus = expit(s), np.tanh(s), np.logaddexp(0, s)
  c = np.sqrt(2 / np.pi)
  inner = np.tanh(c * (s + 0.044715 * s**3))
  normal = np.exp(-s * s / 2) / np.sqrt(2 * np.pi)
  quick = expit(1.702 * s)
  return [
    ("gelu's tanh form", 0.5 * (1 + inner)
      + 0.5 * s * (1 - inner**2) * c * (1 + 3 * 0.044715 * s * s)),
    ("gelu", 0.5 * (1 + erf(s / np.sqrt(2))) + s * normal),
    ("gelu without its second term", 0.5 * (1 + erf(s / np.sqrt(2)))),
    ("gelu's sigmoid form", quick + 1.702 * s * quick * (1 - quick)),
    ("silu", sigma + s * sigma * (1 - sigma)), ("sigmoid", sigma * (1 - sigma)),
    ("softplus", sigma), ("tanh", 1 - tanh**2), ("relu", 1.0 * (s > 0)),
    ("elu", np.where(s > 0, 1.0, np.exp(s))),
    ("mish", np.tanh(softplus) + s * sigma * (1 - np.tanh(softplus) ** 2)),
    ("relu6", 1.0 * ((s > 0) & (s < 6))), ("hard tanh", 1.0 * (np.abs(s) < 1)),
    *((f"leaky relu of slope {a:g}", np.where(s > 0, 1.0, a)) for a in (0.01, 0.1, 0.2, 0.3)),
    ("exp", np.exp(s)), ("log", 1 / s), ("the square", 2 * s), ("the root", 0.5 / np.sqrt(s)),
    ("the absolute value", np.sign(s)),
  ]  # fmt: skip


def other_slopes(region: Region) -> Candidates:
  """Yield likely mistakes for the derivative: of other functions, misspelt formulas."""
  s, y, own, name = region.s, region.y, region.own, region.name
  for text, x in [("1 - s^2", 1 - s * s), ("s (1 - s)", s * (1 - s)), ("s", s), ("s^2", s * s)]:
    yield f"wrong point: the derivative of {name}, written for its output, at its input: {text}", x
  # Functions that clip or round are those of a straight-through rule.
  names = {region.tape.steps[k].name for k in region.steps}
  is_step_like = names & {"clamp", "round", "floor", "ceil", "sign"} or {"max", "min"} <= names
  straight = f"semantic: {name} is taken for the identity, a straight-through rule"
  yield straight if is_step_like else instead_of("the identity", name), np.ones_like(s)
  for text, x in named_slopes(s):
    yield instead_of(text, name), x
  for text, x in [
    ("1 - y^2", 1 - y * y), ("1 - y", 1 - y), ("y", y), ("y (1 - y)", y * (1 - y)),
    ("1 + y^2", 1 + y * y), ("y^2", y * y), ("sign(y)", np.sign(y)), ("y > 0", (y > 0) + 0 * y),
    ("-y", -y), ("1 / y", 1 / y), ("2 y", 2 * y), ("y / 2", y / 2), ("y^3", y**3),
    ("1 - y'", 1 - own), ("y' squared", own**2), ("-y'", -own), ("1 / y'", 1 / own),
    ("0", 0 * own),
  ]:  # fmt: skip
    yield f"other function: {text} in place of the derivative of {name}", x
  # Slopes in terms of an output that was stored in a narrower dtype.
  for formula in FROM_OUTPUT:
    if np.allclose(formula(y), own, rtol=1e-9, atol=1e-12):
      for narrow, dtype in NARROW:
        yield f"precision: its output is kept in {narrow}", formula(rounded(y, dtype))


def instead_of(function: str, name: str) -> str:
  """Return the description of a derivative that is another function's."""
  return f"other function: the derivative of {function} in place of that of {name}"


def other_activations(search: Search) -> Iterator[Mutants]:
  """Yield the derivatives of other functions in place of the longest elementwise region's."""
  for region in find_regions(search, is_longest=True):
    # Slopes that are 0 or 1 at all these points don't identify a function.
    slopes = ((text, x) for text, x in named_slopes(region.s) if np.ptp(x) > 0)
    yield from region.replaced((instead_of(text, region.name), x) for text, x in slopes)


def other_points(search: Search) -> Iterator[Mutants]:
  """Yield the derivative of each region at other values, and formulas mistaken for it."""
  tape = search.tape
  for region in find_regions(search):
    others = [p for p in tape.alike(region.source) if p != region.sink]
    places = [region.sink, *others][: room(region.s)]
    slopes = region.slopes([tape.values[p][None] for p in places])
    at = [f"its output {tape.describe(region.sink)}", *map(tape.describe, places[1:])]
    texts = [f"wrong point: the derivative of {region.name} at {where}" for where in at]
    yield from region.replaced(zip(texts, slopes, strict=True))
    yield from region.replaced(other_slopes(region))


def at_outputs(search: Search) -> Iterator[Sweep]:
  """Yield the derivatives of one function at its output, in every layer."""
  tape = search.tape
  found: dict[str, dict[int, dict[int, int]]] = {}
  for k, step in enumerate(tape.steps):
    if step.is_elementwise:
      shape, read = np.shape(tape.values[step.outputs[0]]), enumerate(step.inputs)
      alike = [j for j, i in read if i in tape.depends and np.shape(tape.values[i]) == shape]
      found.setdefault(step.name, {})[k] = dict.fromkeys(alike, step.outputs[0])
  for name, places in found.items():
    text = f"wrong point: the derivatives of {name} at its outputs"
    yield Sweep(text, tape.pulled(pull=tape.reading(places)))


def slopes_at_kinks(search: Search) -> Iterator[Mutants]:
  """Yield other slopes at the ties of a comparison alone, beyond those of its two sides."""
  tape = search.tape
  ties = {
    k: np.equal(*[*(tape.values[i] for i in step.inputs), 0][:2])
    for k, step in enumerate(tape.steps)
    if step.name in (*COMPARISONS, "max", "min", "abs", "sign", "relu")
  }
  for k, step in enumerate(tape.steps):
    out, shape = step.outputs[0], np.shape(tape.values[step.outputs[0]])
    if out not in tape.bars or not step.is_elementwise:
      continue
    # A comparison decides a `select_n`.
    sites = [k, tape.maker.get(step.inputs[0])] if step.name == "select_n" else [k]
    masks = [mask for at, mask in ties.items() if at in sites and np.shape(mask) == shape]
    for place in filter(search.is_upstream, dict.fromkeys(step.inputs)):
      for mask in masks:
        if mask.any() and np.shape(tape.values[place]) == shape:
          bars = np.concatenate([excess * (mask * tape.bars[out]) for excess in EXCESS])
          text = f"kink: another slope of {step.name} exactly at its kink"
          yield Mutants({place: bars}, [text] * len(EXCESS))
