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

from fbackprop.circuit._circuit import Circuit, Trace
from fbackprop.circuit.solver import GateTrace
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
  kinks = {gate.name: gate for gate in trace.gates if at_kink(gate, trace)}
  error, name, ours, theirs = worst(trace, gradients(trace, {}))
  elsewhere = worst(trace, gradients(trace, kinks))[0] if kinks else error
  if not all(is_choice(gate, trace) for gate in kinks.values()):
    elsewhere = math.inf
  return CircuitCheck(error, name, ours, theirs, tuple(kinks), elsewhere)


def gradients(trace: Trace, lines: Mapping[str, GateTrace]) -> dict[str, float]:
  """Compute autodiff's gradients by the inputs, with some gates replaced by lines of our slopes."""
  circuit = trace.circuit
  with jax.enable_x64(True):
    inputs = {name: jnp.asarray(trace.values[name], float) for name in circuit.inputs}
    grads = jax.grad(lambda inputs: value_of(circuit, inputs, lines))(inputs)
    return {name: float(grad) for name, grad in jax.device_get(grads).items()}


def value_of(
  circuit: Circuit, inputs: Mapping[str, Array], lines: Mapping[str, GateTrace]
) -> Array:
  """Recompute Σ weight · output by the gates' forward rules alone."""
  values: dict[str, Array] = {}
  for node in circuit.nodes:
    arrived = [values[name] for name in node.inputs]
    if node.op == "input":
      values[node.name] = inputs[node.name]
    elif node.value is not None:  # A constant: gates have no value.
      values[node.name] = jnp.asarray(float(node.value), float)
    elif node.name in lines:
      values[node.name] = line(circuit.gate_of[node.op], lines[node.name], arrived)
    else:
      values[node.name] = circuit.gate_of[node.op].forward(*arrived)[0]
  total: Array = sum((weight * values[name] for name, weight in circuit.outputs), jnp.zeros(()))
  return total


def line(gate: Gate, found: GateTrace, xs: list[Array]) -> Array:
  """Linearise a gate by our local gradients; a power, only with respect to the exponent."""
  slopes = list(zip(found.local, xs, strict=True))
  y = jnp.asarray(found.value, float)
  if gate.name == "power":
    y = gate.forward(xs[0], jax.lax.stop_gradient(xs[1]))[0]
    slopes = slopes[1:]
  for slope, x in slopes:
    y = y + slope * (x - jax.lax.stop_gradient(x))
  return y


def at_kink(gate: GateTrace, trace: Trace) -> bool:
  """Return whether a gate's inputs are at a kink or a tie, or at a power without a derivative."""
  xs = [trace.values[name] for name in gate.inputs]
  own = trace.circuit.gate_of[gate.op]
  if own.name in ("max", "min"):
    return xs.count(gate.value) > 1
  if own.name == "power":
    return xs[0] <= 0
  return xs[0] in own.kinks


def is_choice(gate: GateTrace, trace: Trace) -> bool:
  """Return whether our slopes at a kink are a valid choice."""
  xs = [trace.values[name] for name in gate.inputs]
  own = trace.circuit.gate_of[gate.op]
  if own.name == "power":
    return gate.local[1] == 0
  if own.name in ("max", "min"):
    is_shared = all(
      share >= 0 if x == gate.value else share == 0 for x, share in zip(xs, gate.local, strict=True)
    )
    return is_shared and abs(sum(gate.local) - 1) <= CIRCUIT_TOLERANCE
  with jax.enable_x64(True):
    slope_at = jax.grad(lambda x: own.forward(x)[0])
    sides = [float(slope_at(jnp.asarray(xs[0] + step, float))) for step in (-BESIDE, BESIDE)]
  return min(sides) - CIRCUIT_TOLERANCE <= gate.local[0] <= max(sides) + CIRCUIT_TOLERANCE


def worst(trace: Trace, theirs: Mapping[str, float]) -> tuple[float, str, float, float]:
  """Return the largest error, its input and both gradients; a NaN on one side is infinite."""
  largest = max((abs(bar) for bar in trace.bars.values() if math.isfinite(bar)), default=0.0)
  found = (0.0, next(iter(theirs), ""), 0.0, 0.0)
  if found[1]:
    found = (0.0, found[1], trace.gradients[found[1]], theirs[found[1]])
  for name, grad in theirs.items():
    ours = trace.gradients[name]
    if ours == grad or (math.isnan(ours) and math.isnan(grad)):
      continue
    scale = max((abs(t) for t in trace.contributions[name]), default=0.0)
    scale = max(scale, abs(grad), LEAST_SHARE * largest)
    error = abs(ours - grad) / scale
    error = error if math.isfinite(error) else math.inf
    if error > found[0]:
      found = (error, name, ours, grad)
  return found
