"""The three witnesses of one shape of arguments: the rule U, autodiff A, differences D.

All three are programs, traced once, in float64 where the rule lets itself be traced so, and
evaluated at as many points as one likes.
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
from fbackprop.verify.interpret.programs import (
  data_of,
  evaluate_flat,
  flat,
  without_rules,
)
from fbackprop.verify.report.findings import RuleError
from fbackprop.verify.witnesses.arguments import Leaves, wide, with_float0
from fbackprop.verify.witnesses.rules import Rule, first_line

# Of a rule or a reference that can't be traced in float64: what its constants were rounded by.
CONSTANTS = {23: 2.0**-24, 10: 2.0**-11, 7: 2.0**-8}
# As many entries autodiff may go through in forward mode, where reverse mode can't be had.
MOST_COLUMNS = 600


class Witnesses(NamedTuple):
  """The programs, for arguments of certain shapes.

  Attributes:
    rule: U; float leaves, other leaves, float cotangents in, outputs and cotangents out.
    truth: A, likewise; None if autodiff of the reference can't be had.
    forward: the reference; float outputs out. It alone is flat.
    outputs: shapes and dtypes of all outputs.
    is_wide: whether U and A were traced in float64.
    first_to_last: the float leaves in the order of the backward pass.
    truth_missing: why there is no A.
    has_rule: whether f carries a custom rule somewhere.
    known: arrays that U and A are both closed over: they are data. Where the programs are narrow,
      another constant may be a number that was rounded.
  """

  signature: Any
  rule: Program
  truth: Program | None
  forward: Program
  outputs: list[Any]
  is_wide: bool
  first_to_last: list[int]
  truth_missing: str = ""
  has_rule: bool = False
  known: frozenset[Any] = frozenset()

  def evaluator(self, noise: Noise | None) -> Evaluator:
    """What evaluates the programs of these arguments."""
    if noise is not None and not self.is_wide:
      noise = noise._replace(constants=CONSTANTS.get(digits(self.signature.working), 0.0))
    return Evaluator(self.signature.working, noise, known=self.known)


def gather_witnesses(
  rule: Rule, leaves: Sequence[Any], outputs: list[Any], widen: bool = True
) -> Witnesses:
  """Traces the three programs, in float64 if the rule can be and `widen` says so.

  Raises:
    RuleError: the rule can't be traced, in float64 or in its own dtype.
  """
  y_bar = [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in outputs if is_float(o.dtype)]
  is_wide = widen
  if widen:
    try:
      with jax.enable_x64(True):
        wide_leaves = wide(leaves)
        written, forward = trace_forward(rule, wide_leaves)
        # A function that casts its output has a cotangent of that dtype.
        own_bars = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in forward.out_avals]
        own = [jnp.asarray(x) for x in wide_leaves]
        program = jax.make_jaxpr(partial(traced_rule, rule, outputs))(*own, *own_bars)
        truth, missing = trace_truth(rule, written, wide_leaves, own_bars)
    except UnknownProgramError:
      raise
    except Exception:  # Whatever it raises: its own dtype is left to try.
      is_wide = False
  if not is_wide:
    try:
      program = jax.make_jaxpr(partial(traced_rule, rule, outputs))(*leaves, *y_bar)
    except RuleError:
      raise
    except Exception as error:
      raise RuleError("raises", f"{type(error).__name__}: {first_line(error)}") from error
    written, forward = trace_forward(rule, leaves)
    truth, missing = trace_truth(rule, written, leaves, y_bar)
  floats = rule.signature.floats
  places = last_reads(forward)
  order = sorted(range(len(floats)), key=lambda i: -places[floats[i]])
  known: frozenset[Any] = frozenset()
  if truth is not None and not is_wide:
    known = frozenset(data_of(program) & data_of(truth))
  return Witnesses(
    rule.signature,
    program,
    truth,
    forward,
    outputs,
    is_wide,
    order,
    missing,
    carries_rule(written),
    known,
  )


def trace_forward(rule: Rule, leaves: Sequence[Any]) -> tuple[Program, Program]:
  """The reference's float outputs: as they were written, and the flat program."""

  def forward(*leaves: Any) -> Leaves:
    return [y for y in map(jnp.asarray, rule.forward(*leaves)) if is_float(y.dtype)]

  written = jax.make_jaxpr(forward)(*map(jnp.asarray, leaves))
  return written, flat(written, keep_rules=False)


def traced_rule(rule: Rule, outputs: list[Any], *inputs: Any) -> Leaves:
  """U: float outputs, then cotangents."""
  count = len(rule.signature.names)
  y_bar = with_float0(outputs, inputs[count:])
  y, bars = rule.both(inputs[:count], y_bar)
  return [*(o for o in map(jnp.asarray, y) if is_float(o.dtype)), *bars]


def reference_of(rule: Rule, leaves: Sequence[Any]) -> Callable[..., Leaves]:
  """The float outputs of f, without custom VJPs, as a function of the float leaves."""
  floats = rule.signature.floats
  stripped = without_rules(rule.forward, *leaves)

  def reference(*own: Any) -> Leaves:
    full = list(leaves)
    for place, leaf in zip(floats, own, strict=True):
      full[place] = leaf
    return [y for y in map(jnp.asarray, stripped(*full)) if is_float(y.dtype)]

  return reference


def trace_truth(
  rule: Rule, written: Program, leaves: Sequence[Any], y_bar: Sequence[Any]
) -> tuple[Program | None, str]:
  """A: by reverse mode; else, for few entries, by forward mode, which goes through any loop."""
  count, floats = len(leaves), rule.signature.floats
  leaves = [jnp.asarray(x) for x in leaves]

  def reference_at(inputs: Sequence[Any]) -> Callable[..., Leaves]:
    def reference(*own: Any) -> Leaves:
      full = list(inputs[:count])
      for place, leaf in zip(floats, own, strict=True):
        full[place] = leaf
      return evaluate_flat(written, True, *full)

    return reference

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
        tangents = [jnp.zeros_like(x) if k != i else tangent for k, x in enumerate(own)]
        _, y_dot = jax.jvp(reference, own, tangents)
        return sum(jnp.vdot(b, d) for b, d in zip(inputs[count:], y_dot, strict=True))

      bars.append(jax.vmap(along)(basis).reshape(leaf.shape))
    return [*reference(*own), *bars]

  try:
    return jax.make_jaxpr(reverse)(*leaves, *y_bar), ""
  except Exception as error:
    missing = f"autodiff of the reference: {type(error).__name__}: {first_line(error)}"
  if sum(leaves[i].size for i in floats) <= MOST_COLUMNS:
    try:
      return jax.make_jaxpr(forward)(*leaves, *y_bar), ""
    except Exception as error:
      missing = f"autodiff of the reference: {type(error).__name__}: {first_line(error)}"
  return None, missing


class Values(NamedTuple):
  """What the rule and the truth give at one point.

  Attributes:
    y, y_want: the float outputs, by the rule's forward pass and by the reference's.
    bars, bars_want: the cotangents, each with an axis of samples; `bars_want` is None if there is
      no autodiff.
    fragile: how many comparisons rounding might decide.
    foreign: operations that aren't evaluated in float64.
    is_endless: whether a loop was left before its end.
  """

  y: list[np.ndarray]
  y_want: list[np.ndarray]
  bars: list[np.ndarray]
  bars_want: list[np.ndarray] | None
  fragile: int
  foreign: tuple[str, ...]
  is_endless: bool


def evaluate(
  witnesses: Witnesses, leaves: Sequence[Any], y_bar: Sequence[Any], noise: Noise
) -> Values:
  """Evaluates U and A at one point, under noise."""
  count = sum(is_float(o.dtype) for o in witnesses.outputs)
  inputs = [*leaves, *y_bar]
  evaluator = witnesses.evaluator(noise)
  got = evaluator.run(witnesses.rule, inputs)
  if witnesses.truth is not None:
    want = evaluator.run(witnesses.truth, inputs)
    y_want, bars_want = want[:count], want[count:]
  else:
    y_want, bars_want = evaluator.run(witnesses.forward, leaves), None
  return Values(
    got[:count],
    y_want,
    got[count:],
    bars_want,
    evaluator.fragile,
    tuple(evaluator.foreign),
    evaluator.is_endless,
  )


def truth_with(
  rule: Rule, witnesses: Witnesses, leaves: Sequence[Any], y_bar: Sequence[Any], override: Any
) -> list[np.ndarray]:
  """A of the reference, some equations replaced: its cotangents at one point."""
  floats = rule.signature.floats

  def reverse(*inputs: Any) -> Leaves:
    own, bars = inputs[: len(leaves)], inputs[len(leaves) :]

    def reference(*moving: Any) -> Leaves:
      full = list(own)
      for place, leaf in zip(floats, moving, strict=True):
        full[place] = leaf
      return evaluate_flat(witnesses.forward, False, *full, override=override)

    return list(jax.vjp(reference, *(own[i] for i in floats))[1](list(bars)))

  with jax.enable_x64(True):
    as_traced = [
      jnp.asarray(x, a.dtype) if is_float(a.dtype) else x
      for x, a in zip(leaves, witnesses.forward.in_avals, strict=True)
    ]
    bars = [
      jnp.asarray(b, a.dtype) for b, a in zip(y_bar, witnesses.forward.out_avals, strict=True)
    ]
    program = flat(jax.make_jaxpr(reverse)(*as_traced, *bars), keep_rules=False)
  return [x[0] for x in Evaluator(rule.signature.working).run(program, [*leaves, *y_bar])]
