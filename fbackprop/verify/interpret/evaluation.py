"""An interpreter of traced programs in float64 that estimates the rounding error of its results.

A running error analysis (Higham, §3.3) is rigorous and, through more than a layer or two, vacuous:
it adds up magnitudes where errors cancel. So the error is not bounded but estimated, by Monte Carlo
arithmetic. The program is evaluated on a batch of samples; in all but the first, the result of
every operation is perturbed at random by the size of its rounding error, and the spread of the
samples estimates the rounding error of the result. Correlations are preserved: an error made once
and used a thousand times counts a thousand times, and x − x is zero.

A comparison whose two sides lie within their spread of each other is fragile: rounding might decide
it. Its outcome is then drawn for each sample, so that the spread covers both branches. Exact
equality is not fragile: it is a tie, decided as the program is written.

Complex numbers are rounded by their parts; those of a product, or of a Fourier transform, relative
to the terms that were added, which may cancel. Long loops are compiled (`loops`).

Doubts: a spread of few samples is an estimate, which `witnesses.verdicts` pools over rows and
columns and multiplies generously; no verdict should hang on a factor of two of it. The perturbation
of a sum, 1 + √K/4 units for K terms, models a random walk of rounding errors, not their worst case.
The branch of a `cond` and the number of iterations of a loop are those of the unperturbed sample.
Primitives that only JAX evaluates, such as kernels and callbacks, may compute in a narrower dtype:
they are reported by name.

References:
  Higham, "Accuracy and Stability of Numerical Algorithms", SIAM, 2002, §3.3; Parker, "Monte Carlo
  arithmetic", UCLA CSD-970002 (1997); Vignes, "Discrete stochastic arithmetic for validating
  results of numerical software", Numerical Algorithms 37 (2004).
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from fbackprop import jaxprs
from fbackprop.jaxprs import Place, Program
from fbackprop.verify.deadline import check_time
from fbackprop.verify.interpret import indexing, linear_algebra, loops, primitives
from fbackprop.verify.interpret.loops import MOST_TURNS
from fbackprop.verify.interpret.primitives import (
  Samples,
  digits,
  held,
  is_complex,
  is_float,
  is_real,
  is_rounded,
  lifted,
  part_dtype,
)

# A comparison is fragile if its sides differ by less than this many spreads.
FRAGILE = 4.0
# Random numbers are slices of one pool at changing offsets: drawing new ones for every operation
# would take longer than the operation.
POOL = np.random.default_rng(0).uniform(-1.0, 1.0, 1 << 20).astype(np.float32)


class Noise(NamedTuple):
  """The perturbations of an evaluation.

  Attributes:
    samples: the number of samples, including the unperturbed first one.
    unit: the largest relative error of one rounding. The default is a little above float64's, so
      that a perturbation of this size changes the number.
    tiny: the magnitude below which a result may be flushed to zero.
    constants: the relative error of constants in a program traced in a narrower dtype.
    seed: the seed of the draws.
    by_dtype: whether `unit` is that of the working dtype, so that a value computed in a narrower
      one, or cast to it, has the rounding error of that one.
  """

  samples: int = 5
  unit: float = 2.0**-51
  tiny: float = 0.0
  constants: float = 0.0
  seed: int = 0
  by_dtype: bool = False


# Of a longer loop the comparisons of the first iterations alone are seen; the rest is compiled.
WATCHED_TURNS = 1_000
# The primitives that compare their operands.
WATCHED = frozenset((
  *primitives.COMPARISONS, "max", "min", "abs", "sign", "clamp", "reduce_max", "reduce_min",
))  # fmt: skip


def is_watched(name: str) -> bool:
  """Return whether `Evaluator.watch` may see something of a primitive, or of a program in it."""
  return name in WATCHED or name not in jaxprs.PLAIN


@dataclass
class Evaluator:
  """An evaluator of traced programs on a batch of samples, or of points.

  Attributes:
    working: the floating dtype of the program's own arguments. A cast to it, or to a wider one, is
      exact here; a cast to a narrower one rounds.
    noise: None for one unperturbed sample.
    watch: called with the place, the primitive and both sides of every comparison of floats.
    known: the `constant_key` of each array that is data, and so isn't perturbed.
    fragile: the number of fragile comparisons so far.
    foreign: the primitives that JAX evaluated in a narrower dtype.
    are_points: whether each sample is a separate point.
    is_endless: whether a loop had no end.
    goes_on: whether a loop that ends by a tolerance makes half as many iterations again.
  """

  working: Any = np.float64
  noise: Noise | None = None
  watch: Callable[[Place, str, np.ndarray, np.ndarray], None] | None = None
  known: frozenset[Any] = frozenset()
  fragile: int = 0
  foreign: list[str] = field(default_factory=list)
  are_points: bool = False
  is_endless: bool = False
  goes_on: bool = False

  def __post_init__(self) -> None:
    self.digits = digits(self.working)
    self.narrow_tiny = 0.0

  @cached_property
  def rng(self) -> np.random.Generator:
    """What chooses the slices of the pool; making it takes as long as ten small equations."""
    return np.random.default_rng(self.noise.seed if self.noise else 0)

  def run(self, program: Program, arguments: Sequence[Any]) -> list[Samples]:
    """Evaluate a program; the results have an axis of samples in front.

    Args:
      program: a traced program; its floats may have any dtype.
      arguments: arrays without that axis.
    """
    with jax.enable_x64(True), np.errstate(all="ignore"):
      return self.evaluate(program, list(map(lifted, arguments)), ())

  def run_to(self, program: Program, arguments: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Evaluate what some variables of a program depend on, for what `watch` sees of it."""
    apply = partial(self.apply, ())
    with jax.enable_x64(True), np.errstate(all="ignore"):
      jaxprs.interpret(program, list(map(lifted, arguments)), self.constant, apply, outputs)

  def run_stacked(self, program: Program, arguments: Sequence[Any]) -> list[Samples]:
    """Evaluate a program on arguments that have the axis: each sample is a separate point."""
    self.are_points = True
    with jax.enable_x64(True), np.errstate(all="ignore"):
      return self.evaluate(program, list(arguments), ())

  def evaluate(self, program: Program, arguments: list[Samples], place: Place) -> list[Samples]:
    """Evaluate all equations in their order."""
    return jaxprs.interpret(program, arguments, self.constant, partial(self.apply, place))

  def apply(self, outer: Place, i: int, equation: Any, inputs: list[Any]) -> list[Samples]:
    """Evaluate equation i of the program at a place."""
    check_time()
    place = (*outer, i)
    name, params = equation.primitive.name, equation.params
    self.narrow_tiny = self.tiny_of(equation)
    if (inner := jaxprs.inner_program(equation)) is not None:
      return self.evaluate(inner, inputs, place)
    if name in jaxprs.BODIES:
      body = {"scan": self.scan, "while": self.loop, "cond": self.cond}[name]
      return body(equation, inputs, place)
    if name in primitives.PASSED:
      return inputs
    if self.watch is not None:
      self.show(name, params, inputs, place)
    if name == "custom_linear_solve":
      return self.evaluate(*jaxprs.solve_of(equation, inputs), place)
    if any(isinstance(x, jax.Array) for x in inputs):  # Typed keys, which NumPy doesn't support.
      return self.by_jax(equation, inputs)
    if indexing.is_known(equation):
      return indexing.EXACT[name](params, *inputs)
    if name == "unstack":
      return list(np.moveaxis(inputs[0], 1 + params["axis"], 0))
    if name in primitives.EXACT:
      return [self.exact(name, params, inputs, equation)]
    if name == "fft":
      return [self.transform(equation, inputs[0])]
    if name in primitives.ROUNDED:
      result = primitives.ROUNDED[name](params, *inputs)
      units = self.coarseness(equation)
      if self.noise is not None and is_complex(result):
        sizes = primitives.sizes_of_parts(name, inputs, result)
        return [self.flushed(self.disturbed(result, units * self.noise.unit * sizes))]
      is_exact = is_scaling(name, inputs) or self.is_counting(equation, inputs, result)
      return [result if is_exact else self.perturbed(result, units)]
    if name in primitives.TRANSCENDENTAL:
      result = primitives.TRANSCENDENTAL[name](params, *inputs)
      return [self.perturbed(result, 4.0 * self.coarseness(equation))]
    if name in primitives.SUMS:
      result, units = self.sum(name, params, inputs), self.coarseness(equation)
      # Narrow terms are added in a wider dtype, and their sum is rounded once.
      return [self.perturbed(result, units) if units > 1 else result]
    return self.by_jax(equation, inputs)

  # --- Rounding -----------------------------------------------------------------------------------

  def constant(self, value: Any, aval: Any) -> Samples:
    """Return a program's constant, perturbed where it was rounded when the program was traced.

    Rounding can't be observed afterwards, but a literal such as 0.5 or 3 needs few digits, and so
    is taken as exact. In float16 and bfloat16 every array would seem rounded, and an array is more
    likely data: in these dtypes only scalars are perturbed.
    """
    if not isinstance(value, jax.Array) and not is_float(aval.dtype):
      value = np.asarray(value, aval.dtype)
    x = lifted(value)
    if self.noise is None or not self.noise.constants or not is_rounded(x):
      return x
    if x.size == 1 and is_real(x):
      fraction = np.frexp(x)[0] * 2.0 ** min(11, self.digits // 2)
      was_rounded = np.round(fraction) != fraction
    else:
      is_data = primitives.constant_key(value) in self.known
      was_rounded = (primitives.rounded(x, np.dtype(np.float16)) != x) & (not is_data)
    return self.moved(x, self.noise.constants * was_rounded) if was_rounded.any() else x

  def coarseness(self, equation: Any) -> float:
    """Return how many working units the dtype of an equation's result rounds to."""
    if self.noise is None or not self.noise.by_dtype:
      return 1.0
    dtype = part_dtype(equation.outvars[0].aval.dtype)
    if not is_float(dtype):
      return 1.0
    return 2.0 ** max(0, self.digits - digits(dtype))

  def tiny_of(self, equation: Any) -> float:
    """Return the smallest normal number of the dtype of a result that is narrower, or zero."""
    is_narrower = bool(equation.outvars) and self.coarseness(equation) > 1
    return float(jnp.finfo(equation.outvars[0].aval.dtype).tiny) if is_narrower else 0.0

  def is_counting(self, equation: Any, inputs: list[Any], result: np.ndarray) -> bool:
    """Return whether it is exact arithmetic of integers, as of a float that counts iterations.

    A count that is off by a rounding would end a loop early, and 1 % 2 would be even.
    """
    if self.noise is None or equation.primitive.name not in ("add", "sub", "mul"):
      return False
    if not is_real(result) or result.shape[0] > 1:
      return False
    most = 2.0 ** min(self.digits, digits(equation.outvars[0].aval.dtype))
    numbers = [*inputs, result]
    are_integers = all(bool((x == np.rint(x)).all()) for x in numbers)
    return are_integers and bool((np.abs(result) <= most).all())

  def perturbed(self, x: Samples, units: float) -> Samples:
    """Perturb the samples of a result by a number of roundings of their size."""
    if self.noise is None or not is_rounded(x):
      return x
    return self.flushed(self.moved(np.asarray(x), units * self.noise.unit))

  def flushed(self, moved: np.ndarray) -> np.ndarray:
    """Perturb results that may be flushed to zero by up to the smallest normal number."""
    if self.noise is not None and self.noise.tiny:
      if is_complex(moved):
        self.flushed(moved.real)  # A view.
        self.flushed(moved.imag)
        return moved
      tiny = max(self.noise.tiny, self.narrow_tiny)
      is_tiny = (moved != 0) & (np.abs(moved) < 2 * tiny)
      if is_tiny.any():
        moved[1:] = np.where(is_tiny, moved + tiny * self.draw(moved.shape), moved)[1:]
    return moved

  def moved(self, x: np.ndarray, size: Any) -> np.ndarray:
    """Return x · (1 + size · random) in all samples but the first."""
    assert self.noise is not None
    if is_complex(x):
      sizes = size * np.abs(x)
      return self.disturbed(x, primitives.complex_of(sizes, sizes))
    out = np.empty((self.noise.samples, *x.shape[1:]))
    out[0] = x[0]
    out[1:] = self.draw(out[1:].shape)
    out[1:] *= size
    out[1:] += 1.0
    out[1:] *= x[1:] if x.shape[0] > 1 else x
    return out

  def disturbed(self, x: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return x + sizes · random in all samples but the first; parts by the parts of `sizes`."""
    assert self.noise is not None
    out = np.array(np.broadcast_to(x, (self.noise.samples, *x.shape[1:])))
    own = sizes[1:] if sizes.shape[0] > 1 else sizes
    if is_complex(x):
      out.real[1:] += own.real * self.draw(out[1:].shape)
      out.imag[1:] += own.imag * self.draw(out[1:].shape)
    else:
      out[1:] += own * self.draw(out[1:].shape)
    return out

  def draw(self, shape: tuple[int, ...]) -> np.ndarray:
    """Draw uniform numbers from −1 to 1."""
    size = math.prod(shape)
    start = int(self.rng.integers(0, POOL.size))
    if size <= POOL.size - start:
      return POOL[start : start + size].reshape(shape)
    return np.resize(np.roll(POOL, -start), size).reshape(shape)

  def sum(self, name: str, params: Any, inputs: list[np.ndarray]) -> np.ndarray:
    """Evaluate a sum of K terms, and perturb it by the roundings of its terms and partial sums."""
    function = primitives.SUMS[name]
    if len(inputs) == 1 and is_complex(inputs[0]):  # The parts are added by themselves.
      parts = (self.sum(name, params, [part]) for part in (inputs[0].real, inputs[0].imag))
      return primitives.complex_of(*parts)
    result = np.asarray(function(params, *inputs))
    if self.noise is None or not is_rounded(result):
      return result
    axes = [params["axis"]] if name == "cumsum" else params.get("axes")
    axes = params["dimension_numbers"][0][0] if name == "dot_general" else axes
    units = 1 + 0.25 * math.sqrt(math.prod(inputs[0].shape[1 + a] for a in axes))
    # √Σ terms²: the roundings of the terms are independent. Its own precision doesn't matter.
    sizes = [float(np.max(np.abs(x[0]), initial=0.0)) or 1.0 for x in inputs]
    squares = [
      (np.abs(x[:1] / s) ** 2).astype(np.float32) for x, s in zip(inputs, sizes, strict=True)
    ]
    together = math.prod(sizes) * np.sqrt(function(params, *squares).astype(np.float64))
    if is_complex(result):
      together = primitives.complex_of(together, together)
    moved = self.moved(result, units * self.noise.unit)
    return self.flushed(self.disturbed(moved, 2 * units * self.noise.unit * together))

  def transform(self, equation: Any, x: np.ndarray) -> np.ndarray:
    """Evaluate a Fourier transform, whose rounding is relative to the whole of it, not to an entry.

    Each of the log₂ N stages adds pairs of numbers of the root mean square's size.
    """
    params = equation.params
    result = primitives.fft(params, x)
    if self.noise is None:
      return result
    axes = tuple(primitives.fourier_axes(params, result.ndim))
    units = self.coarseness(equation) * (1 + math.log2(max(1, math.prod(params["fft_lengths"]))))
    sizes = np.sqrt(np.mean(np.abs(result[:1]) ** 2, axis=axes, keepdims=True))
    if is_complex(result):
      sizes = primitives.complex_of(sizes, sizes)
    return self.flushed(self.disturbed(result, units * self.noise.unit * sizes))

  def exact(self, name: str, params: Any, inputs: list[Any], equation: Any) -> Samples:
    """Evaluate an operation that rounds at most by a cast to a narrower dtype."""
    may_be_fragile = name in primitives.COMPARISONS or name == "sign"
    if may_be_fragile and self.noise is not None and is_real(inputs[0]):
      return self.decided(name, params, inputs)
    x = primitives.EXACT[name](params, *inputs)
    if name in ("abs", "sign") and is_complex(inputs[0]):
      return self.perturbed(np.asarray(x), self.coarseness(equation))
    if name == "convert_element_type" and is_rounded(x) and is_rounded(inputs[0]):
      if digits(params["new_dtype"]) < self.digits:
        narrow = primitives.rounded(np.asarray(x[:1]), params["new_dtype"])
        x = primitives.shifted(np.asarray(x), narrow)
    elif name == "reduce_precision" and params["mantissa_bits"] < self.digits:
      (narrow,) = jaxprs.bind(equation.primitive, params, [jnp.asarray(x[:1])])
      x = primitives.shifted(np.asarray(x), np.asarray(narrow))
    if name == "convert_element_type" and self.coarseness(equation) > 1:
      x = self.perturbed(np.asarray(x), self.coarseness(equation))
    return x

  def decided(self, name: str, params: Any, inputs: list[np.ndarray]) -> np.ndarray:
    """Evaluate a comparison, and draw the outcome where it is fragile."""
    outcome = np.asarray(primitives.EXACT[name](params, *inputs))
    gap = inputs[0] if name == "sign" else np.subtract(*primitives.aligned(inputs))
    if outcome.shape[0] == 1:
      return outcome
    spread = np.abs(gap - gap[:1]).max(0)
    is_tie = (gap[0] == 0) & (spread > 0)
    fragile = (gap[0] != 0) & (np.abs(gap[0]) <= FRAGILE * spread)
    outcome = np.where(is_tie, outcome[:1], outcome)
    if fragile.any():
      self.fragile += int(fragile.sum())
      drawn = self.draw(outcome.shape) > 0
      drawn[1] = True  # At least one sample takes the other branch.
      drawn[0] = False
      other = -outcome[:1] if name == "sign" else ~outcome[:1]
      outcome = np.where(fragile, np.where(drawn, other, outcome[:1]), outcome)
    return outcome

  # --- Loops, and what JAX evaluates --------------------------------------------------------------

  def scan(self, equation: Any, inputs: list[Any], place: Place) -> list[Samples]:
    """Evaluate `lax.scan`, iteration by iteration."""
    body, count, carried, length, is_reverse = jaxprs.scan_of(equation)
    consts, carry, rows = inputs[:count], inputs[count:][:carried], inputs[count + carried :]
    if loops.is_long(body, length) and (self.watch is None or length > WATCHED_TURNS):
      if self.watch is not None:
        self.watched_turns(body, consts, carry, rows, place)
      if (outputs := self.compiled(equation, inputs)) is not None:
        return outputs
    stacks: list[list[Any]] = []
    for i in range(length)[::-1] if is_reverse else range(length):
      outputs = self.evaluate(body, [*consts, *carry, *(r[:, i] for r in rows)], place)
      carry = outputs[:carried]
      stacks.append(outputs[carried:])
    stacks = stacks[::-1] if is_reverse else stacks
    out_avals = body.out_avals[carried:]
    return [
      *carry,
      *(primitives.stacked([s[k] for s in stacks], a) for k, a in enumerate(out_avals)),
    ]

  def watched_turns(
    self, body: Program, consts: list[Any], carry: list[Any], rows: list[Any], place: Place
  ) -> None:
    """Evaluate the first iterations of a long scan, for what `watch` sees of them."""
    for i in range(WATCHED_TURNS):
      carry = self.evaluate(body, [*consts, *carry, *(r[:, i] for r in rows)], place)[: len(carry)]

  def cond(self, equation: Any, inputs: list[Any], place: Place) -> list[Samples]:
    """Evaluate `lax.cond` or `lax.switch`, by the unperturbed sample or for each point."""
    branches = jaxprs.bodies(equation)
    index = np.clip(inputs[0], 0, len(branches) - 1)
    taken = np.unique(index if self.are_points else index[:1])
    found, *others = [self.evaluate(branches[b], inputs[1:], (*place, int(b))) for b in taken]
    for b, other in zip(taken[1:], others, strict=True):
      found = [held(index == b, *pair) for pair in zip(other, found, strict=True)]
    return found

  def loop(self, equation: Any, inputs: list[Any], place: Place) -> list[Samples]:
    """Evaluate `lax.while_loop`.

    The unperturbed sample decides the number of iterations for all samples, which are near it.
    Separate points iterate independently, up to a limit relative to the first point's number; a
    point beyond the limit has no result.
    """
    cond, count, body, body_count = jaxprs.while_of(equation)
    cond_consts, body_consts = inputs[:count], inputs[count:][:body_count]
    carry = inputs[count + body_count :]
    turns = extra = 0
    may_compile = True
    while True:
      is_watched = self.watch is not None and turns < WATCHED_TURNS
      if may_compile and not is_watched and loops.is_long(body, turns):
        now = [*cond_consts, *body_consts, *carry]
        if (outputs := self.compiled(equation, now, turns)) is not None:
          return outputs
        may_compile = False
      (goes_on,) = self.evaluate(cond, [*cond_consts, *carry], (*place, "cond"))
      mask = np.asarray(goes_on if self.are_points else goes_on[:1])
      if not mask.any():
        goes_on = self.goes_on and jaxprs.ends_by_floats(*jaxprs.while_of(equation))
        for _ in range(turns // 2 + 3 if goes_on else 0):
          carry = self.evaluate(body, [*body_consts, *carry], (*place, "body"))
        return carry
      turns += bool(mask[0].any())
      extra += not mask[0].any()
      if turns > MOST_TURNS or extra > 10 + turns:
        self.is_endless = True
        return [held(mask, np.full_like(x, np.nan), x) if is_rounded(x) else x for x in carry]
      moved = self.evaluate(body, [*body_consts, *carry], (*place, "body"))
      if not mask.all():  # Finished points, and lanes of vmap, are held.
        moved = [held(mask, *pair) for pair in zip(moved, carry, strict=True)]
      carry = moved

  def compiled(self, equation: Any, inputs: list[Any], turns: int = 0) -> list[Samples] | None:
    """Evaluate a long loop as `loops` does; return None where that isn't possible."""
    noise = self.noise
    is_coarse = noise is not None and noise.by_dtype and self.coarsest(equation) > 1
    if is_coarse:
      return None
    count = max([noise.samples if noise else 1, *(x.shape[0] for x in inputs)])
    unit, tiny = (noise.unit, noise.tiny) if noise else (0.0, 0.0)
    has_constants = noise is not None and noise.constants > 0
    constants = (self.working, noise, self.known) if has_constants else (self.working, None, None)
    setup = loops.Setup(
      count, unit, tiny, self.digits, self.are_points, self.goes_on, (constant_of, *constants)
    )
    try:
      outputs, is_endless = loops.run(equation, inputs, setup, turns)
    except jaxprs.UnknownProgramError:
      raise
    except Exception:  # A kernel or callback in it isn't evaluated in float64, or can't be batched.
      return None
    self.is_endless |= is_endless
    return outputs

  def coarsest(self, equation: Any) -> float:
    """Return how many working units the narrowest result in a loop rounds to."""
    inner = (e for body in jaxprs.bodies(equation) for e in jaxprs.equations_of(body))
    return max((self.coarseness(e) for e in inner if e.outvars), default=1.0)

  def by_jax(self, equation: Any, inputs: list[Any]) -> list[Samples]:
    """Evaluate a primitive by JAX, sample by sample, in float64 if it can be."""
    if equation.primitive.name == "bitcast_convert_type":  # Random bits: exact, as traced.
      return [primitives.bits_as(equation, inputs[0])]
    inputs = primitives.own_dtypes(equation, inputs, floats=False)
    sizes = [x.size for x in inputs if is_rounded(x)]
    out_sizes = [math.prod(v.aval.shape) for v in equation.outvars]
    # A branch that only prints has no results.
    summed = max(sizes, default=1) / max([1, *out_sizes])
    units = 4 + 0.25 * math.sqrt(max(1.0, summed))
    if self.noise is not None:
      inputs = [self.moved(x, units * self.noise.unit) if is_rounded(x) else x for x in inputs]
    name = equation.primitive.name
    if (in_numpy := indexing.ROUNDED.get(name) or linear_algebra.SOLVERS.get(name)) is not None:
      with contextlib.suppress(np.linalg.LinAlgError):
        return [self.perturbed(r, units) for r in in_numpy(equation.params, *inputs)]
    try:
      if name == "pure_callback":
        results = primitives.called_back(equation, inputs)
      else:
        results = primitives.mapped(primitives.in_float64, equation, inputs)
    except jax.errors.JaxRuntimeError:  # The callback itself raised.
      raise
    except Exception:  # Kernels and callbacks may raise anything; fall back to the traced dtypes.
      self.foreign.append(name)
      results = primitives.mapped(primitives.as_traced, equation, inputs)
      widths = [d for d in map(part_dtype, primitives.dtypes_of(equation)) if is_float(d)]
      unit = max((float(ml_dtypes.finfo(d).eps) for d in widths), default=0.0) / 2
      units *= unit / (self.noise.unit if self.noise else 1.0)
    return [self.perturbed(r, units) for r in results]

  def show(self, name: str, params: Any, inputs: list[Any], place: Place) -> None:
    """Pass both sides of a comparison to `watch`."""
    assert self.watch is not None
    if name in primitives.COMPARISONS or name in ("max", "min"):
      self.watch(place, name, *primitives.aligned(inputs))
    elif name in ("abs", "sign") and is_real(inputs[0]):
      self.watch(place, name, inputs[0], np.zeros_like(inputs[0]))
    elif name == "clamp":
      low, x, high = primitives.aligned(inputs)
      self.watch((*place, 0), name, x, low)
      self.watch((*place, 1), name, x, high)
    elif name in ("reduce_max", "reduce_min") and is_real(inputs[0]):
      axes = tuple(1 + a for a in params["axes"])
      x = inputs[0] if name == "reduce_max" else -inputs[0]
      self.watch(place, name, *two_largest(x, axes))


def constant_of(working: Any, noise: Noise | None, known: Any) -> Callable[..., Samples]:
  """Return the function that perturbs the constants of a program, as an evaluator does."""
  return Evaluator(working, noise, known=known or frozenset()).constant


def is_scaling(name: str, inputs: list[Any]) -> bool:
  """Return whether it is a product with a power of two, as in 2 · round(x / 2), which is exact."""
  scalars = [x for x in inputs if x.size == 1 and is_real(x)] if name == "mul" else []
  return any(np.abs(np.frexp(x)[0]) == 0.5 for x in scalars)


def two_largest(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
  """Return the largest entry over some axes and the next largest, which are equal at a tie."""
  rows = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
  rows = rows.reshape(*rows.shape[: x.ndim - len(axes)], math.prod(x.shape[a] for a in axes))
  if rows.shape[-1] < 2:  # A single entry is never tied.
    return np.ones(()), np.zeros(())
  top = np.partition(rows, -2, axis=-1)
  return top[..., -1], top[..., -2]
