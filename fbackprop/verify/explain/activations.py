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
from scipy.special import erf, expit

from fbackprop.jaxprs import bind
from fbackprop.verify.explain.matching import MOST_ENTRIES, Matcher, Mutants, Sweep, swept
from fbackprop.verify.explain.patterns import NARROW, narrowed
from fbackprop.verify.explain.tape import Hook, Pulled, Tape, struct
from fbackprop.verify.interpret.evaluation import Evaluator
from fbackprop.verify.interpret.primitives import COMPARISONS, is_float

LONGEST_REGION = 24
# Offsets of the slope that autodiff takes at a kink.
EXCESS = (1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5, 3.0, -3.0)
# Derivatives in terms of the output y: of tanh, sigmoid, exp, softplus, the root.
FROM_OUTPUT = (
  lambda y: 1 - y * y,
  lambda y: y * (1 - y),
  lambda y: y,
  lambda y: -np.expm1(-y),
  lambda y: 0.5 / y,
)

Slopes = list[tuple[str, np.ndarray]]


class Region:
  """An elementwise function of one value inside the program, t = φ(s).

  Args:
    tape: the recorded program.
    source, sink: the places of s and t.
    steps: the steps between them, in order.
  """

  def __init__(self, tape: Tape, source: int, sink: int, steps: Sequence[int]) -> None:
    self.tape, self.source, self.sink, self.steps = tape, source, sink, steps
    shape = struct(np.shape(tape.values[source]), np.float64)
    self.program = jax.make_jaxpr(self.derivative)(shape)

  def derivative(self, x: Any) -> Any:
    """Compute φ', in JAX."""
    return jax.jvp(self.function, (x,), (jnp.ones_like(x),))[1]

  def function(self, x: Any) -> Any:
    """Compute φ."""
    found = {self.source: x}
    for k in self.steps:
      step = self.tape.steps[k]
      inputs = [found.get(i, self.tape.values[i]) for i in step.inputs]
      found.update(zip(step.outputs, bind(step.primitive, step.params, inputs), strict=True))
    return found[self.sink]

  def slopes(self, points: np.ndarray) -> np.ndarray:
    """Compute φ' at points `[E, ...]`."""
    return np.asarray(Evaluator().run_stacked(self.program, [points])[0])

  @property
  def name(self) -> str:
    """The abbreviated names of the steps."""
    names = [self.tape.steps[k].name for k in self.steps]
    return names[0] if len(names) == 1 else "(" + " ".join(dict.fromkeys(names)) + ")"


def find_regions(matcher: Matcher, is_longest: bool = False) -> Iterator[Region]:
  """Yield single steps, then the longest regions of one input, then those inside of these.

  Args:
    matcher: the matcher that holds the program.
    is_longest: whether only the longest are wanted.
  """
  tape = matcher.tape
  sources: dict[int, list[int]] = {}
  made_by = {step.outputs[0]: k for k, step in enumerate(tape.steps)}
  for step in tape.steps:
    sink = step.outputs[0]
    operands = {i for i in step.inputs if i in tape.depends}
    shape = np.shape(tape.values[sink])
    if not step.is_elementwise or any(np.shape(tape.values[i]) != shape for i in operands):
      continue
    common = [set(sources.get(i, [])) | {i} for i in operands]
    if common:
      sources[sink] = sorted(set.intersection(*common))
  found: list[tuple[int, int, list[int]]] = []
  for sink, starts in sources.items():
    for source in starts:
      if matcher.is_upstream(source) and matcher.is_upstream(sink):
        steps = between(tape, made_by, source, sink)
        if 0 < len(steps) <= LONGEST_REGION:
          found.append((source, sink, steps))
  longest = set()
  for sink in sources:
    ending = [f for f in found if f[1] == sink]
    is_inner = any(sink in tape.steps[k].inputs for f in found if f[1] != sink for k in f[2])
    if ending and not is_inner:
      longest.add(max(ending, key=lambda f: len(f[2]))[:2])
  found.sort(key=lambda f: (len(f[2]) > 1, f[:2] not in longest, -f[1]))
  for source, sink, steps in found:
    if is_longest and (source, sink) not in longest:
      continue
    if len(steps) > 1 or not is_linear(tape, steps[0]):
      yield Region(tape, source, sink, steps)


def is_linear(tape: Tape, k: int) -> bool:
  """Return whether a single step's derivative is constant."""
  return tape.steps[k].name in ("add", "sub", "neg", "copy", "convert_element_type")


def between(tape: Tape, made_by: dict[int, int], source: int, sink: int) -> list[int]:
  """Return the steps that compute the sink from the source."""
  found: set[int] = set()
  waiting = [sink]
  while waiting:
    place = waiting.pop()
    if place == source or place not in made_by or made_by[place] in found:
      continue
    k = made_by[place]
    found.add(k)
    waiting += [i for i in tape.steps[k].inputs if i in tape.depends]
  return sorted(found)


def named_slopes(s: np.ndarray) -> Slopes:
  """Return the derivatives of common functions at s; to add one, add a line."""
  one = np.ones_like(s)
  sigma = expit(s)
  tanh = np.tanh(s)
  c = np.sqrt(2 / np.pi)
  inner = np.tanh(c * (s + 0.044715 * s**3))
  normal = np.exp(-s * s / 2) / np.sqrt(2 * np.pi)
  quick = expit(1.702 * s)
  softplus = np.logaddexp(0, s)
  return [
    ("gelu's tanh form", 0.5 * (1 + inner)
      + 0.5 * s * (1 - inner**2) * c * (1 + 3 * 0.044715 * s * s)),
    ("gelu", 0.5 * (1 + erf(s / np.sqrt(2))) + s * normal),
    ("gelu without its second term", 0.5 * (1 + erf(s / np.sqrt(2)))),
    ("gelu's sigmoid form", quick + 1.702 * s * quick * (1 - quick)),
    ("silu", sigma + s * sigma * (1 - sigma)),
    ("sigmoid", sigma * (1 - sigma)),
    ("softplus", sigma),
    ("tanh", 1 - tanh**2),
    ("relu", np.where(s > 0, one, 0 * s)),
    ("elu", np.where(s > 0, one, np.exp(s))),
    ("mish", np.tanh(softplus) + s * sigma * (1 - np.tanh(softplus) ** 2)),
    ("relu6", np.where((s > 0) & (s < 6), one, 0 * s)),
    ("hard tanh", np.where(np.abs(s) < 1, one, 0 * s)),
    *((f"leaky relu of slope {a:g}", np.where(s > 0, one, a + 0 * s))
      for a in (0.01, 0.1, 0.2, 0.3)),
    ("exp", np.exp(s)), ("log", 1 / s), ("the square", 2 * s), ("the root", 0.5 / np.sqrt(s)),
    ("the absolute value", np.sign(s)),
  ]  # fmt: skip


def other_slopes(s: np.ndarray, y: np.ndarray, own: np.ndarray, name: str) -> Slopes:
  """Return likely mistakes for φ'(s) = `own`, y = φ(s): other derivatives, misspelt formulas."""
  formulas = [
    ("1 - y^2", 1 - y * y), ("1 - y", 1 - y), ("y", y), ("y (1 - y)", y * (1 - y)),
    ("1 + y^2", 1 + y * y), ("y^2", y * y), ("sign(y)", np.sign(y)), ("y > 0", (y > 0) + 0 * y),
    ("-y", -y), ("1 / y", 1 / y), ("2 y", 2 * y), ("y / 2", y / 2), ("y^3", y**3),
    ("1 - y'", 1 - own), ("y' squared", own**2), ("-y'", -own), ("1 / y'", 1 / own),
    ("0", 0 * own),
  ]  # fmt: skip
  misplaced = [("1 - s^2", 1 - s * s), ("s (1 - s)", s * (1 - s)), ("s", s), ("s^2", s * s)]
  functions = [("the identity", np.ones_like(s)), *named_slopes(s)]
  point = f"wrong point: the derivative of {name}, written for its output, at its input"
  found = [(f"{point}: {text}", v) for text, v in misplaced]
  found += [(instead_of(text, name), v) for text, v in functions]
  found += [(f"other function: {text} in place of the derivative of {name}", v)
            for text, v in formulas]  # fmt: skip
  # Slopes in terms of an output that was stored in a narrower dtype.
  for formula in FROM_OUTPUT:
    if np.allclose(formula(y), own, rtol=1e-9, atol=1e-12):
      found += [(f"precision: its output is kept in {narrow}", formula(narrowed(dtype, y)))
                for narrow, dtype in NARROW]  # fmt: skip
  return found


def instead_of(function: str, name: str) -> str:
  """Return the description of a derivative that is another function's."""
  return f"other function: the derivative of {function} in place of that of {name}"


def other_activations(matcher: Matcher) -> Iterator[Mutants]:
  """Yield the derivatives of other functions in place of the longest elementwise region's."""
  tape = matcher.tape
  for region in find_regions(matcher, is_longest=True):
    s = tape.stacked(region.source)
    own = region.slopes(s)
    # Slopes that are 0 or 1 at all these points don't identify a function.
    found = [(instead_of(name, region.name), x) for name, x in named_slopes(s) if np.ptp(x) > 0]
    if found:
      stack = np.concatenate([np.broadcast_to(slope, s.shape) for _, slope in found])
      bars = {region.source: tape.bars[region.sink] * (stack - own)}
      yield Mutants(bars, [text for text, _ in found])


def other_points(matcher: Matcher) -> Iterator[Mutants]:
  """Yield the derivative of each region at other values, and formulas mistaken for it."""
  tape = matcher.tape
  for region in find_regions(matcher):
    s, y = tape.stacked(region.source), tape.stacked(region.sink)
    own = region.slopes(s)
    if not is_float(own.dtype):
      continue
    others = [p for p in tape.alike(region.source) if p != region.sink]
    places = [region.sink, *others][: max(1, MOST_ENTRIES // max(1, s.size))]
    found = region.slopes(np.concatenate([tape.stacked(p) for p in places]))
    found = np.broadcast_to(found, (len(places), *s.shape[1:]))
    at = [f"its output {tape.describe(region.sink)}", *map(tape.describe, places[1:])]
    texts = [f"wrong point: the derivative of {region.name} at {where}" for where in at]
    slopes = other_slopes(s, y, own, region.name)
    straight = f"semantic: {region.name} is taken for the identity, a straight-through rule"
    is_identity = is_step_like(tape, region.steps)
    texts += [straight if is_identity and "the identity" in text else text for text, _ in slopes]
    stack = np.concatenate([found, *(np.broadcast_to(slope, s.shape) for _, slope in slopes)])
    yield Mutants({region.source: tape.bars[region.sink] * (stack - own)}, texts)


def is_step_like(tape: Tape, steps: Sequence[int]) -> bool:
  """Return whether a function clips or rounds: the usual functions of a straight-through rule."""
  names = {tape.steps[k].name for k in steps}
  return bool(names & {"clamp", "round", "floor", "ceil", "sign"}) or {"max", "min"} <= names


def at_outputs(matcher: Matcher) -> Iterator[Sweep]:
  """Yield the derivatives of one function at its output, in every layer."""
  tape = matcher.tape
  for name in dict.fromkeys(step.name for step in tape.steps if step.is_elementwise):
    text = f"wrong point: the derivatives of {name} at its outputs"
    yield swept(matcher, text, reading_outputs(tape, name))


def reading_outputs(tape: Tape, name: str) -> Hook:
  """Make the backward pass of elementwise steps of one name read outputs instead of inputs."""

  def hook(k: int, inputs: list[np.ndarray], bars: list[np.ndarray]) -> Pulled | None:
    step = tape.steps[k]
    if step.name != name:
      return None
    y = tape.stacked(step.outputs[0])
    own = [
      y if i in tape.depends and (x.shape, x.dtype) == (y.shape, y.dtype) else x
      for i, x in zip(step.inputs, inputs, strict=True)
    ]
    return tape.pull(k, own, bars)

  return hook


# --- Kinks ----------------------------------------------------------------------------------------


def slopes_at_kinks(matcher: Matcher) -> Iterator[Mutants]:
  """Yield other slopes at the ties of a comparison alone, beyond those of its two sides."""
  tape = matcher.tape
  ties = tied_entries(tape)
  for k, step in enumerate(tape.steps):
    out = step.outputs[0]
    if out not in tape.bars or not step.is_elementwise:
      continue
    shape = np.shape(tape.values[out])
    sites = (k, *comparisons_of(tape, k))
    masks = [mask for at, mask in ties.items() if mask.shape == shape and at in sites]
    for place in dict.fromkeys(i for i in step.inputs if matcher.is_upstream(i)):
      if np.shape(tape.values[place]) == shape:
        text = f"kink: another slope of {step.name} exactly at its kink"
        yield from (Mutants({place: mask * tape.bars[out]}, [text], EXCESS) for mask in masks)


def tied_entries(tape: Tape) -> dict[int, np.ndarray]:
  """Return the tied entries of each step with a tie."""
  found = {}
  for k, step in enumerate(tape.steps):
    values = [tape.values[i] for i in step.inputs]
    tied = None
    if step.name in (*COMPARISONS, "max", "min"):
      tied = values[0] == values[1]
    elif step.name in ("abs", "sign", "relu"):
      tied = values[0] == 0
    if tied is not None and np.any(tied):
      found[k] = np.broadcast_to(tied, np.shape(tape.values[step.outputs[0]]))
  return found


def comparisons_of(tape: Tape, k: int) -> list[int]:
  """Return the comparisons that decide a `select_n`."""
  if tape.steps[k].name != "select_n":
    return []
  condition = tape.steps[k].inputs[0]
  return [at for at, step in enumerate(tape.steps) if condition in step.outputs]
