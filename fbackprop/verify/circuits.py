"""Comparison of a circuit's gradients with `jax.grad` of its forward pass, in float64.

At a kink or a tie the derivative doesn't exist, and both autodiff's value and ours are choices. So
a difference is checked twice: with each gate at a kink replaced by the line of our own slope,
autodiff must agree to the last digits, and that slope must lie between the one-sided slopes. The
policy at the kink is then the only difference. In a power whose base isn't above 0 only the path
through the exponent is replaced, and our slope there must be 0.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.circuit._circuit import Trace
from fbackprop.circuit.graph import GateGraph
from fbackprop.circuit.solver import GateTrace, forward
from fbackprop.types import Array, Gate

# Relative to the largest term of a gradient's sum, or to 1e-4 of the largest gradient on any wire
# if more than that has cancelled. Both sides are float64, and correct rules stay below 1e-12.
CIRCUIT_TOLERANCE = 1e-9
LEAST_SHARE = 1e-4
# The distance from a kink at which the one-sided slopes are computed.
BESIDE = 1e-12


class CircuitCheck(NamedTuple):
  """The result of the comparison.

  Attributes:
    error: the largest |ours − jax.grad| of an input, relative to the terms of its gradient.
    name: that input; "" for a circuit without inputs.
    ours, theirs: its two gradients.
    kinks: the gates at a kink or a tie.
    error_elsewhere: the same error with these gates replaced by lines of our slopes; infinite if
      such a slope is no valid choice; `error` itself if there are none.
  """

  error: float
  name: str
  ours: float
  theirs: float
  kinks: tuple[str, ...]
  error_elsewhere: float

  @property
  def agrees(self) -> bool:
    """Whether jax.grad agrees; False for a NaN on one side only."""
    return self.error <= CIRCUIT_TOLERANCE

  @property
  def ok(self) -> bool:
    """Whether jax.grad agrees, or differs only by our choice at a kink or a tie.

    Such a choice is a slope between those of the two sides, shares of the tied inputs that sum to
    1, or no gradient to the exponent of a base that isn't above 0.
    """
    return self.agrees or self.error_elsewhere <= CIRCUIT_TOLERANCE


def check_circuit(trace: Trace) -> CircuitCheck:
  """Compare the gradients of a trace with `jax.grad`.

  Args:
    trace: the result of `Circuit.trace`.

  Returns:
    The `CircuitCheck`.

  Example:
    >>> from fbackprop.circuit import parse
    >>> check_circuit(parse("(x+y)*max(y,z)").trace(x=1.0, y=2.0, z=0.0)).ok
    True
    >>> at_kink = check_circuit(parse("k = abs(x)").trace(x=0.0))
    >>> at_kink.agrees, at_kink.ok, at_kink.ours, at_kink.theirs, at_kink.kinks
    (False, True, 0.0, 1.0, ('k',))
  """
  choices = {gate.name: is_choice(gate, trace) for gate in trace.gates}
  kinks = {gate.name: gate for gate in trace.gates if choices[gate.name] is not None}
  error, name, ours, theirs = worst(trace, gradients(trace, {}))
  elsewhere = worst(trace, gradients(trace, kinks))[0] if kinks else error
  if not all(choices[name] for name in kinks):
    elsewhere = math.inf
  return CircuitCheck(error, name, ours, theirs, tuple(kinks), elsewhere)


def gradients(trace: Trace, lines: Mapping[str, GateTrace]) -> dict[str, float]:
  """Compute autodiff's gradients by the inputs, with some gates replaced by lines of our slopes."""
  circuit = trace.circuit
  gates = [(f"line {name}", line(circuit.gate_of[g.op], g)) for name, g in lines.items()]
  nodes = [n._replace(op=f"line {n.name}") if n.name in lines else n for n in circuit.nodes]
  graph = GateGraph(tuple(nodes), circuit.outputs, (*circuit.gates, *gates))
  with jax.enable_x64(True):
    inputs = {name: jnp.asarray(trace.values[name], float) for name in circuit.inputs}
    grads = jax.grad(lambda inputs: forward(graph, inputs)[2])(inputs)
    return {name: float(grad) for name, grad in jax.device_get(grads).items()}


def line(gate: Gate, found: GateTrace) -> Gate:
  """Linearise a gate by our local gradients; a power, only with respect to the exponent."""

  def line_forward(*xs: Array) -> tuple[Array, None]:
    y, first = jnp.asarray(found.value, float), 0
    if gate.name == "power":
      y, first = gate.forward(xs[0], jax.lax.stop_gradient(xs[1]))[0], 1
    for slope, x in list(zip(found.local, xs, strict=True))[first:]:
      y = y + slope * (x - jax.lax.stop_gradient(x))
    return y, None

  return gate._replace(forward=line_forward)


def is_choice(gate: GateTrace, trace: Trace) -> bool | None:
  """Return whether our slopes at a kink, at a tie, or at a power without a derivative, are valid.

  Returns:
    None at any other point.
  """
  xs = [trace.values[name] for name in gate.inputs]
  own = trace.circuit.gate_of[gate.op]
  if own.name == "power":
    return gate.local[1] == 0 if xs[0] <= 0 else None
  if own.name in ("max", "min"):
    pairs = list(zip(xs, gate.local, strict=True))
    is_shared = all(share >= 0 if x == gate.value else share == 0 for x, share in pairs)
    is_whole = abs(sum(gate.local) - 1) <= CIRCUIT_TOLERANCE
    return is_shared and is_whole if xs.count(gate.value) > 1 else None
  if xs[0] not in own.kinks:
    return None
  with jax.enable_x64(True):
    slope_at = jax.grad(lambda x: own.forward(x)[0])
    sides = [float(slope_at(jnp.asarray(xs[0] + step, float))) for step in (-BESIDE, BESIDE)]
  return min(sides) - CIRCUIT_TOLERANCE <= gate.local[0] <= max(sides) + CIRCUIT_TOLERANCE


def worst(trace: Trace, theirs: Mapping[str, float]) -> tuple[float, str, float, float]:
  """Return the largest error, its input and both gradients; a NaN on one side is infinite."""
  largest = max((abs(bar) for bar in trace.bars.values() if math.isfinite(bar)), default=0.0)
  errors = {"": 0.0} if not theirs else {}
  for name, grad in theirs.items():
    ours = trace.gradients[name]
    terms = [abs(t) for t in trace.contributions[name]]
    is_same = ours == grad or (math.isnan(ours) and math.isnan(grad))
    error = 0.0 if is_same else abs(ours - grad) / max(*terms, abs(grad), LEAST_SHARE * largest)
    errors[name] = error if math.isfinite(error) else math.inf
  name = max(errors, key=errors.__getitem__)
  return errors[name], name, trace.gradients.get(name, 0.0), theirs.get(name, 0.0)
