"""Long loops of a traced program, compiled by JAX for all samples at once.

NumPy evaluates a loop's body equation by equation, at some forty microseconds each, so that a
solver of a thousand iterations takes seconds at every point. Here a loop is evaluated by JAX in
float64, batched over the samples by `vmap`, and compiled once for all points. As in NumPy, the
first sample decides the branches and the number of iterations for all samples; separate points
iterate each by itself.

The rounding of an iteration is modelled by one relative perturbation of each float that the loop
carries: of 2√n + 1 units for the n operations of the body that round. What cancels within the body
cancels for the perturbed values too, and so shows from the next iteration on. Half of the
perturbation is the same in each iteration: what rounds alike each time adds up to n roundings after
n iterations, not to √n. A float that is an integer may be a count, and isn't perturbed.

Doubts: comparisons within rounding of a tie are decided by each sample for itself, and aren't
counted as fragile; a cancellation in the last iteration alone isn't seen.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from fbackprop import jaxprs
from fbackprop.jaxprs import Program
from fbackprop.verify.deadline import check_time
from fbackprop.verify.interpret import primitives
from fbackprop.verify.interpret.primitives import Samples, digits, is_complex, is_float, is_rounded

# A loop is compiled from this many evaluations of equations. One takes 40 µs in NumPy; compiling a
# loop takes 0.25 s and 7 ms for each equation, once for the ten points or more of a verification.
LONG = 3_000
# A loop of more iterations has no result: outside of its domain it may never end. At the arguments
# as given it ends, and may take so many where it is compiled; then four times as many elsewhere.
MOST_TURNS, MOST_AS_GIVEN = 4_000, 4_000_000
# A loop within a compiled loop has a limit that doesn't depend on others.
MOST_INSIDE = 20_000
# After so many iterations a compiled loop returns, to look at the time.
CHUNK = 20_000
# Inputs of at most this many numbers are given for each sample, varied or not: one program then
# serves all points.
SMALL = 2_000_000
# The name of the axis of samples under vmap.
AXIS = "samples"


@dataclass
class Turns:
  """How many iterations compiled loops may make, and the most that one has made so far."""

  most: int = MOST_TURNS
  made: int = 0

  def settle(self) -> None:
    """Bound the iterations elsewhere by those at the arguments as given; powers of two are few."""
    self.most = max(MOST_TURNS, 2 ** math.ceil(math.log2(4 * max(1, self.made))))


TURNS: ContextVar[Turns] = ContextVar("TURNS", default=Turns())  # noqa: B039


@contextmanager
def counted_turns() -> Iterator[None]:
  """Allow many iterations, until `Turns.settle` is called."""
  token = TURNS.set(Turns(MOST_AS_GIVEN))
  try:
    yield
  finally:
    TURNS.reset(token)


class Setup(NamedTuple):
  """How a loop is evaluated; hashable, so that each loop is compiled once.

  Attributes:
    samples: the length of the axis of samples.
    unit: the relative size of a perturbation; 0 for none.
    tiny: the magnitude below which a result may be flushed to zero.
    digits: the significand bits below which a cast rounds.
    are_points: whether each sample is a separate point.
    goes_on: whether a loop that ends by a tolerance makes half as many iterations again.
    constant: a maker of the function `constant(value, aval) -> samples`, and its arguments.
  """

  samples: int
  unit: float
  tiny: float
  digits: int
  are_points: bool
  goes_on: bool
  constant: tuple[Any, ...]


def is_long(program: Program, turns: int) -> bool:
  """Return whether a body that is evaluated this many times is better compiled."""
  return turns * cost_of(program) >= LONG


@lru_cache(maxsize=1024)
def cost_of(program: Program) -> int:
  """Return the number of equations that one evaluation of a program takes."""
  cost = 0
  for equation in program.jaxpr.eqns:
    inner = jaxprs.inner_program(equation)
    name = equation.primitive.name
    parts = [inner] if inner is not None else jaxprs.bodies(equation)
    times = jaxprs.scan_of(equation)[3] if name == "scan" else 1
    cost += times * sum(map(cost_of, parts)) if parts else 1
  return cost


def run(
  equation: Any, inputs: Sequence[Samples], setup: Setup, turns: int = 0
) -> tuple[list[Samples], bool]:
  """Evaluate a scan or a while loop on samples.

  Args:
    equation: the loop.
    inputs: its inputs.
    setup: how to evaluate it.
    turns: the number of iterations of a while loop that were made before.

  Returns:
    (its outputs, whether it had no end).

  Raises:
    Exception: it can't be evaluated in float64.
  """
  name = equation.primitive.name
  parts = jaxprs.scan_of(equation) if name == "scan" else jaxprs.while_of(equation)
  # NumPy's integers may be wider than those that were traced.
  own = primitives.own_dtypes(equation, inputs, floats=False)
  if setup.samples * sum(x.size for x in own) <= SMALL:
    own = [x if is_key(x) else np.broadcast_to(x, (setup.samples, *x.shape[1:])) for x in own]
  axes = tuple(0 if x.shape[0] > 1 else None for x in own)
  program = compiled(name, parts, setup, axes)
  own = [x if axis == 0 else x[0] for x, axis in zip(own, axes, strict=True)]
  if name == "scan":
    return on_host(program(*own)), False
  limit, extra, carried = TURNS.get(), 0, parts[1] + parts[3]
  while True:
    stop = min(turns + CHUNK, limit.most)
    counts = map(np.int32, (turns, extra, stop))
    *carry, mask, now, extra = on_host(program(*counts, *own))
    has_stopped, (turns, extra) = turns, (int(x.max()) for x in (now, extra))
    limit.made = max(limit.made, turns)
    if not mask.any() or turns > limit.most or turns == has_stopped:
      break
    check_time()
    if axes[carried:] != (0,) * len(carry):
      axes = (*axes[:carried], *(0 for _ in carry))
      program = compiled(name, parts, setup, axes)
    own = [*own[:carried], *carry]
  return [primitives.held(mask, np.full_like(x, np.nan), x) if is_rounded(x) else x
          for x in carry], bool(mask.any())  # fmt: skip


def on_host(values: Sequence[Any]) -> list[Any]:
  """Return arrays of NumPy; keys remain JAX's."""
  return [x if is_key(x) else np.asarray(x) for x in values]


def is_key(x: Any) -> bool:
  """Return whether an array holds typed keys, which NumPy doesn't support."""
  return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


@lru_cache(maxsize=256)
def compiled(name: str, parts: tuple[Any, ...], setup: Setup, axes: tuple[Any, ...]) -> Any:
  """Return the compiled loop, a function of its inputs on all samples.

  A while loop's first inputs are the numbers of iterations so far, and at which to return.
  """

  def scan(*inputs: Any) -> list[Any]:
    return scanned(setup, parts, list(inputs), jnp.uint32(0))

  def loop(turns: Any, extra: Any, stop: Any, *inputs: Any) -> list[Any]:
    return turned(setup, parts, list(inputs), jnp.uint32(0), (turns, extra, stop))

  function, own = (scan, axes) if name == "scan" else (loop, (None, None, None, *axes))
  return jax.jit(jax.vmap(function, in_axes=own, axis_size=setup.samples, axis_name=AXIS))


# --- Control flow, inside of vmap -----------------------------------------------------------------


def of_first(x: Any) -> Any:
  """Return a value of the first sample for all samples, not batched."""
  number = jnp.asarray(x).astype(np.int32)
  return lax.psum(jnp.where(lax.axis_index(AXIS) == 0, number, 0), AXIS)


def scanned(setup: Setup, parts: Any, inputs: list[Any], seed: Any) -> list[Any]:
  """Evaluate a scan."""
  body, count, carried, length, is_reverse = parts
  consts, carry, rows = inputs[:count], inputs[count:][:carried], inputs[count + carried :]

  def step(state: Any, own: Any) -> Any:
    turn, carry = state
    outputs = evaluate(setup, body, [*consts, *carry, *own], mixed(seed, turn))
    carry = perturbed(setup, body, outputs[:carried], mixed(seed, turn))
    return (turn + 1, carry), outputs[carried:]

  start = jnp.uint32(0), widened(carry)
  (_, carry), stacks = lax.scan(step, start, rows, length=length, reverse=is_reverse)
  return [*carry, *stacks]


def looped(setup: Setup, parts: Any, inputs: list[Any], seed: Any) -> list[Any]:
  """Evaluate an inner while loop, whose results are NaN if it has no end."""
  *carry, mask, _, _ = turned(setup, parts, inputs, seed, (0, 0, MOST_INSIDE))
  return [held(mask, jnp.full_like(x, np.nan), x) if is_rounded(x) else x for x in carry]


def turned(setup: Setup, parts: Any, inputs: list[Any], seed: Any, counts: Any) -> list[Any]:
  """Evaluate a while loop up to a number of iterations.

  Args:
    setup, parts, inputs, seed: the loop.
    counts: the iterations that were made so far by the first sample, the further ones of other
      points, and the number from which the loop returns.

  Returns:
    What it carries, then whether it goes on, and the first two counts.
  """
  cond, count, body, body_count = parts
  cond_consts, body_consts = inputs[:count], inputs[count:][:body_count]

  def goes_on(carry: list[Any], turn: Any) -> Any:
    (mask,) = evaluate(setup, cond, [*cond_consts, *carry], mixed(seed, turn))
    return mask if setup.are_points else of_first(mask) > 0

  def is_on(state: Any) -> Any:
    turns, extra, mask, _ = state
    any_mask = lax.psum(mask.any().astype(np.int32), AXIS) > 0 if setup.are_points else mask.any()
    return any_mask & (turns <= stop) & (extra <= 10 + turns)

  def step(state: Any) -> Any:
    turns, extra, mask, carry = state
    turn = turns + extra
    moved = evaluate(setup, body, [*body_consts, *carry], mixed(seed, turn))
    moved = perturbed(setup, body, moved, mixed(seed, turn))
    moved = [held(mask, *pair) for pair in zip(moved, carry, strict=True)]
    is_first = of_first(mask.any())
    return turns + is_first, extra + 1 - is_first, goes_on(moved, turn), moved

  carry = widened(inputs[count + body_count :])
  turns, extra, stop = (jnp.asarray(n, np.int32) for n in counts)
  start = turns, extra, goes_on(carry, jnp.zeros((), np.int32)), carry
  turns, extra, mask, carry = lax.while_loop(is_on, step, start)
  if setup.goes_on and jaxprs.ends_by_floats(*parts):

    def again(_: Any, carry: list[Any]) -> list[Any]:
      return evaluate(setup, body, [*body_consts, *carry], seed)

    is_over = jnp.logical_not(lax.psum(mask.any().astype(np.int32), AXIS) > 0)
    carry = lax.fori_loop(0, jnp.where(is_over, turns // 2 + 3, 0), again, carry)
  return [*carry, mask, turns, extra]


def chosen(setup: Setup, equation: Any, inputs: list[Any], seed: Any) -> list[Any]:
  """Evaluate a cond: by the first sample, or for each point."""
  branches = jaxprs.bodies(equation)
  index = jnp.clip(inputs[0].astype(np.int32), 0, len(branches) - 1)
  index = index if setup.are_points else of_first(index)
  own = [partial(evaluate_flatly, setup, branch, seed) for branch in branches]
  return list(lax.switch(index, own, *inputs[1:]))


def evaluate_flatly(setup: Setup, program: Program, seed: Any, *inputs: Any) -> list[Any]:
  """Evaluate a branch, on its operands."""
  return widened(evaluate(setup, program, list(inputs), seed))


def held(mask: Any, new: Any, old: Any) -> Any:
  """Return new values where a point, or lane, goes on, and the old ones elsewhere."""
  return jnp.where(mask.reshape((*mask.shape, *(1,) * (new.ndim - mask.ndim))), new, old)


def widened(values: Sequence[Any]) -> list[Any]:
  """Return values in float64, or complex128, where they are rounded; a loop's types must agree."""
  return [
    x if is_key(x) else lax.convert_element_type(x, primitives.wide_dtype(x.dtype))
    for x in map(jnp.asarray, values)
  ]


# --- Equations, inside of vmap --------------------------------------------------------------------


def evaluate(setup: Setup, program: Program, arguments: list[Any], seed: Any) -> list[Any]:
  """Evaluate a program in float64 on one sample."""
  make, *args = setup.constant
  constant = make(*args)

  def own_constant(value: Any, aval: Any) -> Any:
    x = constant(value, aval)
    return x[0] if x.shape[0] == 1 else jnp.asarray(x)[lax.axis_index(AXIS)]

  def apply(i: int, equation: Any, inputs: list[Any]) -> list[Any]:
    return applied(setup, equation, inputs, mixed(seed, np.uint32(i + 1)))

  return widened(jaxprs.interpret(program, widened(arguments), own_constant, apply))


def applied(setup: Setup, equation: Any, inputs: list[Any], seed: Any) -> list[Any]:
  """Evaluate an equation in float64 on one sample."""
  name, params = equation.primitive.name, equation.params
  if (inner := jaxprs.inner_program(equation)) is not None:
    return evaluate(setup, inner, inputs, seed)
  if name == "cond":
    return chosen(setup, equation, inputs, seed)
  if name == "scan":
    return scanned(setup, jaxprs.scan_of(equation), inputs, seed)
  if name == "while":
    return looped(setup, jaxprs.while_of(equation), inputs, seed)
  if name in primitives.PASSED:
    return inputs
  if name == "bitcast_convert_type":
    return primitives.as_traced(equation, *inputs)
  if name == "convert_element_type" and is_float(params["new_dtype"]) and is_rounded(inputs[0]):
    return [cast(setup, jnp.asarray(inputs[0]), params["new_dtype"])]
  if name == "reduce_precision" and params["mantissa_bits"] >= setup.digits:
    return inputs
  return primitives.in_float64(equation, *inputs)


def cast(setup: Setup, x: Any, dtype: Any) -> Any:
  """Return x in float64, rounded as by a cast to a narrower dtype than the arguments'."""
  x = lax.convert_element_type(x.real if is_complex(x) else x, np.float64)
  if digits(dtype) >= setup.digits:
    return x
  limits = ml_dtypes.finfo(np.dtype(dtype))
  return lax.reduce_precision(x, int(limits.nexp), int(limits.nmant))


# --- Rounding -------------------------------------------------------------------------------------


def perturbed(setup: Setup, body: Program, values: Sequence[Any], seed: Any) -> list[Any]:
  """Perturb what a loop carries by the roundings of its body, in all samples but the first."""
  if not setup.unit:
    return list(values)
  size = (1 + 2 * math.sqrt(roundings_of(body))) * setup.unit
  own = jnp.where(lax.axis_index(AXIS) > 0, size, 0.0)
  return [
    moved(setup, x, own, mixed(seed, np.uint32(1000 + k))) if is_rounded(x) else x
    for k, x in enumerate(values)
  ]


def moved(setup: Setup, x: Any, size: Any, seed: Any) -> Any:
  """Perturb an array, but for integers that may be counts."""
  sample = lax.axis_index(AXIS).astype(np.uint32)

  def drawn(part: int) -> Any:
    always = mixed(sample, np.uint32(2 + part + x.size))
    return uniform(mixed(mixed(seed, sample), np.uint32(part)), x.shape) + uniform(always, x.shape)

  if is_complex(x):
    sizes = size * jnp.abs(x)
    return x + lax.complex(*(sizes * drawn(part) for part in (1, 2)))
  draw = drawn(0)
  is_count = (x == jnp.round(x)) & (jnp.abs(x) <= 2.0 ** min(setup.digits or 52, 52))
  out = jnp.where(is_count, x, x * (1 + size * draw))
  if setup.tiny:
    is_tiny = (x != 0) & (jnp.abs(x) < 2 * setup.tiny) & (size > 0)
    out = jnp.where(is_tiny, out + setup.tiny * draw, out)
  return out


@lru_cache(maxsize=1024)
def roundings_of(program: Program) -> int:
  """Return the number of equations of a program that round, those of inner loops left out."""
  count = 0
  for equation in program.jaxpr.eqns:
    inner, name = jaxprs.inner_program(equation), equation.primitive.name
    if inner is not None:
      count += roundings_of(inner)
    elif name not in primitives.EXACT and name not in primitives.PASSED:
      count += any(is_rounded(v.aval) for v in equation.outvars)
  return count


def mixed(seed: Any, other: Any) -> Any:
  """Mix two numbers to a seed."""
  x = jnp.uint32(seed) * jnp.uint32(0x9E3779B1) + jnp.asarray(other).astype(np.uint32)
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  return x ^ (x >> 13)


def uniform(seed: Any, shape: tuple[int, ...]) -> Any:
  """Draw uniform numbers from -1 to 1, by hashing (MurmurHash's finalizer)."""
  x = lax.iota(np.uint32, math.prod(shape)) * jnp.uint32(0x9E3779B1) + seed
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  x = x ^ (x >> 16)
  return (x.astype(np.float64) * 2.0**-31 - 1.0).reshape(shape)
