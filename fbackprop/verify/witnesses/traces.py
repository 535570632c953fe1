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

Doubts: the estimated error isn't a bound, so a verdict rests on D only where that error is a small
share of the difference to decide.

References:
  Griewank, Walther, "Evaluating Derivatives", SIAM, 2008, chapter 3; Richardson, Phil. Trans. R.
  Soc. A 210 (1911), 307-357.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.jaxprs import Program, UnknownProgramError, carries_rule, last_reads
from fbackprop.verify.interpret.evaluation import Evaluator, Noise
from fbackprop.verify.interpret.primitives import digits, is_float
from fbackprop.verify.interpret.programs import data_of, evaluate_flat, flat, without_rules
from fbackprop.verify.interpret.samples import lifted
from fbackprop.verify.report.findings import RuleError
from fbackprop.verify.witnesses.rule import (
  Leaves,
  Rule,
  Signature,
  raised,
  replaced,
  with_float0,
)

# The relative rounding error of a constant, by the significand bits of its traced dtype.
CONSTANTS = {23: 2.0**-24, 10: 2.0**-11, 7: 2.0**-8}
# Forward mode costs a pass for each entry: it is the last resort, up to this many.
MOST_COLUMNS = 600


class Witnesses(NamedTuple):
  """The traced programs, for arguments of certain shapes.

  Attributes:
    source: the rule that was traced.
    rule: U; float leaves, other leaves, float cotangents in, outputs and cotangents out.
    truth: A, likewise; None if the reference can't be differentiated.
    forward: the reference; float leaves and other leaves in, float outputs out. It alone is flat.
    outputs: the shapes and dtypes of all outputs.
    is_wide: whether U and A were traced in float64.
    first_to_last: the float leaves in the order of the backward pass.
    truth_missing: the reason for the absence of A.
    has_rule: whether f contains a custom rule.
    known: arrays that both U and A close over, which are data. In narrow programs any other
      constant may be a rounded number.
  """

  source: Rule
  rule: Program
  truth: Program | None
  forward: Program
  outputs: list[Any]
  is_wide: bool
  first_to_last: list[int]
  truth_missing: str = ""
  has_rule: bool = False
  known: frozenset[Any] = frozenset()

  @property
  def signature(self) -> Signature:
    """The signature of the rule's arguments."""
    return self.source.signature

  def evaluator(self, noise: Noise | None) -> Evaluator:
    """Return an evaluator for programs of these arguments."""
    if noise is not None and not self.is_wide:
      noise = noise._replace(constants=CONSTANTS.get(digits(self.signature.working), 0.0))
    return Evaluator(self.signature.working, noise, known=self.known)


def gather_witnesses(
  rule: Rule, leaves: Sequence[Any], outputs: list[Any], widen: bool = True
) -> Witnesses:
  """Trace the programs, in float64 if `widen` is set and the rule allows it.

  Raises:
    RuleError: the rule can't be traced, in float64 or in its own dtype.
  """

  def trace(leaves: Leaves, is_wide: bool) -> Witnesses:
    written, forward = trace_forward(rule, leaves)
    # A function that casts its output has a cotangent of the output's dtype.
    y_bar = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in forward.out_avals]
    program = jax.make_jaxpr(partial(traced_rule, rule, outputs))(*leaves, *y_bar)
    truth, missing = trace_truth(rule, written, leaves, y_bar)
    reads, floats = last_reads(forward), rule.signature.floats
    order = sorted(range(len(floats)), key=lambda i: -reads[floats[i]])
    known = data_of(program) & data_of(truth) if truth is not None and not is_wide else ()
    return Witnesses(
      rule, program, truth, forward, outputs, is_wide, order, missing, carries_rule(written),
      frozenset(known),
    )  # fmt: skip

  if widen:
    try:
      with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) if is_float(x.dtype) else x for x in leaves]
        return trace(list(map(jnp.asarray, wide)), True)
    except UnknownProgramError:
      raise
    except Exception:  # Any exception: fall back to the rule's own dtype.
      pass
  try:
    return trace(list(leaves), False)
  except (RuleError, UnknownProgramError):
    raise
  except Exception as error:
    raise RuleError("raises", raised(error)) from error


def trace_forward(rule: Rule, leaves: Sequence[Any]) -> tuple[Program, Program]:
  """Trace the reference's float outputs; return the program as written, and flat."""

  def forward(*leaves: Any) -> Leaves:
    return [y for y in map(jnp.asarray, rule.forward(*leaves)) if is_float(y.dtype)]

  written = jax.make_jaxpr(forward)(*map(jnp.asarray, leaves))
  return written, flat(written, keep_rules=False)


def traced_rule(rule: Rule, outputs: list[Any], *inputs: Any) -> Leaves:
  """Apply U; return float outputs, then cotangents."""
  count = len(rule.signature.names)
  y, bars = rule.both(inputs[:count], with_float0(outputs, inputs[count:]))
  return [*(o for o in map(jnp.asarray, y) if is_float(o.dtype)), *bars]


def reference_of(rule: Rule, leaves: Sequence[Any]) -> Callable[..., Leaves]:
  """Return the float outputs of f without custom VJPs, as a function of the float leaves."""
  stripped = without_rules(rule.forward, *leaves)

  def reference(*floats: Any) -> Leaves:
    outputs = stripped(*rule.signature.with_floats(leaves, floats))
    return [y for y in map(jnp.asarray, outputs) if is_float(y.dtype)]

  return reference


def trace_truth(
  rule: Rule, written: Program, leaves: Sequence[Any], y_bar: Sequence[Any]
) -> tuple[Program | None, str]:
  """Trace A by reverse mode, or for few entries by forward mode; or return why it's absent."""
  count, floats = len(leaves), rule.signature.floats
  leaves = [jnp.asarray(x) for x in leaves]

  def reference_at(inputs: Sequence[Any]) -> Callable[..., Leaves]:
    return lambda *own: evaluate_flat(written, True, *replaced(inputs[:count], floats, own))

  def reverse(*inputs: Any) -> Leaves:
    y, pull = jax.vjp(reference_at(inputs), *(inputs[i] for i in floats))
    return [*y, *pull(list(inputs[count:]))]

  def forward(*inputs: Any) -> Leaves:
    reference = reference_at(inputs)
    own = [inputs[i] for i in floats]
    bars = []
    for i, leaf in enumerate(own):
      basis = jnp.eye(leaf.size, dtype=leaf.dtype).reshape(leaf.size, *leaf.shape)

      def along(tangent: Any, i: int = i) -> Any:
        tangents = replaced([jnp.zeros_like(x) for x in own], [i], [tangent])
        _, y_dot = jax.jvp(reference, own, tangents)
        return sum(jnp.vdot(b, d) for b, d in zip(inputs[count:], y_dot, strict=True))

      bars.append(jax.vmap(along)(basis).reshape(leaf.shape))
    return [*reference(*own), *bars]

  missing = ""
  is_small = sum(leaves[i].size for i in floats) <= MOST_COLUMNS
  for mode in (reverse, forward) if is_small else (reverse,):
    try:
      return jax.make_jaxpr(mode)(*leaves, *y_bar), ""
    except Exception as error:
      missing = f"autodiff of the reference: {raised(error)}"
  return None, missing


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


def evaluate(at: Setting, noise: Noise) -> Values:
  """Evaluate U and A at one point, under noise."""
  witnesses = at.witnesses
  count = sum(is_float(o.dtype) for o in witnesses.outputs)
  evaluator = witnesses.evaluator(noise)
  got = evaluator.run(witnesses.rule, at.inputs)
  if witnesses.truth is not None:
    want = evaluator.run(witnesses.truth, at.inputs)
    y_want, bars_want = want[:count], want[count:]
  else:
    y_want, bars_want = evaluator.run(witnesses.forward, at.leaves), None
  return Values(
    got[:count], y_want, got[count:], bars_want, evaluator.fragile, tuple(evaluator.foreign),
    evaluator.is_endless,
  )  # fmt: skip


def truth_with(at: Setting, override: Any) -> list[np.ndarray]:
  """Return the cotangents of A at one point, with some equations of the reference replaced."""
  signature, forward = at.witnesses.signature, at.witnesses.forward
  floats, count = signature.floats, len(at.leaves)

  def reverse(*inputs: Any) -> Leaves:
    own, bars = inputs[:count], inputs[count:]

    def reference(*moving: Any) -> Leaves:
      return evaluate_flat(forward, False, *replaced(own, floats, moving), override=override)

    return list(jax.vjp(reference, *(own[i] for i in floats))[1](list(bars)))

  with jax.enable_x64(True):
    inputs = [
      jnp.asarray(x, a.dtype) if is_float(a.dtype) else x
      for x, a in zip(at.inputs, [*forward.in_avals, *forward.out_avals], strict=True)
    ]
    program = flat(jax.make_jaxpr(reverse)(*inputs), keep_rules=False)
  return [x[0] for x in Evaluator(signature.working).run(program, at.inputs)]


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


def slopes(at: Setting, direction: Sequence[np.ndarray], step: float = 2.0**-20) -> Slopes:
  """Compute D by Richardson's extrapolation over one, two and four steps, on either side.

  Args:
    at: the programs and the point.
    direction: one array for each float leaf.
    step: the step in units of the direction, relative to the magnitude of the varied entries.
  """
  signature = at.witnesses.signature
  size = max(
    float(np.max(np.abs(leaf), initial=0.0, where=np.asarray(d) != 0))
    for leaf, d in zip(at.float_leaves, direction, strict=True)
  )
  length = max((float(np.max(np.abs(d), initial=0.0)) for d in direction), default=0.0)
  if length == 0:
    return Slopes(0.0, 0.0, 0.0)
  h = step * (size if 0 < size < np.inf else 1.0) / length
  inputs = [lifted(leaf) for leaf in at.leaves]
  for i, d in zip(signature.floats, direction, strict=True):
    if np.any(d):
      inputs[i] = inputs[i] + (h * STEPS).reshape(-1, *(1,) * np.ndim(d)) * np.asarray(d)[None]
  outputs = Evaluator(signature.working).run_stacked(at.witnesses.forward, inputs)
  change, noise = np.zeros(len(STEPS)), 0.0
  with np.errstate(all="ignore"):
    for b, y in zip(at.y_bar, outputs, strict=True):
      full = np.broadcast_to(y, (len(STEPS), *y.shape[1:]))
      change += ((full - full[:1]) * np.asarray(b)[None]).reshape(len(STEPS), -1).sum(1)
      # Four machine epsilons of each output for its rounding.
      noise += float(np.abs(full[0] * b).sum()) * 2.0**-50
    sides = []
    for one, two, four, sign in ((1, 2, 3, 1.0), (4, 5, 6, -1.0)):
      d1, d2, d4 = (sign * change[k] / (m * h) for k, m in ((one, 1), (two, 2), (four, 4)))
      # These weights cancel the terms in h and h² of the quotients. The error estimate is the
      # distance to the extrapolation over two steps, which cancels the term in h alone.
      limit = (8 * d1 - 6 * d2 + d4) / 3
      sides.append((limit, abs(limit - (2 * d1 - d2)) + 8 * noise / h))
  return Slopes(sides[1][0], sides[0][0], max(sides[0][1], sides[1][1]))
