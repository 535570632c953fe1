"""The three witnesses of a gradient: the rule U, autodiff A, differences D.

U and A are programs, traced once for arguments of certain shapes, in float64 where the rule can be
traced so, and evaluated at as many points as needed (`interpret.evaluation`). A is autodiff of the
function without its custom VJPs: reverse mode, or, for few entries, forward mode, which also
differentiates loops that reverse mode can't. A program that can only be traced in a narrow dtype
carries rounded constants; their error is modelled as noise.

D is a one-sided difference quotient of the outputs along a direction, on either side: Richardson's
extrapolation over the steps h, 2h and 4h cancels the first two terms of its error; the last
correction, and the rounding of the outputs over h, estimate the remaining error. The seven points
are evaluated as one batch.

A function whose values are known to a tolerance only has no such quotients: a solver that ends by a
tolerance doesn't see a small step at all, and a kernel in float32 sees its rounding. There D is the
slope of a polynomial, fitted to points on either side that are some percent apart, and what it
leaves over estimates the error.

Doubts: the estimated error isn't a bound, so a verdict rests on D only where that error is a small
share of the difference to decide.

References:
  Griewank, Walther, "Evaluating Derivatives", SIAM, 2008, chapter 3; Richardson, Phil. Trans. R.
  Soc. A 210 (1911), 307-357.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop import jaxprs
from fbackprop.jaxprs import Program, evaluate_flat, flat
from fbackprop.verify.interpret.evaluation import Evaluator, Noise
from fbackprop.verify.interpret.primitives import constant_key, digits, is_float, lifted
from fbackprop.verify.report import RuleError, UnusableError
from fbackprop.verify.witnesses.rule import Leaves, Rule, Signature, raised, replaced, with_float0

# The relative rounding error of a constant, by the significand bits of its traced dtype.
CONSTANTS = {23: 2.0**-24, 10: 2.0**-11, 7: 2.0**-8}
# The accuracy, relative to a leaf, of derivatives through loops that end by a tolerance.
LOOP_TOLERANCE = 1e-3
FUNCTION = "the function"
# The bound of an entry's error, relative to it, apart from what the estimated rounding adds.
LEAST_BOUND = 8 * 2.0**-52
# Forward mode costs a pass for each entry: it is the last resort, up to this many.
MOST_COLUMNS = 600


class Witnesses(NamedTuple):
  """The traced programs, for arguments of certain shapes.

  Attributes:
    source: the rule that was traced.
    rule: U; float leaves, other leaves, float cotangents in, outputs and cotangents out.
    truth: A, likewise; None if the reference can't be differentiated.
    forward: the reference; float leaves and other leaves in, float outputs out. It alone is flat.
    value: f, likewise, if the derivative of another function is meant; else None.
    loop_in: what holds a loop that ends by a tolerance, such as "the function"; "" if nothing does.
    is_wide: whether U and A were traced in float64.
    first_to_last: the float leaves in the order of the backward pass.
    truth_missing: the reason for the absence of A.
    has_rule: whether f contains a custom rule.
    has_jvp: whether that of a `custom_jvp` is among them.
    known: arrays that both U and A close over, which are data. In narrow programs any other
      constant may be a rounded number.
  """

  source: Rule
  rule: Program
  truth: Program | None
  forward: Program
  is_wide: bool
  first_to_last: list[int]
  truth_missing: str = ""
  has_rule: bool = False
  known: frozenset[Any] = frozenset()
  value: Program | None = None
  loop_in: str = ""
  has_jvp: bool = False

  @property
  def tolerance(self) -> float:
    """The accuracy, relative to a leaf, to which function and rule are known.

    An iterative solver is linear, and equal to another derivative, only up to its tolerance:
    autodiff differentiates the iterations that were made, an implicit rule the limit.
    """
    return LOOP_TOLERANCE if self.loop_in else 0.0

  @property
  def is_iterative(self) -> bool:
    """Whether the function itself holds such a loop, so that its differences see no small step."""
    return self.loop_in == FUNCTION

  @property
  def signature(self) -> Signature:
    """The signature of the rule's arguments."""
    return self.source.signature

  def evaluator(self, noise: Noise | None) -> Evaluator:
    """Return an evaluator for programs of these arguments."""
    if noise is not None and not self.is_wide:
      noise = noise._replace(constants=CONSTANTS.get(digits(self.signature.working), 0.0))
    return Evaluator(self.signature.working, noise, known=self.known)

  def traced(self, function: Callable[..., Any], avals: Sequence[Any]) -> Program:
    """Trace a function, in float64 if the rule was."""
    with in_float64(self.is_wide):
      program = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
    return jaxprs.released([program])[0] if self.is_wide else program

  def released(self) -> "Witnesses":
    """Return the same programs without JAX's notes on constants: see `jaxprs.released`."""
    held = [self.rule, self.forward, *filter(None, (self.truth, self.value))]
    rule, forward, *others = jaxprs.released(held)
    truth = others.pop(0) if self.truth else None
    value = others.pop(0) if self.value else None
    return self._replace(rule=rule, forward=forward, truth=truth, value=value)

  def unrounded(self, noise: Noise | None = None) -> Evaluator:
    """Return an evaluator that takes casts to narrower dtypes as exact.

    Rounded so, a function is a staircase, and its derivative is meant to be that of the ramp.
    """
    evaluator = self.evaluator(noise)
    evaluator.digits = 0
    return evaluator

  @property
  def is_coarse(self) -> bool:
    """Whether the function computes in a narrower dtype than its arguments'."""
    return self.coarsest > 2.0 ** -digits(self.signature.working)

  @property
  def holds_narrow(self) -> bool:
    """Whether the rule computes in a dtype narrower than float32."""
    variables = (v for e in jaxprs.equations_of(self.rule) for v in e.outvars)
    return any(is_float(v.aval.dtype) and digits(v.aval.dtype) < 23 for v in variables)

  @property
  def is_rule_coarser(self) -> bool:
    """Whether the rule computes in a dtype narrower than any of the function's."""
    variables = (v for e in jaxprs.equations_of(self.rule) for v in e.outvars)
    narrow = [digits(v.aval.dtype) for v in variables if is_float(v.aval.dtype)]
    return any(2.0**-n > self.coarsest for n in narrow)

  @property
  def coarsest(self) -> float:
    """The rounding unit of the narrowest dtype in which the function computes."""
    dtypes = (v.aval.dtype for e in jaxprs.equations_of(self.forward) for v in e.outvars)
    return max((2.0 ** -digits(d) for d in dtypes if is_float(d)), default=0.0)


def gather_witnesses(source: Rule, leaves: Sequence[Any], widen: bool = True) -> Witnesses:
  """Trace the programs, in float64 if `widen` is set and the rule allows it.

  The leaves may have other shapes than those of the rule: the outputs of `Witnesses.source` then
  have the shapes that belong to them.

  Raises:
    RuleError: the rule can't be traced, in float64 or in its own dtype.
    UnusableError: the function can't be traced.
  """

  def trace(leaves: Leaves, is_wide: bool) -> Witnesses:
    written, rule = trace_function(source, leaves)
    has_rule, has_jvp, value = jaxprs.carries_rule(written), jaxprs.carries_jvp(written), None
    if rule.slope is not None:
      value = flat(written, keep_rules=False)
      written = jax.make_jaxpr(lambda *own: float_arrays(rule.differentiated(*own)))(*leaves)
    reference, floats = flat(written, keep_rules=False), rule.signature.floats
    # A function that casts its output has a cotangent of the output's dtype.
    y_bar = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in reference.out_avals]
    program = jax.make_jaxpr(partial(traced_rule, rule))(*leaves, *y_bar)
    truth, missing = trace_truth(written, floats, leaves, y_bar)
    reads = jaxprs.last_reads(reference)
    order = sorted(range(len(floats)), key=lambda i: -reads[floats[i]])
    known = data_of(program) & data_of(truth) if truth is not None and not is_wide else ()
    loop_in = loop_among(reference, program, truth)
    return Witnesses(
      rule, program, truth, reference, is_wide, order, missing, has_rule, frozenset(known), value,
      loop_in, has_jvp,
    )  # fmt: skip

  for is_wide in (True, False) if widen else (False,):
    try:
      with in_float64(is_wide):
        wide = [np.asarray(x, np.float64) if is_wide and is_float(x.dtype) else x for x in leaves]
        traced = trace(list(map(jaxprs.shape_of, wide)), is_wide)
      return traced.released() if is_wide else traced
    except jaxprs.UnknownProgramError:
      raise
    except Exception as error:  # Any exception: fall back to the rule's own dtype.
      is_known = isinstance(error, RuleError | UnusableError)
      failed = error if is_known else RuleError("raises", raised(error))
  raise failed


def trace_function(rule: Rule, leaves: Leaves) -> tuple[Program, Rule]:
  """Trace the float outputs of f; return the program, and the rule with outputs of its shapes."""
  shapes: list[Any] = []

  def forward(*own: Any) -> Leaves:
    outputs = rule.forward(*own)
    shapes[:] = map(jnp.shape, outputs)
    return float_arrays(outputs)

  try:
    written = jax.make_jaxpr(forward)(*leaves)
    pairs = zip(shapes, rule.outputs, strict=True)
    outputs = [jax.ShapeDtypeStruct(shape, own.dtype) for shape, own in pairs]
  except Exception as error:
    raise UnusableError(f"f(*args) raises {raised(error)}") from error
  return written, rule._replace(outputs=outputs)


def loop_among(reference: Program, rule: Program, truth: Program | None) -> str:
  """Return the first of the programs that holds a loop that ends by a tolerance, in words."""
  named = ((FUNCTION, reference), ("the rule", rule), ("autodiff's derivative", truth))
  found = (name for name, p in named if p is not None and jaxprs.ends_by_tolerance(p))
  return next(found, "")


def data_of(program: Program) -> set[Any]:
  """Return the `constant_key` of every float array that a program closes over."""
  return {constant_key(c) for c in program.consts if is_float(c.dtype) and c.size > 1}


def in_float64(is_wide: bool) -> contextlib.AbstractContextManager[Any]:
  """Return the context in which programs are traced in float64, if they are."""
  return jax.enable_x64(True) if is_wide else contextlib.nullcontext()


def float_arrays(values: Sequence[Any]) -> Leaves:
  """Return the floats among the outputs of a function or of its rule."""
  return [y for y in map(jnp.asarray, values) if is_float(y.dtype)]


def traced_rule(rule: Rule, *inputs: Any) -> Leaves:
  """Apply U; return float outputs, then cotangents."""
  count = len(rule.signature.names)
  y, bars = rule.both(inputs[:count], with_float0(rule.outputs, inputs[count:]))
  return [*float_arrays(y), *bars]


def trace_truth(
  written: Program, floats: list[int], leaves: Sequence[Any], y_bar: Sequence[Any]
) -> tuple[Program | None, str]:
  """Trace A by reverse mode, or for few entries by forward mode; or return why it's absent."""
  evaluated = partial(evaluate_flat, written, True)
  missing = ""
  is_small = sum(leaves[i].size for i in floats) <= MOST_COLUMNS
  for mode in (reverse_mode, forward_mode) if is_small else (reverse_mode,):
    try:
      return jax.make_jaxpr(partial(mode, evaluated, len(leaves), floats))(*leaves, *y_bar), ""
    except Exception as error:
      missing = f"autodiff of the reference: {raised(error)}"
  return None, missing


def reverse_mode(f: Callable[..., Leaves], count: int, floats: list[int], *inputs: Any) -> Leaves:
  """Return outputs and cotangents of a function of `count` leaves, at U's inputs."""
  own = [inputs[i] for i in floats]
  y, pull = jax.vjp(lambda *x: f(*replaced(inputs[:count], floats, x)), *own)
  return [*y, *pull(list(inputs[count:]))]


def forward_mode(f: Callable[..., Leaves], count: int, floats: list[int], *inputs: Any) -> Leaves:
  """Return the same, by a pass for each entry of the leaves."""

  def product(own: Any, place: int) -> Any:
    y = f(*replaced(inputs[:count], [place], [own]))
    return sum(jnp.vdot(b, v) for b, v in zip(inputs[count:], y, strict=True))

  bars = [jax.jacfwd(partial(product, place=i))(inputs[i]) for i in floats]
  return [*f(*inputs[:count]), *bars]


class Setting(NamedTuple):
  """The programs at one point.

  Attributes:
    witnesses: the programs for these shapes.
    leaves: the arguments.
    y_bar: the cotangents of the float outputs.
  """

  witnesses: Witnesses
  leaves: Sequence[Any]
  y_bar: Sequence[np.ndarray]

  @property
  def inputs(self) -> Leaves:
    """The inputs of U and A."""
    return [*self.leaves, *self.y_bar]

  @property
  def float_leaves(self) -> list[np.ndarray]:
    """The arguments that have a cotangent."""
    return [np.asarray(self.leaves[i]) for i in self.witnesses.signature.floats]


class Values(NamedTuple):
  """The values of the rule and the truth at one point.

  Attributes:
    y, y_want: the float outputs, by the rule's forward pass and by the reference's.
    bars, bars_want: the cotangents, each with an axis of samples; `bars_want` is None if there is
      no autodiff.
    fragile: the number of comparisons that rounding might decide.
    foreign: the operations that aren't evaluated in float64.
    is_endless: whether a loop exceeded its limit of iterations.
  """

  y: list[np.ndarray]
  y_want: list[np.ndarray]
  bars: list[np.ndarray]
  bars_want: list[np.ndarray] | None
  fragile: int
  foreign: tuple[str, ...]
  is_endless: bool

  @property
  def is_finite(self) -> bool:
    """Whether the function is finite here; elsewhere there is no gradient to compare with."""
    return not self.is_endless and all(np.isfinite(y[0]).all() for y in self.y_want)

  def agree(self, allowance: float) -> bool:
    """Whether rule and truth agree within the least bound of any entry."""
    if self.bars_want is None:
      return False
    pairs = zip([*self.y, *self.bars], [*self.y_want, *self.bars_want], strict=True)
    return all(is_close(got[0], want[0], allowance) for got, want in pairs)


def is_close(got: np.ndarray, want: np.ndarray, allowance: float) -> bool:
  """Return whether finite arrays agree to the last places of every entry."""
  with np.errstate(all="ignore"):
    size = np.maximum(np.abs(got), np.abs(want))
    return bool((np.abs(got - want) <= allowance * LEAST_BOUND * size).all())


def evaluate(at: Setting, noise: Noise | None, goes_on: bool = False) -> Values:
  """Evaluate U and A at one point, under noise.

  Args:
    at: the programs and the point.
    noise: None for one unperturbed sample.
    goes_on: whether loops that end by a tolerance make more iterations than they ask for.
  """
  witnesses = at.witnesses
  count, evaluator = len(witnesses.forward.out_avals), witnesses.evaluator(noise)
  evaluator.goes_on = goes_on
  got = evaluator.run(witnesses.rule, at.inputs)
  if witnesses.truth is None:
    want = evaluator.run(witnesses.forward, at.leaves)
  else:
    want = evaluator.run(witnesses.truth, at.inputs)
  y_want = want[:count]
  if witnesses.value is not None:
    y_want = evaluator.run(witnesses.value, at.leaves)
  return Values(
    got[:count], y_want, got[count:], want[count:] or None, evaluator.fragile,
    tuple(evaluator.foreign), evaluator.is_endless,
  )  # fmt: skip


def truth_with(at: Setting, override: Any) -> list[np.ndarray]:
  """Return the cotangents of A at one point, with some equations of the reference replaced."""
  signature, forward = at.witnesses.signature, at.witnesses.forward
  replacing = partial(evaluate_flat, forward, False, override=override)
  with jax.enable_x64(True):
    shapes = map(jaxprs.shape_of, [*forward.in_avals, *forward.out_avals])
    reverse = partial(reverse_mode, replacing, len(at.leaves), signature.floats)
    (program,) = jaxprs.released([flat(jax.make_jaxpr(reverse)(*shapes), keep_rules=False)])
  results = Evaluator(signature.working).run(program, at.inputs)
  return [x[0] for x in results[len(forward.out_avals) :]]


class Slopes(NamedTuple):
  """D: one-sided derivatives of ⟨y_bar, f⟩ along a direction, and their estimated error.

  Attributes:
    left, right: the limits from below and from above.
    error: the estimated error of either.
  """

  left: float
  right: float
  error: float

  @property
  def is_known(self) -> bool:
    """Whether both are finite."""
    return bool(np.isfinite(self.left) and np.isfinite(self.right) and np.isfinite(self.error))


STEPS = np.array([0.0, 1.0, 2.0, 4.0, -1.0, -2.0, -4.0])
# The points of a fit, in units of its radius: Chebyshev's, of which the first one is the centre.
NODES = np.array([0.0, *np.cos(np.pi * (np.arange(16) + 0.5) / 16)])
# The largest radius within the domain of the function is used: a solver's tolerance must be small
# beside it.
RADII = (2.0**-6, 2.0**-10)
# The polynomial has degree five.
POWERS = np.vander(NODES[1:], 6, increasing=True)
WEIGHTS = np.linalg.pinv(POWERS)


def slopes(at: Setting, direction: Sequence[np.ndarray], step: float = 2.0**-20) -> Slopes:
  """Compute D, by a fit if the function is known to a tolerance only.

  Args:
    at: the programs and the point.
    direction: one array for each float leaf.
    step: the step in units of the direction, relative to the magnitude of the varied entries.
  """
  size = max(
    float(np.max(np.abs(leaf), initial=0.0, where=np.asarray(d) != 0))
    for leaf, d in zip(at.float_leaves, direction, strict=True)
  )
  length = max((float(np.max(np.abs(d), initial=0.0)) for d in direction), default=0.0)
  if length == 0:
    return Slopes(0.0, 0.0, 0.0)
  unit = (size if 0 < size < np.inf else 1.0) / length
  if not at.witnesses.is_iterative:
    h = step * unit
    change, noise, is_exact = changes(at, direction, h * STEPS)
    if is_exact:
      right, r_error = extrapolated(change[1:4], h * STEPS[1:4])
      left, l_error = extrapolated(change[4:], h * STEPS[4:])
      with np.errstate(all="ignore"):
        return Slopes(left, right, max(r_error, l_error) + 8 * noise / h)
  for radius in RADII:
    h = radius * unit
    change, noise, _ = changes(at, direction, h * NODES)
    slope, error = fitted(change[1:], h)
    if np.isfinite(slope):
      break
  return Slopes(slope, slope, error + 8 * noise / h)


def changes(
  at: Setting, direction: Sequence[np.ndarray], steps: np.ndarray
) -> tuple[np.ndarray, float, bool]:
  """Return the changes of ⟨y_bar, f⟩ by steps along a direction, of which the first is zero.

  Returns:
    (the changes, the rounding error of any of them, whether all operations were in float64).
  """
  inputs = [lifted(leaf) for leaf in at.leaves]
  for i, d in zip(at.witnesses.signature.floats, direction, strict=True):
    if np.any(d):
      inputs[i] = inputs[i] + steps.reshape(-1, *(1,) * np.ndim(d)) * np.asarray(d)[None]
  evaluator = at.witnesses.unrounded()
  outputs = evaluator.run_stacked(at.witnesses.forward, inputs)
  change, noise = np.zeros(len(steps)), 0.0
  with np.errstate(all="ignore"):
    for b, y in zip(at.y_bar, outputs, strict=True):
      full = np.broadcast_to(y, (len(steps), *y.shape[1:]))
      change += ((full - full[:1]) * np.asarray(b)[None]).reshape(len(steps), -1).sum(1)
      # Four machine epsilons of each output for its rounding.
      noise += float(np.abs(full[0] * b).sum()) * 2.0**-50
  return change, noise, not evaluator.foreign


def extrapolated(change: np.ndarray, steps: np.ndarray) -> tuple[Any, Any]:
  """Return the limit of the quotients over one, two and four steps on one side, and its error.

  Args:
    change: an array [..., 3].
    steps: the steps, likewise.
  """
  with np.errstate(all="ignore"):
    d1, d2, d4 = np.moveaxis(change / steps, -1, 0)
    # These weights cancel the terms in h and h² of the quotients. The error estimate is the
    # distance to the extrapolation over two steps, which cancels the term in h alone.
    limit = (8 * d1 - 6 * d2 + d4) / 3
    return limit, np.abs(limit - (2 * d1 - d2))


def fitted(change: np.ndarray, radius: Any) -> tuple[Any, Any]:
  """Return the slope of a polynomial fitted to the changes at the nodes, and its error.

  The error is that of deviations as large as the largest one that the polynomial leaves over, each
  by itself. A kink within the radius is such a deviation.

  Args:
    change: an array [..., nodes].
    radius: the step of the outermost node, an array [...].
  """
  with np.errstate(all="ignore"):
    coefficients = change @ WEIGHTS.T
    left_over = np.abs(change - coefficients @ POWERS.T).max(-1)
    error = 2 * left_over * np.linalg.norm(WEIGHTS[1])
    return coefficients[..., 1] / radius, error / radius
