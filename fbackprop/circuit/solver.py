"""Evaluation of circuits: forward by the gates' forward rules, backward by their backward rules.

Reverse-mode differentiation visits the gates in reverse topological order: the upstream gradient of
a gate is complete, summed over its fan-out, before the gate's backward rule multiplies it by the
local gradients and sends the products downstream. It calls no autodiff, and doesn't recurse. A gate
that leads to no output gets no gradient, and its backward rule isn't called: log(0) in an unused
statement has no effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop.checks import check_available, check_floating, check_shape, describe
from fbackprop.circuit.graph import CircuitError, GateGraph, check_value, fan_out
from fbackprop.errors import hint
from fbackprop.types import Array, Residuals

Arrays = dict[str, Array]


class GateTrace(NamedTuple):
  """The numbers of one gate.

  Attributes:
    name, op, inputs: those of its node.
    value: the gate's output.
    local: ∂value/∂input for each input, the other inputs held.
    upstream: the global gradient df/dvalue, summed over the gate's fan-out.
    downstream: upstream × local for each input: the wire's share of df/dinput.
  """

  name: str
  op: str
  inputs: tuple[str, ...]
  value: float
  local: tuple[float, ...]
  upstream: float
  downstream: tuple[float, ...]


@dataclass(frozen=True)
class Solution:
  """The value and the gradient on every wire of a circuit.

  Attributes:
    circuit: the circuit that was solved.
    values: the value of every node.
    bars: the global gradient df/dnode of the circuit's value by every node, along every path.
    contributions: the terms of every node's gradient: the downstream gradient of each wire, in the
      order of `graph.fan_out`, which for an output's wire is its weight.
    gates: the gates, in topological order.
    value: Σ weight · output.
    gradients: the global gradients of the inputs.
  """

  circuit: GateGraph
  values: dict[str, float]
  bars: dict[str, float]
  contributions: dict[str, tuple[float, ...]]
  gates: tuple[GateTrace, ...]
  value: float
  gradients: dict[str, float]


def forward(circuit: GateGraph, inputs: Arrays) -> tuple[Arrays, dict[str, Residuals], Array]:
  """Evaluate every node.

  Args:
    circuit: the circuit.
    inputs: an array for each input, all of one shape and dtype; constants are filled to match.

  Returns:
    `(values, residuals, value)`: by node, by gate, and Σ weight · output, which is differentiated.
  """
  like = next(iter(inputs.values())) if inputs else jnp.zeros(())
  values: Arrays = {}
  residuals: dict[str, Residuals] = {}
  for node in circuit.nodes:
    if node.op == "input":
      values[node.name] = inputs[node.name]
    elif node.value is not None:  # A constant; gates have no value of their own.
      values[node.name] = jnp.full_like(like, float(node.value))
    else:
      arrived = (values[name] for name in node.inputs)
      values[node.name], residuals[node.name] = circuit.gate_of[node.op].forward(*arrived)
  # An output of weight 1 isn't multiplied, and nothing is added to zero, which preserves -0 and the
  # dtype.
  terms = [values[name] if w == 1 else values[name] * w for name, w in circuit.outputs]
  return values, residuals, sum(terms[1:], start=terms[0])


def backward(
  circuit: GateGraph, values: Arrays, residuals: Mapping[str, Residuals]
) -> tuple[Arrays, dict[str, tuple[Array, ...]]]:
  """Differentiate the weighted sum of the outputs by every node that leads to one.

  Args:
    circuit: the circuit.
    values: the values of the nodes, from `forward`.
    residuals: the residuals of the gates, from `forward`.

  Returns:
    `(bars, downstream)`: the gradient by each node, and the downstream gradients of each gate;
    without nodes that lead to no output.
  """
  bars = {name: jnp.full_like(values[name], weight) for name, weight in circuit.outputs}
  downstream: dict[str, tuple[Array, ...]] = {}
  for node in reversed(circuit.nodes):
    if node.name not in bars or node.name not in residuals:
      continue
    sent = circuit.gate_of[node.op].backward(residuals[node.name], bars[node.name])
    downstream[node.name] = sent
    for name, term in zip(node.inputs, sent, strict=True):
      bars[name] = bars[name] + term if name in bars else term
  return bars, downstream


def value_and_grad(circuit: GateGraph, given: Mapping[str, Any]) -> tuple[Array, Arrays]:
  """Compute the value and its gradient by each input; a pure function, for jit, vmap and jvp.

  Args:
    circuit: the circuit.
    given: an array for each input, NumPy's or JAX's, all of one shape and one floating dtype; the
      circuit is evaluated elementwise. A Python number is broadcast to that shape; if all are
      numbers, they become scalars of JAX's default dtype: float32, or float64 under x64. An input
      with a default may be omitted.

  Returns:
    `(value, {name: gradient})`, in the shape and dtype of the inputs: the gradient of each element
    of the value by the same element of the input.

  Raises:
    TypeError: an input isn't a floating array or a number, or its dtype differs from the others.
    ValueError: an input is missing, unknown, or of another shape.

  Example:
    >>> from fbackprop.circuit import parse
    >>> value, gradients = parse("x * y").value_and_grad(x=jnp.array([1.0, 2.0]), y=3.0)
    >>> print(value, gradients["x"], gradients["y"])
    [3. 6.] [3. 3.] [1. 2.]
  """
  values, residuals, value = forward(circuit, as_arrays(fill_inputs(circuit, given)))
  bars, _ = backward(circuit, values, residuals)
  zero = jnp.zeros_like(values[circuit.nodes[0].name])
  return value, {name: bars.get(name, zero) for name in circuit.inputs}


def fill_inputs(circuit: GateGraph, given: Mapping[str, Any]) -> dict[str, Any]:
  """Return a value for each input, given or default; raise for missing and unknown ones."""
  found = {n.name: given.get(n.name, n.value) for n in circuit.nodes if n.op == "input"}
  for name in given:
    if name not in found:
      advice = hint(name, circuit.inputs) if found else "it has none"
      if name == "e" and any(node.op == "exp" for node in circuit.nodes):
        advice = "e**x is exp(x), unless it is parsed with euler=False"
      raise CircuitError(f"circuit: there is no input {name!r}; {advice}")
  missing = [name for name, value in found.items() if value is None]
  if missing:
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    raise CircuitError(f"circuit: a value is missing for {', '.join(missing[:10])}{more}")
  return found


def as_arrays(values: Mapping[str, Any]) -> Arrays:
  """Convert the inputs to arrays of one shape and dtype; raise if they differ."""
  arrays = {name: value for name, value in values.items() if hasattr(value, "dtype")}
  first = next(iter(arrays), "")
  for name, value in values.items():
    if name in arrays:
      check_floating("circuit", name, value)
      check_available("circuit", value.dtype)
      check_shape("circuit", name, value, arrays[first].shape, arrays[first].dtype)
    elif not isinstance(value, float):  # Which may be NaN or infinite here.
      check_value(name, value, "an array or a number")
  like = jnp.asarray(arrays[first]) if arrays else jnp.zeros(())
  return {
    name: jnp.asarray(value) if name in arrays else jnp.full_like(like, float(value))
    for name, value in values.items()
  }


def solve(circuit: GateGraph, given: Mapping[str, Any]) -> Solution:
  """Compute the value and the gradient on every wire, in float64 whatever JAX's default is.

  Local gradients are the backward rule applied to the upstream gradient 1; downstream gradients are
  the rule applied to the actual upstream gradient. So upstream × local equals downstream up to the
  rounding of the last digit.

  Args:
    circuit: the circuit.
    given: a finite number for each input; one with a default may be omitted.

  Returns:
    The `Solution`, in Python floats.

  Raises:
    TypeError: a value isn't a number.
    ValueError: a value isn't finite, or an input is missing or unknown.

  Example:
    >>> from fbackprop.circuit import parse
    >>> t = parse("(x+y)*max(y,z)").trace(x=1.0, y=2.0, z=0.0)
    >>> t.value, t.gradients
    (6.0, {'x': 2.0, 'y': 5.0, 'z': 0.0})
    >>> t.contributions["y"]
    (2.0, 3.0)
  """
  numbers = {name: as_number(name, value) for name, value in fill_inputs(circuit, given).items()}
  gates = [node for node in circuit.nodes if node.inputs]
  with jax.enable_x64(True):
    arrays = {name: jnp.asarray(number, float) for name, number in numbers.items()}
    values, residuals, value = forward(circuit, arrays)
    bars, downstream = backward(circuit, values, residuals)
    one = jnp.ones(())
    local = {name: circuit.gate_of[op].backward(residuals[name], one) for name, op, _, _ in gates}
    solved = jax.device_get((values, bars, downstream, local, value))
  values, bars, downstream, local, value = jax.tree.map(float, solved)
  # In the order of the nodes: pytrees sort their keys.
  all_bars = {node.name: bars.get(node.name, 0.0) for node in circuit.nodes}
  sent = {node.name: downstream.get(node.name, (0.0,) * len(node.inputs)) for node in gates}
  weights = dict(circuit.outputs)
  return Solution(
    circuit,
    values={name: values[name] for name in all_bars},
    bars=all_bars,
    contributions={
      name: tuple(weights[name] if target is None else sent[target][i] for _, target, i in wires)
      for name, wires in fan_out(circuit).items()
    },
    gates=tuple(
      GateTrace(name, op, inputs, values[name], local[name], all_bars[name], sent[name])
      for name, op, inputs, _ in gates
    ),
    value=value,
    gradients={name: all_bars[name] for name in circuit.inputs},
  )


def as_number(name: str, value: Any) -> float:
  """Convert a finite number or a scalar array to a float; raise for anything else."""
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    check_floating("circuit", name, value)
    if value.shape != () or isinstance(value, jax.core.Tracer):
      got = f"{describe(value)}; value_and_grad takes arrays"
      raise CircuitError(f"circuit: trace needs a number for {name}, got {got}")
    value = float(value)
  check_value(name, value)
  return float(value)
